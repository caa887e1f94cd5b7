//! One line of nginx's access log, as it comes by syslog: a head, and an object of JSON whose names
//! are nginx's own variables (`docs/labels.md` has the `log_format`).
//!
//! What a line does not have is not known; only the session must be named.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::cmcd;
use super::naming::{Asking, Named, Naming};
use super::request::{
    ByteRange, Cache, Class, NO_UPSTREAM, Object, RequestLabel, SessionRef, Source,
};

/// The object begins within so many bytes; syslog's own head is a third of it.
const MOST_HEAD_BYTES: usize = 256;
const S: u64 = 1_000_000_000;

/// Why a datagram is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There is no object in it, or more than one.
    #[error("it is no line of JSON")]
    NotJson,
    /// The client's address and port and the server's port are not all there.
    #[error("it does not name a session: remote_addr, remote_port and server_port are needed")]
    NoSession,
}

/// Reads a datagram.
///
/// # Errors
/// If it names no session.
pub fn read(datagram: &[u8], t_heard_ns: u64, naming: &Naming) -> Result<RequestLabel, Malformed> {
    let begin = datagram
        .iter()
        .take(MOST_HEAD_BYTES)
        .position(|byte| *byte == b'{');
    let json = &datagram[begin.ok_or(Malformed::NotJson)?..];
    // A user agent can hold anything.
    let json = String::from_utf8_lossy(json);
    let line: Line<'_> = serde_json::from_str(json.trim_end_matches(['\n', '\r', '\0']))
        .map_err(|_| Malformed::NotJson)?;
    line.label(t_heard_ns, naming).ok_or(Malformed::NoSession)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(borrow)]
    remote_addr: Text<'a>,
    #[serde(borrow)]
    remote_port: Text<'a>,
    #[serde(borrow)]
    realip_remote_addr: Text<'a>,
    #[serde(borrow)]
    realip_remote_port: Text<'a>,
    #[serde(borrow)]
    server_port: Text<'a>,
    #[serde(borrow)]
    connection_requests: Text<'a>,
    #[serde(borrow)]
    msec: Text<'a>,
    #[serde(borrow)]
    request_time: Text<'a>,
    #[serde(borrow)]
    upstream_response_time: Text<'a>,
    #[serde(borrow)]
    upstream_cache_status: Text<'a>,
    #[serde(borrow)]
    bytes_sent: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow)]
    request_completion: Text<'a>,
    #[serde(borrow)]
    http2: Text<'a>,
    #[serde(borrow)]
    server_protocol: Text<'a>,
    #[serde(borrow)]
    request_method: Text<'a>,
    #[serde(borrow)]
    request_uri: Text<'a>,
    #[serde(borrow)]
    http_user_agent: Text<'a>,
    #[serde(borrow)]
    http_range: Text<'a>,
    #[serde(borrow)]
    http_cmcd_object: Text<'a>,
    #[serde(borrow)]
    http_cmcd_request: Text<'a>,
    #[serde(borrow)]
    http_cmcd_session: Text<'a>,
    #[serde(borrow)]
    http_cmcd_status: Text<'a>,
    #[serde(borrow, rename = "arg_CMCD", alias = "arg_cmcd")]
    arg_cmcd: Text<'a>,
}

/// A value of a log: nginx writes all as strings, and some formats leave numbers bare. What nginx
/// does not know is empty or `-`.
#[derive(Debug, Default)]
struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    fn get(&self) -> Option<&str> {
        Some(&*self.0).filter(|text| !text.is_empty() && *text != "-")
    }

    fn number<T: std::str::FromStr>(&self) -> Option<T> {
        self.get()?.parse().ok()
    }

    /// Seconds with a fraction, as nginx writes them.
    fn seconds_ns(&self) -> Option<u64> {
        seconds_ns(self.get()?)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any).map(Text)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Cow::Owned(number.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self::Value, E> {
        if number.is_finite() && (0.0..1e15).contains(&number) {
            Ok(Cow::Owned(format!("{number:.3}")))
        } else {
            Err(E::custom("a time out of range"))
        }
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(if yes { "1" } else { "" }))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Err(E::custom("a negative number"))
    }
}

impl Line<'_> {
    /// None: it names no session.
    fn label(&self, t_heard_ns: u64, naming: &Naming) -> Option<RequestLabel> {
        let session = self.session()?;
        let Named {
            mut object,
            viewer,
            family,
            cmcd,
        } = self.named(naming);
        // An answer to HEAD or OPTIONS has no media in it. Logs of before have no method.
        if self.request_method.get().is_some_and(|how| how != "GET") {
            object = Object {
                class: Class::Other,
                content: object.content,
                ..Object::default()
            };
        }
        let end_unix_ns = self.msec.seconds_ns().unwrap_or(0);
        let took_ns = self.request_time.seconds_ns();
        let begin_unix_ns = took_ns.map_or(0, |took| end_unix_ns.saturating_sub(took));
        let protocol = self.server_protocol.get().unwrap_or_default();
        Some(RequestLabel {
            source: Source::AccessLog,
            session,
            t_heard_ns,
            begin_unix_ns,
            end_unix_ns,
            request_number: self.connection_requests.number().unwrap_or(0),
            is_http2: self.http2.get().is_some() || protocol.starts_with("HTTP/2"),
            is_http3: protocol.starts_with("HTTP/3"),
            status: self.status.number().unwrap_or(0),
            sent_bytes: self.bytes_sent.number().unwrap_or(0),
            is_complete: self.request_completion.get() == Some("OK"),
            upstream_us: self.upstream_us(),
            cache: self.cache(),
            range: self.http_range.get().and_then(byte_range),
            object,
            viewer,
            family,
            cmcd,
        })
    }

    /// Where nginx believes a proxy about who the client is, the socket is still the proxy's.
    fn session(&self) -> Option<SessionRef> {
        let ends = |address: &Text<'_>, port: &Text<'_>| {
            let address: IpAddr = address.number()?;
            Some(SocketAddr::new(address.to_canonical(), port.number()?))
        };
        let remote = ends(&self.realip_remote_addr, &self.realip_remote_port)
            .or_else(|| ends(&self.remote_addr, &self.remote_port))?;
        Some(SessionRef::Ends {
            remote,
            local_port: self.server_port.number()?,
        })
    }

    fn named(&self, naming: &Naming) -> Named {
        let argument = self.arg_cmcd.get().map(cmcd::percent_decoded);
        let headers = [
            &self.http_cmcd_object,
            &self.http_cmcd_request,
            &self.http_cmcd_session,
            &self.http_cmcd_status,
        ];
        let headers = headers.into_iter().filter_map(Text::get).map(str::as_bytes);
        // A player uses one way; what a header says comes last and holds.
        let declared = cmcd::read(argument.as_deref().into_iter().chain(headers));
        let asking = Asking {
            sid: None,
            client: self.remote_addr.number(),
            user_agent: self.http_user_agent.get().unwrap_or_default(),
        };
        let uri = self.request_uri.get().unwrap_or_default();
        naming.name(&naming.rules.read(uri), &asking, declared.as_ref())
    }

    /// `0.012`; where several were asked, `0.012, 0.003 : 0.100`, one after the other.
    fn upstream_us(&self) -> u32 {
        let Some(times) = self.upstream_response_time.get() else {
            return NO_UPSTREAM;
        };
        let times = times.split([',', ':']).map(str::trim);
        let mut sum_ns = None;
        for ns in times.filter_map(seconds_ns) {
            sum_ns = Some(ns.saturating_add(sum_ns.unwrap_or(0)));
        }
        sum_ns.map_or(NO_UPSTREAM, |ns| {
            u32::try_from(ns / 1000)
                .unwrap_or(NO_UPSTREAM)
                .min(NO_UPSTREAM - 1)
        })
    }

    fn cache(&self) -> Cache {
        match self.upstream_cache_status.get() {
            Some("HIT") => Cache::Hit,
            Some("STALE" | "UPDATING" | "REVALIDATED") => Cache::Stale,
            Some("MISS" | "EXPIRED") => Cache::Miss,
            Some("BYPASS") => Cache::Bypass,
            _ => Cache::Unknown,
        }
    }
}

/// Seconds with up to nine digits behind the point.
fn seconds_ns(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.get(..9).unwrap_or(fraction);
    if !whole
        .bytes()
        .chain(fraction.bytes())
        .all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let digits = u32::try_from(fraction.len()).ok()?;
    let part: u64 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let part_ns = part * 10_u64.pow(9 - digits);
    whole.checked_mul(S)?.checked_add(part_ns)
}

/// `bytes=0-1023`, `bytes=1024-`. Several ranges are no object that plays.
fn byte_range(text: &str) -> Option<ByteRange> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.trim().parse().ok()?;
    let last = match last.trim() {
        "" => u64::MAX,
        last => last.parse().ok()?,
    };
    (first <= last).then_some(ByteRange { first, last })
}

#[cfg(test)]
mod tests;

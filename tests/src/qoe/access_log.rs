//! The edge's access log, as the baselines read it. Pure.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// A request, as nginx logs it when it has written the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The client's address.
    pub client: Ipv4Addr,
    /// The client's port.
    pub client_port: u16,
    /// The server's port.
    pub server_port: u16,
    /// When the request began, Unix nanoseconds.
    pub begin_unix_ns: u64,
    /// When the last byte was written.
    pub end_unix_ns: u64,
    /// The answer's status.
    pub status: u16,
    /// Whether the answer was written whole.
    pub complete: bool,
    /// What was asked for.
    pub uri: String,
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Media {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
    /// Both.
    Muxed,
}

#[derive(Deserialize)]
struct Line {
    remote_addr: Ipv4Addr,
    remote_port: String,
    server_port: String,
    msec: String,
    request_time: String,
    status: String,
    request_completion: String,
    request_uri: String,
}

/// Reads a log; lines of other clients than IPv4's cannot be.
///
/// # Errors
/// A line is not in the edge's format.
pub fn parse(text: &str) -> Result<Vec<Entry>> {
    text.lines().map(entry).collect()
}

fn entry(line: &str) -> Result<Entry> {
    let with = || format!("a line that is not the edge's: {line}");
    let read: Line = serde_json::from_str(line).with_context(with)?;
    let ns = |seconds: &str| -> Result<u64> {
        let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
        // nginx writes milliseconds.
        Ok(whole.parse::<u64>()? * 1_000_000_000 + part.parse::<u64>()? * 1_000_000)
    };
    let end_unix_ns = ns(&read.msec).with_context(with)?;
    Ok(Entry {
        client: read.remote_addr,
        client_port: read.remote_port.parse().with_context(with)?,
        server_port: read.server_port.parse().with_context(with)?,
        begin_unix_ns: end_unix_ns - ns(&read.request_time).with_context(with)?,
        end_unix_ns,
        status: read.status.parse().with_context(with)?,
        complete: read.request_completion == "OK",
        uri: read.request_uri,
    })
}

impl Entry {
    /// What the segment holds, if it is one and came whole.
    pub fn media(&self) -> Option<Media> {
        if !matches!(self.status, 200 | 206) || !self.complete {
            return None;
        }
        let path = self.uri.split('?').next()?;
        let (directory, file) = path.rsplit_once('/')?;
        // Of low latency the parts are left out: this reader knows segments alone.
        if file.contains(".part") {
            return None;
        }
        let file = file.strip_prefix("seg-").or(file.strip_prefix("rung-"))?;
        let rung = file.split(['-', '.']).next()?;
        Some(if directory.ends_with("muxed") {
            Media::Muxed
        } else if rung == "3" {
            Media::Audio
        } else {
            Media::Video
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"remote_addr":"10.78.1.1","remote_port":"40000","server_port":"8543","connection":"1","connection_requests":"1","msec":"1700000001.250","request_time":"0.250","upstream_response_time":"","upstream_cache_status":"","bytes_sent":"9","status":"200","request_completion":"OK","http2":"","server_protocol":"HTTP/1.1","request_uri":"/s/a/vod/cmaf/seg-3-0001.m4s?CMCD=bl%3D1","http_user_agent":"","http_range":"","http_cmcd_object":"","http_cmcd_request":"","http_cmcd_session":"","http_cmcd_status":"","arg_CMCD":""}"#;

    #[test]
    fn a_line_has_both_ends_of_the_request_and_what_was_asked_for() {
        let entries = parse(LINE).expect("a line");
        assert_eq!(entries[0].begin_unix_ns, 1_700_000_001_000_000_000);
        assert_eq!(entries[0].end_unix_ns, 1_700_000_001_250_000_000);
        assert_eq!(entries[0].media(), Some(Media::Audio));
        assert!(parse("not JSON").is_err());
    }

    #[test]
    fn only_whole_segments_are_media() {
        let of = |from: &str, to: &str| parse(&LINE.replace(from, to)).expect("a line")[0].media();
        assert_eq!(of("\"OK\"", "\"\""), None);
        assert_eq!(of("\"200\"", "\"404\""), None);
        assert_eq!(of("seg-3-0001", "init-3"), None);
        assert_eq!(of("cmaf/seg-3", "muxed/seg-0"), Some(Media::Muxed));
        assert_eq!(of("seg-3", "seg-0"), Some(Media::Video));
        assert_eq!(of("seg-3-0001.m4s", "rung-3.mp4"), Some(Media::Audio));
        assert_eq!(of("0001.m4s", "0001.part2.m4s"), None);
    }
}

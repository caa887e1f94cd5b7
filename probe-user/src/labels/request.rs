//! One request, as the server's log or a tag says it: plain values, none of which grows.
//!
//! What a client can choose freely (its session id, the content's name, its user agent) is kept as a
//! hash or a short text only. How it is read stands beside: `access_log`,
//! `tag`, [`cmcd`](super::cmcd).

use std::net::SocketAddr;

use super::cmcd::Cmcd;
use super::family::Family;

/// `upstream_us` of an answer that no other server was asked for.
pub const NO_UPSTREAM: u32 = u32::MAX;

/// What is known of one request besides what the kernel measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLabel {
    /// Who says so.
    pub source: Source,
    /// On which session.
    pub session: SessionRef,
    /// When weir received it, `CLOCK_MONOTONIC`.
    pub t_heard_ns: u64,
    /// When the request began, Unix time by the server's clock, to its millisecond; 0: not said.
    pub begin_unix_ns: u64,
    /// When its answer was written, likewise; 0: not said, or not yet.
    pub end_unix_ns: u64,
    /// Which request of its session, from 1; 0: not said. A gap in it is a line that was lost.
    pub request_number: u32,
    /// Whether it shares its session with others at the same time.
    pub is_http2: bool,
    /// Whether it came over QUIC, so that no session of the kernel's carries it.
    pub is_http3: bool,
    /// The answer's; 0: not said.
    pub status: u16,
    /// Written to the client, headers included, TLS not; 0: not said, or not yet.
    pub sent_bytes: u64,
    /// Whether the server wrote all that it meant to; false in a tag, which comes before.
    pub is_complete: bool,
    /// How long other servers took to answer the server; [`NO_UPSTREAM`]: none was asked.
    pub upstream_us: u32,
    /// What the server's cache did.
    pub cache: Cache,
    /// The bytes that were asked for; none: all of it.
    pub range: Option<ByteRange>,
    /// What was asked for.
    pub object: Object,
    /// By whom; none: nothing tells viewers apart here.
    pub viewer: Option<ViewerKey>,
    /// The kind of player.
    pub family: Family,
    /// What the client declares about its playback.
    pub cmcd: Option<Cmcd>,
}

impl RequestLabel {
    /// A label that says nothing yet but of which session it is, and who says so.
    pub fn of(source: Source, session: SessionRef) -> Self {
        Self {
            source,
            session,
            t_heard_ns: 0,
            begin_unix_ns: 0,
            end_unix_ns: 0,
            request_number: 0,
            is_http2: false,
            is_http3: false,
            status: 0,
            sent_bytes: 0,
            is_complete: false,
            upstream_us: NO_UPSTREAM,
            cache: Cache::Unknown,
            range: None,
            object: Object::default(),
            viewer: None,
            family: Family::default(),
            cmcd: None,
        }
    }
}

/// Who says what a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The server's access log, once the answer is written.
    AccessLog,
    /// The server itself, before it writes.
    Tag,
}

/// A session, as those outside the kernel can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionRef {
    /// By the kernel's cookie (`SO_COOKIE`).
    Cookie(u64),
    /// By the client's end and the server's port.
    Ends {
        /// The client's; an IPv4 address is never v4-mapped.
        remote: SocketAddr,
        /// The server's.
        local_port: u16,
    },
}

/// What the server's cache did for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cache {
    /// Nothing is said of a cache.
    #[default]
    Unknown,
    /// It had the object.
    Hit,
    /// It had it, too old, and served it all the same (stale, updating, revalidated).
    Stale,
    /// It had to ask.
    Miss,
    /// It was passed by.
    Bypass,
}

/// Bytes of an object, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// The first.
    pub first: u64,
    /// The last; `u64::MAX`: to the end.
    pub last: u64,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Its part in playing.
    pub class: Class,
    /// What is in it.
    pub media: Media,
    /// How long it plays; 0: not known, or does not play.
    pub duration_us: u32,
    /// Its encoded bitrate; 0: not known.
    pub bitrate_bps: u64,
    /// Its rendition: equal for equal ones of one content, no more; 0: not known.
    pub rung: u32,
    /// Live or not.
    pub stream: Stream,
    /// Its place among the segments of its rendition; parts of one segment share it.
    pub number: Option<u64>,
    /// A hash of what is watched; 0: not known.
    pub content: u64,
}

/// An object's part in playing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// Nothing says.
    #[default]
    Unknown,
    /// A playlist or manifest.
    Manifest,
    /// What must be read before the segments of a rendition; it does not play.
    Init,
    /// A segment.
    Segment,
    /// A part of a segment (low latency).
    Part,
    /// A key.
    Key,
    /// Something else: captions, pictures, a beacon.
    Other,
}

/// What is in an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Media {
    /// Nothing says.
    #[default]
    Unknown,
    /// Sound and picture together.
    Muxed,
    /// Sound.
    Audio,
    /// Picture.
    Video,
}

/// Whether what is watched happens now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Nothing says.
    #[default]
    Unknown,
    /// It is all there.
    Vod,
    /// Its next segment is still to be made.
    Live,
}

/// A viewer, as far as one can be told from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ViewerKey {
    /// Equal for one viewer while the daemon runs; keyed, so that it cannot be undone elsewhere.
    pub hash: u64,
    /// By what.
    pub by: KeyBy,
    /// The session id itself, cut short, if the configuration lets it be kept.
    pub name: Option<ShortText>,
}

/// By what a viewer is told from others, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyBy {
    /// Its session id: CMCD's `sid`, or a tag's.
    Sid,
    /// Something in the URL that a rule calls `viewer`, e.g. a signature.
    Token,
    /// Its address (an IPv6 client's /56), what it watches and its user agent: a guess, that takes
    /// several viewers behind one address for one.
    Heuristic,
}

/// A text of at most [`ShortText::MOST`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShortText {
    len: u8,
    bytes: [u8; Self::MOST],
}

impl ShortText {
    /// As many bytes as it holds: a UUID and a little.
    pub const MOST: usize = 40;

    /// The beginning of `text`; what is not printable ASCII stands as `?`.
    pub fn of(text: &str) -> Self {
        let mut bytes = [0; Self::MOST];
        let mut len = 0;
        for (to, c) in bytes.iter_mut().zip(text.chars()) {
            *to = u8::try_from(c)
                .ok()
                .filter(u8::is_ascii_graphic)
                .unwrap_or(b'?');
            len += 1;
        }
        Self { len, bytes }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len.into()).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl std::fmt::Debug for ShortText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

impl std::fmt::Display for ShortText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_cut_and_printable() {
        let long = "é".repeat(10) + &"x".repeat(100);
        let text = ShortText::of(&long);
        assert_eq!(text.as_str(), "?".repeat(10) + &"x".repeat(30));
        assert_eq!(ShortText::of("").as_str(), "");
    }

    #[test]
    fn a_label_stays_small() {
        assert!(
            size_of::<RequestLabel>() <= 448,
            "{}",
            size_of::<RequestLabel>()
        );
    }
}

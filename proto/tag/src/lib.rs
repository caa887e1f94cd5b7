//! Tells weir what a request is before it is answered: one datagram for each, to a Unix socket.
//!
//! A server that knows what it is about to send (which viewer, which segment, how long it plays)
//! says so before it writes; weir then measures the delivery under that name from its first byte
//! on. Nothing is ever waited for: if weir is not there, or does not keep up, [`Client::send`] fails
//! at once and the answer goes out untold. `docs/labels.md` has the datagram byte by byte.
//!
//! ```no_run
//! use weir_tag::{Class, Client, Media, Session, Stream, Tag};
//!
//! # fn main() -> std::io::Result<()> {
//! let weir = Client::connect("/run/weir/tag.sock")?;
//! let listener = std::net::TcpListener::bind("127.0.0.1:8080")?;
//! for stream in listener.incoming() {
//!     let stream = stream?;
//!     // ... the request is read, and is for a segment of two seconds ...
//!     let tag = Tag {
//!         sid: Some(b"6e2fb550-c457-11e9-bb97-0800200c9a66"),
//!         content: Some(b"channel-7"),
//!         class: Class::Segment,
//!         media: Media::Video,
//!         duration_us: 2_000_000,
//!         bitrate_bps: 3_000_000,
//!         number: Some(41),
//!         stream: Stream::Live,
//!         ..Tag::new(Session::of(&stream)?)
//!     };
//!     // Whether weir hears it is nothing to the viewer.
//!     let _ = weir.send(&tag);
//!     // ... and is answered.
//! }
//! # Ok(())
//! # }
//! ```

mod datagram;
mod session;

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

pub use datagram::{MOST_BYTES, MOST_TEXT_BYTES, VERSION, Wrong};
pub use session::Session;

/// What a request is. Numbers that are 0 are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// The connection that the answer goes out on.
    pub session: Session,
    /// Which request of the connection, from 1.
    pub request_number: u32,
    /// The viewer's session id.
    pub sid: Option<&'a [u8]>,
    /// What is watched.
    pub content: Option<&'a [u8]>,
    /// The client's `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// The object's part in playing.
    pub class: Class,
    /// What is in it.
    pub media: Media,
    /// How long it plays.
    pub duration_us: u32,
    /// Its encoded bitrate.
    pub bitrate_bps: u64,
    /// Its rendition: any number, equal for equal ones of one content.
    pub rung: u32,
    /// Its place among the segments of its rendition.
    pub number: Option<u64>,
    /// Live or not.
    pub stream: Stream,
}

impl Tag<'_> {
    /// A tag that says nothing yet of the request on `session`.
    pub fn new(session: Session) -> Self {
        Self {
            session,
            request_number: 0,
            sid: None,
            content: None,
            user_agent: None,
            class: Class::Unknown,
            media: Media::Unknown,
            duration_us: 0,
            bitrate_bps: 0,
            rung: 0,
            number: None,
            stream: Stream::Unknown,
        }
    }
}

/// An object's part in playing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Not said.
    #[default]
    Unknown = 0,
    /// A playlist or manifest.
    Manifest = 1,
    /// What must be read before the segments of a rendition.
    Init = 2,
    /// A segment.
    Segment = 3,
    /// A part of a segment (low latency).
    Part = 4,
    /// A key.
    Key = 5,
    /// Something else.
    Other = 6,
}

/// What is in an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    /// Not said.
    #[default]
    Unknown = 0,
    /// Sound and picture together.
    Muxed = 1,
    /// Sound.
    Audio = 2,
    /// Picture.
    Video = 3,
}

/// Whether what is watched happens now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stream {
    /// Not said.
    #[default]
    Unknown = 0,
    /// It is all there.
    Vod = 1,
    /// Its next segment is still to be made.
    Live = 2,
}

/// A way to weir. Cheap to share by reference; sending needs no lock.
#[derive(Debug)]
pub struct Client(UnixDatagram);

impl Client {
    /// Connects to weir's tag socket (`labels.tag_socket`, e.g. `/run/weir/tag.sock`).
    ///
    /// # Errors
    /// If weir is not there, or this user may not write to its socket. A client whose weir was
    /// restarted gets `ECONNREFUSED` from [`send`](Self::send) and connects again.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        Ok(Self(socket))
    }

    /// Tells weir of one request. Never waits.
    ///
    /// # Errors
    /// `InvalidInput` if a text is longer than [`MOST_TEXT_BYTES`]; `WouldBlock` if weir does not
    /// keep up; what the system says if weir is gone.
    pub fn send(&self, tag: &Tag<'_>) -> io::Result<()> {
        let mut buffer = [0; MOST_BYTES];
        let len = tag.encode(&mut buffer)?;
        self.0.send(&buffer[..len])?;
        Ok(())
    }
}

//! The datagram: two bytes of head, the session, then fields of a type, a length and a value.
//! Numbers are little-endian. Both ends are here, so that they are one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{Class, Media, Session, Stream, Tag};

/// The datagram's first byte.
pub const VERSION: u8 = 1;
/// The longest datagram that is sent or read.
pub const MOST_BYTES: usize = 1024;
/// The longest text in one.
pub const MOST_TEXT_BYTES: usize = 255;

/// How the session is named.
mod named_by {
    pub(super) const COOKIE: u8 = 1;
    pub(super) const V4_ENDS: u8 = 2;
    pub(super) const V6_ENDS: u8 = 3;
}

mod field {
    pub(super) const SID: u8 = 1;
    pub(super) const CLASS: u8 = 2;
    pub(super) const MEDIA: u8 = 3;
    pub(super) const DURATION_US: u8 = 4;
    pub(super) const BITRATE_BPS: u8 = 5;
    pub(super) const NUMBER: u8 = 6;
    pub(super) const STREAM: u8 = 7;
    pub(super) const RUNG: u8 = 8;
    pub(super) const CONTENT: u8 = 9;
    pub(super) const REQUEST_NUMBER: u8 = 10;
    pub(super) const USER_AGENT: u8 = 11;
}

/// Why bytes are no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// They begin with another version.
    Version,
    /// Their session is named in a way that this version does not know.
    Session,
    /// They end too early, or are longer than a tag can be.
    Length,
    /// A field has a value that it cannot have.
    Field,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Version => "the tag is of another version",
            Self::Session => "the tag names its session in an unknown way",
            Self::Length => "the tag is cut off, or too long",
            Self::Field => "a field of the tag has a value that it cannot have",
        })
    }
}

impl std::error::Error for Wrong {}

impl<'a> Tag<'a> {
    /// Writes the datagram; returns its length.
    ///
    /// # Errors
    /// `InvalidInput` if a text is longer than [`MOST_TEXT_BYTES`].
    pub fn encode(&self, to: &mut [u8; MOST_BYTES]) -> io::Result<usize> {
        let mut writer = Writer { to, len: 0 };
        writer.session(&self.session)?;
        let known = |n: u64| (n != 0).then_some(n);
        let byte = |n: u8| known(n.into());
        for (field, len, number) in [
            (field::REQUEST_NUMBER, 4, known(self.request_number.into())),
            (field::CLASS, 1, byte(self.class as u8)),
            (field::MEDIA, 1, byte(self.media as u8)),
            (field::DURATION_US, 4, known(self.duration_us.into())),
            (field::BITRATE_BPS, 8, known(self.bitrate_bps)),
            (field::RUNG, 4, known(self.rung.into())),
            (field::NUMBER, 8, self.number),
            (field::STREAM, 1, byte(self.stream as u8)),
        ] {
            if let Some(number) = number {
                writer.field(field, &number.to_le_bytes()[..len])?;
            }
        }
        for (field, text) in [
            (field::SID, self.sid),
            (field::CONTENT, self.content),
            (field::USER_AGENT, self.user_agent),
        ] {
            if let Some(text) = text {
                writer.field(field, text)?;
            }
        }
        Ok(writer.len)
    }

    /// Reads a datagram. Fields that this version does not know are skipped.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Wrong> {
        if bytes.len() > MOST_BYTES {
            return Err(Wrong::Length);
        }
        let mut reader = Reader(bytes);
        if reader.array()? != [VERSION] {
            return Err(Wrong::Version);
        }
        let mut tag = Self::new(reader.session()?);
        while !reader.0.is_empty() {
            let [field, len] = reader.array()?;
            let value = reader.take(len.into())?;
            tag.set(field, value)?;
        }
        Ok(tag)
    }

    fn set(&mut self, field: u8, value: &'a [u8]) -> Result<(), Wrong> {
        match field {
            field::SID => self.sid = Some(value),
            field::CONTENT => self.content = Some(value),
            field::USER_AGENT => self.user_agent = Some(value),
            field::REQUEST_NUMBER => self.request_number = u32::from_le_bytes(array(value)?),
            field::DURATION_US => self.duration_us = u32::from_le_bytes(array(value)?),
            field::RUNG => self.rung = u32::from_le_bytes(array(value)?),
            field::BITRATE_BPS => self.bitrate_bps = u64::from_le_bytes(array(value)?),
            field::NUMBER => self.number = Some(u64::from_le_bytes(array(value)?)),
            field::CLASS => {
                self.class = match array(value)? {
                    [0] => Class::Unknown,
                    [1] => Class::Manifest,
                    [2] => Class::Init,
                    [3] => Class::Segment,
                    [4] => Class::Part,
                    [5] => Class::Key,
                    [6] => Class::Other,
                    _ => return Err(Wrong::Field),
                };
            }
            field::MEDIA => {
                self.media = match array(value)? {
                    [0] => Media::Unknown,
                    [1] => Media::Muxed,
                    [2] => Media::Audio,
                    [3] => Media::Video,
                    _ => return Err(Wrong::Field),
                };
            }
            field::STREAM => {
                self.stream = match array(value)? {
                    [0] => Stream::Unknown,
                    [1] => Stream::Vod,
                    [2] => Stream::Live,
                    _ => return Err(Wrong::Field),
                };
            }
            _ => {}
        }
        Ok(())
    }
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], Wrong> {
    value.try_into().map_err(|_| Wrong::Field)
}

struct Writer<'b> {
    to: &'b mut [u8; MOST_BYTES],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.len + bytes.len();
        let place = self.to.get_mut(self.len..end);
        place
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    fn field(&mut self, field: u8, value: &[u8]) -> io::Result<()> {
        let len = u8::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.put(&[field, len])?;
        self.put(value)
    }

    fn session(&mut self, session: &Session) -> io::Result<()> {
        match session {
            Session::Cookie(cookie) => {
                self.put(&[VERSION, named_by::COOKIE])?;
                self.put(&cookie.to_le_bytes())
            }
            Session::Ends { remote, local_port } => {
                match remote.ip().to_canonical() {
                    IpAddr::V4(address) => {
                        self.put(&[VERSION, named_by::V4_ENDS])?;
                        self.put(&address.octets())?;
                    }
                    IpAddr::V6(address) => {
                        self.put(&[VERSION, named_by::V6_ENDS])?;
                        self.put(&address.octets())?;
                    }
                }
                self.put(&remote.port().to_le_bytes())?;
                self.put(&local_port.to_le_bytes())
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Wrong::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Wrong::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn session(&mut self) -> Result<Session, Wrong> {
        let address = match self.array()? {
            [named_by::COOKIE] => {
                // No socket has 0.
                return match u64::from_le_bytes(self.array()?) {
                    0 => Err(Wrong::Session),
                    cookie => Ok(Session::Cookie(cookie)),
                };
            }
            [named_by::V4_ENDS] => IpAddr::from(Ipv4Addr::from(self.array::<4>()?)),
            [named_by::V6_ENDS] => IpAddr::from(Ipv6Addr::from(self.array::<16>()?)).to_canonical(),
            _ => return Err(Wrong::Session),
        };
        Ok(Session::Ends {
            remote: SocketAddr::new(address, u16::from_le_bytes(self.array()?)),
            local_port: u16::from_le_bytes(self.array()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Tag<'static> {
        Tag {
            session: Session::Cookie(0x0102_0304_0506_0708),
            request_number: 7,
            sid: Some(b"viewer"),
            content: Some(b"film"),
            user_agent: Some(b"player/1"),
            class: Class::Segment,
            media: Media::Video,
            duration_us: 2_000_000,
            bitrate_bps: 3_000_000,
            rung: 2,
            number: Some(41),
            stream: Stream::Live,
        }
    }

    fn encoded(tag: &Tag<'_>) -> Vec<u8> {
        let mut buffer = [0; MOST_BYTES];
        let len = tag.encode(&mut buffer).unwrap();
        buffer[..len].to_vec()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = encoded(&full());
        assert_eq!(Tag::decode(&bytes), Ok(full()));
        for remote in ["192.0.2.1:40000", "[2001:db8::1]:40000"] {
            let remote = remote.parse().unwrap();
            let local_port = 443;
            let tag = Tag::new(Session::Ends { remote, local_port });
            assert_eq!(Tag::decode(&encoded(&tag)), Ok(tag));
        }
    }

    /// `docs/labels.md` shows these bytes.
    #[test]
    fn the_documented_example_is_this_one() {
        let tag = Tag {
            class: Class::Segment,
            duration_us: 2_000_000,
            sid: Some(b"ab"),
            ..Tag::new(Session::Ends {
                remote: "192.0.2.1:40000".parse().unwrap(),
                local_port: 443,
            })
        };
        let documented = [
            0x01, 0x02, 0xc0, 0x00, 0x02, 0x01, 0x40, 0x9c, 0xbb, 0x01, 0x02, 0x01, 0x03, 0x04,
            0x04, 0x80, 0x84, 0x1e, 0x00, 0x01, 0x02, 0x61, 0x62,
        ];
        assert_eq!(encoded(&tag), documented);
    }

    #[test]
    fn a_tag_cut_off_anywhere_is_refused_or_says_less() {
        let bytes = encoded(&full());
        for len in 0..bytes.len() {
            if let Ok(tag) = Tag::decode(&bytes[..len]) {
                assert_eq!(tag.session, full().session);
                assert_ne!(tag, full());
            }
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped() {
        let mut bytes = encoded(&full());
        bytes.extend_from_slice(&[200, 3, 1, 2, 3]);
        assert_eq!(Tag::decode(&bytes), Ok(full()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cookie = [1, 1, 9, 0, 0, 0, 0, 0, 0, 0];
        let with = |more: &[u8]| [&cookie, more].concat();
        for (bytes, wrong) in [
            (vec![], Wrong::Length),
            (vec![2, 1], Wrong::Version),
            (vec![1, 9], Wrong::Session),
            (vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0], Wrong::Session),
            (vec![1, 1, 0], Wrong::Length),
            (with(&[1]), Wrong::Length),
            (with(&[1, 5, 0]), Wrong::Length),
            (with(&[field::CLASS, 1, 7]), Wrong::Field),
            (with(&[field::NUMBER, 1, 7]), Wrong::Field),
            (vec![1; MOST_BYTES + 1], Wrong::Length),
        ] {
            assert_eq!(Tag::decode(&bytes), Err(wrong), "{bytes:?}");
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_refused_and_the_longest_fit() {
        let mut buffer = [0; MOST_BYTES];
        let text = [b'x'; MOST_TEXT_BYTES + 1];
        let long = Tag {
            sid: Some(&text),
            ..full()
        };
        let err = long.encode(&mut buffer).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
        let text = Some(&text[1..]);
        let longest = Tag {
            sid: text,
            content: text,
            user_agent: text,
            ..full()
        };
        assert!(longest.encode(&mut buffer).unwrap() <= MOST_BYTES);
    }
}

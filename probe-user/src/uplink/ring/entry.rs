//! What the ring's files are made of: entries, each of which can be checked without any other. Pure.
//!
//! An entry is 16 bytes of head (a mark that no text has in it, kind, three zero bytes, stored
//! length, CRC-32 of kind to length and of what follows) and as many bytes as its length says, as
//! protobuf compressed with zstd. What is torn or damaged is skipped to the next mark.

use prost::Message;
use weir_proto::v1;

const MARK: [u8; 4] = *b"\x89wR\x0a";
const HEAD: usize = 16;
/// Longest content, before compression; a frame of 256 busy cells takes about a megabyte.
const MAX_CONTENT: usize = 16 << 20;
/// At which zstd costs a millisecond for that.
const LEVEL: i32 = 1;

/// One thing that was kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Whose the frames are that follow.
    Hello(v1::Hello),
    /// A warm frame.
    Frame(Box<v1::Frame>),
}

/// A frame as it is written.
///
/// # Errors
/// If it is too long, or zstd has no memory.
pub fn frame(frame: &v1::Frame) -> std::io::Result<Vec<u8>> {
    encode(2, frame)
}

/// A hello as it is written.
///
/// # Errors
/// As of [`frame`].
pub fn hello(hello: &v1::Hello) -> std::io::Result<Vec<u8>> {
    encode(1, hello)
}

fn encode(kind: u8, content: &impl Message) -> std::io::Result<Vec<u8>> {
    let content = content.encode_to_vec();
    if content.len() > MAX_CONTENT {
        return Err(std::io::Error::other("a frame is too long to be kept"));
    }
    let stored = zstd::bulk::compress(&content, LEVEL)?;
    let len = u32::try_from(stored.len()).map_err(std::io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEAD + stored.len());
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&[kind, 0, 0, 0]);
    bytes.extend_from_slice(&len.to_le_bytes());
    let crc = sum(&bytes[4..], &stored);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&stored);
    Ok(bytes)
}

impl Entry {
    /// The entry that begins here, and its length; none if none does, or not all of it is there.
    fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        if head[..4] != MARK {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| head[at + n]));
        let stored = rest.get(..word(8) as usize)?;
        if sum(&head[4..12], stored) != word(12) {
            return None;
        }
        let content = zstd::bulk::decompress(stored, MAX_CONTENT).ok()?;
        let entry = match head[4] {
            1 => Self::Hello(v1::Hello::decode(&*content).ok()?),
            2 => Self::Frame(Box::new(v1::Frame::decode(&*content).ok()?)),
            _ => return None,
        };
        Some((entry, HEAD + stored.len()))
    }
}

fn sum(head: &[u8], stored: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(stored);
    crc.finalize()
}

/// Reads a file's entries, and counts the places at which it is damaged.
#[derive(Debug)]
pub struct Entries<'b> {
    bytes: &'b [u8],
    /// Places at which something was skipped.
    pub damaged: u64,
}

impl<'b> Entries<'b> {
    /// Of a whole file.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, damaged: 0 }
    }
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let mut is_damaged = false;
        while !self.bytes.is_empty() {
            if let Some((entry, len)) = Entry::decode(self.bytes) {
                self.bytes = &self.bytes[len..];
                return Some(entry);
            }
            self.damaged += u64::from(!is_damaged);
            is_damaged = true;
            let next = self.bytes[1..].windows(MARK.len());
            let skip = next.take_while(|window| **window != MARK).count() + 1;
            let has_mark = skip + MARK.len() <= self.bytes.len();
            self.bytes = if has_mark { &self.bytes[skip..] } else { &[] };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let frame = |seq| {
            Entry::Frame(Box::new(v1::Frame {
                boot_id: "b".into(),
                seq,
                off: format!("{:x}", seq * 0x1234_5678_9abc),
                ..v1::Frame::default()
            }))
        };
        let hello = v1::Hello {
            boot_id: "b".into(),
            ..v1::Hello::default()
        };
        vec![Entry::Hello(hello), frame(1), frame(2), frame(3)]
    }

    /// The bytes, and where each entry ends.
    fn written() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for entry in entries() {
            bytes.extend(match &entry {
                Entry::Hello(one) => hello(one).unwrap(),
                Entry::Frame(one) => frame(one).unwrap(),
            });
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn a_file_that_is_torn_anywhere_has_all_that_was_whole() {
        let (bytes, ends) = written();
        for len in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= len).count();
            let is_torn = len != 0 && !ends.contains(&len);
            let mut read = Entries::new(&bytes[..len]);
            let got: Vec<_> = read.by_ref().collect();
            assert_eq!(got, entries()[..whole], "torn at {len}");
            assert_eq!(read.damaged, u64::from(is_torn), "torn at {len}");
        }
    }

    #[test]
    fn a_byte_that_is_wrong_costs_its_entry_alone() {
        let (bytes, ends) = written();
        for at in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= change;
                let broken = ends.iter().filter(|end| **end <= at).count();
                let mut expected = entries();
                expected.remove(broken);
                let mut read = Entries::new(&bytes);
                let got: Vec<_> = read.by_ref().collect();
                assert_eq!(got, expected, "byte {at}");
                assert!(read.damaged >= 1);
            }
        }
    }
}

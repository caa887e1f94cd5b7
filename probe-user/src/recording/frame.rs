//! The frames that a recording is made of: each can be checked and decoded without any other.
//!
//! The file begins with [`prelude`]; then frames: 20 bytes of head (kind, three zero bytes, number,
//! length, stored length, CRC-32 of those 16 bytes and of what follows) and as many bytes as the
//! stored length says, compressed with zstd.

use probe_ebpf::record::ABI_VERSION;

/// Version of everything in this room that is written down. Since 2 there are labels.
pub const FORMAT_VERSION: u16 = 2;
/// The oldest that is read. Each version adds entries to the one before, and nothing else.
pub const OLDEST_FORMAT_VERSION: u16 = 1;

/// Not text, and damaged by whatever changes line ends on the way.
const MAGIC: [u8; 8] = *b"\x89WEIR\r\n\x1a";
/// Length of the prelude.
pub const PRELUDE: usize = 16;
/// Length of a frame's head.
pub const HEAD: usize = 20;
/// Longest content of a frame. Blocks are far shorter but for a configuration with very many
/// prefixes, and this bounds what a damaged length can make a reader allocate.
pub const MAX_CONTENT: usize = 64 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A [`weir_proto::v1::RecordingHeader`]; the first frame and no other.
    Header = 1,
    /// Entries.
    Block = 2,
    /// A [`weir_proto::v1::RecordingEnd`]; the last frame.
    End = 3,
}

/// A file that is no recording that this weir can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It begins otherwise.
    #[error("it is no recording of weir")]
    NotARecording,
    /// Another weir wrote it.
    #[error(
        "it is of format {format} with records of layout {abi}, and this weir reads formats \
         {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION} with layout {ABI_VERSION}: replay it with the weir that recorded it, or one \
         of the same versions"
    )]
    OtherVersion {
        /// Its format.
        format: u16,
        /// Its records' layout.
        abi: u8,
    },
}

/// The first bytes of every recording: magic, format version, the records' layout version, a zero
/// byte, and the CRC-32 of those.
pub fn prelude() -> [u8; PRELUDE] {
    let mut bytes = [0; PRELUDE];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[10] = ABI_VERSION;
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Whether this weir can read what begins so.
pub fn check_prelude(bytes: &[u8; PRELUDE]) -> Result<(), Refused> {
    if bytes[..8] != MAGIC || crc32fast::hash(&bytes[..12]).to_le_bytes() != bytes[12..] {
        return Err(Refused::NotARecording);
    }
    let format = u16::from_le_bytes([bytes[8], bytes[9]]);
    let abi = bytes[10];
    if !(OLDEST_FORMAT_VERSION..=FORMAT_VERSION).contains(&format) || abi != ABI_VERSION {
        return Err(Refused::OtherVersion { format, abi });
    }
    Ok(())
}

/// A frame's head, as read.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// What it holds.
    pub kind: Kind,
    /// Counts frames from 0.
    pub number: u32,
    /// Length of the content.
    pub len: usize,
    /// Length as stored.
    pub stored: usize,
    crc: u32,
    summed: [u8; HEAD - 4],
}

impl Head {
    /// Reads a head; none if it cannot be one.
    pub fn read(bytes: &[u8; HEAD]) -> Option<Self> {
        let (summed, crc) = bytes.split_first_chunk::<{ HEAD - 4 }>()?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| summed[at + n]));
        let kind = match summed[..4] {
            [1, 0, 0, 0] => Kind::Header,
            [2, 0, 0, 0] => Kind::Block,
            [3, 0, 0, 0] => Kind::End,
            _ => return None,
        };
        let head = Self {
            kind,
            number: word(4),
            len: word(8) as usize,
            stored: word(12) as usize,
            crc: u32::from_le_bytes(crc.try_into().ok()?),
            summed: *summed,
        };
        let bounded =
            head.len <= MAX_CONTENT && head.stored <= zstd::zstd_safe::compress_bound(head.len);
        bounded.then_some(head)
    }

    /// The content, if it is what was written.
    pub fn content(&self, stored: &[u8]) -> Option<Vec<u8>> {
        if sum(&self.summed, stored) != self.crc {
            return None;
        }
        let content = zstd::bulk::decompress(stored, self.len).ok()?;
        (content.len() == self.len).then_some(content)
    }
}

/// A frame, ready to be written.
///
/// # Errors
/// If the content is too long, or zstd has no memory.
pub fn encode(kind: Kind, number: u32, content: &[u8]) -> std::io::Result<Vec<u8>> {
    // The level at which zstd still keeps up with far more than a daemon drains.
    const LEVEL: i32 = 3;
    if content.len() > MAX_CONTENT {
        return Err(std::io::Error::other("a part of the recording is too long"));
    }
    let stored = zstd::bulk::compress(content, LEVEL)?;
    let mut frame = Vec::with_capacity(HEAD + stored.len());
    frame.extend_from_slice(&[kind as u8, 0, 0, 0]);
    for word in [number as usize, content.len(), stored.len()] {
        let word = u32::try_from(word).map_err(std::io::Error::other)?;
        frame.extend_from_slice(&word.to_le_bytes());
    }
    let crc = sum(&frame, &stored);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(&stored);
    Ok(frame)
}

fn sum(head: &[u8], stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(stored);
    hasher.finalize()
}

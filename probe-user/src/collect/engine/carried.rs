//! A frame as it is in the engine: its subject, its name there, and its bytes.

use std::fmt::Write as _;
use std::io::{Error, ErrorKind, Result};

use prost::Message as _;
use prost::bytes::Bytes;
use weir_proto::v1;
use zstd::bulk::{Compressor, Decompressor};

use crate::collect::partition::partition;

/// Frames compress to a third at this level, at 300 MB/s a core.
const LEVEL: i32 = 1;
/// What one message may unpack to; a host cannot send more.
const MAX_BYTES: usize = 8 << 20;
/// Of a header; names and counts of lanes take some hundred bytes.
const MAX_BARE_BYTES: usize = 64 << 10;

/// Makes messages.
#[derive(Debug)]
pub(super) struct Packer {
    by: String,
    prefix: String,
    partitions: u32,
}

/// A message that is ready to go.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) subject: String,
    /// By this name the engine knows a repetition.
    pub(super) id: String,
    /// Of a frame with deliveries, what must be known of it to count them.
    pub(super) bare: Option<String>,
    pub(super) payload: Bytes,
}

impl Packer {
    /// `by`: a name for this process that no other has.
    pub(super) fn new(by: String, prefix: String, partitions: u32) -> Self {
        Self {
            by,
            prefix,
            partitions,
        }
    }

    pub(super) fn pack(
        &self,
        hello: &v1::Hello,
        frame: &v1::Frame,
        heard_unix_ns: u64,
    ) -> Result<Packed> {
        let carried = v1::Carried {
            by: self.by.clone(),
            heard_unix_ns,
            hello: Some(hello.clone()),
            frame: Some(frame.clone()),
        };
        let (host, boot) = (token(&hello.host), token(&hello.boot_id));
        let partition = partition(&hello.host, self.partitions);
        let lane = match frame.lane() {
            // Of one lane alone, with everything in it.
            v1::Lane::Unspecified => v1::Lane::Warm,
            lane => lane,
        };
        let prefix = &self.prefix;
        let (subject, bare) = match lane {
            v1::Lane::Cold => (
                format!("{prefix}.cold.{partition}.{host}.{boot}"),
                Some(bare(hello, frame, heard_unix_ns)),
            ),
            lane => {
                let lane = lane.word();
                let subject = format!("{prefix}.frames.{partition}.{lane}.{host}.{boot}");
                (subject, None)
            }
        };
        Ok(Packed {
            subject,
            id: format!("{host}/{boot}/{}/{}", lane.word(), frame.seq),
            bare,
            payload: Compressor::new(LEVEL)?
                .compress(&carried.encode_to_vec())?
                .into(),
        })
    }
}

/// What is in a message.
pub(super) fn unpack(payload: &[u8]) -> Result<v1::Carried> {
    let bytes = Decompressor::new()?.decompress(payload, MAX_BYTES)?;
    v1::Carried::decode(&*bytes).map_err(|err| Error::new(ErrorKind::InvalidData, err))
}

/// A frame of the cold lane without its deliveries, as a header's value: whoever counts them needs not
/// carry them.
fn bare(hello: &v1::Hello, frame: &v1::Frame, heard_unix_ns: u64) -> String {
    let carried = v1::Carried {
        by: String::new(),
        heard_unix_ns,
        hello: Some(hello.clone()),
        frame: Some(v1::Frame {
            deliveries: Vec::new(),
            ..frame.clone()
        }),
    };
    let mut text = format!("{} ", frame.deliveries.len());
    for byte in carried.encode_to_vec() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What is in such a header: the frame, and how many deliveries it had.
pub(super) fn unpack_bare(text: &str) -> Result<(v1::Carried, u64)> {
    let wrong = || Error::new(ErrorKind::InvalidData, "not the header of a cold frame");
    let (count, hex) = text.split_once(' ').ok_or_else(wrong)?;
    let count = count.parse().map_err(|_| wrong())?;
    if hex.len() > MAX_BARE_BYTES || !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return Err(wrong());
    }
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    let bytes: std::result::Result<Vec<_>, _> =
        pairs.map(|pair| u8::from_str_radix(pair, 16)).collect();
    let carried = v1::Carried::decode(&*bytes.map_err(|_| wrong())?).map_err(|_| wrong())?;
    Ok((carried, count))
}

/// A name as a part of a subject, where a dot would divide it; different names stay different.
fn token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            token.push(byte.into());
        } else {
            // A string takes whatever is written.
            let _ = write!(token, "={byte:02x}");
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_named_by_host_boot_and_number() {
        let hello = v1::Hello {
            host: "edge 1.example".into(),
            boot_id: "b".into(),
            ..v1::Hello::default()
        };
        let frame = v1::Frame {
            seq: 7,
            tick: true,
            lane: v1::Lane::Warm.into(),
            ..v1::Frame::default()
        };
        let packer = Packer::new("me".into(), "weir".into(), 16);
        let packed = packer.pack(&hello, &frame, 5).unwrap();
        assert_eq!(packed.id, "edge=201=2eexample/b/warm/7");
        assert!(packed.subject.starts_with("weir.frames."), "{packed:?}");
        assert!(packed.subject.ends_with(".warm.edge=201=2eexample.b"));
        assert_eq!(packed.bare, None);
        let carried = unpack(&packed.payload).unwrap();
        assert_eq!((carried.by.as_str(), carried.heard_unix_ns), ("me", 5));
        assert_eq!(
            (carried.hello.unwrap(), carried.frame.unwrap()),
            (hello, frame)
        );
        for len in 1..packed.payload.len() {
            assert!(unpack(&packed.payload[..len]).is_err());
        }
    }

    #[test]
    fn of_a_cold_frame_what_counts_is_in_a_header() {
        let hello = v1::Hello {
            host: "edge-1".into(),
            boot_id: "b".into(),
            ..v1::Hello::default()
        };
        let frame = v1::Frame {
            seq: 7,
            lane: v1::Lane::Cold.into(),
            deliveries: vec![v1::Delivery::default(); 3],
            deliveries_total: 9,
            ..v1::Frame::default()
        };
        let packer = Packer::new("me".into(), "weir".into(), 16);
        let packed = packer.pack(&hello, &frame, 5).unwrap();
        assert_eq!(packed.subject, "weir.cold.13.edge-1.b");
        let (carried, count) = unpack_bare(&packed.bare.unwrap()).unwrap();
        let bare = carried.frame.unwrap();
        assert_eq!((carried.heard_unix_ns, count), (5, 3));
        assert_eq!((bare.seq, bare.deliveries_total), (7, 9));
        assert!(bare.deliveries.is_empty() && carried.hello == Some(hello));
        for wrong in ["", "3", "3 0", "x 00", "3 zz", "3 éé"] {
            assert!(unpack_bare(wrong).is_err(), "{wrong}");
        }
    }
}

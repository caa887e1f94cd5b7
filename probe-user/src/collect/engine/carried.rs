//! A frame as it is in the engine: its subject, its name there, and its bytes.

use std::fmt::Write as _;
use std::hash::Hasher;
use std::io::{Error, ErrorKind, Result};

use prost::Message as _;
use prost::bytes::Bytes;
use siphasher::sip::SipHasher13;
use weir_proto::v1;
use zstd::bulk::{Compressor, Decompressor};

/// Frames compress to a third at this level, at 300 MB/s a core.
const LEVEL: i32 = 1;
/// What one message may unpack to; a host cannot send more.
const MAX_BYTES: usize = 8 << 20;

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
        let lane = match frame.lane() {
            // Of one lane alone, with everything in it.
            v1::Lane::Unspecified => v1::Lane::Warm,
            lane => lane,
        };
        let lane = lane.word();
        let (host, boot) = (token(&hello.host), token(&hello.boot_id));
        let partition = partition(&hello.host, self.partitions);
        Ok(Packed {
            subject: format!("{}.{lane}.{partition}.{host}.{boot}", self.prefix),
            id: format!("{host}/{boot}/{lane}/{}", frame.seq),
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

/// Where a host belongs: the same at all collectors and in all versions.
fn partition(host: &str, partitions: u32) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(host.as_bytes());
    u32::try_from(hasher.finish() % u64::from(partitions.max(1))).unwrap_or(0)
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
        assert!(packed.subject.starts_with("weir.warm."), "{packed:?}");
        assert!(packed.subject.ends_with(".edge=201=2eexample.b"));
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
    fn hosts_are_spread_over_all_partitions_and_stay_where_they_are() {
        // A later version that puts hosts elsewhere would not be interchangeable with this one.
        assert_eq!(partition("edge-1", 16), 13);
        let mut hosts = [0; 16];
        for n in 0..1600 {
            hosts[partition(&format!("edge-{n}"), 16) as usize] += 1;
        }
        assert!(
            hosts.iter().all(|hosts| (50..200).contains(hosts)),
            "{hosts:?}"
        );
    }
}

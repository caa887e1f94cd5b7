//! What is written is what is read, and nothing else ever is.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use probe_ebpf::record::{ABI_VERSION, Delivery, Header, SessionEnd, SessionStart};
use proptest::prelude::*;
use weir_proto::v1;
use weir_proto::v1::RecordingEndCause;

use super::read::{Ending, ReadError, Reader};
use super::tap::{BLOCKS_WAITING, Tap};
use super::write::{Kept, Storage, Writer};
use super::{Said, entry, frame};
use crate::kernel::{HalfOpenGiveUp, KernelCounts, Record, Ring, RingCounts};

/// A medium that is full at some point.
#[derive(Debug, Default)]
struct Disk {
    bytes: Vec<u8>,
    room: Option<usize>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self
            .room
            .map_or(bytes.len(), |room| room - self.bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Storage for &mut Disk {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.bytes.truncate(usize::try_from(len).unwrap());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn header() -> v1::RecordingHeader {
    v1::RecordingHeader {
        host: "edge".into(),
        abi_version: ABI_VERSION.into(),
        ..v1::RecordingHeader::default()
    }
}

fn block(said: &[Said<'_>]) -> v1::RecordBlock {
    let mut entries = Vec::new();
    for said in said {
        entry::append(&mut entries, said);
    }
    let records = said
        .iter()
        .filter(|said| matches!(said, Said::Record { .. }));
    v1::RecordBlock {
        entries: entries.into(),
        records: records.count() as u64,
        ..v1::RecordBlock::default()
    }
}

/// A recording with one block for each piece.
fn recording(pieces: &[&[Said<'_>]]) -> Vec<u8> {
    let mut disk = Disk::default();
    let mut writer = Writer::begin(&mut disk, &header(), u64::MAX).unwrap();
    for said in pieces {
        assert_eq!(writer.block(&block(said)).unwrap(), Kept::Yes);
    }
    writer.end(RecordingEndCause::Stopped).unwrap();
    disk.bytes
}

fn words<'a>(said: impl IntoIterator<Item = &'a Said<'a>>) -> Vec<String> {
    said.into_iter().map(|said| format!("{said:?}")).collect()
}

fn read(bytes: &[u8]) -> Result<(Vec<String>, Ending), ReadError> {
    let mut said = Vec::new();
    let ending = Reader::open(bytes)?.each(|one| said.push(format!("{one:?}")))?;
    Ok((said, ending))
}

/// Everything that can be said but records, which borrow.
fn other() -> impl Strategy<Value = Said<'static>> {
    let ring = prop_oneof![Just(Ring::Hot), Just(Ring::Bulk)];
    let counts = any::<[u64; 16]>().prop_map(|n| KernelCounts {
        hot: RingCounts {
            seen: n[0],
            exported: n[1],
            ring_full: n[2],
        },
        bulk: RingCounts {
            seen: n[3],
            exported: n[4],
            ring_full: n[5],
        },
        sessions_seen: n[6],
        sessions_tracked: n[7],
        sessions_filtered: n[8],
        sessions_storage_refused: n[9],
        half_open_refused: n[10],
        programs_skipped: n[11],
        ends_unseen: n[12],
        end_overflows: n[13],
        looks_left_out: n[14],
        sessions_left_out: n[15],
    });
    let give_up = any::<([u8; 16], bool, u16, u16, u32)>().prop_map(|(ip, v4, from, to, n)| {
        let remote = if v4 {
            std::net::IpAddr::from([ip[0], ip[1], ip[2], ip[3]])
        } else {
            std::net::IpAddr::from(ip).to_canonical()
        };
        HalfOpenGiveUp {
            remote,
            remote_port: from,
            local_port: to,
            synack_retransmits: n,
        }
    });
    let settings = (any::<u64>(), any::<u32>(), ".{0,8}").prop_map(|(n, ms, name)| {
        Arc::new(v1::RecordedSettings {
            config_generation: n,
            progress_ms: ms,
            services: vec![v1::RecordedService {
                name,
                ports: vec![80, 443],
            }],
            ..v1::RecordedSettings::default()
        })
    });
    prop_oneof![
        (ring, any::<u64>()).prop_map(|(ring, now_ns)| Said::Drain { ring, now_ns }),
        (any::<u64>(), counts).prop_map(|(now_ns, counts)| Said::Counts { now_ns, counts }),
        (any::<u64>(), any::<i64>()).prop_map(|(now_ns, unix_minus_monotonic_ns)| Said::Clock {
            now_ns,
            unix_minus_monotonic_ns
        }),
        give_up.prop_map(Said::GiveUp),
        any::<u64>().prop_map(|now_ns| Said::Now { now_ns }),
        settings.prop_map(Said::Settings),
        any::<(u64, u64)>().prop_map(|(now_ns, records)| Said::Missing { now_ns, records }),
        labels::client_network(),
    ]
}

/// Any bytes are a record as far as their layout goes.
/// Anything at all but an unknown way of measuring, which no backend writes.
fn pod<T: bytemuck::Pod + std::fmt::Debug>() -> impl Strategy<Value = T> {
    proptest::collection::vec(any::<u8>(), size_of::<T>()).prop_map(|mut bytes| {
        bytes[std::mem::offset_of!(Header, backend)] %= 3;
        bytemuck::pod_read_unaligned(&bytes)
    })
}

fn records<'a>(
    starts: &'a [SessionStart],
    ends: &'a [SessionEnd],
    deliveries: &'a [Delivery],
) -> Vec<Said<'a>> {
    let hot = |record| Said::Record {
        ring: Ring::Hot,
        record,
    };
    let bulk = |record| Said::Record {
        ring: Ring::Bulk,
        record,
    };
    let starts = starts
        .iter()
        .map(|record| bulk(Record::SessionStart(record)));
    let ends = ends.iter().map(|record| bulk(Record::SessionEnd(record)));
    let deliveries = deliveries
        .iter()
        .map(|record| hot(Record::Delivery(record)));
    let malformed = [hot(Record::Malformed), bulk(Record::Malformed)];
    starts
        .chain(deliveries)
        .chain(malformed)
        .chain(ends)
        .collect()
}

mod hostile;
mod labels;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_said_is_what_is_read(
        before in proptest::collection::vec(other(), 0..8),
        starts in proptest::collection::vec(pod(), 0..3),
        ends in proptest::collection::vec(pod(), 0..3),
        deliveries in proptest::collection::vec(pod(), 0..3),
        after in proptest::collection::vec(other(), 0..8),
    ) {
        let records = records(&starts, &ends, &deliveries);
        let bytes = recording(&[&before, &records, &after]);
        let (said, ending) = read(&bytes).unwrap();
        prop_assert_eq!(said, words(before.iter().chain(&records).chain(&after)));
        let Ending::Ended(end) = ending else { panic!("{ending:?}") };
        prop_assert_eq!((end.blocks, end.records), (3, records.len() as u64));
    }

    #[test]
    fn bytes_that_are_no_block_are_an_error_and_no_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut n = 0;
        let result = entry::read(&bytes, |_| n += 1);
        prop_assert!(result.is_err() || n > 0 || bytes.is_empty());
    }
}

/// Three blocks that differ.
fn small() -> (Vec<String>, Vec<u8>) {
    let start = SessionStart {
        cookie: 0x0123_4567_89ab_cdef,
        ..SessionStart::default()
    };
    let delivery = Delivery {
        cookie: 7,
        acked_bytes: 140_000,
        ..Delivery::default()
    };
    let first = [
        Said::Drain {
            ring: Ring::Bulk,
            now_ns: 5,
        },
        Said::Record {
            ring: Ring::Bulk,
            record: Record::SessionStart(&start),
        },
    ];
    let second = [Said::Record {
        ring: Ring::Hot,
        record: Record::Delivery(&delivery),
    }];
    let third = [Said::Now { now_ns: 9 }];
    let bytes = recording(&[&first, &second, &third]);
    (words(first.iter().chain(&second).chain(&third)), bytes)
}

#[test]
fn a_recording_cut_off_anywhere_gives_what_came_before_and_says_so() {
    let (written, bytes) = small();
    let mut most = 0;
    for len in 0..bytes.len() {
        match read(&bytes[..len]) {
            Ok((said, ending)) => {
                assert!(
                    matches!(ending, Ending::Open | Ending::Torn { .. }),
                    "{len}: {ending:?}"
                );
                assert_eq!(said, written[..said.len()], "cut at {len}");
                assert!(said.len() >= most, "cut at {len}");
                most = said.len();
            }
            Err(err) => assert_eq!(most, 0, "cut at {len}: {err}"),
        }
    }
    // Only the end's own frame is missing from the longest.
    assert_eq!(most, written.len());
}

#[test]
fn a_byte_changed_anywhere_never_yields_what_was_not_said() {
    let (written, bytes) = small();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            if let Ok((said, ending)) = read(&bytes) {
                assert_eq!(said, written[..said.len()], "byte {at} ^ {flip:#x}");
                assert!(
                    !matches!(ending, Ending::Ended(_)),
                    "byte {at} ^ {flip:#x} went unnoticed"
                );
            }
        }
    }
}

#[test]
fn frames_in_another_order_are_damage() {
    let (_, bytes) = small();
    let mut starts = vec![frame::PRELUDE];
    while starts[starts.len() - 1] < bytes.len() {
        let at = starts[starts.len() - 1];
        let head = frame::Head::read(bytes[at..at + frame::HEAD].try_into().unwrap()).unwrap();
        starts.push(at + frame::HEAD + head.stored);
    }
    let [_, first, second, third, ..] = starts[..] else {
        panic!("{starts:?}")
    };
    let swapped = [
        &bytes[..first],
        &bytes[second..third],
        &bytes[first..second],
        &bytes[third..],
    ];
    let (said, ending) = read(&swapped.concat()).unwrap();
    assert!(said.is_empty());
    assert_eq!(
        ending,
        Ending::Damaged {
            at_bytes: first as u64
        }
    );
}

#[test]
fn another_version_is_refused_with_both_versions_named() {
    let (_, bytes) = small();
    for (at, names) in [(8, "format 3"), (10, "layout")] {
        let mut bytes = bytes.clone();
        bytes[at] += 1;
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let err = read(&bytes).unwrap_err();
        assert!(
            matches!(err, ReadError::Refused(frame::Refused::OtherVersion { .. })),
            "{err:?}"
        );
        assert!(err.to_string().contains(names), "{err}");
    }
    let err = read(b"#!/bin/sh\necho not a recording\n").unwrap_err();
    assert!(err.to_string().contains("no recording"), "{err}");
}

#[test]
fn a_recording_never_grows_beyond_its_bound_and_ends_in_order() {
    let max_bytes = 2_000;
    let mut disk = Disk::default();
    let mut writer = Writer::begin(&mut disk, &header(), max_bytes).unwrap();
    let mut random = 1_u64;
    let mut kept = 0;
    loop {
        // Does not compress.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let delivery = Delivery {
            cookie: random,
            ..Delivery::default()
        };
        let said = Said::Record {
            ring: Ring::Bulk,
            record: Record::Delivery(&delivery),
        };
        if writer.block(&block(&[said])).unwrap() == Kept::Full {
            break;
        }
        kept += 1;
    }
    assert!(kept > 3);
    writer.end(RecordingEndCause::MaxBytes).unwrap();
    assert!(disk.bytes.len() as u64 <= max_bytes);
    let (said, ending) = read(&disk.bytes).unwrap();
    assert_eq!(said.len(), kept);
    let Ending::Ended(end) = ending else {
        panic!("{ending:?}")
    };
    assert_eq!(end.cause(), RecordingEndCause::MaxBytes);
    assert_eq!((end.records, end.records_unwritten), (kept as u64, 1));
}

#[test]
fn a_full_disk_leaves_whole_blocks_and_a_count_of_the_rest() {
    let delivery = Delivery {
        cookie: 1,
        ..Delivery::default()
    };
    let said = [Said::Record {
        ring: Ring::Bulk,
        record: Record::Delivery(&delivery),
    }];
    let mut disk = Disk {
        room: Some(300),
        ..Disk::default()
    };
    let mut writer = Writer::begin(&mut disk, &header(), u64::MAX).unwrap();
    let mut kept = 0;
    while writer.block(&block(&said)).is_ok() {
        kept += 1;
    }
    let bytes = writer.bytes();
    let end = writer.summary(RecordingEndCause::WriteFailed);
    assert_eq!((end.records, end.records_unwritten), (kept, 1));
    assert_eq!(disk.bytes.len() as u64, bytes, "half a frame was left");
    let (said, ending) = read(&disk.bytes).unwrap();
    assert_eq!(said.len() as u64, kept);
    assert_eq!(ending, Ending::Open);
}

#[test]
fn a_slow_recorder_learns_what_is_missing_and_which_settings_are_in_force() {
    let dropped = Arc::new(AtomicU64::new(0));
    let (mut tap, mut blocks) = Tap::new(dropped.clone(), 1);
    let delivery = Delivery::default();
    let said = Said::Record {
        ring: Ring::Bulk,
        record: Record::Delivery(&delivery),
    };
    for _ in 0..BLOCKS_WAITING {
        tap.hear(&said);
        tap.flush();
    }
    // These find no room.
    let settings = Arc::new(v1::RecordedSettings {
        config_generation: 2,
        ..Default::default()
    });
    tap.hear(&Said::Settings(settings.clone()));
    tap.hear(&said);
    tap.flush();
    tap.hear(&said);
    tap.flush();
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
    assert_eq!(blocks.try_recv().unwrap().said.records, 1);
    tap.hear(&Said::Now { now_ns: 7 });
    drop(tap);
    let mut last = None;
    while let Ok(block) = blocks.try_recv() {
        last = Some(block);
    }
    let mut told = Vec::new();
    entry::read(&last.unwrap().said.entries, |said| {
        told.push(format!("{said:?}"));
    })
    .unwrap();
    let want = [
        Said::Missing {
            now_ns: 7,
            records: 2,
        },
        Said::Settings(settings),
        Said::Now { now_ns: 7 },
    ];
    assert_eq!(told, words(&want));
}

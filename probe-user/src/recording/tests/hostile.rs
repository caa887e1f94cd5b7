//! Files that were made to harm: each is refused or read up to where it is wrong, in bounded memory.

use prost::Message as _;

use super::*;
use crate::intake::{self, Intake};
use crate::labels::request::RequestLabel;
use crate::recording::frame::{HEAD, Head, Kind, MAX_CONTENT, PRELUDE, encode, prelude};
use crate::wire;

fn sealed(kind: u8, number: u32, len: u32, stored_len: u32, stored: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 0, 0, 0];
    for word in [number, len, stored_len] {
        frame.extend_from_slice(&word.to_le_bytes());
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame);
    hasher.update(stored);
    frame.extend_from_slice(&hasher.finalize().to_le_bytes());
    frame.extend_from_slice(stored);
    frame
}

fn after_header(frame: &[u8]) -> Vec<u8> {
    let mut bytes = prelude().to_vec();
    bytes.extend(encode(Kind::Header, 0, &header().encode_to_vec()).unwrap());
    bytes.extend_from_slice(frame);
    bytes
}

#[derive(Clone, Debug)]
enum Harm {
    Flip { at: usize, with: u8 },
    Cut { at: usize },
    Remove { at: usize, len: usize },
    Repeat { at: usize, len: usize },
    Insert { at: usize, bytes: Vec<u8> },
}

impl Harm {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: usize, bytes: &[u8]| at % (bytes.len() + 1);
        match self {
            Self::Flip { at, with } => {
                let at = at % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= with;
                }
            }
            Self::Cut { at } => bytes.truncate(place(*at, bytes)),
            Self::Remove { at, len } => {
                let at = place(*at, bytes);
                let end = (at + len).min(bytes.len());
                bytes.drain(at..end);
            }
            Self::Repeat { at, len } => {
                let at = place(*at, bytes);
                let end = (at + len).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(end..end, copy);
            }
            Self::Insert { at, bytes: more } => {
                let at = place(*at, bytes);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    let (at, len) = (any::<usize>(), 0_usize..300);
    let bytes = proptest::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        (at, 1_u8..).prop_map(|(at, with)| Harm::Flip { at, with }),
        at.prop_map(|at| Harm::Cut { at }),
        (at, len.clone()).prop_map(|(at, len)| Harm::Remove { at, len }),
        (at, len).prop_map(|(at, len)| Harm::Repeat { at, len }),
        (at, bytes).prop_map(|(at, bytes)| Harm::Insert { at, bytes }),
    ]
}

/// Numbers as they are, and as nobody expects them.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(u64::MAX / 2),
        Just(u64::MAX / 2 + 1),
        Just(u64::from(u32::MAX)),
        0_u64..1_000_000_000_000,
        any::<u64>(),
    ]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let kinds = 0_u8..7;
    let cookie = prop_oneof![0_u64..4, any::<u64>()];
    (
        pod::<Delivery>(),
        kinds,
        cookie,
        proptest::collection::vec(number(), 10),
    )
        .prop_map(|(mut record, kind, cookie, numbers)| {
            record.header.kind = kind;
            record.cookie = cookie;
            record.header.t_ns = numbers[0];
            record.t_request_ns = numbers[1];
            record.t_request_last_ns = numbers[2];
            record.t_first_write_ns = numbers[3];
            record.t_last_write_ns = numbers[4];
            record.t_first_acked_ns = numbers[5];
            record.t_last_acked_ns = numbers[6];
            record.acked_bytes = numbers[7];
            record.written_bytes = numbers[8];
            record.request_bytes = numbers[9];
            record
        })
}

fn start() -> impl Strategy<Value = SessionStart> {
    (pod::<SessionStart>(), 0_u64..4, number()).prop_map(|(mut record, cookie, t_ns)| {
        record.cookie = cookie;
        record.header.t_ns = t_ns;
        record
    })
}

fn end() -> impl Strategy<Value = SessionEnd> {
    (pod::<SessionEnd>(), 0_u64..4, number()).prop_map(|(mut record, cookie, t_ns)| {
        record.cookie = cookie;
        record.header.t_ns = t_ns;
        record
    })
}

#[derive(Clone, Debug)]
enum Heard {
    Start(SessionStart),
    End(SessionEnd),
    Delivery(Delivery),
    Label(Box<RequestLabel>),
    Other(Said<'static>),
}

impl Heard {
    fn said(&self) -> Said<'_> {
        let ring = Ring::Bulk;
        match self {
            Self::Start(record) => Said::Record {
                ring,
                record: Record::SessionStart(record),
            },
            Self::End(record) => Said::Record {
                ring,
                record: Record::SessionEnd(record),
            },
            Self::Delivery(record) => Said::Record {
                ring,
                record: Record::Delivery(record),
            },
            Self::Label(label) => Said::Label(label),
            Self::Other(said) => said.clone(),
        }
    }
}

fn heard() -> impl Strategy<Value = Heard> {
    prop_oneof![
        1 => start().prop_map(Heard::Start),
        1 => end().prop_map(Heard::End),
        4 => delivery().prop_map(Heard::Delivery),
        2 => labels::label().prop_map(|label| Heard::Label(Box::new(label))),
        2 => other().prop_map(Heard::Other),
        1 => number().prop_map(|now_ns| Heard::Other(Said::Now { now_ns })),
    ]
}

fn any_header() -> impl Strategy<Value = v1::RecordingHeader> {
    let numbers = proptest::collection::vec(number(), 5);
    (numbers, any::<(u32, u32, bool)>()).prop_map(|(numbers, (tick_hz, progress_ms, whole))| {
        let config = crate::config::Config::default();
        v1::RecordingHeader {
            backend: v1::Backend::Exact.into(),
            tick_hz,
            whole,
            begin_monotonic_ns: numbers[0],
            begin_unix_ns: numbers[1],
            records_before: numbers[2],
            losses: Some(v1::Losses {
                hot: Some(v1::RingLoss {
                    seen: numbers[3],
                    drained: numbers[4],
                    ..v1::RingLoss::default()
                }),
                bulk: Some(v1::RingLoss {
                    exported: numbers[3],
                    drained: numbers[4],
                    ..v1::RingLoss::default()
                }),
                records_malformed: numbers[3],
                ..v1::Losses::default()
            }),
            limits: Some(v1::FoldLimits {
                max_sessions: 16,
                max_viewers: 8,
                max_cells: 3,
                max_deliveries_kept: 4,
            }),
            settings: Some(v1::RecordedSettings {
                progress_ms,
                ..intake::settings_of(&config, 1)
            }),
            ..v1::RecordingHeader::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn any_bytes_are_an_error_or_a_recording_that_ends_there(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        begins_well in any::<bool>(),
    ) {
        let bytes = if begins_well { after_header(&bytes) } else { bytes };
        if let Ok((said, ending)) = read(&bytes) {
            prop_assert!(said.is_empty() && !matches!(ending, Ending::Ended(_)));
        }
    }

    #[test]
    fn a_harmed_recording_never_says_what_was_not_said(
        harms in proptest::collection::vec(harm(), 1..5),
    ) {
        let (written, mut bytes) = small();
        let whole = bytes.clone();
        for harm in &harms {
            harm.apply(&mut bytes);
        }
        match read(&bytes) {
            Ok((said, _)) => prop_assert_eq!(&said, &written[..said.len()]),
            Err(err) => prop_assert!(bytes != whole && !err.to_string().is_empty()),
        }
    }

    #[test]
    fn a_head_that_lies_with_a_right_checksum_is_damage(
        kind in 0_u8..5,
        number in 0_u32..3,
        len in prop_oneof![0_u32..100, any::<u32>()],
        stored_len in prop_oneof![0_u32..100, any::<u32>()],
        stored in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let bytes = after_header(&sealed(kind, number, len, stored_len, &stored));
        // Random bytes are no zstd frame, and nothing else is content.
        let (said, ending) = read(&bytes).unwrap();
        prop_assert!(said.is_empty());
        prop_assert!(matches!(ending, Ending::Damaged { .. } | Ending::Torn { .. }), "{:?}", ending);
    }

    #[test]
    fn any_content_with_a_right_checksum_is_understood_or_refused(
        mut content in proptest::collection::vec(any::<u8>(), 0..200),
        tag in 0_u8..16,
        ring in 0_u8..3,
    ) {
        // A head that leads on to the body, as often as not.
        let len = content.len().saturating_sub(8);
        for (place, byte) in content.iter_mut().zip([tag, ring, 0, 0, u8::try_from(len).unwrap(), 0, 0, 0]) {
            *place = byte;
        }
        let frame = encode(Kind::Block, 1, &content).unwrap();
        match read(&after_header(&frame)) {
            Ok(_) => {}
            Err(ReadError::Entry(bad)) => prop_assert!(bad.at < content.len()),
            Err(err) => prop_assert!(false, "{err}"),
        }
        for kind in [Kind::Header, Kind::End] {
            let mut bytes = prelude().to_vec();
            bytes.extend(encode(kind, 0, &content).unwrap());
            let _ = read(&bytes);
        }
    }

    #[test]
    fn whatever_records_say_they_are_folded_and_told(
        header in any_header(),
        heard in proptest::collection::vec(heard(), 0..12),
    ) {
        let mut intake = Intake::at_beginning_of(&header).unwrap();
        for heard in &heard {
            let said = heard.said();
            if let Some(told) = intake.take(&said) {
                let cell = intake.fold().cells().key(told.folded.cell).clone();
                let _ = wire::delivery(told.record, &cell, intake.context());
            }
        }
        let counted = intake.cells();
        for cell in &counted {
            let since = cell.since(cell);
            prop_assert_eq!(since.counters, crate::qoe::Counters::default());
            prop_assert!(since.histograms.is_empty());
            let _ = wire::cell(cell, 1, wire::Heard::default());
        }
        for (_, session) in intake.fold().sessions().iter_from(0) {
            let cell = intake.fold().cells().key(session.cell);
            let _ = wire::session(session, cell, intake.context());
        }
        let losses = intake.losses(&wire::DaemonCounts::default());
        let _ = crate::ui::losses::sentence(&losses);
        prop_assert!(intake.fold().sessions().iter_from(0).count() <= 16);
    }
}

#[test]
fn a_bomb_does_not_become_more_than_its_head_says_and_that_is_bounded() {
    let zeros = vec![0; MAX_CONTENT];
    let bomb = zstd::bulk::compress(&zeros, 3).unwrap();
    let stored = u32::try_from(bomb.len()).unwrap();
    for len in [0, 1, 1000, u32::try_from(MAX_CONTENT).unwrap() - 1] {
        let (said, ending) = read(&after_header(&sealed(2, 1, len, stored, &bomb))).unwrap();
        assert!(said.is_empty());
        assert!(matches!(ending, Ending::Damaged { .. }), "{ending:?}");
    }
    // Longer than any frame may be: not even looked at.
    for (len, stored) in [
        (u32::try_from(MAX_CONTENT).unwrap() + 1, stored),
        (u32::MAX, u32::MAX),
        (10, u32::MAX),
    ] {
        let frame = sealed(2, 1, len, stored, &bomb);
        assert!(Head::read(frame[..HEAD].try_into().unwrap()).is_none());
        let (_, ending) = read(&after_header(&frame)).unwrap();
        let at_bytes = after_header(&[]).len() as u64;
        assert_eq!(ending, Ending::Damaged { at_bytes });
    }
    assert!(after_header(&[]).len() > PRELUDE);
}

#[test]
fn what_stands_behind_the_end_is_not_passed_over_in_silence() {
    let (written, bytes) = small();
    let behind = [bytes.clone(), bytes.clone()].concat();
    let (said, ending) = read(&behind).unwrap();
    assert_eq!(said, written);
    let at_bytes = bytes.len() as u64;
    assert_eq!(ending, Ending::Damaged { at_bytes });
}

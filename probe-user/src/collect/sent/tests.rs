use bytes::Bytes;
use histogram::SparseHistogram;
use proptest::prelude::*;
use prost::Message as _;
use weir_proto::v1;

use super::{SentCell, cells, exchange};
use crate::collect::decode::Error;
use crate::qoe::cell::{Cell, RATES, Sustain};
use crate::qoe::{CellKey, CellSnapshot, Counters, Gauges, Metric};
use crate::wire::{self, Heard};

fn snapshot(deliveries: u64, tested: u64, values: &[(usize, usize, u64)]) -> CellSnapshot {
    let mut cell = Cell::default();
    cell.counters.deliveries = deliveries;
    cell.counters.stalled_us = deliveries * 7;
    // Rates that were not tested are not sent.
    if tested > 0 {
        cell.sustain[0] = Sustain {
            rate_bps: 5_000_000,
            tested,
            sustained: tested / 2,
        };
    }
    for (metric, value, count) in values {
        let metric = Metric::ALL[metric % Metric::COUNT];
        for _ in 0..*count {
            cell.record(metric, *value as u64);
        }
    }
    let key = CellKey::other(crate::kernel::BackendKind::Exact);
    cell.snapshot(key, true)
}

fn sent(cell: &CellSnapshot) -> Bytes {
    wire::cell(cell, 1, Heard::default()).encode_to_vec().into()
}

fn read(cell: &CellSnapshot) -> SentCell {
    cells(&[sent(cell)], &[]).unwrap().remove(0)
}

fn held(cell: &Cell) -> (Counters, [Sustain; RATES], Vec<(Metric, SparseHistogram)>) {
    let snapshot = cell.snapshot(CellKey::other(crate::kernel::BackendKind::Exact), true);
    let mut histograms = snapshot.histograms;
    // A sum keeps a distribution that has become empty.
    histograms.retain(|(_, histogram)| !histogram.index().is_empty());
    (snapshot.counters, snapshot.sustain, histograms)
}

fn any_cell() -> impl Strategy<Value = CellSnapshot> {
    let values = prop::collection::vec((0..Metric::COUNT, 1..1_000_000_usize, 1..4_u64), 0..20);
    (0..1_u64 << 40, 0..1000_u64, values)
        .prop_map(|(deliveries, tested, values)| snapshot(deliveries, tested, &values))
}

proptest! {
    /// As bytes, cells add up to what they add up to as values; whether a count grew or fell.
    #[test]
    fn a_sum_holds_the_newest_of_each_boot(
        others in any_cell(),
        states in prop::collection::vec(any_cell(), 1..6),
    ) {
        let mut sum = Cell::default();
        sum.absorb(&others);
        let mut before: Option<SentCell> = None;
        for state in &states {
            let newer = read(state);
            exchange(before.as_ref(), Some(&newer), &mut sum, None);
            before = Some(newer);
        }
        let mut expected = Cell::default();
        expected.absorb(&others);
        expected.absorb(states.last().unwrap());
        prop_assert_eq!(held(&sum), held(&expected));

        exchange(before.as_ref(), None, &mut sum, None);
        let mut without = Cell::default();
        without.absorb(&others);
        let (counters, _, histograms) = held(&sum);
        prop_assert_eq!((counters, histograms), (others.counters, held(&without).2));
    }

    #[test]
    fn what_is_new_is_what_was_counted_since(older in any_cell(), newer in any_cell()) {
        let mut lately = Cell::default();
        let (old, new) = (read(&older), read(&newer));
        exchange(Some(&old), Some(&new), &mut Cell::default(), Some(&mut lately));
        let mut expected = Cell::default();
        let mut since = newer.since(&older);
        // Where a count fell, the crate's difference has none at all; here the rest counts.
        let fell = |metric: Metric| {
            let (Some(old), Some(new)) = (older.histogram(metric), newer.histogram(metric)) else {
                return false;
            };
            new.checked_sub(old).is_err()
        };
        since.histograms.retain(|(metric, _)| !fell(*metric));
        since.gauges = Gauges::default();
        expected.absorb(&since);
        let (counters, sustain, mut histograms) = held(&lately);
        histograms.retain(|(metric, _)| !fell(*metric));
        prop_assert_eq!((counters, sustain, histograms), held(&expected));
    }

    /// Whatever comes, it is refused or read; and what is read says the same again.
    #[test]
    fn no_bytes_do_harm(cell in any_cell(), at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
        let mut bytes = sent(&cell).to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let before = read(&cell);
        let alone = cells(&[bytes.clone().into()], &[]);
        let after = cells(&[bytes.into()], &[before]);
        prop_assert_eq!(alone.is_ok(), after.is_ok());
        if let (Ok(alone), Ok(after)) = (alone, after) {
            prop_assert!(alone[0].counts_equal(&after[0]));
            prop_assert_eq!(&alone[0].key, &after[0].key);
            exchange(None, Some(&after[0]), &mut Cell::default(), Some(&mut Cell::default()));
        }
    }
}

#[test]
fn what_no_edge_makes_is_refused_with_the_reason() {
    let cell = snapshot(3, 0, &[(0, 1000, 1), (4, 20, 2)]);
    let good = wire::cell(&cell, 1, Heard::default());
    let why = |change: fn(&mut v1::Cell)| {
        let mut bad = good.clone();
        change(&mut bad);
        let before = read(&cell);
        cells(&[bad.encode_to_vec().into()], &[before]).unwrap_err()
    };
    assert_eq!(why(|cell| cell.key = None), Error::Missing("cell.key"));
    assert_eq!(
        why(|cell| cell.counters = None),
        Error::Missing("cell.counters")
    );
    assert!(matches!(
        why(|cell| cell.histograms.push(cell.histograms[0].clone())),
        Error::Twice(_)
    ));
    assert!(matches!(
        why(|cell| cell.histograms[0].metric = 99),
        Error::Unknown {
            field: "histogram.metric",
            ..
        }
    ));
    for change in [
        |cell: &mut v1::Cell| cell.histograms[0].grouping_power = 3,
        |cell: &mut v1::Cell| cell.histograms[0].count[0] = 1 << 50,
        |cell: &mut v1::Cell| cell.histograms[0].bucket[0] = 1 << 20,
        |cell: &mut v1::Cell| cell.histograms[0].bucket.push(1),
        |cell: &mut v1::Cell| {
            cell.histograms[0].bucket.push(1);
            cell.histograms[0].count.push(1);
        },
    ] {
        assert!(matches!(why(change), Error::Histogram { .. }));
    }
    assert!(matches!(
        why(|cell| cell.key.as_mut().unwrap().service = "x".repeat(300)),
        Error::Name { .. }
    ));
    let rate = v1::Sustain {
        rate_bps: 1,
        tested: 1,
        sustained: 1,
    };
    let mut bad = good.clone();
    bad.sustain = vec![rate, rate];
    assert!(matches!(
        cells(&[bad.encode_to_vec().into()], &[]),
        Err(Error::Twice(_))
    ));
}

//! The vital frame: the few numbers by which a live event is run, always of the same size.
//!
//! What a crisis changes is what stands in it, not how much there is to be made, sent and merged.
//! Pure.

use std::cmp::Reverse;

use prost::Message as _;
use weir_proto::v1::{self, VitalValue};

use super::Tick;
use crate::qoe::CellSnapshot;
use crate::wire;

/// Length of every such frame.
pub const VITAL_FRAME_BYTES: usize = 4096;
/// Values of a cell: [`VitalValue`]'s.
pub const VITAL_VALUES: usize = 20;
/// Cells that are told by name, if their names are short enough.
const MOST_CELLS: usize = 16;
/// Of a sentence; the warm lane has it in full.
const SENTENCE_BYTES: usize = 200;

/// A cell's values, in the order of [`VitalValue`].
pub(super) fn values(cell: &CellSnapshot) -> [u64; VITAL_VALUES] {
    let counters = &cell.counters;
    let gauges = &cell.gauges;
    let mut values = [0; VITAL_VALUES];
    for (which, value) in [
        (VitalValue::StartAttempts, counters.start_attempts),
        (VitalValue::Starts, counters.starts),
        (
            VitalValue::StartFailures,
            counters.start_failures_http
                + counters.start_failures_origin
                + counters.start_failures_network,
        ),
        (
            VitalValue::StartFailuresClient,
            counters.start_failures_client,
        ),
        (VitalValue::WatchedUs, counters.watched_us),
        (VitalValue::Stalls, counters.stalls),
        (VitalValue::StalledUs, counters.stalled_us),
        (VitalValue::AtRisk, counters.at_risk),
        (VitalValue::ExitsUnderStress, counters.exits_under_stress),
        (VitalValue::Deliveries, counters.deliveries),
        (VitalValue::LateDeliveries, counters.late_deliveries),
        (VitalValue::AbortedDeliveries, counters.aborted_deliveries),
        (VitalValue::AckedBytes, counters.acked_bytes),
        (VitalValue::Segments, counters.segments),
        (
            VitalValue::Retransmits,
            counters.retrans_fast + counters.retrans_rto + counters.retrans_tlp,
        ),
        (VitalValue::SessionsOpen, gauges.sessions_open),
        (VitalValue::DeliveriesOpenLate, gauges.deliveries_open_late),
        (VitalValue::ViewersActive, gauges.viewers_active),
        (VitalValue::ViewersStalled, gauges.viewers_stalled),
        (VitalValue::ViewersAtRisk, gauges.viewers_at_risk),
    ] {
        values[which as usize] = value;
    }
    values
}

/// The frame of a tick. Host, boot and number stand in `head`; `lanes` are counts until now.
pub(crate) fn frame(tick: &Tick, head: v1::Frame, lanes: Vec<v1::LaneCounts>) -> v1::Frame {
    let mut order: Vec<_> = tick.cells.iter().collect();
    let matters = |cell: &&CellSnapshot| {
        let gauges = &cell.gauges;
        Reverse((
            gauges.viewers_stalled + gauges.viewers_at_risk,
            gauges.viewers_active,
            gauges.sessions_open,
            cell.counters.deliveries,
        ))
    };
    order.sort_by_key(matters);
    let mut frame = v1::Frame {
        unix_ns: tick.unix_ns,
        interval_ms: tick.interval_ms,
        config_generation: tick.config_generation,
        losses: Some(tick.losses),
        tick: true,
        tick_seq: tick.seq,
        off: shortened(&tick.off),
        budget: tick.budget.as_ref().map(|budget| v1::BudgetStatus {
            error: shortened(&budget.error),
            ..budget.clone()
        }),
        // Of fixed length, but absent if it is 0.
        delay_us: 1,
        lanes,
        ..head
    };
    let mut named = order.len().min(MOST_CELLS);
    loop {
        frame.vital = Some(vital(&order, named));
        frame.padding = Vec::new().into();
        if pad(&mut frame) || named == 0 {
            return frame;
        }
        named -= 1;
    }
}

fn vital(order: &[&CellSnapshot], named: usize) -> v1::Vital {
    let (named, rest) = order.split_at(named);
    let mut other = [0_u64; VITAL_VALUES];
    for cell in rest {
        for (sum, value) in other.iter_mut().zip(values(cell)) {
            *sum = sum.saturating_add(value);
        }
    }
    v1::Vital {
        cells: named
            .iter()
            .map(|cell| v1::VitalCell {
                key: Some(wire::cell_key(&cell.key)),
                values: values(cell).to_vec(),
            })
            .collect(),
        other: other.to_vec(),
        cells_in_other: u32::try_from(rest.len()).unwrap_or(u32::MAX),
    }
}

/// Makes a frame as long as all others; says whether that is possible.
fn pad(frame: &mut v1::Frame) -> bool {
    // Two bytes of tag, and one or two of length: as the length of 128 takes one more byte than
    // that of 127, one length of the whole cannot be had.
    let Some(free) = VITAL_FRAME_BYTES.checked_sub(frame.encoded_len()) else {
        return false;
    };
    let len = match free {
        0 => return true,
        1..=3 | 131 => return false,
        4..=130 => free - 3,
        _ => free - 4,
    };
    frame.padding = vec![0; len].into();
    frame.encoded_len() == VITAL_FRAME_BYTES
}

fn shortened(sentence: &str) -> String {
    let mut end = sentence.len().min(SENTENCE_BYTES);
    while !sentence.is_char_boundary(end) {
        end -= 1;
    }
    sentence[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{cell, tick};
    use super::*;

    proptest! {
        /// In calm and in crisis, with few cells and many, with short names and long.
        #[test]
        fn every_vital_frame_has_one_size_and_misses_nothing(
            cells in 0_usize..256,
            scale in 0_u64..1 << 30,
            name in 1_usize..64,
            off in 0_usize..5000,
        ) {
            let cells: Vec<_> = (0..cells as u64)
                .map(|n| cell(&format!("{n:0>name$}"), n * scale))
                .collect();
            let mut sum = [0; VITAL_VALUES];
            for cell in &cells {
                for (sum, value) in sum.iter_mut().zip(values(cell)) {
                    *sum += value;
                }
            }
            let mut tick = tick(scale, cells);
            tick.off = "x".repeat(off);
            let head = v1::Frame {
                host: "h".repeat(name),
                boot_id: "b".repeat(36),
                seq: scale,
                lane: v1::Lane::Hot.into(),
                ..v1::Frame::default()
            };
            let counts = v1::LaneCounts { bytes_sent: scale, ..v1::LaneCounts::default() };
            let frame = frame(&tick, head, vec![counts; 4]);
            prop_assert_eq!(frame.encoded_len(), VITAL_FRAME_BYTES);
            let vital = frame.vital.unwrap();
            let mut told = vital.other.clone();
            for cell in &vital.cells {
                for (told, value) in told.iter_mut().zip(&cell.values) {
                    *told += value;
                }
            }
            prop_assert_eq!(told, sum);
            prop_assert_eq!(vital.cells.len() + vital.cells_in_other as usize, tick.cells.len());
        }
    }

    #[test]
    fn whoever_stands_still_is_told_by_name() {
        let mut cells: Vec<_> = (0..100).map(|n| cell(&n.to_string(), 1000 + n)).collect();
        cells[77].gauges.viewers_stalled = 1;
        cells[77].counters.deliveries = 0;
        let frame = frame(&tick(1, cells), v1::Frame::default(), Vec::new());
        let first = &frame.vital.unwrap().cells[0];
        assert_eq!(first.key.as_ref().unwrap().service, "77");
    }
}

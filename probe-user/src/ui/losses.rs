//! What was lost on the way, by cause, in words; and whether the books balance.

use weir_proto::v1::{Cell, Losses, RingLoss};

/// One in so many records lost, and what is left may say something else than all would have.
const VOID_ONE_IN: u64 = 20;
/// Where this stands there would be a figure, but too much is missing for one.
pub const VOID: &str = "void";

/// Whether too many records are missing for a cell's shares and distributions to mean anything.
/// Its counts are what was heard, and so at least what happened.
pub fn is_void(cell: &Cell) -> bool {
    is_void_since(cell, None)
}

/// The same of what was counted since an older state of the cell.
pub fn is_void_since(cell: &Cell, older: Option<&Cell>) -> bool {
    let (seen, lost) = older.map_or((0, 0), |older| (older.records_seen, older.records_lost));
    let seen = cell.records_seen.saturating_sub(seen);
    let lost = cell.records_lost.saturating_sub(lost);
    lost.saturating_mul(VOID_ONE_IN) > seen
}

/// Every loss that is not zero, with its cause. A frame that the uplink dropped is none: the next
/// one holds all that it held. Nor is what its cold lane sheds to keep within its budget.
pub fn causes(losses: &Losses) -> Vec<(&'static str, u64)> {
    let full = |ring: &Option<RingLoss>| ring.as_ref().map_or(0, |ring| ring.ring_full);
    let all = [
        ("hot ring full", full(&losses.hot)),
        ("bulk ring full", full(&losses.bulk)),
        ("unaccounted for", unaccounted(losses)),
        (
            "sessions without kernel memory",
            losses.sessions_storage_refused,
        ),
        ("half-open table full", losses.half_open_refused),
        ("sessions without a last word", losses.ends_unseen),
        ("overflows of last words", losses.end_overflows),
        ("sessions evicted", losses.sessions_evicted),
        ("records malformed", losses.records_malformed),
        ("labels malformed", losses.labels_malformed),
        ("labels dropped", losses.labels_dropped),
        ("viewers evicted", losses.viewers_evicted),
        ("viewer events dropped", losses.viewer_events_dropped),
        ("cells folded into other", losses.cells_overflowed),
        ("followers dropped", losses.followers_dropped),
        ("recorder dropped", losses.recorder_dropped),
        ("recorder unwritten", losses.recorder_unwritten),
        ("uplink events dropped", losses.uplink_events_dropped),
        ("ring unwritten", losses.uplink_ring_unwritten),
    ];
    all.into_iter().filter(|(_, lost)| *lost > 0).collect()
}

/// All losses together.
pub fn total(losses: &Losses) -> u64 {
    let each = causes(losses).into_iter().map(|(_, lost)| lost);
    each.fold(0, u64::saturating_add)
}

/// Records and sessions that were seen and are neither exported nor counted as lost; 0 unless
/// weir itself is wrong.
fn unaccounted(losses: &Losses) -> u64 {
    let ring = |ring: &Option<RingLoss>| {
        ring.as_ref().map_or(0, |ring| {
            ring.seen
                .abs_diff(ring.exported.saturating_add(ring.ring_full))
        })
    };
    let sessions = losses.sessions_seen.abs_diff(
        losses
            .sessions_tracked
            .saturating_add(losses.sessions_filtered)
            .saturating_add(losses.sessions_storage_refused),
    );
    ring(&losses.hot)
        .saturating_add(ring(&losses.bulk))
        .saturating_add(sessions)
}

/// One line: `nothing lost`, or each cause with its count.
pub fn sentence(losses: &Losses) -> String {
    let causes = causes(losses);
    if causes.is_empty() {
        return "nothing lost".to_owned();
    }
    let parts: Vec<String> = causes
        .iter()
        .map(|(cause, lost)| format!("{cause} {lost}"))
        .collect();
    format!("LOST: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balanced() -> Losses {
        Losses {
            hot: Some(RingLoss {
                seen: 10,
                exported: 10,
                ring_full: 0,
                drained: 9,
            }),
            sessions_seen: 7,
            sessions_tracked: 5,
            sessions_filtered: 2,
            ..Losses::default()
        }
    }

    #[test]
    fn a_cell_is_void_where_more_than_one_record_in_twenty_is_missing() {
        let cell = |records_seen, records_lost| Cell {
            records_seen,
            records_lost,
            ..Cell::default()
        };
        assert!(!is_void(&cell(0, 0)));
        assert!(!is_void(&cell(1000, 50)));
        assert!(is_void(&cell(1000, 51)));
        // What was lost before says nothing of now.
        assert!(!is_void_since(&cell(2000, 51), Some(&cell(1000, 51))));
        assert!(is_void_since(&cell(2000, 51), Some(&cell(1900, 0))));
    }

    #[test]
    fn a_frame_that_another_makes_good_is_no_loss() {
        let losses = Losses {
            uplink_frames_dropped: 3,
            ..balanced()
        };
        assert_eq!(sentence(&losses), "nothing lost");
    }

    #[test]
    fn filtered_and_not_yet_drained_are_no_losses() {
        assert_eq!(sentence(&balanced()), "nothing lost");
        assert_eq!(total(&balanced()), 0);
    }

    #[test]
    fn each_loss_is_named_with_its_count() {
        let losses = Losses {
            hot: Some(RingLoss {
                seen: 10,
                exported: 7,
                ring_full: 3,
                drained: 7,
            }),
            sessions_evicted: 2,
            ..balanced()
        };
        assert_eq!(
            sentence(&losses),
            "LOST: hot ring full 3, sessions evicted 2"
        );
        assert_eq!(total(&losses), 5);
    }

    #[test]
    fn books_that_do_not_balance_are_a_loss() {
        let losses = Losses {
            sessions_seen: 9,
            ..balanced()
        };
        assert_eq!(sentence(&losses), "LOST: unaccounted for 2");
    }
}

//! What lies outside a viewer's buffer but decides what a dry one means.

use super::thresholds::Thresholds;

/// What lies outside the buffer but decides what a dry one means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    pub with: &'a Thresholds,
    /// First request of the attempt.
    pub t_begin_ns: u64,
    /// Where nothing is labelled, the end of the first answer, from which on it is held to have
    /// played although what it fetched was not known; 0: all was known.
    pub t_unknown_ns: u64,
    /// Latest request for a live playlist; 0: none.
    pub t_poll_ns: u64,
    /// Of the latest segment.
    pub segment_us: u32,
    pub is_live: bool,
    /// The player lets the sound go on when the picture is dry. One of DASH does, whose one manifest
    /// names both; one of HLS, which needs a playlist of each and one of those, puts no sound into
    /// its buffer before the picture.
    pub runs_on: bool,
}

impl Around<'_> {
    /// Live, the player looks for a newer segment, and there should have been one.
    pub(super) fn is_overdue(&self, since_append_us: u32, t_ns: u64) -> bool {
        let due_us = overdue_us(self.segment_us);
        let patience_ns = u64::from(due_us) * 1000 + 1_000_000_000;
        let polled_ns = self.t_poll_ns.saturating_add(patience_ns);
        self.is_live
            && self.segment_us > 0
            && self.t_poll_ns > 0
            && polled_ns >= t_ns
            && since_append_us > due_us
    }
}

/// So long after the latest segment the next should have been found.
pub(super) fn overdue_us(segment_us: u32) -> u32 {
    segment_us.saturating_add(segment_us / 2)
}

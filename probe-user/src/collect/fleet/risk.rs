//! How long how many viewers of a host stood still or were about to: what hosts are ranked by.

use std::cmp::{Ordering, Reverse};
use std::collections::VecDeque;

use weir_proto::v1;

/// What ranking looks back on.
pub const RISK_WINDOW_MS: u64 = 60_000;
/// A tick speaks for the time since the one before it, but for no longer than this: what was in a
/// gap, nobody knows.
const MAX_STEP_MS: u64 = 5_000;
/// Ticks that are remembered; a host that sends more often is looked at more coarsely.
const MAX_TICKS: usize = 64;

/// Which of two hosts is told first: the one where more viewer time is at risk, then the one with
/// more viewers in trouble now, then by name.
pub fn rank(a: &v1::Host, b: &v1::Host) -> Ordering {
    let risk = |host: &v1::Host| {
        let now = host.viewers_stalled.saturating_add(host.viewers_at_risk);
        Reverse((host.at_risk_minute_ms, now))
    };
    risk(a).cmp(&risk(b)).then_with(|| a.host.cmp(&b.host))
}

/// Viewer time at risk of one host, by its ticks.
#[derive(Clone, Debug, Default)]
pub(super) struct Risk {
    /// When each step ended, and its viewer time in milliseconds.
    steps: VecDeque<(u64, u64)>,
    last_ms: u64,
}

impl Risk {
    /// A tick says how many viewers stand still or are about to.
    pub(super) fn tick(&mut self, now_ms: u64, viewers: u64) {
        let step_ms = match self.last_ms {
            0 => 0,
            last => now_ms.saturating_sub(last).min(MAX_STEP_MS),
        };
        self.last_ms = self.last_ms.max(now_ms);
        let viewer_ms = viewers.saturating_mul(step_ms);
        let width_ms = RISK_WINDOW_MS / MAX_TICKS as u64;
        match self.steps.back_mut() {
            // Of one stretch.
            Some((at_ms, sum)) if *at_ms / width_ms == now_ms / width_ms => {
                *sum = sum.saturating_add(viewer_ms);
            }
            _ => self.steps.push_back((now_ms, viewer_ms)),
        }
        while self.steps.len() > MAX_TICKS + 1 {
            self.steps.pop_front();
        }
    }

    /// Viewer time at risk in the last minute, in milliseconds.
    pub(super) fn minute_ms(&self, now_ms: u64) -> u64 {
        self.steps
            .iter()
            .filter(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < RISK_WINDOW_MS)
            .fold(0, |sum, (_, viewer_ms)| sum.saturating_add(*viewer_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewer_time_at_risk_is_viewers_times_time_and_is_forgotten_after_a_minute() {
        let mut risk = Risk::default();
        let begin_ms = 1_000_000;
        // Ten viewers for 20 s, told four times a second.
        for n in 0..=80 {
            risk.tick(begin_ms + n * 250, 10);
        }
        let end_ms = begin_ms + 20_000;
        assert_eq!(risk.minute_ms(end_ms), 10 * 20_000);
        // Nothing is at risk since.
        for n in 1..=30 {
            risk.tick(end_ms + n * 1000, 0);
        }
        assert_eq!(risk.minute_ms(end_ms + 30_000), 10 * 20_000);
        let left = risk.minute_ms(end_ms + 50_000);
        assert!((80_000..=120_000).contains(&left), "{left}");
        assert_eq!(risk.minute_ms(end_ms + 61_000), 0);
    }

    #[test]
    fn a_gap_is_not_taken_for_risk() {
        let mut risk = Risk::default();
        risk.tick(1_000, 1);
        risk.tick(50_000, 1);
        assert_eq!(risk.minute_ms(50_000), MAX_STEP_MS);
    }
}

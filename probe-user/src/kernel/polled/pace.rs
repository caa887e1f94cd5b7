//! How often to look: as seldom as keeps looking within a part of a core.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Looking takes at most so much of a core, in thousandths, whatever the budget allows; beyond, looks
/// are left out.
const MOST_CORE_PERMILLE: f64 = 100.0;
/// At the most between two looks: what is late has to be told in time, budget or not.
const MOST_PAUSE: Duration = Duration::from_secs(2);

/// What looking and hearing have cost, and what they may.
#[derive(Debug)]
pub(super) struct Pace {
    /// Thousandths of a core; 0: no limit but [`MOST_CORE_PERMILLE`].
    limit_core_permille: u32,
    /// Processor time since the start.
    spent: Duration,
    /// Of that, hearing since the latest look.
    heard: Duration,
    looked: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            limit_core_permille: 0,
            spent: Duration::ZERO,
            heard: Duration::ZERO,
            looked: Instant::now(),
        }
    }

    /// From the next look on.
    pub(super) fn set_limit(&mut self, limit_core_permille: u32) {
        self.limit_core_permille = limit_core_permille;
    }

    /// Processor time of all that was done so far.
    pub(super) fn spent(&self) -> Duration {
        self.spent
    }

    /// Does what is to be heard, or said, between two looks.
    pub(super) fn hearing<T>(&mut self, hear: impl FnOnce() -> T) -> T {
        let (value, took) = timed(hear);
        self.spent += took;
        self.heard += took;
        value
    }

    /// Takes note of a look, from `began` to `ended` by the clock and `took` of the processor; returns
    /// the pause until the next.
    pub(super) fn looked(&mut self, began: Instant, ended: Instant, took: Duration) -> Duration {
        let span = ended.saturating_duration_since(self.looked).as_secs_f64();
        let hearing = if span > 0.0 {
            self.heard.as_secs_f64() / span * 1000.0
        } else {
            0.0
        };
        self.spent += took;
        self.heard = Duration::ZERO;
        self.looked = ended;
        let wall = ended.saturating_duration_since(began);
        let pause = pause(wall, 0.0, MOST_CORE_PERMILLE);
        if self.limit_core_permille == 0 {
            return pause;
        }
        // Looks that many sockets make long were further apart before there was a budget, too.
        let kept = self::pause(took, hearing, f64::from(self.limit_core_permille));
        pause.max(kept.min(MOST_PAUSE))
    }
}

/// How long to wait after a look that took so long, so that looks take what hearing leaves.
fn pause(took: Duration, hearing_core_permille: f64, limit_core_permille: f64) -> Duration {
    let left = (limit_core_permille - hearing_core_permille).max(1.0);
    took.mul_f64((1000.0 / left - 1.0).max(0.0))
}

/// What is returned, and the processor time of this thread that it took.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = thread_time();
    let value = work();
    (value, thread_time().saturating_sub(before))
}

fn thread_time() -> Duration {
    // Cannot fail: every Linux has this clock.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn looked(limit_core_permille: u32, took: Duration, heard: Duration) -> Duration {
        let mut pace = Pace::new();
        pace.set_limit(limit_core_permille);
        pace.heard = heard;
        let began = pace.looked + Duration::from_secs(1).saturating_sub(took);
        pace.looked(began, began + took, took)
    }

    #[test]
    fn a_look_is_followed_by_a_pause_that_keeps_looking_to_a_tenth_of_a_core() {
        assert_eq!(looked(0, 10 * MS, Duration::ZERO), 90 * MS);
    }

    #[test]
    fn a_budget_makes_pauses_longer_and_hearing_longer_still() {
        assert_eq!(looked(50, 10 * MS, Duration::ZERO), 190 * MS);
        // 30 thousandths of a core are heard away.
        assert_eq!(looked(50, 10 * MS, 30 * MS), 490 * MS);
        assert_eq!(looked(500, 10 * MS, Duration::ZERO), 90 * MS);
    }

    #[test]
    fn no_budget_makes_what_is_late_wait_for_ever() {
        assert_eq!(looked(1, 100 * MS, 900 * MS), MOST_PAUSE);
        // What many sockets cost is not undone by that.
        assert_eq!(looked(1, 500 * MS, Duration::ZERO), 4500 * MS);
    }

    #[test]
    fn what_was_done_is_counted() {
        let mut pace = Pace::new();
        let sum = pace.hearing(|| (0..1_000_000u64).map(std::hint::black_box).sum::<u64>());
        assert_eq!(sum, 499_999_500_000);
        assert!(pace.spent() > Duration::ZERO);
        assert_eq!(pace.spent(), pace.heard);
        let now = Instant::now();
        pace.looked(now, now, 5 * MS);
        assert_eq!(pace.heard, Duration::ZERO);
        assert!(pace.spent() > 5 * MS);
    }
}

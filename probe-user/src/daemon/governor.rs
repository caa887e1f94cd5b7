//! The governor: keeps what the kernel programs cost within the budget by following a share of the
//! sessions only. Pure: it is told what following a share costs.

use std::time::Duration;

use crate::kernel::WHOLE;

/// How long a share is held at the least before a larger one is tried.
const LEAST_HOLD: Duration = Duration::from_secs(30);
/// At the most, however often the larger one proved to be too much.
const MOST_HOLD: Duration = Duration::from_secs(600);

/// So many times the share at the most is tried next.
const MOST_AT_ONCE: u32 = 16;

/// What share of the sessions is followed, and why.
#[derive(Clone, Debug)]
pub(super) struct Governor {
    limit_core_permille: u32,
    share: u32,
    since: Duration,
    hold: Duration,
    /// When the share was last raised.
    raised: Option<Duration>,
    /// What following nobody cost when it was last tried, which no share gets below.
    floor_core_permille: f64,
}

impl Governor {
    /// Follows all sessions at first. A limit of 0 is none.
    pub(super) fn new(limit_core_permille: u32) -> Self {
        Self {
            limit_core_permille,
            share: WHOLE,
            since: Duration::ZERO,
            hold: LEAST_HOLD,
            raised: None,
            floor_core_permille: 0.0,
        }
    }

    /// Thousandths of a core; 0: none.
    pub(super) fn limit_core_permille(&self) -> u32 {
        self.limit_core_permille
    }

    /// Another limit, from now on.
    pub(super) fn set_limit(&mut self, limit_core_permille: u32) {
        self.limit_core_permille = limit_core_permille;
        self.hold = LEAST_HOLD;
    }

    /// Of [`WHOLE`] sessions.
    pub(super) fn share(&self) -> u32 {
        self.share
    }

    /// Takes note of what following the present share costs; returns the share to be followed from
    /// now on, if it is another. Time counts from anywhere.
    pub(super) fn measured(&mut self, now: Duration, cost_core_permille: f64) -> Option<u32> {
        let limit = f64::from(self.limit_core_permille);
        let floor = &mut self.floor_core_permille;
        *floor = if self.share == 0 {
            cost_core_permille
        } else {
            floor.min(cost_core_permille)
        };
        let share = if self.limit_core_permille == 0 {
            WHOLE
        } else if cost_core_permille > limit {
            self.hold = match self.raised {
                // It was raised too soon.
                Some(raised) if now.saturating_sub(raised) <= self.hold => {
                    (self.hold * 2).min(MOST_HOLD)
                }
                _ => LEAST_HOLD,
            };
            self.lower(cost_core_permille / limit)
        } else if now.saturating_sub(self.since) >= self.hold && self.share < WHOLE {
            let share = self.higher(cost_core_permille, limit);
            if share != self.share {
                self.raised = Some(now);
            }
            share
        } else {
            self.share
        };
        if share == self.share {
            return None;
        }
        self.share = share;
        self.since = now;
        Some(share)
    }

    /// The share could not be put in force: it is still the one before.
    pub(super) fn not_taken(&mut self, before: u32) {
        self.share = before;
    }

    /// The share that costs no more than the limit, as far as the present one tells: twice as much, or
    /// more where that is far below it.
    fn higher(&self, cost: f64, limit: f64) -> u32 {
        if self.share == 0 {
            return 1;
        }
        let floor = self.floor_core_permille;
        let of_share = cost - floor;
        let mut times = 1;
        while times < MOST_AT_ONCE && floor + of_share * f64::from(times * 2) < limit {
            times *= 2;
        }
        // The first doubling may cost all that is left; more have to leave room.
        if times > 2 {
            times /= 2;
        }
        self.share.saturating_mul(times).min(WHOLE)
    }

    /// A power of two that is lower by the factor that it costs too much, and at least by half.
    fn lower(&self, factor: f64) -> u32 {
        let mut share = self.share / 2;
        let mut made_up = 2.0;
        while made_up < factor && share > 0 {
            share /= 2;
            made_up *= 2.0;
        }
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// A host whose cost is the share's part of what following all would cost, and a little.
    fn run(governor: &mut Governor, from: u64, to: u64, whole: impl Fn(u64) -> f64) -> Vec<u32> {
        (from..to)
            .step_by(10)
            .map(|s| {
                let share = f64::from(governor.share()) / f64::from(WHOLE);
                governor.measured(seconds(s), whole(s) * share + 0.5);
                governor.share()
            })
            .collect()
    }

    #[test]
    fn within_the_budget_everything_is_followed() {
        let mut governor = Governor::new(50);
        assert!(
            run(&mut governor, 0, 1000, |_| 49.0)
                .iter()
                .all(|share| *share == WHOLE)
        );
    }

    #[test]
    fn the_cost_is_brought_under_the_limit_at_once_and_stays_there() {
        let mut governor = Governor::new(50);
        let shares = run(&mut governor, 0, 600, |_| 400.0);
        assert_eq!(shares[0], WHOLE / 16, "8.01 times too much");
        let too_much = shares.iter().filter(|share| **share > WHOLE / 8).count();
        assert!(too_much == 0, "{shares:?}");
    }

    #[test]
    fn when_the_load_is_gone_everything_is_followed_again() {
        let mut governor = Governor::new(50);
        run(&mut governor, 0, 100, |_| 400.0);
        assert!(governor.share() < WHOLE);
        run(&mut governor, 100, 1000, |_| 10.0);
        assert_eq!(governor.share(), WHOLE);
    }

    #[test]
    fn a_share_that_proves_too_much_again_and_again_is_tried_ever_more_seldom() {
        let mut governor = Governor::new(50);
        // Cheap while half is followed, dear when all are: the half does not tell.
        let mut tries = Vec::new();
        for s in (0..7200).step_by(10) {
            let cost = if governor.share() == WHOLE { 80.0 } else { 5.0 };
            if governor.measured(seconds(s), cost) == Some(WHOLE) {
                tries.push(s);
            }
        }
        let gaps: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.windows(2).all(|pair| pair[1] >= pair[0]), "{gaps:?}");
        assert!(gaps.last().is_some_and(|gap| *gap >= 600), "{gaps:?}");
        assert!(tries.len() < 20, "{tries:?}");
    }

    #[test]
    fn without_a_limit_everything_is_followed_whatever_it_costs() {
        let mut governor = Governor::new(50);
        run(&mut governor, 0, 100, |_| 400.0);
        governor.set_limit(0);
        assert_eq!(governor.measured(seconds(100), 1000.0), Some(WHOLE));
        assert_eq!(governor.measured(seconds(110), 1000.0), None);
    }

    #[test]
    fn what_could_not_be_put_in_force_is_wanted_again() {
        let mut governor = Governor::new(50);
        let lower = governor.measured(seconds(0), 400.0);
        assert!(lower.is_some());
        governor.not_taken(WHOLE);
        assert_eq!(governor.measured(seconds(10), 400.0), lower);
        governor.set_limit(0);
        assert_eq!(governor.measured(seconds(20), 0.0), Some(WHOLE));
        governor.not_taken(WHOLE / 8);
        assert_eq!(governor.measured(seconds(30), 0.0), Some(WHOLE));
    }

    /// What following nobody costs is more than half of the limit.
    #[test]
    fn a_limit_not_far_above_what_following_nobody_costs_is_used() {
        let mut governor = Governor::new(1);
        let cost = |share: u32| 11.0 + 512.0 * f64::from(share) / f64::from(WHOLE);
        let run = |governor: &mut Governor, from: u64, to: u64| {
            for s in (from..to).step_by(10) {
                governor.measured(seconds(s), cost(governor.share()));
            }
            governor.share()
        };
        assert_eq!(run(&mut governor, 0, 100), 0);
        governor.set_limit(20);
        let share = run(&mut governor, 100, 400);
        assert!(
            share > 0 && cost(share) <= 20.0 && cost(share * 4) > 20.0,
            "{share}"
        );
    }

    #[test]
    fn a_limit_that_nothing_keeps_leaves_out_every_session() {
        let mut governor = Governor::new(1);
        for s in (0..200).step_by(10) {
            governor.measured(seconds(s), 100.0);
        }
        assert_eq!(governor.share(), 0);
        // And lets them in again one by one.
        governor.measured(seconds(10_000), 0.1);
        assert_eq!(governor.share(), 1);
    }
}

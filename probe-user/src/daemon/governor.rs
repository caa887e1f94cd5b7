//! The governor: keeps what the kernel programs cost within the budget by following a share of the
//! sessions only. Pure: it is told what following a share costs.

use std::time::Duration;

use crate::kernel::WHOLE;

/// How long a share is held at the least before a larger one is tried.
const LEAST_HOLD: Duration = Duration::from_secs(30);
/// At the most, however often the larger one proved to be too much.
const MOST_HOLD: Duration = Duration::from_secs(600);

/// All sessions by callbacks: the largest share that is not the whole.
const NEARLY_WHOLE: u32 = WHOLE - 1;
/// What is aimed at, of the limit: on the way down, and on the way up. Between them a share stays as
/// it is.
const AIM_DOWN: f64 = 0.9;
const AIM_UP: f64 = 0.8;
/// A share that is not larger by this is not worth the change.
const LEAST_RISE: f64 = 1.25;
/// So many times the share at the most is tried next.
const MOST_AT_ONCE: f64 = 16.0;
/// Sessions of [`WHOLE`] that are tried first after none, where nothing is known of their cost.
const FIRST_SHARE: u32 = 16;
/// Following everything is taken for at most so many times as dear as following all by callbacks.
const MOST_FACTOR: f64 = 8.0;

/// What share of the sessions is followed, and why.
#[derive(Clone, Debug)]
pub(super) struct Governor {
    limit_core_permille: u32,
    share: u32,
    since: Duration,
    hold: Duration,
    /// When the share was last raised.
    raised: Option<Duration>,
    /// Of the share before this one, when it was last measured.
    before: Option<Sample>,
    /// What following nobody costs, as far as two shares have told.
    floor_core_permille: f64,
    /// What one of [`WHOLE`] sessions costs beside that; 0: nothing is known.
    slope_core_permille: f64,
    /// How many times as much as following all sessions by callbacks the whole costs.
    whole_factor: f64,
}

/// What following a share cost.
#[derive(Clone, Copy, Debug)]
struct Sample {
    share: u32,
    cost_core_permille: f64,
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
            before: None,
            floor_core_permille: 0.0,
            slope_core_permille: 0.0,
            whole_factor: 1.0,
        }
    }

    /// Thousandths of a core; 0: none.
    pub(super) fn limit_core_permille(&self) -> u32 {
        self.limit_core_permille
    }

    /// Another limit, from now on. Who asked for it waits: what it allows is not held back.
    pub(super) fn set_limit(&mut self, limit_core_permille: u32) {
        self.limit_core_permille = limit_core_permille;
        self.hold = Duration::ZERO;
    }

    /// Of [`WHOLE`] sessions.
    pub(super) fn share(&self) -> u32 {
        self.share
    }

    /// Takes note of what following the present share costs; returns the share to be followed from
    /// now on, if it is another. Time counts from anywhere.
    pub(super) fn measured(&mut self, now: Duration, cost_core_permille: f64) -> Option<u32> {
        let limit = f64::from(self.limit_core_permille);
        let sample = Sample {
            share: self.share,
            cost_core_permille,
        };
        self.learn(sample);
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
            self.lower(cost_core_permille, limit * AIM_DOWN)
        } else if now.saturating_sub(self.since) >= self.hold && self.share < WHOLE {
            let share = self.higher(now, cost_core_permille, limit * AIM_UP);
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
        self.before = Some(sample);
        self.share = share;
        self.since = now;
        Some(share)
    }

    /// The share could not be put in force: it is still the one before.
    pub(super) fn not_taken(&mut self, before: u32) {
        self.share = before;
        self.before = None;
    }

    /// Two shares, one measured soon after the other, tell what following nobody costs, and what one
    /// session adds to it.
    fn learn(&mut self, now: Sample) {
        let cost = now.cost_core_permille;
        if now.share == 0 {
            self.floor_core_permille = cost;
        }
        let Some(before) = self.before.take() else {
            // No share costs less than none, and the load may have changed.
            self.floor_core_permille = self.floor_core_permille.min(cost);
            return;
        };
        let shares = f64::from(before.share) - f64::from(now.share);
        let slope = (before.cost_core_permille - cost) / shares;
        if slope > 0.0 {
            self.floor_core_permille = (cost - slope * f64::from(now.share)).clamp(0.0, cost);
            self.slope_core_permille = (cost - self.floor_core_permille) / f64::from(now.share);
            if now.share == 0 {
                self.slope_core_permille = slope;
            }
        } else {
            self.floor_core_permille = self.floor_core_permille.min(cost);
        }
        if before.share == WHOLE && now.share != 0 {
            self.set_factor(before.cost_core_permille, self.all_by_callbacks(now));
        } else if now.share == WHOLE && before.share != 0 {
            self.set_factor(cost, self.all_by_callbacks(before));
        }
    }

    fn set_factor(&mut self, whole: f64, all_by_callbacks: f64) {
        if all_by_callbacks > 0.0 {
            self.whole_factor = (whole / all_by_callbacks).clamp(1.0, MOST_FACTOR);
        }
    }

    /// What following all sessions by callbacks would cost.
    fn all_by_callbacks(&self, sample: Sample) -> f64 {
        let floor = self.floor_core_permille.min(sample.cost_core_permille);
        let of_share = sample.cost_core_permille - floor;
        floor + of_share * f64::from(NEARLY_WHOLE) / f64::from(sample.share.max(1))
    }

    /// The share that costs as much as is aimed at; below the present one by a quarter at the least.
    fn lower(&self, cost: f64, aim: f64) -> u32 {
        let floor = self.floor_core_permille.min(cost);
        if aim <= floor {
            return 0;
        }
        let share = f64::from(self.share) * (aim - floor) / (cost - floor);
        whole_number(share.min(f64::from(self.share) * 0.75))
    }

    /// The share that costs as much as is aimed at, as far as the present one tells.
    fn higher(&mut self, now: Duration, cost: f64, aim: f64) -> u32 {
        let sample = Sample {
            share: self.share,
            cost_core_permille: cost,
        };
        if self.share == NEARLY_WHOLE {
            if cost * self.whole_factor <= aim {
                return WHOLE;
            }
            if now.saturating_sub(self.since) >= MOST_HOLD {
                // What was found out so long ago may not hold any more.
                self.whole_factor = (self.whole_factor / 2.0).max(1.0);
                self.since = now;
            }
            return self.share;
        }
        let share = if self.share == 0 {
            match self.slope_core_permille {
                0.0 if cost < aim => f64::from(FIRST_SHARE),
                0.0 => 0.0,
                slope => (aim - cost) / slope,
            }
        } else {
            let of_share = cost - self.floor_core_permille.min(cost);
            let most = f64::from(self.share) * MOST_AT_ONCE;
            if of_share > 0.0 {
                let times = (aim - self.floor_core_permille) / of_share;
                (f64::from(self.share) * times).min(most)
            } else {
                most
            }
        };
        if share < f64::from(NEARLY_WHOLE) {
            let is_worth_it = share >= f64::from(self.share) * LEAST_RISE;
            return if is_worth_it {
                whole_number(share)
            } else {
                self.share
            };
        }
        if self.share != 0 && self.all_by_callbacks(sample) * self.whole_factor <= aim {
            WHOLE
        } else {
            NEARLY_WHOLE
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is clamped to what a share can be"
)]
fn whole_number(share: f64) -> u32 {
    share.clamp(0.0, f64::from(WHOLE)) as u32
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
        let within = WHOLE / 10..=WHOLE / 8;
        assert!(within.contains(&shares[0]), "8 times too much: {shares:?}");
        assert!(
            shares.iter().all(|share| within.contains(share)),
            "{shares:?}"
        );
    }

    /// Sessions that are counted, and not followed, cost more than half of the limit.
    #[test]
    fn a_cost_that_is_not_the_shares_alone_is_brought_under_the_limit_in_two_steps() {
        let cost = |share: u32| 30.0 + 200.0 * f64::from(share) / f64::from(WHOLE);
        let mut governor = Governor::new(50);
        let mut costs = Vec::new();
        for s in 0..10 {
            governor.measured(seconds(s), cost(governor.share()));
            costs.push(cost(governor.share()));
        }
        assert!(costs[0] > 50.0, "{costs:?}");
        assert!(costs[1..].iter().all(|cost| *cost <= 50.0), "{costs:?}");
        assert!(governor.share() > WHOLE / 20, "{costs:?}");
    }

    /// A half of what the whole costs.
    #[test]
    fn what_callbacks_save_is_used_for_sessions_and_the_whole_is_not_tried_in_vain() {
        let cost = |share: u32| match share {
            WHOLE => 80.0,
            share => 2.0 + 38.0 * f64::from(share) / f64::from(WHOLE),
        };
        let mut governor = Governor::new(60);
        let mut shares = Vec::new();
        for s in (0..3600).step_by(10) {
            governor.measured(seconds(s), cost(governor.share()));
            shares.push(governor.share());
        }
        assert_eq!(shares[100], NEARLY_WHOLE, "{shares:?}");
        let whole = shares.iter().filter(|share| **share == WHOLE).count();
        assert!(whole <= 6, "once in ten minutes: {whole}");
        // Half of the load is gone.
        for s in (3600..4600).step_by(10) {
            governor.measured(seconds(s), cost(governor.share()) / 2.0);
        }
        assert_eq!(governor.share(), WHOLE);
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
        // And lets a few in again, when there is room.
        governor.measured(seconds(10_000), 0.1);
        assert_eq!(governor.share(), FIRST_SHARE);
    }
}

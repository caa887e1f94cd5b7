//! Flap damping, as RFC 2439 has it for routes: each change of direction costs, time forgives, and
//! who flaps too much stays where it is.

use serde::{Deserialize, Serialize};

use super::rules::SECOND_NS;

/// Of one change of direction.
pub const TRANSITION: f64 = 1000.0;
/// From here on nothing changes direction.
pub const SUPPRESS: f64 = 2500.0;
/// Down here it may again.
pub const REUSE: f64 = 750.0;
/// In so long half is forgiven.
pub const HALF_LIFE_NS: u64 = 15 * 60 * SECOND_NS;

/// More halvings leave nothing.
const MOST_CAUTION: u32 = 4;

/// A penalty that decays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Damping {
    penalty: f64,
    at_ns: u64,
    pub is_suppressed: bool,
}

impl Damping {
    /// What is not yet forgiven.
    pub fn penalty(&self, now_ns: u64) -> f64 {
        let age = now_ns.saturating_sub(self.at_ns) as f64 / HALF_LIFE_NS as f64;
        self.penalty * (-age).exp2()
    }

    /// A change of direction. Says whether it was the one too many.
    pub fn transition(&mut self, now_ns: u64) -> bool {
        self.penalty = self.penalty(now_ns) + TRANSITION;
        self.at_ns = self.at_ns.max(now_ns);
        let was = self.is_suppressed;
        self.is_suppressed |= self.penalty >= SUPPRESS;
        self.is_suppressed && !was
    }

    /// Says whether it may move again from now on.
    pub fn forgive(&mut self, now_ns: u64) -> bool {
        let is_reused = self.is_suppressed && self.penalty(now_ns) <= REUSE;
        if is_reused {
            self.is_suppressed = false;
        }
        is_reused
    }

    /// How many halvings of a step, and doublings of a dwell, the latest changes call for.
    pub fn caution(&self, now_ns: u64) -> u32 {
        let penalty = self.penalty(now_ns);
        let counts = |n: &u32| penalty >= f64::from(*n) * TRANSITION;
        (1..=MOST_CAUTION).take_while(counts).last().unwrap_or(0)
    }

    /// Nothing is remembered that matters.
    pub fn is_forgotten(&self, now_ns: u64) -> bool {
        !self.is_suppressed && self.penalty(now_ns) < 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_changes_at_once_suppress_and_half_an_hour_forgives() {
        let mut damping = Damping::default();
        let minute = 60 * SECOND_NS;
        assert!(!damping.transition(0));
        assert!(!damping.transition(minute));
        assert!(damping.transition(2 * minute));
        assert!(!damping.forgive(20 * minute));
        assert!(damping.forgive(32 * minute));
        assert!(!damping.is_suppressed);
    }

    #[test]
    fn a_clock_that_goes_back_forgives_nothing() {
        let mut damping = Damping::default();
        damping.transition(HALF_LIFE_NS);
        assert!((damping.penalty(0) - TRANSITION).abs() < 1e-9);
        assert!((damping.penalty(2 * HALF_LIFE_NS) - 500.0).abs() < 1e-9);
    }
}

//! Whether it helped: what was moved against what was not, before and after.
//!
//! The difference of differences takes away what changed for all (a goal was shot, a transit link
//! broke). Its bounds may be looked at all the time, so that what hurts is undone before the window
//! ends. There is no silent success: what cannot be shown is inconclusive.

mod sequence;

use serde::{Deserialize, Serialize};

pub use sequence::bounds;

use super::Scope;
use super::overrides::order::{Direction, Expect};
use super::policy::input::Hurt;

/// Chance that a verdict is wrong, at any of its looks.
pub const ALPHA: f64 = 0.05;
/// All four shares must be within their bounds.
const SHARES: f64 = 4.0;

/// Trials, and those that were bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub n: u64,
    pub bad: u64,
}

impl Count {
    fn add(&mut self, more: Self) {
        self.n = self.n.saturating_add(more.n);
        self.bad = self.bad.saturating_add(more.bad.min(more.n));
    }

    fn share(self) -> f64 {
        self.bad as f64 / self.n.max(1) as f64
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Helped,
    Hurt,
    /// Nothing is shown, either way.
    Inconclusive,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Helped => "helped",
            Self::Hurt => "hurt",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// A verdict with its statistics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The policy, or the order's id.
    pub by: String,
    pub scope: Scope,
    pub verdict: Verdict,
    /// How the share of bad changed with what was moved beyond how it changed with what was not.
    pub effect: f64,
    pub effect_low: f64,
    pub effect_high: f64,
    pub alpha: f64,
    pub moved_before: Count,
    pub moved_after: Count,
    pub control_before: Count,
    pub control_after: Count,
    pub window_s: u64,
}

impl Report {
    /// In one sentence.
    pub fn why(&self) -> String {
        format!(
            "{}: {:+.2} points [{:+.2}, {:+.2}] against control after {} s (moved {:.2} % of {} to \
             {:.2} % of {}, control {:.2} % of {} to {:.2} % of {})",
            self.verdict.as_str(),
            self.effect * 100.0,
            self.effect_low * 100.0,
            self.effect_high * 100.0,
            self.window_s,
            self.moved_before.share() * 100.0,
            self.moved_before.n,
            self.moved_after.share() * 100.0,
            self.moved_after.n,
            self.control_before.share() * 100.0,
            self.control_before.n,
            self.control_after.share() * 100.0,
            self.control_after.n,
        )
    }

    /// What the policy is told, if it hurt.
    pub fn hurt(&self) -> Option<Hurt> {
        (self.verdict == Verdict::Hurt).then(|| Hurt {
            by: self.by.clone(),
            scope: self.scope.clone(),
            why: self.why(),
        })
    }
}

/// One action's time to show that it helped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    by: String,
    scope: Scope,
    expect: Expect,
    begun_ns: u64,
    moved_before: Count,
    control_before: Count,
    moved_after: Count,
    control_after: Count,
    latest_ns: u64,
}

impl Window {
    /// Begins one; what was counted before the action is what it is held to.
    pub fn new(
        by: &str,
        scope: Scope,
        expect: Expect,
        moved_before: Count,
        control_before: Count,
        now_ns: u64,
    ) -> Self {
        Self {
            by: by.to_owned(),
            scope,
            expect,
            begun_ns: now_ns,
            moved_before,
            control_before,
            moved_after: Count::default(),
            control_after: Count::default(),
            latest_ns: now_ns,
        }
    }

    /// Takes in what was counted since the last time; the verdict, when there is one: at once if it
    /// hurts, else at the window's end.
    pub fn saw(&mut self, moved: Count, control: Count, now_ns: u64) -> Option<Report> {
        self.latest_ns = self.latest_ns.max(now_ns);
        self.moved_after.add(moved);
        self.control_after.add(control);
        let report = self.report();
        let is_over = self.latest_ns.saturating_sub(self.begun_ns)
            >= u64::from(self.expect.window_s) * 1_000_000_000;
        (is_over || report.verdict == Verdict::Hurt).then_some(report)
    }

    /// What can be said now.
    pub fn report(&self) -> Report {
        let all = [
            self.moved_before,
            self.moved_after,
            self.control_before,
            self.control_after,
        ];
        let [moved_before, moved_after, control_before, control_after] =
            all.map(|count| bounds(count.n, count.bad, ALPHA / SHARES));
        let effect_low = moved_after.0 - moved_before.1 - (control_after.1 - control_before.0);
        let effect_high = moved_after.1 - moved_before.0 - (control_after.0 - control_before.1);
        let effect = self.moved_after.share()
            - self.moved_before.share()
            - (self.control_after.share() - self.control_before.share());
        // Towards what is wanted is negative.
        let (low, point, high) = match self.expect.direction {
            Direction::Falls => (effect_low, effect, effect_high),
            Direction::Rises => (-effect_high, -effect, -effect_low),
        };
        let wanted = -f64::from(self.expect.min_effect_permille) / 1000.0;
        let is_enough = all.iter().all(|count| count.n >= self.expect.min_n.max(1));
        let verdict = if !is_enough {
            Verdict::Inconclusive
        } else if low > 0.0 {
            Verdict::Hurt
        } else if high < 0.0 && point <= wanted {
            Verdict::Helped
        } else {
            Verdict::Inconclusive
        };
        Report {
            by: self.by.clone(),
            scope: self.scope.clone(),
            verdict,
            effect,
            effect_low,
            effect_high,
            alpha: ALPHA,
            moved_before: self.moved_before,
            moved_after: self.moved_after,
            control_before: self.control_before,
            control_after: self.control_after,
            window_s: self.latest_ns.saturating_sub(self.begun_ns) / 1_000_000_000,
        }
    }
}

#[cfg(test)]
mod tests;

//! What was decided, in words and numbers that a human can check.

use serde::{Deserialize, Serialize};

use super::input::Seen;
use super::rules::Metric;
use crate::steer::Scope;

/// What kind of decision it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Traffic is turned away.
    TurnAway,
    /// Traffic is taken back.
    TakeBack,
    /// All is taken back, because it hurt.
    Undo,
    /// The numbers are too old or too few: nothing moves.
    Freeze,
    /// They have been so for long: back to neutral, slowly.
    Drift,
    /// Too many changes of direction: it stays, and a human is asked.
    Suppress,
    /// It may move again.
    Reuse,
    /// An invariant holds a gate where it is not wanted.
    Bound,
    /// All automation off, all neutral.
    Panic,
    /// The end of it.
    Resume,
    /// An order ended by itself.
    Expire,
}

/// What should come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    pub metric: Metric,
    /// It should be at or below this.
    pub to_ppm: u32,
    /// After so long, which is when its effect can be seen.
    pub within_s: u32,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `d` and a number that grows.
    pub id: String,
    pub boot_ns: u64,
    pub kind: Kind,
    /// Whose: a policy's, or an order's id.
    pub by: String,
    /// [`super::POLICY_VERSION`] of the code that decided.
    pub version: u32,
    pub scope: Scope,
    /// Where it stood and where it goes, in thousandths.
    pub from_permille: u16,
    pub to_permille: u16,
    /// What was seen.
    pub seen: Option<Seen>,
    /// One sentence.
    pub reason: String,
    pub expected: Option<Expected>,
    /// Whether anything moves; otherwise it is advice.
    pub acts: bool,
    /// Whether a human should look now.
    pub asks_human: bool,
}

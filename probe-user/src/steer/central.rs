//! What the centre orders of many hosts: plain values, as its journal keeps them.

use serde::{Deserialize, Serialize};

use super::overrides::{Auth, Order};

/// An order that moves a share of a region's traffic to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub id: String,
    pub from: String,
    pub to: String,
    /// Of the traffic of each host in `from`, turned away.
    pub permille: u16,
    pub actor: String,
    pub auth: Auth,
    pub second: Option<Auth>,
    pub reason: String,
    pub created_unix_ns: u64,
    pub ttl_s: u32,
    /// From a step to its full effect in the numbers.
    pub dead_time_s: u32,
    /// Also where it is not known whether the targets can take it.
    pub is_break_glass: bool,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// A second person must agree.
    WaitsForSecond,
    /// Those of the stages so far have moved: 0 is one host.
    Moving { stage: usize },
    /// All have.
    Moved,
    /// No further, for a human to decide; what has moved stays.
    Stopped { stage: usize, why: String },
    /// Nothing of it is left.
    Undone { why: String },
}

impl Phase {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::WaitsForSecond => "waits for a second person",
            Self::Moving { .. } => "moving",
            Self::Moved => "moved",
            Self::Stopped { .. } => "stopped",
            Self::Undone { .. } => "undone",
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self, Self::Undone { .. })
    }

    pub fn why(&self) -> &str {
        match self {
            Self::Stopped { why, .. } | Self::Undone { why } => why,
            _ => "",
        }
    }
}

/// What must be known of it after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub plan: Plan,
    pub phase: Phase,
    /// The host that goes first.
    pub canary: String,
}

/// What a collector writes down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Central {
    /// An order is about to be sent to so many hosts.
    Ordered {
        at: String,
        hosts: u32,
        order: Order,
    },
    /// All of them have answered, or never will.
    Answered {
        order: String,
        taken: u32,
        refused: u32,
        /// Some of those that refused it, and why.
        refusals: Vec<(String, String)>,
    },
    /// A rebalance was ordered, or has come further.
    Rebalance(Kept),
}

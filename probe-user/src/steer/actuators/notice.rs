//! What commands, URLs and files are told: the position, and until when it holds.

use serde::{Deserialize, Serialize};

use super::settings::Serves;
use super::{Lease, clock};
use crate::steer::{Position, Setting};

/// Of what is told. It grows when a field changes its meaning, not when one is added.
pub const VERSION: u32 = 1;

/// Why it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It was decided or ordered.
    Turned,
    /// The same position holds for longer.
    Renewed,
    /// Back to neutral, by decision or order.
    Released,
    /// Back to neutral: nobody renewed the lease.
    LeaseOver,
    /// Back to neutral: the process that held it ended.
    HolderGone,
}

/// As it is told, in JSON. Times are in milliseconds, which every reader's numbers hold exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub version: u32,
    /// The gate's name.
    pub gate: String,
    pub cause: Cause,
    /// Of two notices the one with the higher generation holds; of the same generation, the one with
    /// the higher sequence.
    pub generation: u64,
    /// Counts what is told of one generation.
    pub sequence: u32,
    /// The decision behind it, as the journal names it.
    pub decision: String,
    pub is_neutral: bool,
    /// What is left to the traffic that the gate serves.
    pub weight_permille: u16,
    /// The whole position.
    pub settings: Vec<Setting>,
    pub issued_unix_ms: u64,
    /// From then on it is neutral, whatever else is said here.
    pub until_unix_ms: u64,
    /// The same on `CLOCK_BOOTTIME`, which cannot be set, of the boot named.
    pub until_boot_ms: u64,
    pub boot_id: String,
}

/// The last sequence number of a generation: what ends it.
const LAST: u32 = u32::MAX;

impl Notice {
    pub fn of(
        gate: &str,
        serves: &Serves,
        position: &Position,
        lease: Lease,
        cause: Cause,
        sequence: u32,
    ) -> Self {
        let (boot_ns, unix_ns) = (clock::boot_ns(), clock::unix_ns());
        let left_ns = lease.until_boot_ns.saturating_sub(boot_ns);
        Self {
            version: VERSION,
            gate: gate.to_owned(),
            cause,
            generation: position.generation,
            sequence: sequence.min(LAST - 1),
            decision: position.decision.clone(),
            is_neutral: position.is_neutral(),
            weight_permille: serves.weight_permille(position),
            settings: position.settings.clone(),
            issued_unix_ms: unix_ns / 1_000_000,
            until_unix_ms: unix_ns.saturating_add(left_ns) / 1_000_000,
            until_boot_ms: lease.until_boot_ns / 1_000_000,
            boot_id: clock::boot_id(),
        }
    }

    /// What ends a generation: neutral, and newer than all else that is told of it.
    pub fn neutral(gate: &str, generation: u64, decision: &str, cause: Cause) -> Self {
        let position = Position {
            generation,
            decision: decision.to_owned(),
            settings: Vec::new(),
        };
        let over = Lease { until_boot_ns: 0 };
        Self {
            sequence: LAST,
            ..Self::of(gate, &Serves::Host, &position, over, cause, LAST)
        }
    }

    /// What no other notice has: a receiver that hears one twice can tell.
    pub fn key(&self) -> String {
        format!("{}-{}-{}", self.gate, self.generation, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::Scope;

    #[test]
    fn what_ends_a_generation_is_newer_than_all_that_was_told_of_it() {
        let position = Position {
            generation: 7,
            decision: "d3".to_owned(),
            settings: vec![Setting {
                scope: Scope::Host,
                weight_permille: 250,
                cap_bps: None,
            }],
        };
        let lease = Lease {
            until_boot_ns: clock::boot_ns() + 5_000_000_000,
        };
        let told = Notice::of("g", &Serves::Host, &position, lease, Cause::Turned, LAST);
        let end = Notice::neutral("g", 7, "d3", Cause::LeaseOver);
        assert!(!told.is_neutral && told.weight_permille == 250);
        assert!(end.is_neutral && end.weight_permille == 1000 && end.settings.is_empty());
        assert!((end.generation, end.sequence) > (told.generation, told.sequence));
        assert_ne!(end.key(), told.key());
        let left_ms = told.until_unix_ms - told.issued_unix_ms;
        assert!((4_900..=5_000).contains(&left_ms), "{left_ms}");
        let json = serde_json::to_value(&told).unwrap();
        assert_eq!(json["cause"], "turned");
        assert_eq!(json["settings"][0]["scope"], "host");
    }
}

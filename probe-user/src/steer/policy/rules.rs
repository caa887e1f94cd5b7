//! What an operator allows automation to do: policies, and bounds that none of them crosses.
//!
//! Read from `[steer]` of the configuration, which checks each value and names it.

use serde::{Deserialize, Serialize};

use crate::qoe::blame::Part;

/// A second.
pub const SECOND_NS: u64 = 1_000_000_000;
/// Least time between the end of one step and the next one the other way.
pub const DWELL_S: u32 = 60;
/// From a step to its full effect in the numbers, unless a policy says otherwise: telemetry, and
/// load balancers that ask every few seconds.
pub const DEAD_TIME_S: u32 = 12;
/// What one step moves.
pub const STEP_PERMILLE: u32 = 100;
/// Automation leaves a scope so much of its traffic.
pub const FLOOR_PERMILLE: u32 = 500;

/// Everything that bounds automation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Whether armed policies move anything; otherwise all that is decided is advice.
    pub is_armed: bool,
    pub policies: Vec<Policy>,
    pub bounds: Bounds,
}

/// What holds for every policy and, but for break-glass, for every human.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Of the pool's capacity; turning away stops where less would be left healthy and taking.
    pub min_healthy_permille: u32,
    /// At most so much of a scope is turned away, by anybody.
    pub max_drain_permille: u32,
    /// Automation never turns these away, so that there is something to compare with.
    pub control_permille: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            min_healthy_permille: 700,
            max_drain_permille: 1000,
            control_permille: 30,
        }
    }
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Late deliveries, of deliveries.
    LateDeliveryShare,
    /// Time stood still, of time watched.
    RebufferRatio,
    /// Failed starts, of attempts.
    StartFailureShare,
    /// Viewers about to stand still, of those active.
    SessionsAtRiskShare,
    /// Segments sent again, of segments.
    RetransmitRatio,
}

impl Metric {
    pub const ALL: [Self; 5] = [
        Self::LateDeliveryShare,
        Self::RebufferRatio,
        Self::StartFailureShare,
        Self::SessionsAtRiskShare,
        Self::RetransmitRatio,
    ];

    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LateDeliveryShare => "late_delivery_share",
            Self::RebufferRatio => "rebuffer_ratio",
            Self::StartFailureShare => "start_failure_share",
            Self::SessionsAtRiskShare => "sessions_at_risk_share",
            Self::RetransmitRatio => "retransmit_ratio",
        }
    }
}

/// Which cells; what is none matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    pub service: Option<String>,
    pub class: Option<String>,
    pub network: Option<String>,
}

/// What a policy turns when its cells fare badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moves {
    /// The whole host.
    Host,
    /// The service of the cells, each for itself.
    Service,
    /// Each cell for itself.
    Cell,
}

impl Moves {
    pub const ALL: [Self; 3] = [Self::Host, Self::Service, Self::Cell];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Service => "service",
            Self::Cell => "cell",
        }
    }
}

/// One `[[steer.policy]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub name: String,
    pub is_armed: bool,
    pub selector: Selector,
    pub moves: Moves,
    pub metric: Metric,
    /// From here on traffic is turned away.
    pub enter_permille: u32,
    /// From here down it is taken back. Between the two nothing moves.
    pub exit_permille: u32,
    /// Fewer trials are no evidence.
    pub min_n: u64,
    pub dwell_s: u32,
    /// From a step to its full effect in the numbers: telemetry, time to live, stickiness.
    pub dead_time_s: u32,
    /// The fastest change of weight. None: the most that `dead_time_s` allows.
    pub ramp_ppm_per_s: Option<u32>,
    /// What one step moves; the next one waits until its effect can be seen.
    pub step_permille: u32,
    /// A scope keeps so much of its traffic.
    pub floor_permille: u32,
    /// While turned: the highest bitrate of a session.
    pub cap_kbps: Option<u32>,
    /// Faults for which this host is answerable; empty: whosever fault it is.
    pub blame: Vec<OwnFault>,
    /// Traffic is taken back only if so much of the host's capacity is free.
    pub headroom_permille: u32,
}

impl Policy {
    /// With the defaults of everything that a policy need not say.
    pub fn new(name: &str, metric: Metric, enter_permille: u32, exit_permille: u32) -> Self {
        Self {
            name: name.to_owned(),
            is_armed: false,
            selector: Selector::default(),
            moves: Moves::Service,
            metric,
            enter_permille,
            exit_permille,
            min_n: 100,
            dwell_s: DWELL_S,
            dead_time_s: DEAD_TIME_S,
            ramp_ppm_per_s: None,
            step_permille: STEP_PERMILLE,
            floor_permille: FLOOR_PERMILLE,
            cap_kbps: None,
            blame: OwnFault::ALL.to_vec(),
            headroom_permille: 200,
        }
    }

    /// The fastest change of weight that is used.
    pub fn ramp_ppm_per_s(&self) -> u32 {
        let most = fastest_ppm_per_s(self.dead_time_s);
        self.ramp_ppm_per_s.map_or(most, |ramp| ramp.min(most))
    }
}

/// Steering is an integrator with a dead time D: it does not overshoot as long as its gain times D
/// is at most 1/e (Ziegler and Nichols' plant; e.g. Åström and Hägglund, "Advanced PID Control",
/// 2006, chapter 2). So at most 1/(e D) of the traffic moves in a second: 3 % at 12 s.
pub fn fastest_ppm_per_s(dead_time_s: u32) -> u32 {
    // A million over e.
    367_879 / dead_time_s.max(1)
}

/// A part of the way that is this host's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnFault {
    /// Answers wait before their first byte.
    Think,
    /// Answers stop in the middle: disk, CPU.
    ApplicationWrite,
    /// The host paces its answers.
    Pacing,
}

impl OwnFault {
    pub const ALL: [Self; 3] = [Self::Think, Self::ApplicationWrite, Self::Pacing];

    /// As [`Part`] is written.
    pub fn as_str(self) -> &'static str {
        self.part().as_str()
    }

    pub fn part(self) -> Part {
        match self {
            Self::Think => Part::Think,
            Self::ApplicationWrite => Part::ApplicationWrite,
            Self::Pacing => Part::Pacing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_ramp_is_the_one_that_does_not_overshoot() {
        assert_eq!(fastest_ppm_per_s(12), 30_656);
        assert_eq!(fastest_ppm_per_s(300), 1_226);
        let mut policy = Policy::new("p", Metric::RebufferRatio, 15, 7);
        policy.ramp_ppm_per_s = Some(1_000_000);
        assert_eq!(policy.ramp_ppm_per_s(), 30_656);
        policy.ramp_ppm_per_s = Some(5);
        assert_eq!(policy.ramp_ppm_per_s(), 5);
    }
}

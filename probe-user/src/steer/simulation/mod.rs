//! `weir steer simulate`: a fleet in a closed loop, with this policy, with a naive one and with none.
//!
//! Each host decides by [`super::policy::decide`] itself, as the daemon does; load, faults and the
//! time until a decision is felt are made up, from a seed. What it is for: to see what a dead time, a
//! step of load, a regional fault, numbers that stop and a host that lies make of a policy, before
//! an operator arms it.

mod fleet;
mod measure;
mod pilot;

use std::str::FromStr;

use serde::Serialize;

/// What happens, after two quiet minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scene {
    /// Load rises from 60 % to 80 % of what the fleet can take, and an eighth of the hosts is
    /// weaker than the balancer knows.
    Step,
    /// Half of the fleet loses its transit: late, and nobody's fault there.
    Regional,
    /// Half of the fleet gets a bad release: late, and each host's own fault.
    Release,
    /// As the step; after a third of the time load and hosts are as before.
    Heal,
    /// As the step; in its midst the numbers stop for a minute, and later for ten.
    Stale,
    /// One host says that it is very late by its own fault, and is well.
    Liar,
}

impl Scene {
    pub const ALL: [Self; 6] = [
        Self::Step,
        Self::Heal,
        Self::Regional,
        Self::Release,
        Self::Stale,
        Self::Liar,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Heal => "heal",
            Self::Regional => "regional",
            Self::Release => "release",
            Self::Stale => "stale",
            Self::Liar => "liar",
        }
    }
}

impl FromStr for Scene {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|scene| scene.as_str() == text);
        found.ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|scene| scene.as_str()).collect();
            format!("no such scene; there are {}", known.join(", "))
        })
    }
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pilot {
    /// Nobody: what happens without steering.
    None,
    /// Drains above the threshold and takes back below it, every five seconds.
    Naive,
    Weir,
}

impl Pilot {
    pub const ALL: [Self; 3] = [Self::None, Self::Naive, Self::Weir];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Naive => "naive",
            Self::Weir => "weir",
        }
    }
}

/// What to play.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub hosts: usize,
    /// From a decision to when it is felt in the numbers.
    pub dead_time_s: u32,
    pub duration_s: u32,
    pub seed: u64,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub scene: Scene,
    pub dead_time_s: u32,
    pub pilot: Pilot,
    /// The largest swing of any host's weight in the last third, in percent of its traffic.
    pub amplitude_percent: f64,
    /// From the fault until every host stays within 6 % of where it ends; none: it does not.
    pub settling_s: Option<u32>,
    /// Traffic that changed its host, in percent of the fleet's at one moment.
    pub moved_percent: f64,
    /// Changes of direction, of all hosts.
    pub reversals: u32,
    /// Since the fault, of all deliveries.
    pub late_percent: f64,
    /// The same of the last third.
    pub late_end_percent: f64,
    /// The lowest that any host was at.
    pub lowest_percent: f64,
    /// The lowest at the end.
    pub end_percent: f64,
    /// Decisions that asked for a human.
    pub asked_human: u32,
}

/// Plays one scene with one pilot; the same options give the same report.
pub fn simulate(scene: Scene, pilot: Pilot, options: &Options) -> Report {
    let mut fleet = fleet::Fleet::new(scene, options);
    let mut pilots = pilot::Pilots::new(pilot, options);
    let mut measured = measure::Measured::new(options);
    while !fleet.is_over() {
        let seen = fleet.tick();
        let weights = pilots.decide(&seen);
        measured.saw(&fleet, &weights);
        fleet.steer(weights);
    }
    measured.report(scene, pilot, options, pilots.asked_human())
}

#[cfg(test)]
mod tests;

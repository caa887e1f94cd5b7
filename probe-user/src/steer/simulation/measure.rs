//! What a run was like.

use super::fleet::{FAULT_S, Fleet, TICK_S};
use super::{Options, Pilot, Report, Scene};

/// How near to its end a weight is settled: more than the smallest step.
const SETTLED: f64 = 0.06;

#[derive(Debug, Default)]
pub(super) struct Measured {
    end_s: u32,
    /// Of each tick since the fault.
    weights: Vec<Vec<f64>>,
    /// Of the fleet's load, in the tick before.
    shares: Vec<f64>,
    moved: f64,
    late: f64,
    all: f64,
    late_end: f64,
    all_end: f64,
}

impl Measured {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            end_s: options.duration_s - options.duration_s.saturating_sub(FAULT_S) / 3,
            ..Self::default()
        }
    }

    pub(super) fn saw(&mut self, fleet: &Fleet, weights: &[f64]) {
        let demand = fleet.demand();
        let shares = fleet.loads.iter().map(|load| load / demand).collect();
        let before = std::mem::replace(&mut self.shares, shares);
        if fleet.now_s() <= FAULT_S {
            return;
        }
        let changes = before.iter().zip(&self.shares).map(|(a, b)| (a - b).abs());
        self.moved += changes.sum::<f64>() / 2.0;
        let late: f64 = fleet
            .loads
            .iter()
            .zip(&fleet.lates)
            .map(|(load, late)| load * late)
            .sum();
        self.late += late;
        self.all += demand;
        if fleet.now_s() > self.end_s {
            self.late_end += late;
            self.all_end += demand;
        }
        self.weights.push(weights.to_vec());
    }

    pub(super) fn report(
        &self,
        scene: Scene,
        pilot: Pilot,
        options: &Options,
        asked_human: u32,
    ) -> Report {
        let hosts = options.hosts;
        let end = self.weights.len() - self.weights.len() / 3;
        let of = |host: usize, from: usize| self.weights[from..].iter().map(move |all| all[host]);
        let swing = |host| {
            let (low, high) = of(host, end).fold((f64::MAX, f64::MIN), |(low, high), own| {
                (low.min(own), high.max(own))
            });
            high - low
        };
        let amplitude = (0..hosts).map(swing).fold(0.0, f64::max);
        let reversals = (0..hosts).map(|host| reversals(of(host, 0))).sum();
        let lowest = self.weights.iter().flatten().copied().fold(1.0, f64::min);
        let last = self.weights.last().into_iter().flatten();
        let end_lowest = last.copied().fold(1.0, f64::min);
        Report {
            scene,
            dead_time_s: options.dead_time_s,
            pilot,
            amplitude_percent: amplitude * 100.0,
            settling_s: self.settling_s(),
            moved_percent: self.moved * 100.0,
            reversals,
            late_percent: self.late / self.all.max(f64::MIN_POSITIVE) * 100.0,
            late_end_percent: self.late_end / self.all_end.max(f64::MIN_POSITIVE) * 100.0,
            lowest_percent: lowest * 100.0,
            end_percent: end_lowest * 100.0,
            asked_human,
        }
    }

    /// The last tick at which some host was not yet where it ends; none: in the last tenth.
    fn settling_s(&self) -> Option<u32> {
        let last = self.weights.last()?;
        let is_away = |all: &Vec<f64>| {
            all.iter()
                .zip(last)
                .any(|(own, end)| (own - end).abs() > SETTLED)
        };
        let ticks = self
            .weights
            .iter()
            .rposition(is_away)
            .map_or(0, |at| at + 1);
        let is_settled = ticks * 10 < self.weights.len() * 9;
        is_settled.then(|| {
            u32::try_from(ticks)
                .unwrap_or(u32::MAX)
                .saturating_mul(TICK_S)
        })
    }
}

/// Changes of direction of a weight.
fn reversals(weights: impl Iterator<Item = f64>) -> u32 {
    let mut was = 1.0;
    let mut is_falling = None;
    let mut reversals = 0;
    for weight in weights {
        if (weight - was).abs() > f64::EPSILON {
            let falls = weight < was;
            reversals += u32::from(is_falling.is_some_and(|before| before != falls));
            is_falling = Some(falls);
            was = weight;
        }
    }
    reversals
}

/// A number that is whole already, not negative and far below 2^52.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole, not negative and small, as its doc asks"
)]
pub(super) fn whole(number: f64) -> u64 {
    number as u64
}

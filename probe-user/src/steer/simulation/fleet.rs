//! The fleet: load, faults, and what the hosts measure of it.

use std::collections::VecDeque;

use fastrand::Rng;

use super::{Options, Scene};

/// Between two decisions. Numbers are fresh for 3 s.
pub(super) const TICK_S: u32 = 2;
/// The fault comes then.
pub(super) const FAULT_S: u32 = 120;
/// Deliveries that a host at its capacity makes in a tick.
const DELIVERIES: f64 = 4000.0;
/// Of what a host can take: below, nothing is late but the usual.
const KNEE: f64 = 0.95;
const USUAL_LATE: f64 = 0.002;
/// Late beyond the knee, per unit of load above it.
const STEEPNESS: f64 = 0.5;

/// What a host measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) at_s: u32,
    pub(super) n: u64,
    pub(super) late: f64,
    pub(super) is_own_fault: bool,
}

/// What the pilots are shown in a tick.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) now_s: u32,
    pub(super) hosts: Vec<Seen>,
}

pub(super) struct Fleet {
    scene: Scene,
    options: Options,
    rng: Rng,
    /// What a weak host can take.
    weakness: Vec<f64>,
    now_s: u32,
    /// By tick, the oldest first; the first is what is felt now.
    on_the_way: VecDeque<Vec<f64>>,
    shown: Vec<Seen>,
    /// As it really is.
    pub(super) loads: Vec<f64>,
    pub(super) lates: Vec<f64>,
}

impl Fleet {
    pub(super) fn new(scene: Scene, options: &Options) -> Self {
        let neutral = vec![1.0; options.hosts];
        let ticks = (options.dead_time_s / TICK_S).max(1) as usize;
        let mut rng = Rng::with_seed(options.seed);
        Self {
            scene,
            options: *options,
            weakness: (0..options.hosts).map(|_| 0.55 + rng.f64() * 0.1).collect(),
            rng,
            now_s: 0,
            on_the_way: vec![neutral; ticks].into(),
            shown: Vec::new(),
            loads: Vec::new(),
            lates: Vec::new(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.now_s >= self.options.duration_s
    }

    pub(super) fn now_s(&self) -> u32 {
        self.now_s
    }

    fn has_fault(&self) -> bool {
        self.now_s >= FAULT_S
    }

    fn is_healed(&self) -> bool {
        self.scene == Scene::Heal && self.now_s >= self.options.duration_s / 3
    }

    /// Of all hosts, in capacities of a host.
    pub(super) fn demand(&self) -> f64 {
        let is_step = matches!(self.scene, Scene::Step | Scene::Stale | Scene::Heal)
            && self.has_fault()
            && !self.is_healed();
        self.options.hosts as f64 * if is_step { 0.8 } else { 0.6 }
    }

    fn capacity(&self, host: usize) -> f64 {
        let is_weak = matches!(self.scene, Scene::Step | Scene::Stale | Scene::Heal)
            && host.is_multiple_of(8);
        let is_weak_now = is_weak && self.has_fault() && !self.is_healed();
        if is_weak_now {
            self.weakness[host]
        } else {
            1.0
        }
    }

    /// Late beyond what load makes, and whether it is the host's own fault.
    fn fault(&self, host: usize) -> (f64, bool) {
        let is_half = host.is_multiple_of(2) && self.has_fault();
        match self.scene {
            Scene::Regional if is_half => (0.2, false),
            Scene::Release if is_half => (0.1, true),
            _ => (0.0, true),
        }
    }

    /// Time goes on by a tick; what each host measured, as far as it tells.
    pub(super) fn tick(&mut self) -> Shown {
        self.now_s += TICK_S;
        let felt = self.on_the_way.front().cloned().unwrap_or_default();
        let all: f64 = felt.iter().sum();
        let demand = self.demand();
        // Where all are drained the balancer takes all.
        let share = |own: f64| {
            if all > 0.0 {
                own / all
            } else {
                1.0 / felt.len() as f64
            }
        };
        self.loads = felt.iter().map(|own| demand * share(*own)).collect();
        self.lates = (0..felt.len())
            .map(|host| {
                let used = self.loads[host] / self.capacity(host);
                let over = (used - KNEE).max(0.0);
                (USUAL_LATE + STEEPNESS * over + self.fault(host).0).min(0.9)
            })
            .collect();
        let seen: Vec<_> = (0..felt.len()).map(|host| self.measure(host)).collect();
        let is_silent = self.scene == Scene::Stale
            && ((FAULT_S + 60..FAULT_S + 120).contains(&self.now_s)
                || (FAULT_S + 600..FAULT_S + 1200).contains(&self.now_s));
        if !is_silent || self.shown.is_empty() {
            self.shown = seen;
        }
        Shown {
            now_s: self.now_s,
            hosts: self.shown.clone(),
        }
    }

    fn measure(&mut self, host: usize) -> Seen {
        let n = (self.loads[host] * DELIVERIES).max(0.0);
        let mut late = self.lates[host];
        if self.scene == Scene::Liar && host == 0 && self.has_fault() {
            late = 0.3;
        }
        // A sum of uniform numbers is nearly normal, and the same on every machine.
        let normal = (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0;
        let deviation = (late * (1.0 - late) / n.max(1.0)).sqrt();
        let rounded = n.round();
        Seen {
            at_s: self.now_s,
            // Never negative, and far below 2^52.
            n: super::measure::whole(rounded),
            late: (late + normal * deviation).clamp(0.0, 1.0),
            is_own_fault: self.fault(host).1,
        }
    }

    /// What was decided; it is felt after the dead time.
    pub(super) fn steer(&mut self, weights: Vec<f64>) {
        self.on_the_way.push_back(weights);
        self.on_the_way.pop_front();
    }
}

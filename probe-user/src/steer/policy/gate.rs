//! One policy's hold of one scope: when it turns traffic away, by how much, and when it takes it
//! back.
//!
//! It goes by steps: turn a little away, wait until that can be seen in the numbers, look again. So
//! no more than a step is ever under way unseen, which is what makes an integrator behind a dead
//! time swing. Each change of direction halves the steps and doubles the wait before the next.

use serde::{Deserialize, Serialize};

use super::damping::Damping;
use super::decision::{Expected, Kind};
use super::input::{Capacity, Pool, Seen};
use super::invariants::{
    DEADBAND_PPM, DRIFT_PPM_PER_S, Staleness, bounded_step, flap_damping, maximum_rate, staleness,
};
use super::rules::{Policy, SECOND_NS};
use crate::qoe::blame::WHOLE_PPM;
use crate::steer::Scope;

/// What hurt is not tried again for so long.
pub const HURT_COOL_DOWN_NS: u64 = 30 * 60 * SECOND_NS;

/// From a minute to half an hour, from a dead time of five minutes to less than three hours.
const MOST_DOUBLINGS: u32 = 5;

/// Where a gate is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Neutral.
    Rest,
    TurningAway,
    TakingBack,
    /// What was done is undone, in one go.
    Undoing,
}

/// Why automation may not go on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grip {
    /// It may.
    Free,
    /// It stays where it is: held or pinned.
    Still,
    /// A human set the weight: it begins anew afterwards.
    LetGo,
}

/// What a step of a gate depends on.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    pub now_ns: u64,
    pub dt_ns: u64,
    pub grip: Grip,
    /// Whether it moves anything; otherwise it only says what it would do.
    pub acts: bool,
    pub capacity: Option<&'a Capacity>,
    pub pool: Option<&'a Pool>,
}

/// What is to be told of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub kind: Kind,
    pub from_ppm: u32,
    pub to_ppm: u32,
    pub reason: String,
    pub expected: Option<Expected>,
    pub asks_human: bool,
}

/// One policy's hold of one scope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub policy: String,
    pub scope: Scope,
    pub phase: Phase,
    /// Where automation has it, and where it goes.
    pub weight_ppm: u32,
    pub target_ppm: u32,
    /// The fastest that it goes.
    pub ramp_ppm_per_s: u32,
    /// While turned: the highest bitrate of a session.
    pub cap_bps: Option<u64>,
    pub damping: Damping,
    /// The decision behind it.
    pub decision: String,
    staleness: Staleness,
    /// The latest usable numbers are of then.
    fresh_ns: u64,
    /// The weight changed last, or the direction did.
    moved_ns: u64,
    turned_ns: u64,
    /// At or below the exit since then.
    calm_ns: Option<u64>,
    /// Not before then.
    not_before_ns: u64,
    /// Where it was calm before the latest step back, and how many of those steps had to be undone
    /// since it was neutral.
    calm_ppm: u32,
    failed: u32,
}

impl Gate {
    pub fn new(policy: &Policy, scope: Scope) -> Self {
        Self {
            policy: policy.name.clone(),
            scope,
            phase: Phase::Rest,
            weight_ppm: WHOLE_PPM,
            target_ppm: WHOLE_PPM,
            ramp_ppm_per_s: policy.ramp_ppm_per_s(),
            cap_bps: None,
            damping: Damping::default(),
            decision: String::new(),
            staleness: Staleness::Fresh,
            fresh_ns: 0,
            moved_ns: 0,
            turned_ns: 0,
            calm_ns: None,
            not_before_ns: 0,
            calm_ppm: WHOLE_PPM,
            failed: 0,
        }
    }

    /// Whether forgetting it would change nothing.
    pub fn is_idle(&self, now_ns: u64) -> bool {
        self.phase == Phase::Rest
            && self.weight_ppm == WHOLE_PPM
            && self.damping.is_forgotten(now_ns)
            && now_ns >= self.not_before_ns
    }

    /// Back to where nothing was done; how much it flapped stays known.
    pub fn let_go(&mut self) {
        self.phase = Phase::Rest;
        self.weight_ppm = WHOLE_PPM;
        self.target_ppm = WHOLE_PPM;
        self.cap_bps = None;
        self.calm_ns = None;
        self.staleness = Staleness::Fresh;
        self.failed = 0;
    }

    /// What an invariant kept it from: it does not go on wanting it.
    pub fn bound_at(&mut self, weight_ppm: u32) {
        self.weight_ppm = self.weight_ppm.max(weight_ppm);
        self.target_ppm = self.target_ppm.max(weight_ppm);
    }

    /// What it did is undone, and not tried again for a while.
    pub fn hurt(&mut self, why: &str, now_ns: u64) -> Option<Note> {
        if matches!(self.phase, Phase::Rest | Phase::Undoing) {
            return None;
        }
        let from_ppm = self.weight_ppm;
        self.phase = Phase::Undoing;
        self.target_ppm = WHOLE_PPM;
        self.cap_bps = None;
        self.not_before_ns = now_ns.saturating_add(HURT_COOL_DOWN_NS);
        Some(Note {
            asks_human: true,
            ..note(
                Kind::Undo,
                from_ppm,
                WHOLE_PPM,
                format!("it hurt: {why}; not again for 30 min"),
            )
        })
    }

    /// One step of time. `seen`: what the policy's cells say of this scope.
    pub fn step(&mut self, policy: &Policy, seen: Option<&Seen>, around: &Around) -> Vec<Note> {
        let now_ns = around.now_ns;
        let mut notes = Vec::new();
        self.ramp_ppm_per_s = policy.ramp_ppm_per_s();
        if self.damping.forgive(now_ns) {
            let reason = "long enough without a change: it may move again".to_owned();
            notes.push(note(Kind::Reuse, self.weight_ppm, self.weight_ppm, reason));
        }
        let usable = seen.filter(|seen| is_usable(seen, policy));
        if let Some(seen) = usable {
            self.fresh_ns = self.fresh_ns.max(now_ns.saturating_sub(seen.age_ns));
        }
        match around.grip {
            Grip::Free => {}
            Grip::Still => {
                self.target_ppm = self.weight_ppm;
                return notes;
            }
            Grip::LetGo => {
                self.let_go();
                return notes;
            }
        }
        if self.phase == Phase::Undoing || (!around.acts && self.weight_ppm < WHOLE_PPM) {
            // Also what was turned before it was disarmed.
            self.target_ppm = WHOLE_PPM;
            self.ramp(around);
            if self.weight_ppm == WHOLE_PPM {
                self.let_go();
            }
            return notes;
        }
        let age = staleness(self.fresh_ns, now_ns);
        // Nothing is held, so nothing can be too old to go on holding it.
        if self.phase == Phase::Rest && (usable.is_none() || age != Staleness::Fresh) {
            return notes;
        }
        let was = std::mem::replace(&mut self.staleness, age);
        match (self.staleness, usable) {
            (Staleness::Fresh, Some(seen)) => self.judge(policy, seen, around, &mut notes),
            (Staleness::Fresh, None) => {}
            (Staleness::Frozen, _) => {
                self.target_ppm = self.weight_ppm;
                if was != Staleness::Frozen {
                    let reason = format!(
                        "no usable numbers of {} for 3 s: it stays where it is",
                        policy.metric.as_str()
                    );
                    notes.push(note(Kind::Freeze, self.weight_ppm, self.weight_ppm, reason));
                }
            }
            (Staleness::Drifting, _) => self.drift(was, around, &mut notes),
        }
        if self.staleness == Staleness::Fresh {
            self.ramp(around);
        }
        notes
    }

    fn drift(&mut self, was: Staleness, around: &Around, notes: &mut Vec<Note>) {
        if was != Staleness::Drifting {
            let reason = "no usable numbers for 180 s: back to neutral, over 5 min".to_owned();
            notes.push(note(Kind::Drift, self.weight_ppm, WHOLE_PPM, reason));
        }
        let drifted = maximum_rate(self.weight_ppm, WHOLE_PPM, 0, DRIFT_PPM_PER_S, around.dt_ns);
        self.weight_ppm = drifted;
        self.target_ppm = drifted;
        self.moved_ns = around.now_ns;
        if drifted == WHOLE_PPM {
            self.let_go();
        }
    }

    fn ramp(&mut self, around: &Around) {
        let ramp = self.ramp_ppm_per_s;
        let to = maximum_rate(self.weight_ppm, self.target_ppm, ramp, ramp, around.dt_ns);
        if to != self.weight_ppm {
            self.weight_ppm = to;
            self.moved_ns = around.now_ns;
        }
    }

    fn judge(&mut self, policy: &Policy, seen: &Seen, around: &Around, notes: &mut Vec<Note>) {
        let now_ns = around.now_ns;
        let estimate = &seen.estimate;
        let (enter_ppm, exit_ppm) = (policy.enter_permille * 1000, policy.exit_permille * 1000);
        // Sure to be bad; over when its likeliest value is good. With few trials the upper bound
        // would never be, and a drained host has few.
        let is_bad = estimate.low_ppm >= enter_ppm && is_answerable(seen, policy);
        let is_calm = estimate.point_ppm <= exit_ppm;
        if is_calm {
            self.calm_ns.get_or_insert(now_ns);
        } else {
            self.calm_ns = None;
        }
        let is_settled = self.weight_ppm == self.target_ppm
            && now_ns.saturating_sub(self.moved_ns) >= u64::from(policy.dead_time_s) * SECOND_NS;
        let may_turn = |gate: &Self, dwell_s| {
            now_ns >= gate.not_before_ns
                && flap_damping(&gate.damping, gate.turned_ns, dwell_s, now_ns)
        };
        match self.phase {
            Phase::Rest if is_bad => {
                // What never moved needs no rest.
                let dwell_s = if self.turned_ns == 0 {
                    0
                } else {
                    policy.dwell_s
                };
                if may_turn(self, dwell_s) {
                    self.turn_away(policy, seen, around, true, notes);
                }
            }
            Phase::TurningAway => {
                if is_calm && self.weight_ppm != self.target_ppm {
                    // Enough, before the step was done.
                    self.target_ppm = self.weight_ppm;
                }
                let dwell_s = self.patience_s(policy, now_ns);
                let dwell_ns = u64::from(dwell_s) * SECOND_NS;
                let is_calm_for_long = |since: u64| now_ns.saturating_sub(since) >= dwell_ns;
                if is_settled && is_bad && !self.damping.is_suppressed && around.acts {
                    self.turn_away(policy, seen, around, false, notes);
                } else if is_settled
                    && self.calm_ns.is_some_and(is_calm_for_long)
                    && may_turn(self, dwell_s)
                {
                    self.take_back(policy, seen, around, true, notes);
                }
            }
            Phase::TakingBack => {
                if is_bad {
                    self.target_ppm = self.weight_ppm;
                    if may_turn(self, policy.dwell_s) {
                        self.turn_away(policy, seen, around, true, notes);
                    }
                } else if is_settled && is_calm && !self.damping.is_suppressed {
                    self.take_back(policy, seen, around, false, notes);
                }
                // Not before it can be seen that it may stay there.
                let is_back = is_settled && !is_bad && self.weight_ppm == WHOLE_PPM;
                if is_back && self.phase == Phase::TakingBack {
                    self.let_go();
                }
            }
            Phase::Rest | Phase::Undoing => {}
        }
    }

    /// How long it must have been calm before traffic is taken back: twice as long for each of the
    /// latest changes of direction and of the attempts that had to be undone.
    fn patience_s(&self, policy: &Policy, now_ns: u64) -> u32 {
        let doublings = self
            .damping
            .caution(now_ns)
            .max(self.failed.min(MOST_DOUBLINGS));
        policy.dwell_s.max(policy.dead_time_s) << doublings
    }

    /// How large the next step is: half for each of the latest changes of direction.
    fn step_ppm(&self, policy: &Policy, now_ns: u64) -> u32 {
        let step = policy.step_permille.saturating_mul(1000) >> self.damping.caution(now_ns);
        step.max(DEADBAND_PPM)
    }

    fn turn_away(
        &mut self,
        policy: &Policy,
        seen: &Seen,
        around: &Around,
        is_transition: bool,
        notes: &mut Vec<Note>,
    ) {
        let from_ppm = self.weight_ppm;
        let mut to_ppm = from_ppm.saturating_sub(self.step_ppm(policy, around.now_ns));
        if self.phase == Phase::TakingBack && from_ppm.saturating_sub(self.calm_ppm) >= DEADBAND_PPM
        {
            // To where it was well, and no further.
            to_ppm = self.calm_ppm;
        }
        // Where it would go must have room for it.
        if let Some(spare_ppm) = around.pool.and_then(|pool| pool.spare_ppm) {
            to_ppm = to_ppm.max(from_ppm.saturating_sub(spare_ppm));
        }
        let floor_ppm = policy.floor_permille.saturating_mul(1000);
        let step = bounded_step(from_ppm, to_ppm, floor_ppm).filter(|to| *to < from_ppm);
        let is_capped = is_transition && policy.cap_kbps.is_some() && self.cap_bps.is_none();
        if step.is_none() && !is_capped {
            return;
        }
        let to_ppm = step.unwrap_or(from_ppm);
        let what = if step.is_some() { "turn away" } else { "cap" };
        let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
        let reason = format!(
            "{} is {:.2} % [{:.2}, {:.2}] of {}, at or above {:.1} % for sure, and it is {}: {what}",
            policy.metric.as_str(),
            percent(seen.estimate.point_ppm),
            percent(seen.estimate.low_ppm),
            percent(seen.estimate.high_ppm),
            seen.estimate.n,
            f64::from(policy.enter_permille) / 10.0,
            blamed(seen),
        );
        notes.push(Note {
            expected: Some(Expected {
                metric: policy.metric,
                to_ppm: policy.exit_permille * 1000,
                within_s: policy.dead_time_s.saturating_mul(2).max(policy.dwell_s),
            }),
            ..note(Kind::TurnAway, from_ppm, to_ppm, reason)
        });
        if self.phase == Phase::TakingBack {
            self.failed = self.failed.saturating_add(1);
        }
        self.phase = Phase::TurningAway;
        self.calm_ns = None;
        if is_transition {
            self.transition(around.now_ns, notes);
        }
        if around.acts {
            self.target_ppm = to_ppm;
            self.moved_ns = around.now_ns;
            self.cap_bps = policy.cap_kbps.map(|kbps| u64::from(kbps) * 1000);
        }
    }

    fn take_back(
        &mut self,
        policy: &Policy,
        seen: &Seen,
        around: &Around,
        is_transition: bool,
        notes: &mut Vec<Note>,
    ) {
        let from_ppm = self.weight_ppm;
        // More carefully than it went.
        let step_ppm = (self.step_ppm(policy, around.now_ns) / 2).max(DEADBAND_PPM);
        let mut to_ppm = from_ppm.saturating_add(step_ppm).min(WHOLE_PPM);
        if WHOLE_PPM - to_ppm < DEADBAND_PPM {
            to_ppm = WHOLE_PPM;
        }
        if !has_headroom(policy, around.capacity, from_ppm, to_ppm) {
            return;
        }
        let step = bounded_step(from_ppm, to_ppm, 0);
        if is_transition {
            let reason = format!(
                "{} is {:.2} % of {}, at or below {:.1} % for long enough: take back",
                policy.metric.as_str(),
                f64::from(seen.estimate.point_ppm) / 10_000.0,
                seen.estimate.n,
                f64::from(policy.exit_permille) / 10.0,
            );
            notes.push(note(
                Kind::TakeBack,
                from_ppm,
                step.unwrap_or(from_ppm),
                reason,
            ));
            self.transition(around.now_ns, notes);
        }
        self.phase = Phase::TakingBack;
        if let Some(to_ppm) = step {
            self.calm_ppm = from_ppm;
            self.target_ppm = to_ppm;
            self.moved_ns = around.now_ns;
        }
    }

    fn transition(&mut self, now_ns: u64, notes: &mut Vec<Note>) {
        self.turned_ns = now_ns.max(1);
        if self.damping.transition(now_ns) {
            let reason =
                "it changed its direction too often: this step is the last, and a human is \
                          asked"
                    .to_owned();
            notes.push(Note {
                asks_human: true,
                ..note(Kind::Suppress, self.weight_ppm, self.weight_ppm, reason)
            });
        }
    }
}

fn note(kind: Kind, from_ppm: u32, to_ppm: u32, reason: String) -> Note {
    Note {
        kind,
        from_ppm,
        to_ppm,
        reason,
        expected: None,
        asks_human: false,
    }
}

fn is_usable(seen: &Seen, policy: &Policy) -> bool {
    seen.estimate.is_sound() && seen.estimate.n >= policy.min_n
}

/// Whether it is a fault for which the policy drains.
fn is_answerable(seen: &Seen, policy: &Policy) -> bool {
    if policy.blame.is_empty() {
        return true;
    }
    let is_listed = |own| policy.blame.contains(&own);
    seen.blame
        .is_some_and(|blame| blame.is_likely && blame.own.is_some_and(is_listed))
}

fn blamed(seen: &Seen) -> String {
    match seen.blame.and_then(|blame| blame.own) {
        Some(own) => format!("this host's own fault ({})", own.as_str()),
        None => "taken for whosever fault it is".to_owned(),
    }
}

/// Whether the host can take what comes back, as far as it is known what it takes now.
fn has_headroom(policy: &Policy, capacity: Option<&Capacity>, from: u32, to: u32) -> bool {
    let Some(capacity) = capacity else {
        return true;
    };
    let used = u64::from(capacity.used_ppm) * u64::from(to) / u64::from(from.max(1));
    let free_ppm = policy.headroom_permille.saturating_mul(1000);
    used <= u64::from(WHOLE_PPM.saturating_sub(free_ppm))
}

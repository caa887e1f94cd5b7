//! What the gates of this host shall be: [`decide`], from what was known before, what is known now
//! and the time.
//!
//! Pure: no clock, no I/O, no task; the same values in give the same values out, so that a night can
//! be replayed and an order rehearsed. Who holds what is looked up in the book of orders; what must
//! hold whoever wants what is in [`invariants`].

pub mod damping;
pub mod decision;
pub mod gate;
pub mod input;
pub mod invariants;
pub mod measure;
pub mod rules;
mod settle;
pub mod spread;
pub mod state;

pub use decision::{Decision, Kind};
pub use input::Inputs;
pub use rules::Rules;
pub use state::State;

use gate::{Around, Gate, Grip, Note, Phase};
use invariants::{begun_ns, step_ns};

use super::Scope;
use super::overrides::order::OnFail;
use super::overrides::{Held, Say};
use super::position::Position;
use crate::qoe::blame::WHOLE_PPM;

/// Of the code that decides: grows whenever the same values would give others.
pub const POLICY_VERSION: u32 = 2;
/// Scopes that policies hold or remember, all together.
pub const MAX_GATES: usize = 1024;
/// Gates do not move more often; a shorter step would be lost in rounding.
const LEAST_STEP_NS: u64 = 10_000_000;

/// What comes of a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What the actuators shall hold; its generation is the one before if nothing changed.
    pub position: Position,
    /// In the order in which they were made; few, because only changes are told.
    pub decisions: Vec<Decision>,
}

/// Decides. `now_boot_ns` is `CLOCK_BOOTTIME`; one that goes back is taken for standing still.
pub fn decide(
    rules: &Rules,
    mut state: State,
    inputs: &Inputs,
    now_boot_ns: u64,
) -> (State, Outcome) {
    let now_ns = state.now_ns.max(now_boot_ns);
    state.now_ns = now_ns;
    let mut dt_ns = step_ns(state.ramped_ns, now_ns).max(begun_ns(state.moved_ns, now_ns));
    if dt_ns < LEAST_STEP_NS {
        dt_ns = 0;
    } else {
        state.ramped_ns = now_ns;
    }
    let mut turn = Turn {
        rules,
        inputs,
        now_ns,
        dt_ns,
        has_moved: false,
        told: Vec::new(),
        state,
    };
    turn.end_orders();
    if turn.is_panic() {
        turn.panic();
    } else {
        turn.hear_what_hurt();
        turn.step_gates();
        turn.settle();
    }
    let Turn {
        mut state,
        told,
        has_moved,
        ..
    } = turn;
    if has_moved {
        state.moved_ns = now_ns;
    }
    let position = state.position.clone();
    let decisions = told;
    (
        state,
        Outcome {
            position,
            decisions,
        },
    )
}

/// One call of [`decide`].
struct Turn<'a> {
    rules: &'a Rules,
    inputs: &'a Inputs,
    now_ns: u64,
    dt_ns: u64,
    /// A weight is another than before.
    has_moved: bool,
    told: Vec<Decision>,
    state: State,
}

impl Turn<'_> {
    /// Makes a decision out of what is said, and gives back its id.
    fn tell(&mut self, mut decision: Decision) -> String {
        self.state.decisions = self.state.decisions.saturating_add(1);
        decision.id = format!("d{}", self.state.decisions);
        let id = decision.id.clone();
        self.told.push(decision);
        id
    }

    fn draft(&self, kind: Kind, by: &str, scope: &Scope, reason: String) -> Decision {
        let stands = self.state.stands(scope).setting().weight_permille;
        Decision {
            id: String::new(),
            boot_ns: self.now_ns,
            kind,
            by: by.to_owned(),
            version: POLICY_VERSION,
            scope: scope.clone(),
            from_permille: stands,
            to_permille: stands,
            seen: None,
            reason,
            expected: None,
            acts: true,
            asks_human: false,
        }
    }

    fn end_orders(&mut self) {
        for Held { order, .. } in self.state.book.expire(self.now_ns) {
            let reason = format!(
                "{} by {} ended after {} s: back to what holds without it",
                order.action.verb().as_str(),
                order.actor,
                order.ttl_s
            );
            let decision = self.draft(Kind::Expire, &order.id, &order.scope, reason);
            self.tell(decision);
        }
    }

    fn is_panic(&self) -> bool {
        self.inputs.is_panic || self.state.book.panic().is_some()
    }

    /// All automation off, all neutral, at once.
    fn panic(&mut self) {
        if !self.state.is_panicking {
            let (by, why) = match self.state.book.panic() {
                Some(held) => (held.order.id.clone(), held.order.reason.clone()),
                None => ("kill switch".to_owned(), "its file is there".to_owned()),
            };
            let reason = format!("all automation off, all neutral: {why}");
            let mut decision = self.draft(Kind::Panic, &by, &Scope::Host, reason);
            decision.to_permille = 1000;
            decision.asks_human = true;
            self.tell(decision);
        }
        self.state.is_panicking = true;
        self.has_moved |= !self.state.settings.is_empty();
        self.state.gates.iter_mut().for_each(Gate::let_go);
        self.state.settings.clear();
        self.state.bound.clear();
        self.publish();
    }

    /// What hurt is undone: a policy's steps, or an order whose author wanted it so.
    fn hear_what_hurt(&mut self) {
        if std::mem::take(&mut self.state.is_panicking) {
            let reason = "the panic is over: automation begins anew, orders hold again".to_owned();
            let decision = self.draft(Kind::Resume, "panic", &Scope::Host, reason);
            self.tell(decision);
        }
        let now_ns = self.now_ns;
        for hurt in &self.inputs.hurt {
            let is_its = |gate: &&mut Gate| gate.policy == hurt.by && gate.scope == hurt.scope;
            let undone = self.state.gates.iter_mut().find(is_its);
            if let Some(note) = undone.and_then(|gate| gate.hurt(&hurt.why, now_ns)) {
                self.tell_note(&hurt.by, &hurt.scope, note, None, true);
                continue;
            }
            let held = self
                .state
                .book
                .orders()
                .iter()
                .find(|held| held.order.id == hurt.by);
            let Some(Held { order, .. }) = held.cloned() else {
                continue;
            };
            let reverts = order.on_fail == OnFail::Revert;
            let what = match order.on_fail {
                OnFail::Revert => "taken back",
                OnFail::Hold => "left as it is",
                OnFail::Page => "left, and a human is asked",
            };
            let reason = format!("the order hurt and is {what}: {}", hurt.why);
            let mut decision = self.draft(Kind::Undo, &order.id, &order.scope, reason);
            decision.asks_human = true;
            decision.acts = reverts;
            self.tell(decision);
            if reverts {
                self.state.book.withdraw(&order.id);
            }
        }
    }

    fn tell_note(
        &mut self,
        by: &str,
        scope: &Scope,
        note: Note,
        seen: Option<input::Seen>,
        acts: bool,
    ) -> String {
        let permille = |ppm: u32| u16::try_from(ppm.min(WHOLE_PPM).div_ceil(1000)).unwrap_or(1000);
        let decision = Decision {
            from_permille: permille(note.from_ppm),
            to_permille: permille(note.to_ppm),
            seen,
            expected: note.expected,
            acts,
            asks_human: note.asks_human,
            ..self.draft(note.kind, by, scope, note.reason)
        };
        self.tell(decision)
    }

    fn step_gates(&mut self) {
        let rules = self.rules;
        let now_ns = self.now_ns;
        let mut old = std::mem::take(&mut self.state.gates);
        // Of a policy that is no more: what it held opens.
        old.retain(|gate| {
            rules
                .policies
                .iter()
                .any(|policy| policy.name == gate.policy)
        });
        let mut gates = Vec::with_capacity(old.len());
        for policy in &rules.policies {
            let acts = rules.is_armed && policy.is_armed;
            let seen = self.inputs.seen(policy, now_ns);
            let (mut own, others) = old
                .into_iter()
                .partition::<Vec<_>, _>(|g| g.policy == policy.name);
            old = others;
            for (scope, _) in &seen {
                if own.iter().any(|gate| gate.scope == *scope) {
                    continue;
                }
                if gates.len() + own.len() + old.len() < MAX_GATES {
                    own.push(Gate::new(policy, scope.clone()));
                } else {
                    self.state.gates_refused = self.state.gates_refused.saturating_add(1);
                }
            }
            for mut gate in own {
                let seen = seen.iter().find(|(scope, _)| *scope == gate.scope);
                let seen = seen.map(|(_, seen)| seen);
                let around = Around {
                    now_ns,
                    dt_ns: self.dt_ns,
                    grip: self.grip(&gate.scope),
                    acts,
                    capacity: self.inputs.fresh_capacity(now_ns),
                    pool: self.inputs.fresh_pool(now_ns),
                };
                let was_ppm = gate.weight_ppm;
                let notes = gate.step(policy, seen, &around);
                self.has_moved |= gate.weight_ppm != was_ppm;
                for note in notes {
                    let id = self.tell_note(&policy.name, &gate.scope, note, seen.copied(), acts);
                    gate.decision = id;
                }
                if !gate.is_idle(now_ns) {
                    gates.push(gate);
                }
            }
        }
        self.state.gates = gates;
    }

    fn grip(&self, scope: &Scope) -> Grip {
        match self.state.book.say(scope) {
            Say::Order(_) => Grip::LetGo,
            Say::Stays(_) => Grip::Still,
            Say::Automation { .. } => Grip::Free,
        }
    }

    /// Puts the settings into the position; a change has a new generation.
    fn publish(&mut self) {
        let state = &mut self.state;
        let settings: Vec<_> = state.settings.iter().map(state::Turned::setting).collect();
        let is_changed = settings != state.position.settings;
        let latest = state.position.generation;
        state.position.generation = invariants::generations_monotone(latest, is_changed);
        state.position.settings = settings;
        if let Some(latest) = self.told.iter().rfind(|decision| decision.acts)
            && is_changed
        {
            state.position.decision.clone_from(&latest.id);
        }
    }

    /// Whether a gate of automation is on its way anywhere in this scope.
    fn has_gate(&self, scope: &Scope) -> bool {
        let is_turned = |gate: &Gate| gate.phase != Phase::Rest && gate.scope == *scope;
        self.state.gates.iter().any(is_turned)
    }
}

#[cfg(test)]
mod tests;

//! From what everybody wants of each scope to the one setting it gets.

use super::gate::Phase;
use super::input::Pool;
use super::invariants::{
    AT_ONCE, DRIFT_PPM_PER_S, Holder, Invariant, OPENING_PPM_PER_S, Proposal, Surroundings,
    enforce, floor,
};
use super::rules::{DEAD_TIME_S, fastest_ppm_per_s};
use super::state::{Turned, around};
use super::{Kind, Turn};
use crate::qoe::blame::WHOLE_PPM;
use crate::steer::Scope;
use crate::steer::overrides::{Action, Order, Say};

/// What is wanted of a scope, by whoever has the say.
struct Wanted {
    proposal: Proposal,
    /// How fast it goes back afterwards.
    ease_ppm_per_s: u32,
    /// Whose it is, for what is told of it.
    by: String,
}

/// What automation wants of a scope.
struct Automatic {
    weight_ppm: u32,
    ramp_ppm_per_s: u32,
    by: String,
    cap_bps: Option<u64>,
}

impl Turn<'_> {
    /// Gives every scope that anybody wants something of its setting.
    pub(super) fn settle(&mut self) {
        let before = std::mem::take(&mut self.state.settings);
        let scopes = self.scopes(&before);
        // What stood before is looked up while the new is made.
        self.state.settings = before;
        let mut bound = Vec::new();
        let mut settings = Vec::with_capacity(scopes.len());
        let pool = self.inputs.fresh_pool(self.now_ns).copied();
        for scope in scopes {
            let stands = self.state.stands(&scope);
            let automatic = self.automatic(&scope, pool.as_ref());
            let surroundings = Surroundings {
                bounds: &self.rules.bounds,
                pool: pool.as_ref(),
                now_ns: self.now_ns,
                dt_ns: self.dt_ns,
            };
            let wanted = self.wanted(&scope, &stands, &automatic, &surroundings);
            let (weight_ppm, by_invariant) = enforce(&wanted.proposal, &surroundings);
            self.has_moved |= weight_ppm != stands.weight_ppm;
            if let Some(invariant) = by_invariant {
                self.tell_bound(&scope, &wanted, weight_ppm, invariant);
                bound.push((scope.clone(), invariant));
                if wanted.proposal.holder == Holder::Automation {
                    self.unwind(&scope, weight_ppm);
                }
            }
            let order_cap = self.state.book.cap(&scope).map(|(_, bps)| bps);
            settings.push(Turned {
                cap_bps: order_cap.or(automatic.cap_bps),
                scope,
                weight_ppm,
                ease_ppm_per_s: wanted.ease_ppm_per_s,
            });
        }
        self.state.bound = bound;
        self.state.settings = self.needed(settings);
        self.publish();
    }

    /// Every scope of which something is or was wanted, the wide before the narrow.
    fn scopes(&self, before: &[Turned]) -> Vec<Scope> {
        let orders = self
            .state
            .book
            .orders()
            .iter()
            .map(|held| &held.order.scope);
        let gates = self
            .state
            .gates
            .iter()
            .filter(|gate| gate.phase != Phase::Rest)
            .map(|gate| &gate.scope);
        let standing = before.iter().map(|own| &own.scope);
        let mut scopes: Vec<_> = orders.chain(gates).chain(standing).cloned().collect();
        if self.region_permille(self.inputs.fresh_pool(self.now_ns)) < 1000 {
            scopes.push(Scope::Host);
        }
        scopes.sort();
        scopes.dedup();
        scopes
    }

    /// The centre's balance between regions; neutral unless steering is armed.
    fn region_permille(&self, pool: Option<&Pool>) -> u32 {
        let wanted = pool.and_then(|pool| pool.region_weight_permille);
        match wanted {
            Some(permille) if self.rules.is_armed => u32::from(permille.min(1000)),
            _ => 1000,
        }
    }

    /// The least that any policy that acts leaves of this scope, times what the region wants.
    fn automatic(&self, scope: &Scope, pool: Option<&Pool>) -> Automatic {
        let mut found = Automatic {
            weight_ppm: WHOLE_PPM,
            ramp_ppm_per_s: 0,
            by: String::new(),
            cap_bps: None,
        };
        for gate in self
            .state
            .gates
            .iter()
            .filter(|gate| gate.scope.covers(scope))
        {
            if gate.weight_ppm < WHOLE_PPM {
                found.ramp_ppm_per_s = found.ramp_ppm_per_s.max(gate.ramp_ppm_per_s);
            }
            if gate.weight_ppm < found.weight_ppm {
                found.weight_ppm = gate.weight_ppm;
                found.by.clone_from(&gate.policy);
            }
            found.cap_bps = match (found.cap_bps, gate.cap_bps) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let region = self.region_permille(pool);
        if region < 1000 {
            found.weight_ppm = scaled(found.weight_ppm, region);
            found.ramp_ppm_per_s = found.ramp_ppm_per_s.max(fastest_ppm_per_s(DEAD_TIME_S));
            found.by.push_str(if found.by.is_empty() {
                "region"
            } else {
                " and region"
            });
        }
        found
    }

    fn wanted(
        &self,
        scope: &Scope,
        stands: &Turned,
        automatic: &Automatic,
        surroundings: &Surroundings,
    ) -> Wanted {
        let proposal = |holder, wanted_ppm, away, back| Proposal {
            holder,
            was_ppm: stands.weight_ppm,
            wanted_ppm,
            away_ppm_per_s: away,
            back_ppm_per_s: back,
        };
        let human = |order: &Order| Holder::Human {
            is_break_glass: order.is_break_glass,
        };
        match self.state.book.say(scope) {
            Say::Order(held) => {
                let order = &held.order;
                let wanted_ppm = u32::from(order.action.weight_permille().unwrap_or(1000)) * 1000;
                let mut ramp = ramp_ppm_per_s(order.ramp_s);
                let holder = if order.level.is_human() {
                    human(order)
                } else {
                    ramp = ramp.min(fastest_ppm_per_s(DEAD_TIME_S));
                    Holder::Automation
                };
                Wanted {
                    proposal: proposal(holder, wanted_ppm, ramp, ramp),
                    ease_ppm_per_s: ramp.min(OPENING_PPM_PER_S),
                    by: order.id.clone(),
                }
            }
            Say::Stays(held) => Wanted {
                proposal: proposal(human(&held.order), stands.weight_ppm, 0, 0),
                ease_ppm_per_s: stands.ease_ppm_per_s,
                by: held.order.id.clone(),
            },
            Say::Automation { shed: Some(held) } => {
                let (floor_ppm, _) = floor(Holder::Automation, surroundings);
                let automatic_ppm = automatic
                    .weight_ppm
                    .max(floor_ppm.min(automatic_most(automatic)));
                let shed = match held.order.action {
                    Action::Shed { permille } => u32::from(permille.min(1000)),
                    _ => 0,
                };
                let ramp = ramp_ppm_per_s(held.order.ramp_s);
                Wanted {
                    proposal: proposal(
                        human(&held.order),
                        scaled(automatic_ppm, 1000 - shed),
                        ramp,
                        ramp.max(automatic.ramp_ppm_per_s),
                    ),
                    ease_ppm_per_s: ramp.min(OPENING_PPM_PER_S),
                    by: held.order.id.clone(),
                }
            }
            Say::Automation { shed: None } => {
                let holder = if automatic.weight_ppm < WHOLE_PPM {
                    Holder::Automation
                } else {
                    Holder::Nobody
                };
                let back = stands
                    .ease_ppm_per_s
                    .max(automatic.ramp_ppm_per_s)
                    .max(DRIFT_PPM_PER_S);
                Wanted {
                    proposal: proposal(
                        holder,
                        automatic.weight_ppm,
                        automatic.ramp_ppm_per_s,
                        back,
                    ),
                    ease_ppm_per_s: stands.ease_ppm_per_s,
                    by: automatic.by.clone(),
                }
            }
        }
    }

    fn tell_bound(&mut self, scope: &Scope, wanted: &Wanted, got_ppm: u32, invariant: Invariant) {
        let told = (scope.clone(), invariant);
        // What nobody holds any longer and opens needs no word.
        if self.state.bound.contains(&told) || wanted.proposal.holder == Holder::Nobody {
            return;
        }
        let reason = format!(
            "{} of {scope} is wanted and {} is given: {}",
            percent(wanted.proposal.wanted_ppm),
            percent(got_ppm),
            invariant.as_str()
        );
        let mut decision = self.draft(Kind::Bound, &wanted.by, scope, reason);
        decision.asks_human = matches!(wanted.proposal.holder, Holder::Human { .. });
        decision.to_permille = u16::try_from(got_ppm.div_ceil(1000)).unwrap_or(1000);
        self.tell(decision);
    }

    /// Automation does not go on wanting what it does not get: it would take long to come back.
    fn unwind(&mut self, scope: &Scope, weight_ppm: u32) {
        for gate in self
            .state
            .gates
            .iter_mut()
            .filter(|gate| gate.scope == *scope)
        {
            gate.bound_at(weight_ppm);
        }
    }

    /// Settings that say something which those around them do not.
    fn needed(&self, settings: Vec<Turned>) -> Vec<Turned> {
        let is_wanted = |scope: &Scope| {
            self.has_gate(scope)
                || self.state.book.orders().iter().any(|held| {
                    held.order.scope == *scope && !matches!(held.order.action, Action::Panic)
                })
        };
        let mut kept: Vec<Turned> = Vec::with_capacity(settings.len());
        for own in settings {
            let base = around(&kept, &own.scope);
            let weight_ppm = base.map_or(WHOLE_PPM, |base| base.weight_ppm);
            let cap_bps = base.and_then(|base| base.cap_bps);
            let is_same = own.weight_ppm == weight_ppm && own.cap_bps == cap_bps;
            // A hold of what is neutral says something as soon as what is around it moves.
            if !is_same || (base.is_some() && is_wanted(&own.scope)) {
                kept.push(own);
            }
        }
        kept
    }
}

/// Without a wish of automation its floors raise nothing.
fn automatic_most(automatic: &Automatic) -> u32 {
    if automatic.weight_ppm < WHOLE_PPM {
        WHOLE_PPM
    } else {
        0
    }
}

fn scaled(ppm: u32, permille: u32) -> u32 {
    let scaled = u64::from(ppm) * u64::from(permille) / 1000;
    u32::try_from(scaled).unwrap_or(WHOLE_PPM)
}

/// All the way in so long.
fn ramp_ppm_per_s(ramp_s: u32) -> u32 {
    match ramp_s {
        0 => AT_ONCE,
        s => (WHOLE_PPM / s).max(1),
    }
}

fn percent(ppm: u32) -> String {
    format!("{:.1} %", f64::from(ppm) / 10_000.0)
}

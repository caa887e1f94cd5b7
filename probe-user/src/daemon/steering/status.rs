//! How the gate stands, for whoever asks.

use weir_proto::v1;

use super::Decider;
use crate::steer::forecast::unheld;
use crate::steer::overrides::{Held, Moment, Say};
use crate::steer::policy::rules::SECOND_NS;
use crate::steer::{Scope, Setting};
use crate::wire::steer as wire;

/// What automation would do is looked ahead so far, and found out anew so often: it is some hundred
/// decisions.
const AHEAD_S: u32 = 120;
const ANEW_NS: u64 = 5 * SECOND_NS;

impl Decider {
    pub(super) fn status(&mut self) -> v1::Steering {
        let now = self.clock.now();
        let unix_minus_boot_ns = now.unix_ns.cast_signed() - now.boot_ns.cast_signed();
        self.look_ahead(&now);
        let settings = self.held.settings.iter();
        let settings = settings.map(|setting| self.setting(setting, &now));
        let latest = self.keeper.latest.clone();
        v1::Steering {
            armed: self.rules.is_armed,
            panicking: self.state.is_panicking,
            generation: self.held.generation,
            settings: settings.collect(),
            orders: self
                .state
                .book
                .orders()
                .iter()
                .map(|own| wire::held(own, now.boot_ns))
                .collect(),
            waiting: self
                .desk
                .waiting
                .iter()
                .map(|own| {
                    let left_ns = own.until_boot_ns.saturating_sub(now.boot_ns);
                    wire::order_told(&own.order, left_ns)
                })
                .collect(),
            gates: self.gate_states(&now),
            advice: self
                .advice
                .iter()
                .map(|own| wire::decision(own, unix_minus_boot_ns))
                .collect(),
            decisions: self
                .decisions
                .iter()
                .map(|own| wire::decision(own, unix_minus_boot_ns))
                .collect(),
            otherwise: self.otherwise.1.clone(),
            verdicts: self.told_verdicts.iter().cloned().collect(),
            journal_file: self.keeper.file().display().to_string(),
            journal_error: self.keeper.error().unwrap_or_default(),
            journal_seq: latest.as_ref().map_or(0, |own| own.seq),
            journal_hash: latest.map(|own| own.hash).unwrap_or_default(),
            counts: Some(v1::SteerCounts {
                decisions: self.state.decisions,
                scopes_refused: self.state.gates_refused,
                journal_unwritten: self.keeper.unwritten,
                ..self.counts
            }),
            unix_ns: now.unix_ns,
        }
    }

    fn look_ahead(&mut self, now: &Moment) {
        let (at_ns, _) = self.otherwise;
        if self.state.book.orders().is_empty() {
            self.otherwise = (0, Vec::new());
        } else if at_ns == 0 || now.boot_ns.saturating_sub(at_ns) >= ANEW_NS {
            let told = unheld(&self.rules, &self.state, &self.inputs, now, AHEAD_S);
            let moves = told.moves.iter().map(wire::moved).collect();
            self.otherwise = (now.boot_ns, moves);
        }
    }

    /// A setting with who has the say on it.
    fn setting(&self, setting: &Setting, now: &Moment) -> v1::SteerSetting {
        let told = v1::SteerSetting {
            scope: setting.scope.key(),
            weight_permille: setting.weight_permille.into(),
            cap_bps: setting.cap_bps.unwrap_or(0),
            ..v1::SteerSetting::default()
        };
        let by_order = |held: &Held, told: v1::SteerSetting| v1::SteerSetting {
            by: held.order.id.clone(),
            level: held.order.level.as_str().to_owned(),
            why: format!(
                "{} by {}: {}",
                held.order.action.verb().as_str(),
                held.order.actor,
                held.order.reason
            ),
            left_s: wire::left_s(held.deadline.left_ns(now.boot_ns)),
            ..told
        };
        let book = &self.state.book;
        match book.say(&setting.scope) {
            Say::Order(held) | Say::Stays(held) | Say::Automation { shed: Some(held) } => {
                by_order(held, told)
            }
            Say::Automation { shed: None } => {
                if let Some((held, _)) = book.cap(&setting.scope)
                    && setting.weight_permille >= 1000
                {
                    return by_order(held, told);
                }
                self.by_policy(&setting.scope, told)
            }
        }
    }

    fn by_policy(&self, scope: &Scope, told: v1::SteerSetting) -> v1::SteerSetting {
        let gates = self.state.gates.iter();
        let covering = gates.filter(|gate| gate.scope.covers(scope));
        let lowest = covering.min_by_key(|gate| gate.weight_ppm);
        if let Some(gate) =
            lowest.filter(|gate| gate.weight_ppm < 1_000_000 || gate.cap_bps.is_some())
        {
            let why = self
                .decisions
                .iter()
                .rfind(|own| own.id == gate.decision)
                .map(|own| own.reason.clone());
            return v1::SteerSetting {
                by: gate.policy.clone(),
                level: "policy".to_owned(),
                why: why.unwrap_or_else(|| format!("by decision {}", gate.decision)),
                ..told
            };
        }
        let wanted = self.inputs.pool.as_ref();
        let region = wanted.and_then(|pool| pool.region_weight_permille);
        if let Some(permille) = region.filter(|own| *own < 1000 && self.rules.is_armed) {
            return v1::SteerSetting {
                by: "region".to_owned(),
                level: "central automation".to_owned(),
                why: format!("the region's balance wants {permille} permille"),
                ..told
            };
        }
        v1::SteerSetting {
            why: "nobody holds it any longer: it goes back to neutral".to_owned(),
            ..told
        }
    }

    fn gate_states(&self, now: &Moment) -> Vec<v1::SteerGate> {
        let named = self.gates.names().iter().zip(&self.gate_reports);
        let gates = named.map(|(name, own)| v1::SteerGate {
            name: name.clone(),
            lease_left_ms: own
                .until_boot_ns
                .map_or(0, |until| until.saturating_sub(now.boot_ns) / 1_000_000),
            ..own.told.clone()
        });
        gates.collect()
    }
}

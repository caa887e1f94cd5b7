//! What was ordered and is lent, and how the gates stand, for whoever asks.

use std::collections::BTreeMap;

use weir_proto::v1;

use super::keep::Now;
use super::rebalance::Rebalance;
use super::{State, Steering};
use crate::steer::central::Kept;
use crate::wire::steer as wire;

/// Orders that are told, and hosts that refused one.
const MAX_TOLD: usize = 64;
const MAX_REFUSALS: usize = 16;

impl Steering {
    pub(in crate::collect) fn status(&self, journal_of: &str) -> v1::FleetSteering {
        let now = Now::read();
        let (journal_error, journal_seq, journal_hash) = self.keeper.status();
        let state = self.state();
        let (letters, letters_hosts) = state.outbox.waiting();
        v1::FleetSteering {
            journal_file: self.keeper.file().display().to_string(),
            journal_error,
            journal_seq,
            journal_hash,
            pools: self.pools(&state),
            rebalances: self.rebalances(&state, now),
            hosts: self.gates(&state),
            orders: orders(&state, now),
            letters: letters as u64,
            letters_hosts: letters_hosts as u64,
            journal: state.journals.of(journal_of),
            unix_ns: now.unix_ns,
        }
    }

    fn pools(&self, state: &State) -> Vec<v1::FleetPool> {
        let mut pools: BTreeMap<&str, v1::FleetPool> = BTreeMap::new();
        for view in &state.views {
            let (Some(place), Some(word)) =
                (self.places.of(&view.host), state.words.get(&view.host))
            else {
                continue;
            };
            let pool = pools.entry(place.pool).or_insert_with(|| {
                let (tokens, lent_ppm) = state.authority.lent(place.pool);
                v1::FleetPool {
                    name: place.pool.to_owned(),
                    region: place.region.to_owned(),
                    tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
                    lent_ppm,
                    // The least that any host is told, which counts nobody whole but itself.
                    healthy_ppm: u32::MAX,
                    ..v1::FleetPool::default()
                }
            });
            pool.hosts += 1;
            pool.hosts_healthy += u32::from(view.is_healthy());
            pool.healthy_ppm = pool.healthy_ppm.min(word.healthy_ppm);
        }
        pools.into_values().collect()
    }

    fn rebalances(&self, state: &State, now: Now) -> Vec<v1::FleetRebalance> {
        let over = state.over.iter().map(|kept| told(kept, now));
        let under_way = state.rebalances.iter().map(|own| {
            let (moved, hosts) = self.moved(state, own);
            v1::FleetRebalance {
                hosts_moved: moved,
                hosts,
                refused: self.unwilling(state, own),
                ..told(&own.kept, now)
            }
        });
        over.chain(under_way).collect()
    }

    /// How many hosts of the region have moved, and how many there are.
    fn moved(&self, state: &State, own: &Rebalance) -> (u32, u32) {
        let mut counts = (0, 0);
        for view in &state.views {
            let place = self.places.of(&view.host);
            if place.is_some_and(|place| place.region == own.kept.plan.from) {
                counts.1 += 1;
                let weight = own.weight_permille(&view.host, &self.places);
                counts.0 += u32::from(weight.is_some());
            }
        }
        counts
    }

    fn unwilling(&self, state: &State, own: &Rebalance) -> Vec<v1::HostOutcome> {
        let its = state
            .unwilling
            .iter()
            .filter(|(host, _)| own.weight_permille(host, &self.places).is_some());
        let refused = its.take(MAX_REFUSALS).map(|(host, why)| v1::HostOutcome {
            host: host.clone(),
            outcome: v1::CommandOutcome::Refused.into(),
            reason: why.clone(),
            took_us: 0,
        });
        refused.collect()
    }

    fn gates(&self, state: &State) -> Vec<v1::FleetGate> {
        let told = state.views.iter().filter_map(|view| {
            let gate = view.gate?;
            let place = self.places.of(&view.host);
            let region = state.region_weight(&view.host, &self.places);
            Some(v1::FleetGate {
                host: view.host.clone(),
                pool: place.map_or_else(String::new, |place| place.pool.to_owned()),
                region: place.map_or_else(String::new, |place| place.region.to_owned()),
                gate: Some(v1::GateWord {
                    boot_ns: gate.boot_ns,
                    generation: gate.generation,
                    weight_permille: gate.weight_permille,
                    automatic_permille: gate.automatic_permille,
                    wants_floor_permille: gate.wants_floor_permille,
                    armed: gate.is_armed,
                    panicking: gate.is_panicking,
                }),
                healthy: view.is_healthy(),
                region_weight_permille: region.map_or(1000, |region| region.weight_permille),
                token: state.tokens.contains_key(&view.host),
            })
        });
        told.collect()
    }
}

fn told(kept: &Kept, now: Now) -> v1::FleetRebalance {
    let plan = &kept.plan;
    let end_ns = plan
        .created_unix_ns
        .saturating_add(u64::from(plan.ttl_s) * 1_000_000_000);
    let left_ns = end_ns.saturating_sub(now.unix_ns);
    v1::FleetRebalance {
        id: plan.id.clone(),
        from: plan.from.clone(),
        to: plan.to.clone(),
        permille: plan.permille.into(),
        phase: kept.phase.as_str().to_owned(),
        why: kept.phase.why().to_owned(),
        actor: plan.actor.clone(),
        second: plan.second.as_ref().map(wire::auth).unwrap_or_default(),
        reason: plan.reason.clone(),
        left_s: if kept.phase.is_over() {
            0
        } else {
            wire::left_s(left_ns)
        },
        ..v1::FleetRebalance::default()
    }
}

fn orders(state: &State, now: Now) -> Vec<v1::FleetOrder> {
    let left_ns = |created_unix_ns: u64, ttl_s: u32| {
        let end_ns = created_unix_ns.saturating_add(u64::from(ttl_s) * 1_000_000_000);
        end_ns.saturating_sub(now.unix_ns)
    };
    let given = state.orders.iter().rev().take(MAX_TOLD).map(|own| {
        let tally = own.tally();
        let refusals = own.refusals().take(MAX_REFUSALS);
        let left_ns = left_ns(own.order.created_unix_ns, own.order.ttl_s);
        v1::FleetOrder {
            at: own.at.to_string(),
            order: Some(wire::order_told(&own.order, left_ns)),
            taken: tally.taken,
            refused: tally.refused,
            unanswered: tally.unanswered,
            waits: false,
            refusals: refusals
                .map(|(host, why)| v1::HostOutcome {
                    host: host.to_owned(),
                    outcome: v1::CommandOutcome::Refused.into(),
                    reason: why.to_owned(),
                    took_us: 0,
                })
                .collect(),
        }
    });
    let mut told: Vec<_> = given.collect();
    told.reverse();
    told.extend(state.waiting.iter().map(|own| v1::FleetOrder {
        at: own.at.to_string(),
        order: Some(wire::order_told(
            &own.order,
            own.until_boot_ns.saturating_sub(now.boot_ns),
        )),
        waits: true,
        ..v1::FleetOrder::default()
    }));
    told
}

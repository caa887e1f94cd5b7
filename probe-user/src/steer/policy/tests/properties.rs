//! Each invariant under its name, over random histories (`WEIR_HISTORIES` of them). What must hold
//! is written here once more and otherwise than in the code that brings it about.

use std::collections::BTreeMap;

use super::history::{Host, Step, Tally, histories, run, step};
use crate::qoe::blame::WHOLE_PPM;
use crate::steer::Scope;
use crate::steer::overrides::{Action, Held, Level, Say};
use crate::steer::policy::gate::Phase;
use crate::steer::policy::input::Pool;
use crate::steer::policy::rules::SECOND_NS;
use crate::steer::policy::{Inputs, Kind};

/// Settings that went away from neutral in this step, unless somebody may who breaks the glass.
fn moved_away(step: &Step) -> Vec<(Scope, u32)> {
    let scopes = step.scopes().into_iter();
    scopes
        .filter(|scope| step.is(scope) < step.was(scope))
        .map(|scope| {
            let is = step.is(&scope);
            (scope, is)
        })
        .collect()
}

/// Who had the say in the step; an order that ended in it has none.
fn say<'a>(step: &'a Step, scope: &Scope) -> Say<'a> {
    // The host's human, the centre's, its automation.
    let place = |held: &Held| match held.order.level {
        Level::OnHostHuman => 3,
        Level::CentralHuman => 2,
        Level::CentralAutomation => 1,
        Level::LocalAutomation => 0,
    };
    let mut weight: Option<&Held> = None;
    let mut hold: Option<&Held> = None;
    let mut shed: Option<&Held> = None;
    for held in step.after.book.orders() {
        if !held.order.scope.covers(scope) {
            continue;
        }
        let kept = match held.order.action {
            Action::Weight { .. } | Action::Drain | Action::Undrain | Action::Pin { .. } => {
                &mut weight
            }
            Action::Hold => &mut hold,
            Action::Shed { .. } => &mut shed,
            _ => continue,
        };
        let rank = |held: &Held| (place(held), held.order.generation);
        if kept.is_none_or(|other| rank(held) > rank(other)) {
            *kept = Some(held);
        }
    }
    match (weight, hold) {
        (Some(own), Some(hold)) if place(own) < 2 && place(hold) >= 2 => Say::Stays(hold),
        (Some(own), _) if own.order.action == (Action::Pin { permille: None }) => Say::Stays(own),
        (Some(own), _) => Say::Order(own),
        (None, Some(hold)) => Say::Stays(hold),
        (None, None) => Say::Automation { shed },
    }
}

/// What an order sets.
fn wanted_ppm(held: &Held) -> u32 {
    match held.order.action {
        Action::Drain => 0,
        Action::Weight { permille }
        | Action::Pin {
            permille: Some(permille),
        } => u32::from(permille) * 1000,
        _ => WHOLE_PPM,
    }
}

fn is_automatic(step: &Step, scope: &Scope) -> bool {
    match say(step, scope) {
        Say::Automation { shed } => shed.is_none(),
        Say::Order(held) => !held.order.level.is_human(),
        Say::Stays(_) => false,
    }
}

fn breaks_glass(step: &Step, scope: &Scope) -> bool {
    let is_its = |held: &Held| held.order.is_break_glass;
    match say(step, scope) {
        Say::Order(held) | Say::Stays(held) => is_its(held),
        Say::Automation { shed } => shed.is_some_and(is_its),
    }
}

fn pool<'a>(step: &'a Step) -> Option<&'a Pool> {
    let pool = step.inputs.pool.as_ref()?;
    let is_fresh =
        pool.heard_boot_ns <= step.now_ns && step.now_ns - pool.heard_boot_ns <= 180 * SECOND_NS;
    is_fresh.then_some(pool)
}

/// Of the pool's capacity, what a host with this weight turns away.
fn turned_ppm(pool: &Pool, weight_ppm: u32) -> u64 {
    u64::from(pool.own_ppm) * u64::from(WHOLE_PPM - weight_ppm) / u64::from(WHOLE_PPM)
}

#[test]
fn minimum_healthy_capacity() {
    histories(1, |step| {
        let Some(pool) = pool(step).filter(|pool| pool.own_ppm > 0) else {
            return;
        };
        let least = u64::from(step.rules.bounds.min_healthy_permille) * 1000;
        for (scope, weight_ppm) in moved_away(step) {
            if breaks_glass(step, &scope) {
                continue;
            }
            let left = u64::from(pool.healthy_ppm).saturating_sub(turned_ppm(pool, weight_ppm));
            assert!(left >= least, "{scope} at {weight_ppm}: {left} of {least}");
        }
    });
}

#[test]
fn maximum_drain() {
    histories(2, |step| {
        let most = step.rules.bounds.max_drain_permille * 1000;
        for (scope, weight_ppm) in moved_away(step) {
            let turned = WHOLE_PPM - weight_ppm;
            assert!(breaks_glass(step, &scope) || turned <= most, "{scope}");
        }
    });
}

#[test]
fn maximum_rate() {
    // When anything that has a setting moved last, by itself or because of a panic.
    let mut moved_ns = None;
    let mut begun_at_once = 0;
    histories(3, |step| {
        if step.is_restarted || step.before.decisions == 0 {
            moved_ns = None;
        }
        let was_moved_ns = moved_ns;
        let is_moving = |scope: &Scope| step.was(scope) != step.is(scope);
        if step.scopes().iter().any(is_moving) {
            moved_ns = Some(step.now_ns);
        }
        if step.is_restarted || step.after.is_panicking || step.before.is_panicking {
            return;
        }
        // 1 / (e D) for the shortest dead time in force; the region's is that of 12 s.
        let dead_s = step.rules.policies.iter().map(|policy| policy.dead_time_s);
        let dead_s = dead_s.chain([12]).min().unwrap();
        let most_per_s = 1e6 / (std::f64::consts::E * f64::from(dead_s));
        // A gap since the last movement counts for two seconds at most.
        let gap_s = ((step.now_ns - step.before.now_ns) as f64 / 1e9 + 0.01).min(2.0);
        // What stood still for half a second begins with as much as that.
        let stood_s =
            was_moved_ns.map_or(0.5, |then| step.now_ns.saturating_sub(then) as f64 / 1e9);
        let begun_s = stood_s.min(0.5);
        for scope in step.scopes() {
            if !is_automatic(step, &scope) {
                continue;
            }
            let (was, is) = (step.was(&scope), step.is(&scope));
            let moved = f64::from(was.abs_diff(is));
            let most = if is < was {
                most_per_s
            } else {
                most_per_s.max(16_667.0)
            };
            begun_at_once += u64::from(moved > most * gap_s + 1.0);
            assert!(
                moved <= most * gap_s.max(begun_s) + 1.0,
                "{scope}: {was} to {is} in {gap_s} s, after {stood_s} s, {most} each second"
            );
        }
    });
    assert!(begun_at_once > 0, "nothing ever began between two looks");
}

#[test]
fn panic_threshold() {
    histories(4, |step| {
        if pool(step).is_some_and(|pool| pool.healthy_ppm < 500_000) {
            for (scope, _) in moved_away(step) {
                assert!(!is_automatic(step, &scope), "{scope}");
            }
        }
    });
}

#[test]
fn drain_tokens() {
    histories(5, |step| {
        for (scope, weight_ppm) in moved_away(step) {
            if !is_automatic(step, &scope) || weight_ppm >= 500_000 {
                continue;
            }
            let pool = pool(step).expect("below half without the centre");
            let token = pool.token.expect("below half without a token");
            assert!(
                step.now_ns < token.until_boot_ns,
                "{scope}: the token is over"
            );
            assert!(weight_ppm >= u32::from(token.floor_permille) * 1000);
            assert!(turned_ppm(pool, weight_ppm) <= 100_000, "{scope}");
        }
    });
}

/// Whether a policy has numbers of this scope that it may act on.
fn has_usable_numbers(step: &Step, policy: &str, scope: &Scope, age_ns: u64) -> bool {
    let Some(policy) = step.rules.policies.iter().find(|own| own.name == policy) else {
        return false;
    };
    step.inputs.cells.iter().any(|cell| {
        let in_scope = match scope {
            Scope::Host => true,
            Scope::Service(name) => *name == cell.service,
            Scope::Cell(name) => *name == cell.name,
            Scope::Prefix(_) => false,
        };
        let estimate = &cell.metrics[0].1;
        let is_young = step
            .now_ns
            .checked_sub(cell.measured_boot_ns)
            .is_some_and(|age| age <= age_ns);
        in_scope && is_young && !estimate.is_void && policy.min_n > 0
    })
}

#[test]
fn staleness() {
    histories(6, |step| {
        for gate in &step.after.gates {
            let same = |old: &&crate::steer::policy::gate::Gate| {
                old.policy == gate.policy && old.scope == gate.scope
            };
            let Some(old) = step.before.gates.iter().find(same) else {
                continue;
            };
            let is_away = gate.weight_ppm < old.weight_ppm;
            // The latest usable numbers may have been those of a step before, up to 3 s ago.
            if is_away && step.dt_ns > 3 * SECOND_NS {
                let has = has_usable_numbers(step, &gate.policy, &gate.scope, 3 * SECOND_NS);
                assert!(has, "{} moved {} by old numbers", gate.policy, gate.scope);
            }
        }
    });
}

#[test]
fn flap_damping() {
    // Of each gate: its penalty and since when, whether it is suppressed, and its latest change.
    let mut known: BTreeMap<(String, Scope), (f64, u64, bool, u64)> = BTreeMap::new();
    let mut changes = 0;
    histories(7, |step| {
        if step.is_restarted || step.before.decisions == 0 {
            known.clear();
        }
        for gate in &step.after.gates {
            let key = (gate.policy.clone(), gate.scope.clone());
            let same = |old: &&crate::steer::policy::gate::Gate| {
                old.policy == gate.policy && old.scope == gate.scope
            };
            let old = step
                .before
                .gates
                .iter()
                .find(same)
                .map_or(Phase::Rest, |old| old.phase);
            let is_change =
                old != gate.phase && matches!(gate.phase, Phase::TurningAway | Phase::TakingBack);
            let (penalty, at_ns, suppressed, turned_ns) =
                known.get(&key).copied().unwrap_or((0.0, 0, false, 0));
            let age = (step.now_ns - at_ns) as f64 / (900.0 * 1e9);
            let penalty = penalty * 0.5_f64.powf(age);
            let suppressed = suppressed && penalty > 750.0 + 1e-6;
            if !is_change {
                known.insert(key, (penalty, step.now_ns, suppressed, turned_ns));
                continue;
            }
            changes += 1;
            assert!(!suppressed, "{key:?} changed its direction at {penalty}");
            let policy = step
                .rules
                .policies
                .iter()
                .find(|own| own.name == gate.policy);
            let dwell_ns = u64::from(policy.unwrap().dwell_s) * SECOND_NS;
            assert!(
                turned_ns == 0 || step.now_ns - turned_ns >= dwell_ns,
                "{key:?}"
            );
            let penalty = penalty + 1000.0;
            known.insert(key, (penalty, step.now_ns, penalty >= 2500.0, step.now_ns));
        }
    });
    assert!(changes > 0);
}

#[test]
fn deadband() {
    histories(8, |step| {
        for decision in &step.outcome.decisions {
            let moved = decision.from_permille.abs_diff(decision.to_permille);
            let is_step = matches!(decision.kind, Kind::TurnAway | Kind::TakeBack);
            // A cap alone moves nothing.
            if is_step && moved != 0 && decision.to_permille != 1000 {
                assert!(moved >= 49, "{decision:?}");
            }
        }
    });
}

#[test]
fn never_argmax() {
    histories(9, |step| {
        for decision in &step.outcome.decisions {
            if matches!(decision.kind, Kind::TurnAway | Kind::TakeBack) {
                let moved = decision.from_permille.abs_diff(decision.to_permille);
                assert!(moved <= 334, "{decision:?}");
            }
        }
    });
}

#[test]
fn control_share() {
    histories(10, |step| {
        for (scope, weight_ppm) in moved_away(step) {
            let stays = step.rules.bounds.control_permille * 1000;
            assert!(
                !is_automatic(step, &scope) || weight_ppm >= stays,
                "{scope}"
            );
        }
    });
}

#[test]
fn generations_monotone() {
    histories(11, |step| {
        let (old, new) = (&step.before.position, &step.after.position);
        if old.settings == new.settings {
            assert_eq!(old.generation, new.generation);
        } else {
            assert_eq!(old.generation + 1, new.generation);
        }
        for decision in &step.outcome.decisions {
            let number: u64 = decision.id[1..].parse().unwrap();
            assert!(number > step.before.decisions && number <= step.after.decisions);
        }
        assert_eq!(step.outcome.position, *new);
    });
}

#[test]
fn expiry_always_reached() {
    // How long each order has been in force, over restarts and reboots.
    let mut in_force: BTreeMap<(String, u64), u64> = BTreeMap::new();
    histories(12, |step| {
        if step.before.decisions == 0 {
            in_force.clear();
        }
        for held in step.after.book.orders() {
            assert!(!held.deadline.is_over(step.now_ns), "{held:?}");
            // Long after, another order may have the same name.
            let named = (held.order.id.clone(), held.order.created_unix_ns);
            let seen_ns = in_force.entry(named).or_default();
            if !step.is_restarted && step.before.now_ns > 0 {
                *seen_ns += step.dt_ns;
            }
            // It was taken at some moment after the call before the first that saw it.
            let most_ns = (u64::from(held.order.ttl_s) + 401) * SECOND_NS;
            assert!(*seen_ns <= most_ns, "{held:?}");
        }
    });
}

#[test]
fn a_human_always_wins() {
    let mut won = 0;
    histories(13, |step| {
        if step.after.is_panicking || step.is_restarted || step.before.is_panicking {
            return;
        }
        let scopes = step
            .after
            .book
            .orders()
            .iter()
            .map(|held| held.order.scope.clone());
        for scope in scopes.collect::<Vec<_>>() {
            let (was, is) = (step.was(&scope), step.is(&scope));
            // Invariants stand above humans, and raise only.
            let is_bound = step.after.bound.iter().any(|(own, _)| *own == scope);
            match say(step, &scope) {
                Say::Order(held) if held.order.level.is_human() => {
                    let wanted = wanted_ppm(held);
                    if is_bound {
                        assert!(is >= wanted.min(was), "{held:?}");
                        continue;
                    }
                    won += 1;
                    let (from, to) = (was.min(wanted), was.max(wanted));
                    assert!((from..=to).contains(&is), "{held:?}: {was} to {is}");
                    if held.order.ramp_s == 0 {
                        assert_eq!(is, wanted, "{held:?}");
                    }
                }
                Say::Stays(held) if !is_bound => {
                    won += 1;
                    assert_eq!(was, is, "{held:?}");
                }
                _ => {}
            }
        }
    });
    assert!(won > 0);
}

#[test]
fn a_panic_is_neutral_at_once() {
    let mut panics = 0;
    histories(14, |step| {
        let has_order = |held: &Held| held.order.action == Action::Panic;
        if step.inputs.is_panic || step.after.book.orders().iter().any(has_order) {
            panics += 1;
            assert!(step.outcome.position.is_neutral());
        }
    });
    assert!(panics > 0);
}

#[test]
fn advice_moves_nothing() {
    let mut advice = 0;
    histories(15, |step| {
        let is_all_advice =
            !step.rules.is_armed || step.rules.policies.iter().all(|policy| !policy.is_armed);
        let decisions = &step.outcome.decisions;
        if is_all_advice {
            advice += decisions
                .iter()
                .filter(|d| d.kind == Kind::TurnAway)
                .count();
            assert!(
                decisions
                    .iter()
                    .all(|d| d.kind != Kind::TurnAway || !d.acts)
            );
            assert!(
                step.after
                    .gates
                    .iter()
                    .all(|gate| gate.weight_ppm == WHOLE_PPM)
            );
        }
    });
    assert!(advice > 0);
}

/// Whatever happened: without numbers and without new orders the host is neutral when the last order
/// is over and the drift is done; and nothing was drained meanwhile that was not.
#[test]
fn fail_static_then_open_and_never_drained() {
    // Each is ten times as long as the others.
    let count = super::history::count() / 10;
    let mut was_turned = 0;
    for seed in 0..count {
        let mut host = Host::new(seed | 16 << 32);
        let mut tally = Tally::default();
        run(&mut host, &mut tally, &mut |_| {});
        was_turned += u64::from(!host.state.position.is_neutral());
        // Orders of 20 min, 180 s of patience, 5 min of drift, and what a ramp of a minute takes.
        for _ in 0..(1200 + 180 + 300 + 60) / 2 {
            host.clock.boot_ns += 2 * SECOND_NS;
            host.clock.unix_ns += 2 * SECOND_NS;
            step(
                &mut host,
                &Inputs::default(),
                false,
                &mut tally,
                &mut |step| {
                    for (scope, _) in moved_away(step) {
                        assert!(
                            !is_automatic(step, &scope)
                                || step.before.book != step.after.book
                                || !step.after.book.orders().is_empty()
                                || step
                                    .after
                                    .gates
                                    .iter()
                                    .any(|gate| gate.weight_ppm < WHOLE_PPM),
                            "{scope}"
                        );
                    }
                },
            );
        }
        assert!(host.state.position.is_neutral(), "{seed}: {:?}", host.state);
        assert!(host.state.position.settings.is_empty(), "{seed}");
    }
    assert!(was_turned > 0);
}

#[test]
fn the_same_history_decides_the_same() {
    let of = |seed| {
        let mut host = Host::new(seed);
        let mut told = Vec::new();
        run(&mut host, &mut Tally::default(), &mut |step| {
            told.push(step.outcome.clone());
        });
        (host.state, told)
    };
    for seed in 0..50 {
        assert_eq!(of(seed), of(seed));
    }
}

/// What is kept comes back as it was.
#[test]
fn a_state_survives_being_written_down() {
    let mut host = Host::new(5);
    run(&mut host, &mut Tally::default(), &mut |step| {
        let text = serde_json::to_string(step.after).unwrap();
        let read: crate::steer::policy::State = serde_json::from_str(&text).unwrap();
        assert_eq!(read.book, step.after.book);
        assert_eq!(read.position, step.after.position);
        assert_eq!(read.settings, step.after.settings);
    });
}

//! What would come of an order, or of none: the same decisions, from a copy, at a thousand times the
//! speed of life.

use serde::Serialize;

use super::overrides::{Held, Moment, Order, Refusal};
use super::policy::{Decision, Inputs, Rules, State, decide};
use super::{Position, Scope};

/// Between two looks at the copy.
const STEP_NS: u64 = 1_000_000_000;

/// Where one scope would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    pub scope: Scope,
    pub from_permille: u16,
    pub to_permille: u16,
    pub cap_bps: Option<u64>,
    /// The last change within the time that was looked ahead.
    pub settled_after_s: u32,
}

/// What would come of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Orders that it would end.
    pub released: Vec<Held>,
    pub moves: Vec<Move>,
    pub decisions: Vec<Decision>,
    pub position: Position,
}

/// What `order` would bring about within so many seconds, as long as nothing else changes: what is
/// measured now is taken to be measured again and again. Without an order: what automation is about
/// to do. Nothing that is given is changed.
///
/// # Errors
/// The order would be refused.
pub fn forecast(
    rules: &Rules,
    state: &State,
    inputs: &Inputs,
    order: Option<Order>,
    now: &Moment,
    ahead_s: u32,
) -> Result<Forecast, Refusal> {
    let mut copy = state.clone();
    let released = match order {
        Some(order) => copy.book.admit(order, now)?,
        None => Vec::new(),
    };
    Ok(Forecast {
        released,
        ..ahead(rules, state, copy, inputs, now, ahead_s)
    })
}

/// What automation would do if nobody held it: for `weir steer status`.
pub fn unheld(
    rules: &Rules,
    state: &State,
    inputs: &Inputs,
    now: &Moment,
    ahead_s: u32,
) -> Forecast {
    let mut copy = state.clone();
    copy.book = super::overrides::Book::default();
    ahead(rules, state, copy, inputs, now, ahead_s)
}

fn ahead(
    rules: &Rules,
    state: &State,
    mut copy: State,
    inputs: &Inputs,
    now: &Moment,
    ahead_s: u32,
) -> Forecast {
    let mut decisions = Vec::new();
    let mut changed_s = Vec::new();
    for s in 0..=ahead_s {
        let dt_ns = u64::from(s) * STEP_NS;
        let inputs = later(inputs, dt_ns, s > 0);
        let (next, outcome) = decide(rules, copy, &inputs, now.boot_ns.saturating_add(dt_ns));
        decisions.extend(outcome.decisions);
        let scopes = next.settings.iter().map(|own| own.scope.clone());
        for scope in scopes.collect::<Vec<_>>() {
            note_change(&mut changed_s, scope, s, &next);
        }
        copy = next;
    }
    let mut scopes: Vec<_> = state
        .settings
        .iter()
        .chain(&copy.settings)
        .map(|own| own.scope.clone())
        .collect();
    scopes.sort();
    scopes.dedup();
    let permille = |state: &State, scope: &Scope| {
        let ppm = state.stands(scope).weight_ppm;
        u16::try_from(ppm.div_ceil(1000)).unwrap_or(1000)
    };
    let moves = scopes.into_iter().map(|scope| Move {
        from_permille: permille(state, &scope),
        to_permille: permille(&copy, &scope),
        cap_bps: copy.stands(&scope).cap_bps,
        settled_after_s: changed_s
            .iter()
            .find(|(own, ..)| *own == scope)
            .map_or(0, |(_, s, _)| *s),
        scope,
    });
    Forecast {
        released: Vec::new(),
        moves: moves
            .filter(|own| own.from_permille != own.to_permille || own.cap_bps.is_some())
            .collect(),
        decisions,
        position: copy.position,
    }
}

/// When each scope changed last.
fn note_change(changed: &mut Vec<(Scope, u32, u32)>, scope: Scope, s: u32, next: &State) {
    let weight_ppm = next.stands(&scope).weight_ppm;
    match changed.iter_mut().find(|(own, ..)| *own == scope) {
        Some((_, at_s, was)) if *was != weight_ppm => (*at_s, *was) = (s, weight_ppm),
        Some(_) => {}
        None => changed.push((scope, s, weight_ppm)),
    }
}

/// The same numbers, measured so much later. What happens once has happened.
fn later(inputs: &Inputs, dt_ns: u64, is_later: bool) -> Inputs {
    let mut inputs = inputs.clone();
    for cell in &mut inputs.cells {
        cell.measured_boot_ns = cell.measured_boot_ns.saturating_add(dt_ns);
    }
    if let Some(capacity) = &mut inputs.capacity {
        capacity.measured_boot_ns = capacity.measured_boot_ns.saturating_add(dt_ns);
    }
    if let Some(pool) = &mut inputs.pool {
        pool.heard_boot_ns = pool.heard_boot_ns.saturating_add(dt_ns);
    }
    if is_later {
        inputs.hurt.clear();
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::overrides::Action;
    use crate::steer::overrides::tests::{moment, order};

    #[test]
    fn a_drain_is_rehearsed_and_nothing_is_changed_by_it() {
        let state = State::default();
        let mut drain = order("a", Action::Drain);
        drain.ramp_s = 10;
        let inputs = Inputs::default();
        let rules = Rules::default();
        let told = forecast(&rules, &state, &inputs, Some(drain), &moment(100), 60).unwrap();
        let [only] = &told.moves[..] else {
            panic!("{told:?}");
        };
        assert_eq!((only.from_permille, only.to_permille), (1000, 0));
        // The first step counts for the two seconds that a gap is worth.
        assert!((8..=11).contains(&only.settled_after_s), "{only:?}");
        assert_eq!(state, State::default());
        let refused = forecast(
            &rules,
            &state,
            &inputs,
            Some(order("b", Action::Weight { permille: 2000 })),
            &moment(100),
            60,
        );
        assert!(refused.is_err());
    }

    #[test]
    fn what_automation_would_do_is_told_while_a_human_holds_it() {
        let mut state = State::default();
        state
            .book
            .admit(order("a", Action::Drain), &moment(100))
            .unwrap();
        let inputs = Inputs::default();
        let (state, outcome) = decide(&Rules::default(), state, &inputs, moment(100).boot_ns);
        assert_eq!(outcome.position.settings[0].weight_permille, 0);
        let told = unheld(&Rules::default(), &state, &inputs, &moment(101), 120);
        assert_eq!(told.moves[0].to_permille, 1000);
    }
}

//! What a rebalance would move, and whether those who are to take it can.
//!
//! Pure.

use super::rebalance::Around;
use super::word::headroom_bps;
use crate::steer::central::Plan;
use crate::steer::policy::invariants::PANIC_HEALTHY_PPM;

/// What bounds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the targets' hosts, so much must be well, in millionths.
    pub least_healthy_ppm: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            least_healthy_ppm: PANIC_HEALTHY_PPM,
        }
    }
}

/// One that gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gives {
    pub host: String,
    /// What it takes now.
    pub from_permille: u16,
    pub to_permille: u16,
    /// None: it is not known what it sends.
    pub moved_bps: Option<u64>,
    /// None: it would follow.
    pub why_not: Option<&'static str>,
}

/// One that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takes {
    pub host: String,
    pub sent_bps: Option<u64>,
    pub headroom_bps: Option<u64>,
    /// If it is shared out by capacity.
    pub gets_bps: Option<u64>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    pub gives: Vec<Gives>,
    pub takes: Vec<Takes>,
    pub moved_bps: u64,
    /// None: it is not known.
    pub headroom_bps: Option<u64>,
    /// Why it must not be; empty: it may.
    pub problems: Vec<String>,
}

/// What would come of it for the hosts that have not moved yet.
pub fn preview(plan: &Plan, around: &Around, is_left: impl Fn(&str) -> bool) -> Preview {
    let gives: Vec<_> = around
        .of_region(&plan.from)
        .filter(|view| is_left(&view.host))
        .map(|view| {
            let why_not = match view.gate {
                _ if !view.is_fresh => Some("it is silent"),
                None => Some("it has no gate"),
                Some(gate) if !gate.is_armed => Some("it is not armed (steer.armed)"),
                Some(_) => None,
            };
            let moved = |bps: u64| bps / 1000 * u64::from(plan.permille);
            let from_permille = u16::try_from(view.weight_permille()).unwrap_or(1000);
            let kept = u32::from(from_permille) * u32::from(1000 - plan.permille.min(1000)) / 1000;
            Gives {
                host: view.host.clone(),
                from_permille,
                to_permille: u16::try_from(kept).unwrap_or(1000),
                moved_bps: around.ledger.sent_bps(&view.host).map(moved),
                why_not,
            }
        })
        .collect();
    let follows = |gives: &&Gives| gives.why_not.is_none();
    let moved_bps = gives.iter().filter(follows).filter_map(|one| one.moved_bps);
    let moved_bps = moved_bps.fold(0, u64::saturating_add);
    let takes = takes(plan, around, moved_bps);
    let headroom_bps = takes
        .iter()
        .map(|one| one.headroom_bps)
        .sum::<Option<u64>>()
        .filter(|_| !takes.is_empty());
    let mut told = Preview {
        problems: Vec::new(),
        gives,
        takes,
        moved_bps,
        headroom_bps,
    };
    told.problems = problems(plan, around, &told);
    told
}

fn takes(plan: &Plan, around: &Around, moved_bps: u64) -> Vec<Takes> {
    let targets: Vec<_> = around
        .of_region(&plan.to)
        .filter_map(|view| Some((view, around.places.of(&view.host)?)))
        .collect();
    let healthy = targets.iter().filter(|(view, _)| view.is_healthy());
    let all: u128 = healthy.map(|(_, place)| u128::from(place.share())).sum();
    let takes = targets.iter().map(|(view, place)| {
        let gets = u128::from(moved_bps) * u128::from(place.share()) / all.max(1);
        Takes {
            host: view.host.clone(),
            sent_bps: around.ledger.sent_bps(&view.host),
            headroom_bps: headroom_bps(view, place, around.ledger),
            gets_bps: view
                .is_healthy()
                .then(|| u64::try_from(gets).unwrap_or(u64::MAX)),
        }
    });
    takes.collect()
}

fn problems(plan: &Plan, around: &Around, told: &Preview) -> Vec<String> {
    let mut problems = Vec::new();
    let to = &plan.to;
    if told.takes.is_empty() {
        problems.push(format!("no host of the region {to:?} is known"));
        return problems;
    }
    let share = |is_wanted: &dyn Fn(&super::view::View) -> bool| -> u128 {
        let hosts = around.of_region(to).filter(|view| is_wanted(view));
        let shares = hosts.filter_map(|view| around.places.of(&view.host));
        shares.map(|place| u128::from(place.share())).sum()
    };
    let healthy_ppm = share(&|view| view.is_healthy()) * 1_000_000 / share(&|_| true).max(1);
    if healthy_ppm < u128::from(around.limits.least_healthy_ppm) {
        problems.push(format!(
            "{} % of the region {to:?} is healthy; half must be",
            healthy_ppm / 10_000
        ));
    }
    // A human may break this one, for want of numbers or in spite of them.
    if plan.is_break_glass {
        return problems;
    }
    match told.headroom_bps {
        None => problems.push(format!(
            "it is not known what the hosts of the region {to:?} can still take: give capacity_mbps in \
             [[steer.pool]], wait until they have been heard for some seconds, or order it with \
             --break-glass"
        )),
        Some(headroom) if headroom < told.moved_bps => problems.push(format!(
            "the hosts of the region {to:?} can take {} Mbit/s more, and {} would come",
            headroom / 1_000_000,
            told.moved_bps / 1_000_000
        )),
        Some(_) => {}
    }
    problems
}

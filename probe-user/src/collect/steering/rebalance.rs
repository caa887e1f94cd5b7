//! One order that moves a share of a region's traffic to another, host by host.
//!
//! Pure: [`Rebalance::step`] is a function of how hosts are and the time. One host goes first, then a
//! tenth of the region, then three tenths, then all; between two of these it waits until the effect of
//! the last can be seen. It stops where it is when hosts fall silent or a target has no room left, and
//! takes everything back when somebody is worse off beyond doubt, when there is a panic, when it is
//! undone, and when its time is over. Who moves follows from hosts' names alone, so that nobody moves
//! twice when others come and go.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::harm::{Groups, Harm};
use super::ledger::Ledger;
use super::places::Places;
use super::preview::{Limits, preview};
use super::view::View;
use crate::steer::central::{Kept, Phase, Plan};
use crate::steer::overrides::Auth;

const SECOND_NS: u64 = 1_000_000_000;
/// Of the region's hosts, those that have moved after each stage but the first, which is one host.
const STAGES_PERMILLE: [u64; 3] = [100, 300, 1000];

/// So long it is waited for numbers of the targets, e.g. after a start of the collector.
const UNKNOWN_NS: u64 = 60 * SECOND_NS;

/// The least and the most of a region's traffic that is moved: less is noise, and automation leaves
/// half.
pub const PERMILLE: std::ops::RangeInclusive<u16> = 50..=500;

/// One under way.
#[derive(Debug)]
pub struct Rebalance {
    pub kept: Kept,
    /// Of the stage, on the collector's clock that never steps.
    stage_ns: u64,
    /// Silence counts from here on.
    judged_from_ns: u64,
    harm: Option<Harm>,
}

/// All that a step is made from.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    pub places: &'a Places,
    pub views: &'a [View],
    pub ledger: &'a Ledger,
    pub limits: Limits,
    pub now_ns: u64,
    pub now_unix_ns: u64,
}

impl Around<'_> {
    pub fn of_region<'s>(&'s self, region: &'s str) -> impl Iterator<Item = &'s View> {
        let is_in = move |view: &&View| {
            let place = self.places.of(&view.host);
            place.is_some_and(|place| place.region == region)
                && super::word::belongs(view, self.now_unix_ns)
        };
        self.views.iter().filter(is_in)
    }
}

impl Rebalance {
    /// As it was ordered; `waits`: for a second person.
    pub fn new(plan: Plan, waits: bool, around: &Around) -> Self {
        let canary = around
            .of_region(&plan.from)
            .filter(|view| view.follows() && view.is_healthy())
            .min_by_key(|view| rank(&plan.id, &view.host));
        let canary = canary.map(|view| view.host.clone()).unwrap_or_default();
        let phase = if waits {
            Phase::WaitsForSecond
        } else {
            Phase::Moving { stage: 0 }
        };
        let kept = Kept {
            plan,
            phase,
            canary,
        };
        Self {
            harm: None,
            ..Self::restored(kept, around.now_ns, 0)
        }
        .watched(around)
    }

    fn watched(mut self, around: &Around) -> Self {
        if stage_of(&self.kept.phase).is_some() {
            self.harm = Some(self.watch(around));
        }
        self
    }

    /// As it was kept. The stage's time begins anew: what went on meanwhile nobody has seen. After a
    /// start hosts are not heard of at once: for `grace_ns` nobody counts as silent.
    pub fn restored(kept: Kept, now_ns: u64, grace_ns: u64) -> Self {
        Self {
            kept,
            stage_ns: now_ns,
            judged_from_ns: now_ns.saturating_add(grace_ns),
            harm: None,
        }
    }

    /// A second person agrees.
    pub fn approve(&mut self, second: Auth, around: &Around) -> bool {
        if self.kept.phase != Phase::WaitsForSecond {
            return false;
        }
        self.kept.plan.second = Some(second);
        self.kept.phase = Phase::Moving { stage: 0 };
        self.stage_ns = around.now_ns;
        self.harm = Some(self.watch(around));
        true
    }

    /// Takes all back; says whether there was anything.
    pub fn undo(&mut self, why: &str) -> bool {
        if self.is_over() {
            return false;
        }
        self.kept.phase = Phase::Undone {
            why: why.to_owned(),
        };
        self.harm = None;
        true
    }

    pub fn is_over(&self) -> bool {
        self.kept.phase.is_over()
    }

    /// What is wanted of a host; none: nothing.
    pub fn weight_permille(&self, host: &str, places: &Places) -> Option<u16> {
        let stage = stage_of(&self.kept.phase)?;
        let is_its = places
            .of(host)
            .is_some_and(|place| place.region == self.kept.plan.from);
        (is_its && self.has_moved(host, stage)).then(|| 1000 - self.kept.plan.permille.min(1000))
    }

    /// Whether a host is among those that have moved by that stage.
    fn has_moved(&self, host: &str, stage: usize) -> bool {
        let permille = stage
            .checked_sub(1)
            .map_or(0, |stage| STAGES_PERMILLE[stage.min(2)]);
        host == self.kept.canary || rank(&self.kept.plan.id, host) % 1000 < permille
    }

    /// Goes on, or stops, or takes all back; says whether anything changed.
    pub fn step(&mut self, around: &Around) -> bool {
        if self.is_over() {
            return false;
        }
        if let Some(why) = self.ends(around) {
            return self.undo(&why);
        }
        let Phase::Moving { stage } = self.kept.phase else {
            return self.hurts(around);
        };
        if self.hurts(around) {
            return true;
        }
        if around.now_ns < self.judged_from_ns {
            return false;
        }
        match self.hindrance(around, stage) {
            Hindrance::Nothing => {}
            Hindrance::Unknown => return false,
            Hindrance::Stops(why) => {
                self.kept.phase = Phase::Stopped { stage, why };
                return true;
            }
        }
        let dead_ns = u64::from(self.kept.plan.dead_time_s) * SECOND_NS;
        if around.now_ns.saturating_sub(self.stage_ns) < dead_ns {
            return false;
        }
        self.go_on(around, stage)
    }

    /// To the next stage in which a host moves.
    fn go_on(&mut self, around: &Around, stage: usize) -> bool {
        let moved = |stage: usize| {
            let hosts = around.of_region(&self.kept.plan.from);
            hosts
                .filter(|view| self.has_moved(&view.host, stage))
                .count()
        };
        let now = moved(stage);
        let next = (stage + 1..=STAGES_PERMILLE.len()).find(|next| moved(*next) > now);
        let Some(next) = next else {
            self.kept.phase = Phase::Moved;
            return true;
        };
        self.kept.phase = Phase::Moving { stage: next };
        self.stage_ns = around.now_ns;
        self.harm = Some(self.watch(around));
        true
    }

    /// Why all of it ends.
    fn ends(&self, around: &Around) -> Option<String> {
        let plan = &self.kept.plan;
        let end_ns = plan
            .created_unix_ns
            .saturating_add(u64::from(plan.ttl_s) * SECOND_NS);
        if around.now_unix_ns >= end_ns {
            return Some(format!("its {} s are over", plan.ttl_s));
        }
        let both = around
            .of_region(&plan.from)
            .chain(around.of_region(&plan.to));
        let mut panicking = both.filter(|view| view.is_fresh && view.is_panicking());
        let panicking = panicking.next()?;
        Some(format!("there is a panic at {}", panicking.host))
    }

    /// Takes all back if somebody is worse off.
    fn hurts(&mut self, around: &Around) -> bool {
        let groups = self.groups(around);
        let Some(harm) = &mut self.harm else {
            return false;
        };
        match harm.found(&groups, around.ledger, around.now_ns) {
            Some(why) => self.undo(&why),
            None => false,
        }
    }

    /// What keeps it from going on.
    fn hindrance(&self, around: &Around, stage: usize) -> Hindrance {
        let plan = &self.kept.plan;
        let is_silent = |view: &&View| !view.is_fresh;
        let moved = around
            .of_region(&plan.from)
            .filter(|view| self.has_moved(&view.host, stage));
        let silent = moved
            .chain(around.of_region(&plan.to))
            .filter(is_silent)
            .map(|view| view.host.as_str())
            .take(5)
            .collect::<Vec<_>>();
        if !silent.is_empty() {
            return Hindrance::Stops(format!("silent: {}", silent.join(", ")));
        }
        let mut told = preview(plan, around, |host| !self.has_moved(host, stage));
        if told.problems.is_empty() {
            return Hindrance::Nothing;
        }
        let since_ns = self.stage_ns.max(self.judged_from_ns);
        let is_early = around.now_ns.saturating_sub(since_ns) < UNKNOWN_NS;
        if told.headroom_bps.is_none() && !told.takes.is_empty() && is_early {
            return Hindrance::Unknown;
        }
        Hindrance::Stops(told.problems.swap_remove(0))
    }

    fn groups<'a>(&self, around: &'a Around) -> Groups<'a> {
        let stage = stage_of(&self.kept.phase).unwrap_or(0);
        let plan = &self.kept.plan;
        let mut groups = Groups::default();
        for view in around.views {
            let Some(place) = around.places.of(&view.host) else {
                continue;
            };
            if place.region == plan.to {
                groups.targets.push(&view.host);
            } else if place.region == plan.from && self.has_moved(&view.host, stage) {
                groups.moved.push(&view.host);
            } else {
                groups.control.push(&view.host);
            }
        }
        groups
    }

    fn watch(&self, around: &Around) -> Harm {
        let groups = self.groups(around);
        Harm::new(&self.kept.plan.id, &groups, around.ledger, around.now_ns)
    }
}

/// What keeps a rebalance from going on.
enum Hindrance {
    Nothing,
    /// It is not known yet whether the targets can take more.
    Unknown,
    Stops(String),
}

/// The stage whose hosts have moved; none: nobody has.
fn stage_of(phase: &Phase) -> Option<usize> {
    match phase {
        Phase::Moving { stage } | Phase::Stopped { stage, .. } => Some(*stage),
        Phase::Moved => Some(STAGES_PERMILLE.len()),
        Phase::WaitsForSecond | Phase::Undone { .. } => None,
    }
}

/// A host's place in line: it follows from the names alone.
fn rank(id: &str, host: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(id.as_bytes());
    hasher.write_u8(0);
    hasher.write(host.to_ascii_lowercase().as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests;

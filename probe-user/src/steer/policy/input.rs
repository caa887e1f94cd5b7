//! What a decision is made from: plain numbers with their age, by whoever measured them.

use serde::{Deserialize, Serialize};

use super::rules::{Metric, Moves, OwnFault, Policy, SECOND_NS, Selector};
use crate::qoe::blame::WHOLE_PPM;
use crate::qoe::verdict::{Sureness, Verdict, Who};
use crate::steer::Scope;

/// Older than this, a number moves nothing.
pub const FRESH_NS: u64 = 3 * SECOND_NS;
/// No better evidence for so long: what was turned drifts back.
pub const ABANDONED_NS: u64 = 180 * SECOND_NS;

/// A share with its interval, in parts per million: no share is no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Trials.
    pub n: u64,
    pub low_ppm: u32,
    pub point_ppm: u32,
    pub high_ppm: u32,
    /// Too much is missing for it to mean anything.
    pub is_void: bool,
}

impl Estimate {
    /// Whether it can be what it says: shares, in order.
    pub fn is_sound(&self) -> bool {
        !self.is_void
            && self.low_ppm <= self.point_ppm
            && self.point_ppm <= self.high_ppm
            && self.high_ppm <= WHOLE_PPM
    }

    /// Of two disjoint sets of trials together. Means of the bounds bound the mean.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let n = self.n.saturating_add(other.n);
        let mean = |a: u32, b: u32| {
            let sum = u128::from(a) * u128::from(self.n) + u128::from(b) * u128::from(other.n);
            u32::try_from(sum / u128::from(n.max(1))).unwrap_or(WHOLE_PPM)
        };
        Self {
            n,
            low_ppm: mean(self.low_ppm, other.low_ppm),
            point_ppm: mean(self.point_ppm, other.point_ppm),
            high_ppm: mean(self.high_ppm, other.high_ppm),
            is_void: self.is_void || other.is_void,
        }
    }
}

/// Who is answerable, as far as a policy asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// This host's part; none: it is not this host's.
    pub own: Option<OwnFault>,
    /// More than half of the time says so, over several deliveries.
    pub is_likely: bool,
}

impl From<&Verdict> for Blame {
    fn from(verdict: &Verdict) -> Self {
        let own = match verdict.who {
            Who::HostThinks => Some(OwnFault::Think),
            Who::HostWrites => Some(OwnFault::ApplicationWrite),
            Who::Pacing => Some(OwnFault::Pacing),
            Who::OriginLate
            | Who::Origin
            | Who::PathLoss { .. }
            | Who::PathRate { .. }
            | Who::Receiver { .. }
            | Who::Several => None,
        };
        Self {
            own,
            is_likely: verdict.sureness >= Sureness::Likely,
        }
    }
}

/// One cell's numbers of sessions that began after the latest step: old ones stay where they are,
/// and with them a host would look as if nothing had helped, or as if all had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellInput {
    /// As `weir cells` lists it.
    pub name: String,
    pub service: String,
    pub class: String,
    pub network: String,
    /// When the numbers ended, on this host's clock.
    pub measured_boot_ns: u64,
    pub metrics: Vec<(Metric, Estimate)>,
    pub blame: Option<Blame>,
}

impl CellInput {
    fn matches(&self, selector: &Selector) -> bool {
        let is = |wanted: &Option<String>, own: &String| wanted.as_ref().is_none_or(|w| w == own);
        is(&selector.service, &self.service)
            && is(&selector.class, &self.class)
            && is(&selector.network, &self.network)
    }

    fn scope(&self, moves: Moves) -> Scope {
        match moves {
            Moves::Host => Scope::Host,
            Moves::Service => Scope::Service(self.service.clone()),
            Moves::Cell => Scope::Cell(self.name.clone()),
        }
    }
}

/// What this host can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    pub measured_boot_ns: u64,
    /// Of what the host can take, so much is taken; above a million it is overloaded.
    pub used_ppm: u32,
}

/// What the centre says of the pool that this host belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// When it was heard, on this host's clock.
    pub heard_boot_ns: u64,
    /// Of the pool's capacity, so much is healthy and takes traffic, this host's included.
    pub healthy_ppm: u32,
    /// Of the pool's capacity, so much is this host's.
    pub own_ppm: u32,
    /// So much of this host's traffic the others can still take; none: it does not say.
    pub spare_ppm: Option<u32>,
    /// The right to go below half.
    pub token: Option<DrainToken>,
    /// What the region's balance wants of this host; none: nothing.
    pub region_weight_permille: Option<u16>,
}

/// A right that the centre lends: not all may leave at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainToken {
    /// Down to here.
    pub floor_permille: u16,
    pub until_boot_ns: u64,
}

/// A validation window's verdict that something hurt; the others change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hurt {
    /// The policy, or the order's id.
    pub by: String,
    pub scope: Scope,
    /// In words, with its statistics.
    pub why: String,
}

/// All that is known at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    pub cells: Vec<CellInput>,
    pub capacity: Option<Capacity>,
    pub pool: Option<Pool>,
    pub hurt: Vec<Hurt>,
    /// The file that turns weir off is there.
    pub is_panic: bool,
}

/// What a policy sees of one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub estimate: Estimate,
    /// Of the cell that counts most of what is bad.
    pub blame: Option<Blame>,
    /// Of the oldest of its cells.
    pub age_ns: u64,
}

impl Inputs {
    /// What a policy watches, by the scope that it would turn; in order of scopes.
    pub fn seen(&self, policy: &Policy, now_ns: u64) -> Vec<(Scope, Seen)> {
        let mut all: std::collections::BTreeMap<Scope, (Seen, u128)> =
            std::collections::BTreeMap::new();
        for cell in self.cells.iter().filter(|c| c.matches(&policy.selector)) {
            let wanted = |(metric, _): &&(Metric, Estimate)| *metric == policy.metric;
            let Some((_, estimate)) = cell.metrics.iter().find(wanted) else {
                continue;
            };
            // Of the future: a clock that is not this host's.
            let age_ns = now_ns
                .checked_sub(cell.measured_boot_ns)
                .unwrap_or(u64::MAX);
            let bad = u128::from(estimate.n) * u128::from(estimate.point_ppm);
            let new = Seen {
                estimate: *estimate,
                blame: cell.blame,
                age_ns,
            };
            all.entry(cell.scope(policy.moves))
                .and_modify(|(seen, most)| {
                    seen.estimate = seen.estimate.with(estimate);
                    seen.age_ns = seen.age_ns.max(age_ns);
                    if bad > *most {
                        seen.blame = cell.blame;
                        *most = bad;
                    }
                })
                .or_insert((new, bad));
        }
        all.into_iter()
            .map(|(scope, (seen, _))| (scope, seen))
            .collect()
    }

    /// What the centre says, unless it is too old to act on.
    pub fn fresh_pool(&self, now_ns: u64) -> Option<&Pool> {
        let is_fresh = |pool: &&Pool| is_within(pool.heard_boot_ns, now_ns, ABANDONED_NS);
        self.pool.as_ref().filter(is_fresh)
    }

    /// What this host takes, unless it is too old to act on.
    pub fn fresh_capacity(&self, now_ns: u64) -> Option<&Capacity> {
        let is_fresh = |own: &&Capacity| is_within(own.measured_boot_ns, now_ns, FRESH_NS);
        self.capacity.as_ref().filter(is_fresh)
    }
}

/// Not of the future, and not older than that.
fn is_within(then_ns: u64, now_ns: u64, age_ns: u64) -> bool {
    now_ns.checked_sub(then_ns).is_some_and(|age| age <= age_ns)
}

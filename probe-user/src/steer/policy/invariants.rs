//! What must hold whatever a policy wants, each under its own name, and the one place where all of
//! them are put in force: [`enforce`], and for a policy's next step [`bounded_step`].
//!
//! `tests/properties.rs` has for each a property of the same name.

use serde::{Deserialize, Serialize};

use super::damping::Damping;
use super::input::{ABANDONED_NS, FRESH_NS, Pool};
use super::rules::{Bounds, SECOND_NS};
use crate::qoe::blame::WHOLE_PPM;

/// Without the right that the centre lends, automation leaves at least half.
pub const SOFT_FLOOR_PPM: u32 = 500_000;
/// Of the pool's capacity, what one host's automation may take away with a token.
pub const TOKEN_MOST_PPM: u32 = 100_000;
/// Under so much healthy capacity, drains of automation are ignored.
pub const PANIC_HEALTHY_PPM: u32 = 500_000;
/// Smaller steps are noise.
pub const DEADBAND_PPM: u32 = 50_000;
/// No step of automation moves more: not all at once, wherever it looks best.
pub const MOST_STEP_PPM: u32 = 333_333;
/// From drained to neutral within a minute: how fast a gate opens that nobody holds.
pub const OPENING_PPM_PER_S: u32 = 16_667;
/// From drained to neutral in five minutes: how fast what was abandoned opens.
pub const DRIFT_PPM_PER_S: u32 = 3_334;
/// A step is at most so long, however long nobody looked: a clock that jumps moves nothing.
pub const MOST_STEP_NS: u64 = 2 * SECOND_NS;
/// What stood still begins as if it had begun so long ago: what is decided between two looks is felt
/// at once, and a balancer that knows whole percents feels it too (1.5 % at a dead time of 12 s).
/// Taken together with the time before, nothing is faster than its ramp.
pub const BEGUN_NS: u64 = SECOND_NS / 2;

/// The invariants, as decisions name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    MinimumHealthyCapacity,
    MaximumDrain,
    PanicThreshold,
    DrainTokens,
    ControlShare,
}

impl Invariant {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MinimumHealthyCapacity => "less healthy capacity would be left than must be",
            Self::MaximumDrain => "more would be turned away than may be",
            Self::PanicThreshold => {
                "under half of the pool is healthy: automatic drains are ignored"
            }
            Self::DrainTokens => {
                "below half needs a token from the centre, and a tenth of the pool is the most"
            }
            Self::ControlShare => "a share stays as it is, to compare with",
        }
    }
}

/// Who wants a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Human {
        is_break_glass: bool,
    },
    Automation,
    /// Nobody: it opens.
    Nobody,
}

/// A weight that is wanted, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Proposal {
    pub holder: Holder,
    pub was_ppm: u32,
    pub wanted_ppm: u32,
    /// The fastest way down and up that the holder allows itself.
    pub away_ppm_per_s: u32,
    pub back_ppm_per_s: u32,
}

/// What bounds it.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    pub bounds: &'a Bounds,
    pub pool: Option<&'a Pool>,
    pub now_ns: u64,
    /// Since the last step, by [`step_ns`].
    pub dt_ns: u64,
}

/// The least weight that whoever holds a gate may give it, and why.
pub fn floor(holder: Holder, around: &Surroundings) -> (u32, Option<Invariant>) {
    let mut floor = (0, None);
    let mut at_least = |ppm: u32, invariant| {
        if ppm > floor.0 {
            floor = (ppm, Some(invariant));
        }
    };
    if holder == Holder::Automation {
        at_least(control_share(around.bounds), Invariant::ControlShare);
        at_least(drain_tokens(around), Invariant::DrainTokens);
        at_least(panic_threshold(around.pool), Invariant::PanicThreshold);
    }
    if holder
        != (Holder::Human {
            is_break_glass: true,
        })
    {
        at_least(maximum_drain(around.bounds), Invariant::MaximumDrain);
        let least = minimum_healthy_capacity(around);
        at_least(least, Invariant::MinimumHealthyCapacity);
    }
    floor
}

/// The weight that a gate gets, and what kept it from getting the one that was wanted.
pub fn enforce(proposal: &Proposal, around: &Surroundings) -> (u32, Option<Invariant>) {
    let (floor_ppm, invariant) = floor(proposal.holder, around);
    let bounded_ppm = proposal.wanted_ppm.min(WHOLE_PPM).max(floor_ppm);
    // What an invariant pulls up opens as fast as what nobody holds.
    let back = if bounded_ppm > proposal.wanted_ppm {
        proposal.back_ppm_per_s.max(OPENING_PPM_PER_S)
    } else {
        proposal.back_ppm_per_s
    };
    let weight_ppm = maximum_rate(
        proposal.was_ppm,
        bounded_ppm,
        proposal.away_ppm_per_s,
        back,
        around.dt_ns,
    );
    let is_bound = bounded_ppm > proposal.wanted_ppm;
    (weight_ppm, invariant.filter(|_| is_bound))
}

/// So much of the pool's capacity must stay healthy and take traffic: the lowest weight with which
/// it does. Each scope is taken for all of the host, so that several together are within it too.
pub fn minimum_healthy_capacity(around: &Surroundings) -> u32 {
    let Some(pool) = around.pool.filter(|pool| pool.own_ppm > 0) else {
        return 0;
    };
    let least_ppm = around.bounds.min_healthy_permille.saturating_mul(1000);
    let spare_ppm = pool.healthy_ppm.saturating_sub(least_ppm);
    let turned = u64::from(spare_ppm) * u64::from(WHOLE_PPM) / u64::from(pool.own_ppm);
    WHOLE_PPM - u32::try_from(turned).unwrap_or(WHOLE_PPM).min(WHOLE_PPM)
}

/// So much of a scope may be turned away by anybody.
pub fn maximum_drain(bounds: &Bounds) -> u32 {
    WHOLE_PPM.saturating_sub(bounds.max_drain_permille.saturating_mul(1000))
}

/// Where most hosts are ill, leaving makes it worse: the disease is not this host's.
pub fn panic_threshold(pool: Option<&Pool>) -> u32 {
    match pool {
        Some(pool) if pool.healthy_ppm < PANIC_HEALTHY_PPM => WHOLE_PPM,
        _ => 0,
    }
}

/// Soft reweighting by oneself; what goes beyond only by a right that is not over, and never more
/// than a tenth of the pool.
pub fn drain_tokens(around: &Surroundings) -> u32 {
    let Some((pool, token)) = around.pool.and_then(|pool| Some((pool, pool.token?))) else {
        return SOFT_FLOOR_PPM;
    };
    if around.now_ns >= token.until_boot_ns || pool.own_ppm == 0 {
        return SOFT_FLOOR_PPM;
    }
    let turned = u64::from(TOKEN_MOST_PPM) * u64::from(WHOLE_PPM) / u64::from(pool.own_ppm);
    let by_share = WHOLE_PPM - u32::try_from(turned).unwrap_or(WHOLE_PPM).min(WHOLE_PPM);
    let by_token = u32::from(token.floor_permille) * 1000;
    by_share.max(by_token).min(SOFT_FLOOR_PPM)
}

/// Those with the lowest hashes stay, whatever automation wants.
pub fn control_share(bounds: &Bounds) -> u32 {
    bounds.control_permille.saturating_mul(1000).min(WHOLE_PPM)
}

/// As fast as that is at once: what a human may ask for.
pub const AT_ONCE: u32 = u32::MAX;

/// From one weight towards another, no faster than that.
pub fn maximum_rate(was_ppm: u32, to_ppm: u32, away: u32, back: u32, dt_ns: u64) -> u32 {
    let most = |per_s: u32| {
        if per_s == AT_ONCE {
            return WHOLE_PPM;
        }
        let ppm = u128::from(per_s) * u128::from(dt_ns) / u128::from(SECOND_NS);
        u32::try_from(ppm).unwrap_or(u32::MAX)
    };
    if to_ppm < was_ppm {
        to_ppm.max(was_ppm.saturating_sub(most(away)))
    } else {
        to_ppm.min(was_ppm.saturating_add(most(back)))
    }
}

/// How long the step is that moves gates: none if time went back, and a short one after a gap.
pub fn step_ns(then_ns: u64, now_ns: u64) -> u64 {
    now_ns.saturating_sub(then_ns).min(MOST_STEP_NS)
}

/// How long the first step after a standstill is at least; `moved_ns`: when anything moved last.
pub fn begun_ns(moved_ns: u64, now_ns: u64) -> u64 {
    now_ns.saturating_sub(moved_ns).min(BEGUN_NS)
}

/// How far numbers of that age may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Staleness {
    Fresh,
    /// Nothing moves.
    Frozen,
    /// Back to neutral.
    Drifting,
}

/// Fail static, then open, and never drained. `fresh_ns`: when the latest usable numbers were
/// measured.
pub fn staleness(fresh_ns: u64, now_ns: u64) -> Staleness {
    match now_ns.saturating_sub(fresh_ns) {
        age if age <= FRESH_NS => Staleness::Fresh,
        age if age <= ABANDONED_NS => Staleness::Frozen,
        _ => Staleness::Drifting,
    }
}

/// Whether a gate may change its direction: not while it is suppressed, and not before its dwell,
/// which doubles with each of the latest changes.
pub fn flap_damping(damping: &Damping, since_ns: u64, dwell_s: u32, now_ns: u64) -> bool {
    let dwell_ns = u64::from(dwell_s) * SECOND_NS;
    !damping.is_suppressed && now_ns.saturating_sub(since_ns) >= dwell_ns
}

/// Where automation's next step goes: never all at once (the best of several is not where all
/// go), never less than is worth moving, never below the floor. None: not worth it.
pub fn bounded_step(from_ppm: u32, to_ppm: u32, floor_ppm: u32) -> Option<u32> {
    let to_ppm = to_ppm.min(WHOLE_PPM).max(floor_ppm.min(WHOLE_PPM));
    let to_ppm = never_argmax(from_ppm, to_ppm);
    deadband(from_ppm, to_ppm).then_some(to_ppm)
}

/// No step moves more than a third of the traffic.
pub fn never_argmax(from_ppm: u32, to_ppm: u32) -> u32 {
    let most = from_ppm.saturating_add(MOST_STEP_PPM).min(WHOLE_PPM);
    to_ppm.clamp(from_ppm.saturating_sub(MOST_STEP_PPM), most)
}

/// Whether a change is worth it; the last one to neutral always is.
pub fn deadband(from_ppm: u32, to_ppm: u32) -> bool {
    from_ppm != to_ppm && (from_ppm.abs_diff(to_ppm) >= DEADBAND_PPM || to_ppm == WHOLE_PPM)
}

/// Each change of position has a larger number than all before.
pub fn generations_monotone(latest: u64, is_changed: bool) -> u64 {
    if is_changed {
        latest.saturating_add(1)
    } else {
        latest
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::steer::policy::input::DrainToken;

    /// Each bound by itself, over proposals that no history would reach.
    #[test]
    fn whoever_holds_a_gate_gets_no_less_than_the_invariants_leave() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..200_000 {
            let bounds = Bounds {
                min_healthy_permille: rng.u32(0..=1000),
                max_drain_permille: rng.u32(0..=1000),
                control_permille: rng.u32(0..=1000),
            };
            let pool = Pool {
                heard_boot_ns: 0,
                healthy_ppm: rng.u32(0..=WHOLE_PPM),
                own_ppm: rng.u32(0..=WHOLE_PPM),
                spare_ppm: None,
                token: rng.bool().then(|| DrainToken {
                    floor_permille: rng.u16(0..=1000),
                    until_boot_ns: rng.u64(0..100),
                }),
                region_weight_permille: None,
            };
            let around = Surroundings {
                bounds: &bounds,
                pool: rng.bool().then_some(&pool),
                now_ns: 50,
                dt_ns: SECOND_NS,
            };
            let is_break_glass = rng.bool();
            let holder = [
                Holder::Automation,
                Holder::Nobody,
                Holder::Human { is_break_glass },
            ][rng.usize(0..3)];
            let proposal = Proposal {
                holder,
                was_ppm: WHOLE_PPM,
                wanted_ppm: rng.u32(0..=WHOLE_PPM),
                away_ppm_per_s: AT_ONCE,
                back_ppm_per_s: AT_ONCE,
            };
            let (got, invariant) = enforce(&proposal, &around);
            assert!(got >= proposal.wanted_ppm && got <= WHOLE_PPM);
            assert_eq!(invariant.is_some(), got > proposal.wanted_ppm);
            let turned = u64::from(WHOLE_PPM - got);
            if holder == Holder::Automation {
                assert!(got >= bounds.control_permille * 1000);
                let lent = around
                    .pool
                    .and_then(|pool| pool.token)
                    .filter(|t| t.until_boot_ns > 50);
                match lent {
                    Some(token) if got < SOFT_FLOOR_PPM => {
                        assert!(got >= u32::from(token.floor_permille) * 1000);
                        assert!(turned * u64::from(pool.own_ppm) <= 100_000 * 1_000_000);
                    }
                    Some(_) => {}
                    None => assert!(got >= SOFT_FLOOR_PPM),
                }
                if around
                    .pool
                    .is_some_and(|pool| pool.healthy_ppm < PANIC_HEALTHY_PPM)
                {
                    assert_eq!(got, WHOLE_PPM);
                }
            }
            if holder
                == (Holder::Human {
                    is_break_glass: true,
                })
            {
                assert_eq!(got, proposal.wanted_ppm);
                continue;
            }
            assert!(turned <= u64::from(bounds.max_drain_permille) * 1000);
            if around.pool.is_some() && got < WHOLE_PPM {
                let taken = turned * u64::from(pool.own_ppm) / 1_000_000;
                let left = u64::from(pool.healthy_ppm) - taken;
                assert!(left >= u64::from(bounds.min_healthy_permille) * 1000);
            }
        }
    }
}

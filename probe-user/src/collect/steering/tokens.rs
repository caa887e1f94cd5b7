//! Who may go below half: rights that are lent, so that not all of a pool leaves at once.
//!
//! Pure. A right is a lease that is counted from a moment on the host's own clock before it was lent,
//! so that it is over there no later than here, however long it was on its way. Who is not heard of for
//! a lease has given it back. An authority that has just begun does not know what the one before it
//! lent, and lends nothing for a lease.

use std::collections::BTreeMap;

use super::view::{Gate, View};
use crate::qoe::blame::WHOLE_PPM;
use crate::steer::policy::invariants::{PANIC_HEALTHY_PPM, SOFT_FLOOR_PPM, TOKEN_MOST_PPM};

/// How long a right lasts without being lent again.
pub const LEASE_NS: u64 = 10_000_000_000;

/// One that is lent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lent {
    pool: String,
    /// Of the pool's capacity, what it lets be turned away.
    away_ppm: u32,
    floor_permille: u16,
    until_ns: u64,
}

/// What a host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub floor_permille: u16,
    /// On the host's own `CLOCK_BOOTTIME`.
    pub until_boot_ns: u64,
}

/// A host, and what the authority must know of its pool.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    pub view: &'a View,
    pub pool: &'a str,
    pub own_ppm: u32,
    pub healthy_ppm: u32,
}

impl Member<'_> {
    /// What it says of its gate, if that is of now.
    fn gate(&self) -> Option<Gate> {
        self.view.gate.filter(|_| self.view.is_fresh)
    }

    fn wants(&self) -> Option<Gate> {
        let wants = |gate: &Gate| gate.wants_floor_permille * 1000 < SOFT_FLOOR_PPM;
        self.gate().filter(wants)
    }

    /// Of the pool's capacity, what this host turns away down to that weight.
    fn away_ppm(&self, floor_permille: u32) -> u32 {
        let turned = u64::from(1000 - floor_permille.min(1000));
        u32::try_from(u64::from(self.own_ppm) * turned / 1000).unwrap_or(WHOLE_PPM)
    }
}

/// The lender of all pools.
#[derive(Debug)]
pub struct Authority {
    lent: BTreeMap<String, Lent>,
    lends_from_ns: u64,
}

impl Authority {
    pub fn new(now_ns: u64) -> Self {
        Self {
            lent: BTreeMap::new(),
            lends_from_ns: now_ns.saturating_add(LEASE_NS),
        }
    }

    /// How many are lent of a pool, and how much of its capacity they let be turned away.
    pub fn lent(&self, pool: &str) -> (usize, u32) {
        let its = self.lent.values().filter(|lent| lent.pool == pool);
        its.fold((0, 0), |(count, ppm), lent| {
            (count + 1, lent.away_ppm.saturating_add(ppm))
        })
    }

    /// Renews, lets lapse, and lends. `members`: all hosts of all pools.
    pub fn turn(&mut self, members: &[Member], now_ns: u64) -> BTreeMap<String, Token> {
        self.lent.retain(|_, lent| now_ns < lent.until_ns);
        let mut tokens = BTreeMap::new();
        for member in members {
            let host = &member.view.host;
            let (Some(lent), Some(gate)) = (self.lent.get_mut(host), member.wants()) else {
                continue;
            };
            if lent.pool == member.pool {
                lent.until_ns = now_ns.saturating_add(LEASE_NS);
                tokens.insert(host.clone(), token(lent.floor_permille, gate));
            }
        }
        if now_ns < self.lends_from_ns {
            return tokens;
        }
        for member in members {
            let host = &member.view.host;
            if self.lent.contains_key(host) || member.healthy_ppm < PANIC_HEALTHY_PPM {
                continue;
            }
            let Some(gate) = member.wants() else { continue };
            let Some(lent) = self.offer(members, member, gate, now_ns) else {
                continue;
            };
            tokens.insert(host.clone(), token(lent.floor_permille, gate));
            self.lent.insert(host.clone(), lent);
        }
        tokens
    }

    /// The lowest floor that it may have, if that is below half.
    fn offer(&self, members: &[Member], member: &Member, gate: Gate, now_ns: u64) -> Option<Lent> {
        let left_ppm = TOKEN_MOST_PPM
            .checked_sub(self.away_ppm(members, member))
            .filter(|left| *left > 0)?;
        let turned = u64::from(left_ppm) * 1000 / u64::from(member.own_ppm.max(1));
        let least = 1000 - u32::try_from(turned).unwrap_or(1000).min(1000);
        let floor = least.max(gate.wants_floor_permille);
        (floor * 1000 < SOFT_FLOOR_PPM).then(|| Lent {
            pool: member.pool.to_owned(),
            away_ppm: member.away_ppm(floor),
            floor_permille: u16::try_from(floor).unwrap_or(1000),
            until_ns: now_ns.saturating_add(LEASE_NS),
        })
    }

    /// Of the pool's capacity, what the others turn away by themselves: as much as they have a right
    /// to, and what the rest turns away without one.
    fn away_ppm(&self, members: &[Member], but: &Member) -> u32 {
        let softly = members
            .iter()
            .filter(|other| other.pool == but.pool && other.view.host != but.view.host)
            .filter(|other| !self.lent.contains_key(&other.view.host))
            .filter_map(|other| {
                let turned = other.gate()?.automatic_permille.min(1000);
                Some(other.away_ppm(1000 - turned))
            });
        let (_, lent) = self.lent(but.pool);
        softly.fold(lent, u32::saturating_add)
    }
}

fn token(floor_permille: u16, gate: Gate) -> Token {
    Token {
        floor_permille,
        until_boot_ns: gate.boot_ns.saturating_add(LEASE_NS),
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::super::view::tests::view;
    use super::*;

    const LATER_NS: u64 = LEASE_NS;

    fn wanting(host: &str, floor: u32) -> View {
        let mut view = view(host);
        if let Some(gate) = &mut view.gate {
            gate.wants_floor_permille = floor;
        }
        view
    }

    /// So many hosts of one pool, of equal capacity.
    fn members(views: &[View]) -> Vec<Member<'_>> {
        let own_ppm = WHOLE_PPM / u32::try_from(views.len()).unwrap();
        let member = |view| Member {
            view,
            pool: "p",
            own_ppm,
            healthy_ppm: WHOLE_PPM,
        };
        views.iter().map(member).collect()
    }

    #[test]
    fn a_tenth_of_the_pool_is_lent_and_no_more() {
        let views: Vec<_> = (0..20).map(|n| wanting(&format!("h{n:02}"), 0)).collect();
        let mut authority = Authority::new(0);
        assert!(authority.turn(&members(&views), LATER_NS - 1).is_empty());
        let tokens = authority.turn(&members(&views), LATER_NS);
        // Each is a twentieth.
        assert_eq!(tokens.keys().collect::<Vec<_>>(), ["h00", "h01"]);
        assert_eq!(authority.lent("p"), (2, 100_000));
        let own_clock_ns = 1_000 + LEASE_NS;
        assert!(tokens.values().all(|t| t.until_boot_ns == own_clock_ns));
        // They keep them as long as they ask.
        let again = authority.turn(&members(&views), LATER_NS + 5);
        assert_eq!(again, tokens);
    }

    #[test]
    fn a_host_that_is_silent_or_asks_no_more_has_given_it_back_after_a_lease() {
        let mut views: Vec<_> = (0..20).map(|n| wanting(&format!("h{n:02}"), 0)).collect();
        let mut authority = Authority::new(0);
        authority.turn(&members(&views), LATER_NS);
        views[0].is_fresh = false;
        views[1] = view("h01");
        let held = authority.turn(&members(&views), 2 * LATER_NS - 1);
        assert!(held.is_empty() && authority.lent("p").0 == 2, "{held:?}");
        let next = authority.turn(&members(&views), 2 * LATER_NS);
        assert_eq!(next.keys().collect::<Vec<_>>(), ["h02", "h03"]);
    }

    #[test]
    fn what_others_turn_away_softly_counts_too() {
        let mut views: Vec<_> = (0..20).map(|n| view(&format!("h{n:02}"))).collect();
        views[0] = wanting("h00", 0);
        for soft in &mut views[1..3] {
            soft.gate.as_mut().unwrap().automatic_permille = 500;
        }
        let mut authority = Authority::new(0);
        let tokens = authority.turn(&members(&views), LATER_NS);
        // A twentieth is away softly, a twentieth is left.
        assert_eq!(tokens["h00"].floor_permille, 0);
        let mut authority = Authority::new(0);
        views[3].gate.as_mut().unwrap().automatic_permille = 500;
        let tokens = authority.turn(&members(&views), LATER_NS);
        assert!(tokens.is_empty(), "half of it is all that could be had");
    }

    #[test]
    fn a_large_host_and_a_sick_pool_get_none() {
        let views: Vec<_> = (0..4).map(|n| wanting(&format!("h{n}"), 0)).collect();
        let mut authority = Authority::new(0);
        assert!(authority.turn(&members(&views), LATER_NS).is_empty());
        let views: Vec<_> = (0..20).map(|n| wanting(&format!("h{n:02}"), 0)).collect();
        let mut sick = members(&views);
        for member in &mut sick {
            member.healthy_ppm = PANIC_HEALTHY_PPM - 1;
        }
        assert!(authority.turn(&sick, LATER_NS).is_empty());
    }

    /// Hosts that come, go, ask and fall silent as they like, and an authority that is begun anew in
    /// the midst: what hosts may believe that they hold is never more than a tenth.
    #[test]
    fn what_is_held_anywhere_is_never_more_than_a_tenth() {
        for seed in 0..200 {
            let mut rng = Rng::with_seed(seed);
            let count = rng.usize(5..60);
            let mut views: Vec<_> = (0..count).map(|n| view(&format!("h{n:02}"))).collect();
            let own_ppm = WHOLE_PPM / u32::try_from(count).unwrap();
            let mut authority = Authority::new(0);
            // By host: the floor it holds, and until when, on one clock for all.
            let mut held: BTreeMap<String, Token> = BTreeMap::new();
            for step in 1..400_u64 {
                let now_ns = step * LEASE_NS / 7;
                if rng.u32(0..60) == 0 {
                    authority = Authority::new(now_ns);
                }
                for view in &mut views {
                    view.is_fresh = rng.u32(0..5) > 0;
                    if view.is_fresh {
                        let gate = view.gate.as_mut().unwrap();
                        gate.boot_ns = now_ns;
                        gate.wants_floor_permille = rng.u32(0..=1000);
                    }
                }
                for (host, token) in authority.turn(&members(&views), now_ns) {
                    // Some words are lost on their way.
                    if rng.u32(0..4) > 0 {
                        held.insert(host, token);
                    }
                }
                let held = held.values().filter(|token| now_ns < token.until_boot_ns);
                let away: u32 = held
                    .map(|token| own_ppm * (1000 - u32::from(token.floor_permille)) / 1000)
                    .sum();
                assert!(away <= TOKEN_MOST_PPM, "seed {seed}, step {step}: {away}");
            }
        }
    }
}

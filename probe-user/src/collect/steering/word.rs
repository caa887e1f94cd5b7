//! What each host is told of its pool: how much of it is healthy and takes traffic, and how much the
//! others can still take.
//!
//! Pure.

use std::collections::BTreeMap;

use super::ledger::Ledger;
use super::places::{Place, Places};
use super::view::View;
use crate::qoe::blame::WHOLE_PPM;

/// Of a host's capacity, so much is not given away, in thousandths.
pub const RESERVE_PERMILLE: u64 = 100;
/// A host that has been silent for longer belongs to its pool no more.
pub const GONE_NS: u64 = 3_600_000_000_000;

/// What one host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Of the pool's capacity. This host counts as if it took all of its traffic, because that is
    /// what it asks: how much of that it may turn away.
    pub healthy_ppm: u32,
    /// Of the pool's capacity, so much is this host's.
    pub own_ppm: u32,
    /// So much of what this host sends the others can still take; none: it is not known.
    pub spare_ppm: Option<u32>,
}

/// So much more a host can send; none: it is not known. One that is not healthy can send no more.
pub fn headroom_bps(view: &View, place: &Place, ledger: &Ledger) -> Option<u64> {
    let most_bps = place.capacity_bps? / 1000 * (1000 - RESERVE_PERMILLE);
    if !view.is_healthy() {
        return Some(0);
    }
    Some(most_bps.saturating_sub(ledger.sent_bps(&view.host)?))
}

/// Whether it is still one of its pool's hosts.
pub fn belongs(view: &View, now_unix_ns: u64) -> bool {
    view.is_fresh || now_unix_ns.saturating_sub(view.last_heard_unix_ns) < GONE_NS
}

/// What every host of a pool is told.
pub fn words(
    places: &Places,
    views: &[View],
    ledger: &Ledger,
    now_unix_ns: u64,
) -> BTreeMap<String, Word> {
    let mut pools: BTreeMap<&str, Vec<(&View, Place)>> = BTreeMap::new();
    for view in views.iter().filter(|view| belongs(view, now_unix_ns)) {
        if let Some(place) = places.of(&view.host) {
            pools.entry(place.pool).or_default().push((view, place));
        }
    }
    let words = pools
        .into_values()
        .flat_map(|hosts| of_pool(&hosts, ledger));
    words.collect()
}

fn of_pool(hosts: &[(&View, Place)], ledger: &Ledger) -> Vec<(String, Word)> {
    let all: u128 = hosts
        .iter()
        .map(|(_, place)| u128::from(place.share()))
        .sum();
    let takes = |view: &View, place: &Place, permille: u64| {
        let share = u128::from(place.share()) * u128::from(permille);
        if view.is_healthy() { share } else { 0 }
    };
    let taking: u128 = hosts
        .iter()
        .map(|(view, place)| takes(view, place, view.weight_permille()))
        .sum();
    let headroom: Option<u128> = hosts
        .iter()
        .map(|(view, place)| headroom_bps(view, place, ledger).map(u128::from))
        .sum();
    let ppm = |part: u128, whole: u128| {
        let ppm = part * u128::from(WHOLE_PPM) / whole.max(1);
        u32::try_from(ppm).unwrap_or(WHOLE_PPM).min(WHOLE_PPM)
    };
    let word = |(view, place): &(&View, Place)| {
        let own = takes(view, place, view.weight_permille());
        let whole = takes(view, place, 1000);
        let spare_ppm = headroom.and_then(|headroom| {
            let of_others = headroom - u128::from(headroom_bps(view, place, ledger)?);
            match u128::from(ledger.sent_bps(&view.host)?) {
                0 => Some(WHOLE_PPM),
                sent => Some(ppm(of_others, sent)),
            }
        });
        let word = Word {
            healthy_ppm: ppm(taking - own + whole, all * 1000),
            own_ppm: ppm(u128::from(place.share()), all),
            spare_ppm,
        };
        (view.host.clone(), word)
    };
    hosts.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::two_regions;
    use super::super::view::Gate;
    use super::super::view::tests::view;
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn four() -> Vec<View> {
        (1..=4).map(|n| view(&format!("fra-{n}"))).collect()
    }

    fn turned(view: &mut View, weight_permille: u32) {
        view.gate = Some(Gate {
            weight_permille,
            ..view.gate.unwrap()
        });
    }

    #[test]
    fn what_is_silent_or_turned_away_does_not_take_and_a_host_counts_itself_whole() {
        let mut views = four();
        views[0].is_fresh = false;
        turned(&mut views[1], 500);
        let words = words(&two_regions(), &views, &Ledger::default(), 1);
        // 2 is at half: for itself it counts whole.
        assert_eq!(words["fra-2"].healthy_ppm, 750_000);
        assert_eq!(words["fra-3"].healthy_ppm, 625_000);
        assert_eq!(words["fra-1"].healthy_ppm, 625_000);
        assert!(words.values().all(|word| word.own_ppm == 250_000));
        assert!(words.values().all(|word| word.spare_ppm.is_none()));
    }

    #[test]
    fn pools_are_told_apart_and_who_is_long_gone_is_in_none() {
        let mut views = four();
        views.push(view("ams-1"));
        views.push(view("elsewhere"));
        views[0].is_fresh = false;
        let later = words(&two_regions(), &views, &Ledger::default(), GONE_NS);
        assert!(!later.contains_key("fra-1") && !later.contains_key("elsewhere"));
        assert_eq!(later["fra-2"].own_ppm, 333_333);
        assert_eq!(later["fra-2"].healthy_ppm, WHOLE_PPM);
        assert_eq!(later["ams-1"].own_ppm, WHOLE_PPM);
    }

    #[test]
    fn what_the_others_can_take_is_what_they_do_not_send_but_for_a_reserve() {
        let mut ledger = Ledger::default();
        let mut views = four();
        for s in 0..=30 {
            for view in &mut views {
                // 4 Gbit/s each.
                view.acked_bytes = s * 500_000_000;
            }
            ledger.note(&views, s * SECOND_NS);
        }
        let told = words(&two_regions(), &views, &ledger, 1);
        assert_eq!(told["fra-1"].spare_ppm, Some(WHOLE_PPM));
        // Three at 9 of 10 Gbit/s less what they send; only one of them is well.
        views[1].is_fresh = false;
        views[2].is_off = true;
        let told = words(&two_regions(), &views, &ledger, 1);
        assert_eq!(told["fra-1"].spare_ppm, Some(WHOLE_PPM));
        views[3].is_off = true;
        let told = words(&two_regions(), &views, &ledger, 1);
        assert_eq!(told["fra-1"].spare_ppm, Some(0));
        assert_eq!(told["fra-1"].healthy_ppm, 250_000);
    }
}

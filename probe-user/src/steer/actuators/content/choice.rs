//! Where a player is sent: pure, and the same each time for the same player.
//!
//! Every player has a place among all, made of its token alone. Those below the share that stays
//! have this host first. So when the share goes from 100 % to 70 %, three of ten move and nobody
//! else, and the same three come back.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::settings::{ContentGate, Pathway};
use crate::steer::position::NEUTRAL_PERMILLE;

/// Places among all players.
const PLACES: u64 = 1_000_000;

/// What a player is told: pathways, best first, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice<'a> {
    pub(super) order: Vec<&'a str>,
    /// Whether this host is the first.
    pub(super) stays: bool,
}

/// What the player of `token` is told, while `weight_permille` of those stay that would be here by
/// themselves.
pub(super) fn choose(gate: &ContentGate, token: u64, weight_permille: u16) -> Choice<'_> {
    let share = u64::from(gate.home_share_permille);
    let weight = u64::from(weight_permille.min(NEUTRAL_PERMILLE));
    let mut others: Vec<_> = gate.pathways.iter().collect();
    // Scores are finite but for the weight 0, which comes last.
    others.sort_by(|a, b| score(a, token).total_cmp(&score(b, token)));
    let is_open = |pathway: &&&Pathway| pathway.weight > 0;
    let open = others.iter().take_while(is_open).count();
    let stays = place(token) < share * weight || open == 0;
    let mut order: Vec<_> = others.iter().map(|pathway| pathway.name.as_str()).collect();
    // Also who is sent away can fall back to this host before those that nobody is sent to.
    order.insert(if stays { 0 } else { open }, &gate.home);
    Choice { order, stays }
}

/// From 0 to [`PLACES`], evenly.
fn place(token: u64) -> u64 {
    hash(token, b"") % PLACES
}

/// The lowest is chosen: by rendezvous with weights, so that a pathway that comes or goes moves none
/// of those who are at another.
fn score(pathway: &Pathway, token: u64) -> f64 {
    // In (0, 1): 53 bits are what a f64 holds.
    let point = ((hash(token, pathway.name.as_bytes()) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -point.ln() / f64::from(pathway.weight)
}

/// Keys are of no use: who makes up a token chooses only for itself.
fn hash(token: u64, of: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u64(token);
    hasher.write(of);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const PLAYERS: u64 = 20_000;

    fn gate(weights: &[(&str, u32)]) -> ContentGate {
        let pathway = |&(name, weight): &(&str, u32)| Pathway {
            name: name.to_owned(),
            weight,
            ..Pathway::default()
        };
        ContentGate {
            home: "home".to_owned(),
            pathways: weights.iter().map(pathway).collect(),
            ..ContentGate::default()
        }
    }

    /// Of so many thousandths of the players it is true.
    fn permille(of: impl Fn(u64) -> bool) -> f64 {
        let count = (0..PLAYERS).filter(|token| of(*token)).count();
        count as f64 * 1000.0 / PLAYERS as f64
    }

    #[test]
    fn as_many_stay_as_the_weight_says() {
        let gate = gate(&[("b", 1)]);
        for weight in [0, 30, 300, 700, 950, 1000] {
            let stay = permille(|token| choose(&gate, token, weight).stays);
            assert!(
                (stay - f64::from(weight)).abs() < 10.0,
                "{weight}: {stay} stay"
            );
        }
        assert!((0..PLAYERS).all(|token| choose(&gate, token, 1000).stays));
        assert!(!(0..PLAYERS).any(|token| choose(&gate, token, 0).stays));
    }

    #[test]
    fn nobody_moves_but_those_whom_the_weight_moves_and_they_come_back() {
        let gate = gate(&[("b", 2), ("c", 1)]);
        for (from, to) in [(1000, 700), (700, 650), (500, 0), (40, 35)] {
            for token in 0..PLAYERS {
                let (before, after) = (choose(&gate, token, from), choose(&gate, token, to));
                if !before.stays {
                    assert_eq!(before, after, "{token} was away and is sent elsewhere");
                }
            }
            let moved = permille(|token| {
                choose(&gate, token, from).stays && !choose(&gate, token, to).stays
            });
            let should = f64::from(from - to);
            assert!(
                (moved - should).abs() < 10.0,
                "{from} to {to}: {moved} moved"
            );
        }
    }

    #[test]
    fn those_who_are_turned_away_go_by_the_others_weights() {
        let gate = gate(&[("b", 3), ("c", 1), ("standby", 0)]);
        let mut first: HashMap<&str, u64> = HashMap::new();
        for token in 0..PLAYERS {
            let choice = choose(&gate, token, 0);
            *first.entry(choice.order[0]).or_default() += 1;
            // All are in it, once, and this host before what nobody is sent to.
            assert_eq!(choice.order.len(), 4);
            assert_eq!(choice.order[2..], ["home", "standby"]);
        }
        let share = first["b"] as f64 / PLAYERS as f64;
        assert!((share - 0.75).abs() < 0.01, "{share} are sent to b");
        assert_eq!(first["b"] + first["c"], PLAYERS);
    }

    #[test]
    fn a_pathway_that_comes_takes_players_from_each_and_moves_none_between_others() {
        let (before, after) = (
            gate(&[("b", 1), ("c", 1)]),
            gate(&[("b", 1), ("c", 1), ("d", 1)]),
        );
        let mut moved = 0;
        for token in 0..PLAYERS {
            let (old, new) = (choose(&before, token, 0), choose(&after, token, 0));
            if old.order[0] != new.order[0] {
                assert_eq!(new.order[0], "d");
                moved += 1;
            }
        }
        let share = f64::from(moved) / PLAYERS as f64;
        assert!((share - 1.0 / 3.0).abs() < 0.015, "{share}");
    }

    #[test]
    fn a_share_of_this_host_is_what_weights_are_of() {
        let gate = ContentGate {
            home_share_permille: 400,
            ..gate(&[("b", 1)])
        };
        for (weight, should) in [(1000, 400.0), (500, 200.0), (0, 0.0)] {
            let stay = permille(|token| choose(&gate, token, weight).stays);
            assert!(f64::abs(stay - should) < 10.0, "{weight}: {stay} stay");
        }
    }

    #[test]
    fn where_nobody_else_takes_players_all_stay() {
        let choice_of = |gate: &ContentGate| choose(gate, 1, 0).stays;
        assert!(choice_of(&gate(&[])));
        assert!(choice_of(&gate(&[("standby", 0)])));
    }
}

//! Viewers that are not as a model likes them: in the background, begun anew, with ranges or parts for
//! segments, several at one address, nameless.

use super::super::ladder::Container;
use super::super::scenario::{Company, PATH, Pause, Player, Session, Set, Stream, Tier, Transport};
use super::super::trace::{self, GOOD_BPS, Step};
use super::{HELD, blaming, session};

/// Adds them to a set: the held-out one has the other players, other times and other links.
pub(super) fn add(sessions: &mut Vec<Session>, set: Set) {
    named(sessions, set, Tier::T1);
    named(sessions, set, Tier::T2);
    nameless(sessions, set);
}

/// The first for the training set, the second for the held-out one.
fn by_set<T>(set: Set, training: T, held_out: T) -> T {
    match set {
        Set::Training => training,
        Set::HeldOut => held_out,
    }
}

fn healthy(set: Set) -> Vec<Step> {
    by_set(
        set,
        vec![Step::new(0, GOOD_BPS, 20)],
        vec![Step::new(0, 7_000_000, 28)],
    )
}

fn named(sessions: &mut Vec<Session>, set: Set, tier: Tier) {
    let one = |name: &str, player, link| {
        let held = by_set(set, "", HELD);
        session(&format!("{held}{name}"), set, tier, player, link)
    };
    let is_first = (tier == Tier::T1) == (set == Set::Training);
    let (player, other) = if is_first {
        (Player::Hls, Player::Dash)
    } else {
        (Player::Dash, Player::Hls)
    };
    sessions.push(Session {
        backgrounds: vec![by_set(
            set,
            Pause {
                at_ms: 10_000,
                for_ms: 20_000,
            },
            Pause {
                at_ms: 13_000,
                for_ms: 23_000,
            },
        )],
        stay_ms: 45_000,
        ..one("background", player, healthy(set))
    });
    sessions.push(Session {
        restarts_ms: vec![by_set(set, 15_000, 19_000)],
        stay_ms: 40_000,
        ..one("restart", other, healthy(set))
    });
    sessions.push(Session {
        container: Container::Ranges,
        expected: blaming(PATH),
        stay_ms: 50_000,
        ..one(
            "ranges",
            player,
            by_set(
                set,
                trace::cut(15_000, 180_000, 18_000, 20),
                trace::cut(18_000, 220_000, 16_000, 32),
            ),
        )
    });
    sessions.push(Session {
        container: Container::Parts,
        stream: Stream::Live,
        expected: blaming(PATH),
        stay_ms: 40_000,
        ..one(
            "parts",
            Player::Hls,
            by_set(
                set,
                trace::cut(16_000, 0, 4_000, 20),
                trace::cut(19_000, 0, 5_000, 26),
            ),
        )
    });
    sessions.push(Session {
        company: Some(Company::SameBrowser),
        transport: Transport::H2,
        stay_ms: 35_000,
        ..one("two-pages", other, healthy(set))
    });
}

/// Whom nothing but address, directory and user agent tells apart.
fn nameless(sessions: &mut Vec<Session>, set: Set) {
    let one = |name: &str, player, link| {
        let held = by_set(set, "", HELD);
        Session {
            is_named: false,
            ..session(&format!("{held}{name}"), set, Tier::T1, player, link)
        }
    };
    let (player, other) = by_set(
        set,
        (Player::Hls, Player::Dash),
        (Player::Dash, Player::Hls),
    );
    sessions.push(Session {
        company: Some(Company::OtherBrowser),
        ..one("two-nameless", player, healthy(set))
    });
    sessions.push(Session {
        expected: blaming(PATH),
        stay_ms: 50_000,
        ..one(
            "nameless-cut",
            player,
            by_set(
                set,
                trace::cut(14_000, 170_000, 20_000, 22),
                trace::cut(17_000, 210_000, 17_000, 30),
            ),
        )
    });
    sessions.push(Session {
        stream: Stream::Live,
        stay_ms: 40_000,
        ..one("nameless-live", other, healthy(set))
    });
}

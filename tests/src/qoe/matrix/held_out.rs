//! The held-out set: what happens in the training set happens here too, on links that the other has not,
//! at other times and in other sizes. Nothing is ever tuned on it: whoever looks at single sessions of
//! it in order to change the model chooses other seeds and other sizes here first.

use super::super::origin::Fault;
use super::super::scenario::{
    Blame, Cmcd, PATH, Pause, Player, Seek, Session, Set, Stream, Tier, Transport,
};
use super::super::trace::{self, Step};
use super::{BOTH, STAY_MS, blaming, during, mobile, odd, session, start_failures};

/// Seeds of the traces; never used for anything else.
const SEEDS: std::ops::Range<u64> = 51_301..51_308;
/// Of them, those that T0 sessions have too.
const SEEDS_UNHEARD: std::ops::Range<u64> = 51_301..51_305;

/// Adds the set.
pub(super) fn add(sessions: &mut Vec<Session>) {
    mobile(sessions, Set::HeldOut, Tier::T0, SEEDS_UNHEARD);
    unheard(sessions);
    for tier in [Tier::T1, Tier::T2] {
        mobile(sessions, Set::HeldOut, tier, SEEDS);
        // Each cause with one of the players, at the next tier with the other.
        let turn = usize::from(tier == Tier::T2);
        let player = |n: usize| BOTH[(n + turn) % 2];
        path_faults(sessions, tier, player);
        server_faults(sessions, tier, player);
        healthy(sessions, tier, player);
        let mut starts = Vec::new();
        for player in BOTH {
            start_failures(&mut starts, Set::HeldOut, tier, player);
        }
        let each = starts.len() / BOTH.len();
        sessions.extend(
            starts
                .into_iter()
                .enumerate()
                .filter(|(n, _)| (n / each + n % each + turn).is_multiple_of(BOTH.len()))
                .map(|(_, session)| session),
        );
    }
    odd::add(sessions, Set::HeldOut);
}

fn held_out(name: &str, tier: Tier, player: Player, link: Vec<Step>) -> Session {
    session(&format!("held-{name}"), Set::HeldOut, tier, player, link)
}

/// Enough for every rendition, and no training link.
fn enough() -> Vec<Step> {
    vec![Step::new(0, 6_000_000, 33)]
}

/// Of whom weir has the kernel's records alone.
fn unheard(sessions: &mut Vec<Session>) {
    let one = |name, player, link| held_out(name, Tier::T0, player, link);
    sessions.push(Session {
        expected: blaming(PATH),
        ..one(
            "rate-cut",
            Player::Dash,
            trace::cut(18_000, 230_000, 20_000, 36),
        )
    });
    sessions.push(Session {
        expected: blaming(PATH),
        ..one("outage", Player::Hls, trace::cut(21_000, 0, 12_000, 28))
    });
    sessions.push(Session {
        expected: blaming(&[Blame::ApplicationWrite]),
        faults: during(18_000, 20_000, Fault::Pause { ms: 5_500 }),
        ..one("stalled-disk", Player::Dash, enough())
    });
    sessions.push(Session {
        stream: Stream::Live,
        transport: Transport::H2,
        stay_ms: 40_000,
        ..one("calm-live", Player::Hls, enough())
    });
}

fn path_faults(sessions: &mut Vec<Session>, tier: Tier, player: impl Fn(usize) -> Player) {
    let one = |name, n: usize, link| Session {
        expected: blaming(PATH),
        ..held_out(name, tier, player(n), link)
    };
    sessions.push(one("rate-cut", 0, trace::cut(18_000, 230_000, 20_000, 36)));
    sessions.push(Session {
        congestion: "bbr",
        ..one("rate-cut-bbr", 0, trace::cut(16_500, 180_000, 21_000, 31))
    });
    sessions.push(Session {
        transport: Transport::H2,
        ..one(
            "oscillation",
            1,
            trace::oscillation(3_500_000, 180_000, 9_000, STAY_MS, 24),
        )
    });
    sessions.push(Session {
        transport: Transport::Clear,
        ..one(
            "loss",
            0,
            vec![
                Step::new(0, 7_000_000, 45),
                Step::new(17_000, 7_000_000, 45).lossy(130_000),
                Step::new(39_000, 7_000_000, 45),
            ],
        )
    });
    sessions.push(one("outage", 1, trace::cut(21_000, 0, 12_000, 28)));
    sessions.push(Session {
        stream: Stream::Live,
        ..one("live-rate-cut", 0, trace::cut(21_000, 160_000, 17_000, 34))
    });
    sessions.push(Session {
        expected: blaming(&[Blame::ReceiverWindow]),
        narrow: true,
        transport: Transport::Clear,
        ..one("small-window", 1, vec![Step::new(0, 6_000_000, 110)])
    });
}

fn server_faults(sessions: &mut Vec<Session>, tier: Tier, player: impl Fn(usize) -> Player) {
    let one = |name, n: usize| held_out(name, tier, player(n), enough());
    sessions.push(Session {
        expected: blaming(&[Blame::Think, Blame::LateAtOrigin]),
        faults: during(18_000, 22_000, Fault::Think { ms: 5_500 }),
        ..one("slow-server", 0)
    });
    sessions.push(Session {
        expected: blaming(&[Blame::ApplicationWrite]),
        faults: during(18_000, 20_000, Fault::Pause { ms: 5_500 }),
        transport: if tier == Tier::T2 {
            Transport::H2
        } else {
            Transport::Tls
        },
        ..one("stalled-disk", 1)
    });
    sessions.push(Session {
        expected: blaming(&[Blame::LateAtOrigin, Blame::Think]),
        stream: Stream::Live,
        faults: during(18_000, 19_000, Fault::Late { ms: 14_000 }),
        ..held_out("live-late-encoder", tier, Player::Hls, enough())
    });
}

fn healthy(sessions: &mut Vec<Session>, tier: Tier, player: impl Fn(usize) -> Player) {
    let one = |name, n: usize| held_out(name, tier, player(n), enough());
    sessions.push(Session {
        stream: Stream::Live,
        transport: Transport::H2,
        stay_ms: 40_000,
        ..one("calm-live", 0)
    });
    sessions.push(Session {
        seeks: vec![
            Seek {
                at_ms: 11_000,
                to_s: 70.0,
            },
            Seek {
                at_ms: 24_000,
                to_s: 15.0,
            },
        ],
        stay_ms: 40_000,
        cmcd: if tier == Tier::T2 {
            Cmcd::Header
        } else {
            Cmcd::None
        },
        ..one("seeking", 1)
    });
    sessions.push(Session {
        pauses: vec![Pause {
            at_ms: 14_000,
            for_ms: 13_000,
        }],
        stay_ms: 45_000,
        transport: Transport::Clear,
        ..one("pausing", 0)
    });
}

//! The sessions of a run: every way of going wrong on links of the training set, the same ways with other
//! links, sizes and times for the held-out set, and few for the quick form.

mod held_out;
mod odd;

use super::ladder::Container;
use super::origin::Fault;
use super::scenario::{
    Blame, Cmcd, Door, Expected, Failure, PATH, Pause, Player, Seek, Session, Set, Stream, Tier,
    Transport,
};
use super::trace::{self, GOOD_BPS, Step};

/// How long a viewer stays who has no reason to leave.
const STAY_MS: u32 = 55_000;
/// Seeds of the training traces.
const TRAINING_SEEDS: std::ops::Range<u64> = 101..107;

/// Begins the names of the held-out set.
const HELD: &str = "held-";
const ALL: [Tier; 3] = [Tier::T0, Tier::T1, Tier::T2];
const BOTH: [Player; 2] = [Player::Hls, Player::Dash];

/// The sessions, in the order in which they are played.
pub fn sessions(quick: bool) -> Vec<Session> {
    if quick {
        return quick_ones();
    }
    let mut sessions = Vec::new();
    stalls(&mut sessions);
    starts(&mut sessions);
    healthy(&mut sessions);
    for tier in ALL {
        mobile(&mut sessions, Set::Training, tier, TRAINING_SEEDS);
    }
    odd::add(&mut sessions, Set::Training);
    held_out::add(&mut sessions);
    sessions
}

fn session(name: &str, set: Set, tier: Tier, player: Player, link: Vec<Step>) -> Session {
    let word = |player| if player == Player::Hls { "hls" } else { "dash" };
    Session {
        name: format!("{name}-{}-{tier:?}", word(player)).to_lowercase(),
        scenario: name.strip_prefix(HELD).unwrap_or(name).to_owned(),
        set,
        tier,
        player,
        container: Container::Apart,
        stream: Stream::Vod,
        transport: Transport::Tls,
        cmcd: if tier == Tier::T2 {
            Cmcd::Query
        } else {
            Cmcd::None
        },
        cmcd_version: 1,
        congestion: "cubic",
        narrow: false,
        link,
        faults: Vec::new(),
        door: Door::Open,
        stay_ms: STAY_MS,
        seeks: Vec::new(),
        pauses: Vec::new(),
        restarts_ms: Vec::new(),
        backgrounds: Vec::new(),
        company: None,
        is_named: true,
        expected: Expected::default(),
        seed: 1,
    }
}

fn blaming(blame: &'static [Blame]) -> Expected {
    Expected {
        blame,
        ..Expected::default()
    }
}

/// From `at_ms` on for so long, and well again.
fn during(at_ms: u32, lasts_ms: u32, fault: Fault) -> Vec<(u32, Fault)> {
    vec![
        (0, Fault::None),
        (at_ms, fault),
        (at_ms + lasts_ms, Fault::None),
    ]
}

/// A good link of 20 ms each way.
fn good() -> Vec<Step> {
    vec![Step::new(0, GOOD_BPS, 20)]
}

/// Made faults, each at every tier with one of the players.
fn stalls(sessions: &mut Vec<Session>) {
    for (tier, player) in [
        (Tier::T0, Player::Hls),
        (Tier::T1, Player::Hls),
        (Tier::T1, Player::Dash),
        (Tier::T2, Player::Hls),
        (Tier::T2, Player::Dash),
    ] {
        let training = |name, link| session(name, Set::Training, tier, player, link);
        sessions.push(Session {
            expected: blaming(PATH),
            container: if player == Player::Hls {
                Container::Muxed
            } else {
                Container::Apart
            },
            ..training("rate-cut", trace::cut(15_000, 200_000, 25_000, 20))
        });
        sessions.push(Session {
            expected: blaming(PATH),
            transport: Transport::H2,
            ..training(
                "oscillation",
                trace::oscillation(4_000_000, 150_000, 10_000, STAY_MS, 30),
            )
        });
        sessions.push(Session {
            expected: blaming(PATH),
            transport: Transport::Clear,
            ..training(
                "loss",
                vec![
                    Step::new(0, GOOD_BPS, 40),
                    Step::new(15_000, GOOD_BPS, 40).lossy(150_000),
                    Step::new(40_000, GOOD_BPS, 40),
                ],
            )
        });
        sessions.push(Session {
            expected: blaming(PATH),
            ..training("outage", trace::cut(20_000, 0, 14_000, 20))
        });
        sessions.push(Session {
            expected: blaming(&[Blame::Think, Blame::LateAtOrigin]),
            faults: during(15_000, 25_000, Fault::Think { ms: 4_500 }),
            ..training("slow-server", good())
        });
        sessions.push(Session {
            expected: blaming(&[Blame::ApplicationWrite]),
            faults: during(15_000, 25_000, Fault::Pause { ms: 4_500 }),
            transport: if tier == Tier::T1 {
                Transport::H2
            } else {
                Transport::Tls
            },
            ..training("stalled-disk", good())
        });
        sessions.push(Session {
            expected: blaming(&[Blame::ReceiverWindow]),
            narrow: true,
            transport: Transport::Clear,
            // Some 6 kB in flight over 200 ms: too little for the lowest rendition.
            ..training("small-window", vec![Step::new(0, GOOD_BPS, 100)])
        });
        sessions.push(Session {
            expected: blaming(PATH),
            stream: Stream::Live,
            ..training("live-rate-cut", trace::cut(18_000, 200_000, 20_000, 20))
        });
    }
    for tier in [Tier::T1, Tier::T2] {
        sessions.push(Session {
            expected: blaming(&[Blame::LateAtOrigin, Blame::Think]),
            stream: Stream::Live,
            faults: during(20_000, 20_000, Fault::Late { ms: 12_000 }),
            ..session(
                "live-late-encoder",
                Set::Training,
                tier,
                Player::Hls,
                good(),
            )
        });
        sessions.push(Session {
            expected: blaming(PATH),
            congestion: "bbr",
            ..session(
                "rate-cut-bbr",
                Set::Training,
                tier,
                Player::Hls,
                trace::cut(15_000, 200_000, 25_000, 20),
            )
        });
    }
}

/// Starts that fail or are given up.
fn starts(sessions: &mut Vec<Session>) {
    for (tier, player) in [
        (Tier::T1, Player::Hls),
        (Tier::T2, Player::Hls),
        (Tier::T1, Player::Dash),
    ] {
        start_failures(sessions, Set::Training, tier, player);
    }
}

fn start_failures(sessions: &mut Vec<Session>, set: Set, tier: Tier, player: Player) {
    let held = if set == Set::HeldOut { HELD } else { "" };
    let failing = |name: &str, failure, link| Session {
        expected: Expected {
            failure: Some(failure),
            ..Expected::default()
        },
        stay_ms: 20_000,
        ..session(&format!("{held}{name}"), set, tier, player, link)
    };
    for code in [404, 503] {
        sessions.push(Session {
            faults: vec![(0, Fault::Status { code })],
            ..failing(&format!("start-{code}"), Failure::Http, good())
        });
    }
    sessions.push(Session {
        faults: vec![(0, Fault::Think { ms: 8_000 })],
        ..failing("start-slow-origin", Failure::Origin, good())
    });
    sessions.push(Session {
        door: Door::BlackHole,
        ..failing("start-black-hole", Failure::Network, good())
    });
    sessions.push(failing(
        "start-no-data",
        Failure::Network,
        vec![Step::new(0, GOOD_BPS, 20), Step::new(250, 0, 20)],
    ));
    sessions.push(Session {
        stay_ms: 700,
        // 100 ms each way: the manifests alone take the viewer's patience.
        ..failing(
            "start-left",
            Failure::Client,
            vec![Step::new(0, 2_000_000, 100)],
        )
    });
    let mut refused = Session {
        door: Door::Refused,
        stay_ms: 10_000,
        ..failing("start-refused", Failure::Network, good())
    };
    refused.expected.unseeable = true;
    sessions.push(refused);
}

/// Viewers to whom nothing happens that is anyone's fault.
fn healthy(sessions: &mut Vec<Session>) {
    for tier in ALL {
        for player in BOTH {
            let training = |name| session(name, Set::Training, tier, player, good());
            sessions.push(Session {
                stream: Stream::Live,
                transport: Transport::H2,
                stay_ms: 40_000,
                ..training("calm-live")
            });
            if tier == Tier::T0 {
                continue;
            }
            sessions.push(Session {
                seeks: vec![
                    Seek {
                        at_ms: 12_000,
                        to_s: 60.0,
                    },
                    Seek {
                        at_ms: 25_000,
                        to_s: 20.0,
                    },
                ],
                stay_ms: 40_000,
                cmcd: if tier == Tier::T2 {
                    Cmcd::Header
                } else {
                    Cmcd::None
                },
                ..training("seeking")
            });
            sessions.push(Session {
                pauses: vec![Pause {
                    at_ms: 12_000,
                    for_ms: 15_000,
                }],
                stay_ms: 45_000,
                ..training("pausing")
            });
        }
    }
}

/// The Markov chain's links.
fn mobile(sessions: &mut Vec<Session>, set: Set, tier: Tier, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let player = BOTH[usize::from(seed % 2 == 0)];
        let stream = if seed % 4 < 2 {
            Stream::Vod
        } else {
            Stream::Live
        };
        let link = trace::mobile(seed, STAY_MS / 1000);
        sessions.push(Session {
            scenario: "mobile".to_owned(),
            stream,
            expected: blaming(PATH),
            transport: [Transport::Tls, Transport::H2][usize::from(seed % 3 == 0)],
            congestion: ["cubic", "bbr"][usize::from(seed % 5 == 0)],
            cmcd_version: if seed % 3 == 1 { 2 } else { 1 },
            seed,
            ..session(&format!("mobile-{seed}"), set, tier, player, link)
        });
    }
}

/// One batch: every player and tier, stalls of two causes in each protocol, a failed start, a player
/// that is begun anew, and calm.
fn quick_ones() -> Vec<Session> {
    let mut sessions = Vec::new();
    for (tier, player) in [
        (Tier::T1, Player::Hls),
        (Tier::T2, Player::Hls),
        (Tier::T2, Player::Dash),
    ] {
        sessions.push(Session {
            expected: blaming(PATH),
            stay_ms: 38_000,
            transport: if (tier, player) == (Tier::T2, Player::Hls) {
                Transport::H2
            } else {
                Transport::Tls
            },
            ..session(
                "rate-cut",
                Set::Training,
                tier,
                player,
                trace::cut(10_000, 150_000, 17_000, 20),
            )
        });
    }
    sessions.push(Session {
        expected: blaming(&[Blame::ApplicationWrite]),
        faults: during(10_000, 17_000, Fault::Pause { ms: 4_500 }),
        stay_ms: 38_000,
        ..session("stalled-disk", Set::Training, Tier::T1, Player::Hls, good())
    });
    sessions.push(Session {
        stream: Stream::Live,
        stay_ms: 30_000,
        ..session("calm-live", Set::Training, Tier::T2, Player::Hls, good())
    });
    sessions.push(Session {
        faults: vec![(0, Fault::Status { code: 404 })],
        expected: Expected {
            failure: Some(Failure::Http),
            ..Expected::default()
        },
        stay_ms: 15_000,
        ..session("start-404", Set::Training, Tier::T1, Player::Hls, good())
    });
    sessions.push(Session {
        restarts_ms: vec![14_000],
        stay_ms: 32_000,
        ..session("restart", Set::Training, Tier::T1, Player::Dash, good())
    });
    for session in &mut sessions {
        // Not those of a whole run.
        session.name = format!("quick-{}", session.name);
    }
    sessions
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_full_run_has_sessions_of_distinct_names_enough_of_them_held_out_at_every_tier() {
        let all = sessions(false);
        let names: HashSet<_> = sessions(true)
            .into_iter()
            .chain(all.clone())
            .map(|session| session.name)
            .collect();
        assert_eq!(names.len(), all.len() + sessions(true).len());
        for (tier, least) in ALL.into_iter().zip([8, 30, 30]) {
            let held_out = all
                .iter()
                .filter(|session| session.set == Set::HeldOut && session.tier == tier);
            let count = held_out.count();
            assert!((least..=40).contains(&count), "{count} at {tier:?}");
        }
        for set in [Set::Training, Set::HeldOut] {
            for tier in ALL {
                for player in BOTH {
                    assert!(all.iter().any(|session| session.set == set
                        && session.tier == tier
                        && session.player == player));
                }
            }
        }
    }

    #[test]
    fn a_full_run_is_over_in_time() {
        let stays = |session: &Session| {
            u64::from(session.stay_ms) * if session.company.is_some() { 2 } else { 1 }
        };
        let all: u64 = sessions(false).iter().map(stays).sum();
        let minutes = all / 60_000 / u64::try_from(super::super::stage::AT_ONCE).expect("few");
        assert!(minutes < 23, "{minutes} minutes");
    }

    #[test]
    fn what_can_happen_to_a_viewer_happens_in_both_sets() {
        let all = sessions(false);
        let of = |set| -> HashSet<(Tier, String)> {
            let those = all.iter().filter(|session| session.set == set);
            those
                .filter(|session| session.tier != Tier::T0)
                .map(|session| (session.tier, session.scenario.clone()))
                .collect()
        };
        assert_eq!(of(Set::Training), of(Set::HeldOut));
    }

    #[test]
    fn no_link_of_the_held_out_set_is_one_of_the_training_set() {
        let all = sessions(false);
        let of = |set| all.iter().filter(move |session| session.set == set);
        for held_out in of(Set::HeldOut).filter(|session| session.expected.failure.is_none()) {
            assert!(
                of(Set::Training).all(|session| session.link != held_out.link),
                "{}",
                held_out.name
            );
        }
    }

    #[test]
    fn nobody_is_nameless_whom_the_origin_must_know() {
        for session in sessions(false) {
            assert!(
                session.is_named || session.faults.is_empty(),
                "{}",
                session.name
            );
        }
    }

    #[test]
    fn cmcd_is_spoken_at_the_third_tier_alone() {
        for session in sessions(false).into_iter().chain(sessions(true)) {
            assert_eq!(
                session.tier == Tier::T2,
                session.cmcd != Cmcd::None,
                "{}",
                session.name
            );
        }
    }
}

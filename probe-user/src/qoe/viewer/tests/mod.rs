//! The model against players with buffers of their own, and what holds whatever it is told.

mod link;
mod network;
mod player;
mod properties;
mod score;

use fastrand::Rng;

use super::*;
use link::{Link, Weather};
use network::{EPOCH_NS, Measuring};
use player::{Habits, play};
use score::{Score, hear};

/// Like hls.js: any segment starts and resumes.
const EAGER: Habits = Habits {
    segment_ms: 2000,
    start_ms: 0,
    resume_ms: 0,
    begin_ms: 120,
    goal_ms: 10_000,
    is_live: false,
    is_split: false,
    has_claims: false,
    duration_ms: 180_000,
    measuring: Measuring {
        quiet_gap_ms: 1000,
        progress_ms: 500,
        lost_labels_permille: 0,
    },
};

/// A player that wants two segments.
const CAREFUL: Habits = Habits {
    start_ms: 3000,
    resume_ms: 3000,
    ..EAGER
};

/// Players that each have a link of their own, one after the other in all weathers.
fn run(
    name: &str,
    habits: &Habits,
    with: &Thresholds,
    weathers: &[Weather],
    players: u64,
) -> Score {
    let mut score = Score::default();
    for (seed, weather) in (0..players).zip(weathers.iter().cycle()) {
        let mut rng = Rng::with_seed(seed);
        let link = Link::new(*weather, habits.duration_ms, &mut rng);
        let (said, truth) = play(habits, &link, &mut rng);
        let heard = hear(&said, with, &truth);
        if std::env::var_os("WEIR_SHOW").is_some() {
            let s = |t: u64| t.saturating_sub(EPOCH_NS) as f64 / 1e9;
            println!("{name} {seed} {weather:?} rtt {}", link.rtt_ms);
            println!(
                "  true {:?}",
                truth
                    .stalls
                    .iter()
                    .map(|(b, e)| (s(*b), s(*e)))
                    .collect::<Vec<_>>()
            );
            println!(
                "  said {:?}",
                heard
                    .stalls
                    .iter()
                    .map(|(b, e, t)| (s(*b), s(*e), s(*t)))
                    .collect::<Vec<_>>()
            );
            println!(
                "  {:?} true played {} startup {}",
                heard.sums,
                truth.played_ns / 1000,
                truth.startup_ns / 1000
            );
        }
        score.add(&heard, &truth);
    }
    score.print(name);
    score
}

const ALL: [Weather; 5] = [
    Weather::Steady,
    Weather::Cut,
    Weather::Outage,
    Weather::Oscillating,
    Weather::Cellular,
];

#[test]
fn sim() {
    let with = Thresholds::default();
    for claims in [false, true] {
        for (name, base) in [("eager", EAGER), ("careful", CAREFUL)] {
            let base = Habits {
                has_claims: claims,
                ..base
            };
            run(&format!("{name} vod"), &base, &with, &ALL, 60);
            run(
                &format!("{name} vod split"),
                &Habits {
                    is_split: true,
                    ..base
                },
                &with,
                &ALL,
                60,
            );
            run(
                &format!("{name} live"),
                &Habits {
                    is_live: true,
                    ..base
                },
                &with,
                &ALL,
                60,
            );
            let m = Measuring {
                progress_ms: 1000,
                ..base.measuring
            };
            run(
                &format!("{name} vod progress 1 s"),
                &Habits {
                    measuring: m,
                    ..base
                },
                &with,
                &ALL,
                60,
            );
            let m = Measuring {
                lost_labels_permille: 20,
                ..base.measuring
            };
            run(
                &format!("{name} vod 2 % labels lost"),
                &Habits {
                    measuring: m,
                    ..base
                },
                &with,
                &ALL,
                60,
            );
        }
    }
}

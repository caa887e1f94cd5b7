//! The model against players with buffers of their own, and what holds whatever it is told.

mod link;
mod player;
mod score;

use fastrand::Rng;

use super::*;
use link::{Link, Weather};
use player::{Habits, play};
use score::{Score, hear};

fn habits(has_claims: bool) -> Habits {
    Habits {
        segment_ms: 2000,
        start_ms: 100,
        resume_ms: 100,
        begin_ms: 120,
        goal_ms: 10_000,
        is_live: false,
        is_split: false,
        has_claims,
        duration_ms: 180_000,
        quiet_gap_ms: 1000,
        progress_ms: 250,
    }
}

fn run(
    name: &str,
    habits: &Habits,
    with: &Thresholds,
    weathers: &[Weather],
    players: u64,
) -> Score {
    let mut score = Score::default();
    for seed in 0..players {
        let mut rng = Rng::with_seed(seed);
        let weather = weathers[seed as usize % weathers.len()];
        let link = Link::new(weather, habits.duration_ms, &mut rng);
        let (said, truth) = play(habits, &link, &mut rng);
        let heard = hear(&said, with, &truth);
        score.add(&heard, &truth);
        if std::env::var_os("WEIR_SHOW").is_some() {
            println!("{seed} {weather:?} rtt {}", link.rtt_ms);
            let s = |t: u64| t.saturating_sub(player::EPOCH_NS) as f64 / 1e9;
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
                "  sums {:?} true played {} startup {} {}",
                heard.sums,
                truth.played_ns / 1000,
                truth.startup_ns / 1000,
                heard.startup_us
            );
        }
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
        let base = habits(claims);
        run("vod", &base, &with, &ALL, 60);
        run(
            "vod split",
            &Habits {
                is_split: true,
                ..base
            },
            &with,
            &ALL,
            60,
        );
        run(
            "live",
            &Habits {
                is_live: true,
                ..base
            },
            &with,
            &ALL,
            60,
        );
        run(
            "vod progress 1 s",
            &Habits {
                progress_ms: 1000,
                ..base
            },
            &with,
            &ALL,
            60,
        );
        run(
            "vod resume 2 segs",
            &Habits {
                resume_ms: 3000,
                start_ms: 3000,
                ..base
            },
            &with,
            &ALL,
            60,
        );
    }
}

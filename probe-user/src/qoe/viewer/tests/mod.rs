//! The model against players with buffers of their own, and what holds whatever it is told.

mod lab;
mod link;
mod network;
mod player;
mod properties;
mod score;
mod stories;
mod story;

use fastrand::Rng;

use super::super::learn::{Family, Pupil};
use super::*;
use link::{Link, Weather};
use network::{Input, Measuring};
use player::{Habits, play};
use score::{Score, hear, without_labels};

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
    has_labels: true,
    duration_ms: 120_000,
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

/// Links that fail now and then.
const MILD: [Weather; 3] = [Weather::Steady, Weather::Cut, Weather::Outage];
/// Links that hardly ever carry enough.
const HARSH: [Weather; 2] = [Weather::Oscillating, Weather::Cellular];

/// Players that each have a link of their own, one after the other in all weathers.
fn run(
    name: &str,
    habits: &Habits,
    with: &Thresholds,
    weathers: &[Weather],
    players: u64,
) -> Score {
    let mut score = Score::default();
    for (seed, weather) in (1000..1000 + players).zip(weathers.iter().cycle()) {
        let mut rng = Rng::with_seed(seed);
        let link = Link::new(*weather, habits.duration_ms, &mut rng);
        let (mut said, truth) = play(habits, &link, &mut rng);
        if !habits.has_labels {
            said = without_labels(&said);
        }
        score.add(&hear(&said, with, &truth), &truth);
    }
    score.print(name);
    score
}

/// What players of these habits teach who declare their state.
fn learned(habits: &Habits, players: u64) -> Thresholds {
    let habits = Habits {
        has_claims: true,
        ..*habits
    };
    let mut family = Family::default();
    for seed in 0..players {
        let mut rng = Rng::with_seed(seed);
        let link = Link::new(Weather::Cut, habits.duration_ms, &mut rng);
        let (said, _) = play(&habits, &link, &mut rng);
        let mut events: Vec<(u64, Input)> = said
            .into_iter()
            .filter_map(|(_, input)| match input {
                Input::UnderWay(_) => None,
                Input::Labelled(told) => Some((told.t_request_ns, input)),
                Input::Finished(told) => Some((told.t_last_acked_ns, input)),
            })
            .collect();
        events.sort_by_key(|(t_ns, _)| *t_ns);
        let mut pupil = Pupil::new();
        for (t_ns, input) in events {
            let lesson = match input {
                Input::Labelled(Labelled {
                    claim: Some(claim), ..
                }) => pupil.claimed(
                    t_ns,
                    u64::from(claim.ahead_ms.unwrap_or(0)) * 1000,
                    claim.starved,
                    claim.starting == Some(true),
                ),
                Input::Finished(told) => {
                    let one_way_ns = u64::from(told.srtt_us) * 500;
                    pupil.arrived(t_ns - one_way_ns, habits.segment_ms * 1000);
                    None
                }
                _ => None,
            };
            if let Some(lesson) = lesson {
                family.learn(&lesson);
            }
        }
    }
    let found = family.thresholds(&Thresholds::default());
    println!(
        "learned of {} starts and {} stalls: {found:?}",
        family.starts(),
        family.resumes()
    );
    found
}

/// Loose floors: what a change that breaks the model falls through, and no figure of merit.
fn assert_floors(score: &Score, f1: f64, ratio_error: f64, delay_ms: u64) {
    assert!(score.hits + score.misses >= 40, "too few stalls to judge");
    assert!(score.f1() >= f1, "{}", score.f1());
    assert!(
        score.ratio_error() <= ratio_error,
        "{}",
        score.ratio_error()
    );
    assert!(score.bounded() >= 0.7, "{}", score.bounded());
    // Of simulated time, from the true onset.
    assert!(score.delay_ms(50) < 500, "{}", score.delay_ms(50));
    assert!(score.delay_ms(99) < delay_ms, "{}", score.delay_ms(99));
}

#[test]
fn joined_to_the_log_stalls_are_found_while_they_last() {
    let with = Thresholds::default();
    for (name, habits) in [
        ("recording", EAGER),
        (
            "live",
            Habits {
                is_live: true,
                ..EAGER
            },
        ),
        (
            "picture and sound apart",
            Habits {
                is_split: true,
                ..EAGER
            },
        ),
        (
            "2 % of labels lost",
            Habits {
                measuring: Measuring {
                    lost_labels_permille: 20,
                    ..EAGER.measuring
                },
                ..EAGER
            },
        ),
    ] {
        run(&format!("{name}, mild"), &habits, &with, &MILD, 30);
        let score = run(&format!("{name}, harsh"), &habits, &with, &HARSH, 30);
        assert_floors(&score, 0.9, 0.5, 2000);
    }
}

#[test]
fn what_players_declare_makes_it_right_even_where_their_thresholds_are_not_known() {
    for (name, habits) in [
        ("eager", EAGER),
        ("careful", CAREFUL),
        (
            "careful, picture and sound apart",
            Habits {
                is_split: true,
                ..CAREFUL
            },
        ),
    ] {
        let habits = Habits {
            has_claims: true,
            ..habits
        };
        let with = Thresholds::default();
        let score = run(&format!("{name}, declared"), &habits, &with, &HARSH, 30);
        assert_floors(&score, 0.97, 0.7, 2000);
    }
}

#[test]
fn what_was_learned_of_declaring_players_serves_those_that_do_not() {
    let careful = learned(&CAREFUL, 60);
    assert!((2_000_000..4_000_001).contains(&careful.start_us[1]));
    let eager = learned(&EAGER, 60);
    assert!(eager.start_us[1] <= 2_000_000 && eager.resume_us[1] <= 2_000_000);
    for (name, habits, with) in [("careful", CAREFUL, careful), ("eager", EAGER, eager)] {
        let score = run(&format!("{name}, learned"), &habits, &with, &HARSH, 30);
        // A bracket is as wide as a segment, and who is in it is known no better.
        assert_floors(&score, 0.9, 0.6, 5000);
    }
}

#[test]
fn with_the_kernel_alone_most_stalls_are_found() {
    let habits = Habits {
        has_labels: false,
        ..EAGER
    };
    let with = Thresholds::default();
    let score = run("kernel alone, mild", &habits, &with, &MILD, 30);
    assert!(score.f1() > 0.5, "{}", score.f1());
    run("kernel alone, harsh", &habits, &with, &HARSH, 30);
}

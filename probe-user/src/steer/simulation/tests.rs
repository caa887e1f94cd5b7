use super::*;

fn options(dead_time_s: u32, duration_s: u32) -> Options {
    Options {
        hosts: 16,
        dead_time_s,
        duration_s,
        seed: 1,
    }
}

#[test]
fn weir_settles_where_the_naive_policy_swings() {
    for (dead_time_s, duration_s) in [(12, 3600), (300, 10_800)] {
        for scene in [Scene::Step, Scene::Stale] {
            let options = options(dead_time_s, duration_s);
            let run = |pilot| simulate(scene, pilot, &options);
            let (none, naive, weir) = (run(Pilot::None), run(Pilot::Naive), run(Pilot::Weir));
            println!("{none:?}\n{naive:?}\n{weir:?}");
            assert!(
                naive.amplitude_percent > 99.0 && naive.settling_s.is_none(),
                "{naive:?}"
            );
            assert!(weir.amplitude_percent <= 12.0, "{weir:?}");
            assert!(weir.settling_s.is_some(), "{weir:?}");
            assert!(
                weir.moved_percent * 5.0 < naive.moved_percent,
                "{weir:?} {naive:?}"
            );
            // And steering was worth it.
            assert!(
                weir.late_end_percent < none.late_end_percent / 2.0,
                "{weir:?} {none:?}"
            );
        }
    }
}

#[test]
fn what_was_turned_away_is_taken_back_when_the_host_is_well() {
    for seed in 1..4 {
        let options = Options {
            seed,
            ..options(12, 5400)
        };
        let weir = simulate(Scene::Heal, Pilot::Weir, &options);
        println!("{weir:?}");
        assert!(weir.lowest_percent < 80.0, "{weir:?}");
        assert!((weir.end_percent - 100.0).abs() < 1e-9, "{weir:?}");
    }
}

#[test]
fn a_regional_fault_moves_nobody_and_a_bad_release_does_not_empty_half_of_the_fleet() {
    for scene in [Scene::Regional, Scene::Release] {
        let options = options(12, 3600);
        let run = |pilot| simulate(scene, pilot, &options);
        let (naive, weir) = (run(Pilot::Naive), run(Pilot::Weir));
        println!("{naive:?}\n{weir:?}");
        assert!(weir.late_percent < naive.late_percent, "{weir:?} {naive:?}");
        if scene == Scene::Regional {
            assert!((weir.lowest_percent - 100.0).abs() < 1e-9, "{weir:?}");
        }
        // No more than what keeps the pool's healthy capacity.
        assert!(weir.lowest_percent >= 50.0, "{weir:?}");
    }
}

#[test]
fn a_liar_hurts_nobody_much() {
    let options = options(12, 3600);
    let run = |pilot| simulate(Scene::Liar, pilot, &options);
    let (none, weir) = (run(Pilot::None), run(Pilot::Weir));
    assert!(weir.moved_percent < 10.0, "{weir:?}");
    assert!(
        (weir.late_percent - none.late_percent).abs() < 0.1,
        "{weir:?} {none:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let options = options(12, 900);
    let run = || simulate(Scene::Step, Pilot::Weir, &options);
    assert_eq!(run(), run());
    let other = Options { seed: 2, ..options };
    assert_ne!(run(), simulate(Scene::Step, Pilot::Weir, &other));
}

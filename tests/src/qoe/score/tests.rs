use super::super::said::Estimate;
use super::super::scenario::Failure;
use super::*;

const PLAIN: Expected = Expected {
    failure: None,
    blame: &[],
    unseeable: false,
};

fn span(begin_ms: u64, end_ms: u64) -> Span {
    Span { begin_ms, end_ms }
}

fn told(begin_ms: u64, end_ms: u64) -> Stall {
    Stall {
        begin_unix_ns: begin_ms * 1_000_000,
        first_begin_unix_ns: begin_ms * 1_000_000,
        end_unix_ns: end_ms * 1_000_000,
        told_unix_ns: (begin_ms + 300) * 1_000_000,
        cause: None,
    }
}

fn truth(stalls: Vec<Span>) -> Truth {
    Truth {
        load_ms: 1_000,
        started_ms: Some(2_000),
        left_ms: 101_000,
        stalls,
        ..Truth::default()
    }
}

fn said(stalls: Vec<Stall>) -> ViewerSaid {
    ViewerSaid {
        stalls,
        ..ViewerSaid::default()
    }
}

fn score_of(truth: &Truth, said: &ViewerSaid) -> Score {
    score([Pair {
        expected: &PLAIN,
        truth,
        said: Some(said),
    }])
}

#[test]
fn a_stall_is_found_within_the_tolerance_and_false_beyond_it() {
    let truth = truth(vec![span(10_000, 12_000), span(30_000, 33_000)]);
    let score = score_of(
        &truth,
        &said(vec![told(10_900, 12_000), told(31_200, 33_000)]),
    );
    assert_eq!(
        (score.stalls, score.stalls_found, score.stalls_false),
        (2, 1, 1)
    );
    assert_eq!(score.stalls_touched, 2);
    assert_eq!(
        (score.recall(), score.precision(), score.f1()),
        (0.5, 0.5, 0.5)
    );
    assert_eq!(score.told_after_ms, [1_200.0]);
}

#[test]
fn what_is_taken_back_or_corrected_is_counted_as_it_was_told_too() {
    let truth = truth(vec![span(10_000, 12_000), span(30_000, 33_000)]);
    let mut said = said(vec![
        Stall {
            first_begin_unix_ns: 8_000_000_000,
            ..told(10_000, 12_000)
        },
        told(30_000, 33_000),
    ]);
    said.retracted = vec![told(20_000, 0)];
    let score = score_of(&truth, &said);
    assert_eq!((score.stalls_found, score.stalls_false), (2, 0));
    assert_eq!(score.stalls_retracted, 1);
    assert!((score.precision_kept() - 2.0 / 3.0).abs() < 1e-9);
    // Of three that were told live one was where it was said to be.
    assert_eq!(
        (score.stalls_found_as_told, score.stalls_false_as_told),
        (1, 2)
    );
    assert!((score.precision_as_told() - 1.0 / 3.0).abs() < 1e-9);
    assert!((score.f1_as_told() - 0.4).abs() < 1e-9);
}

#[test]
fn one_said_stall_is_not_two_true_ones() {
    let truth = truth(vec![span(10_000, 10_500), span(10_800, 12_000)]);
    let score = score_of(&truth, &said(vec![told(10_400, 12_000)]));
    assert_eq!((score.stalls_found, score.stalls_false), (1, 0));
    let two = vec![told(10_400, 10_500), told(10_801, 12_000)];
    let score = score_of(&truth, &said(two));
    assert_eq!((score.stalls_found, score.stalls_false), (2, 0));
    // Said in two pieces with next to nothing between them, it is said once.
    let pieces = vec![told(10_400, 10_500), told(10_600, 12_000)];
    let score = score_of(&truth, &said(pieces));
    assert_eq!((score.stalls_found, score.stalls_false), (1, 0));
}

#[test]
fn a_hiccup_is_neither_missed_nor_falsely_found() {
    let truth = truth(vec![span(10_000, 10_000 + SHORTEST_STALL_MS - 1)]);
    let score = score_of(&truth, &said(vec![told(10_000, 10_100)]));
    assert_eq!(
        (score.stalls, score.stalls_found, score.stalls_false),
        (0, 0, 0)
    );
}

#[test]
fn silence_misses_every_stall_and_is_no_coverage() {
    let truth = truth(vec![span(10_000, 12_000)]);
    let score = score([Pair {
        expected: &PLAIN,
        truth: &truth,
        said: None,
    }]);
    assert_eq!(
        (score.spoken_of, score.stalls, score.stalls_found),
        (0, 1, 0)
    );
    assert!(score.f1() < f64::EPSILON);
    assert!(score.ratio_errors.is_empty());
}

#[test]
fn a_ratio_is_compared_with_the_players_and_with_its_own_bounds() {
    // Two of a hundred seconds.
    let truth = truth(vec![span(10_000, 12_000)]);
    let mut said = said(Vec::new());
    said.watched_us = 100_000_000;
    said.stalled_us = Estimate {
        low: 1_900_000,
        point: 2_500_000,
        high: 2_600_000,
    };
    let close = score_of(&truth, &said);
    assert!((close.ratio_error_points() - 0.5).abs() < 1e-9);
    assert_eq!((close.ratios_close(), close.ratios_bounded), (1.0, 1));
    said.stalled_us = Estimate {
        low: 4_000_000,
        point: 4_000_000,
        high: 4_000_000,
    };
    let far = score_of(&truth, &said);
    assert_eq!((far.ratios_close(), far.ratios_bounded), (0.0, 0));
}

#[test]
fn a_failed_start_is_found_with_its_class_and_a_good_one_is_not_called_failed() {
    let http = Expected {
        failure: Some(Failure::Http),
        ..PLAIN
    };
    let failed = Truth {
        started_ms: None,
        ..truth(Vec::new())
    };
    let says = |class| ViewerSaid {
        failed: class,
        ..ViewerSaid::default()
    };
    let of = |expected, truth, said: &ViewerSaid| {
        score([Pair {
            expected,
            truth,
            said: Some(said),
        }])
    };
    let right = of(&http, &failed, &says(Some(Failure::Http)));
    assert_eq!(
        (right.failures, right.failures_found, right.failures_classed),
        (1, 1, 1)
    );
    let wrong = of(&http, &failed, &says(Some(Failure::Network)));
    assert_eq!((wrong.failures_found, wrong.failures_classed), (1, 0));
    assert_eq!(of(&http, &failed, &says(None)).failures_found, 0);
    let well = truth(Vec::new());
    let false_one = of(&PLAIN, &well, &says(Some(Failure::Client)));
    assert_eq!((false_one.failures, false_one.failures_false), (0, 1));
    let unseeable = Expected {
        unseeable: true,
        ..http
    };
    let refused = of(&unseeable, &failed, &says(None));
    assert_eq!((refused.failures, refused.failures_unseeable), (0, 1));
}

#[test]
fn a_warning_leads_the_stall_that_follows_it() {
    let truth = truth(vec![span(20_000, 22_000)]);
    let mut said = said(Vec::new());
    for told_ms in [5_000, 17_500, 19_000] {
        let told_unix_ns = told_ms * 1_000_000;
        said.warnings.push(Warning {
            told_unix_ns,
            until_unix_ns: 0,
        });
    }
    let score = score_of(&truth, &said);
    assert_eq!(
        (score.warnings, score.warnings_right, score.stalls_warned),
        (3, 2, 1)
    );
    assert_eq!(score.lead_ms, [2_500.0]);
}

#[test]
fn a_fault_is_blamed_on_what_most_of_its_stalled_time_is_put_down_to() {
    let expected = Expected {
        blame: &[Blame::Think],
        ..PLAIN
    };
    let truth = truth(vec![span(10_000, 11_000), span(20_000, 25_000)]);
    let blames = |first, second| {
        let mut stalls = vec![told(10_000, 11_000), told(20_000, 25_000)];
        stalls[0].cause = Some(first);
        stalls[1].cause = Some(second);
        let said = said(stalls);
        score([Pair {
            expected: &expected,
            truth: &truth,
            said: Some(&said),
        }])
    };
    let right = blames(Blame::PathQueue, Blame::Think);
    assert_eq!((right.faults_blamed, right.faults_right), (1, 1));
    let wrong = blames(Blame::Think, Blame::PathQueue);
    assert_eq!((wrong.faults_blamed, wrong.faults_right), (1, 0));
    assert_eq!(
        score_of(&truth, &said(vec![told(10_000, 11_000)])).faults_blamed,
        0
    );
}

#[test]
fn quantiles_are_of_the_nearest_rank_and_intervals_hold_their_share() {
    let values = [4.0, 1.0, 3.0, 2.0];
    assert_eq!(
        (quantile(&values, 0.5), quantile(&values, 0.99)),
        (2.0, 4.0)
    );
    assert!(quantile(&[], 0.5).is_nan());
    let (low, high) = interval(9, 10).expect("of ten");
    assert!(
        (0.55..0.62).contains(&low) && (0.97..0.99).contains(&high),
        "{low} {high}"
    );
    assert_eq!(interval(0, 0), None);
}

#[test]
fn a_session_without_a_player_is_in_no_number() {
    let said = said(vec![told(10_000, 11_000)]);
    let score = score_of(&Truth::default(), &said);
    assert_eq!((score.sessions, score.stalls_false), (0, 0));
}

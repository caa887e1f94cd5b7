//! What players do besides playing, one story each.

use super::super::super::startup::FailureClass;
use super::super::*;
use super::network::ns;
use super::story::Told;

#[test]
fn playback_begins_when_there_is_enough_and_takes_as_long_as_that_took() {
    let mut told = Told::new();
    told.polled(0);
    told.filled(400, 0, 3);
    let started = |change: &Change| matches!(change, Change::Started { startup_us, .. } if startup_us.abs_diff(500_000) < 1000);
    assert_eq!(told.view().phase, Phase::Playing);
    // Three segments, of which 200 ms are played.
    assert!(told.ahead_ms().abs_diff(5800) < 5, "{}", told.ahead_ms());
    told.until(4000);
    assert!(told.has(started), "{:?}", told.changes);
}

/// As hls.js does: the first segment of the lowest rendition is fetched to see how fast the path is,
/// thrown away, and fetched again in the rendition that the path carries.
#[test]
fn a_trial_of_the_path_is_not_played() {
    let mut told = Told::new();
    let trial = Object {
        rung: 1,
        ..told.object(0)
    };
    let first = Object {
        rung: 3,
        ..told.object(0)
    };
    told.fetched(0, 400, trial);
    // So slowly that what was thrown away would have been played meanwhile.
    told.fetched(400, 4000, first);
    told.fetched(4000, 4200, told.object(1));
    told.until(7000);
    let started = |change: &Change| matches!(change, Change::Started { startup_us, .. } if startup_us.abs_diff(4_000_000) < 1000);
    assert!(told.has(started), "{:?}", told.changes);
    assert_eq!(told.stalls(), []);
    assert!(told.ahead_ms().abs_diff(1000) < 5, "{}", told.ahead_ms());
}

/// It took longer than one can wait before calling it a start and a stall; both are taken back.
#[test]
fn a_long_trial_is_recognised_in_the_end() {
    let mut told = Told::new();
    told.fetched(0, 400, told.object(0));
    told.fetched(400, 9000, told.object(0));
    told.fetched(9000, 9200, told.object(1));
    told.until(12_500);
    assert!(told.has(|change| matches!(change, Change::StallRetracted { .. })));
    let sums = told.viewer.sums();
    assert_eq!((sums.stalls, sums.startup_us), (0, 9_000_000));
}

#[test]
fn a_stall_is_told_while_it_lasts_and_its_end_with_its_length() {
    let mut told = Told::new();
    told.filled(0, 0, 2);
    let id = told.asked(1000);
    // The first was there at 100, so that the buffer is dry at 4100.
    told.until(4000);
    assert_eq!(told.stalls(), []);
    told.until(4600);
    assert_eq!(told.stalls(), [(4100, Cause::Delivery)]);
    assert_eq!(told.view().phase, Phase::Stalled);
    told.until(7000);
    told.finish(&Finished {
        id,
        t_request_ns: ns(1000),
        t_last_acked_ns: ns(6100),
        t_ns: ns(6100),
        acked_bytes: 100_000,
        object: Some(told.object(2)),
        ..Finished::default()
    });
    let ended = |change: &Change| {
        matches!(change, Change::StallEnded { t_began_ns, t_ns, .. }
            if *t_began_ns == ns(4100) && *t_ns == ns(6100))
    };
    assert!(told.has(ended), "{:?}", told.changes);
    told.filled(7000, 3, 5);
    told.until(12_000);
    let sums = told.viewer.sums();
    assert_eq!((sums.stalls, sums.stalled_us.point), (1, 2_000_000));
}

/// Its answer was there in time; its record came late.
#[test]
fn what_was_told_too_soon_is_taken_back() {
    let mut told = Told::new();
    told.filled(0, 0, 2);
    let id = told.asked(1000);
    told.until(4600);
    assert_eq!(told.stalls().len(), 1);
    told.finish(&Finished {
        id,
        t_request_ns: ns(1000),
        t_last_acked_ns: ns(3900),
        t_ns: ns(4600),
        acked_bytes: 100_000,
        object: Some(told.object(2)),
        ..Finished::default()
    });
    let taken_back = |change: &Change| matches!(change, Change::StallRetracted { t_began_ns } if *t_began_ns == ns(4100));
    assert!(told.has(taken_back), "{:?}", told.changes);
    told.filled(4700, 3, 5);
    told.until(10_000);
    assert_eq!(told.viewer.sums().stalls, 0);
    assert_eq!(told.viewer.sums().stalled_us, Bounded::default());
}

#[test]
fn who_asks_for_nothing_does_not_stall_but_has_paused() {
    let mut told = Told::new();
    told.filled(0, 0, 4);
    for n in 0..6 {
        let t_ms = 2500 + n * 2000;
        told.fetched(t_ms, t_ms + 100, told.object(4 + u64::from(n)));
    }
    let before = told.ahead_ms();
    told.until(30_000);
    assert_eq!(told.view().phase, Phase::Idle);
    // It goes on where it was: with as much ahead as it always has when it asks.
    told.fetched(30_000, 30_100, told.object(10));
    assert_eq!(told.stalls(), []);
    assert_eq!(told.view().phase, Phase::Playing);
    assert!(
        told.ahead_ms().abs_diff(before) < 500,
        "{}",
        told.ahead_ms()
    );
    told.until(33_000);
    let played_ms = told.viewer.sums().played_us / 1000;
    assert!(
        played_ms < 14_500,
        "the pause counts as played: {played_ms}"
    );
}

/// Requests do not come through a dead path. Who has paused asks again for as much as it plays; who
/// stood still fills its buffer.
#[test]
fn who_fills_its_buffer_after_a_silence_stood_still() {
    let mut told = Told::new();
    told.filled(0, 0, 4);
    for n in 0..6 {
        let t_ms = 2500 + n * 2000;
        told.fetched(t_ms, t_ms + 100, told.object(4 + u64::from(n)));
    }
    let dry_ms = told.now_ms + u32::try_from(told.ahead_ms()).unwrap();
    told.until(30_000);
    assert_eq!(told.view().phase, Phase::Idle);
    told.filled(30_000, 10, 3);
    let stalls = told.stalls();
    assert_eq!(stalls, [(u64::from(dry_ms), Cause::Delivery)]);
    // It went on with the first segment; the third is one that a player that had paused would not
    // have asked for so soon.
    let ended = |change: &Change| matches!(change, Change::StallEnded { t_ns, .. } if t_ns.abs_diff(ns(30_100)) < 2_000_000);
    assert!(told.has(ended), "{:?}", told.changes);
    assert!(told.ahead_ms().abs_diff(5800) < 10, "{}", told.ahead_ms());
    told.until(33_000);
    let sums = told.viewer.sums();
    let stalled_us = u64::from(30_100 - dry_ms) * 1000;
    assert_eq!(sums.stalls, 1);
    assert!(
        sums.stalled_us.point.abs_diff(stalled_us) < 10_000,
        "{sums:?}"
    );
    // It may have been a pause all the same.
    assert_eq!(sums.stalled_us.lo, 0);
}

#[test]
fn a_jump_is_a_seek_and_its_wait_is_no_stall() {
    let mut told = Told::new();
    told.filled(0, 0, 5);
    told.fetched(5000, 5900, told.object(200));
    assert_eq!(told.stalls(), []);
    let sums = told.view().sums;
    assert_eq!((sums.seeks, sums.stalls), (1, 0));
    assert!(told.ahead_ms().abs_diff(2000) < 5, "{}", told.ahead_ms());
}

#[test]
fn a_segment_fetched_again_in_another_rendition_fills_nothing_twice() {
    let mut told = Told::new();
    told.filled(0, 0, 4);
    let before = told.ahead_ms();
    told.fetched(400, 500, told.object(3));
    assert!(told.ahead_ms().abs_diff(before - 100) < 5);
    // The last two are thrown away for better ones.
    let better = |number| Object {
        rung: 7,
        bitrate_bps: 3_000_000,
        ..told.object(number)
    };
    let (first, second) = (better(2), better(3));
    told.fetched(500, 600, first);
    told.fetched(600, 700, second);
    assert!(
        told.ahead_ms().abs_diff(before - 300) < 5,
        "{}",
        told.ahead_ms()
    );
    assert_eq!(told.view().sums.seeks, 0);
}

#[test]
fn playlists_fill_no_buffer_and_waiting_for_one_is_no_stall_of_delivery() {
    let mut told = Told::live();
    told.filled(0, 0, 3);
    for t_ms in [1000, 2000, 3000] {
        told.polled(t_ms);
    }
    assert!(told.ahead_ms() < 4000);
    assert_eq!(told.stalls(), []);
}

#[test]
fn a_live_player_that_finds_no_newer_segment_stalls_by_the_origins_fault() {
    let mut told = Told::live();
    told.filled(0, 0, 2);
    for n in 1..9 {
        told.polled(n * 1000);
    }
    let stalls = told.stalls();
    assert_eq!(stalls.len(), 1, "{:?}", told.changes);
    assert_eq!(stalls[0], (4100, Cause::Origin));
}

#[test]
fn leaving_while_the_buffer_is_dry_is_leaving_under_stress() {
    let mut told = Told::new();
    told.filled(0, 0, 2);
    let id = told.asked(1000);
    told.until(6000);
    told.finish(&Finished {
        id,
        t_request_ns: ns(1000),
        t_first_write_ns: ns(1100),
        t_last_acked_ns: ns(3000),
        t_ns: ns(6000),
        end: End::ClientAbort,
        ..Finished::default()
    });
    told.until(90_000);
    assert_eq!(
        told.ending(),
        Some(Ending::UnderStress),
        "{:?}",
        told.changes
    );
    // What it waited before it left is counted.
    assert_eq!(told.viewer.sums().stalled_us.point, 1_900_000);
}

#[test]
fn leaving_with_a_full_buffer_is_leaving() {
    let mut told = Told::new();
    told.filled(0, 0, 4);
    told.until(90_000);
    assert_eq!(told.ending(), Some(Ending::Left));
    assert_eq!(told.viewer.wake_ns(), u64::MAX);
    let Some(Change::Ended { t_ns, .. }) = told.changes.last() else {
        panic!("{:?}", told.changes);
    };
    assert_eq!(*t_ns, ns(400));
}

#[test]
fn who_closes_its_session_is_gone_sooner_than_who_is_silent() {
    let mut told = Told::new();
    told.filled(0, 0, 4);
    told.until(3000);
    let over = SessionOver {
        session: 1,
        t_ns: ns(3000),
        by_client: true,
        is_last: true,
    };
    let now_ns = ns(3000);
    told.viewer
        .session_over(&over, now_ns, &told.with, &mut told.changes);
    told.until(24_000);
    assert_eq!(told.ending(), Some(Ending::Left));
    // One that has closed nothing may come back: it stood still.
    let mut told = Told::new();
    told.filled(0, 0, 4);
    told.until(50_000);
    assert_eq!(told.ending(), None);
}

/// How an attempt with these ends fails.
fn failed(object: Object, finished: Finished) -> Option<FailureClass> {
    let mut told = Told::new();
    let id = told.asked(0);
    told.until(4000);
    told.finish(&Finished {
        id,
        t_request_ns: ns(0),
        t_ns: ns(4000),
        object: Some(object),
        ..finished
    });
    told.until(30_000);
    told.failure()
}

#[test]
fn failed_starts_are_classed_by_what_was_seen() {
    let manifest = Object {
        class: Class::Manifest,
        ..Object::default()
    };
    let quick = Finished {
        t_first_write_ns: ns(10),
        t_last_acked_ns: ns(50),
        acked_bytes: 100,
        ..Finished::default()
    };
    let with_status = |status| Finished { status, ..quick };
    assert_eq!(failed(manifest, with_status(404)), Some(FailureClass::Http));
    assert_eq!(failed(manifest, with_status(503)), Some(FailureClass::Http));
    assert_eq!(
        failed(manifest, with_status(504)),
        Some(FailureClass::Origin)
    );
    let left = Finished {
        end: End::ClientAbort,
        ..quick
    };
    assert_eq!(failed(manifest, left), Some(FailureClass::Client));
    let unanswered = Finished {
        end: End::ClientAbort,
        ..Finished::default()
    };
    assert_eq!(failed(manifest, unanswered), Some(FailureClass::Origin));
    let dead = Finished {
        t_first_write_ns: ns(10),
        end: End::OtherAbort,
        had_timeouts: true,
        ..Finished::default()
    };
    assert_eq!(failed(manifest, dead), Some(FailureClass::Network));
}

#[test]
fn an_attempt_whose_only_session_is_over_fails_sooner_than_one_that_is_silent() {
    let mut told = Told::new();
    told.polled(0);
    told.until(500);
    let over = SessionOver {
        session: 1,
        t_ns: ns(500),
        by_client: true,
        is_last: true,
    };
    let now_ns = ns(500);
    told.viewer
        .session_over(&over, now_ns, &told.with, &mut told.changes);
    told.until(5000);
    assert_eq!(told.failure(), Some(FailureClass::Client));
}

#[test]
fn a_player_that_begins_anew_is_another_attempt_of_the_same_viewer() {
    let mut told = Told::new();
    told.filled(0, 0, 4);
    told.until(6000);
    told.polled(6000);
    told.fetched(6200, 6500, told.object(100));
    told.fetched(6500, 6600, told.object(101));
    assert_eq!(told.ending(), Some(Ending::Restarted));
    told.until(10_000);
    let starts = told
        .changes
        .iter()
        .filter(|c| matches!(c, Change::Started { .. }));
    assert_eq!(starts.count(), 2, "{:?}", told.changes);
    assert!(!told.viewer.is_ended());
    assert_eq!(told.view().sums.startup_us, 100_000 + 300_000);
}

#[test]
fn several_viewers_behind_one_name_are_found_and_left_out() {
    let mut told = Told::new();
    // Three times real time for minutes, with pauses in which one viewer would have had enough.
    for n in 0..600_u32 {
        let t_ms = n / 3 * 2000 + n % 3 * 100;
        told.fetched(t_ms, t_ms + 50, told.object(n.into()));
    }
    assert!(told.has(|change| matches!(change, Change::Shared { .. })));
    assert!(told.viewer.is_shared());
}

#[test]
fn a_slow_object_is_told_to_be_a_risk_before_the_buffer_is_dry() {
    let mut told = Told::new();
    told.filled(0, 0, 4);
    let id = told.asked(1000);
    for n in 1..14_u32 {
        let t_ms = 1000 + n * 500;
        told.until(t_ms);
        let under_way = UnderWay {
            id,
            t_request_ns: ns(1000),
            t_ns: ns(t_ms),
            acked_bytes: u64::from(n) * 4000,
            written_bytes: 100_000,
            ..UnderWay::default()
        };
        let now_ns = ns(t_ms);
        told.viewer
            .under_way(&under_way, now_ns, &told.with, &mut told.changes);
    }
    let risk = told.changes.iter().find_map(|change| match change {
        Change::AtRisk { t_ns, left_us } => Some((*t_ns, *left_us)),
        _ => None,
    });
    // 100 kB at 8 kB/s take 12.5 s; there are 8.
    let (t_ns, left_us) = risk.expect("told");
    assert!(t_ns <= ns(4000) && left_us > 4_000_000, "{t_ns} {left_us}");
    assert_eq!(told.stalls(), []);
}

#[test]
fn parts_of_a_segment_add_up_and_sound_alone_is_enough_for_a_radio() {
    let mut told = Told::live();
    for n in 0..6_u32 {
        let part = Object {
            class: Class::Part,
            duration_us: 333_000,
            ..told.object(u64::from(n / 6))
        };
        told.fetched(n * 50, n * 50 + 40, part);
    }
    assert!(
        told.ahead_ms().abs_diff(2000 - 250) < 100,
        "{}",
        told.ahead_ms()
    );
    let mut radio = Told::new();
    for n in 0..4_u32 {
        let sound = Object {
            media: Media::Audio,
            ..radio.object(n.into())
        };
        radio.fetched(n * 100, n * 100 + 50, sound);
    }
    assert_eq!(radio.view().phase, Phase::Playing);
}

/// As dash.js does on a path that does not carry it: it begins again with what it has played of, in the
/// lowest rendition.
#[test]
fn what_a_dry_player_fetches_again_was_played() {
    let mut told = Told::new();
    told.filled(0, 0, 4);
    // Dry at 8.1 s. Three that were played come once more, and then the next, at 12 s.
    for (n, number) in (0..).zip([1, 2, 3, 4]) {
        let t_ms = 8000 + n * 1000;
        let object = Object {
            rung: 1,
            ..told.object(number)
        };
        told.fetched(t_ms, t_ms + 1000, object);
    }
    told.until(13_000);
    assert_eq!(told.stalls(), [(8100, Cause::Delivery)]);
    let sums = told.view().sums;
    assert_eq!((sums.seeks, sums.stalled_us.point), (0, 3_900_000));
}

//! What hls.js and dash.js were seen to do in Chromium, one story each.

use super::super::*;
use super::network::ns;
use super::story::Told;

/// An object of one kind of media, of a rendition.
fn of(told: &Told, media: Media, number: u64, rung: u32) -> Object {
    Object {
        media,
        rung,
        ..told.object(number)
    }
}

/// A request with what the player says, heard at once; its answer comes later.
fn said(told: &mut Told, t_ms: u32, number: u64, claim: Claim) -> (RequestId, Object) {
    let id = told.asked(t_ms);
    let object = told.object(number);
    let label = Labelled {
        id,
        t_request_ns: ns(t_ms),
        object,
        status: 200,
        claim: Some(claim),
        ..Labelled::default()
    };
    let now_ns = ns(told.now_ms);
    told.viewer
        .labelled(&label, now_ns, &told.with, &mut told.changes);
    (id, object)
}

fn ahead(ms: u32) -> Claim {
    Claim {
        ahead_ms: Some(ms),
        ..Claim::default()
    }
}

fn urgent(ms: u32) -> Claim {
    Claim {
        starting: Some(true),
        ..ahead(ms)
    }
}

/// Stalls that were told and not taken back.
fn stalls_left(told: &Told) -> usize {
    let taken = |change: &&Change| matches!(change, Change::StallRetracted { .. });
    told.stalls().len() - told.changes.iter().filter(taken).count()
}

fn stalled_ms(told: &Told) -> u64 {
    told.view().sums.stalled_us.point / 1000
}

/// Chromium's sound wants twice as much each time that it ran dry: from the fourth time on one
/// segment of two seconds does not do.
#[test]
fn a_player_that_ran_dry_often_wants_more_to_go_on() {
    for (grow_us, over_ms) in [(0, 4000), (400_000, 5000)] {
        let mut told = Told::new();
        told.with.grow_us = grow_us;
        told.fetched(0, 1000, told.object(0));
        // Each comes a second after the one before was played out.
        for n in 1..4 {
            let t_ms = 1000 + 3000 * (n - 1);
            told.fetched(t_ms, t_ms + 3000, told.object(n.into()));
        }
        told.fetched(10_000, 13_000, told.object(4));
        told.fetched(13_000, 14_000, told.object(5));
        told.fetched(14_000, 14_100, told.object(6));
        told.until(16_000);
        assert_eq!(told.stalls().len(), 4, "{:?}", told.changes);
        assert_eq!(stalled_ms(&told), over_ms, "{grow_us}");
    }
}

/// dash.js in Chromium: the sound goes on for up to three seconds without a picture, so that the
/// picture which comes late is over when it comes.
#[test]
fn the_sound_runs_on_and_passes_the_picture_by() {
    for (manifests, stalled_for_ms) in [(1, 8000), (3, 3000)] {
        let mut told = Told::new();
        for n in 0..manifests {
            told.polled(n * 10);
        }
        let (video, audio) = (Media::Video, Media::Audio);
        told.fetched(100, 200, of(&told, audio, 1, 9));
        told.fetched(200, 300, of(&told, audio, 2, 9));
        told.fetched(300, 1000, of(&told, video, 1, 1));
        // Dry at 3 s; what comes at 6 s ends at four seconds of the sound, which has played them.
        told.fetched(1000, 6000, of(&told, video, 2, 1));
        told.fetched(6000, 6100, of(&told, audio, 3, 9));
        told.fetched(6100, 11_000, of(&told, video, 3, 1));
        told.until(11_500);
        let view = told.view();
        // A player of HLS goes on at 6 s and stalls again at 8 s.
        let again_ms = if manifests == 1 { 0 } else { 3000 };
        assert_eq!(view.sums.stalled_us.point / 1000, stalled_for_ms + again_ms);
    }
}

/// dash.js fetches the first segment again in a higher rendition while the first one plays.
#[test]
fn a_segment_that_is_bettered_while_it_plays_was_no_trial() {
    let mut told = Told::new();
    told.fetched(0, 100, of(&told, Media::Audio, 1, 9));
    told.fetched(100, 200, of(&told, Media::Audio, 2, 9));
    told.fetched(200, 500, of(&told, Media::Video, 1, 1));
    told.fetched(500, 1400, of(&told, Media::Video, 1, 3));
    told.fetched(1400, 1600, of(&told, Media::Video, 2, 3));
    told.until(5000);
    let started = |change: &Change| matches!(change, Change::Started { startup_us, .. } if startup_us.abs_diff(500_000) < 1000);
    assert!(told.has(started), "{:?}", told.changes);
}

/// A live player that waits for a segment gives it up for a later one: the picture stands still
/// until that is there.
#[test]
fn a_live_player_that_skips_while_it_stalls_stalls_on() {
    let mut told = Told::live();
    told.filled(0, 0, 2);
    told.asked(200);
    told.fetched(5000, 7000, told.object(9));
    told.fetched(7000, 7100, told.object(10));
    told.until(8000);
    assert_eq!(told.stalls().len(), 1);
    assert_eq!(told.viewer.sums().seeks, 1);
    // Dry at 4.1 s.
    assert!(
        stalled_ms(&told).abs_diff(2900) < 10,
        "{}",
        stalled_ms(&told)
    );
}

/// hls.js says of muxed segments only that they are urgent, not that its buffer ran dry.
#[test]
fn urgency_confirms_a_stall() {
    let mut told = Told::new();
    let first = said(&mut told, 0, 0, urgent(0));
    told.answered(0, 500, first);
    let next = said(&mut told, 600, 1, ahead(1900));
    // Dry at 2.5 s.
    told.answered(600, 4500, next);
    let next = said(&mut told, 4510, 2, urgent(2000));
    // It went on at once, and is dry again at 6.5 s.
    told.answered(4510, 8500, next);
    let next = said(&mut told, 8510, 3, urgent(2000));
    told.answered(8510, 8600, next);
    let next = said(&mut told, 8610, 4, ahead(3900));
    told.answered(8610, 8700, next);
    told.until(12_000);
    assert_eq!(stalls_left(&told), 2, "{:?}", told.changes);
    assert!(
        stalled_ms(&told).abs_diff(4000) < 150,
        "{}",
        stalled_ms(&told)
    );
}

/// dash.js leaves out that it waits while its buffer is empty, and says that it had starved when it
/// did not.
#[test]
fn an_empty_buffer_stalls_and_a_full_one_did_not() {
    let mut told = Told::new();
    let first = said(&mut told, 0, 0, urgent(0));
    told.answered(0, 500, first);
    let next = said(&mut told, 510, 1, ahead(2000));
    told.answered(510, 600, next);
    let starved = Claim {
        starved: true,
        ..urgent(3800)
    };
    let next = said(&mut told, 700, 2, starved);
    told.until(5000);
    assert_eq!(told.stalls().len(), 1, "dry at 4.5 s: {:?}", told.changes);
    // Asks for it again elsewhere.
    said(&mut told, 5500, 2, ahead(0));
    told.answered(700, 6500, next);
    let next = said(&mut told, 6510, 3, ahead(2000));
    told.answered(6510, 6600, next);
    told.until(8000);
    assert_eq!(stalls_left(&told), 1, "{:?}", told.changes);
    assert!(
        stalled_ms(&told).abs_diff(2000) < 150,
        "{}",
        stalled_ms(&told)
    );
}

#[test]
fn what_is_left_when_it_ends_is_not_played() {
    let mut told = Told::new();
    told.filled(0, 0, 5);
    told.until(3000);
    let now_ns = ns(3000);
    let (viewer, with) = (&mut told.viewer, &told.with);
    viewer.end(now_ns, Ending::Left, with, &mut told.changes);
    let at = |t_ms| viewer.view(ns(t_ms), with).sums;
    assert_eq!(at(3000), at(60_000));
}

/// hls.js after an outage: the request that follows says how much is ahead, and not that it starved.
#[test]
fn a_buffer_that_holds_what_just_came_stood_still_until_then() {
    for (ahead_ms, stalls) in [(2000, 1), (100, 0)] {
        let mut told = Told::new();
        let mut at_ms = 0;
        for n in 0..3 {
            let asked = said(&mut told, at_ms, n, ahead(2000 * u32::try_from(n).unwrap()));
            told.answered(at_ms, at_ms + 100, asked);
            at_ms += 100;
        }
        // Six seconds are there; the next comes three seconds after they were played out.
        let asked = said(&mut told, at_ms, 3, ahead(5800));
        told.answered(at_ms, 9100, asked);
        let asked = said(&mut told, 9110, 4, ahead(ahead_ms));
        told.answered(9110, 9200, asked);
        told.until(13_000);
        assert_eq!(stalls_left(&told), stalls, "{:?}", told.changes);
        let stalled_ms = stalled_ms(&told);
        assert!(
            stalled_ms.abs_diff(stalls as u64 * 3000) < 100,
            "{stalled_ms}"
        );
    }
}

/// dash.js with a picture that comes when the sound has passed it by: `bl=0,bs,su` follows at once.
#[test]
fn media_that_is_of_no_use_ends_no_stall() {
    let mut told = Told::new();
    for n in 0..2 {
        let asked = said(&mut told, 100 * n, n.into(), ahead(0));
        told.answered(100 * n, 100 * n + 100, asked);
    }
    let asked = said(&mut told, 200, 2, ahead(3900));
    // Dry at 4.1 s.
    told.answered(200, 9000, asked);
    let empty = Claim {
        starved: true,
        ..urgent(0)
    };
    let asked = said(&mut told, 9010, 3, empty);
    told.answered(9010, 12_100, asked);
    let asked = said(&mut told, 12_110, 4, ahead(2000));
    told.answered(12_110, 12_200, asked);
    told.until(15_000);
    assert_eq!(stalls_left(&told), 1, "{:?}", told.changes);
    assert!(
        stalled_ms(&told).abs_diff(8000) < 150,
        "{}",
        stalled_ms(&told)
    );
}

/// dash.js after an outage: the first request is one that has been on its way since before, and says
/// what was ahead then; the next says that nothing is.
#[test]
fn an_empty_buffer_after_a_silence_was_empty_all_the_while() {
    let mut told = Told::new();
    for n in 0..8 {
        let t_ms = if n < 3 { n * 100 } else { n * 2000 - 3600 };
        let asked = said(&mut told, t_ms, n.into(), ahead(5600));
        told.answered(t_ms, t_ms + 100, asked);
    }
    let dry_ms = told.now_ms + u32::try_from(told.ahead_ms()).unwrap();
    told.until(30_000);
    let asked = said(&mut told, 30_000, 8, ahead(5600));
    told.answered(30_000, 30_600, asked);
    let empty = Claim {
        starved: true,
        ..urgent(0)
    };
    let asked = said(&mut told, 30_700, 9, empty);
    told.until(30_800);
    assert_eq!(told.view().phase, Phase::Stalled, "{:?}", told.changes);
    told.answered(30_700, 31_000, asked);
    let asked = said(&mut told, 31_010, 10, ahead(2000));
    told.answered(31_010, 31_100, asked);
    told.until(35_000);
    assert_eq!(stalls_left(&told), 1, "{:?}", told.changes);
    let stalled_ms = stalled_ms(&told);
    assert!(
        stalled_ms.abs_diff(u64::from(31_000 - dry_ms)) < 200,
        "{stalled_ms}"
    );
}

/// Chromium stops the sound, which has media still, when the picture is missing for three seconds;
/// then any picture lets it go on, and it wants no more each time.
#[test]
fn a_sound_that_was_stopped_wants_no_more_each_time() {
    let mut told = Told::new();
    told.with.grow_us = 400_000;
    told.polled(0);
    let (video, audio) = (Media::Video, Media::Audio);
    for n in 0..12 {
        let t_ms = 10 * u32::try_from(n).unwrap();
        told.fetched(t_ms, t_ms + 5, of(&told, audio, n, 9));
    }
    told.fetched(200, 1000, of(&told, video, 0, 1));
    // Each is half passed by when it comes.
    let mut at_ms = 1000;
    for n in 1..5 {
        told.fetched(at_ms, at_ms + 4000, of(&told, video, 2 * n - 1, 1));
        told.fetched(at_ms + 4000, at_ms + 7000, of(&told, video, 2 * n, 1));
        at_ms += 7000;
    }
    told.until(at_ms + 500);
    assert_eq!(told.stalls().len(), 4, "{:?}", told.changes);
}

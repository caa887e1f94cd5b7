//! What one client does alone: it raises no alarm, a restart of weir is no start of its, and what is
//! said of one request twice is said of one.

use super::*;
use crate::labels::cmcd::{Cmcd, PlayState};
use crate::qoe::alarms::{Alarms, Promises, Raised};

/// A line of the log for any object, viewer and status.
fn line(ends: &Endpoints, viewer: u64, begin_ms: u64, object: Object, status: u16) -> RequestLabel {
    RequestLabel {
        t_heard_ns: (begin_ms + 10) * MS,
        begin_unix_ns: OFFSET_NS + begin_ms * MS,
        end_unix_ns: OFFSET_NS + (begin_ms + 10) * MS,
        status,
        sent_bytes: 500,
        is_complete: true,
        object,
        viewer: Some(ViewerKey {
            hash: viewer,
            by: KeyBy::Sid,
            name: None,
        }),
        ..RequestLabel::of(
            Source::AccessLog,
            SessionRef::Ends {
                remote: ends_of(ends).0,
                local_port: PORT,
            },
        )
    }
}

fn manifest() -> Object {
    Object {
        class: Class::Manifest,
        stream: Stream::Vod,
        ..Object::default()
    }
}

impl Scene {
    fn hear(&mut self, label: &RequestLabel) {
        self.audience.labelled(label, clocks(), &mut self.cells);
        self.listen();
    }

    /// An exchange of 10 ms.
    fn answer(&mut self, cookie: u64, index: u32, ends: Endpoints, request_ms: u64) {
        self.delivery(Case {
            cookie,
            index,
            ends,
            request_ms,
            acked_ms: request_ms + 20,
            told_ms: request_ms + 20,
            acked_bytes: 500,
            is_over: true,
        });
    }

    /// Lets a second pass, with the alarms looked at.
    fn second(&mut self, alarms: &mut Alarms, second: u64, raised: &mut Vec<Raised>) {
        self.advance(second * 1000);
        let standing = || self.audience.standing();
        alarms.look(&self.cells, second * 1000 * MS, false, standing, |alarm| {
            raised.push(alarm);
        });
    }

    fn all(&self) -> crate::qoe::Counters {
        let mut sum = crate::qoe::Counters::default();
        for (_, cell) in self.cells.iter() {
            sum.merge(&cell.counters);
        }
        sum
    }

    fn adopted(&mut self, cookie: u64, at_ms: u64, ends: Endpoints) {
        let mut record = SessionStart {
            cookie,
            endpoints: ends,
            flags: probe_ebpf::record::flag::ADOPTED,
            ..SessionStart::default()
        };
        record.header.t_ns = at_ms * MS;
        self.audience
            .session_start(&record, self.cell, clocks(), &mut self.cells);
    }
}

#[test]
fn one_viewer_that_tries_a_missing_playlist_again_and_again_raises_no_alarm() {
    // Every four seconds is one attempt that goes on; every twenty, one after the other fails.
    for (every_s, most_failures) in [(4, 1), (20, 4)] {
        let mut scene = Scene::new(100, false);
        let (mut alarms, mut raised) = (Alarms::new(Promises::default()), Vec::new());
        let ends = ends(9, 5000);
        scene.start(1, 900, ends);
        let mut index = 0;
        for second in 1..1200 {
            if second % every_s == 0 {
                scene.hear(&line(&ends, 77, second * 1000, manifest(), 404));
                scene.answer(1, index, ends, second * 1000);
                index += 1;
            }
            scene.second(&mut alarms, second, &mut raised);
        }
        let counters = scene.all();
        assert!(raised.is_empty(), "{raised:?}");
        // Twenty minutes hold four times five.
        assert!(counters.start_failures() <= most_failures, "{counters:?}");
        assert_eq!(counters.start_attempts, counters.start_failures());
        assert_eq!(counters.failed_retries > 30, every_s == 20);
    }
}

#[test]
fn one_client_with_a_new_name_for_each_request_raises_no_alarm() {
    let mut scene = Scene::new(1000, false);
    let (mut alarms, mut raised) = (Alarms::new(Promises::default()), Vec::new());
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    for second in 1..600 {
        let index = u32::try_from(second).unwrap() - 1;
        scene.hear(&line(&ends, second, second * 1000, segment(2000, 1), 404));
        scene.answer(1, index, ends, second * 1000);
        scene.second(&mut alarms, second, &mut raised);
    }
    assert!(raised.is_empty(), "{raised:?}");
    assert!(scene.all().start_failures() > 100);
}

#[test]
fn a_check_that_fetches_the_manifest_is_no_attempt_to_start() {
    let mut scene = Scene::new(100, false);
    let (mut alarms, mut raised) = (Alarms::new(Promises::default()), Vec::new());
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    for (index, at_s) in (0..).zip((6..1200).step_by(60)) {
        scene.hear(&line(&ends, 1000 + at_s, at_s * 1000, manifest(), 200));
        scene.answer(1, index, ends, at_s * 1000);
        for second in at_s..at_s + 60 {
            scene.second(&mut alarms, second, &mut raised);
        }
    }
    let counters = scene.all();
    assert!(raised.is_empty(), "{raised:?}");
    assert_eq!((counters.start_attempts, counters.start_failures()), (0, 0));
    assert!(counters.manifest_visits >= 15, "{counters:?}");
    assert!(!scene.has(|change| matches!(change, Change::Failed { .. })));
}

#[test]
fn a_player_that_declares_itself_and_goes_after_the_manifest_has_failed_to_start() {
    let mut scene = Scene::new(100, false);
    let (mut alarms, mut raised) = (Alarms::new(Promises::default()), Vec::new());
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    let mut asked = line(&ends, 1000, 1000, manifest(), 200);
    asked.cmcd = Some(Cmcd::default());
    scene.hear(&asked);
    scene.answer(1, 0, ends, 1000);
    scene.end(1, 1500);
    for second in 2..60 {
        scene.second(&mut alarms, second, &mut raised);
    }
    let counters = scene.all();
    assert_eq!((counters.start_attempts, counters.manifest_visits), (1, 0));
    assert_eq!(counters.start_failures_client, 1);
}

#[test]
fn failing_starts_of_many_networks_raise_one() {
    let mut scene = Scene::new(100, false);
    let (mut alarms, mut raised) = (Alarms::new(Promises::default()), Vec::new());
    for n in 1..=12_u8 {
        let mut ends = ends(1, 5000 + u16::from(n));
        ends.remote_addr[14] = n;
        scene.start(n.into(), 900, ends);
        scene.hear(&line(&ends, n.into(), 1000, manifest(), 404));
        scene.answer(n.into(), 0, ends, 1000);
    }
    for second in 2..60 {
        scene.second(&mut alarms, second, &mut raised);
    }
    let on: Vec<_> = raised.iter().map(|alarm| alarm.is_on).collect();
    assert_eq!(on, [true]);
}

#[test]
fn a_restart_of_weir_is_no_start_of_those_who_play() {
    let mut scene = Scene::new(10, false);
    // One goes on with a session that was there; one opens another in the middle, and shows it by the
    // number; one says that it has media.
    scene.adopted(1, 900, ends(9, 5000));
    scene.start(2, 900, ends(10, 5000));
    scene.start(3, 900, ends(11, 5000));
    for step in 0..10 {
        let at_ms = 1000 + 2000 * u64::from(step);
        for (cookie, client) in [(1, 9), (2, 10), (3, 11)] {
            let ends = ends(client, 5000);
            let number = if cookie == 2 { 40 } else { 0 } + u64::from(step);
            let mut label = line(&ends, cookie, at_ms, segment(2000, number), 200);
            if cookie == 3 {
                label.cmcd = Some(Cmcd {
                    bl_ms: Some(8000),
                    sta: Some(PlayState::Playing),
                    ..Cmcd::default()
                });
            }
            scene.hear(&label);
            scene.answer(cookie, step, ends, at_ms);
        }
        scene.advance(at_ms + 1000);
    }
    let counters = scene.all();
    assert_eq!((counters.start_attempts, counters.starts), (0, 0));
    assert_eq!(counters.viewers_joined, 3);
    assert!(
        scene
            .audience
            .iter_from(0)
            .all(|(_, entry)| entry.is_joined)
    );
    assert!(!scene.has(|change| matches!(change, Change::Started { .. })));
    // Whoever begins now is met at his beginning, also on a session that was there.
    let ends = ends(9, 5000);
    scene.hear(&line(&ends, 99, 30_000, manifest(), 200));
    scene.answer(1, 10, ends, 30_000);
    assert_eq!(scene.all().viewers_joined, 3);
}

/// Of each segment a tag and a line: the tag with a number or without.
fn tagged(number_of: impl Fn(u32) -> u32) -> Scene {
    let mut scene = Scene::new(10, false);
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    for index in 0..6 {
        let at_ms = 1000 + 1500 * u64::from(index);
        let mut label = line(&ends, 7, at_ms, segment(2000, index.into()), 200);
        label.request_number = index + 1;
        // The line knows the viewer by his address only, the tag by his id.
        label.viewer = Some(ViewerKey {
            hash: 4711,
            by: KeyBy::Heuristic,
            name: None,
        });
        let tag = RequestLabel {
            t_heard_ns: (at_ms + 2) * MS,
            request_number: number_of(index + 1),
            object: segment(2000, index.into()),
            viewer: line(&ends, 77, 0, manifest(), 200).viewer,
            ..RequestLabel::of(Source::Tag, SessionRef::Cookie(1))
        };
        scene.hear(&tag);
        scene.hear(&label);
        scene.answer(1, index, ends, at_ms);
        scene.advance(at_ms + 1000);
    }
    scene.end(1, 30_000);
    for second in 30..120 {
        scene.advance(second * 1000);
    }
    scene
}

#[test]
fn a_tag_and_a_line_of_one_request_are_one() {
    for number_of in [|n: u32| n, |_: u32| 0] {
        let scene = tagged(number_of);
        let counters = scene.all();
        assert_eq!((counters.start_attempts, counters.starts), (1, 1));
        assert_eq!(counters.viewers_ended, 1, "{counters:?}");
        assert_eq!(
            (counters.requests_named, counters.requests_nameless),
            (6, 0)
        );
        assert_eq!((counters.labels_unmatched, counters.lines_lost), (0, 0));
        assert_eq!(counters.chunks, 6);
    }
}

#[test]
fn lines_that_are_missing_are_counted_with_the_deliveries_that_nothing_names() {
    let mut scene = Scene::new(10, false);
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    for index in 0..10 {
        let at_ms = 1000 + 1500 * u64::from(index);
        if index % 2 == 0 {
            let mut label = line(&ends, 7, at_ms, segment(2000, index.into()), 200);
            label.request_number = index + 1;
            scene.hear(&label);
        }
        scene.answer(1, index, ends, at_ms);
        scene.advance(at_ms + 1000);
    }
    scene.end(1, 60_000);
    let of_viewer = scene.counters(Tier::Joined, "-");
    assert_eq!(of_viewer.requests_named, 5);
    // The last one's number is never missed, but its delivery is.
    assert_eq!((of_viewer.lines_lost, of_viewer.requests_nameless), (4, 5));
}

#[test]
fn handshakes_that_nobody_finished_are_counted_and_raise_no_alarm() {
    let mut scene = Scene::new(1000, false);
    let (mut alarms, mut raised) = (Alarms::new(Promises::default()), Vec::new());
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    scene.hear(&line(&ends, 77, 1000, segment(2000, 0), 200));
    for second in 2..40 {
        for last in 0..4 {
            // Anybody can write such an address.
            let client = IpAddr::from([10, u8::try_from(second).unwrap(), last, 1]);
            let cell = scene.cell;
            scene.audience.half_open_give_up(client, PORT, cell);
        }
        scene.second(&mut alarms, second, &mut raised);
    }
    assert!(raised.is_empty(), "{raised:?}");
    assert!(scene.all().start_failures_network > 100);
}

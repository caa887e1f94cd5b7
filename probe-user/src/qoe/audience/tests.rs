mod alone;

use probe_ebpf::record::{
    Delivery, Endpoints, SessionEnd, SessionStart, ended, flag, kind as record_kind,
};

use super::super::viewer::Tier;
use super::*;
use crate::kernel::BackendKind;
use crate::labels::request::{Class, KeyBy, Object, SessionRef, Source, Stream, ViewerKey};
use crate::labels::{Label, Service};
use crate::qoe::cell::{CellKey, Transport};

const MS: u64 = 1_000_000;
/// Unix time less monotonic time, in these tests.
const OFFSET_NS: u64 = 1_700_000_000_000_000_000;
const PORT: u16 = 443;

struct Scene {
    audience: Audience,
    cells: Cells,
    cell: u32,
    /// What happened, by its name.
    said: Vec<(u64, Change)>,
}

fn clocks() -> Clocks {
    Clocks {
        unix_minus_monotonic_ns: OFFSET_NS.cast_signed(),
        tick_hz: 1000,
    }
}

fn ends(client: u8, port: u16) -> Endpoints {
    let mapped = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, last];
    Endpoints {
        local_addr: mapped(1),
        remote_addr: mapped(client),
        local_port: PORT,
        remote_port: port,
        netns: 0,
    }
}

fn segment(media_ms: u32, number: u64) -> Object {
    Object {
        class: Class::Segment,
        duration_us: media_ms * 1000,
        stream: Stream::Vod,
        number: Some(number),
        ..Object::default()
    }
}

impl Scene {
    fn new(max_viewers: usize, infers: bool) -> Self {
        let mut cells = Cells::new(32);
        let label = Label {
            service: Service::Port(PORT),
            content_class: "-".into(),
            network: "other".into(),
        };
        let cell = cells.place(CellKey::new(label, Transport::Tcp4, BackendKind::Exact));
        let limits = AudienceLimits {
            max_viewers,
            max_sessions: 100,
        };
        let settings = AudienceSettings {
            hears: true,
            infers,
        };
        Self {
            audience: Audience::new(limits, settings),
            cells,
            cell,
            said: Vec::new(),
        }
    }

    fn listen(&mut self) {
        while let Some(happening) = self.audience.next_happening() {
            self.said.push((happening.now_ns / MS, happening.change));
        }
    }

    fn start(&mut self, cookie: u64, at_ms: u64, ends: Endpoints) {
        let mut record = SessionStart {
            cookie,
            endpoints: ends,
            t_established_ns: at_ms * MS,
            ..SessionStart::default()
        };
        record.header.t_ns = at_ms * MS;
        self.audience
            .session_start(&record, self.cell, clocks(), &mut self.cells);
    }

    fn end(&mut self, cookie: u64, at_ms: u64) {
        let mut record = SessionEnd {
            cookie,
            ended: ended::CLIENT_FIN,
            ..SessionEnd::default()
        };
        record.header.t_ns = at_ms * MS;
        self.audience
            .session_end(&record, clocks(), &mut self.cells);
        self.listen();
    }

    /// A delivery as the kernel tells it at `told_ms`; over, or still under way.
    fn delivery(&mut self, told: Case) {
        let mut record = Delivery {
            cookie: told.cookie,
            index: told.index,
            endpoints: told.ends,
            t_request_ns: told.request_ms * MS,
            t_request_last_ns: told.request_ms * MS,
            t_first_write_ns: told.request_ms * MS + MS,
            t_last_write_ns: (told.acked_ms - 10) * MS,
            t_first_acked_ns: told.request_ms * MS + 20 * MS,
            t_last_acked_ns: told.acked_ms * MS,
            acked_bytes: told.acked_bytes,
            written_bytes: 500_000,
            srtt_us: 20_000,
            ..Delivery::default()
        };
        record.header.t_ns = told.told_ms * MS;
        record.header.kind = if told.is_over {
            record_kind::DELIVERY_END
        } else {
            record_kind::DELIVERY_PROGRESS
        };
        self.audience
            .delivery(&record, self.cell, clocks(), &mut self.cells);
        self.listen();
    }

    /// A line of the server's log.
    fn label(&mut self, ends: Endpoints, viewer: u64, begin_ms: u64, end_ms: u64, object: Object) {
        let label = RequestLabel {
            t_heard_ns: end_ms * MS,
            begin_unix_ns: OFFSET_NS + begin_ms * MS,
            end_unix_ns: OFFSET_NS + end_ms * MS,
            status: 200,
            sent_bytes: 500_000,
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
                    remote: ends_of(&ends).0,
                    local_port: PORT,
                },
            )
        };
        self.audience.labelled(&label, clocks(), &mut self.cells);
        self.listen();
    }

    fn advance(&mut self, now_ms: u64) {
        self.audience
            .advance(now_ms * MS, clocks(), &mut self.cells);
        self.listen();
    }

    fn counters(&self, tier: Tier, class: &str) -> crate::qoe::Counters {
        self.cells
            .iter()
            .find(|(key, _)| key.tier == tier && &*key.content_class == class)
            .map(|(_, cell)| cell.counters)
            .unwrap_or_default()
    }

    fn has(&self, what: impl Fn(&Change) -> bool) -> bool {
        self.said.iter().any(|(_, change)| what(change))
    }
}

#[derive(Clone, Copy)]
struct Case {
    cookie: u64,
    index: u32,
    ends: Endpoints,
    request_ms: u64,
    acked_ms: u64,
    told_ms: u64,
    acked_bytes: u64,
    is_over: bool,
}

/// A viewer of 2 s segments on one session, two of them ahead: asks, is answered in 300 ms, and the
/// log tells of it.
fn watch(scene: &mut Scene, ends: Endpoints, viewer: u64, segments: u32) -> u64 {
    let mut at_ms = 1000;
    for index in 0..segments {
        let apart_ms = if index == 0 { 300 } else { 2000 };
        scene.label(
            ends,
            viewer,
            at_ms,
            at_ms + 250,
            segment(2000, index.into()),
        );
        scene.delivery(Case {
            cookie: 1,
            index,
            ends,
            request_ms: at_ms,
            acked_ms: at_ms + 300,
            told_ms: at_ms + apart_ms,
            acked_bytes: 500_000,
            is_over: true,
        });
        at_ms += apart_ms;
        scene.advance(at_ms);
    }
    at_ms
}

#[test]
fn a_viewer_starts_plays_and_leaves_and_is_counted_once() {
    let mut scene = Scene::new(10, false);
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    let at_ms = watch(&mut scene, ends, 77, 8);
    scene.end(1, at_ms + 500);
    for at_ms in (at_ms..at_ms + 40_000).step_by(250) {
        scene.advance(at_ms);
    }
    assert!(scene.has(|change| matches!(change, Change::Started { .. })));
    assert!(!scene.has(|change| matches!(change, Change::StallBegan { .. })));
    let counters = scene.counters(Tier::Joined, "-");
    assert_eq!((counters.start_attempts, counters.starts), (1, 1));
    assert_eq!(counters.viewers_ended, 1);
    assert_eq!(counters.stalled_us, 0);
    let segments = scene.counters(Tier::Joined, "segment");
    assert_eq!((segments.chunks, segments.slow_chunks), (8, 0));
    assert_eq!(segments.media_us, 16_000_000);
    let gauges = scene
        .cells
        .iter()
        .map(|(_, cell)| cell.gauges.viewers_active)
        .sum::<u64>();
    assert_eq!(gauges, 0);
}

#[test]
fn a_delivery_that_drags_on_stalls_its_viewer_while_it_does() {
    let mut scene = Scene::new(10, false);
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    let at_ms = watch(&mut scene, ends, 77, 4);
    // Nearly nothing comes any more.
    for step in 1..60 {
        let now_ms = at_ms + step * 250;
        scene.delivery(Case {
            cookie: 1,
            index: 4,
            ends,
            request_ms: at_ms,
            acked_ms: now_ms,
            told_ms: now_ms,
            acked_bytes: 1000 * step,
            is_over: false,
        });
        scene.advance(now_ms);
    }
    let told = scene
        .said
        .iter()
        .find_map(|(told_ms, change)| match change {
            Change::StallBegan { t_ns, .. } => Some((*told_ms, t_ns / MS)),
            _ => None,
        });
    let (told_ms, began_ms) = told.expect("no stall was told");
    assert!(
        told_ms >= began_ms && told_ms < began_ms + 1000,
        "began {began_ms}, told {told_ms}: {:?}",
        scene.said
    );
    assert!(scene.has(|change| matches!(change, Change::AtRisk { .. })));
    let stalled: u64 = scene
        .cells
        .iter()
        .map(|(_, cell)| cell.gauges.viewers_stalled)
        .sum();
    assert_eq!(stalled, 1);
}

#[test]
fn labels_that_come_before_their_session_is_known_wait_for_it() {
    let mut scene = Scene::new(10, false);
    let ends = ends(9, 5000);
    scene.label(ends, 77, 1000, 1010, segment(2000, 0));
    assert_eq!(scene.audience.iter_from(0).count(), 0);
    scene.start(1, 900, ends);
    assert_eq!(scene.audience.iter_from(0).count(), 1);
    // Of one that never comes.
    scene.label(
        super::tests::ends(10, 6000),
        78,
        1000,
        1010,
        segment(2000, 0),
    );
    scene.advance(60_000);
    assert_eq!(scene.audience.losses().labels_homeless, 1);
}

#[test]
fn viewers_are_made_out_without_labels_only_where_that_is_wanted() {
    for infers in [false, true] {
        let mut scene = Scene::new(10, infers);
        let ends = ends(9, 5000);
        scene.start(1, 900, ends);
        scene.delivery(Case {
            cookie: 1,
            index: 0,
            ends,
            request_ms: 1000,
            acked_ms: 1300,
            told_ms: 1600,
            acked_bytes: 500_000,
            is_over: true,
        });
        let tiers: Vec<_> = scene.audience.iter_from(0).map(|(_, e)| e.tier).collect();
        assert_eq!(tiers, vec![Tier::Kernel; usize::from(infers)]);
    }
}

#[test]
fn when_there_is_no_room_the_one_that_ended_or_came_first_goes() {
    let mut scene = Scene::new(2, false);
    for n in 1..=5_u8 {
        let ends = ends(n, 5000);
        scene.start(n.into(), 900, ends);
        scene.label(
            ends,
            n.into(),
            1000 * u64::from(n),
            1000 * u64::from(n) + 10,
            segment(2000, 0),
        );
    }
    assert_eq!(scene.audience.iter_from(0).count(), 2);
    assert_eq!(scene.audience.losses().viewers_evicted, 3);
    let active: u64 = scene
        .cells
        .iter()
        .map(|(_, cell)| cell.gauges.viewers_active)
        .sum();
    assert_eq!(active, 2);
}

#[test]
fn a_start_that_fails_leaves_nothing_active_and_a_new_attempt_is_another() {
    let mut scene = Scene::new(10, false);
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    for attempt in 0..2 {
        // Long enough apart: whoever tries again at once is no other attempt.
        let at_ms = 1000 + attempt * 400_000;
        scene.label(ends, 77, at_ms, at_ms + 10, segment(2000, 0));
        for now_ms in (at_ms..at_ms + 60_000).step_by(250) {
            scene.advance(now_ms);
        }
    }
    let counters = scene.counters(Tier::Joined, "-");
    assert_eq!((counters.start_attempts, counters.starts), (2, 0));
    assert_eq!(counters.start_failures(), 2);
    let active: u64 = scene
        .cells
        .iter()
        .map(|(_, cell)| cell.gauges.viewers_active)
        .sum();
    assert_eq!(active, 0);
}

#[test]
fn what_waits_is_queued_once_however_often_it_comes_and_goes() {
    let mut scene = Scene::new(10, false);
    let ends = ends(9, 5000);
    scene.start(1, 900, ends);
    watch(&mut scene, ends, 77, 50);
    assert!(scene.audience.waiting.len() <= 1);
}

#[test]
fn a_session_whose_end_was_lost_is_let_go() {
    let mut scene = Scene::new(10, false);
    scene.start(1, 900, ends(9, 5000));
    scene.advance(60_000);
    assert_eq!(scene.audience.sides.len(), 1);
    scene.advance(1_000_000);
    assert_eq!(scene.audience.sides.len(), 0);
    assert!(scene.audience.by_ends.is_empty());
}

#[test]
fn who_never_got_a_session_failed_to_start_unless_something_else_is_known_of_it() {
    let client = |last: u8| IpAddr::from([192, 0, 2, last]);
    let mut scene = Scene::new(100, false);
    let gives_up = |scene: &mut Scene, last: u8| {
        let cell = scene.cell;
        scene.audience.half_open_give_up(client(last), PORT, cell);
    };
    // Before any label nothing says that this service has viewers.
    gives_up(&mut scene, 1);
    scene.advance(1000);
    scene.start(1, 900, ends(2, 5000));
    scene.label(ends(2, 5000), 77, 1000, 1010, segment(2000, 0));
    // Twice, once beside a session that came through, and a flood.
    for last in [3, 3, 2] {
        gives_up(&mut scene, last);
    }
    scene.advance(2000);
    let failed = |scene: &Scene| scene.counters(Tier::Kernel, "-").start_failures_network;
    assert_eq!(failed(&scene), 1);
    assert_eq!(scene.counters(Tier::Kernel, "-").start_attempts, 1);
    for last in 10..=250 {
        gives_up(&mut scene, last);
    }
    scene.advance(2500);
    assert_eq!(failed(&scene), 1, "judged once a second");
    scene.advance(3500);
    assert_eq!(failed(&scene), 1 + 64);
}

#[test]
fn a_path_that_dies_in_the_tls_handshake_is_a_failed_start_and_a_client_that_goes_is_none() {
    let mut scene = Scene::new(100, false);
    scene.start(1, 900, ends(2, 5000));
    scene.label(ends(2, 5000), 77, 1000, 1010, segment(2000, 0));
    for (client, retrans_rto, acked_bytes) in [(3, 7, 240), (4, 0, 240), (5, 7, 90_000)] {
        let endpoints = ends(client, 5000);
        scene.start(client.into(), 1500, endpoints);
        let mut record = SessionEnd {
            cookie: client.into(),
            endpoints,
            ended: ended::CLIENT_RST,
            flags: flag::TLS,
            retrans_rto,
            acked_bytes,
            ..SessionEnd::default()
        };
        record.header.t_ns = 20_000 * MS;
        scene
            .audience
            .session_end(&record, clocks(), &mut scene.cells);
    }
    scene.advance(21_000);
    let counters = scene.counters(Tier::Kernel, "-");
    assert_eq!(counters.start_failures_network, 1);
    assert_eq!(counters.start_attempts, 1);
}

//! What the fold must keep to, whatever is lost and however the rings are read.

use probe_ebpf::record::{
    Delivery, Endpoints, Header, SessionEnd, SessionStart, ended, flag, kind,
};
use proptest::prelude::*;

use super::*;
use crate::labels::{Label, Service};

const SECOND_NS: u64 = 1_000_000_000;

fn label(ends: &Endpoints) -> Label {
    Label {
        service: Service::Port(ends.local_port),
        content_class: "-".into(),
        network: "other".into(),
    }
}

#[derive(Clone, Copy, Debug)]
enum Record {
    Start(SessionStart),
    Delivery(Delivery),
    End(SessionEnd),
}

fn fold_with(max_sessions: usize, max_cells: usize) -> Fold {
    let limits = Limits {
        max_sessions,
        max_cells,
        max_deliveries_kept: 8,
    };
    let mut fold = Fold::new(limits, 1000);
    fold.set_progress_ms(1000);
    fold
}

fn take(fold: &mut Fold, record: &Record) -> Option<Event> {
    match record {
        Record::Start(record) => fold.session_start(record, label),
        Record::End(record) => fold.session_end(record, label),
        Record::Delivery(record) => return fold.delivery(record, label).event,
    }
    None
}

fn total(fold: &Fold) -> (Counters, Gauges) {
    let mut counters = Counters::default();
    let mut gauges = Gauges::default();
    for (_, cell) in fold.cells().iter() {
        counters.merge(&cell.counters);
        gauges.merge(&cell.gauges);
    }
    (counters, gauges)
}

fn samples(fold: &Fold, metric: Metric) -> u64 {
    fold.cells()
        .iter()
        .map(|(_, cell)| cell.samples(metric))
        .sum()
}

fn header(kind: u8, t_ns: u64) -> Header {
    Header {
        t_ns,
        kind,
        ..Header::default()
    }
}

/// What a generated delivery is like.
#[derive(Clone, Debug)]
struct Shape {
    flags: u32,
    late: bool,
    reports: u32,
    retrans: [u32; 3],
    segments: u32,
}

fn shape() -> impl Strategy<Value = Shape> {
    let kinds = prop_oneof![
        4 => Just(0),
        1 => Just(flag::BUSY_PERIOD),
        1 => Just(flag::UNSOLICITED),
        1 => Just(flag::RESUMED),
        1 => Just(flag::HANDSHAKE),
        1 => Just(flag::UNANSWERED),
    ];
    (
        kinds,
        any::<bool>(),
        0..3_u32,
        [0..5_u32, 0..5, 0..5],
        20..100_u32,
    )
        .prop_map(|(flags, late, reports, retrans, segments)| Shape {
            flags,
            late: late && flags & flag::HANDSHAKE == 0,
            reports,
            retrans,
            segments,
        })
}

/// One session's life as the kernel would write it, ring by ring, and what is true of it.
#[derive(Clone, Debug)]
struct Life {
    hot: Vec<Record>,
    bulk: Vec<Record>,
    end: SessionEnd,
    shapes: Vec<Shape>,
    aborted: bool,
}

fn life(cookie: u64) -> impl Strategy<Value = Life> {
    let outside = [0..3_u32, 0..3, 0..3];
    let port = prop_oneof![Just(80_u16), Just(443)];
    (
        proptest::collection::vec(shape(), 0..5),
        any::<bool>(),
        any::<bool>(),
        outside,
        port,
    )
        .prop_map(move |(shapes, cut, adopted, outside, port)| {
            live(cookie, shapes, cut, adopted, outside, port)
        })
}

fn live(
    cookie: u64,
    shapes: Vec<Shape>,
    cut: bool,
    adopted: bool,
    outside: [u32; 3],
    port: u16,
) -> Life {
    let endpoints = Endpoints {
        local_port: port,
        ..Endpoints::default()
    };
    let adopted = if adopted { flag::ADOPTED } else { 0 };
    let mut t_ns = SECOND_NS + cookie;
    let mut bulk = vec![Record::Start(SessionStart {
        header: header(kind::SESSION_START, t_ns),
        cookie,
        t_established_ns: t_ns,
        endpoints,
        flags: adopted,
        ..SessionStart::default()
    })];
    let mut hot = Vec::new();
    let mut end = SessionEnd {
        cookie,
        t_established_ns: t_ns,
        endpoints,
        flags: adopted,
        segments: 10,
        acked_bytes: 1000,
        retrans_fast: outside[0],
        retrans_rto: outside[1],
        retrans_tlp: outside[2],
        ended: ended::CLIENT_RST,
        ..SessionEnd::default()
    };
    let last = shapes.len().wrapping_sub(1);
    let mut aborted = false;
    for (n, shape) in shapes.iter().enumerate() {
        let index = u32::try_from(n).unwrap();
        let t_request_ns = t_ns + 1000;
        let steps = shape.reports + 1 + u32::from(shape.late);
        let at = |step: u32| Delivery {
            cookie,
            index,
            endpoints,
            t_request_ns,
            t_request_last_ns: t_request_ns,
            t_first_write_ns: t_request_ns + 5_000_000,
            t_first_acked_ns: t_request_ns + 9_000_000,
            t_last_write_ns: t_request_ns + 10_000_000,
            t_last_acked_ns: t_request_ns + 20_000_000,
            flags: shape.flags | adopted,
            acked_bytes: u64::from(1000 * step / steps),
            segments: shape.segments * step / steps,
            retrans_fast: shape.retrans[0] * step / steps,
            retrans_rto: shape.retrans[1] * step / steps,
            retrans_tlp: shape.retrans[2] * step / steps,
            srtt_us: 5000,
            ..Delivery::default()
        };
        let mut late = 0;
        for step in 0..steps - 1 {
            t_ns += SECOND_NS;
            // The first report of a late one is that it is late; the rest say so as well.
            let is_late = shape.late && step == 0;
            let mut record = at(step);
            record.flags |= late;
            if is_late {
                late = flag::LATE;
                record.flags |= late;
                record.header = header(kind::DELIVERY_LATE, t_ns);
                hot.push(Record::Delivery(record));
            } else {
                record.header = header(kind::DELIVERY_PROGRESS, t_ns);
                bulk.push(Record::Delivery(record));
            }
        }
        t_ns += SECOND_NS;
        let mut record = at(steps);
        record.flags |= late;
        record.header = header(kind::DELIVERY_END, t_ns);
        let exempt = flag::UNANSWERED | flag::HANDSHAKE;
        if cut && n == last && shape.flags & exempt == 0 {
            aborted = true;
            record.flags |= flag::ABORTED;
            hot.push(Record::Delivery(record));
        } else {
            bulk.push(Record::Delivery(record));
        }
        end.segments += record.segments;
        end.acked_bytes += record.acked_bytes;
        end.retrans_fast += record.retrans_fast;
        end.retrans_rto += record.retrans_rto;
        end.retrans_tlp += record.retrans_tlp;
    }
    end.header = header(kind::SESSION_END, t_ns + 1);
    bulk.push(Record::End(end));
    Life {
        hot,
        bulk,
        end,
        shapes,
        aborted,
    }
}

/// Several lives, each ring in its order, the rings against each other and the sessions among
/// each other in any; and which records get lost.
#[derive(Clone, Debug)]
struct Story {
    lives: Vec<Life>,
    records: Vec<(Record, bool)>,
}

impl Story {
    fn retrans(&self) -> u64 {
        let ends = self.lives.iter().map(|life| life.end);
        ends.map(|end| u64::from(end.retrans_fast + end.retrans_rto + end.retrans_tlp))
            .sum()
    }
}

fn t_ns(record: &Record) -> u64 {
    match record {
        Record::Start(record) => record.header.t_ns,
        Record::Delivery(record) => record.header.t_ns,
        Record::End(record) => record.header.t_ns,
    }
}

/// The same, with the hot ring never behind the bulk one, as the daemon reads them.
fn hot_first(mut story: Story) -> Story {
    let is_hot = |record: &Record| match record {
        Record::Delivery(record) => {
            record.header.kind == kind::DELIVERY_LATE || record.flags & flag::ABORTED != 0
        }
        _ => false,
    };
    let mut n = 0;
    while n < story.records.len() {
        let now = t_ns(&story.records[n].0);
        let overdue = (n + 1..story.records.len()).find(|later| {
            let record = &story.records[*later].0;
            is_hot(record) && t_ns(record) < now
        });
        if let Some(overdue) = overdue {
            let record = story.records.remove(overdue);
            story.records.insert(n, record);
        }
        n += 1;
    }
    story
}

fn story(lossy: bool) -> impl Strategy<Value = Story> {
    let lives = (life(1), life(2), life(3), life(4)).prop_map(|(a, b, c, d)| vec![a, b, c, d]);
    let picks = proptest::collection::vec((any::<usize>(), any::<u8>()), 200);
    (lives, picks).prop_map(move |(lives, picks)| {
        let mut queues: Vec<std::collections::VecDeque<Record>> = lives
            .iter()
            .flat_map(|life| [life.hot.clone().into(), life.bulk.clone().into()])
            .collect();
        let mut records = Vec::new();
        let mut picks = picks.into_iter().cycle();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let (pick, lost) = picks.next().unwrap();
            queues.retain(|queue| !queue.is_empty());
            let chosen = pick % queues.len();
            let record = queues[chosen].pop_front().unwrap();
            records.push((record, lossy && lost < 64));
        }
        Story { lives, records }
    })
}

fn retransmits(counters: &Counters) -> u64 {
    counters.retrans_fast + counters.retrans_rto + counters.retrans_tlp
}

/// Takes a story in; at each step, what must hold always must hold.
fn tell(fold: &mut Fold, story: &Story) -> Result<(), TestCaseError> {
    let mut before = Counters::default();
    for (record, lost) in &story.records {
        if *lost {
            continue;
        }
        take(fold, record);
        let (counters, gauges) = total(fold);
        for ((name, now), (_, before)) in counters.named().iter().zip(before.named()) {
            prop_assert!(*now >= before, "{name} went from {before} to {now}");
        }
        prop_assert_eq!(gauges.sessions_open, fold.sessions().open() as u64);
        prop_assert!(gauges.deliveries_open <= gauges.sessions_open);
        prop_assert!(gauges.deliveries_open_late <= gauges.deliveries_open);
        before = counters;
    }
    Ok(())
}

proptest! {
    #[test]
    fn without_loss_every_count_is_exact_in_any_order_of_the_rings(story in story(false)) {
        let mut fold = fold_with(100, 10);
        tell(&mut fold, &story)?;
        let (counters, gauges) = total(&fold);
        prop_assert_eq!(gauges, Gauges::default());
        prop_assert_eq!(counters.sessions_started + counters.sessions_adopted, 4);
        prop_assert_eq!((counters.sessions_ended, counters.ended_client_rst), (4, 4));
        prop_assert_eq!(retransmits(&counters), story.retrans());
        let shapes = || story.lives.iter().flat_map(|life| &life.shapes);
        let of = |bit: u32| shapes().filter(|shape| shape.flags & bit != 0).count() as u64;
        prop_assert_eq!(counters.late_deliveries, shapes().filter(|s| s.late).count() as u64);
        prop_assert_eq!(counters.busy_periods, of(flag::BUSY_PERIOD));
        prop_assert_eq!(counters.unsolicited, of(flag::UNSOLICITED));
        prop_assert_eq!(counters.resumed, of(flag::RESUMED));
        prop_assert_eq!(counters.tls_handshakes, of(flag::HANDSHAKE));
        prop_assert_eq!(counters.unanswered_requests, of(flag::UNANSWERED));
        let aborted = story.lives.iter().filter(|life| life.aborted).count() as u64;
        prop_assert_eq!(counters.aborted_deliveries, aborted);
        let whole: u64 = story.lives.iter().map(|life| {
            let not_counted = flag::UNSOLICITED | flag::RESUMED | flag::HANDSHAKE | flag::UNANSWERED;
            let mut shapes = life.shapes.iter().filter(|s| s.flags & not_counted == 0);
            let cut = life.aborted && life.shapes.last().is_some_and(|s| s.flags & not_counted == 0);
            shapes.by_ref().count() as u64 - u64::from(cut)
        }).sum();
        prop_assert_eq!(counters.deliveries, whole);
        for life in story.lives.iter().filter(|life| life.end.flags & flag::ADOPTED == 0) {
            let session = fold.sessions().iter_from(0).find(|(_, s)| s.cookie == life.end.cookie);
            let traffic = session.unwrap().1.traffic;
            prop_assert_eq!(traffic.acked_bytes, life.end.acked_bytes);
            prop_assert_eq!(traffic.segments, u64::from(life.end.segments));
        }
    }

    #[test]
    fn loss_costs_resolution_and_the_sessions_end_repairs_the_totals(story in story(true)) {
        let mut fold = fold_with(100, 10);
        tell(&mut fold, &story)?;
        for life in &story.lives {
            let ended = story.records.iter().any(|(record, lost)| {
                !lost && matches!(record, Record::End(end) if end.cookie == life.end.cookie)
            });
            let found = fold.sessions().iter_from(0).find(|(_, s)| s.cookie == life.end.cookie);
            let Some((_, session)) = found else {
                prop_assert!(!ended);
                continue;
            };
            let end = &life.end;
            let truth = (end.retrans_fast, end.retrans_rto, end.retrans_tlp);
            let truth = (truth.0.into(), truth.1.into(), truth.2.into());
            let t = session.traffic;
            let told = (t.retrans_fast, t.retrans_rto, t.retrans_tlp);
            if ended {
                prop_assert_eq!(told, truth);
                prop_assert_eq!(session.state(), State::Ended);
            } else {
                prop_assert!(told.0 <= truth.0 && told.1 <= truth.1 && told.2 <= truth.2);
            }
        }
        let (counters, _) = total(&fold);
        let sessions = fold.sessions().iter_from(0);
        let per_session: u64 = sessions.map(|(_, s)| s.traffic.retransmits()).sum();
        prop_assert_eq!(retransmits(&counters), per_session);
    }

    #[test]
    fn a_table_too_small_forgets_and_never_counts_twice(
        story in story(true).prop_map(hot_first),
    ) {
        let mut fold = fold_with(2, 10);
        tell(&mut fold, &story)?;
        let (counters, _) = total(&fold);
        prop_assert!(fold.sessions().len() <= 2);
        prop_assert!(retransmits(&counters) <= story.retrans());
        prop_assert!(counters.sessions_started + counters.sessions_adopted <= 4);
        prop_assert!(fold.recent().len() <= 8);
    }

    #[test]
    fn after_lost_ends_the_gauges_come_right_with_time(story in story(true)) {
        let mut fold = fold_with(100, 10);
        tell(&mut fold, &story)?;
        fold.records_lost(100 * SECOND_NS);
        fold.advance(1000 * SECOND_NS);
        prop_assert_eq!(total(&fold).1, Gauges::default());
        prop_assert!(fold.sessions().is_empty());
    }

    #[test]
    fn cells_merge_in_any_order_to_what_one_fold_would_have_counted(
        one in story(false), two in story(false), three in story(false),
    ) {
        let fold_of = |stories: &[&Story]| {
            let mut fold = fold_with(100, 10);
            for (n, story) in (0..).zip(stories) {
                for (record, _) in &story.records {
                    let mut record = *record;
                    // Every host has its own cookies.
                    match &mut record {
                        Record::Start(record) => record.cookie += n * 100,
                        Record::Delivery(record) => record.cookie += n * 100,
                        Record::End(record) => record.cookie += n * 100,
                    }
                    take(&mut fold, &record);
                }
            }
            fold
        };
        let merged = |stories: &[&Story]| {
            let mut cells = cell::Cells::new(10);
            for story in stories {
                for (key, cell) in fold_of(&[story]).cells().iter() {
                    let place = cells.place(key.clone());
                    cells.get_mut(place).absorb(&cell.snapshot(key.clone(), true));
                }
            }
            snapshots(&cells)
        };
        let together = snapshots(fold_of(&[&one, &two, &three]).cells());
        prop_assert_eq!(&together, &merged(&[&one, &two, &three]));
        prop_assert_eq!(&together, &merged(&[&three, &one, &two]));
    }
}

fn snapshots(cells: &cell::Cells) -> Vec<CellSnapshot> {
    let mut all: Vec<_> = cells
        .iter()
        .map(|(key, cell)| cell.snapshot(key.clone(), true))
        .collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

fn exchange(flags: u32) -> Delivery {
    let t_request_ns = SECOND_NS;
    Delivery {
        header: header(kind::DELIVERY_END, 2 * SECOND_NS),
        cookie: 1,
        t_request_ns,
        t_request_last_ns: t_request_ns + 1_000_000,
        t_first_write_ns: t_request_ns + 5_000_000,
        t_first_acked_ns: t_request_ns + 9_000_000,
        t_last_write_ns: t_request_ns + 10_000_000,
        t_last_acked_ns: t_request_ns + 20_000_000,
        flags,
        segments: 10,
        srtt_us: 5000,
        delivery_rate_bytes_per_s: 1_000_000,
        ..Delivery::default()
    }
}

/// Which distributions each sort of delivery is part of.
#[test]
fn a_distribution_holds_only_what_it_is_about() {
    use Metric::{
        DeliveryLatencyUs as Latency, DeliveryRateKbps as Rate, DeliveryTailUs as Tail,
        FirstByteUs as First, RetransmitRatioPpm as Ratio, SrttUs as Srtt, ThinkTimeUs as Think,
    };
    for (flags, metrics) in [
        (0, vec![Latency, Think, First, Tail, Srtt, Rate, Ratio]),
        (flag::ABORTED, vec![Think, First, Srtt, Rate, Ratio]),
        (
            flag::FIRST_WRITE_BOUNDED,
            vec![Latency, First, Tail, Srtt, Rate, Ratio],
        ),
        (flag::REQUEST_BOUNDED, vec![Tail, Srtt, Rate, Ratio]),
        (
            flag::RATE_APP_LIMITED,
            vec![Latency, Think, First, Tail, Srtt, Ratio],
        ),
        (flag::BUSY_PERIOD, vec![Srtt, Rate, Ratio]),
        (flag::UNSOLICITED, vec![Srtt, Rate, Ratio]),
        (flag::RESUMED, vec![Srtt, Rate, Ratio]),
        (flag::UNANSWERED, vec![]),
        (flag::HANDSHAKE, vec![]),
    ] {
        let mut fold = fold_with(10, 10);
        fold.delivery(&exchange(flags), label);
        for metric in Metric::ALL {
            let expected = u64::from(metrics.contains(&metric));
            assert_eq!(
                samples(&fold, metric),
                expected,
                "{metric:?} of flags {flags:#x}"
            );
        }
    }
}

#[test]
fn a_value_beyond_the_largest_bucket_is_counted_in_it() {
    let mut cell = Cell::default();
    cell.record(Metric::SrttUs, u64::MAX);
    assert_eq!(cell.samples(Metric::SrttUs), 1);
}

#[test]
fn beyond_the_limit_of_cells_all_goes_into_other_and_is_counted() {
    let mut fold = fold_with(100, 3);
    for (cookie, port) in (1..).zip(1..=10) {
        let record = SessionStart {
            cookie,
            endpoints: Endpoints {
                local_port: port,
                ..Endpoints::default()
            },
            ..SessionStart::default()
        };
        fold.session_start(&record, label);
    }
    assert_eq!(fold.cells().len(), 3);
    assert_eq!(fold.losses().cells_overflowed, 8);
    let (key, other) = fold.cells().iter().next().unwrap();
    assert_eq!(key, &CellKey::other());
    assert_eq!(other.counters.sessions_started, 8);
}

#[test]
fn an_event_is_told_once_and_only_while_it_is_news() {
    let mut fold = fold_with(10, 10);
    let mut late = exchange(flag::LATE);
    late.header.kind = kind::DELIVERY_LATE;
    assert_eq!(fold.delivery(&late, label).event, Some(Event::Late));
    assert_eq!(fold.delivery(&late, label).event, None);
    assert_eq!(fold.delivery(&exchange(flag::LATE), label).event, None);
    // The hot ring was read after the bulk one: it is over already.
    late.index = 1;
    let mut over = exchange(flag::LATE);
    over.index = 1;
    fold.delivery(&over, label);
    assert_eq!(fold.delivery(&late, label).event, None);
    assert_eq!(total(&fold).0.late_deliveries, 2);
    assert_eq!(total(&fold).1.deliveries_open, 0);
}

#[test]
fn an_idle_session_stays_as_long_as_nothing_was_lost() {
    let mut fold = fold_with(10, 10);
    let start = SessionStart {
        cookie: 1,
        ..SessionStart::default()
    };
    fold.session_start(&start, label);
    fold.advance(1_000_000 * SECOND_NS);
    assert_eq!(total(&fold).1.sessions_open, 1);
    assert_eq!(fold.losses().sessions_evicted, 0);
}

#[test]
fn a_session_that_the_filter_left_out_and_let_in_again_is_open_again() {
    let mut fold = fold_with(10, 10);
    let mut start = SessionStart {
        cookie: 1,
        t_established_ns: SECOND_NS,
        ..SessionStart::default()
    };
    let end = SessionEnd {
        header: header(kind::SESSION_END, 2 * SECOND_NS),
        cookie: 1,
        t_established_ns: SECOND_NS,
        retrans_rto: 3,
        ended: ended::UNTRACKED,
        ..SessionEnd::default()
    };
    fold.session_start(&start, label);
    fold.session_end(&end, label);
    assert_eq!(total(&fold).1.sessions_open, 0);
    start.flags = flag::ADOPTED;
    start.t_established_ns = 3 * SECOND_NS;
    fold.session_start(&start, label);
    let (counters, gauges) = total(&fold);
    assert_eq!(gauges.sessions_open, 1);
    assert_eq!(
        (counters.sessions_started, counters.sessions_adopted),
        (1, 1)
    );
    assert_eq!(counters.retrans_rto, 3);
}

//! What the fold must keep to, whatever is lost and however the rings are read.

mod properties;
mod slow;
mod story;

use super::*;
use crate::kernel::BackendKind;
use crate::labels::{Label, Service};
use probe_ebpf::record::{
    Delivery, Endpoints, Header, SessionEnd, SessionStart, backend, ended, flag, kind,
};

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
        max_viewers: 0,
        max_cells,
        max_deliveries_kept: 8,
    };
    let mut fold = Fold::new(limits, 1000);
    fold.set_progress_ms(1000);
    fold
}

fn take(fold: &mut Fold, record: &Record) -> Option<Event> {
    match record {
        Record::Start(record) => {
            fold.session_start(record, label);
        }
        Record::End(record) => fold.session_end(record, label),
        Record::Delivery(record) => return fold.delivery(record, label, None).event,
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

/// Of several exchanges between two looks the last one's times are told, and they may be the same.
#[test]
fn a_latency_from_a_bound_on_is_in_no_distribution() {
    let bounds = flag::REQUEST_BOUNDED | flag::FIRST_WRITE_BOUNDED | flag::END_BOUNDED;
    let latencies = |backend, flags| {
        let mut fold = fold_with(10, 10);
        let mut record = exchange(flags);
        record.header.backend = backend;
        fold.delivery(&record, label, None);
        [
            Metric::DeliveryLatencyUs,
            Metric::ThinkTimeUs,
            Metric::FirstByteUs,
            Metric::DeliveryTailUs,
        ]
        .map(|metric| samples(&fold, metric))
    };
    assert_eq!(latencies(backend::POLLED, bounds), [0; 4]);
    assert_eq!(latencies(backend::PORTABLE, 0), [1, 1, 1, 1]);
    assert_eq!(latencies(backend::EXACT, bounds), [0, 0, 0, 1]);
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
        fold.delivery(&exchange(flags), label, None);
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
    assert_eq!(key, &CellKey::other(BackendKind::Exact));
    assert_eq!(other.counters.sessions_started, 8);
}

#[test]
fn what_is_measured_in_different_ways_is_never_counted_in_one_cell() {
    let mut fold = fold_with(100, 1);
    for (cookie, backend) in (1..).zip([backend::EXACT, backend::POLLED, backend::POLLED]) {
        let record = SessionStart {
            header: Header {
                backend,
                ..Header::default()
            },
            cookie,
            ..SessionStart::default()
        };
        fold.session_start(&record, label);
    }
    let mut cells = fold.cells().iter();
    let (exact, cell) = cells.next().unwrap();
    assert_eq!(exact, &CellKey::other(BackendKind::Exact));
    assert_eq!(cell.counters.sessions_started, 1);
    let (polled, cell) = cells.next().unwrap();
    assert_eq!(polled, &CellKey::other(BackendKind::Polled));
    assert_eq!(cell.counters.sessions_started, 2);
    assert!(cells.next().is_none());
}

#[test]
fn a_session_that_goes_on_in_another_way_moves_to_another_cell() {
    let mut fold = fold_with(100, 10);
    let start = |backend| SessionStart {
        header: Header {
            t_ns: 10,
            backend,
            ..Header::default()
        },
        cookie: 1,
        t_established_ns: 10,
        flags: flag::ADOPTED,
        ..SessionStart::default()
    };
    fold.session_start(&start(backend::EXACT), label);
    fold.session_start(&start(backend::PORTABLE), label);
    let cells: Vec<_> = fold
        .cells()
        .iter()
        .map(|(key, cell)| (key.backend, cell.gauges.sessions_open))
        .collect();
    assert_eq!(cells, [(BackendKind::Exact, 0), (BackendKind::Portable, 1)]);
    assert_eq!(fold.sessions().open(), 1);
}

#[test]
fn an_event_is_told_once_and_only_while_it_is_news() {
    let mut fold = fold_with(10, 10);
    let mut late = exchange(flag::LATE);
    late.header.kind = kind::DELIVERY_LATE;
    assert_eq!(fold.delivery(&late, label, None).event, Some(Event::Late));
    assert_eq!(fold.delivery(&late, label, None).event, None);
    assert_eq!(
        fold.delivery(&exchange(flag::LATE), label, None).event,
        None
    );
    // The hot ring was read after the bulk one: it is over already.
    late.index = 1;
    let mut over = exchange(flag::LATE);
    over.index = 1;
    fold.delivery(&over, label, None);
    assert_eq!(fold.delivery(&late, label, None).event, None);
    assert_eq!(total(&fold).0.late_deliveries, 2);
    assert_eq!(total(&fold).1.deliveries_open, 0);
}

#[test]
fn a_late_delivery_is_kept_with_what_became_of_it() {
    let mut fold = fold_with(10, 10);
    let mut late = exchange(flag::LATE);
    late.header.kind = kind::DELIVERY_LATE;
    fold.delivery(&late, label, None);
    fold.delivery(&exchange(flag::LATE), label, None);
    let kinds: Vec<u8> = fold
        .troubled()
        .iter()
        .map(|kept| kept.record.header.kind)
        .collect();
    assert_eq!(kinds, [kind::DELIVERY_END]);
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

/// A report of delivery `index`, made `t_s` seconds after boot, `retrans` segments repeated so far.
fn report(kind: u8, index: u32, begun_s: u64, t_s: u64, retrans: u32) -> Record {
    Record::Delivery(Delivery {
        header: header(kind, t_s * SECOND_NS),
        cookie: 1,
        index,
        t_request_ns: begun_s * SECOND_NS,
        retrans_rto: retrans,
        flags: if kind == kind::DELIVERY_LATE {
            flag::LATE
        } else {
            0
        },
        ..Delivery::default()
    })
}

/// Makes a table of one forget its session.
fn crowd_out(fold: &mut Fold, t_s: u64) {
    let start = SessionStart {
        header: header(kind::SESSION_START, t_s * SECOND_NS),
        cookie: 2,
        t_established_ns: t_s * SECOND_NS,
        ..SessionStart::default()
    };
    fold.session_start(&start, label);
}

/// The hot ring brings the next delivery's lateness before the bulk ring brings this one's end: the
/// session is known again by then, but what this delivery carried was counted before.
#[test]
fn a_delivery_whose_session_is_met_again_by_a_later_one_is_not_counted_twice() {
    let mut fold = fold_with(1, 10);
    take(&mut fold, &report(kind::DELIVERY_PROGRESS, 0, 1, 2, 3));
    assert_eq!(total(&fold).0.retrans_rto, 3);
    crowd_out(&mut fold, 3);
    take(&mut fold, &report(kind::DELIVERY_LATE, 1, 5, 9, 0));
    take(&mut fold, &report(kind::DELIVERY_END, 0, 1, 4, 4));
    assert_eq!(total(&fold).0.retrans_rto, 3);
    // The later one began after all that, and is counted whole.
    take(&mut fold, &report(kind::DELIVERY_PROGRESS, 1, 5, 10, 2));
    take(&mut fold, &report(kind::DELIVERY_END, 1, 5, 11, 6));
    assert_eq!(total(&fold).0.retrans_rto, 3 + 6);
    assert_eq!(total(&fold).0.late_deliveries, 1);
}

/// The hot ring was ahead: what it told was counted, and the bulk ring's older report, which is the
/// first to be heard since, does not say how much that was.
#[test]
fn an_older_report_does_not_say_what_was_counted_before_a_session_was_forgotten() {
    let mut fold = fold_with(1, 10);
    take(&mut fold, &report(kind::DELIVERY_LATE, 0, 1, 5, 3));
    crowd_out(&mut fold, 6);
    take(&mut fold, &report(kind::DELIVERY_PROGRESS, 0, 1, 4, 2));
    assert_eq!(total(&fold).0.retrans_rto, 3);
    // This one is younger than all that was counted: from here on it is known again.
    take(&mut fold, &report(kind::DELIVERY_PROGRESS, 0, 1, 7, 5));
    assert_eq!(total(&fold).0.retrans_rto, 3);
    take(&mut fold, &report(kind::DELIVERY_END, 0, 1, 8, 9));
    assert_eq!(total(&fold).0.retrans_rto, 3 + 4);
    assert_eq!(total(&fold).0.late_deliveries, 1);
}

#[test]
fn lateness_is_not_counted_twice_when_a_session_is_forgotten_in_between() {
    let mut fold = fold_with(1, 10);
    take(&mut fold, &report(kind::DELIVERY_LATE, 1, 3, 5, 0));
    crowd_out(&mut fold, 6);
    take(&mut fold, &report(kind::DELIVERY_END, 0, 1, 2, 0));
    let mut late_too = report(kind::DELIVERY_PROGRESS, 1, 3, 7, 0);
    if let Record::Delivery(record) = &mut late_too {
        record.flags |= flag::LATE;
    }
    take(&mut fold, &late_too);
    assert_eq!(total(&fold).0.late_deliveries, 1);
    assert_eq!(total(&fold).1.deliveries_open_late, 1);
}

/// In a full table each new session takes another's place; its own life is known whole all the same.
#[test]
fn a_session_that_takes_anothers_place_is_counted_whole() {
    let mut fold = fold_with(1, 10);
    crowd_out(&mut fold, 1);
    let start = SessionStart {
        header: header(kind::SESSION_START, 2 * SECOND_NS),
        cookie: 1,
        t_established_ns: 2 * SECOND_NS,
        ..SessionStart::default()
    };
    take(&mut fold, &Record::Start(start));
    take(&mut fold, &report(kind::DELIVERY_END, 0, 3, 4, 5));
    let end = SessionEnd {
        header: header(kind::SESSION_END, 5 * SECOND_NS),
        cookie: 1,
        t_established_ns: 2 * SECOND_NS,
        retrans_rto: 7,
        ..SessionEnd::default()
    };
    take(&mut fold, &Record::End(end));
    assert_eq!(fold.losses().sessions_evicted, 1);
    assert_eq!(total(&fold).0.retrans_rto, 7);
}

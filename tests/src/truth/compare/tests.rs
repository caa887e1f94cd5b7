use super::*;
use crate::record::Endpoints;

const T: u64 = 1_700_000_000_000_000_000;

fn witnessed(at_ns: u64) -> Witnessed {
    Witnessed {
        server: "10.0.0.1:80".parse().unwrap(),
        client: "10.0.0.2:4000".parse().unwrap(),
        kind: Kind::Exchange,
        phase: Phase::Complete,
        request_ns: T + at_ns,
        first_sent_ns: Some(T + at_ns + 10),
        first_acked_ns: Some(T + at_ns + 20),
        last_acked_ns: Some(T + at_ns + 30),
        acked_bytes: 100,
        sent_bytes: 100,
        request_bytes: 10,
        crossing_bytes: 0,
    }
}

fn reported(index: u32, at_ns: u64) -> Delivery {
    Delivery {
        session: 7,
        index,
        endpoints: Endpoints {
            local_address: "10.0.0.1".parse().unwrap(),
            local_port: 80,
            remote_address: "10.0.0.2".parse().unwrap(),
            remote_port: 4000,
            netns: 1,
        },
        kind: "exchange".into(),
        phase: "complete".into(),
        ended: "unspecified".into(),
        request_unix_ns: T + at_ns,
        first_write_unix_ns: T + at_ns + 10,
        first_acked_unix_ns: T + at_ns + 20,
        last_acked_unix_ns: T + at_ns + 30,
        latency_us: 0,
        request_bytes: 10,
        acked_bytes: 100,
        written_bytes: 100,
        requests: 1,
        retrans_fast: 0,
        retrans_rto: 0,
        retrans_tlp: 0,
        adopted: false,
        tls: false,
        late: false,
        settled: false,
        end_bounded: false,
        first_write_bounded: false,
        first_acked_bounded: false,
        last_write_bounded: false,
        request_bounded: false,
    }
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn equal_lists_have_no_differences() {
    let found = compare(
        &[witnessed(0), witnessed(SECOND)],
        &[reported(1, SECOND), reported(0, 300_000)],
        &Terms::default(),
    );
    assert!(found.differences.is_empty(), "{:?}", found.differences);
    assert_eq!((found.request.within_1ms, found.request.worst_us), (2, 300));
}

#[test]
fn a_missing_and_an_extra_delivery_are_told_apart() {
    let found = compare(
        &[witnessed(0), witnessed(SECOND)],
        &[reported(0, SECOND)],
        &Terms::default(),
    );
    assert_eq!(
        (found.unmatched, found.invented, found.request.compared),
        (1, 0, 1)
    );
    let found = compare(
        &[witnessed(0)],
        &[reported(0, 0), reported(1, SECOND)],
        &Terms::default(),
    );
    assert_eq!((found.unmatched, found.invented), (0, 1));
}

#[test]
fn late_times_other_bytes_and_other_ends_differ() {
    let mut delivery = reported(0, 2_000_000);
    delivery.acked_bytes = 99;
    delivery.first_acked_unix_ns = 0;
    let aborted = Terms {
        every_phase: Some(Phase::Aborted),
        ..Terms::default()
    };
    let found = compare(&[witnessed(0)], &[delivery], &aborted);
    assert_eq!(found.request.within_1ms, 0);
    assert_eq!(found.first_acked.one_sided, 1);
    assert_eq!((found.bytes_differ, found.phase_differs), (1, 1));
    assert_eq!(found.differences.len(), 1);
}

fn terms(backend: Backend, handshake_bytes: u64) -> Terms {
    let ends = (witnessed(0).client, witnessed(0).server);
    Terms {
        backend,
        handshakes: BTreeMap::from([(ends, handshake_bytes)]),
        ..Terms::default()
    }
}

#[test]
fn a_bound_may_be_late_where_bounds_are_allowed_and_never_early() {
    let at = |apart_ms: i64| {
        let mut delivery = reported(0, 0);
        delivery.end_bounded = true;
        delivery.last_acked_unix_ns = (T + 30).saturating_add_signed(apart_ms * 1_000_000);
        delivery
    };
    let found =
        |backend, apart_ms| compare(&[witnessed(0)], &[at(apart_ms)], &terms(backend, 0)).end;
    assert_eq!(found(Backend::Portable, 70).bounds, 1);
    assert_eq!(found(Backend::Portable, -70).bounds_broken, 1);
    let exact = found(Backend::Exact, 70);
    assert_eq!((exact.bounds, exact.compared, exact.within_1ms), (0, 1, 0));
}

#[test]
fn a_handshake_flight_may_be_counted_with_the_first_request_where_it_cannot_be_told_apart() {
    let mut delivery = reported(0, 0);
    delivery.tls = true;
    delivery.acked_bytes += 40;
    let found = |backend, bytes| {
        let delivery = std::slice::from_ref(&delivery);
        let found = compare(&[witnessed(0)], delivery, &terms(backend, bytes));
        (found.merged, found.bytes_differ)
    };
    assert_eq!(found(Backend::Portable, 40), (1, 0));
    assert_eq!(
        found(Backend::Portable, 39),
        (0, 1),
        "more than the handshake had"
    );
    assert_eq!(found(Backend::Exact, 40), (0, 1));
}

#[test]
fn what_crossed_the_first_request_over_tls_may_be_counted_before_it() {
    let found = |crossing_bytes, is_tls, missing| {
        let mut witnessed = witnessed(0);
        witnessed.crossing_bytes = crossing_bytes;
        let mut delivery = reported(0, 0);
        delivery.tls = is_tls;
        delivery.acked_bytes -= missing;
        let found = compare(&[witnessed], &[delivery], &terms(Backend::Exact, 0));
        (found.crossed, found.bytes_differ)
    };
    assert_eq!(found(62, true, 62), (1, 0));
    assert_eq!(found(62, true, 61), (0, 1), "not the packet's bytes");
    assert_eq!(found(0, true, 62), (0, 1), "nothing crossed");
    assert_eq!(found(62, false, 62), (0, 1), "no handshake before it");
    assert_eq!(found(62, true, 0), (0, 0));
}

#[test]
fn a_look_is_later_than_what_it_finds_by_the_looks_distance_at_the_most() {
    let at = |t_ns: u64| {
        let mut delivery = reported(0, t_ns);
        delivery.request_bounded = true;
        delivery.first_write_bounded = true;
        delivery.end_bounded = true;
        delivery
    };
    let broken = |delivery: Delivery| {
        let found = bounds(&[witnessed(SECOND)], &[delivery], SECOND / 4, 10_000_000);
        found.request.bounds_broken + found.end.bounds_broken
    };
    assert_eq!(broken(at(SECOND + SECOND / 5)), 0);
    assert_eq!(broken(at(SECOND + SECOND / 3)), 2, "too late");
    assert_eq!(broken(at(SECOND - SECOND / 5)), 2, "before it was");
    let mut unmarked = at(SECOND);
    unmarked.end_bounded = false;
    assert_eq!(broken(unmarked), 1);
}

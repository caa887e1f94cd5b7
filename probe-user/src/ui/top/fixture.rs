//! Snapshots for the tests of the live view.

use weir_proto::v1::{
    Backend, Cell, CellKey, Counters, Delivery, DeliveryPhase, EndCause, Endpoints, Losses, Metric,
    Session, SessionState, Snapshot, Status, UplinkStatus,
};

use crate::ui::percentile::tests::wire;

pub(crate) const SECOND_NS: u64 = 1_000_000_000;

fn key() -> CellKey {
    CellKey {
        service: "hls".into(),
        content_class: "-".into(),
        network: "cable".into(),
        transport: "tcp4".into(),
        tier: 1,
        backend: Backend::Exact.into(),
    }
}

fn endpoints(host: u8) -> Endpoints {
    Endpoints {
        local_address: "192.0.2.1".into(),
        local_port: 443,
        remote_address: format!("198.51.100.{host}"),
        remote_port: 40_000,
        netns: 1,
    }
}

/// A snapshot at `second` (Unix time) with one cell: deliveries of these latencies so far, 1,000
/// segments and 10 retransmits each.
pub(crate) fn snapshot(second: u64, latencies_us: &[u64]) -> Snapshot {
    let deliveries = latencies_us.len() as u64;
    Snapshot {
        status: Some(Status {
            version: "0.1.0".into(),
            host: "edge-1".into(),
            boot_id: "one".into(),
            started_unix_ns: SECOND_NS,
            backend: Backend::Exact as i32,
            losses: Some(Losses::default()),
            sessions_open: 7,
            uplink: Some(UplinkStatus::default()),
            ..Status::default()
        }),
        unix_ns: second * SECOND_NS,
        cells: vec![Cell {
            key: Some(key()),
            counters: Some(Counters {
                deliveries,
                acked_bytes: deliveries * 1_000_000,
                segments: deliveries * 1_000,
                retrans_fast: deliveries * 10,
                ..Counters::default()
            }),
            histograms: vec![wire(Metric::DeliveryLatencyUs, latencies_us)],
            sessions_open: 7,
            deliveries_open: 2,
            deliveries_open_late: 0,
            hosts: 1,
            ..Cell::default()
        }],
        sessions: Vec::new(),
        troubled: Vec::new(),
        viewers: Vec::new(),
        alarms: Vec::new(),
        steering: None,
    }
}

/// A session from `198.51.100.HOST`, late with an answer for `age_s` at `second`.
pub(crate) fn late_session(host: u8, second: u64, age_s: u64) -> Session {
    let mut session = Session {
        session: u64::from(host),
        endpoints: Some(endpoints(host)),
        cell: Some(key()),
        segments: 1_000,
        retrans_fast: 20,
        srtt_us: 42_000,
        min_rtt_us: 40_000,
        delivery_rate_bps: 8_000_000,
        last_latency_us: 1_250_000,
        open_since_unix_ns: (second - age_s) * SECOND_NS,
        open_acked_bytes: 500_000,
        open_written_bytes: 2_000_000,
        ..Session::default()
    };
    session.set_state(SessionState::Late);
    session
}

/// A delivery to `198.51.100.HOST` that the client cut off.
pub(crate) fn aborted_delivery(host: u8, second: u64) -> Delivery {
    let mut delivery = Delivery {
        session: u64::from(host),
        endpoints: Some(endpoints(host)),
        cell: Some(key()),
        request_unix_ns: second * SECOND_NS,
        latency_us: 6_200_000,
        think_us: 3_200,
        first_byte_us: 45_000,
        tail_us: 0,
        acked_bytes: 750_000,
        written_bytes: 2_000_000,
        segments: 600,
        retrans_fast: 11,
        retrans_rto: 2,
        retrans_tlp: 1,
        ..Delivery::default()
    };
    delivery.set_phase(DeliveryPhase::Aborted);
    delivery.set_ended(EndCause::ClientRst);
    delivery
}

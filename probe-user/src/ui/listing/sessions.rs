//! `weir sessions`: what each session is and how it fares.

use serde::Serialize;
use weir_proto::v1::{EndCause, Session, SessionState};

use super::{flags, ratio_ppm, session_retransmitted, sort_by_key};
use crate::ui::out::Mark;
use crate::ui::table::{Column, Value};
use crate::ui::units;

/// A session and the time it is looked at. As JSON, the session alone.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Row {
    /// As the daemon knows it.
    pub session: Session,
    /// For the age of a delivery under way.
    #[serde(skip)]
    pub now_unix_ns: u64,
}

/// What to order sessions by, largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Age of the delivery under way.
    OpenAge,
    /// Latency of the latest finished delivery.
    LastLatency,
    /// Share of segments retransmitted.
    Retransmit,
    /// Late deliveries.
    Late,
    /// Smoothed round-trip time.
    Srtt,
    /// Delivery rate.
    Rate,
    /// Bytes acknowledged.
    Bytes,
    /// Deliveries.
    Deliveries,
    /// When it was established (latest first).
    Established,
}

/// Puts sessions into an order.
pub fn sort(rows: &mut [Row], by: Sort, reverse: bool) {
    sort_by_key(rows, reverse, |row| {
        let session = &row.session;
        match by {
            Sort::OpenAge => open_us(session, row.now_unix_ns),
            Sort::LastLatency => session.last_latency_us,
            Sort::Retransmit => ratio_ppm(session_retransmitted(session), session.segments),
            Sort::Late => session.late_deliveries,
            Sort::Srtt => u64::from(session.srtt_us),
            Sort::Rate => session.delivery_rate_bps,
            Sort::Bytes => session.acked_bytes,
            Sort::Deliveries => session.deliveries,
            Sort::Established => session.established_unix_ns,
        }
    });
}

/// How long the delivery under way has been; 0 if there is none.
pub fn open_us(session: &Session, now_unix_ns: u64) -> u64 {
    match session.open_since_unix_ns {
        0 => 0,
        since => now_unix_ns.saturating_sub(since) / 1_000,
    }
}

/// How a state is marked.
pub fn state_mark(state: SessionState) -> Mark {
    match state {
        SessionState::Late => Mark::Bad,
        SessionState::Delivering => Mark::Good,
        _ => Mark::Plain,
    }
}

/// The table's columns.
pub const COLUMNS: &[Column<Row>] = &[
    Column::left("state", |row| {
        let state = row.session.state();
        Value::new(state.word(), state_mark(state))
    }),
    Column::left("client", |row| {
        units::client(row.session.endpoints.as_ref()).into()
    }),
    Column::left("server", |row| {
        units::server(row.session.endpoints.as_ref()).into()
    }),
    Column::left("cell", |row| {
        units::cell_path(row.session.cell.as_ref()).into()
    }),
    Column::right("deliveries", |row| row.session.deliveries.into()),
    Column::right("late", |row| {
        Value::count(row.session.late_deliveries, Mark::Bad)
    }),
    Column::right("aborted", |row| {
        Value::count(row.session.aborted_deliveries, Mark::Warn)
    }),
    Column::right("last_latency_ms", |row| {
        units::ms(row.session.last_latency_us).into()
    }),
    Column::right("open_ms", |row| {
        units::ms(open_us(&row.session, row.now_unix_ns)).into()
    }),
    Column::right("open_acked_bytes", |row| {
        row.session.open_acked_bytes.into()
    }),
    Column::right("open_written_bytes", |row| {
        row.session.open_written_bytes.into()
    }),
    Column::right("srtt_ms", |row| {
        units::ms(row.session.srtt_us.into()).into()
    }),
    Column::right("min_rtt_ms", |row| {
        units::ms(row.session.min_rtt_us.into()).into()
    }),
    Column::right("rate_mbps", |row| {
        units::mbps(row.session.delivery_rate_bps).into()
    }),
    Column::right("retrans_pct", |row| {
        units::percent(session_retransmitted(&row.session), row.session.segments).into()
    }),
    Column::right("retrans_fast", |row| row.session.retrans_fast.into()),
    Column::right("retrans_rto", |row| {
        Value::count(row.session.retrans_rto, Mark::Warn)
    }),
    Column::right("retrans_tlp", |row| row.session.retrans_tlp.into()),
    Column::right("acked_bytes", |row| row.session.acked_bytes.into()),
    Column::right("handshake_ms", |row| {
        units::ms(row.session.handshake_us.into()).into()
    }),
    Column::right("synack_retrans", |row| {
        Value::count(row.session.synack_retransmits.into(), Mark::Warn)
    }),
    Column::left("established", |row| {
        units::timestamp(row.session.established_unix_ns).into()
    }),
    Column::left("ended", |row| match row.session.ended() {
        EndCause::Unspecified => units::ABSENT.into(),
        cause => cause.word().into(),
    }),
    Column::left("flags", |row| {
        let session = &row.session;
        flags(&[
            (session.adopted, "adopted"),
            (session.tls, "tls"),
            (session.busy_periods, "busy_periods"),
            (session.delivery_rate_app_limited, "app_limited"),
        ])
        .into()
    }),
    Column::right("session", |row| row.session.session.into()),
];

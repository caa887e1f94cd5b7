//! `weir deliveries`: each request and its answer, where the time went and what was sent twice.

use weir_proto::v1::{Delivery, DeliveryPhase, EndCause};

use super::{flags, ratio_ppm, sort_by_key};
use crate::ui::out::Mark;
use crate::ui::table::{Column, Value};
use crate::ui::units;

/// What to order deliveries by, largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// When the request came.
    Time,
    /// Request to last byte acknowledged.
    Latency,
    /// Request to the server's first write.
    Think,
    /// Request to the first acknowledgement.
    FirstByte,
    /// Last write to last acknowledgement.
    Tail,
    /// Bytes acknowledged.
    Bytes,
    /// Share of segments retransmitted.
    Retransmit,
    /// Delivery rate.
    Rate,
}

/// Puts deliveries into an order.
pub fn sort(rows: &mut [Delivery], by: Sort, reverse: bool) {
    sort_by_key(rows, reverse, |delivery| match by {
        Sort::Time => delivery.request_unix_ns,
        Sort::Latency => delivery.latency_us,
        Sort::Think => delivery.think_us,
        Sort::FirstByte => delivery.first_byte_us,
        Sort::Tail => delivery.tail_us,
        Sort::Bytes => delivery.acked_bytes,
        Sort::Retransmit => ratio_ppm(retransmitted(delivery), delivery.segments.into()),
        Sort::Rate => delivery.delivery_rate_bps,
    });
}

/// Segments retransmitted, for whatever reason.
pub fn retransmitted(delivery: &Delivery) -> u64 {
    u64::from(delivery.retrans_fast)
        + u64::from(delivery.retrans_rto)
        + u64::from(delivery.retrans_tlp)
}

/// How a phase is marked.
pub fn phase_mark(delivery: &Delivery) -> Mark {
    match delivery.phase() {
        DeliveryPhase::Late => Mark::Bad,
        DeliveryPhase::Aborted | DeliveryPhase::Unanswered => Mark::Warn,
        _ if delivery.late => Mark::Bad,
        _ => Mark::Plain,
    }
}

/// What else is to be known of a delivery. A follower that reads too slowly also sees here how
/// many it missed before this one.
pub fn flag_words(delivery: &Delivery) -> String {
    let words = flags(&[
        (delivery.late, "late"),
        (delivery.adopted, "adopted"),
        (delivery.tls, "tls"),
        (delivery.settled, "settled"),
        (delivery.delivery_rate_app_limited, "app_limited"),
        (delivery.end_bounded, "end_bounded"),
        (delivery.first_write_bounded, "first_write_bounded"),
        (delivery.request_bounded, "request_bounded"),
        (delivery.first_acked_bounded, "first_acked_bounded"),
        (delivery.last_write_bounded, "last_write_bounded"),
    ]);
    match delivery.missed_before {
        0 => words,
        missed => format!("missed_before={missed},{words}"),
    }
}

/// The table's columns.
pub const COLUMNS: &[Column<Delivery>] = &[
    Column::left("request_time", |delivery| {
        units::timestamp(delivery.request_unix_ns).into()
    }),
    Column::left("phase", |delivery| {
        Value::new(delivery.phase().word(), phase_mark(delivery))
    }),
    Column::left("client", |delivery| {
        units::client(delivery.endpoints.as_ref()).into()
    }),
    Column::left("server", |delivery| {
        units::server(delivery.endpoints.as_ref()).into()
    }),
    Column::left("cell", |delivery| {
        units::cell_path(delivery.cell.as_ref()).into()
    }),
    Column::left("kind", |delivery| delivery.kind().word().into()),
    Column::right("latency_ms", |delivery| {
        units::ms(delivery.latency_us).into()
    }),
    Column::right("think_ms", |delivery| units::ms(delivery.think_us).into()),
    Column::right("first_byte_ms", |delivery| {
        units::ms(delivery.first_byte_us).into()
    }),
    Column::right("tail_ms", |delivery| units::ms(delivery.tail_us).into()),
    Column::right("request_bytes", |delivery| delivery.request_bytes.into()),
    Column::right("acked_bytes", |delivery| delivery.acked_bytes.into()),
    Column::right("written_bytes", |delivery| delivery.written_bytes.into()),
    Column::right("segments", |delivery| delivery.segments.into()),
    Column::right("retrans_fast", |delivery| delivery.retrans_fast.into()),
    Column::right("retrans_rto", |delivery| {
        Value::count(delivery.retrans_rto.into(), Mark::Warn)
    }),
    Column::right("retrans_tlp", |delivery| delivery.retrans_tlp.into()),
    Column::right("srtt_ms", |delivery| {
        units::ms(delivery.srtt_us.into()).into()
    }),
    Column::right("min_rtt_ms", |delivery| {
        units::ms(delivery.min_rtt_us.into()).into()
    }),
    Column::right("rate_mbps", |delivery| {
        units::mbps(delivery.delivery_rate_bps).into()
    }),
    Column::right("busy_ms", |delivery| units::ms(delivery.busy_us).into()),
    Column::right("rwnd_limited_ms", |delivery| {
        units::ms(delivery.rwnd_limited_us).into()
    }),
    Column::right("sndbuf_limited_ms", |delivery| {
        units::ms(delivery.sndbuf_limited_us).into()
    }),
    Column::left("ended", |delivery| match delivery.ended() {
        EndCause::Unspecified => units::ABSENT.into(),
        cause => cause.word().into(),
    }),
    Column::left("flags", |delivery| flag_words(delivery).into()),
    Column::right("session", |delivery| delivery.session.into()),
    Column::right("index", |delivery| delivery.index.into()),
];

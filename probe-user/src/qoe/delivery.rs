//! What a delivery record means: its kind, how it ended, and the durations in it.

use probe_ebpf::record::{Delivery, flag, kind};

/// What sort of exchange it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One request, one answer.
    Exchange,
    /// HTTP/2 or pipelining: more than one answer may be inside.
    BusyPeriod,
    /// The server spoke unasked.
    Unsolicited,
    /// The rest of an answer that was reported as finished after the quiet gap.
    Resumed,
    /// A part of the TLS handshake: not a delivery.
    Handshake,
}

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Every byte of the answer was acknowledged.
    Complete,
    /// Cut off before.
    Aborted,
    /// Never answered.
    Unanswered,
    /// Open and past its deadline.
    Late,
    /// Open.
    Open,
}

/// A record with the cell it was counted in.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// As the kernel wrote it.
    pub record: Delivery,
    /// See [`super::cell::Cells`].
    pub cell: u32,
}

/// The kind of a delivery. Where several flags are set, the one that says most about which of its
/// times can be trusted decides.
pub fn kind_of(record: &Delivery) -> Kind {
    for (bit, kind) in [
        (flag::HANDSHAKE, Kind::Handshake),
        (flag::UNSOLICITED, Kind::Unsolicited),
        (flag::RESUMED, Kind::Resumed),
        (flag::BUSY_PERIOD, Kind::BusyPeriod),
    ] {
        if record.flags & bit != 0 {
            return kind;
        }
    }
    Kind::Exchange
}

/// How far a delivery has come, as the record says.
pub fn phase_of(record: &Delivery) -> Phase {
    match record.header.kind {
        kind::DELIVERY_LATE => Phase::Late,
        kind::DELIVERY_END if record.flags & flag::UNANSWERED != 0 => Phase::Unanswered,
        kind::DELIVERY_END if record.flags & flag::ABORTED != 0 => Phase::Aborted,
        kind::DELIVERY_END => Phase::Complete,
        _ if record.flags & flag::LATE != 0 => Phase::Late,
        _ => Phase::Open,
    }
}

/// Whether something went wrong with it.
pub fn troubled(record: &Delivery) -> bool {
    let retransmitted = record.retrans_fast | record.retrans_rto | record.retrans_tlp;
    record.flags & flag::LATE != 0
        || matches!(
            phase_of(record),
            Phase::Late | Phase::Aborted | Phase::Unanswered
        )
        || retransmitted != 0
}

/// Microseconds from one time to a later one; none if either did not happen.
fn between_us(from_ns: u64, to_ns: u64) -> Option<u64> {
    if from_ns == 0 || to_ns == 0 {
        return None;
    }
    to_ns.checked_sub(from_ns).map(|ns| ns / 1000)
}

/// Request's first byte to the latest acknowledgement.
pub fn latency_us(record: &Delivery) -> Option<u64> {
    between_us(record.t_request_ns, record.t_last_acked_ns)
}

/// Request's last byte to the first write.
pub fn think_us(record: &Delivery) -> Option<u64> {
    between_us(record.t_request_last_ns, record.t_first_write_ns)
}

/// Request's first byte to the first acknowledgement.
pub fn first_byte_us(record: &Delivery) -> Option<u64> {
    between_us(record.t_request_ns, record.t_first_acked_ns)
}

/// Last write to the latest acknowledgement.
pub fn tail_us(record: &Delivery) -> Option<u64> {
    between_us(record.t_last_write_ns, record.t_last_acked_ns)
}

/// Segments retransmitted, of all kinds.
pub fn retransmits(record: &Delivery) -> u64 {
    u64::from(record.retrans_fast) + u64::from(record.retrans_rto) + u64::from(record.retrans_tlp)
}

/// Retransmitted per million segments sent, at most a million; none if nothing was sent.
pub fn retransmit_ratio_ppm(retransmits: u64, segments: u64) -> Option<u64> {
    (segments > 0).then(|| (retransmits.saturating_mul(1_000_000) / segments).min(1_000_000))
}

/// Kernel ticks in microseconds.
pub fn ticks_us(ticks: u32, tick_hz: u32) -> u64 {
    u64::from(ticks) * 1_000_000 / u64::from(tick_hz.max(1))
}

//! Writing records: which ring, what is counted, when the daemon is woken.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, maps::ring_buf::RingBufEntry};
use probe_ebpf::{
    field::Field,
    record::{ABI_VERSION, Delivery, Header, SessionEnd, SessionStart, flag, kind},
    settings::Counter,
    tracker::{Gauges, Session},
};

use super::{
    maps::{BULK, HOT, count},
    sock::TcpSock,
};

const NO_WAKEUP: u64 = 1; // BPF_RB_NO_WAKEUP
const FORCE_WAKEUP: u64 = 2; // BPF_RB_FORCE_WAKEUP
const AVAIL_DATA: u64 = 0; // BPF_RB_AVAIL_DATA
const RING_SIZE: u64 = 1; // BPF_RB_RING_SIZE

/// `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn header<T>(kind: u8, now_ns: u64) -> Header {
    Header {
        t_ns: now_ns,
        kind,
        version: ABI_VERSION,
        len: size_of::<T>() as u16,
        reserved: 0,
    }
}

/// A place in the hot ring; the daemon is woken by every record that it has not seen coming.
#[inline(always)]
fn reserve_hot<T>() -> Option<RingBufEntry<T>> {
    count(Counter::HotSeen);
    let entry = HOT.reserve::<T>(0);
    count(if entry.is_some() {
        Counter::HotExported
    } else {
        Counter::HotFull
    });
    entry
}

#[inline(always)]
fn reserve_bulk<T>() -> Option<RingBufEntry<T>> {
    count(Counter::BulkSeen);
    let entry = BULK.reserve::<T>(0);
    count(if entry.is_some() {
        Counter::BulkExported
    } else {
        Counter::BulkFull
    });
    entry
}

/// The daemon empties the bulk ring by the clock; it is woken only when a quarter is full.
#[inline(always)]
fn bulk_wakeup() -> u64 {
    if BULK.query(AVAIL_DATA) >= BULK.query(RING_SIZE) / 4 {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    }
}

/// The place's memory, to be written field by field: a whole struct would be made on the stack
/// and copied byte by byte.
///
/// # Safety
/// Every field must be written before the place is submitted.
#[inline(always)]
unsafe fn place<T>(entry: &mut RingBufEntry<T>) -> &mut T {
    // SAFETY: the place is as large as a `T`, aligned to 8; records are plain integers without
    // padding, so that the caller's writing every field initialises it.
    unsafe { &mut *entry.as_mut_ptr() }
}

/// Reports a session's start.
#[inline(always)]
pub fn session_start(s: &Session, handshake_us: u32, synack_retransmits: u32) {
    let Some(mut entry) = reserve_bulk::<SessionStart>() else {
        return;
    };
    // SAFETY: every field follows.
    let out = unsafe { place(&mut entry) };
    out.header = header::<SessionStart>(kind::SESSION_START, now_ns());
    out.cookie = s.cookie;
    out.t_established_ns = s.t_established_ns;
    out.endpoints = s.endpoints;
    out.handshake_us = handshake_us;
    out.synack_retransmits = synack_retransmits;
    out.flags = s.flags;
    out.reserved = 0;
    entry.submit(bulk_wakeup());
}

/// Reports a session's end. A FIN that was received or acknowledged is taken off the kernel's
/// byte counts, in which it counts as a byte.
#[inline(always)]
pub fn session_end(s: &Session, tcp: TcpSock, now_ns: u64, ended: u8, fin_acked: u8) {
    let Some(mut entry) = reserve_bulk::<SessionEnd>() else {
        return;
    };
    // SAFETY: every field follows.
    let out = unsafe { place(&mut entry) };
    out.header = header::<SessionEnd>(kind::SESSION_END, now_ns);
    out.cookie = s.cookie;
    out.t_established_ns = s.t_established_ns;
    out.received_bytes = tcp
        .get::<u64>(Field::BytesReceived)
        .saturating_sub(u64::from(s.fin_received));
    out.acked_bytes = tcp
        .get::<u64>(Field::BytesAcked)
        .saturating_sub(u64::from(fin_acked));
    out.endpoints = s.endpoints;
    out.deliveries = s.index;
    out.flags = s.flags;
    out.segments = tcp.get(Field::DataSegsOut);
    out.retrans_fast = s.session_retrans.fast;
    out.retrans_rto = s.session_retrans.rto;
    out.retrans_tlp = s.session_retrans.tlp;
    out.retrans_before = s.retrans_before;
    out.retrans_total = tcp.get(Field::TotalRetrans);
    out.srtt_us = tcp.srtt_us();
    out.min_rtt_us = tcp.min_rtt_us();
    out.ended = ended;
    out.reserved = [0; 7];
    entry.submit(bulk_wakeup());
}

/// Writes a delivery into a place in a ring.
#[inline(always)]
fn fill(entry: &mut RingBufEntry<Delivery>, s: &Session, tcp: TcpSock, now_ns: u64, kind: u8) {
    let mut gauges = Gauges::default();
    tcp.gauges(&mut gauges);
    // SAFETY: the header here, everything else in `Session::fill`.
    let out = unsafe { place(entry) };
    out.header = header::<Delivery>(kind, now_ns);
    s.fill(out, tcp.write_seq(), &gauges);
}

/// Reports the open delivery's end, on the ring it belongs to, and closes it. What is worth no
/// record (see [`Session::finish`]) gets none.
#[inline(always)]
pub fn delivery_end(s: &mut Session, tcp: TcpSock, now_ns: u64) {
    if s.finish(tcp.write_seq()) {
        if s.delivery_flags & flag::ABORTED != 0 {
            if let Some(mut entry) = reserve_hot::<Delivery>() {
                fill(&mut entry, s, tcp, now_ns, kind::DELIVERY_END);
                entry.submit(0);
            }
        } else if let Some(mut entry) = reserve_bulk::<Delivery>() {
            fill(&mut entry, s, tcp, now_ns, kind::DELIVERY_END);
            entry.submit(bulk_wakeup());
        }
    }
    s.close();
}

/// Reports that the open delivery is late.
#[inline(always)]
pub fn delivery_late(s: &mut Session, tcp: TcpSock, now_ns: u64) {
    s.mark_late();
    if let Some(mut entry) = reserve_hot::<Delivery>() {
        fill(&mut entry, s, tcp, now_ns, kind::DELIVERY_LATE);
        entry.submit(0);
    }
}

/// Reports the open delivery as it stands.
#[inline(always)]
pub fn delivery_progress(s: &mut Session, tcp: TcpSock, now_ns: u64) {
    s.t_progress_ns = now_ns;
    if let Some(mut entry) = reserve_bulk::<Delivery>() {
        fill(&mut entry, s, tcp, now_ns, kind::DELIVERY_PROGRESS);
        entry.submit(bulk_wakeup());
    }
}

/// Reports the open delivery as over by the quiet gap, if `claim` (asked once the record is
/// written) finds that nothing has changed in between.
#[inline(always)]
pub fn delivery_settled(s: &Session, tcp: TcpSock, now_ns: u64, claim: impl FnOnce() -> bool) {
    let entry = BULK.reserve::<Delivery>(0);
    let Some(mut entry) = entry else {
        // Not counted as lost: the next sweep, or the next request, reports it.
        return;
    };
    fill(&mut entry, s, tcp, now_ns, kind::DELIVERY_END);
    // SAFETY: `fill` has written every field.
    unsafe { place(&mut entry) }.flags |= flag::SETTLED;
    if claim() {
        count(Counter::BulkSeen);
        count(Counter::BulkExported);
        entry.submit(bulk_wakeup());
    } else {
        entry.discard(NO_WAKEUP);
    }
}

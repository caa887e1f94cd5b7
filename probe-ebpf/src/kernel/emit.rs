//! Records: which ring each goes to, what is counted, when the daemon is woken.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, maps::ring_buf::RingBufEntry};
use probe_ebpf::{
    drive::Host,
    record::{ABI_VERSION, Delivery, Header, SessionEnd, SessionStart, backend, flag, kind},
    session::{Gauges, Session},
    settings::Counter,
};

use super::maps::{BULK, HOT, count};

/// What these programs measure as.
const BACKEND: u8 = if cfg!(feature = "portable") {
    backend::PORTABLE
} else {
    backend::EXACT
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
        backend: BACKEND,
        reserved: 0,
        reserved_too: 0,
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
pub fn session_start(s: &Session, now_ns: u64, handshake_us: u32, synack_retransmits: u32) {
    let Some(mut entry) = reserve_bulk::<SessionStart>() else {
        return;
    };
    // SAFETY: every field follows.
    let out = unsafe { place(&mut entry) };
    out.header = header::<SessionStart>(kind::SESSION_START, now_ns);
    out.cookie = s.cookie;
    out.t_established_ns = s.t_established_ns;
    out.endpoints.copy_from(&s.endpoints);
    out.handshake_us = handshake_us;
    out.synack_retransmits = synack_retransmits;
    out.flags = s.flags;
    out.reserved = 0;
    entry.submit(bulk_wakeup());
}

/// Writes a delivery, what was written in answer ending at `write_seq`, into a place in a ring.
#[inline(always)]
fn fill<H: Host>(
    entry: &mut RingBufEntry<Delivery>,
    host: &H,
    s: &Session,
    write_seq: u32,
    now_ns: u64,
    kind: u8,
) {
    let mut gauges = Gauges::default();
    host.gauges(&mut gauges);
    // SAFETY: the header here, everything else in `Session::fill`.
    let out = unsafe { place(entry) };
    out.header = header::<Delivery>(kind, now_ns);
    s.fill(out, write_seq, &gauges);
}

/// Reports a delivery on the hot ring.
#[inline(always)]
fn hot<H: Host>(host: &H, s: &Session, write_seq: u32, now_ns: u64, kind: u8) {
    if let Some(mut entry) = reserve_hot::<Delivery>() {
        fill(&mut entry, host, s, write_seq, now_ns, kind);
        entry.submit(0);
    }
}

/// Reports a delivery on the bulk ring.
#[inline(always)]
fn bulk<H: Host>(host: &H, s: &Session, write_seq: u32, now_ns: u64, kind: u8) {
    if let Some(mut entry) = reserve_bulk::<Delivery>() {
        fill(&mut entry, host, s, write_seq, now_ns, kind);
        entry.submit(bulk_wakeup());
    }
}

/// Reports a delivery's end.
#[inline(always)]
pub fn delivery_end<H: Host>(host: &H, s: &Session, write_seq: u32, now_ns: u64) {
    if s.delivery_flags & flag::ABORTED != 0 {
        hot(host, s, write_seq, now_ns, kind::DELIVERY_END);
    } else {
        bulk(host, s, write_seq, now_ns, kind::DELIVERY_END);
    }
}

/// Reports that a delivery is late.
#[inline(always)]
pub fn delivery_late<H: Host>(host: &H, s: &Session, now_ns: u64) {
    hot(host, s, host.write_seq(), now_ns, kind::DELIVERY_LATE);
}

/// Reports how far a delivery is.
#[inline(always)]
pub fn delivery_progress<H: Host>(host: &H, s: &Session, now_ns: u64) {
    bulk(host, s, host.write_seq(), now_ns, kind::DELIVERY_PROGRESS);
}

/// The end of a delivery that is settled, written and not yet reported.
pub struct Settled(RingBufEntry<Delivery>);

/// Writes the end of a delivery that is settled. None if the ring is full: the delivery is not
/// lost, the next sweep or the next request reports it.
#[inline(always)]
pub fn settled<H: Host>(host: &H, s: &Session, now_ns: u64) -> Option<Settled> {
    let mut entry = BULK.reserve::<Delivery>(0)?;
    let write_seq = host.write_seq();
    fill(&mut entry, host, s, write_seq, now_ns, kind::DELIVERY_END);
    // SAFETY: `fill` has written every field.
    unsafe { place(&mut entry) }.flags |= flag::SETTLED;
    Some(Settled(entry))
}

impl Settled {
    /// Reports it, or takes it back.
    #[inline(always)]
    pub fn report(self, is_claimed: bool) {
        if is_claimed {
            count(Counter::BulkSeen);
            count(Counter::BulkExported);
            self.0.submit(bulk_wakeup());
        } else {
            self.0.discard(NO_WAKEUP);
        }
    }
}

/// The kernel's own counts over a whole session.
#[derive(Clone, Copy)]
pub struct Totals {
    /// Received from the client.
    pub received_bytes: u64,
    /// Acknowledged by the client.
    pub acked_bytes: u64,
    /// Data segments sent.
    pub segments: u32,
    /// Segments sent again.
    pub retrans: u32,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
    /// Least round-trip time.
    pub min_rtt_us: u32,
}

/// Reports a session's end.
#[inline(always)]
pub fn session_end(s: &Session, now_ns: u64, ended: u8, totals: &Totals) {
    let Some(mut entry) = reserve_bulk::<SessionEnd>() else {
        return;
    };
    // SAFETY: every field follows.
    let out = unsafe { place(&mut entry) };
    out.header = header::<SessionEnd>(kind::SESSION_END, now_ns);
    out.cookie = s.cookie;
    out.t_established_ns = s.t_established_ns;
    out.received_bytes = totals.received_bytes;
    out.acked_bytes = totals.acked_bytes;
    out.endpoints.copy_from(&s.endpoints);
    out.deliveries = s.index;
    out.flags = s.flags;
    out.segments = totals.segments;
    out.retrans_fast = s.session_retrans.fast;
    out.retrans_rto = s.session_retrans.rto;
    out.retrans_tlp = s.session_retrans.tlp;
    out.retrans_before = s.retrans_before;
    out.retrans_total = totals.retrans;
    out.srtt_us = totals.srtt_us;
    out.min_rtt_us = totals.min_rtt_us;
    out.ended = ended;
    out.reserved = 0;
    out.reserved_too = 0;
    out.reserved_as_well = 0;
    entry.submit(bulk_wakeup());
}

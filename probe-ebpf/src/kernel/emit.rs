//! The kernel as the tracker's [`Host`]: the socket's fields, and the records: which ring each
//! goes to, what is counted, when the daemon is woken.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, maps::ring_buf::RingBufEntry};
use probe_ebpf::{
    drive::Host,
    field::Field,
    record::{ABI_VERSION, Delivery, Header, SessionEnd, SessionStart, backend, flag, kind},
    session::{Gauges, Session},
    settings::Counter,
    tracker::EPOCH_STEP,
};

use super::{
    atomic,
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
        backend: backend::EXACT,
        reserved: [0; 3],
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

/// Writes a delivery into a place in a ring.
#[inline(always)]
fn fill(
    entry: &mut RingBufEntry<Delivery>,
    s: &Session,
    tcp: TcpSock,
    write_seq: u32,
    now_ns: u64,
    kind: u8,
) {
    let mut gauges = Gauges::default();
    tcp.read_gauges(&mut gauges);
    // SAFETY: the header here, everything else in `Session::fill`.
    let out = unsafe { place(entry) };
    out.header = header::<Delivery>(kind, now_ns);
    s.fill(out, write_seq, &gauges);
}

impl Host for TcpSock {
    #[inline(always)]
    fn write_seq(&self) -> u32 {
        self.get(Field::WriteSeq)
    }

    #[inline(always)]
    fn snd_una(&self) -> u32 {
        self.get(Field::SndUna)
    }

    #[inline(always)]
    fn snd_nxt(&self) -> u32 {
        self.get(Field::SndNxt)
    }

    #[inline(always)]
    fn rcv_nxt(&self) -> u32 {
        self.get(Field::RcvNxt)
    }

    #[inline(always)]
    fn srtt_us(&self) -> u32 {
        self.get::<u32>(Field::Srtt8Us) >> 3
    }

    #[inline(always)]
    fn total_retrans(&self) -> u32 {
        self.get(Field::TotalRetrans)
    }

    #[inline(always)]
    fn ca_state(&self) -> u8 {
        self.bits(Field::CaState, Field::CaStateMask)
    }

    #[inline(always)]
    fn error(&self) -> i32 {
        self.get(Field::SkErr)
    }

    #[inline(always)]
    fn tcp_state(&self) -> u8 {
        self.get(Field::State)
    }

    #[inline(always)]
    fn gauges(&self, out: &mut Gauges) {
        self.read_gauges(out);
    }

    #[inline(always)]
    fn step_epoch(&mut self, s: &mut Session) -> u64 {
        // SAFETY: an aligned u64 of the session, accessed only atomically while programs run.
        unsafe { atomic::fetch_add(&raw mut s.epoch, EPOCH_STEP) }
    }

    #[inline(always)]
    fn swap_epoch(&mut self, s: &mut Session, expected: u64, new: u64) -> bool {
        // SAFETY: as in `step_epoch`.
        unsafe { atomic::compare_exchange(&raw mut s.epoch, expected, new) == expected }
    }

    #[inline(always)]
    fn delivery_end(&mut self, s: &Session, write_seq: u32, now_ns: u64) {
        if s.delivery_flags & flag::ABORTED != 0 {
            if let Some(mut entry) = reserve_hot::<Delivery>() {
                fill(&mut entry, s, *self, write_seq, now_ns, kind::DELIVERY_END);
                entry.submit(0);
            }
        } else if let Some(mut entry) = reserve_bulk::<Delivery>() {
            fill(&mut entry, s, *self, write_seq, now_ns, kind::DELIVERY_END);
            entry.submit(bulk_wakeup());
        }
    }

    #[inline(always)]
    fn delivery_settled(&mut self, s: &mut Session, now_ns: u64, expected: u64, new: u64) {
        let Some(mut entry) = BULK.reserve::<Delivery>(0) else {
            // Not lost: the next sweep, or the next request, reports it.
            return;
        };
        fill(
            &mut entry,
            s,
            *self,
            self.write_seq(),
            now_ns,
            kind::DELIVERY_END,
        );
        // SAFETY: `fill` has written every field.
        unsafe { place(&mut entry) }.flags |= flag::SETTLED;
        if self.swap_epoch(s, expected, new) {
            count(Counter::BulkSeen);
            count(Counter::BulkExported);
            entry.submit(bulk_wakeup());
        } else {
            entry.discard(NO_WAKEUP);
        }
    }

    #[inline(always)]
    fn delivery_late(&mut self, s: &Session, now_ns: u64) {
        if let Some(mut entry) = reserve_hot::<Delivery>() {
            fill(
                &mut entry,
                s,
                *self,
                self.write_seq(),
                now_ns,
                kind::DELIVERY_LATE,
            );
            entry.submit(0);
        }
    }

    #[inline(always)]
    fn delivery_progress(&mut self, s: &Session, now_ns: u64) {
        if let Some(mut entry) = reserve_bulk::<Delivery>() {
            fill(
                &mut entry,
                s,
                *self,
                self.write_seq(),
                now_ns,
                kind::DELIVERY_PROGRESS,
            );
            entry.submit(bulk_wakeup());
        }
    }

    /// A FIN that was received or acknowledged is taken off the kernel's byte counts, in which it
    /// counts as a byte.
    #[inline(always)]
    fn session_end(&mut self, s: &Session, now_ns: u64, ended: u8, fin_acked: bool) {
        let Some(mut entry) = reserve_bulk::<SessionEnd>() else {
            return;
        };
        // SAFETY: every field follows.
        let out = unsafe { place(&mut entry) };
        out.header = header::<SessionEnd>(kind::SESSION_END, now_ns);
        out.cookie = s.cookie;
        out.t_established_ns = s.t_established_ns;
        out.received_bytes = self
            .get::<u64>(Field::BytesReceived)
            .saturating_sub(u64::from(s.fin_received));
        out.acked_bytes = self
            .get::<u64>(Field::BytesAcked)
            .saturating_sub(u64::from(fin_acked));
        out.endpoints = s.endpoints;
        out.deliveries = s.index;
        out.flags = s.flags;
        out.segments = self.get(Field::DataSegsOut);
        out.retrans_fast = s.session_retrans.fast;
        out.retrans_rto = s.session_retrans.rto;
        out.retrans_tlp = s.session_retrans.tlp;
        out.retrans_before = s.retrans_before;
        out.retrans_total = self.total_retrans();
        out.srtt_us = self.srtt_us();
        out.min_rtt_us = self.min_rtt_us();
        out.ended = ended;
        out.reserved = [0; 7];
        entry.submit(bulk_wakeup());
    }
}

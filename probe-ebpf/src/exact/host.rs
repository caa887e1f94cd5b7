//! A socket, known field by field, as the tracker's [`Host`].

use probe_ebpf::{
    drive::Host,
    field::Field,
    session::{Gauges, Session},
};

#[cfg(not(feature = "keyed"))]
use probe_ebpf::settings::Counter;

use super::sock::TcpSock;
#[cfg(not(feature = "keyed"))]
use super::storage;
use crate::kernel::emit;
#[cfg(not(feature = "keyed"))]
use crate::kernel::{atomic, maps::count};

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
    fn delivered_ns(&self) -> u64 {
        self.get::<u64>(Field::DeliveredMstamp) * 1000
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

    #[cfg(not(feature = "keyed"))]
    #[inline(always)]
    fn add_epoch(&mut self, s: &mut Session, n: u64) -> u64 {
        // SAFETY: an aligned u64 of the session, accessed only atomically while programs run.
        unsafe { atomic::fetch_add(&raw mut s.epoch, n) }
    }

    #[cfg(not(feature = "keyed"))]
    #[inline(always)]
    fn swap_epoch(&mut self, s: &mut Session, expected: u64, new: u64) -> bool {
        // SAFETY: as in `add_epoch`.
        unsafe { atomic::compare_exchange(&raw mut s.epoch, expected, new) == expected }
    }

    #[cfg(not(feature = "keyed"))]
    #[inline(always)]
    fn mark(&mut self) -> bool {
        let is_marked = storage::mark(*self);
        if !is_marked {
            count(Counter::MarksRefused);
        }
        is_marked
    }

    #[cfg(not(feature = "keyed"))]
    #[inline(always)]
    fn unmark(&mut self) {
        storage::unmark(*self);
    }

    // No sweep runs beside these programs.
    #[cfg(feature = "keyed")]
    #[inline(always)]
    fn add_epoch(&mut self, _s: &mut Session, _n: u64) -> u64 {
        0
    }

    #[cfg(feature = "keyed")]
    #[inline(always)]
    fn swap_epoch(&mut self, _s: &mut Session, _expected: u64, _new: u64) -> bool {
        false
    }

    #[cfg(feature = "keyed")]
    #[inline(always)]
    fn mark(&mut self) -> bool {
        false
    }

    #[cfg(feature = "keyed")]
    #[inline(always)]
    fn unmark(&mut self) {}

    #[inline(always)]
    fn delivery_end(&mut self, s: &Session, write_seq: u32, now_ns: u64) {
        emit::delivery_end(self, s, write_seq, now_ns);
    }

    #[inline(always)]
    fn delivery_settled(&mut self, s: &mut Session, now_ns: u64, expected: u64, new: u64) {
        if let Some(settled) = emit::settled(self, s, now_ns) {
            let is_claimed = self.swap_epoch(s, expected, new);
            settled.report(is_claimed);
        }
    }

    #[inline(always)]
    fn delivery_late(&mut self, s: &Session, now_ns: u64) {
        emit::delivery_late(self, s, now_ns);
    }

    #[inline(always)]
    fn delivery_progress(&mut self, s: &Session, now_ns: u64) {
        emit::delivery_progress(self, s, now_ns);
    }

    /// A FIN that was received or acknowledged is taken off the kernel's byte counts, in which it
    /// counts as a byte.
    #[inline(always)]
    fn session_end(&mut self, s: &Session, now_ns: u64, ended: u8, fin_acked: bool) {
        let totals = emit::Totals {
            received_bytes: self
                .get::<u64>(Field::BytesReceived)
                .saturating_sub(u64::from(s.fin_received)),
            acked_bytes: self
                .get::<u64>(Field::BytesAcked)
                .saturating_sub(u64::from(fin_acked)),
            segments: self.get(Field::DataSegsOut),
            retrans: self.total_retrans(),
            srtt_us: self.srtt_us(),
            min_rtt_us: self.min_rtt_us(),
        };
        emit::session_end(s, now_ns, ended, &totals);
    }
}

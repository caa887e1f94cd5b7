//! A socket as a callback shows it, as the tracker's [`Host`].
//!
//! What a callback cannot know: what is written and not yet sent (sending stands for writing);
//! the congestion state (told from what is lost); why a session ended; the clocks; the client's
//! window; whether the delivery rate was limited by the application (taken to be).

use aya_ebpf::{
    bindings::bpf_sock_ops, helpers::generated::bpf_get_socket_cookie, programs::SockOpsContext,
};
use probe_ebpf::{
    drive::{Host, after, state},
    session::{Gauges, Session, sampled_rtt_us},
};

use crate::kernel::emit;

/// A session's socket, at one callback.
pub struct Socket {
    ops: *mut bpf_sock_ops,
    /// These three without FINs.
    snd_nxt: u32,
    snd_una: u32,
    rcv_nxt: u32,
    state: u8,
    /// The server's FIN is acknowledged.
    fin_acked: bool,
    in_loss: bool,
}

/// A field of the context, 4 or 8 bytes (`u32`, `u64`), loaded as wide as it is declared and from the
/// context's own pointer: the verifier takes neither merged loads nor a pointer that was moved.
macro_rules! field {
    ($ops:expr, $name:ident $([$index:literal])?: $kind:ident) => {{
        let value: u64;
        // SAFETY: the program's context, which the kernel lets its programs read.
        unsafe {
            core::arch::asm!(
                concat!("{value} = *(", stringify!($kind), " *)({ops} + {offset})"),
                value = lateout(reg) value,
                ops = in(reg) $ops,
                offset = const core::mem::offset_of!(aya_ebpf::bindings::bpf_sock_ops, $name)
                    $(+ 4 * $index)?,
                options(nostack, readonly),
            );
        }
        value as $kind
    }};
}
pub(super) use field;

/// The socket's cookie.
#[inline(always)]
pub fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the program's context.
    unsafe { bpf_get_socket_cookie(ctx.ops.cast()) }
}

/// Whether a FIN is queued or sent in this state.
#[inline(always)]
fn closes(state: u8) -> bool {
    matches!(
        state,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::LAST_ACK
    )
}

impl Socket {
    /// As the callback shows it.
    #[inline(always)]
    pub fn new(ctx: &SockOpsContext, s: &Session) -> Self {
        let ops = ctx.ops;
        let state = field!(ops, state: u32) as u8;
        let mut snd_nxt = field!(ops, snd_nxt: u32);
        let mut snd_una = field!(ops, snd_una: u32);
        let mut rcv_nxt = field!(ops, rcv_nxt: u32);
        // A FIN is the last that is sent, and counts as a byte. Whether it is sent already cannot
        // be told: what was sent since the look before is taken to end with it.
        let fin_acked = snd_una == snd_nxt && closes(state);
        if closes(state) && (fin_acked || after(snd_nxt, s.written_seq)) {
            snd_nxt = snd_nxt.wrapping_sub(1);
            if after(snd_una, snd_nxt) {
                snd_una = snd_nxt;
            }
        }
        if s.fin_received != 0 {
            rcv_nxt = rcv_nxt.wrapping_sub(1);
        }
        Self {
            ops,
            snd_nxt,
            snd_una,
            rcv_nxt,
            state,
            fin_acked,
            in_loss: s.in_loss != 0,
        }
    }

    /// The socket is about to go from one state to another: a FIN of the client that makes it do
    /// so is received already.
    #[inline(always)]
    pub fn leaving(&mut self, s: &mut Session, old: u8, new: u8) {
        if s.fin_received != 0 {
            return;
        }
        let by_fin = matches!(new, state::CLOSE_WAIT | state::CLOSING)
            || (old == state::FIN_WAIT2
                && new == state::CLOSE
                && self.rcv_nxt == s.rcv_nxt.wrapping_add(1));
        if by_fin {
            self.rcv_nxt = self.rcv_nxt.wrapping_sub(1);
        }
    }

    /// Acknowledged up to here, a FIN included.
    #[inline(always)]
    pub fn raw_snd_una(&self) -> u32 {
        self.snd_una.wrapping_add(u32::from(self.fin_acked))
    }

    /// Whether nothing is lost and not made good.
    #[inline(always)]
    pub fn is_recovered(&self) -> bool {
        field!(self.ops, lost_out: u32) == 0 && field!(self.ops, retrans_out: u32) == 0
    }
}

impl Host for Socket {
    #[inline(always)]
    fn write_seq(&self) -> u32 {
        self.snd_nxt
    }

    #[inline(always)]
    fn snd_una(&self) -> u32 {
        self.snd_una
    }

    #[inline(always)]
    fn snd_nxt(&self) -> u32 {
        self.snd_nxt
    }

    #[inline(always)]
    fn rcv_nxt(&self) -> u32 {
        self.rcv_nxt
    }

    #[inline(always)]
    fn srtt_us(&self) -> u32 {
        field!(self.ops, srtt_us: u32) >> 3
    }

    #[inline(always)]
    fn total_retrans(&self) -> u32 {
        field!(self.ops, total_retrans: u32)
    }

    #[inline(always)]
    fn ca_state(&self) -> u8 {
        const CA_OPEN: u8 = 0;
        const CA_RECOVERY: u8 = 3;
        const CA_LOSS: u8 = 4;
        if self.in_loss {
            CA_LOSS
        } else if field!(self.ops, lost_out: u32) != 0 || field!(self.ops, sacked_out: u32) != 0 {
            CA_RECOVERY
        } else {
            CA_OPEN
        }
    }

    #[inline(always)]
    fn error(&self) -> i32 {
        0
    }

    #[inline(always)]
    fn tcp_state(&self) -> u8 {
        self.state
    }

    #[inline(always)]
    fn gauges(&self, out: &mut Gauges) {
        out.segments = field!(self.ops, data_segs_out: u32);
        out.srtt_us = self.srtt_us();
        out.min_rtt_us = sampled_rtt_us(field!(self.ops, rtt_min: u32));
        out.cwnd = field!(self.ops, snd_cwnd: u32);
        out.mss = field!(self.ops, mss_cache: u32);
        out.set_delivery_rate(
            field!(self.ops, rate_delivered: u32),
            field!(self.ops, rate_interval_us: u32),
        );
        out.rate_app_limited = true;
    }

    // No sweep runs beside this program.
    #[inline(always)]
    fn add_epoch(&mut self, _s: &mut Session, _n: u64) -> u64 {
        0
    }

    #[inline(always)]
    fn swap_epoch(&mut self, _s: &mut Session, _expected: u64, _new: u64) -> bool {
        false
    }

    #[inline(always)]
    fn mark(&mut self) -> bool {
        false
    }

    #[inline(always)]
    fn unmark(&mut self) {}

    #[inline(always)]
    fn delivery_end(&mut self, s: &Session, write_seq: u32, now_ns: u64) {
        emit::delivery_end(self, s, write_seq, now_ns);
    }

    #[inline(always)]
    fn delivery_settled(&mut self, _s: &mut Session, _now_ns: u64, _expected: u64, _new: u64) {}

    #[inline(always)]
    fn delivery_late(&mut self, s: &Session, now_ns: u64) {
        emit::delivery_late(self, s, now_ns);
    }

    #[inline(always)]
    fn delivery_progress(&mut self, s: &Session, now_ns: u64) {
        emit::delivery_progress(self, s, now_ns);
    }

    /// A FIN counts as a byte in the kernel's own counts.
    #[inline(always)]
    fn session_end(&mut self, s: &Session, now_ns: u64, ended: u8, _fin_acked: bool) {
        let received_bytes = field!(self.ops, bytes_received: u64);
        let acked_bytes = field!(self.ops, bytes_acked: u64);
        let totals = emit::Totals {
            received_bytes: received_bytes.saturating_sub(u64::from(s.fin_received)),
            acked_bytes: acked_bytes.saturating_sub(u64::from(self.fin_acked)),
            segments: field!(self.ops, data_segs_out: u32),
            retrans: self.total_retrans(),
            srtt_us: self.srtt_us(),
            min_rtt_us: sampled_rtt_us(field!(self.ops, rtt_min: u32)),
        };
        emit::session_end(s, now_ns, ended, &totals);
    }
}

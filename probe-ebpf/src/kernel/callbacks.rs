//! Asking for socket callbacks, and telling what some are made for.

use aya_ebpf::programs::SockOpsContext;
use probe_ebpf::{
    drive::{Host, state},
    session::{Session, phase},
};

/// `BPF_SOCK_OPS_RTT_CB`: a sample of the round trip, one in each.
pub const RTT_CB: u32 = 12;
/// `BPF_SOCK_OPS_HDR_OPT_LEN_CB`: a segment is about to be sent, or a send call begins.
pub const HDR_OPT_LEN_CB: u32 = 14;

/// Asks for callbacks on this session, and leaves those of others in place.
#[inline(always)]
pub fn arm(ctx: &SockOpsContext, flags: u32) {
    let armed = ctx.cb_flags();
    if armed & flags != flags {
        let _ = ctx.set_cb_flags((armed | flags) as i32);
    }
}

/// Whether a [`HDR_OPT_LEN_CB`] is made because a send call begins, and not for a segment.
#[inline(always)]
pub fn is_send_call(ctx: &SockOpsContext) -> bool {
    const WRITE_HDR_TCP_CURRENT_MSS: u32 = 1;
    ctx.arg(0) == WRITE_HDR_TCP_CURRENT_MSS
}

/// The same, and nothing of an answer is under way.
#[inline(always)]
pub fn begins_write<H: Host>(ctx: &SockOpsContext, s: &Session, host: &H) -> bool {
    is_send_call(ctx)
        && matches!(host.tcp_state(), state::ESTABLISHED | state::CLOSE_WAIT)
        && (s.phase != phase::ANSWERING || s.is_complete(host.write_seq()))
}

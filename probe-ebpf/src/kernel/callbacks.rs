//! Asking for socket callbacks.

use aya_ebpf::programs::SockOpsContext;

/// Asks for callbacks on this session, and leaves those of others in place.
#[inline(always)]
pub fn arm(ctx: &SockOpsContext, flags: u32) {
    let armed = ctx.cb_flags();
    if armed & flags != flags {
        let _ = ctx.set_cb_flags((armed | flags) as i32);
    }
}

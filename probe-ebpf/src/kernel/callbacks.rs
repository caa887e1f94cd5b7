//! What socket callbacks have in common: asking for them, and the segment that some are given.

use core::ptr::read_volatile;

use aya_ebpf::programs::SockOpsContext;
use probe_ebpf::drive::Segment;

/// Asks for callbacks on this session, and leaves those of others in place.
#[inline(always)]
pub fn arm(ctx: &SockOpsContext, flags: u32) {
    let armed = ctx.cb_flags();
    if armed & flags != flags {
        let _ = ctx.set_cb_flags((armed | flags) as i32);
    }
}

/// The header of the segment that a callback is made for.
#[inline(always)]
pub fn header(ctx: &SockOpsContext) -> Option<Segment> {
    // SAFETY: fields of the context, each loaded as wide as it is declared; the packet is read
    // only after its end has been checked, as the verifier demands.
    unsafe {
        let ops = ctx.ops;
        let data =
            read_volatile((&raw const (*ops).__bindgen_anon_3).cast::<u64>()) as *const [u8; 20];
        let end = read_volatile((&raw const (*ops).__bindgen_anon_4).cast::<u64>()) as *const u8;
        if data.add(1).cast::<u8>() > end {
            return None;
        }
        let len = read_volatile(&raw const (*ops).skb_len);
        Some(Segment::parse(&*data, len))
    }
}

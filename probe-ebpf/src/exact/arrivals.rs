//! What arrives from the client: every segment of a measured session.

use core::ptr::read_volatile;

use aya_ebpf::{
    macros::{btf_tracepoint, sock_ops},
    programs::{BtfTracePointContext, SockOpsContext},
};
use probe_ebpf::drive::{self, Segment, state};

#[cfg(not(feature = "keyed"))]
use super::thin;
use super::{measured, sock::segment_of};
#[cfg(not(feature = "keyed"))]
use crate::kernel::callbacks::{HDR_OPT_LEN_CB, RTT_CB};
use crate::kernel::{callbacks::arm, emit, maps::settings};

/// `BPF_SOCK_OPS_STATE_CB_FLAG`: call back when the session changes its state.
pub const STATE_FLAG: u32 = 1 << 2;
/// `BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG`: call back for every segment that takes the slow path,
/// which is every one outside ESTABLISHED.
pub const PARSE_ALL_FLAG: u32 = 1 << 4;

/// Every segment that arrives on an established session, before it is processed (Linux 4.16).
#[btf_tracepoint(function = "tcp_probe")]
pub fn tcp_probe(ctx: BtfTracePointContext) -> i32 {
    arrived(ctx.arg(0), || Some(segment_of(ctx.arg(1))));
    0
}

/// Once established, `tcp_probe` is the clock; when a session leaves that state it falls silent,
/// and the header callback takes over, on that session alone (Linux 5.10).
#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    const PASSIVE_ESTABLISHED_CB: u32 = 5;
    const STATE_CB: u32 = 10;
    const PARSE_HDR_OPT_CB: u32 = 13;
    match ctx.op() {
        PASSIVE_ESTABLISHED_CB => {
            #[cfg(feature = "keyed")]
            make_cookie(&ctx);
            arm(&ctx, STATE_FLAG);
            #[cfg(not(feature = "keyed"))]
            thin::established(&ctx);
        }
        STATE_CB => {
            if ctx.arg(0) == u32::from(state::ESTABLISHED) && ctx.arg(1) != u32::from(state::CLOSE)
            {
                arm(&ctx, PARSE_ALL_FLAG);
            }
        }
        PARSE_HDR_OPT_CB => arrived(socket_of(&ctx), || header(&ctx)),
        #[cfg(not(feature = "keyed"))]
        RTT_CB | HDR_OPT_LEN_CB => thin::called(&ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn arrived(sk: *const u8, segment: impl FnOnce() -> Option<Segment>) {
    if let Some((s, mut tcp)) = measured(sk)
        && let Some(settings) = settings()
        && let Some(segment) = segment()
    {
        drive::segment(&mut tcp, s, settings, emit::now_ns(), segment);
    }
}

/// Makes the socket's cookie, which tracing programs of these kernels can read and not make.
#[cfg(feature = "keyed")]
#[inline(always)]
fn make_cookie(ctx: &SockOpsContext) {
    // SAFETY: the program's context.
    unsafe { aya_ebpf::helpers::generated::bpf_get_socket_cookie(ctx.ops.cast()) };
}

/// The socket that a callback is made for.
#[inline(always)]
pub fn socket_of(ctx: &SockOpsContext) -> *const u8 {
    // SAFETY: a field of the context, loaded as wide as it is declared.
    let sk = unsafe { read_volatile((&raw const (*ctx.ops).__bindgen_anon_2).cast::<u64>()) };
    sk as *const u8
}

/// The header of the segment that a callback is made for.
#[inline(always)]
fn header(ctx: &SockOpsContext) -> Option<Segment> {
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

//! Parts of what weir's program does at an acknowledgement, each alone on the same hook: what each
//! of the calls that it cannot do without costs by itself.

use aya_ebpf::{
    btf_maps::SkStorage,
    helpers::generated::{bpf_ktime_get_ns, bpf_sk_storage_get, bpf_skc_to_tcp_sock},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

/// A state for each session, about as large as weir's own.
#[btf_map]
static STATES: SkStorage<[u64; 48]> = SkStorage::new();

/// The clock.
#[btf_tracepoint(function = "tcp_probe")]
pub fn probe_clock(_ctx: BtfTracePointContext) -> i32 {
    clock();
    0
}

/// The look-up of a session's state.
#[btf_tracepoint(function = "tcp_probe")]
pub fn probe_storage(ctx: BtfTracePointContext) -> i32 {
    storage(ctx.arg(0));
    0
}

/// The socket as the verifier lets it be read.
#[btf_tracepoint(function = "tcp_probe")]
pub fn probe_socket(ctx: BtfTracePointContext) -> i32 {
    socket(ctx.arg(0));
    0
}

/// All three.
#[btf_tracepoint(function = "tcp_probe")]
pub fn probe_calls(ctx: BtfTracePointContext) -> i32 {
    let sk = ctx.arg(0);
    storage(sk);
    socket(sk);
    clock();
    0
}

#[inline(always)]
fn clock() {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_ns() };
}

#[inline(always)]
fn storage(sk: *const u8) {
    const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE
    // SAFETY: a map of socket storage, and the tracepoint's socket, checked by the verifier.
    unsafe {
        bpf_sk_storage_get(
            (&raw const STATES).cast_mut().cast(),
            sk.cast_mut().cast(),
            core::ptr::null_mut(),
            CREATE,
        )
    };
}

#[inline(always)]
fn socket(sk: *const u8) {
    // SAFETY: the tracepoint's socket, checked by the verifier.
    unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) };
}

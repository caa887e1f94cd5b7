//! What the server writes, and what the kernel sends again.

use core::ptr::read_volatile;

use aya_ebpf::{
    helpers::bpf_probe_read_user_buf,
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};
use probe_ebpf::{
    drive::{self, Host as _},
    field::Field,
    record::flag,
    tls,
};

use super::{
    measured,
    sock::{has, offset, read_kernel_u64},
};
use crate::kernel::emit;

/// The server writes: inside the copy loop, before the bytes are counted (Linux 6.16).
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
pub fn tcp_sendmsg_locked(ctx: BtfTracePointContext) -> i32 {
    sending(ctx.arg(0), || first_bytes(ctx.arg(1)));
    0
}

/// A send call begins (Linux 5.5, as a function's entry); where the tracepoint of the same name is
/// not there. Once per call, so that only the first write of each is timed.
#[fentry(function = "tcp_sendmsg_locked")]
pub fn sendmsg_entry(ctx: FEntryContext) -> i32 {
    sending(ctx.arg(0), || first_bytes(ctx.arg(1)));
    0
}

#[inline(always)]
fn sending(sk: *const u8, first_bytes: impl FnOnce() -> Option<[u8; 3]>) {
    if let Some((s, mut tcp)) = measured(sk) {
        let write_seq = tcp.write_seq();
        let first = drive::wrote(&mut tcp, s, emit::now_ns(), write_seq);
        if first
            && s.wants_sniff()
            && let Some(bytes) = first_bytes()
        {
            s.sniffed(tls::classify(bytes));
        }
    }
}

/// A send call has returned (Linux 6.3): the time of the last write, and, where nothing saw the
/// call begin, a bound of the first.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    let sent: i32 = ctx.arg(1);
    if sent > 0
        && let Some((s, mut tcp)) = measured(ctx.arg(0))
    {
        let start = tcp.write_seq().wrapping_sub(sent as u32);
        if drive::wrote(&mut tcp, s, emit::now_ns(), start) {
            s.delivery_flags |= flag::FIRST_WRITE_BOUNDED;
        }
    }
    0
}

/// The first three bytes of what a `struct msghdr` writes, if they lie in user memory.
#[inline(always)]
fn first_bytes(msg: *const u8) -> Option<[u8; 3]> {
    const ITER_UBUF: u8 = 0;
    const ITER_IOVEC: u8 = 1;
    if !has(Field::IterType) || !has(Field::IterBase) || !has(Field::IterOffset) {
        return None;
    }
    // SAFETY: `msg` is the tracepoint's trusted `struct msghdr`; the verifier checks the loads.
    let (kind, consumed, base) = unsafe {
        (
            read_volatile(msg.add(offset(Field::IterType) as usize)),
            read_volatile(msg.add(offset(Field::IterOffset) as usize).cast::<u64>()),
            read_volatile(msg.add(offset(Field::IterBase) as usize).cast::<u64>()),
        )
    };
    let user = match kind {
        ITER_UBUF => base + consumed,
        ITER_IOVEC => read_kernel_u64(base + u64::from(offset(Field::IovecBase))) + consumed,
        _ => return None,
    };
    let mut bytes = [0u8; 3];
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user_buf(user as *const u8, &mut bytes) }.ok()?;
    Some(bytes)
}

/// A segment was sent again (Linux 4.16).
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    if let Some((s, tcp)) = measured(ctx.arg(0)) {
        drive::retransmitted(&tcp, s);
    }
    0
}

//! A session's life: handshake, states, resets.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;
use probe_ebpf::{
    drive::{self, state},
    field::Field,
    record::{Endpoints, ended},
    settings::{Counter, HalfOpen},
};

#[cfg(not(feature = "keyed"))]
use super::thin;
use super::{
    birth, cgroup, measured,
    sock::{Sock, has, offset, read_kernel_u64},
    storage,
};
use crate::kernel::{
    emit,
    maps::{self, count, settings},
};

/// A session changes its state (Linux 4.16); the socket still shows the old one.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let (old, new) = (old as u8, new as u8);
    if old == state::SYN_RECV && new == state::ESTABLISHED {
        if let Some(sk) = Sock::new(ctx.arg(0))
            && let Some(tcp) = sk.tcp()
        {
            birth::established(sk, tcp, emit::now_ns());
        }
        return 0;
    }
    if let Some((s, mut tcp)) = measured(ctx.arg(0)) {
        let now_ns = emit::now_ns();
        #[cfg(not(feature = "keyed"))]
        thin::changing_state(&mut tcp, s, now_ns, old, new);
        drive::state_changed(&mut tcp, s, now_ns, new);
        debug!(&ctx, "session {}: state {} to {}", s.cookie, old, new);
    }
    if new == state::CLOSE
        && let Some(sk) = Sock::new(ctx.arg(0))
    {
        storage::forget(sk);
    }
    0
}

/// The client has reset the session (Linux 4.16).
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    reset(ctx.arg(0), ended::CLIENT_RST)
}

/// The server resets the session (Linux 4.16). The socket may be missing.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    reset(ctx.arg(0), ended::SERVER_RST)
}

#[inline(always)]
fn reset(sk: *const u8, by: u8) -> i32 {
    if let Some((s, _)) = measured(sk) {
        s.reset(by);
    }
    0
}

/// A SYN-ACK was sent again (Linux 4.16): the session is half open and slow to become whole.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    // A request_sock begins with a sock_common, as a sock does; the session that may come of it
    // will have the listener's cgroup.
    if let Some(listener) = Sock::new(ctx.arg(0))
        && let Some(req) = Sock::new(ctx.arg(1))
        && let Some(settings) = settings()
    {
        let mut endpoints = Endpoints::default();
        if req.endpoints(&mut endpoints).is_some() && cgroup::admits(settings, listener, &endpoints)
        {
            repeated(req, &endpoints, emit::now_ns());
        }
    }
    0
}

#[inline(always)]
fn repeated(req: Sock, endpoints: &Endpoints, now_ns: u64) {
    let key = birth::half_open_key(endpoints);
    if let Some(known) = maps::HALF_OPEN.get_ptr_mut(&key) {
        // SAFETY: a value of the map; the request socket's timer is its only writer.
        unsafe {
            (*known).t_last_ns = now_ns;
            (*known).retransmits += 1;
        }
        return;
    }
    let first_us = if has(Field::SntSynack) {
        read_kernel_u64(req.as_ptr() as u64 + u64::from(offset(Field::SntSynack)))
    } else {
        0
    };
    let half_open = HalfOpen {
        t_first_ns: if first_us == 0 {
            now_ns
        } else {
            first_us * 1000
        },
        t_last_ns: now_ns,
        retransmits: 1,
        reserved: 0,
    };
    if maps::HALF_OPEN.insert(&key, &half_open, 0).is_err() {
        count(Counter::HalfOpenRefused);
    }
}

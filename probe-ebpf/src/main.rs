//! The programs that run in the kernel. Each reads its arguments, asks the tracker, and writes
//! what the tracker decides; what they share is in `programs`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod programs;

use core::{
    ffi::c_void,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{
    helpers::{
        bpf_probe_read_user_buf,
        generated::{bpf_getsockopt, bpf_jiffies64, bpf_setsockopt},
    },
    macros::{btf_tracepoint, sock_ops},
    programs::{BtfTracePointContext, SockOpsContext},
};
use aya_log_ebpf::debug;
use probe_ebpf::{
    field::Field,
    record::ended,
    settings::{Counter, HalfOpen, HalfOpenKey, ListenerKey},
    tls,
    tracker::{EPOCH_STEP, Gauges, Session, after, phase},
};
use programs::{
    atomic, birth, emit, filter,
    maps::{self, count, session, settings},
    sock::{Segment, Sock, TcpSock, has, offset},
};

/// enum tcp_state, include/net/tcp_states.h.
mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
}

/// Runs a change of a session's state so that the sweep keeps off it (see `Session::epoch`).
#[inline(always)]
fn change(s: &mut Session, act: impl FnOnce(&mut Session)) {
    // SAFETY: an aligned u64 of the session, accessed only atomically while programs run.
    let before = unsafe { atomic::fetch_add(&raw mut s.epoch, EPOCH_STEP) };
    s.changing(before);
    act(s);
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut s.epoch, EPOCH_STEP) };
}

/// A segment of the client has arrived and is about to be processed.
#[inline(always)]
fn segment(s: &mut Session, tcp: TcpSock, segment: Segment) {
    let now = emit::now_ns();
    let write_seq = tcp.write_seq();
    if segment.has_ack
        && after(segment.ack, tcp.get(Field::SndUna))
        && !after(segment.ack, tcp.get(Field::SndNxt))
    {
        s.acked(now, segment.ack, write_seq, tcp.srtt_us());
    }
    if segment.payload != 0 {
        let expected = tcp.rcv_nxt();
        let end = segment.seq.wrapping_add(segment.payload);
        // Old bytes (a retransmission, a probe) ask nothing; bytes after a hole ask when it is
        // filled.
        if !after(segment.seq, expected) && after(end, expected) {
            let bytes = u64::from(end.wrapping_sub(expected));
            change(s, |s| {
                if s.yields_to_request(write_seq) {
                    emit::delivery_end(s, tcp, now);
                }
                let mut gauges = Gauges::default();
                tcp.gauges(&mut gauges);
                s.requested(now, bytes, write_seq, &gauges);
                s.rcv_nxt = end;
            });
        }
    }
    late_check(s, tcp, now, write_seq);
}

#[inline(always)]
fn late_check(s: &mut Session, tcp: TcpSock, now: u64, write_seq: u32) {
    if let Some(settings) = settings()
        && s.is_late(now, write_seq, settings.deadline_ns)
    {
        emit::delivery_late(s, tcp, now);
    }
}

/// Every segment that arrives on an established session, before it is processed (Linux 4.16).
#[btf_tracepoint(function = "tcp_probe")]
pub fn tcp_probe(ctx: BtfTracePointContext) -> i32 {
    if let Some(sk) = Sock::new(ctx.arg(0))
        && let Some(s) = session(sk)
        && s.phase != phase::IGNORED
        && let Some(tcp) = sk.tcp()
        && let Some(read) = Segment::of_skb(ctx.arg(1))
    {
        segment(s, tcp, read);
    }
    0
}

/// The server writes: inside the copy loop, before the bytes are counted (Linux 6.16).
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
pub fn tcp_sendmsg_locked(ctx: BtfTracePointContext) -> i32 {
    if let Some(sk) = Sock::new(ctx.arg(0))
        && let Some(s) = session(sk)
        && s.phase != phase::IGNORED
        && let Some(tcp) = sk.tcp()
    {
        let first = wrote(s, tcp, tcp.write_seq());
        if first
            && s.wants_sniff()
            && let Some(bytes) = first_bytes(ctx.arg(1))
        {
            s.sniffed(tls::classify(bytes));
        }
    }
    0
}

/// A send call has returned (Linux 6.3); stands in for `tcp_sendmsg_locked` on kernels without.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    let sent: i32 = ctx.arg(1);
    if sent > 0
        && let Some(sk) = Sock::new(ctx.arg(0))
        && let Some(s) = session(sk)
        && s.phase != phase::IGNORED
        && let Some(tcp) = sk.tcp()
    {
        let start = tcp.write_seq().wrapping_sub(sent as u32);
        if wrote(s, tcp, start) {
            s.delivery_flags |= probe_ebpf::record::flag::FIRST_WRITE_BOUNDED;
        }
    }
    0
}

/// Takes note of a write that began at `write_seq`; returns whether it is the first in answer.
#[inline(always)]
fn wrote(s: &mut Session, tcp: TcpSock, write_seq: u32) -> bool {
    let now = emit::now_ns();
    if s.phase == phase::ANSWERING && !s.is_complete(write_seq) {
        s.t_last_write_ns = now;
        return false;
    }
    let mut first = false;
    change(s, |s| {
        first = s.phase != phase::ANSWERING;
        let mut gauges = Gauges::default();
        if s.phase == phase::IDLE {
            tcp.gauges(&mut gauges);
        }
        s.wrote(now, write_seq, tcp.rcv_nxt(), &gauges);
    });
    first
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
        ITER_IOVEC => {
            programs::sock::read_kernel_u64(base + u64::from(offset(Field::IovecBase))) + consumed
        }
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
    if let Some(sk) = Sock::new(ctx.arg(0))
        && let Some(s) = session(sk)
        && let Some(tcp) = sk.tcp()
    {
        s.retransmitted(
            tcp.get(Field::TotalRetrans),
            tcp.ca_state(),
            tcp.write_seq(),
        );
    }
    0
}

/// A session changes its state (Linux 4.16); the socket still shows the old one.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let (old, new) = (old as u8, new as u8);
    let Some(sk) = Sock::new(ctx.arg(0)) else {
        return 0;
    };
    if old == state::SYN_RECV && new == state::ESTABLISHED {
        if let Some(tcp) = sk.tcp() {
            birth::established(sk, tcp, emit::now_ns());
        }
        return 0;
    }
    if let Some(s) = session(sk)
        && s.phase != phase::IGNORED
        && let Some(tcp) = sk.tcp()
    {
        let now = emit::now_ns();
        change(s, |s| match new {
            state::FIN_WAIT1 | state::LAST_ACK => s.fin_queued(tcp.write_seq()),
            state::CLOSE_WAIT | state::CLOSING => s.fin_received(),
            state::FIN_WAIT2 => {
                s.catch_up(now, tcp.get(Field::SndUna), tcp.write_seq(), tcp.srtt_us())
            }
            state::CLOSE => closed(&ctx, sk, tcp, s, now),
            _ => {}
        });
    }
    0
}

/// The session is over: reports its last delivery and itself.
#[inline(always)]
fn closed(ctx: &BtfTracePointContext, sk: Sock, tcp: TcpSock, s: &mut Session, now: u64) {
    const ETIMEDOUT: i32 = 110;
    let una: u32 = tcp.get(Field::SndUna);
    s.catch_up(now, una, tcp.write_seq(), tcp.srtt_us());
    if sk.error() == ETIMEDOUT {
        s.ended = ended::TIMEOUT;
    } else if s.ended == ended::OPEN {
        s.ended = ended::OTHER;
    }
    if s.is_open() {
        emit::delivery_end(s, tcp, now);
    }
    let fin_acked = u8::from(s.fin_queued != 0 && una == tcp.write_seq() && una != s.data_end_seq);
    emit::session_end(s, tcp, now, s.ended, fin_acked);
    debug!(ctx, "session {} ended: {}", s.cookie, s.ended);
    s.phase = phase::IGNORED;
}

/// The client has reset the session (Linux 4.15).
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    reset(ctx.arg(0), ended::CLIENT_RST)
}

/// The server resets the session (Linux 4.15). The socket may be missing.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    reset(ctx.arg(0), ended::SERVER_RST)
}

#[inline(always)]
fn reset(sk: *const u8, by: u8) -> i32 {
    if let Some(sk) = Sock::new(sk)
        && let Some(s) = session(sk)
    {
        s.reset(by);
    }
    0
}

/// A SYN-ACK was sent again (Linux 4.16): the session is half open and slow to become whole.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    // A request_sock begins with a sock_common, as a sock does.
    let Some(req) = Sock::new(ctx.arg(1)) else {
        return 0;
    };
    let Some(settings) = settings() else {
        return 0;
    };
    if settings.by_port != 0 && !filter::admits_port(req.local_port()) {
        return 0;
    }
    let mut endpoints = probe_ebpf::record::Endpoints::default();
    if req.endpoints(&mut endpoints).is_none() {
        return 0;
    }
    let key = HalfOpenKey {
        remote_addr: endpoints.remote_addr,
        remote_port: endpoints.remote_port,
        local_port: endpoints.local_port,
        netns: endpoints.netns,
    };
    let now = emit::now_ns();
    if let Some(known) = maps::HALF_OPEN.get_ptr_mut(&key) {
        // SAFETY: a value of the map; the request socket's timer is its only writer.
        unsafe {
            (*known).t_last_ns = now;
            (*known).retransmits += 1;
        }
        return 0;
    }
    let first_us = if has(Field::SntSynack) {
        programs::sock::read_kernel_u64(req.as_ptr() as u64 + u64::from(offset(Field::SntSynack)))
    } else {
        0
    };
    let half_open = HalfOpen {
        t_first_ns: if first_us == 0 { now } else { first_us * 1000 },
        t_last_ns: now,
        retransmits: 1,
        reserved: 0,
    };
    if maps::HALF_OPEN.insert(&key, &half_open, 0).is_err() {
        count(Counter::HalfOpenRefused);
    }
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
        PASSIVE_ESTABLISHED_CB => arm(&ctx, STATE_FLAG),
        STATE_CB => {
            if ctx.arg(0) == u32::from(state::ESTABLISHED) && ctx.arg(1) != u32::from(state::CLOSE)
            {
                arm(&ctx, PARSE_ALL_FLAG);
            }
        }
        PARSE_HDR_OPT_CB => closing_segment(&ctx),
        _ => {}
    }
    1
}

/// BPF_SOCK_OPS_STATE_CB_FLAG.
const STATE_FLAG: u32 = 1 << 2;
/// BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG.
const PARSE_ALL_FLAG: u32 = 1 << 4;

/// Asks for a callback on this session, and leaves those of others in place.
#[inline(always)]
fn arm(ctx: &SockOpsContext, flag: u32) {
    let armed = ctx.cb_flags();
    if armed & flag == 0 {
        let _ = ctx.set_cb_flags((armed | flag) as i32);
    }
}

#[inline(always)]
fn closing_segment(ctx: &SockOpsContext) {
    // SAFETY: fields of the context, each loaded as wide as it is declared; the packet is read
    // only after its end has been checked, as the verifier demands.
    let (sk, read) = unsafe {
        let ops = ctx.ops;
        let sk = read_volatile((&raw const (*ops).__bindgen_anon_2).cast::<u64>());
        let data =
            read_volatile((&raw const (*ops).__bindgen_anon_3).cast::<u64>()) as *const [u8; 20];
        let end = read_volatile((&raw const (*ops).__bindgen_anon_4).cast::<u64>()) as *const u8;
        if data.add(1).cast::<u8>() > end {
            return;
        }
        let len = read_volatile(&raw const (*ops).skb_len);
        (sk as *const u8, Segment::parse(&*data, len))
    };
    if let Some(sk) = Sock::new(sk)
        && let Some(s) = session(sk)
        && s.phase != phase::IGNORED
        && let Some(tcp) = sk.tcp()
    {
        segment(s, tcp, read);
    }
}

/// Looks at one session (bpf_iter over socket storage, Linux 5.9): settles it if it is quiet,
/// reports it if it is late or under way. Runs beside the other programs, without the lock.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn sweep(ctx: *mut c_void) -> i32 {
    // SAFETY: `struct bpf_iter__bpf_sk_storage_map`: meta, map, sk, value; 8 bytes each.
    let (sk, value) = unsafe {
        let fields = ctx.cast::<u64>();
        (
            read_volatile(fields.add(2)) as *const u8,
            read_volatile(fields.add(3)) as *mut Session,
        )
    };
    let now = emit::now_ns();
    // SAFETY: the map's values are `Session`; the kernel passes the whole one.
    let s = unsafe { value.as_mut() };
    let (Some(sk), Some(s), Some(settings)) = (Sock::new(sk), s, settings()) else {
        if let Some(clock) = maps::CLOCK.get_ptr_mut(0) {
            // SAFETY: the map's one element; the sweep is its only writer.
            unsafe {
                (*clock).ktime_ns = now;
                (*clock).jiffies = bpf_jiffies64();
            }
        }
        return 0;
    };
    if s.phase == phase::IGNORED {
        return 0;
    }
    let Some(tcp) = sk.tcp() else {
        return 0;
    };
    if s.filter_generation != settings.filter_generation {
        if !filter::admits(settings, sk, &s.endpoints) {
            s.phase = phase::IGNORED;
            emit::session_end(s, tcp, now, ended::UNTRACKED, 0);
            return 0;
        }
        s.filter_generation = settings.filter_generation;
    }
    let write_seq = tcp.write_seq();
    let epoch = &raw mut s.epoch;
    // SAFETY: as in `change`.
    let before = unsafe { read_volatile(epoch) };
    if Session::is_changing(before) || before as u32 == s.index + 1 {
        return 0;
    }
    if s.is_settled(now, write_seq, settings.quiet_gap_ns) {
        let after = s.settled_epoch(before);
        emit::delivery_settled(s, tcp, now, || {
            // SAFETY: as in `change`.
            unsafe { atomic::compare_exchange(epoch, before, after) == before }
        });
    } else if s.is_late(now, write_seq, settings.deadline_ns) {
        emit::delivery_late(s, tcp, now);
    } else if s.is_progress_due(now, write_seq, settings.progress_ns) {
        emit::delivery_progress(s, tcp, now);
    }
    0
}

/// Meets one TCP socket of a network namespace (bpf_iter, Linux 5.9), locked. Listeners come
/// first and tell which of the others were accepted here.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn adopt(ctx: *mut c_void) -> i32 {
    // SAFETY: `struct bpf_iter__tcp`: meta, sk_common, uid.
    let sk = unsafe { read_volatile(ctx.cast::<u64>().add(1)) as *const u8 };
    let Some(sk) = Sock::new(sk) else {
        return 0;
    };
    let key = ListenerKey {
        netns: sk.netns(),
        port: u32::from(sk.local_port()),
    };
    let state = sk.state();
    if state == state::LISTEN {
        let _ = maps::LISTENERS.insert(&key, &1, 0);
        return 0;
    }
    let open = matches!(
        state,
        state::ESTABLISHED
            | state::CLOSE_WAIT
            | state::FIN_WAIT1
            | state::FIN_WAIT2
            | state::LAST_ACK
    );
    // SAFETY: the map holds plain bytes; only whether there is one matters.
    if !open || unsafe { maps::LISTENERS.get(&key) }.is_none() {
        return 0;
    }
    if session(sk).is_some_and(|s| s.phase != phase::IGNORED) {
        return 0;
    }
    // The iterator gives a sock_common; a tcp_sock begins with a whole sock.
    if let Some(tcp) = sk.tcp()
        && let Some(sk) = Sock::new(tcp.as_ptr())
        && birth::adopted(sk, tcp, emit::now_ns())
    {
        let wanted = if state == state::ESTABLISHED {
            STATE_FLAG
        } else {
            STATE_FLAG | PARSE_ALL_FLAG
        };
        arm_adopted(tcp, wanted);
    }
    0
}

/// Does for an adopted session what `arm` does for a new one (Linux 6.12; refused before, and
/// then the end of its last delivery is a bound).
#[inline(always)]
fn arm_adopted(tcp: TcpSock, wanted: u32) {
    const SOL_TCP: i32 = 6;
    const TCP_BPF_SOCK_OPS_CB_FLAGS: i32 = 1008;
    let sk = tcp.as_ptr().cast_mut().cast::<c_void>();
    let mut flags = [0u32; 1];
    let value = flags.as_mut_ptr();
    // SAFETY: the socket is locked by the iterator and the value is a u32 on the stack.
    unsafe {
        bpf_getsockopt(sk, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value.cast(), 4);
        write_volatile(value, read_volatile(value) | wanted);
        bpf_setsockopt(sk, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value.cast(), 4);
    }
}

/// The licence the kernel asks for: GPL-only helpers are called. The source is Apache-2.0; these
/// words cover the object as it is loaded.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

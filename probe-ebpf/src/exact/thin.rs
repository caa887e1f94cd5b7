//! A share of the sessions, when following all would cost more than the budget: the programs that
//! run for every segment and write are off then. Those that are followed ask for socket callbacks
//! instead, and a program runs whenever bytes of a client arrive, which is once for each request and
//! not for each acknowledgement. The others ask for no callbacks; that program leaves them at once.

use aya_ebpf::{
    helpers::generated::bpf_get_socket_cookie,
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext, SockOpsContext},
};
use probe_ebpf::{
    drive::{self, Look, state},
    session::{Session, phase},
    settings::Settings,
};

use super::{
    arrivals::{PARSE_ALL_FLAG, socket_of},
    measured,
    sock::{Sock, TcpSock},
    storage,
};
use crate::kernel::{
    callbacks::{HDR_OPT_LEN_CB, RTT_CB, arm, begins_write, is_send_call},
    emit,
    maps::settings,
};

/// What a session that is followed asks for: `BPF_SOCK_OPS_RTT_CB_FLAG`,
/// `BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG`, and headers received (on the slow path) where nothing else
/// tells of requests.
#[inline(always)]
pub fn follow_flags(settings: &Settings) -> u32 {
    const RTT_FLAG: u32 = 1 << 3;
    const WRITE_HDR_OPT_FLAG: u32 = 1 << 6;
    if settings.sees_arrivals != 0 {
        RTT_FLAG | WRITE_HDR_OPT_FLAG
    } else {
        RTT_FLAG | WRITE_HDR_OPT_FLAG | PARSE_ALL_FLAG
    }
}

/// An answer under way is looked at no more often, however short the round trip is.
const BETWEEN_LOOKS_NS: u64 = 10_000_000;

/// Whether a session is one of the share that is followed by callbacks.
#[inline(always)]
pub fn follows(settings: &Settings, cookie: u64) -> bool {
    settings.is_thinned() && settings.follows(cookie)
}

/// A session is about to be established.
#[inline(always)]
pub fn established(ctx: &SockOpsContext) {
    // SAFETY: the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    if let Some(settings) = settings()
        && follows(settings, cookie)
        && let Some(sk) = Sock::new(socket_of(ctx))
        && let Some(s) = storage::session_or_new(sk)
    {
        // Nobody's, until it is established and the filter lets it through.
        s.phase = phase::IGNORED;
        let flags = follow_flags(settings);
        s.callbacks = flags & !ctx.cb_flags();
        s.is_called = 1;
        arm(ctx, flags);
    }
}

/// Bytes have arrived that a process can read (Linux 6.3): in order, and taken up by the kernel.
#[btf_tracepoint(function = "sk_data_ready")]
pub fn sk_data_ready(ctx: BtfTracePointContext) -> i32 {
    readable(ctx.arg(0));
    0
}

/// The same (Linux 5.5, as a function's entry), where the tracepoint is not there.
#[fentry(function = "sock_def_readable")]
pub fn readable_entry(ctx: FEntryContext) -> i32 {
    readable(ctx.arg(0));
    0
}

/// A request, if the session is followed. Most sockets of most kinds end at the first line.
#[inline(always)]
fn readable(sk: *const u8) {
    if let Some(sk) = Sock::new(sk)
        && let Some(s) = storage::session(sk)
        && s.phase != phase::IGNORED
        && s.is_called != 0
        && let Some(settings) = settings()
        && follows(settings, s.cookie)
        && let Some(mut tcp) = sk.tcp()
    {
        let look = Look {
            sees_request: true,
            ..look(&tcp, emit::now_ns(), false)
        };
        drive::looked(&mut tcp, s, settings, &look);
    }
}

/// A callback that only sessions that are followed ask for.
#[inline(always)]
pub fn called(ctx: &SockOpsContext) {
    let Some(settings) = settings() else {
        return;
    };
    let op = ctx.op();
    let sees_arrivals = settings.is_thinned() && settings.sees_arrivals != 0;
    if sees_arrivals && op == HDR_OPT_LEN_CB && !is_send_call(ctx) {
        // One for each segment: what it would tell is told by others, later.
        return;
    }
    let Some((s, mut tcp)) = measured(socket_of(ctx)) else {
        return;
    };
    if !follows(settings, s.cookie) || s.is_called == 0 {
        // Not any more, or another's callback.
        if s.callbacks != 0 {
            let _ = ctx.set_cb_flags((ctx.cb_flags() & !s.callbacks) as i32);
            s.callbacks = 0;
        }
        s.is_called = 0;
        return;
    }
    let now_ns = emit::now_ns();
    let begins_write = op == HDR_OPT_LEN_CB && begins_write(ctx, s, &tcp);
    let mut look = look(&tcp, now_ns, op == RTT_CB);
    if sees_arrivals && !begins_write {
        let is_told = s.phase == phase::ANSWERING
            && s.t_first_acked_ns != 0
            && now_ns < s.t_last_acked_ns.wrapping_add(BETWEEN_LOOKS_NS);
        if is_told || op != RTT_CB {
            return;
        }
        // What has arrived is about to be told.
        look.received_seq = Some(s.rcv_nxt);
    }
    drive::looked(&mut tcp, s, settings, &look);
    if begins_write {
        let write_seq = drive::Host::write_seq(&tcp);
        drive::wrote(&mut tcp, s, now_ns, write_seq);
    }
}

/// The session changes its state; to be called before that is taken notice of. What a FIN of the
/// client adds to the socket's numbers is not looked at.
#[inline(always)]
pub fn changing_state(tcp: &mut TcpSock, s: &mut Session, now_ns: u64, old: u8, new: u8) {
    const FIN_BYTES: u32 = 1;
    let closes = matches!(new, state::FIN_WAIT1 | state::LAST_ACK)
        || (new == state::CLOSE && matches!(old, state::ESTABLISHED | state::CLOSE_WAIT));
    // A request may come in the same segment as the FIN, which is counted already.
    let ends_request = old == state::ESTABLISHED && new == state::CLOSE_WAIT;
    if (closes || ends_request)
        && let Some(settings) = settings()
        && follows(settings, s.cookie)
        && s.is_called != 0
    {
        let mut look = look(tcp, now_ns, false);
        if ends_request {
            look.received_seq = Some(drive::Host::rcv_nxt(tcp).wrapping_sub(FIN_BYTES));
            look.sees_request = true;
        }
        drive::looked(tcp, s, settings, &look);
    }
}

/// What is known when one looks at a socket: the kernel tells when it was last acknowledged, and the
/// round trip is sampled by an answer's first acknowledgement.
#[inline(always)]
fn look(tcp: &TcpSock, now_ns: u64, samples_rtt: bool) -> Look {
    let delivered_ns = drive::Host::delivered_ns(tcp);
    let is_told = delivered_ns != 0 && !samples_rtt;
    Look {
        t_acked_ns: if is_told { delivered_ns } else { now_ns },
        sees_ack: samples_rtt || is_told,
        sees_first_ack: samples_rtt,
        sees_writes: true,
        sees_last_write: false,
        ..Look::at(now_ns)
    }
}

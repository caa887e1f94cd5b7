//! A share of the sessions, when following all would cost more than the budget: the programs that
//! run for every segment and write are off then. Those that are followed ask for socket callbacks
//! instead; the others ask for none, and cost nothing until they end.

use aya_ebpf::{helpers::generated::bpf_get_socket_cookie, programs::SockOpsContext};
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
    callbacks::{HDR_OPT_LEN_CB, RTT_CB, arm, begins_write},
    emit,
    maps::settings,
};

/// What a session that is followed asks for: `BPF_SOCK_OPS_RTT_CB_FLAG`, headers received (on the
/// slow path), `BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG`.
pub const FOLLOW_FLAGS: u32 = 1 << 3 | PARSE_ALL_FLAG | 1 << 6;

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
        s.callbacks = FOLLOW_FLAGS & !ctx.cb_flags();
        s.is_called = 1;
        arm(ctx, FOLLOW_FLAGS);
    }
}

/// A callback that only sessions that are followed ask for.
#[inline(always)]
pub fn called(ctx: &SockOpsContext) {
    let Some((s, mut tcp)) = measured(socket_of(ctx)) else {
        return;
    };
    let Some(settings) = settings() else {
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
    let op = ctx.op();
    look(&mut tcp, s, settings, now_ns, op == RTT_CB);
    if op == HDR_OPT_LEN_CB && begins_write(ctx, s, &tcp) {
        let write_seq = drive::Host::write_seq(&tcp);
        drive::wrote(&mut tcp, s, now_ns, write_seq);
    }
}

/// The session changes its state; to be called before that is taken notice of. What a FIN of the
/// client adds to the socket's numbers is not looked at.
#[inline(always)]
pub fn changing_state(tcp: &mut TcpSock, s: &mut Session, now_ns: u64, old: u8, new: u8) {
    let closes = matches!(new, state::FIN_WAIT1 | state::LAST_ACK)
        || (new == state::CLOSE && matches!(old, state::ESTABLISHED | state::CLOSE_WAIT));
    if closes
        && let Some(settings) = settings()
        && follows(settings, s.cookie)
        && s.is_called != 0
    {
        look(tcp, s, settings, now_ns, false);
    }
}

#[inline(always)]
fn look(tcp: &mut TcpSock, s: &mut Session, settings: &Settings, now_ns: u64, sees_ack: bool) {
    let look = Look {
        sees_ack,
        sees_writes: true,
        ..Look::at(now_ns)
    };
    drive::looked(tcp, s, settings, &look);
}

//! The portable programs: one for socket callbacks, two for packets. They read what every kernel shows such programs (stable since Linux 5.10, without the kernel's BTF) and nothing else.
//!
//! A session asks for the callbacks that it needs. Each is a look at the socket
//! ([`drive::looked`]); when things happened that it finds done, the packets have told. One tells
//! more: the beginning of a send call.

mod birth;
mod packet;
mod socket;

use aya_ebpf::{
    helpers::generated::bpf_get_socket_cookie,
    macros::{cgroup_skb, sock_ops},
    programs::{SkBuffContext, SockOpsContext},
};
use probe_ebpf::{
    drive::{self, Host, state},
    record::ended,
    session::{Kept, Session, phase},
    tls,
};

use crate::kernel::{
    callbacks::{self, HDR_OPT_LEN_CB},
    emit,
    maps::settings,
    table,
};
use socket::Socket;

/// `BPF_SOCK_OPS_*_CB_FLAG`: retransmission timeouts, segments sent again, changes of state, RTT
/// samples (one in a round trip), headers of segments to be sent (and, among these, the beginning
/// of a send call).
const FLAGS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;

/// Lets a packet pass.
const PASS: i32 = 1;

/// Every callback.
#[sock_ops]
pub fn portable(ctx: SockOpsContext) -> u32 {
    const PASSIVE_ESTABLISHED_CB: u32 = 5;
    const RTO_CB: u32 = 8;
    const RETRANS_CB: u32 = 9;
    const STATE_CB: u32 = 10;
    let now_ns = emit::now_ns();
    let op = ctx.op();
    if op == PASSIVE_ESTABLISHED_CB {
        if birth::established(&ctx, now_ns) {
            callbacks::arm(&ctx, FLAGS);
        }
        return 1;
    }
    let cookie = socket::cookie(&ctx);
    let Some(Kept { session: s, seen }) = table::find(cookie) else {
        return 1;
    };
    if s.phase == phase::IGNORED {
        if op == STATE_CB && ctx.arg(1) == u32::from(state::CLOSE) {
            table::remove(cookie);
        }
        return 1;
    }
    let Some(settings) = settings() else {
        return 1;
    };
    let mut socket = Socket::new(&ctx, s);
    if op == RTO_CB {
        s.in_loss = 1;
        return 1;
    }
    if op == RETRANS_CB {
        drive::retransmitted(&socket, s);
        return 1;
    }
    let (old, new) = (ctx.arg(0) as u8, ctx.arg(1) as u8);
    if op == STATE_CB {
        socket.leaving(s, old, new);
    }
    let look = seen.look(now_ns, socket.raw_snd_una());
    let rcv_nxt = s.rcv_nxt;
    drive::looked(&mut socket, s, settings, &look);
    if s.rcv_nxt != rcv_nxt {
        seen.t_asked_ns = 0;
    }
    if socket.is_recovered() {
        s.in_loss = 0;
    }
    if op == STATE_CB {
        state_changed(&mut socket, s, now_ns, old, new);
        if new == state::CLOSE {
            table::remove(cookie);
        }
    } else if op == HDR_OPT_LEN_CB && callbacks::begins_write(&ctx, s, &socket) {
        let write_seq = socket.write_seq();
        drive::wrote(&mut socket, s, now_ns, write_seq);
    }
    1
}

/// Every segment that arrives, before the kernel takes it up: notes when it came, for the look that
/// will find what it did.
#[cgroup_skb]
pub fn arrivals(ctx: SkBuffContext) -> i32 {
    // SAFETY: the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    if let Some(kept) = table::find(cookie)
        && let Some(segment) = packet::segment(&ctx)
    {
        kept.seen.arrived(&segment, emit::now_ns());
    }
    PASS
}

/// Every packet that is sent: the first of an answer tells TLS, while that is not known. The socket
/// is locked by whoever sends.
#[cgroup_skb]
pub fn departures(ctx: SkBuffContext) -> i32 {
    // SAFETY: the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    if let Some(kept) = table::find(cookie) {
        let s = &mut kept.session;
        // Nothing of the answer is acknowledged: it begins where acknowledgements end.
        if s.wants_sniff()
            && s.phase == phase::ANSWERING
            && s.t_first_acked_ns == 0
            && let Some(bytes) = packet::first_bytes(&ctx, s.acked_seq)
        {
            s.sniffed(tls::classify(bytes));
        }
    }
    PASS
}

/// The session goes from one TCP state to another. Where the data ends before a FIN cannot be
/// told until the FIN is acknowledged: `socket` leaves it out then.
#[inline(always)]
fn state_changed(socket: &mut Socket, s: &mut Session, now_ns: u64, old: u8, new: u8) {
    match new {
        state::FIN_WAIT1 | state::LAST_ACK => {
            if s.ended == ended::OPEN {
                s.ended = ended::SERVER_FIN;
            }
        }
        state::CLOSE_WAIT | state::CLOSING => s.fin_received(),
        state::CLOSE => {
            if matches!(old, state::ESTABLISHED | state::CLOSE_WAIT) || s.ended == ended::OPEN {
                // A reset or a timeout; which, and whose, no callback tells.
                s.ended = ended::OTHER;
            }
            drive::session_ended(socket, s, now_ns);
        }
        _ => {}
    }
}

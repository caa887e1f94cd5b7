//! The portable programs: one socket callback program, which reads what every kernel shows it
//! (stable since Linux 5.10, without the kernel's BTF) and nothing else of the kernel.
//!
//! A session asks for the callbacks that it needs. Each is a look at the socket
//! ([`drive::looked`]), and some tell more: a segment's header, where the kernel takes the slow
//! path; the beginning of a send call.

mod birth;
mod socket;

use aya_ebpf::{macros::sock_ops, programs::SockOpsContext};
use probe_ebpf::{
    drive::{self, Host, Look, state},
    record::ended,
    session::{Session, phase},
};

use crate::kernel::{
    callbacks::{self, header},
    emit,
    maps::settings,
    table,
};
use socket::Socket;

/// `BPF_SOCK_OPS_*_CB_FLAG`: retransmission timeouts, segments sent again, changes of state, RTT
/// samples, headers of segments received, headers of segments to be sent (and, among these, the
/// beginning of a send call).
const FLAGS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6;

/// Every callback.
#[sock_ops]
pub fn portable(ctx: SockOpsContext) -> u32 {
    const PASSIVE_ESTABLISHED_CB: u32 = 5;
    const RTO_CB: u32 = 8;
    const RETRANS_CB: u32 = 9;
    const STATE_CB: u32 = 10;
    const RTT_CB: u32 = 12;
    const PARSE_HDR_OPT_CB: u32 = 13;
    const HDR_OPT_LEN_CB: u32 = 14;
    let now_ns = emit::now_ns();
    let op = ctx.op();
    if op == PASSIVE_ESTABLISHED_CB {
        if birth::established(&ctx, now_ns) {
            callbacks::arm(&ctx, FLAGS);
        }
        return 1;
    }
    let cookie = socket::cookie(&ctx);
    let Some(s) = table::find(cookie) else {
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
    if op == STATE_CB {
        let (old, new) = (ctx.arg(0) as u8, ctx.arg(1) as u8);
        socket.leaving(s, old, new);
        drive::looked(&mut socket, s, settings, &Look::at(now_ns));
        state_changed(&mut socket, s, now_ns, old, new);
        if new == state::CLOSE {
            table::remove(cookie);
        }
        return 1;
    }
    let look = Look {
        sees_ack: op == RTT_CB,
        ..Look::at(now_ns)
    };
    drive::looked(&mut socket, s, settings, &look);
    if socket.is_recovered() {
        s.in_loss = 0;
    }
    if op == PARSE_HDR_OPT_CB {
        if let Some(segment) = header(&ctx) {
            drive::segment(&mut socket, s, settings, now_ns, segment);
        }
    } else if op == HDR_OPT_LEN_CB && begins_write(&ctx, s, &socket) {
        let write_seq = socket.write_seq();
        drive::wrote(&mut socket, s, now_ns, write_seq);
    }
    1
}

/// Whether the callback is made because a send call begins, and nothing of an answer is under way.
#[inline(always)]
fn begins_write(ctx: &SockOpsContext, s: &Session, socket: &Socket) -> bool {
    const WRITE_HDR_TCP_CURRENT_MSS: u32 = 1;
    ctx.arg(0) == WRITE_HDR_TCP_CURRENT_MSS
        && matches!(socket.tcp_state(), state::ESTABLISHED | state::CLOSE_WAIT)
        && (s.phase != phase::ANSWERING || s.is_complete(socket.write_seq()))
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

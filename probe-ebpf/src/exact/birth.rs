//! Giving a session its state: when it is established, or when it is met later.

use probe_ebpf::{
    drive::{self, Host, state},
    record::{Endpoints, flag},
    session::{Gauges, Retrans, Session, phase},
    settings::{Counter, HalfOpenKey, Settings},
    tracker::UNMARKED,
};

use super::{
    cgroup,
    sock::{Sock, TcpSock},
    storage,
};
use crate::kernel::{
    emit, filter,
    maps::{self, count},
};

/// A session has reached ESTABLISHED.
#[inline(always)]
pub fn established(sk: Sock, tcp: TcpSock, now_ns: u64) {
    // A child socket begins with the handshake's count of SYN-ACKs sent again (Linux 4.9), and
    // with the round trip of the last of them, or none.
    let mut handshake_us = tcp.srtt_us();
    if (handshake_us == 0 || tcp.total_retrans() != 0)
        && let Some(t_first_ns) = take_half_open(sk)
    {
        handshake_us = (now_ns.saturating_sub(t_first_ns) / 1000) as u32;
    }
    if let Some(s) = born(sk, tcp, now_ns, 0) {
        emit::session_start(s, now_ns, handshake_us, s.retrans_before);
    }
}

/// Takes a handshake that is under way no more out of the table; says when its first SYN-ACK was
/// sent.
#[inline(always)]
fn take_half_open(sk: Sock) -> Option<u64> {
    let mut endpoints = Endpoints::default();
    sk.endpoints(&mut endpoints)?;
    let key = half_open_key(&endpoints);
    let half_open = maps::HALF_OPEN.get_ptr(&key)?;
    // SAFETY: a value of the map; it is not deleted before the line after.
    let t_first_ns = unsafe { (*half_open).t_first_ns };
    let _ = maps::HALF_OPEN.remove(&key);
    Some(t_first_ns)
}

/// What names a handshake that is under way.
#[inline(always)]
pub fn half_open_key(endpoints: &Endpoints) -> HalfOpenKey {
    HalfOpenKey {
        remote_addr: endpoints.remote_addr,
        remote_port: endpoints.remote_port,
        local_port: endpoints.local_port,
        netns: endpoints.netns,
    }
}

/// A session that was there before is met, in a TCP state. Returns whether it is tracked.
#[inline(always)]
pub fn adopted(sk: Sock, tcp: TcpSock, state: u8, now_ns: u64) -> bool {
    let Some(s) = born(sk, tcp, now_ns, flag::ADOPTED) else {
        return false;
    };
    match state {
        state::CLOSE_WAIT => s.fin_received(),
        // The FIN is the last of what was written.
        state::FIN_WAIT1 | state::FIN_WAIT2 => s.fin_queued(tcp.write_seq().wrapping_sub(1)),
        state::LAST_ACK => {
            s.fin_received();
            s.fin_queued(tcp.write_seq().wrapping_sub(1));
        }
        _ => {}
    }
    let una = tcp.snd_una();
    if una != s.end_seq(tcp.write_seq()) && state != state::FIN_WAIT2 {
        let mut gauges = Gauges::default();
        tcp.read_gauges(&mut gauges);
        s.open_adopted(now_ns, una, &gauges);
        let epoch = s.epoch;
        drive::show(&mut { tcp }, s, epoch);
    }
    emit::session_start(s, now_ns, 0, 0);
    true
}

/// Asks the filter and makes the state. `None` if there is none to be made.
#[inline(always)]
fn born(sk: Sock, tcp: TcpSock, now_ns: u64, flags: u32) -> Option<&'static mut Session> {
    let settings: &Settings = maps::settings()?;
    count(Counter::SessionsSeen);
    // Before anything dearer: most sessions of a busy host may not be meant.
    if settings.by_port != 0 && !filter::admits_port(sk.local_port()) {
        count(Counter::SessionsFiltered);
        return None;
    }
    let mut endpoints = Endpoints::default();
    if sk.endpoints(&mut endpoints).is_none() || !cgroup::admits(settings, sk, &endpoints) {
        count(Counter::SessionsFiltered);
        return None;
    }
    let cookie = sk.cookie();
    let s = if cookie == 0 {
        // It was never made, and nothing else names a session for good.
        None
    } else {
        storage::session_or_new(sk)
    };
    let Some(s) = s else {
        count(Counter::SessionsRefused);
        return None;
    };
    count(Counter::SessionsTracked);
    s.cookie = cookie;
    s.endpoints.copy_from(&endpoints);
    s.t_established_ns = now_ns;
    s.flags = flags;
    if !endpoints.is_v4() {
        s.flags |= flag::IPV6;
    }
    s.rcv_nxt = tcp.rcv_nxt();
    s.acked_seq = tcp.write_seq();
    s.written_seq = s.acked_seq;
    s.in_loss = 0;
    s.tls_phase = 0;
    s.is_tls_13 = 0;
    s.late_mark = 0;
    s.session_retrans = Retrans::default();
    s.retrans_seen = tcp.total_retrans();
    s.retrans_before = s.retrans_seen;
    s.filter_generation = settings.filter_generation;
    s.index = 0;
    s.epoch = UNMARKED;
    s.ended = 0;
    s.fin_queued = 0;
    s.fin_received = 0;
    s.settled = 0;
    s.phase = phase::IDLE;
    #[cfg(not(feature = "keyed"))]
    if settings.is_thinned() && s.is_called == 0 {
        // It may end before anyone looks at it.
        s.leave_out();
        count(Counter::SessionsLeftOut);
    }
    Some(s)
}

//! Giving a session its state when it is established.

use aya_ebpf::programs::SockOpsContext;
use probe_ebpf::{
    record::{Endpoints, flag},
    session::phase,
    settings::Counter,
};

use super::socket::{cookie, field};
use crate::kernel::{
    emit, filter,
    maps::{count, settings},
    table,
};

/// A session was accepted; says whether it is measured.
#[inline(always)]
pub fn established(ctx: &SockOpsContext, now_ns: u64) -> bool {
    let Some(settings) = settings() else {
        return false;
    };
    count(Counter::SessionsSeen);
    let mut endpoints = Endpoints::default();
    if read_endpoints(ctx, &mut endpoints).is_none() || !filter::admits(settings, &endpoints) {
        count(Counter::SessionsFiltered);
        return false;
    }
    let cookie = cookie(ctx);
    let Some(kept) = table::make(cookie) else {
        count(Counter::SessionsRefused);
        return false;
    };
    count(Counter::SessionsTracked);
    let ops = ctx.ops;
    let s = &mut kept.session;
    s.cookie = cookie;
    s.endpoints.copy_from(&endpoints);
    s.t_established_ns = now_ns;
    if !endpoints.is_v4() {
        s.flags = flag::IPV6;
    }
    s.rcv_nxt = field!(ops, rcv_nxt: u32);
    s.written_seq = field!(ops, snd_nxt: u32);
    s.acked_seq = s.written_seq;
    // Of the SYN-ACK.
    s.retrans_seen = field!(ops, total_retrans: u32);
    s.retrans_before = s.retrans_seen;
    kept.seen.ack_seq = s.acked_seq;
    kept.seen.end_seq = s.rcv_nxt;
    s.filter_generation = settings.filter_generation;
    s.phase = phase::IDLE;
    let handshake_us = if s.retrans_seen == 0 {
        field!(ops, srtt_us: u32) >> 3
    } else {
        // The round trip of the last SYN-ACK is not the handshake's time.
        0
    };
    emit::session_start(s, now_ns, handshake_us, s.retrans_seen);
    true
}

/// Both ends; `None` if it is neither IPv4 nor IPv6. The network namespace is not shown.
#[inline(always)]
fn read_endpoints(ctx: &SockOpsContext, out: &mut Endpoints) -> Option<()> {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    let ops = ctx.ops;
    let family = field!(ops, family: u32);
    if family == AF_INET {
        out.local_addr = Endpoints::v4_mapped(field!(ops, local_ip4: u32));
        out.remote_addr = Endpoints::v4_mapped(field!(ops, remote_ip4: u32));
    } else if family == AF_INET6 {
        let local = [
            field!(ops, local_ip6[0]: u32),
            field!(ops, local_ip6[1]: u32),
            field!(ops, local_ip6[2]: u32),
            field!(ops, local_ip6[3]: u32),
        ];
        let remote = [
            field!(ops, remote_ip6[0]: u32),
            field!(ops, remote_ip6[1]: u32),
            field!(ops, remote_ip6[2]: u32),
            field!(ops, remote_ip6[3]: u32),
        ];
        out.local_addr = Endpoints::address(local);
        out.remote_addr = Endpoints::address(remote);
    } else {
        return None;
    }
    out.local_port = field!(ops, local_port: u32) as u16;
    out.remote_port = u32::from_be(field!(ops, remote_port: u32)) as u16;
    Some(())
}

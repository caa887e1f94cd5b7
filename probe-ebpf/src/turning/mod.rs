//! The programs of the gate: one sends a share of the new connections to another local listener, one
//! caps new sessions. Both look up the rule for the server's port and the client's address, and both
//! leave everything alone once the position's time is over, whatever has become of the daemon.

mod context;
mod rules;

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{bpf_sk_lookup, bpf_sock_ops},
    helpers::generated::{
        bpf_get_netns_cookie, bpf_map_lookup_elem, bpf_setsockopt, bpf_sk_assign, bpf_sk_release,
    },
    macros::{map, sk_lookup, sock_ops},
    maps::SockMap,
    programs::{SkLookupContext, SockOpsContext},
};
use probe_ebpf::{
    gate::{self, CONGESTION_CONTROL_BYTES, Rule},
    record::Endpoints,
};

use context::{AF_INET, AF_INET6, field};
use rules::{Found, count};

/// The other listeners: for clients of IPv4, and of IPv6.
#[map]
static OTHER: SockMap = SockMap::with_max_entries(2, 0);

/// The network namespace that the gate stands in, as `SO_NETNS_COOKIE` names it; 0: the kernel does
/// not tell (before Linux 5.15), and sessions of all are capped. Set before loading.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;

/// Chooses the listener of a new connection. Never refuses one, and never takes back what another
/// program has chosen.
#[sk_lookup]
pub fn gate_lookup(ctx: SkLookupContext) -> u32 {
    const SK_PASS: u32 = 1;
    let _ = turn(ctx.lookup);
    SK_PASS
}

#[inline(always)]
fn turn(ctx: *mut bpf_sk_lookup) -> Option<()> {
    const IPPROTO_TCP: u32 = 6;
    if field!(ctx, bpf_sk_lookup, protocol) != IPPROTO_TCP {
        return None;
    }
    let control = rules::control()?;
    let family = field!(ctx, bpf_sk_lookup, family);
    let (other, client) = if family == AF_INET {
        let v4 = field!(ctx, bpf_sk_lookup, remote_ip4);
        (0_u32, Endpoints::v4_mapped(v4))
    } else if family == AF_INET6 {
        let words = [
            field!(ctx, bpf_sk_lookup, remote_ip6[0]),
            field!(ctx, bpf_sk_lookup, remote_ip6[1]),
            field!(ctx, bpf_sk_lookup, remote_ip6[2]),
            field!(ctx, bpf_sk_lookup, remote_ip6[3]),
        ];
        (1_u32, Endpoints::address(words))
    } else {
        return None;
    };
    let port = field!(ctx, bpf_sk_lookup, local_port) as u16;
    let Found { rule, is_over } = rules::find(control, port, &client)?;
    let counts = rules::counts(rule.counts)?;
    if is_over {
        count!(counts, expired);
        return None;
    }
    count!(counts, seen);
    let client_port = if rules::by_connection(control) {
        // Network order; the upper half is padding, or zero before Linux 5.17.
        u16::from_be(field!(ctx, bpf_sk_lookup, remote_port) as u16)
    } else {
        0
    };
    let hash = gate::hash(rules::hash_key(control), &client, client_port);
    if !gate::is_turned(hash, rule.turned_permille) {
        return None;
    }
    match assign(ctx, other) {
        Assigned::Done => count!(counts, turned),
        Assigned::Before => count!(counts, left_to_others),
        Assigned::Not => count!(counts, could_not),
    }
    Some(())
}

enum Assigned {
    Done,
    /// By another program.
    Before,
    Not,
}

#[inline(always)]
fn assign(ctx: *mut bpf_sk_lookup, other: u32) -> Assigned {
    const EEXIST: i64 = 17;
    let map = (&raw const OTHER).cast_mut().cast::<c_void>();
    // SAFETY: a map of sockets and a key of its size; what is found is held until it is released
    // here.
    unsafe {
        let listener = bpf_map_lookup_elem(map, (&raw const other).cast());
        if listener.is_null() {
            return Assigned::Not;
        }
        let refused = bpf_sk_assign(ctx.cast(), listener, 0);
        bpf_sk_release(listener);
        match refused {
            0 => Assigned::Done,
            error if error == -EEXIST => Assigned::Before,
            _ => Assigned::Not,
        }
    }
}

/// A session was accepted: caps it, if the rule says so.
#[sock_ops]
pub fn gate_sessions(ctx: SockOpsContext) -> u32 {
    const PASSIVE_ESTABLISHED_CB: u32 = 5;
    if field!(ctx.ops, bpf_sock_ops, op) == PASSIVE_ESTABLISHED_CB {
        let _ = cap(ctx.ops);
    }
    1
}

#[inline(always)]
fn cap(ctx: *mut bpf_sock_ops) -> Option<()> {
    let control = rules::control()?;
    // SAFETY: set before loading, and read-only since.
    let netns = unsafe { core::ptr::read_volatile(&raw const NETNS_COOKIE) };
    // SAFETY: the program's context.
    if netns != 0 && unsafe { bpf_get_netns_cookie(ctx.cast()) } != netns {
        return None;
    }
    let family = field!(ctx, bpf_sock_ops, family);
    let client = if family == AF_INET {
        Endpoints::v4_mapped(field!(ctx, bpf_sock_ops, remote_ip4))
    } else if family == AF_INET6 {
        Endpoints::address([
            field!(ctx, bpf_sock_ops, remote_ip6[0]),
            field!(ctx, bpf_sock_ops, remote_ip6[1]),
            field!(ctx, bpf_sock_ops, remote_ip6[2]),
            field!(ctx, bpf_sock_ops, remote_ip6[3]),
        ])
    } else {
        return None;
    };
    let port = field!(ctx, bpf_sock_ops, local_port) as u16;
    let Found { rule, is_over } = rules::find(control, port, &client)?;
    let is_none = rule.pace_bytes_per_s == 0 && rule.congestion_control[0] == 0;
    if is_over || is_none {
        return None;
    }
    let counts = rules::counts(rule.counts)?;
    if set(ctx, &rule) {
        count!(counts, capped);
    } else {
        count!(counts, could_not_cap);
    }
    Some(())
}

/// Says whether the kernel took all of it.
#[inline(always)]
fn set(ctx: *mut bpf_sock_ops, rule: &Rule) -> bool {
    const SOL_SOCKET: i32 = 1;
    const SO_MAX_PACING_RATE: i32 = 47;
    const SOL_TCP: i32 = 6;
    const TCP_CONGESTION: i32 = 13;
    let mut is_set = true;
    // SAFETY: the program's context, and options of the given size on the stack.
    unsafe {
        if rule.congestion_control[0] != 0 {
            let mut name = rule.congestion_control;
            let len = CONGESTION_CONTROL_BYTES as i32;
            let name = (&raw mut name).cast();
            is_set &= bpf_setsockopt(ctx.cast(), SOL_TCP, TCP_CONGESTION, name, len) == 0;
        }
        if rule.pace_bytes_per_s != 0 {
            let mut rate = rule.pace_bytes_per_s;
            let rate = (&raw mut rate).cast();
            is_set &= bpf_setsockopt(ctx.cast(), SOL_SOCKET, SO_MAX_PACING_RATE, rate, 4) == 0;
        }
    }
    is_set
}

//! The walk over the sessions: those with a mark, in which something is open, or all of them, when
//! the filter has changed or only a share is followed, or where the kernel knows no better walk.

use core::{ffi::c_void, ptr::read_volatile};

use probe_ebpf::{
    drive,
    session::{Session, phase},
    settings::{Counter, Settings},
};

use super::{
    cgroup,
    sock::{Sock, TcpSock},
    storage,
};
use crate::kernel::{
    emit,
    maps::{count, read_clocks, settings},
};

/// Looks at one session (`bpf_iter` over socket storage, Linux 5.9): settles it if it is quiet,
/// reports it if it is late or under way, takes away its mark if it is at rest. Runs beside the
/// other programs, without the lock.
///
/// It is linked to two maps, and so finds the session by its socket, whatever the map's value is.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn sweep(ctx: *mut c_void) -> i32 {
    // SAFETY: `struct bpf_iter__bpf_sk_storage_map`: meta, map, sk, value; 8 bytes each.
    let sk = unsafe { read_volatile(ctx.cast::<u64>().add(2)) as *const u8 };
    let now_ns = emit::now_ns();
    let Some(sk) = Sock::new(sk) else {
        // The end of the walk.
        read_clocks(now_ns);
        return 0;
    };
    if let Some(tcp) = sk.tcp() {
        visit(sk, tcp, now_ns);
    }
    0
}

/// The same for one TCP socket of a network namespace (`bpf_iter`, Linux 5.9), for kernels that let
/// no program walk a map: it meets every socket of the host, measured or not.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn sweep_sockets(ctx: *mut c_void) -> i32 {
    // SAFETY: `struct bpf_iter__tcp`: meta, sk_common, uid.
    let sk = unsafe { read_volatile(ctx.cast::<u64>().add(1)) as *const u8 };
    let now_ns = emit::now_ns();
    let Some(sk) = Sock::new(sk) else {
        // The end of the walk.
        read_clocks(now_ns);
        return 0;
    };
    // The iterator gives a sock_common; a tcp_sock begins with a whole sock.
    if let Some(tcp) = sk.tcp()
        && let Some(sk) = Sock::new(tcp.as_ptr())
    {
        visit(sk, tcp, now_ns);
    }
    0
}

#[inline(always)]
fn visit(sk: Sock, mut tcp: TcpSock, now_ns: u64) {
    if let Some(s) = storage::session(sk)
        && let Some(settings) = settings()
    {
        // SAFETY: an aligned u64 of the session. Read before anything else of it: what is read
        // after holds if the epoch is still the same.
        let epoch = unsafe { read_volatile(&raw const s.epoch) };
        if s.phase == phase::IGNORED || look(sk, &mut tcp, s, settings, now_ns, epoch) {
            drive::rested(&mut tcp, s, now_ns, epoch);
        }
    }
}

/// Returns whether the session is followed.
#[inline(always)]
fn look(
    sk: Sock,
    tcp: &mut TcpSock,
    s: &mut Session,
    settings: &Settings,
    now_ns: u64,
    epoch: u64,
) -> bool {
    if s.filter_generation != settings.filter_generation {
        if !cgroup::admits(settings, sk, &s.endpoints) {
            drive::untracked(tcp, s, now_ns);
            return false;
        }
        s.filter_generation = settings.filter_generation;
    }
    // Where callbacks cannot be asked for on behalf of an open session (before Linux 6.12), it is
    // left out too.
    if settings.is_thinned() && !(settings.follows(s.cookie) && s.is_called != 0) {
        if drive::watched(tcp, s, settings, now_ns, epoch) {
            count(Counter::SessionsLeftOut);
        }
        return false;
    }
    drive::swept(tcp, s, settings, now_ns, epoch);
    true
}

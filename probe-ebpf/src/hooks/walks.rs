//! The walks that the daemon starts: over every measured session, and over every socket.

use core::{
    ffi::c_void,
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_jiffies64, bpf_setsockopt};
use probe_ebpf::{
    drive::{self, state},
    session::{Session, phase},
    settings::ListenerKey,
};

use super::arrivals::{PARSE_ALL_FLAG, STATE_FLAG};
use crate::kernel::{
    birth, emit, filter,
    maps::{self, session, settings},
    sock::{Sock, TcpSock},
};

/// Looks at one session (`bpf_iter` over socket storage, Linux 5.9): settles it if it is quiet,
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
    let (Some(sk), Some(s)) = (Sock::new(sk), s) else {
        // The end of the walk.
        if let Some(clock) = maps::CLOCK.get_ptr_mut(0) {
            // SAFETY: the map's one element; the sweep is its only writer.
            unsafe {
                (*clock).ktime_ns = now;
                (*clock).jiffies = bpf_jiffies64();
            }
        }
        return 0;
    };
    let Some(settings) = settings() else {
        return 0;
    };
    if s.phase == phase::IGNORED {
        return 0;
    }
    let Some(mut tcp) = sk.tcp() else {
        return 0;
    };
    if s.filter_generation != settings.filter_generation {
        if !filter::admits(settings, sk, &s.endpoints) {
            drive::untracked(&mut tcp, s, now);
            return 0;
        }
        s.filter_generation = settings.filter_generation;
    }
    // SAFETY: an aligned u64 of the session.
    let epoch = unsafe { read_volatile(&raw const s.epoch) };
    drive::swept(&mut tcp, s, settings, now, epoch);
    0
}

/// Meets one TCP socket of a network namespace (`bpf_iter`, Linux 5.9), locked. Listeners come
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
        && birth::adopted(sk, tcp, state, emit::now_ns())
    {
        arm(
            tcp,
            if state == state::ESTABLISHED {
                STATE_FLAG
            } else {
                STATE_FLAG | PARSE_ALL_FLAG
            },
        );
    }
    0
}

/// Asks for the callbacks that a new session asks for itself (Linux 6.12; refused before, and
/// then the end of an adopted session's last delivery is a bound).
#[inline(always)]
fn arm(tcp: TcpSock, wanted: u32) {
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

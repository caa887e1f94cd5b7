//! The walk over every socket, which meets the sessions that are there already.

#[cfg(not(feature = "keyed"))]
use core::ptr::write_volatile;
use core::{ffi::c_void, ptr::read_volatile};

#[cfg(not(feature = "keyed"))]
use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_setsockopt};
use probe_ebpf::{drive::state, session::phase, settings::ListenerKey};

#[cfg(not(feature = "keyed"))]
use super::{
    arrivals::{PARSE_ALL_FLAG, STATE_FLAG},
    sock::TcpSock,
    thin,
};
use super::{birth, sock::Sock, storage};
use crate::kernel::{emit, maps};

/// Meets one TCP socket of a network namespace (`bpf_iter`, Linux 5.9), locked. Listeners come
/// first and tell which of the others were accepted here.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn adopt(ctx: *mut c_void) -> i32 {
    // SAFETY: `struct bpf_iter__tcp`: meta, sk_common, uid.
    let sk = unsafe { read_volatile(ctx.cast::<u64>().add(1)) as *const u8 };
    let Some(sk) = Sock::new(sk) else {
        // The end of the walk.
        maps::read_clocks(emit::now_ns());
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
    if let Some(s) = storage::session(sk)
        && s.phase != phase::IGNORED
    {
        // Met before. If it is to be followed by callbacks, it may not have asked for them yet.
        #[cfg(not(feature = "keyed"))]
        if s.is_called == 0
            && let Some(settings) = maps::settings()
            && thin::follows(settings, s.cookie)
            && let Some(tcp) = sk.tcp()
            && let Some(callbacks) = arm(tcp, thin::follow_flags(settings))
        {
            s.callbacks = callbacks;
            s.is_called = 1;
        }
        return 0;
    }
    // The iterator gives a sock_common; a tcp_sock begins with a whole sock.
    if let Some(tcp) = sk.tcp()
        && let Some(sk) = Sock::new(tcp.as_ptr())
        && birth::adopted(sk, tcp, state, emit::now_ns())
    {
        #[cfg(not(feature = "keyed"))]
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
/// then the end of an adopted session's last delivery is a bound). Returns those that nobody had
/// asked for; `None` if it is refused.
#[cfg(not(feature = "keyed"))]
#[inline(always)]
fn arm(tcp: TcpSock, wanted: u32) -> Option<u32> {
    const SOL_TCP: i32 = 6;
    const TCP_BPF_SOCK_OPS_CB_FLAGS: i32 = 1008;
    let sk = tcp.as_ptr().cast_mut().cast::<c_void>();
    let mut flags = [0u32; 1];
    let value = flags.as_mut_ptr();
    // SAFETY: the socket is locked by the iterator and the value is a u32 on the stack.
    unsafe {
        bpf_getsockopt(sk, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value.cast(), 4);
        let before = read_volatile(value);
        write_volatile(value, before | wanted);
        let refused = bpf_setsockopt(sk, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, value.cast(), 4);
        (refused == 0).then_some(wanted & !before)
    }
}

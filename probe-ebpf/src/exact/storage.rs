//! Sessions' state in their sockets' own storage: found without a look-up, gone with the socket
//! (`bpf_sk_storage_get` in tracing programs, Linux 5.11).

use aya_ebpf::{btf_maps::SkStorage, helpers::generated::bpf_sk_storage_get, macros::btf_map};
use probe_ebpf::session::Session;

use super::sock::Sock;

/// Per-session state.
#[btf_map]
static SESSIONS: SkStorage<Session> = SkStorage::new();

/// A session's state, if it has any.
#[inline(always)]
pub fn session(sk: Sock) -> Option<&'static mut Session> {
    storage(sk, 0)
}

/// A session's state, zeroed if it is new; `None` if the kernel has no memory for it.
#[inline(always)]
pub fn session_or_new(sk: Sock) -> Option<&'static mut Session> {
    const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE
    storage(sk, CREATE)
}

/// The socket is closed; its storage goes with it.
#[inline(always)]
pub fn forget(_sk: Sock) {}

#[inline(always)]
fn storage(sk: Sock, flags: u64) -> Option<&'static mut Session> {
    // SAFETY: the map's values are `Session`, zeroed when made; the verifier has checked that
    // `sk` is a socket; storage lives until the socket is freed, which is after this program
    // (RCU). Programs on one socket exclude each other by the socket's lock; the sweep, which
    // does not hold it, copies plain integers and claims a delivery by `epoch` alone.
    unsafe {
        bpf_sk_storage_get(
            (&raw const SESSIONS).cast_mut().cast(),
            sk.as_ptr().cast_mut().cast(),
            core::ptr::null_mut(),
            flags,
        )
        .cast::<Session>()
        .as_mut()
    }
}

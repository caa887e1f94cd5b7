//! Sessions' state in their sockets' own storage: found without a look-up, gone with the socket
//! (`bpf_sk_storage_get` in tracing programs, Linux 5.11); and beside it a mark on those that the
//! sweep has to look at.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::SkStorage,
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use probe_ebpf::session::Session;

use super::sock::{Sock, TcpSock};

const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE

/// Per-session state.
#[btf_map]
static SESSIONS: SkStorage<Session> = SkStorage::new();
/// A mark on the sessions in which something is open, or was until a moment ago: what the sweep
/// walks. That it is there is all it says.
#[btf_map]
static OPEN: SkStorage<u8> = SkStorage::new();

/// A session's state, if it has any.
#[inline(always)]
pub fn session(sk: Sock) -> Option<&'static mut Session> {
    storage(sk, 0)
}

/// A session's state, zeroed if it is new; `None` if the kernel has no memory for it.
#[inline(always)]
pub fn session_or_new(sk: Sock) -> Option<&'static mut Session> {
    storage(sk, CREATE)
}

/// The socket is closed; its storage goes with it.
#[inline(always)]
pub fn forget(_sk: Sock) {}

/// Marks a session; `false` if the kernel has no memory for it.
#[inline(always)]
pub fn mark(sk: TcpSock) -> bool {
    // SAFETY: the verifier has checked that `sk` is a socket.
    let mark = unsafe { get((&raw const OPEN).cast_mut().cast(), sk.as_ptr(), CREATE) };
    !mark.is_null()
}

/// Takes a session's mark away, if it has one.
#[inline(always)]
pub fn unmark(sk: TcpSock) {
    // SAFETY: the verifier has checked that `sk` is a socket. One that could not be taken away
    // (the socket is closing) goes with the socket.
    unsafe {
        bpf_sk_storage_delete(
            (&raw const OPEN).cast_mut().cast(),
            sk.as_ptr().cast_mut().cast(),
        );
    }
}

#[inline(always)]
fn storage(sk: Sock, flags: u64) -> Option<&'static mut Session> {
    // SAFETY: the map's values are `Session`, zeroed when made; the verifier has checked that
    // `sk` is a socket; storage lives until the socket is freed, which is after this program
    // (RCU). Programs on one socket exclude each other by the socket's lock; the sweep, which
    // does not hold it, copies plain integers and claims a delivery by `epoch` alone.
    unsafe {
        get((&raw const SESSIONS).cast_mut().cast(), sk.as_ptr(), flags)
            .cast::<Session>()
            .as_mut()
    }
}

/// # Safety
/// `map` must be a map of socket storage, and `sk` a socket.
#[inline(always)]
unsafe fn get(map: *mut c_void, sk: *const u8, flags: u64) -> *mut c_void {
    // SAFETY: the caller's.
    unsafe { bpf_sk_storage_get(map, sk.cast_mut().cast(), core::ptr::null_mut(), flags) }
}

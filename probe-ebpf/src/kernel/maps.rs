//! The maps, and the counters.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use probe_ebpf::{
    session::Session,
    settings::{
        COUNTERS as COUNTER_COUNT, Clock, Counter, HalfOpen, HalfOpenKey, ListenerKey,
        MAX_HALF_OPEN, MAX_PREFIXES, Settings,
    },
};

use super::{atomic, sock::Sock};

/// Late and aborted deliveries.
#[map]
pub static HOT: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Everything else.
#[map]
pub static BULK: RingBuf = RingBuf::with_byte_size(1 << 23, 0);
/// Per-session state; dies with the socket.
#[btf_map]
pub static SESSIONS: SkStorage<Session> = SkStorage::new();
/// One element; see [`Settings`].
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
/// One bit per port.
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(1024, 0);
/// Clients' prefixes, IPv4 as v4-mapped.
#[map]
pub static PREFIXES: LpmTrie<[u8; 16], u8> =
    LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);
/// See [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);
/// Handshakes whose SYN-ACK was sent again.
#[map]
pub static HALF_OPEN: HashMap<HalfOpenKey, HalfOpen> = HashMap::with_max_entries(MAX_HALF_OPEN, 0);
/// Where sessions are accepted; filled and read during adoption.
#[map]
pub static LISTENERS: HashMap<ListenerKey, u8> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
/// One element; see [`Clock`].
#[map]
pub static CLOCK: Array<Clock> = Array::with_max_entries(1, 0);

/// Raises a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is an aligned u64 that lives as long as the program. Atomic, because
        // an interrupt on this CPU may run another program between load and store.
        unsafe { atomic::add(slot, 1) };
    }
}

/// The settings in force.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

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

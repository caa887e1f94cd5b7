//! The maps that all programs share, and the counters.

#[cfg(not(feature = "portable"))]
use aya_ebpf::maps::HashMap;
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, LpmTrie, PerCpuArray, RingBuf},
};
use probe_ebpf::settings::{COUNTERS as COUNTER_COUNT, Counter, MAX_PREFIXES, Settings};
#[cfg(not(feature = "portable"))]
use probe_ebpf::settings::{Clock, HalfOpen, HalfOpenKey, ListenerKey, MAX_HALF_OPEN};

use super::atomic;

/// Late and aborted deliveries.
#[map]
pub static HOT: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Everything else.
#[map]
pub static BULK: RingBuf = RingBuf::with_byte_size(1 << 23, 0);
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
#[cfg(not(feature = "portable"))]
#[map]
pub static HALF_OPEN: HashMap<HalfOpenKey, HalfOpen> = HashMap::with_max_entries(MAX_HALF_OPEN, 0);
/// Where sessions are accepted; filled and read during adoption.
#[cfg(not(feature = "portable"))]
#[map]
pub static LISTENERS: HashMap<ListenerKey, u8> =
    HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
/// One element; see [`Clock`].
#[cfg(not(feature = "portable"))]
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

/// Reads both clocks at one moment, from which the daemon learns the tick rate.
#[cfg(not(feature = "portable"))]
#[inline(always)]
pub fn read_clocks(now_ns: u64) {
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: the map's one element; the walk that calls this is its only writer.
        unsafe {
            (*clock).ktime_ns = now_ns;
            (*clock).jiffies = aya_ebpf::helpers::generated::bpf_jiffies64();
        }
    }
}

//! The three atomic instructions that the programs need (RFC 9669, 5.3); the two that return a
//! value are Linux 5.12's. The BPF target's `core` has atomic loads and stores only.

use core::arch::asm;

/// Adds to a counter.
///
/// # Safety
/// `at` must be an aligned u64 that programs may write.
#[inline(always)]
pub unsafe fn add(at: *mut u64, n: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("lock *(u64 *)({at} + 0) += {n}", at = in(reg) at, n = in(reg) n, options(nostack));
    }
}

/// Adds, and returns the value before; a full barrier.
///
/// # Safety
/// As [`add`].
#[cfg(not(any(feature = "keyed", feature = "portable", feature = "gate")))]
#[inline(always)]
pub unsafe fn fetch_add(at: *mut u64, n: u64) -> u64 {
    let mut value = n;
    // SAFETY: the caller's.
    unsafe {
        asm!("{v} = atomic_fetch_add((u64 *)({at} + 0), {v})", at = in(reg) at, v = inout(reg) value, options(nostack));
    }
    value
}

/// Stores `new` if the value is `expected`; returns the value before; a full barrier.
///
/// # Safety
/// As [`add`].
#[cfg(not(any(feature = "keyed", feature = "portable", feature = "gate")))]
#[inline(always)]
pub unsafe fn compare_exchange(at: *mut u64, expected: u64, new: u64) -> u64 {
    let mut before = expected;
    // SAFETY: the caller's.
    unsafe {
        asm!("r0 = cmpxchg_64({at} + 0, r0, {new})", at = in(reg) at, new = in(reg) new, inout("r0") before, options(nostack));
    }
    before
}

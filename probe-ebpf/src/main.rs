//! The programs that run in the kernel. Each reads its arguments, calls the library, and writes
//! what the library decides.
//!
//! Four objects are made of this: the exact programs; with the feature `keyed`, the same for
//! kernels before 5.12; with the feature `portable`, socket callbacks alone; with the feature
//! `gate`, none that measure, but those that turn traffic away.
#![no_std]
#![no_main]
// Stores side by side stay stores: a call that fills memory moves a pointer in a loop, as only
// privileged programs may.
#![no_builtins]
#![feature(asm_experimental_arch)]
#![allow(
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the macros for programs and maps ask for `pub` and for contexts by value"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_ptr_alignment,
    clippy::cast_sign_loss,
    reason = "the kernel's C types are taken as they come; the verifier checks every load"
)]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "map keys are passed by address: a copy would cost stack, of which there are 512 bytes"
)]

#[cfg(feature = "gate")]
#[path = "kernel/atomic.rs"]
#[allow(dead_code, reason = "shared with the programs that measure")]
mod atomic;
#[cfg(not(any(feature = "portable", feature = "gate")))]
mod exact;
#[cfg(not(feature = "gate"))]
#[cfg_attr(
    any(feature = "keyed", feature = "portable"),
    allow(dead_code, reason = "each set of programs uses a part of it")
)]
mod kernel;
#[cfg(feature = "portable")]
mod portable;
#[cfg(feature = "gate")]
mod turning;

/// The licence that the kernel asks for: the programs call helpers that are GPL-only. The source
/// is Apache-2.0; these words cover the object as it is loaded.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

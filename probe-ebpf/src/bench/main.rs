//! The programs of the bench: empty ones on weir's hooks, which say what a hook costs by itself;
//! parts of weir's own, which say what its calls cost; and producers of records, which say what user
//! space can take. Never a part of weir.
#![no_std]
#![no_main]
#![allow(
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the macros for programs and maps ask for `pub` and for contexts by value"
)]

mod anatomy;
mod empty;
mod plan;
mod produce;

/// What the kernel asks for; see the same in `weir-ebpf`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

//! The programs that run in the kernel. Each reads its arguments, calls the library, and writes
//! what the library decides.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod hooks;
mod kernel;

/// The licence that the kernel asks for: the programs call helpers that are GPL-only. The source
/// is Apache-2.0; these words cover the object as it is loaded.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

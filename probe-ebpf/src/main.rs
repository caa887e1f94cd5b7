//! The programs that run in the kernel.
#![no_std]
#![no_main]

use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

#[btf_map]
static CALLS: Array<u64, 1> = Array::new();

/// Counts the segments that arrive.
#[btf_tracepoint(function = "tcp_probe")]
pub fn tcp_probe(_ctx: BtfTracePointContext) -> i32 {
    if let Some(calls) = CALLS.get_ptr_mut(0) {
        // SAFETY: the map holds one u64 per CPU and the kernel keeps it for the program's life.
        unsafe { *calls += 1 };
    }
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

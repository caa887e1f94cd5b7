//! Reading the programs' contexts.

/// Address families as both contexts name them.
pub const AF_INET: u32 = 2;
/// See [`AF_INET`].
pub const AF_INET6: u32 = 10;

/// A field of a context, loaded by four bytes and from the context's own pointer: the verifier takes
/// neither merged loads nor a pointer that was moved.
macro_rules! field {
    ($ctx:expr, $context:ident, $name:ident $([$index:literal])?) => {{
        let value: u64;
        // SAFETY: the program's context, which the kernel lets its programs read.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({ctx} + {offset})",
                value = lateout(reg) value,
                ctx = in(reg) $ctx,
                offset = const core::mem::offset_of!(aya_ebpf::bindings::$context, $name)
                    $(+ 4 * $index)?,
                options(nostack, readonly),
            );
        }
        value as u32
    }};
}
pub(super) use field;

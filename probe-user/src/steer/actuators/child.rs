//! What every program that a gate starts has in common.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Keeps weir's capabilities and descriptors from what is started: its ambient capabilities are for
/// the kernel programs and no business of a gate (root has its own all the same), and descriptors that
/// weir was started with, a lock perhaps, are not to be held for longer than weir runs.
pub(super) fn with_nothing_of_ours(command: &mut Command) -> &mut Command {
    let clear = || {
        let all = libc::PR_CAP_AMBIENT_CLEAR_ALL;
        // SAFETY: prctl with PR_CAP_AMBIENT takes plain integers and touches no memory.
        let done = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, all, 0, 0, 0) };
        if done != 0 {
            let error = io::Error::last_os_error();
            // A kernel that does not know them has none to take.
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
        let (first, last, flags) = (3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // SAFETY: close_range takes plain integers. With this flag nothing is closed before exec.
        // Where the kernel does not know it (before 5.11), only descriptors that weir did not open
        // itself are left open.
        let _ = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
        Ok(())
    };
    // SAFETY: between fork and exec only prctl and close_range are called, which are system calls and
    // async-signal-safe, and errno is read; nothing is allocated.
    unsafe { command.pre_exec(clear) }
}

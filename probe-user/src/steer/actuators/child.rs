//! What every program that a gate starts has in common.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Takes weir's ambient capabilities from what is started: they are for the kernel programs and no
/// business of a gate. (Root has its own all the same.)
pub(super) fn without_capabilities(command: &mut Command) -> &mut Command {
    let clear = || {
        let all = libc::PR_CAP_AMBIENT_CLEAR_ALL;
        // SAFETY: prctl with PR_CAP_AMBIENT takes plain integers and touches no memory.
        let done = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, all, 0, 0, 0) };
        // EINVAL: a kernel that does not know them has none to take.
        let known = io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL);
        if done != 0 && known {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe, and errno is
    // read; nothing is allocated.
    unsafe { command.pre_exec(clear) }
}

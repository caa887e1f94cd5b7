//! The live view in the foreground: `weir top` on this terminal.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::cleanup::{self, Deferred};

/// `weir top`, until it is closed by a key or by the end of the demo.
#[derive(Debug)]
pub struct View {
    child: Child,
    close: Option<Deferred>,
}

impl View {
    /// Gives the terminal to `weir top`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn open(binary: &Path, socket: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg("top").arg("--socket").arg(socket);
        // It stays in the terminal's foreground group, unlike everything else in the lab.
        // SAFETY: prctl with PR_SET_PDEATHSIG takes plain integers and is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start weir top")?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let close = cleanup::defer(move || {
            let _ = kill(pid, Signal::SIGTERM);
        });
        Ok(Self {
            child,
            close: Some(close),
        })
    }

    /// Whether it still has the terminal.
    ///
    /// # Errors
    /// The kernel does not know it.
    pub fn is_open(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("lost weir top")?.is_none())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.close.take();
            let end = Instant::now() + Duration::from_secs(3);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

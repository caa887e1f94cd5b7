//! Child processes that do not outlive their handle: in a namespace, logged to a file, ended
//! together with whatever they started.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::cleanup::{self, Deferred};
use super::netns::Netns;

/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A running child and its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    log: Option<PathBuf>,
    /// Kills the group if the lab's process is told to end first.
    kill: Option<Deferred>,
}

/// Runs `program` to its end and returns what it printed.
///
/// # Errors
/// It cannot be started or fails; the message has its error output.
pub fn output(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !out.status.success() {
        bail!(
            "`{program} {}` failed ({}): {}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Makes the child of `command` start in `netns`. The mounts stay, so /sys is the host's.
pub fn enter(command: &mut Command, netns: &Netns) {
    let fd = netns.raw_fd();
    // SAFETY: between fork and exec only setns is called, which is async-signal-safe; the
    // descriptor is owned by `netns` and cannot be closed in the child before this runs, because
    // the child has its own copy of the descriptor table.
    unsafe {
        command.pre_exec(move || {
            if libc::setns(fd, libc::CLONE_NEWNET) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
}

impl Process {
    /// Starts `command`, in `netns` if given, with both outputs in the file `log`.
    ///
    /// # Errors
    /// The log cannot be made or the program not started.
    pub fn spawn(mut command: Command, netns: Option<&Netns>, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file);
        let mut process = Self::start(command, netns)?;
        process.log = Some(log.to_owned());
        Ok(process)
    }

    /// Starts `command` with the input and outputs it was given.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(mut command: Command, netns: Option<&Netns>) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        if let Some(netns) = netns {
            enter(&mut command, netns);
        }
        // Its own group, so that its children can be ended with it.
        command.process_group(0);
        // SAFETY: prctl with PR_SET_PDEATHSIG takes plain integers and is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let group = Pid::from_raw(child.id().cast_signed());
        let kill = cleanup::defer(move || {
            let _ = killpg(group, Signal::SIGKILL);
        });
        Ok(Self {
            name,
            child,
            status: None,
            log: None,
            kill: Some(kill),
        })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipes, where the command was given any.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        nix::sys::signal::kill(Pid::from_raw(self.id().cast_signed()), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// The kernel does not know it.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .with_context(|| format!("lost {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// It takes longer than `limit`; it then still runs.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} did not end within {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end and fails unless the status is 0.
    ///
    /// # Errors
    /// Time is up or the status is not 0; the message has the end of the log.
    pub fn success(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait(limit)?;
        if !status.success() {
            bail!("{} failed ({status}):\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Asks it to end by `signal` and waits.
    ///
    /// # Errors
    /// It does not end within the grace period.
    pub fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        if self.try_wait()?.is_none() {
            self.signal(signal)?;
        }
        self.wait(GRACE)
    }

    /// Everything it has written to its log.
    pub fn log(&self) -> String {
        self.log
            .as_ref()
            .and_then(|log| std::fs::read(log).ok())
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let running = matches!(self.try_wait(), Ok(None));
        if running {
            let _ = self.stop(Signal::SIGTERM);
        }
        // The rest of the group, or a process that did not listen.
        self.kill.take();
        if self.status.is_none() {
            let _ = self.child.wait();
        }
    }
}

/// Whether a process ended by `signal`.
pub fn ended_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}

/// Waits until `condition` holds.
///
/// # Errors
/// It does not hold within `limit`; `what` says what was awaited.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + limit;
    while !condition()? {
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Waits until something listens at `port` in `netns`.
///
/// # Errors
/// Nothing does in time.
pub fn wait_for_listener(netns: &Netns, port: u16, process: &mut Process) -> Result<()> {
    wait_for(
        &format!("a listener on port {port}"),
        Duration::from_secs(10),
        || {
            if let Some(status) = process.try_wait()? {
                bail!(
                    "{} ended at once ({status}):\n{}",
                    process.name,
                    process.log_tail()
                );
            }
            netns.listens(port)
        },
    )
}

/// The raw descriptor is all `enter` needs; kept apart so that it cannot outlive the namespace.
impl Netns {
    fn raw_fd(&self) -> i32 {
        self.fd().as_raw_fd()
    }
}

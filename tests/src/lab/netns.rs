//! Network namespaces: made, entered by threads, read, removed.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::cleanup::{self, Deferred};
use super::process::{output, wait_for};
use super::relay::DEVICE;

/// A named network namespace, deleted on drop with everything that runs in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    _remove: Option<Deferred>,
}

impl Netns {
    /// Makes a namespace with loopback up and TCP's memory of earlier connections off, so that
    /// one scenario cannot teach the next.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn new(name: &str) -> Result<Self> {
        output("ip", &["netns", "add", name])?;
        let remove = {
            let name = name.to_owned();
            cleanup::defer(move || cleanup::remove_namespace(&name))
        };
        let path = PathBuf::from("/run/netns").join(name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let netns = Self {
            name: name.to_owned(),
            file,
            _remove: Some(remove),
        };
        netns.ip("link set lo up")?;
        netns.sysctl("net/ipv4/tcp_no_metrics_save", "1")?;
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(netns)
    }

    /// A second handle, for another thread; the namespace goes with the first.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        let file = self
            .file
            .try_clone()
            .context("cannot copy the namespace's descriptor")?;
        Ok(Self {
            name: self.name.clone(),
            file,
            _remove: None,
        })
    }

    /// Its name under /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its inode number: how the kernel's users name it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn inode(&self) -> Result<u32> {
        let inode = self
            .file
            .metadata()
            .context("cannot read the namespace's inode")?
            .ino();
        u32::try_from(inode).context("a namespace inode beyond 32 bits")
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `ip` with `command` inside.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn ip(&self, command: &str) -> Result<String> {
        let mut args = vec!["-n", &self.name];
        args.extend(command.split_whitespace());
        output("ip", &args)
    }

    /// Shapes what leaves through the lab's link as the words of `tc ... netem` say, from now on.
    ///
    /// # Errors
    /// `tc` fails: not every kernel has netem.
    pub fn netem(&self, words: &str) -> Result<()> {
        let mut args = vec!["-n", &self.name, "qdisc", "replace", "dev", DEVICE];
        args.extend(["root", "netem"]);
        args.extend(words.split_whitespace());
        output("tc", &args).map(drop)
    }

    /// Runs `work` on a new thread inside and waits for it.
    ///
    /// # Errors
    /// The thread cannot enter; `work` panics; or `work`'s own error.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        join(self.spawn("lab-netns", work)?)
    }

    /// Starts `work` on a new thread inside.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let file = self
            .file
            .try_clone()
            .context("cannot copy the namespace's descriptor")?;
        let label = self.name.clone();
        Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter the namespace {label}"))?;
                work()
            })
            .context("cannot start a thread")
    }

    /// Sets a network sysctl, given by its path below /proc/sys.
    ///
    /// # Errors
    /// It does not exist here or refuses the value.
    pub fn sysctl(&self, path: &'static str, value: &str) -> Result<()> {
        let value = value.to_owned();
        self.run(move || {
            fs::write(format!("/proc/sys/{path}"), &value)
                .with_context(|| format!("cannot set {path} to {value}"))
        })
    }

    /// Reads a file whose text depends on the namespace, e.g. `/proc/thread-self/net/snmp`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &'static str) -> Result<String> {
        self.run(move || fs::read_to_string(path).with_context(|| format!("cannot read {path}")))
    }

    /// Whether a TCP socket listens at `port`.
    ///
    /// # Errors
    /// The socket table cannot be read.
    pub fn listens(&self, port: u16) -> Result<bool> {
        Ok(self.states(port)?.iter().any(|state| state == LISTEN))
    }

    /// Waits until no connection is left at `port` but those that only wait out stray packets.
    ///
    /// # Errors
    /// One is left for too long.
    pub fn wait_until_closed(&self, port: u16) -> Result<()> {
        wait_for(
            &format!("connections at port {port} to close"),
            Duration::from_secs(90),
            || self.is_closed(port),
        )
    }

    /// Whether no connection at `port` is open any more.
    ///
    /// # Errors
    /// The namespace's sockets cannot be listed.
    pub fn is_closed(&self, port: u16) -> Result<bool> {
        let states = self.states(port)?;
        Ok(states
            .iter()
            .all(|state| state == LISTEN || state == TIME_WAIT))
    }

    /// States of the TCP sockets whose own port is `port`, as in /proc/net/tcp.
    fn states(&self, port: u16) -> Result<Vec<String>> {
        let suffix = format!(":{port:04X}");
        let mut states = Vec::new();
        for table in [
            self.read("/proc/thread-self/net/tcp")?,
            self.read("/proc/thread-self/net/tcp6")?,
        ] {
            for line in table.lines() {
                // The local address, the remote one, the state.
                let mut columns = line.split_whitespace().skip(1);
                if columns.next().is_some_and(|local| local.ends_with(&suffix)) {
                    states.extend(columns.nth(1).map(str::to_owned));
                }
            }
        }
        Ok(states)
    }
}

/// States in /proc/net/tcp.
const LISTEN: &str = "0A";
const TIME_WAIT: &str = "06";

/// Waits for a thread and passes its error or panic on.
///
/// # Errors
/// The thread panicked or failed.
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        anyhow!("a lab thread panicked: {text}")
    })?
}

//! Undoing: what the lab made on the host goes away on drop, on a panic, on SIGINT and SIGTERM,
//! and, if the process was killed outright, at the start of the next run.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::process::output;

/// Begins the name of everything a lab makes on the host.
pub const PREFIX: &str = "weir-lab";

/// What labs run.
const TOOLS: [&str; 7] = [
    "ip", "nginx", "curl", "openssl", "tcpdump", "tshark", "bpftool",
];

type Action = Box<dyn FnOnce() + Send>;

static PENDING: Mutex<Vec<(u64, Action)>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
static NEXT_LAB: AtomicU32 = AtomicU32::new(0);
static STARTED: OnceLock<Result<Flock<File>, String>> = OnceLock::new();

fn pending() -> MutexGuard<'static, Vec<(u64, Action)>> {
    // A panic elsewhere must not stop the cleaning.
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An action that will run once: when this is dropped, or when the process is asked to end.
#[derive(Debug)]
pub struct Deferred {
    id: u64,
}

/// Runs `action` when the returned guard is dropped or the process is asked to end.
pub fn defer(action: impl FnOnce() + Send + 'static) -> Deferred {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    pending().push((id, Box::new(action)));
    Deferred { id }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        let action = {
            let mut pending = pending();
            let at = pending.iter().position(|(id, _)| *id == self.id);
            at.map(|at| pending.remove(at).1)
        };
        if let Some(action) = action {
            action();
        }
    }
}

/// Checks that the lab can work here, takes this process's lock, sweeps up what killed runs left
/// behind, and arms the signals. Every lab calls it; only the first call acts.
///
/// # Errors
/// Not root, a tool is missing, or the lock cannot be taken.
pub fn start() -> Result<()> {
    start_with(&TOOLS)
}

/// As [`start`], in surroundings where no more than `tools` will be used.
///
/// # Errors
/// As [`start`].
pub fn start_with(tools: &[&str]) -> Result<()> {
    match STARTED.get_or_init(|| begin(tools).map_err(|error| format!("{error:#}"))) {
        Ok(_) => Ok(()),
        Err(error) => bail!("{error}"),
    }
}

/// A name for the next lab of this process.
pub fn next_name() -> String {
    let n = NEXT_LAB.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}-{}-{n}", std::process::id())
}

fn begin(tools: &[&str]) -> Result<Flock<File>> {
    if !Uid::effective().is_root() {
        bail!("the lab makes network namespaces and needs root: run it through sudo");
    }
    let missing: Vec<_> = tools
        .iter()
        .copied()
        .filter(|tool| !on_path(tool))
        .collect();
    if !missing.is_empty() {
        bail!(
            "the lab needs {}, not found on PATH: `cargo xtask setup` installs what is needed",
            missing.join(", ")
        );
    }
    fs::create_dir_all(lock_dir()).context("cannot make the directory of the lab's locks")?;
    sweep()?;
    let own = lock_dir().join(format!("{}.lock", std::process::id()));
    let file = open_lock(&own)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("cannot lock {}", own.display()))?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch signals")?;
    std::thread::Builder::new()
        .name("lab-signals".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("interrupted: taking the lab down");
                loop {
                    // Not held while the action runs: it may defer or drop on its own.
                    let next = pending().pop();
                    let Some((_, action)) = next else { break };
                    action();
                }
                std::process::exit(128 + signal);
            }
        })
        .context("cannot start the signal watcher")?;
    Ok(lock)
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(tool).is_file())
}

fn lock_dir() -> PathBuf {
    PathBuf::from("/run").join(PREFIX)
}

fn open_lock(path: &std::path::Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Removes what runs that no longer live have left: a run lives as long as its lock is held.
fn sweep() -> Result<()> {
    for entry in fs::read_dir(lock_dir())?.flatten() {
        let path = entry.path();
        let Some(pid) = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(lock) = Flock::lock(open_lock(&path)?, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        let prefix = format!("{PREFIX}-{pid}-");
        for namespace in names_in("/run/netns", &prefix) {
            remove_namespace(&namespace);
        }
        let temp = std::env::temp_dir();
        for name in names_in(&temp, &prefix) {
            let _ = fs::remove_dir_all(temp.join(name));
        }
        let _ = fs::remove_file(&path);
        drop(lock);
    }
    Ok(())
}

fn names_in(dir: impl AsRef<std::path::Path>, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Kills what runs in a namespace and deletes it.
pub(super) fn remove_namespace(name: &str) {
    if let Ok(pids) = output("ip", &["netns", "pids", name]) {
        let own = std::process::id();
        for pid in pids
            .split_whitespace()
            .filter_map(|pid| pid.parse::<i32>().ok())
        {
            if pid.cast_unsigned() != own {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
    let _ = output("ip", &["netns", "del", name]);
}

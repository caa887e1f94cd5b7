//! The network namespaces of this host, and doing something inside each.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, statfs},
};

const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace that a process or a name under `/run/netns` holds open.
#[derive(Debug)]
pub(super) struct Other {
    inode: u64,
    path: PathBuf,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "network namespace {}", self.path.display())
    }
}

impl Other {
    /// Its inode number, which names it.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// The calling thread goes there.
    fn join(&self) -> Result<()> {
        let namespace = File::open(&self.path)?;
        Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `act` inside, which needs `CAP_SYS_ADMIN`.
    pub(super) fn enter<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        // A thread of its own: its namespace changes, and it ends.
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.join()?;
                    act()
                })
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread inside panicked")))
        })
    }
}

/// The inode number of the calling thread's network namespace.
pub(super) fn own() -> Result<u64> {
    let meta = fs::metadata(OWN).with_context(|| format!("looking at {OWN}"))?;
    Ok(meta.ino())
}

/// The calling thread's network namespace itself.
pub(super) fn own_file() -> Result<File> {
    File::open(OWN).with_context(|| format!("opening {OWN}"))
}

/// Every other namespace than `own` that can be found, once.
pub(super) fn others(own: u64) -> Vec<Other> {
    let mut seen = HashSet::from([own]);
    let mut others = Vec::new();
    for path in candidates() {
        match fs::metadata(&path) {
            Ok(meta) => {
                if seen.insert(meta.ino()) {
                    others.push(Other {
                        inode: meta.ino(),
                        path,
                    });
                }
            }
            // A process may have gone meanwhile: then its namespace is nobody's, or another's too.
            // Or it may not be looked at (that needs `CAP_SYS_PTRACE`, and is doctor's to tell):
            // whether its namespace is one of those known cannot be known.
            Err(error) => tracing::debug!("{}: {error}", path.display()),
        }
    }
    others
}

/// Runs `act` inside each of these, by one thread, and tells of those in which that failed.
pub(super) fn enter_all(
    others: &[Other],
    act: impl Fn() -> Result<()> + Send,
    mut failed: impl FnMut(&Other, anyhow::Error) + Send,
) {
    if others.is_empty() {
        return;
    }
    thread::scope(|scope| {
        let visits = move || {
            for other in others {
                if let Err(error) = other.join().and_then(|()| act()) {
                    failed(other, error);
                }
            }
        };
        // A thread of its own: its namespace changes, and it ends. One that panics has said so.
        let _ = scope.spawn(visits).join();
    });
}

/// Runs `act` inside every network namespace that a process or a name under `/run/netns` holds
/// open, the own one first. Returns how many could not be entered (that needs `CAP_SYS_ADMIN`) or
/// worked in; an error only if the own one failed.
pub(super) fn in_each(act: impl Fn() -> Result<()> + Send) -> Result<usize> {
    act().context("in the daemon's own network namespace")?;
    let mut missed = 0;
    enter_all(&others(own().unwrap_or(0)), act, |other, error| {
        tracing::warn!("{other}: {error:#}");
        missed += 1;
    });
    Ok(missed)
}

fn candidates() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    if let Ok(entries) = fs::read_dir("/run/netns") {
        // A name whose namespace was not mounted, or is not any more, is an ordinary file.
        paths.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)),
        );
    }
    if let Ok(entries) = fs::read_dir("/proc") {
        paths.extend(
            entries
                .flatten()
                .filter(|entry| {
                    entry
                        .file_name()
                        .to_str()
                        .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
                })
                .map(|entry| entry.path().join("ns/net")),
        );
    }
    paths
}

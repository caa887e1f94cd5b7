//! The network namespaces of this host, and doing something inside each.

use std::{
    collections::HashSet,
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

/// Runs `act` inside every network namespace that a process or a name under `/run/netns` holds
/// open, the own one first. Returns how many could not be entered (that needs `CAP_SYS_ADMIN`) or
/// worked in; an error only if the own one failed.
pub(super) fn in_each(act: impl Fn() -> Result<()> + Sync) -> Result<usize> {
    act().context("in the daemon's own network namespace")?;
    let own = fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino());
    let mut seen = HashSet::from([own]);
    let mut failed = 0;
    for path in candidates() {
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            // A process may have gone meanwhile: then its namespace is nobody's, or another's too.
            // Or it may not be looked at (that needs `CAP_SYS_PTRACE`, and is doctor's to tell):
            // whether its namespace is one of those known cannot be known.
            Err(error) => {
                tracing::debug!("{}: {error}", path.display());
                continue;
            }
        };
        if !seen.insert(meta.ino()) {
            continue;
        }
        let namespace = match File::open(&path) {
            Ok(namespace) => namespace,
            Err(error) => {
                tracing::warn!("network namespace {}: {error}", path.display());
                failed += 1;
                continue;
            }
        };
        // A thread of its own: its namespace changes, and it ends.
        let entered = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                    act()
                })
                .join()
                .unwrap_or_else(|_| Err(anyhow!("the thread inside panicked")))
        });
        if let Err(error) = entered {
            tracing::warn!("network namespace {}: {error:#}", path.display());
            failed += 1;
        }
    }
    Ok(failed)
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

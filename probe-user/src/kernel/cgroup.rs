//! Where cgroup v2 is mounted, and the ids of its directories.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// The mount point of the cgroup v2 hierarchy, as `/proc/self/mountinfo` tells (proc(5)).
pub fn mount_point() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(|line| {
            let (fields, kind) = line.split_once(" - ")?;
            (kind.split(' ').next() == Some("cgroup2"))
                .then(|| fields.split(' ').nth(4).map(PathBuf::from))?
        })
        .context("no cgroup v2 hierarchy is mounted; `mount -t cgroup2 none DIR` makes one")
}

/// A directory's id, as the kernel's sockets carry it: its inode number.
pub(super) fn id(path: &Path) -> Result<u64> {
    let kind = statfs(path).with_context(|| format!("cgroup {}", path.display()))?;
    if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
        bail!("{} is not in the cgroup v2 hierarchy", path.display());
    }
    let meta = fs::metadata(path).with_context(|| format!("cgroup {}", path.display()))?;
    if !meta.is_dir() {
        bail!("{} is no directory", path.display());
    }
    Ok(meta.ino())
}

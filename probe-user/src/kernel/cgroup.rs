//! Where cgroup v2 is mounted, the ids of its directories, and attaching to one.

use std::{
    fs,
    os::fd::AsFd as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::programs::{CgroupAttachMode, SockOps, sock_ops::SockOpsLinkId};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::sys;

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

/// Attaches a loaded program beside those of others; an error that names who holds the cgroup
/// alone, if that is why it cannot be.
pub(super) fn attach(program: &mut SockOps, path: &Path) -> Result<SockOpsLinkId> {
    let dir = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    // A link's flags are 0, and yet others may attach beside it (bpf_link_create).
    program
        .attach(&dir, CgroupAttachMode::Single)
        .map_err(|error| match sys::sole_sock_ops(dir.as_fd()) {
            Ok(Some(id)) => anyhow!(
                "program {id} holds the cgroup {} for itself alone: it was attached without \
                 BPF_F_ALLOW_MULTI; `bpftool prog show id {id}` says whose it is",
                path.display()
            ),
            _ => anyhow::Error::from(error)
                .context(format!("attaching to the cgroup {}", path.display())),
        })
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

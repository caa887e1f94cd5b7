//! Where cgroup v2 is mounted, the ids of its directories, and who holds one.

use std::{
    fs,
    os::fd::AsFd as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::programs::{CgroupAttachMode, ProgramError};
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

/// How programs are attached: by links, whose flags are 0, and yet others may attach beside them
/// (`bpf_link_create`).
pub(super) const MODE: CgroupAttachMode = CgroupAttachMode::Single;

/// What of a cgroup programs are attached to: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Packets that arrive.
    Ingress = 0,
    /// Packets that leave.
    Egress = 1,
    /// Socket callbacks.
    SockOps = 3,
}

/// Why a program could not be attached to a cgroup: the kernel says no more than "not permitted"
/// where another holds it alone.
pub(super) fn refused(dir: &fs::File, hook: Hook, error: ProgramError) -> anyhow::Error {
    match sys::sole_program(dir.as_fd(), hook as u32) {
        Ok(Some(id)) => anyhow!(
            "program {id} holds this hook of the cgroup for itself alone: it was attached without \
             BPF_F_ALLOW_MULTI; `bpftool prog show id {id}` says whose it is"
        ),
        _ => error.into(),
    }
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

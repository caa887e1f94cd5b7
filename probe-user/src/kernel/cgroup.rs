//! Where cgroup v2 is mounted, the ids of its directories, and attaching to one.

use std::{
    fs,
    os::fd::AsFd as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramError, SockOps,
    cgroup_skb::CgroupSkbLinkId, sock_ops::SockOpsLinkId,
};
use aya_obj::generated::bpf_attach_type;
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

/// How programs are attached: a link's flags are 0, and yet others may attach beside it
/// (`bpf_link_create`).
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

/// Attaches a loaded program for socket callbacks beside those of others; an error that names who
/// holds the cgroup alone, if that is why it cannot be.
pub(super) fn attach(program: &mut SockOps, path: &Path) -> Result<SockOpsLinkId> {
    let dir = open(path)?;
    program
        .attach(&dir, MODE)
        .map_err(|error| explain(error, &dir, bpf_attach_type::BPF_CGROUP_SOCK_OPS, path))
}

/// The same for a program that sees packets.
pub(super) fn attach_to_packets(
    program: &mut CgroupSkb,
    direction: CgroupSkbAttachType,
    path: &Path,
) -> Result<CgroupSkbLinkId> {
    let dir = open(path)?;
    let hook = match direction {
        CgroupSkbAttachType::Ingress => bpf_attach_type::BPF_CGROUP_INET_INGRESS,
        CgroupSkbAttachType::Egress => bpf_attach_type::BPF_CGROUP_INET_EGRESS,
    };
    program
        .attach(&dir, direction, MODE)
        .map_err(|error| explain(error, &dir, hook, path))
}

fn open(path: &Path) -> Result<fs::File> {
    fs::File::open(path).with_context(|| format!("opening {}", path.display()))
}

fn explain(
    error: ProgramError,
    dir: &fs::File,
    hook: bpf_attach_type,
    path: &Path,
) -> anyhow::Error {
    match sys::sole_program(dir.as_fd(), hook) {
        Ok(Some(id)) => anyhow!(
            "program {id} holds the cgroup {} for itself alone: it was attached without \
             BPF_F_ALLOW_MULTI; `bpftool prog show id {id}` says whose it is",
            path.display()
        ),
        _ => anyhow::Error::from(error)
            .context(format!("attaching to the cgroup {}", path.display())),
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

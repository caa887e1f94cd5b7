//! The first process of a guest: mounts, modules, power.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use crate::lab::cleanup;

/// What the lab and weir look for on any host.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
];

/// The kernel's modules, in the order in which they go in.
const MODULES: &str = "/modules";

/// The tools that are in the guest.
const TOOLS: [&str; 3] = ["ip", "tc", "bpftool"];

/// Makes the machine fit for the lab.
///
/// # Errors
/// This is not the first process; a file system or a module is refused.
pub(super) fn prepare() -> Result<()> {
    if std::process::id() != 1 {
        bail!("this is the first process of a guest: `cargo xtask kernels` starts it");
    }
    for (kind, target) in MOUNTS {
        fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
        mount(
            Some(kind),
            target,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount {kind} at {target}"))?;
    }
    let mut modules: Vec<_> = fs::read_dir(MODULES)
        .with_context(|| format!("cannot read {MODULES}"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    modules.sort();
    for module in modules {
        insert(&module)?;
    }
    cleanup::start_with(&TOOLS)
}

fn insert(module: &Path) -> Result<()> {
    let file = File::open(module).with_context(|| format!("cannot open {}", module.display()))?;
    nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty())
        .with_context(|| format!("the kernel refuses the module {}", module.display()))
}

/// Switches the machine off.
///
/// # Errors
/// The kernel refuses.
pub(super) fn power_off() -> Result<()> {
    match reboot(RebootMode::RB_POWER_OFF).context("cannot power off")? {}
}

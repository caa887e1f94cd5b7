//! Debian packages: which programs come from which, and installing those that are missing.

use std::{ffi::OsStr, path::Path, process::Command};

use anyhow::Result;

use super::{Item, Need};
use crate::{
    debian::KEYRING,
    privilege::raised,
    process::{run, succeeds, typed},
    toolchain::find_program,
};

/// A package, the program (or another file, by its full path) it is wanted for, and by whom.
struct Package {
    name: &'static str,
    program: &'static str,
    needs: &'static [Need],
}

const fn package(name: &'static str, program: &'static str, needs: &'static [Need]) -> Package {
    Package {
        name,
        program,
        needs,
    }
}

const LAB: &[Need] = &[Need::Test, Need::Demo, Need::Bench, Need::Qoe];

const TEST: &[Need] = &[Need::Test, Need::Bench, Need::Qoe];
const QOE: &[Need] = &[Need::Qoe];
const KERNELS: &[Need] = &[Need::Kernels];

const ARM64: &[Need] = &[Need::Arm64];

const PACKAGES: &[Package] = &[
    package("gcc", "cc", &[Need::Build]),
    package(
        "iproute2",
        "ip",
        &[
            Need::Test,
            Need::Demo,
            Need::Kernels,
            Need::Bench,
            Need::Qoe,
        ],
    ),
    package("nginx", "nginx", LAB),
    package("nftables", "nft", LAB),
    package("curl", "curl", LAB),
    package("ffmpeg", "ffmpeg", &[Need::Demo, Need::Qoe]),
    package(
        "bpftool",
        "bpftool",
        &[Need::Test, Need::Kernels, Need::Bench, Need::Qoe],
    ),
    package("bpftrace", "bpftrace", TEST),
    package("haproxy", "haproxy", TEST),
    package("nats-server", "nats-server", TEST),
    package("openssl", "openssl", TEST),
    package("prometheus", "prometheus", TEST),
    package("tcpdump", "tcpdump", TEST),
    package("tshark", "tshark", TEST),
    package("chromium", "chromium", QOE),
    package("nodejs", "node", QOE),
    package("npm", "npm", QOE),
    package("binutils", "strip", KERNELS),
    package("cpio", "cpio", KERNELS),
    package("debian-archive-keyring", KEYRING, KERNELS),
    package("kmod", "depmod", KERNELS),
    package("xz-utils", "xz", KERNELS),
    package("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc", ARM64),
    package(
        "libc6-dev-arm64-cross",
        "/usr/aarch64-linux-gnu/lib/crt1.o",
        ARM64,
    ),
];

fn wanted(needs: &[Need]) -> impl Iterator<Item = &'static Package> {
    PACKAGES
        .iter()
        .filter(|package| package.needs.iter().any(|need| needs.contains(need)))
}

pub(super) fn survey(needs: &[Need]) -> Vec<Item> {
    wanted(needs)
        .map(|package| Item {
            name: package.program.to_owned(),
            found: find_program(package.program).map(|path| path.display().to_string()),
            remedy: format!("package {}", package.name),
        })
        .collect()
}

/// Installs the packages of missing programs; those that cannot be are added to `failures`.
pub(super) fn install(needs: &[Need], failures: &mut Vec<String>) -> Result<()> {
    let missing: Vec<_> = wanted(needs)
        .filter(|package| find_program(package.program).is_none())
        .map(|package| package.name)
        .collect();
    if missing.contains(&"nginx") {
        eprintln!(
            "setup: note: Debian starts an nginx service on port 80 when it installs nginx; the \
             tests do not need it: `systemctl disable --now nginx`"
        );
    }
    get(&missing, failures)
}

/// Installs these packages, all at once or, when that fails, one by one.
pub(super) fn get(packages: &[&str], failures: &mut Vec<String>) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if find_program("apt-get").is_none() {
        failures.push(format!(
            "this is no Debian (no apt-get); install by hand: {}",
            packages.join(" ")
        ));
        return Ok(());
    }
    if !packages.iter().all(|package| is_available(package)) {
        update()?;
    }
    if install_together(packages)? || (update()? && install_together(packages)?) {
        return Ok(());
    }
    for package in packages {
        if !install_together(&[package])? {
            failures.push(format!("apt-get could not install {package}"));
        }
    }
    Ok(())
}

/// Whether apt's lists name a version that could be installed.
pub(super) fn is_available(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .output()
        .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// Whether these could be installed without removing anything, by apt's own reckoning.
pub(super) fn fits(packages: &[&str]) -> bool {
    succeeds(
        Command::new("apt-get")
            .args(["install", "--simulate", "--no-remove"])
            .args(["--no-install-recommends"])
            .args(packages),
    )
}

/// Fetches apt's lists; false if that failed.
pub(super) fn update() -> Result<bool> {
    Ok(attempt(apt_get()?.args(["update", "-q"])))
}

fn install_together(packages: &[&str]) -> Result<bool> {
    // --no-remove: what the administrator has installed is not traded for what we want.
    Ok(attempt(
        apt_get()?
            .args([
                "install",
                "-q",
                "-y",
                "--no-remove",
                "--no-install-recommends",
            ])
            .args(packages),
    ))
}

fn apt_get() -> Result<Command> {
    raised(
        Path::new("apt-get"),
        &[("DEBIAN_FRONTEND", OsStr::new("noninteractive"))],
    )
}

fn attempt(command: &mut Command) -> bool {
    eprintln!("setup: {}", typed(command));
    run(command)
        .inspect_err(|error| eprintln!("setup: {error:#}"))
        .is_ok()
}

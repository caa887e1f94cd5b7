//! Building for another architecture than this host's: where the standard library for it comes
//! from, and the cargo that builds with it. The kernel programs need nothing more: BPF is the same
//! everywhere, and `probe-user/build.rs` tells them whose structures they will meet.
//!
//! Two routes, as for the kernel programs: the compiler that cargo uses here, where rustup has
//! added the target; else Debian's `rustc-web`, with its standard library for the other
//! architecture unpacked under `target/`, so that the host need not become multiarch.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    arch::Arch,
    debian::{Archive, Source},
    process::{built_in, cargo, cargo_path, output, run, succeeds, typed, workspace},
    setup::{self, Need},
    toolchain::{Route, find_program},
};

/// What builds for another architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standard {
    /// The compiler that cargo uses has it.
    Added,
    /// Debian's compiler, with this as its sysroot.
    Unpacked { rustc: PathBuf, sysroot: PathBuf },
}

/// Builds a package's programs for `arch`, which may be this host's; returns the directory they
/// are in.
pub(crate) fn build(arch: Arch, profile: &str, args: &[&str]) -> Result<PathBuf> {
    let release = (profile == "release").then_some("--release");
    if arch.is_host() {
        run(cargo().arg("build").args(release).args(args))?;
        return built_in(profile);
    }
    if arch != Arch::Aarch64 {
        bail!(
            "weir is built for {} on such hosts only; elsewhere for aarch64",
            arch.name()
        );
    }
    setup::ensure(&[Need::Build, Need::Arm64])?;
    let standard = find(arch).context("the standard library has gone again")?;
    let mut command = cargo();
    command.args(["build", "--target", arch.target()]);
    command.args(release).args(args);
    let variable = |name: &str| {
        let target = arch.target().to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{target}_{name}")
    };
    command.env(variable("LINKER"), arch.tool("gcc"));
    if let Standard::Unpacked { rustc, sysroot } = standard {
        command.env("RUSTC", rustc);
        let flags = format!("--sysroot={}", sysroot.display());
        command.env(variable("RUSTFLAGS"), flags);
    }
    run(&mut command)?;
    let host = built_in(profile)?;
    let target = host.parent().context("cargo's directory has no parent")?;
    Ok(target.join(arch.target()).join(profile))
}

/// Where the standard library is, in words; `None` if it is not here.
pub(crate) fn found(arch: Arch) -> Option<String> {
    Some(match find(arch)? {
        Standard::Added => format!("{}, added to rustup's compiler", arch.target()),
        Standard::Unpacked { sysroot, .. } => sysroot.display().to_string(),
    })
}

fn find(arch: Arch) -> Option<Standard> {
    let dir = output(
        host_rustc()
            .args(["--print", "target-libdir", "--target"])
            .arg(arch.target()),
    );
    if dir.is_ok_and(|dir| holds_std(Path::new(String::from_utf8_lossy(&dir).trim()))) {
        return Some(Standard::Added);
    }
    let rustc = distro_compiler()?;
    let sysroot = unpack_dir(arch).join("usr");
    let mark = fs::read_to_string(mark(arch)).ok()?;
    (mark == version(&rustc)? && holds_std(&libraries(arch, &sysroot)))
        .then_some(Standard::Unpacked { rustc, sysroot })
}

/// Fetches the standard library.
pub(crate) fn install(arch: Arch) -> Result<()> {
    // Debian's first: its mirror is what the compiler has come from.
    if let Some(rustc) = distro_compiler() {
        return unpack(arch, &rustc)
            .with_context(|| format!("Debian's standard library for {}", arch.name()));
    }
    let Some(rustup) = find_program("rustup") else {
        bail!(
            "no standard library for {}: neither is there Debian's rustc-web, nor a rustup",
            arch.target()
        );
    };
    let mut command = Command::new(rustup);
    command
        .current_dir(workspace())
        .args(["target", "add", arch.target()]);
    eprintln!("setup: {}", typed(&command));
    run(&mut command)
}

fn unpack(arch: Arch, rustc: &Path) -> Result<()> {
    const PACKAGE: &str = "libstd-rust-web-dev";
    let dir = unpack_dir(arch);
    eprintln!(
        "setup: unpacking {PACKAGE}:{} in {}",
        arch.debian(),
        dir.display()
    );
    let _ = fs::remove_dir_all(&dir);
    // A compiler takes no library but that of its own build.
    let installed = output(Command::new("dpkg-query").args([
        "--show",
        "--showformat=${Version}",
        "rustc-web",
    ]))?;
    let installed = String::from_utf8_lossy(&installed);
    let archive = Archive::open(Source::Host, arch, &dir.with_extension("apt"))?;
    archive
        .unpack(&[format!("{PACKAGE}={}", installed.trim())], &dir)
        .with_context(|| {
            format!(
                "this host has rustc-web {installed}; should the archive have moved on: \
                 `apt-get install rustc-web libstd-rust-web-dev-bpf`"
            )
        })?;
    // rustc looks for what runs while it compiles under the same root.
    let host = dir
        .join("usr/lib/rustlib")
        .join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    let own = Path::new("/usr/lib/rustlib").join(host.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(&own, &host)
        .with_context(|| format!("cannot link {}", host.display()))?;
    let version = version(rustc).context("the compiler does not say its version")?;
    fs::write(mark(arch), version).context("noting the compiler's version")
}

/// The compiler that cargo takes: the one beside it.
fn host_rustc() -> Command {
    let beside = cargo_path().with_file_name("rustc");
    let mut command = Command::new(if beside.is_file() {
        beside
    } else {
        "rustc".into()
    });
    command.current_dir(workspace());
    command
}

fn distro_compiler() -> Option<PathBuf> {
    Route::installed()
        .into_iter()
        .find(|route| matches!(route, Route::Distro { .. }))
        .map(|route| route.rustc())
        .filter(|rustc| succeeds(Command::new(rustc).arg("-V")))
}

fn version(rustc: &Path) -> Option<String> {
    let version = output(Command::new(rustc).arg("-vV")).ok()?;
    String::from_utf8(version).ok()
}

fn unpack_dir(arch: Arch) -> PathBuf {
    workspace().join("target/cross").join(arch.name())
}

/// Which compiler the unpacked library is for; written last.
fn mark(arch: Arch) -> PathBuf {
    unpack_dir(arch).join("rustc-version")
}

fn libraries(arch: Arch, sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib").join(arch.target()).join("lib")
}

fn holds_std(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
    })
}

//! What runs machines of either architecture: qemu, as this host has it installed, else Debian's,
//! unpacked under `target/`. Installing it may want something removed (a qemu-utils of another
//! release, say), and what the administrator has installed is not traded for what we want.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    arch::Arch,
    debian::{Archive, Source},
    process::workspace,
    toolchain::find_program,
};

/// The unpacked one runs by its own loader with its own libraries, so these need not fit the
/// host's.
const LOADER: &str = "ld-linux-x86-64.so.2";
/// Where its firmware is.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// What the emulator is called.
pub(crate) fn name(arch: Arch) -> String {
    format!("qemu-system-{}", arch.name())
}

/// The package that has it.
pub(crate) fn package(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86",
        Arch::Aarch64 => "qemu-system-arm",
    }
}

/// Where it is; `None` if it is not here.
pub(crate) fn found(arch: Arch) -> Option<PathBuf> {
    find_program(&name(arch)).or_else(|| unpacked(arch))
}

/// Fetches it without installing anything.
pub(crate) fn unpack(arch: Arch) -> Result<()> {
    if !Arch::X86_64.is_host() {
        bail!("{} can be unpacked on x86_64 hosts only", package(arch));
    }
    let root = root(arch);
    eprintln!(
        "setup: unpacking {} and its libraries in {}",
        package(arch),
        root.display()
    );
    let _ = fs::remove_dir_all(&root);
    let archive = Archive::open(Source::Host, Arch::X86_64, &root.with_extension("apt"))?;
    archive.unpack_whole(&[package(arch)], &root)?;
    fs::write(mark(arch), "").context("noting that it is whole")
}

/// The command that runs it, without arguments of the machine's.
pub(crate) fn command(arch: Arch) -> Result<Command> {
    if let Some(program) = find_program(&name(arch)) {
        return Ok(Command::new(program));
    }
    let program = unpacked(arch).with_context(|| format!("there is no {}", name(arch)))?;
    let root = root(arch);
    let libraries = libraries(&root);
    let search = [libraries.clone(), root.join("usr").join(library_dir())]
        .map(|dir| dir.display().to_string())
        .join(":");
    let mut command = Command::new(libraries.join(LOADER));
    command
        .args(["--library-path", &search])
        .arg(program)
        // Its accelerator is a module, which it would look for beside its loader.
        .env(
            "QEMU_MODULE_DIR",
            root.join("usr").join(library_dir()).join("qemu"),
        );
    for dir in FIRMWARE {
        command.arg("-L").arg(root.join(dir));
    }
    Ok(command)
}

fn unpacked(arch: Arch) -> Option<PathBuf> {
    let program = root(arch).join("usr/bin").join(name(arch));
    (mark(arch).is_file() && program.is_file()).then_some(program)
}

fn root(arch: Arch) -> PathBuf {
    workspace().join("target/emulator").join(arch.name())
}

/// Written last.
fn mark(arch: Arch) -> PathBuf {
    root(arch).join("complete")
}

fn library_dir() -> PathBuf {
    Path::new("lib").join(Arch::X86_64.gnu())
}

fn libraries(root: &Path) -> PathBuf {
    root.join(library_dir())
}

//! Building weir, and running it or one of the lab's programs.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    arch::Arch,
    cross,
    privilege::raised,
    process::{built_in, cargo, replace, run as run_to_end, workspace},
    setup::{self, Need},
};

/// Builds weir, for this host or for another architecture.
pub(crate) fn build(debug: bool, target: Option<Arch>) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let profile = if debug { "debug" } else { "release" };
    let weir = match target {
        Some(arch) => cross::build(arch, profile, &["--package", "weir"])?.join("weir"),
        None if debug => {
            run_to_end(cargo().args(["build", "--package", "weir"]))?;
            built_in(profile)?.join("weir")
        }
        None => release_weir()?,
    };
    eprintln!("built {}", weir.display());
    Ok(())
}

/// Builds weir and becomes it.
pub(crate) fn run(mut args: Vec<OsString>) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let weir = release_weir()?;
    let names_command = |first: &OsString| !first.as_encoded_bytes().starts_with(b"-");
    if !args.first().is_some_and(names_command) {
        args.insert(0, "run".into());
    }
    // The collector only listens; all else looks into the kernel or at the daemon's socket.
    if args[0] == "collect" && args.len() == 1 {
        args.push("--plain-text".into());
    }
    let needs_root = args[0] != "collect" && !args.iter().any(|arg| arg == "--help");
    let mut command = if needs_root {
        raised(&weir, &[])?
    } else {
        std::process::Command::new(&weir)
    };
    Err(replace(command.args(args)))
}

/// Builds weir and a program of `weir-tests`, and becomes it.
pub(crate) fn lab_program(name: &str, need: Need, args: Vec<OsString>) -> Result<()> {
    setup::ensure(&[Need::Build, need])?;
    let weir = release_weir()?;
    let mut command = lab_command(name, &weir)?;
    Err(replace(command.args(args)))
}

/// Builds weir and becomes one of the two truths: that of deliveries, or with `--qoe` that of viewers.
pub(crate) fn truth(mut args: Vec<OsString>) -> Result<()> {
    let given = args.len();
    args.retain(|arg| arg != "--qoe");
    if args.len() == given {
        lab_program("truth", Need::Test, args)
    } else {
        lab_program("truth-qoe", Need::Qoe, args)
    }
}

/// Builds a program of `weir-tests`; the command that runs it as root on this weir.
pub(crate) fn lab_command(name: &str, weir: &Path) -> Result<std::process::Command> {
    run_to_end(cargo().args(["build", "--package", "weir-tests", "--bin", name]))?;
    // Made by this user, so that this user can remove what root leaves in it.
    let kept = workspace().join("target").join(name);
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    let program = built_in("debug")?.join(name);
    let mut command = raised(&program, &[])?;
    command.current_dir(workspace()).arg("--weir").arg(weir);
    Ok(command)
}

/// Builds weir for use, and says where it is.
pub(crate) fn release_weir() -> Result<PathBuf> {
    run_to_end(cargo().args(["build", "--release", "--package", "weir"]))?;
    Ok(built_in("release")?.join("weir"))
}

//! `cargo xtask lint`: formatting, clippy on the host and on the kernel programs, cargo-deny.

use std::{env::consts::ARCH, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    process::{cargo, cargo_path, run as run_to_end, workspace},
    setup::{self, Need},
    steps,
    toolchain::{BENCH_OBJECT, Job, OBJECT, Route, Toolchain, VARIANTS, host_bpf_target},
};

/// Seconds until a network that does not answer is given up.
const FETCH_LIMIT_S: &str = "120";

/// Runs all of them.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Need::Build, Need::Lint])?;
    steps::run(vec![
        (
            "formatting",
            Box::new(|| run_to_end(cargo().args(["fmt", "--all", "--check"]))),
        ),
        ("clippy", Box::new(clippy)),
        ("clippy on the kernel programs", Box::new(clippy_bpf)),
        ("cargo deny", Box::new(deny)),
    ])
}

/// Where a route's own clippy is: cargo would take that of the host's compiler.
pub(crate) fn bpf_clippy(route: &Route) -> PathBuf {
    match route {
        Route::Distro { .. } => PathBuf::from("/usr/bin/cargo-clippy"),
        Route::Nightly { dir } => dir.join("bin/cargo-clippy"),
    }
}

fn clippy() -> Result<()> {
    run_to_end(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn clippy_bpf() -> Result<()> {
    let toolchain = Toolchain::detect()?;
    let clippy = bpf_clippy(&toolchain.route);
    let bench = std::iter::once(("programs", BENCH_OBJECT));
    let variants = VARIANTS.iter().map(|(features, _)| (*features, OBJECT));
    for (features, object) in variants.chain(bench) {
        let job = Job {
            object,
            features,
            target: host_bpf_target(),
            target_arch: ARCH,
            target_dir: &workspace().join("target/bpf-clippy"),
            extra_flags: &["-Dwarnings"],
        };
        let mut command = toolchain.command(&clippy, "clippy", workspace(), &job);
        run_to_end(command.env("CARGO", toolchain.cargo(&cargo_path())))?;
    }
    Ok(())
}

/// Advisories come from a repository on GitHub, which not every machine reaches; all else is
/// decided from what is here.
fn deny() -> Result<()> {
    run_to_end(cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    let mut fetch = Command::new("timeout");
    fetch.arg(FETCH_LIMIT_S).arg(cargo_path());
    fetch.args(["deny", "fetch", "db"]).current_dir(workspace());
    if let Err(error) = run_to_end(&mut fetch) {
        eprintln!(
            "WARNING: security advisories were NOT checked: their database could not be \
             fetched: {error:#}"
        );
        return Ok(());
    }
    run_to_end(cargo().args(["deny", "check", "--disable-fetch", "advisories"]))
}

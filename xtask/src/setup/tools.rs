//! Cargo's helpers for `cargo xtask lint`: rustfmt, clippy on both compilers, cargo-deny.

use std::process::Command;

use anyhow::{Result, bail};

use super::{Item, apt};
use crate::{
    lint::bpf_clippy,
    process::{cargo, run, succeeds, typed},
    toolchain::{Route, find_program, home_of},
};

/// Known to work with the settings in deny.toml.
const DENY_VERSION: &str = "0.20.2";

pub(super) fn survey() -> Vec<Item> {
    let item = |name: &str, found: bool, remedy: &str| Item {
        name: name.to_owned(),
        found: found.then(|| "there".to_owned()),
        remedy: remedy.to_owned(),
    };
    vec![
        item(
            "rustfmt",
            component_works("fmt"),
            "rustup component rustfmt",
        ),
        item(
            "clippy",
            component_works("clippy"),
            "rustup component clippy",
        ),
        item(
            "BPF clippy",
            has_bpf_clippy(),
            "Debian's rust-web-clippy, or the nightly's component",
        ),
        item("cargo-deny", has_deny(), "cargo install (some minutes)"),
    ]
}

pub(super) fn install(failures: &mut Vec<String>) {
    let mut attempt = |there: bool, install: &dyn Fn(&mut Vec<String>) -> Result<()>| {
        if !there && let Err(error) = install(failures) {
            failures.push(format!("{error:#}"));
        }
    };
    attempt(component_works("fmt"), &|_| add_component("rustfmt", None));
    attempt(component_works("clippy"), &|_| {
        add_component("clippy", None)
    });
    attempt(has_bpf_clippy(), &install_bpf_clippy);
    attempt(has_deny(), &|_| install_deny());
}

fn component_works(subcommand: &str) -> bool {
    succeeds(cargo().args([subcommand, "--version"]))
}

fn has_bpf_clippy() -> bool {
    Route::installed()
        .first()
        .is_some_and(|route| bpf_clippy(route).is_file())
}

/// Whether cargo-deny is there: in PATH, or where cargo looks for its subcommands first.
fn has_deny() -> bool {
    find_program("cargo-deny").is_some()
        || home_of("CARGO_HOME", ".cargo").is_some_and(|home| home.join("bin/cargo-deny").is_file())
}

fn add_component(name: &str, toolchain: Option<&str>) -> Result<()> {
    let Some(rustup) = find_program("rustup") else {
        bail!("{name} is missing and there is no rustup to add it with");
    };
    let mut command = Command::new(rustup);
    command.args(["component", "add", name]);
    if let Some(toolchain) = toolchain {
        command.args(["--toolchain", toolchain]);
    }
    eprintln!("setup: {}", typed(&command));
    run(&mut command)
}

fn install_bpf_clippy(failures: &mut Vec<String>) -> Result<()> {
    match Route::installed().first() {
        Some(Route::Distro { .. }) => apt::get(&["rust-web-clippy"], failures),
        Some(Route::Nightly { dir }) => {
            let name = dir
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            add_component("clippy", name.as_deref())
        }
        None => bail!("clippy for BPF comes with a BPF compiler, and there is none"),
    }
}

fn install_deny() -> Result<()> {
    let mut command = cargo();
    command.args([
        "install",
        "cargo-deny",
        "--version",
        DENY_VERSION,
        "--locked",
    ]);
    eprintln!("setup: {}", typed(&command));
    run(&mut command)
}

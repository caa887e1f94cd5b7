//! Raising privileges, for one program at a time: nothing is built or downloaded as root, and
//! nothing of root's is left in the target directory.

use std::{env, ffi::OsStr, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::toolchain::find_program;

/// What is handed through sudo, which keeps almost nothing; beside these, all `WEIR_*`.
const KEPT: [&str; 7] = [
    "COLORTERM",
    "LANG",
    "LC_ALL",
    "NO_COLOR",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TERM",
];

/// A command that runs `program` as root: directly if this is root, else by sudo.
pub(crate) fn raised(program: &Path, variables: &[(&str, &OsStr)]) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        return Ok(command);
    }
    let Some(sudo) = find_program("sudo") else {
        bail!(
            "{} needs root: run this as root, or install sudo",
            program.display()
        );
    };
    let mut command = Command::new(sudo);
    command.args(["--", "env"]);
    let kept = env::vars_os().filter(|(name, _)| {
        name.to_str()
            .is_some_and(|name| KEPT.contains(&name) || name.starts_with("WEIR_"))
    });
    for (name, value) in kept {
        command.arg(assignment(&name, &value));
    }
    command.arg(assignment("PATH".as_ref(), &administrators_path()));
    for (name, value) in variables {
        command.arg(assignment(name.as_ref(), value));
    }
    command.arg(program);
    Ok(command)
}

/// Whether this is root already.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where root finds programs: an ordinary user's PATH on Debian leaves out where nginx, nft and
/// bpftool are.
fn administrators_path() -> std::ffi::OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

fn assignment(name: &OsStr, value: &OsStr) -> std::ffi::OsString {
    let mut assignment = name.to_os_string();
    assignment.push("=");
    assignment.push(value);
    assignment
}

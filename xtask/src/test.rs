//! `cargo xtask test`: what needs no privileges first, then what runs on the kernel.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    chores::{lab_command, release_weir},
    privilege::raised,
    process::{cargo, output, run as run_to_end, succeeds, workspace},
    setup::{self, Need},
    steps,
};

/// The steps, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// All crates but weir-tests, without privileges
    Host,
    /// weir-tests: the lab in network namespaces, as root
    Kernel,
    /// `truth --quick` of each way of measuring, as root
    Truth,
    /// `truth --qoe --quick`: real players in a browser, as root
    Qoe,
}

/// Sets up and runs the steps, or one of them.
pub(crate) fn run(only: Option<Step>) -> Result<()> {
    let all: Vec<(Step, steps::Step<'_>)> = vec![
        (Step::Host, ("tests on the host", Box::new(host))),
        (Step::Kernel, ("tests on the kernel", Box::new(kernel))),
        (Step::Truth, ("truth, quick", Box::new(|| truth("exact")))),
        (
            Step::Truth,
            ("truth, quick, portable", Box::new(|| truth("portable"))),
        ),
        (
            Step::Truth,
            ("truth, quick, polled", Box::new(|| truth("polled"))),
        ),
        (Step::Qoe, ("truth of viewers, quick", Box::new(qoe))),
    ];
    let mut chosen: Vec<steps::Step<'_>> = vec![(
        "setup",
        Box::new(|| setup::ensure(&[Need::Build, Need::Test, Need::Qoe])),
    )];
    for (step, run) in all {
        if only.is_none_or(|only| only == step) {
            chosen.push(run);
        } else {
            eprintln!("left out, because of --only: {}", run.0);
        }
    }
    steps::run(chosen)
}

fn host() -> Result<()> {
    let which = ["--workspace", "--exclude", "weir-tests"];
    if succeeds(cargo().args(["nextest", "--version"])) {
        run_to_end(cargo().args(["nextest", "run"]).args(which))?;
        // nextest leaves documentation's examples out.
        return run_to_end(cargo().args(["test", "--doc"]).args(which));
    }
    run_to_end(cargo().arg("test").args(which))
}

/// The tests are built as this user and only run as root.
fn kernel() -> Result<()> {
    let weir = release_weir()?;
    let messages = output(cargo().args([
        "test",
        "--package",
        "weir-tests",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]))?;
    let programs = test_programs(&messages)?;
    if programs.is_empty() {
        bail!("cargo built no test program for weir-tests");
    }
    for program in programs {
        run_to_end(&mut test_command(&program, &weir)?)?;
    }
    Ok(())
}

fn test_command(program: &Path, weir: &Path) -> Result<Command> {
    let directory = workspace().join("tests");
    let variables = [
        ("WEIR_BIN", weir.as_os_str()),
        ("CARGO_MANIFEST_DIR", directory.as_os_str()),
    ];
    let mut command = raised(program, &variables)?;
    command.current_dir(directory);
    Ok(command)
}

/// The executables in cargo's messages, one JSON object a line.
fn test_programs(messages: &[u8]) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for line in messages.split(|&byte| byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let message: Value = serde_json::from_slice(line).context("reading cargo's messages")?;
        if message["profile"]["test"] == true
            && let Some(executable) = message["executable"].as_str()
        {
            programs.push(PathBuf::from(executable));
        }
    }
    Ok(programs)
}

fn truth(backend: &str) -> Result<()> {
    let weir = release_weir()?;
    let mut command = lab_command("truth", &weir)?;
    command.args(["--quick", "--backend", backend, "--out"]);
    run_to_end(command.arg(workspace().join("target/truth").join(backend)))
}

fn qoe() -> Result<()> {
    let weir = release_weir()?;
    run_to_end(lab_command("truth-qoe", &weir)?.arg("--quick"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_executables_are_taken_from_cargos_messages() {
        let messages =
            br#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/truth"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/deps/lab-1"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":null}
{"reason":"build-finished","success":true}
"#;
        let programs = test_programs(messages).expect("well-formed");
        assert_eq!(programs, [PathBuf::from("/t/deps/lab-1")]);
    }

    #[test]
    fn a_line_that_is_no_message_is_an_error() {
        assert!(test_programs(b"Compiling weir\n").is_err());
    }
}

//! weir on another kernel: what runs as the first process of a guest, makes the machine fit for
//! the lab, tries weir in it, and says check by check how that went. The guest itself is made and
//! started by `cargo xtask kernels`.

mod checks;
mod expected;
mod gate;
mod init;
mod keeping;
mod stage;

use std::fs::File;
use std::io::Write;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::record::{Diagnosis, Probe, Rung};
use crate::watched::binary;
use crate::weir::doctor;
use expected::{Backend, CHECKS, Check};
use stage::Stage;

/// Names where findings go: the second serial line, a JSON object each.
const REPORT_ENV: &str = "WEIR_REPORT";

/// What the guest says of one check.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// The way of measuring, or [`GATE`].
    backend: &'static str,
    check: &'static str,
    verdict: Verdict,
    /// Why it is not ok, or what was measured.
    said: String,
}

/// In a backend's place: what measures nothing.
const GATE: &str = "gate";

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It does not hold, for want of a hook that this kernel lacks and `weir doctor` says so.
    Lost,
    Fail,
}

/// What the guest says last: nothing is missing.
#[derive(Clone, Debug, Serialize)]
struct Done {
    done: bool,
}

/// Runs every check, then powers the machine off.
///
/// # Errors
/// This is no guest, or the machine cannot be made fit.
pub fn run() -> Result<()> {
    init::prepare()?;
    let line = std::env::var(REPORT_ENV).context(REPORT_ENV)?;
    let mut report = File::options()
        .write(true)
        .open(&line)
        .with_context(|| format!("cannot open {line}"))?;
    check(&mut report)?;
    say(&mut report, &Done { done: true })?;
    drop(report);
    init::power_off()
}

/// Every backend, one after the other: each has the machine for itself.
fn check(report: &mut File) -> Result<()> {
    let Diagnosis { rungs, gate, .. } = doctor(&binary())?;
    for backend in Backend::ALL {
        let rung = rungs.iter().find(|rung| rung.backend == backend.name());
        let finding = match rung {
            Some(rung) => judge_doctor(backend, rung),
            None => Finding {
                backend: backend.name(),
                check: "doctor",
                verdict: Verdict::Fail,
                said: "says nothing of this backend".to_owned(),
            },
        };
        say(report, &finding)?;
        if let Some(rung) = rung.filter(|rung| rung.works) {
            check_one(report, backend, rung)?;
        }
    }
    check_gate(report, &gate)
}

/// The gate, which every kernel with eBPF for sockets has.
fn check_gate(report: &mut File, probes: &[Probe]) -> Result<()> {
    let mut tell = |check, tried: Result<String>| {
        let (verdict, said) = match tried {
            Ok(said) => (Verdict::Ok, said),
            Err(error) => (Verdict::Fail, format!("{error:#}")),
        };
        let finding = Finding {
            backend: GATE,
            check,
            verdict,
            said,
        };
        say(report, &finding)
    };
    tell("doctor", gate::doctor(probes))?;
    let mut stand = gate::Stand::new()?;
    for (name, run) in gate::CHECKS {
        tell(name, run(&mut stand))?;
    }
    Ok(())
}

fn check_one(report: &mut File, backend: Backend, rung: &Rung) -> Result<()> {
    let mut stage = Stage::new(backend)?;
    for check in CHECKS {
        let (verdict, said) = match check.is_beyond(backend) {
            Some(why) => (Verdict::Lost, why.to_owned()),
            None => attempt(check, &mut stage, rung),
        };
        let finding = Finding {
            backend: backend.name(),
            check: check.name,
            verdict,
            said,
        };
        say(report, &finding)?;
    }
    Ok(())
}

fn attempt(check: &Check, stage: &mut Stage, rung: &Rung) -> (Verdict, String) {
    match (check.run)(stage) {
        Ok(said) => (Verdict::Ok, said),
        Err(error) => match check.missing(rung).or_else(|| coarse(stage)) {
            Some(lost) => (Verdict::Lost, format!("{lost} ({error:#})")),
            None => (Verdict::Fail, format!("{error:#}")),
        },
    }
}

/// Whether this machine is too slow for what is expected, by the daemon's own word.
fn coarse(stage: &Stage) -> Option<String> {
    let left_out = stage.looks_left_out().ok().filter(|count| *count > 0)?;
    Some(format!(
        "looking takes so long here that {left_out} looks were left out"
    ))
}

/// A kernel without a hook loses something; a program that the kernel has the hook for and
/// refuses is a fault of weir's.
fn judge_doctor(backend: Backend, rung: &Rung) -> Finding {
    let tell = |verdict: &str| {
        rung.probes
            .iter()
            .filter(|probe| probe.verdict == verdict)
            .map(|probe| format!("{}: {}", probe.name, probe.reason))
            .collect::<Vec<_>>()
    };
    let (broken, unsupported) = (tell("broken"), tell("unsupported"));
    let (verdict, said) = if !broken.is_empty() {
        (Verdict::Fail, broken.join("; "))
    } else if !rung.works {
        (Verdict::Fail, rung.reason.clone())
    } else if unsupported.is_empty() {
        (Verdict::Ok, String::new())
    } else {
        (Verdict::Lost, unsupported.join("; "))
    };
    Finding {
        backend: backend.name(),
        check: "doctor",
        verdict,
        said,
    }
}

fn say(report: &mut File, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    report
        .write_all(&line)
        .context("cannot write to the second serial line")
}

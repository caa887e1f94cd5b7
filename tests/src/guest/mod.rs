//! weir on another kernel: what runs as the first process of a guest, makes the machine fit for
//! the lab, tries weir in it, and says check by check how that went. The guest itself is made and
//! started by `cargo xtask kernels`.

mod checks;
mod init;
mod stage;

use std::fs::File;
use std::io::Write;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::record::Diagnosis;
use crate::watched::binary;
use crate::weir::doctor;
use checks::CHECKS;
use stage::Stage;

/// Names where findings go: the second serial line, a JSON object each.
const REPORT_ENV: &str = "WEIR_REPORT";

/// What the guest says of one check.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    /// Why it is not ok, or what was measured.
    said: String,
}

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

fn check(report: &mut File) -> Result<()> {
    let diagnosis = doctor(&binary())?;
    say(report, &judge_doctor(&diagnosis))?;
    if diagnosis.backend.is_none() {
        return Ok(());
    }
    let mut stage = Stage::new()?;
    for check in CHECKS {
        let finding = match (check.run)(&mut stage) {
            Ok(said) => Finding {
                check: check.name,
                verdict: Verdict::Ok,
                said,
            },
            Err(error) => match check.missing(&diagnosis) {
                Some(lost) => Finding {
                    check: check.name,
                    verdict: Verdict::Lost,
                    said: format!("{lost} ({error:#})"),
                },
                None => Finding {
                    check: check.name,
                    verdict: Verdict::Fail,
                    said: format!("{error:#}"),
                },
            },
        };
        say(report, &finding)?;
    }
    Ok(())
}

/// A kernel without a hook loses something; a program that the kernel has the hook for and
/// refuses is a fault of weir's.
fn judge_doctor(diagnosis: &Diagnosis) -> Finding {
    let tell = |verdict: &str| {
        diagnosis
            .probes
            .iter()
            .filter(|probe| probe.verdict == verdict)
            .map(|probe| format!("{}: {}", probe.name, probe.reason))
            .collect::<Vec<_>>()
    };
    let (broken, unsupported) = (tell("broken"), tell("unsupported"));
    let verdict = if !broken.is_empty() || diagnosis.backend.is_none() {
        Verdict::Fail
    } else if unsupported.is_empty() {
        Verdict::Ok
    } else {
        Verdict::Lost
    };
    let words = if broken.is_empty() {
        unsupported
    } else {
        broken
    };
    let mut said = words.join("; ");
    if said.is_empty() {
        said = format!("backend {:?}", diagnosis.backend);
    }
    Finding {
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

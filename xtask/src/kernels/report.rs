//! What the guests said: a table of kernels and checks, and the same as JSON.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What all guests said.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) kernels: Vec<Outcome>,
}

/// What one guest said.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    name: String,
    release: String,
    took: Duration,
    findings: Vec<Finding>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    check: String,
    verdict: Verdict,
    said: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Lost,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Lost => "lost",
            Self::Fail => "FAIL",
        }
    }
}

impl Outcome {
    /// Reads the guest's lines; if they break off, that is a failed check of its own.
    pub(super) fn read(name: &str, release: &str, took: Duration, said: &str) -> Result<Self> {
        let mut findings = Vec::new();
        let mut done = false;
        for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let value: Value = serde_json::from_str(line)
                .with_context(|| format!("the guest said what is no JSON: {line}"))?;
            done |= value["done"] == true;
            if let Some(check) = value["check"].as_str() {
                findings.push(Finding {
                    check: check.to_owned(),
                    verdict: match value["verdict"].as_str() {
                        Some("ok") => Verdict::Ok,
                        Some("lost") => Verdict::Lost,
                        _ => Verdict::Fail,
                    },
                    said: value["said"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
        if !done {
            findings.push(Finding {
                check: "guest".to_owned(),
                verdict: Verdict::Fail,
                said: format!("ended early: see target/kernels/{name}/console.log"),
            });
        }
        Ok(Self {
            name: name.to_owned(),
            release: release.to_owned(),
            took,
            findings,
        })
    }

    fn find(&self, check: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.check == check)
    }
}

impl Report {
    /// The report as it is kept.
    pub(super) fn json(&self) -> Result<Vec<u8>> {
        let kernels: Vec<_> = self
            .kernels
            .iter()
            .map(|kernel| {
                let checks: Vec<_> = kernel
                    .findings
                    .iter()
                    .map(|finding| {
                        json!({
                            "check": finding.check,
                            "verdict": finding.verdict.word(),
                            "said": finding.said,
                        })
                    })
                    .collect();
                json!({
                    "kernel": kernel.name,
                    "release": kernel.release,
                    "seconds": kernel.took.as_secs_f64(),
                    "checks": checks,
                })
            })
            .collect();
        Ok(serde_json::to_vec_pretty(&json!({ "kernels": kernels }))?)
    }

    /// An error that names the kernels on which a check failed.
    pub(super) fn verdict(&self) -> Result<()> {
        let failed: Vec<_> = self
            .kernels
            .iter()
            .filter(|kernel| kernel.findings.iter().any(|f| f.verdict == Verdict::Fail))
            .map(|kernel| kernel.release.as_str())
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("weir failed on {}", failed.join(", "))
    }

    /// Every check that any guest named, in the order of the one that named the most.
    fn checks(&self) -> Vec<&str> {
        let fullest = self.kernels.iter().max_by_key(|k| k.findings.len());
        let mut checks: Vec<_> = fullest
            .into_iter()
            .flat_map(|kernel| &kernel.findings)
            .map(|finding| finding.check.as_str())
            .collect();
        for finding in self.kernels.iter().flat_map(|kernel| &kernel.findings) {
            if !checks.contains(&finding.check.as_str()) {
                checks.push(&finding.check);
            }
        }
        checks
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12}", "")?;
        for kernel in &self.kernels {
            write!(f, " {:<10}", kernel.name)?;
        }
        for check in self.checks() {
            write!(f, "\n{check:<12}")?;
            for kernel in &self.kernels {
                let word = kernel.find(check).map_or("-", |found| found.verdict.word());
                write!(f, " {word:<10}")?;
            }
        }
        write!(f, "\n{:<12}", "seconds")?;
        for kernel in &self.kernels {
            write!(f, " {:<10.1}", kernel.took.as_secs_f64())?;
        }
        writeln!(f, "\n")?;
        for kernel in &self.kernels {
            writeln!(f, "{}", kernel.release)?;
            for finding in kernel.findings.iter().filter(|f| !f.said.is_empty()) {
                let word = finding.verdict.word();
                writeln!(f, "  {word:<5} {}: {}", finding.check, finding.said)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "{\"check\":\"doctor\",\"verdict\":\"ok\",\"said\":\"\"}\r\n\
                        {\"check\":\"late\",\"verdict\":\"lost\",\"said\":\"no iterator\"}\r\n";

    fn report(said: &str) -> Report {
        let outcome = Outcome::read("6.1", "6.1.0-1", Duration::from_secs(9), said);
        Report {
            kernels: vec![outcome.expect("well-formed")],
        }
    }

    #[test]
    fn what_is_lost_is_shown_and_no_failure() {
        let report = report(&format!("{SAID}{{\"done\":true}}\n"));
        assert!(report.verdict().is_ok());
        assert!(report.to_string().contains("lost  late: no iterator"));
    }

    #[test]
    fn a_guest_that_breaks_off_has_failed() {
        let report = report(SAID);
        let error = report.verdict().expect_err("it broke off");
        assert!(error.to_string().contains("6.1.0-1"), "{error}");
    }

    #[test]
    fn a_verdict_of_another_kind_is_a_failure() {
        let said = "{\"check\":\"late\",\"verdict\":\"fine\"}\n{\"done\":true}\n";
        assert!(report(said).verdict().is_err());
    }
}

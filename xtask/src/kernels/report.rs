//! What the guests said: for each backend a table of kernels and checks, and the same as JSON.

use std::{cmp::Reverse, fmt, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// In a backend's place, where it is the machine itself that failed.
const GUEST: &str = "guest";

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
    /// The way of measuring.
    backend: String,
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
                    backend: value["backend"].as_str().unwrap_or_default().to_owned(),
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
                backend: GUEST.to_owned(),
                check: "power off".to_owned(),
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

    fn find(&self, backend: &str, check: &str) -> Option<&Finding> {
        self.findings
            .iter()
            .find(|finding| finding.backend == backend && finding.check == check)
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
                            "backend": finding.backend,
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

    /// Every backend and check that any guest named, in the order of the one that named the most.
    fn rows(&self) -> Vec<(&str, &str)> {
        let mut kernels: Vec<_> = self.kernels.iter().collect();
        kernels.sort_by_key(|kernel| Reverse(kernel.findings.len()));
        let mut rows = Vec::new();
        for finding in kernels.iter().flat_map(|kernel| &kernel.findings) {
            let row = (finding.backend.as_str(), finding.check.as_str());
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        // Those of one backend together, in the order in which the backends came.
        let order: Vec<_> = rows.iter().map(|(backend, _)| *backend).collect();
        rows.sort_by_key(|(backend, _)| order.iter().position(|of| of == backend));
        rows
    }

    fn line(
        &self,
        f: &mut fmt::Formatter<'_>,
        label: &str,
        cell: impl Fn(&Outcome) -> String,
    ) -> fmt::Result {
        write!(f, "{label:<14}")?;
        for kernel in &self.kernels {
            write!(f, " {:<12}", cell(kernel))?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut block = None;
        for (backend, check) in self.rows() {
            if block != Some(backend) {
                if block.is_some() {
                    writeln!(f)?;
                }
                self.line(f, backend, |kernel| kernel.name.clone())?;
                block = Some(backend);
            }
            self.line(f, &format!("  {check}"), |kernel| {
                let found = kernel.find(backend, check);
                found.map_or("-", |found| found.verdict.word()).to_owned()
            })?;
        }
        writeln!(f)?;
        self.line(f, "seconds", |kernel| {
            format!("{:.1}", kernel.took.as_secs_f64())
        })?;
        writeln!(f)?;
        for kernel in &self.kernels {
            writeln!(f, "{}", kernel.release)?;
            for finding in kernel.findings.iter().filter(|f| !f.said.is_empty()) {
                writeln!(
                    f,
                    "  {:<5} {}, {}: {}",
                    finding.verdict.word(),
                    finding.backend,
                    finding.check,
                    gist(&finding.said)
                )?;
            }
        }
        Ok(())
    }
}

/// The beginning of what was said, and its last line: between them may be a verifier's whole log,
/// which the report keeps.
fn gist(said: &str) -> String {
    const CHARS: usize = 240;
    let cut = |line: &str| match line.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line.to_owned(),
    };
    let mut lines = said.lines().filter(|line| !line.trim().is_empty());
    let first = cut(lines.next().unwrap_or_default());
    match lines.next_back() {
        Some(last) => format!("{first} ... {}", cut(last)),
        None => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "{\"backend\":\"exact\",\"check\":\"doctor\",\"verdict\":\"ok\",\"said\":\"\"}\r\n\
                        {\"backend\":\"exact\",\"check\":\"late\",\"verdict\":\"lost\",\"said\":\"no iterator\"}\r\n";

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
        assert!(
            report
                .to_string()
                .contains("lost  exact, late: no iterator")
        );
    }

    #[test]
    fn of_a_verifiers_log_the_first_and_the_last_line_are_shown() {
        assert_eq!(
            gist("refused: 0: r1\n1: r2\n\n: no"),
            "refused: 0: r1 ... : no"
        );
        assert_eq!(gist("54 segments"), "54 segments");
    }

    #[test]
    fn backends_have_a_table_each() {
        let polled = "{\"backend\":\"polled\",\"check\":\"doctor\",\"verdict\":\"ok\"}\n";
        let report = report(&format!("{SAID}{polled}{{\"done\":true}}\n"));
        let rows = [("exact", "doctor"), ("exact", "late"), ("polled", "doctor")];
        assert_eq!(report.rows(), rows);
        let text = report.to_string();
        assert!(text.contains("polled         6.1"), "{text}");
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

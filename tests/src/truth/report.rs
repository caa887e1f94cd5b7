//! The table, the report file, and the verdict.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::compare::Comparison;
use super::measure::Outcome;
use super::promise::Backend;
use crate::record::Losses;

/// Least share of each time within 1 ms.
pub const LEAST_SHARE: f64 = 0.99;
/// One of so many deliveries may have crossed its request.
const CROSSED_OF: u64 = 100;
/// Differences printed per scenario; the report file has all.
const SHOWN: usize = 8;

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version under test, as it calls itself.
    pub weir: Option<String>,
    /// `uname -r`.
    pub kernel: String,
    /// The way of measuring, and so the promise.
    pub backend: Backend,
    /// Sums over the scenarios.
    pub total: Comparison,
    /// Each.
    pub scenarios: Vec<Outcome>,
    /// Weir's own losses.
    pub losses: Option<Losses>,
    /// Bounds that do not hold; empty: all do.
    pub failures: Vec<String>,
}

impl Report {
    /// Adds up and judges.
    pub fn new(
        weir: Option<String>,
        kernel: String,
        backend: Backend,
        scenarios: Vec<Outcome>,
        losses: Option<Losses>,
        mut failures: Vec<String>,
    ) -> Self {
        let mut total = Comparison::default();
        for outcome in &scenarios {
            total.merge(&outcome.comparison);
            judge_retransmissions(outcome, &mut failures);
            if let Some(losses) = &outcome.losses {
                judge_losses(losses, &mut failures);
            }
        }
        if weir.is_some() {
            judge(&total, &mut failures);
        }
        if let Some(losses) = &losses {
            judge_losses(losses, &mut failures);
        }
        Self {
            weir,
            kernel,
            backend,
            total,
            scenarios,
            losses,
            failures,
        }
    }

    /// Writes the report file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot serialise the report")?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The closing lines: sums, losses and the verdict.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let deliveries = self.total.witnessed;
        let _ = writeln!(
            text,
            "\n{deliveries} deliveries in {} scenarios",
            self.scenarios.len()
        );
        if self.weir.is_some() {
            let _ = writeln!(
                text,
                "unmatched {}, invented {}, bytes differ {}, phase differs {}, kind differs {}, \
                 totals differ {}, handshakes merged {}, crossed {}, bounded times {}",
                self.total.unmatched,
                self.total.invented,
                self.total.bytes_differ,
                self.total.phase_differs,
                self.total.kind_differs,
                self.total.totals_differ,
                self.total.merged,
                self.total.crossed,
                self.total.bounded,
            );
            for (name, measure) in self.total.measures() {
                let _ = writeln!(
                    text,
                    "{name:<12} {:>8.3} % within 1 ms of {}, worst {:.3} ms, one-sided {}; bounds {}, \
                     broken {}",
                    measure.share() * 100.0,
                    measure.compared,
                    measure.worst_us as f64 / 1e3,
                    measure.one_sided,
                    measure.bounds,
                    measure.bounds_broken,
                );
            }
        }
        let sum = |count: fn(&Outcome) -> u64| self.scenarios.iter().map(count).sum::<u64>();
        let _ = writeln!(
            text,
            "retransmitted: TcpRetransSegs {}, sockets at close {}, capture {}{} (SYN-ACK in each: {})",
            sum(|o| o.retransmitted.namespace),
            sum(|o| o.retransmitted.sockets),
            sum(|o| o.retransmitted.capture),
            if self.weir.is_some() {
                format!(
                    ", weir {}",
                    sum(|o| o.retransmitted.weir.unwrap_or_default())
                )
            } else {
                String::new()
            },
            sum(|o| o.retransmitted.synack),
        );
        if let Some(losses) = &self.losses {
            let _ = writeln!(
                text,
                "weir lost: hot ring {}, bulk ring {}, storage {}, half-open {}, evicted {}, malformed {}, followers {}; programs skipped {}",
                losses.hot.ring_full,
                losses.bulk.ring_full,
                losses.sessions_storage_refused,
                losses.half_open_refused,
                losses.sessions_evicted,
                losses.records_malformed,
                losses.followers_dropped,
                losses.programs_skipped,
            );
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        let verdict = if self.failures.is_empty() {
            "true"
        } else {
            "NOT TRUE"
        };
        let _ = writeln!(text, "{verdict}");
        text
    }
}

/// The table's heading.
pub fn heading() -> String {
    format!(
        "{:<52} {:>5} {:>5} {:>5} {:>5} {:>7} {:>7} {:>7} {:>7} {:>9} {:>5} {:>6} {:>6} {:>6} {:>6} {:>5}",
        "scenario",
        "truth",
        "weir",
        "miss",
        "inv",
        "req<1ms",
        "fb<1ms",
        "ack<1ms",
        "end<1ms",
        "worst ms",
        "bytes",
        "nstat",
        "socks",
        "pcap",
        "weir",
        "s"
    )
}

/// One line of the table, and what differs under it.
pub fn line(outcome: &Outcome) -> String {
    let found = &outcome.comparison;
    let worst = found
        .measures()
        .iter()
        .map(|(_, measure)| measure.worst_us)
        .max()
        .unwrap_or(0);
    let share = |n: usize| format!("{:.2}", found.measures()[n].1.share() * 100.0);
    let retransmitted = &outcome.retransmitted;
    let mut text = format!(
        "{:<52} {:>5} {:>5} {:>5} {:>5} {:>7} {:>7} {:>7} {:>7} {:>9.3} {:>5} {:>6} {:>6} {:>6} {:>6} {:>5.1}",
        outcome.name,
        found.witnessed,
        found.reported,
        found.unmatched,
        found.invented,
        share(0),
        share(1),
        share(2),
        share(3),
        worst as f64 / 1e3,
        found.bytes_differ,
        retransmitted.namespace,
        retransmitted.sockets,
        retransmitted.capture,
        retransmitted
            .weir
            .map_or("-".into(), |count| count.to_string()),
        outcome.seconds,
    );
    for difference in found.differences.iter().take(SHOWN) {
        let _ = write!(text, "\n    {difference}");
    }
    if found.differences.len() > SHOWN {
        let _ = write!(
            text,
            "\n    ... and {} more",
            found.differences.len() - SHOWN
        );
    }
    if let Some(kept) = &outcome.kept {
        let _ = write!(text, "\n    capture: {kept}");
    }
    text
}

fn judge(total: &Comparison, failures: &mut Vec<String>) {
    for (what, count) in [
        ("deliveries of the capture are not in weir", total.unmatched),
        ("deliveries of weir are not in the capture", total.invented),
        ("deliveries have other bytes", total.bytes_differ),
        ("deliveries ended otherwise", total.phase_differs),
        ("deliveries are of another kind", total.kind_differs),
        ("sessions have other totals", total.totals_differ),
    ] {
        if count > 0 {
            failures.push(format!("{count} {what}"));
        }
    }
    if total.crossed > total.witnessed / CROSSED_OF {
        failures.push(format!(
            "{} first answers are said to have crossed their requests, at most one of {CROSSED_OF} \
             deliveries wanted",
            total.crossed
        ));
    }
    let (mut compared, mut within) = (0, 0);
    for (name, measure) in total.measures() {
        compared += measure.compared;
        within += measure.within_1ms;
        if measure.bounds_broken > 0 {
            failures.push(format!(
                "{name}: {} times are no bounds, and are marked so",
                measure.bounds_broken
            ));
        }
        if measure.share() < LEAST_SHARE {
            failures.push(format!(
                "{name}: {:.3} % within 1 ms, at least {} % wanted",
                measure.share() * 100.0,
                LEAST_SHARE * 100.0
            ));
        }
    }
    if compared > 0 && (within as f64) < LEAST_SHARE * compared as f64 {
        failures.push("all times together are within 1 ms too seldom".into());
    }
    if total.witnessed == 0 {
        failures.push("nothing was measured".into());
    }
}

fn judge_retransmissions(outcome: &Outcome, failures: &mut Vec<String>) {
    let counts = &outcome.retransmitted;
    if !counts.witnesses_agree() {
        failures.push(format!(
            "{}: the witnesses of retransmission disagree: {counts:?}",
            outcome.name
        ));
    }
    if let Some(difference) = counts.difference()
        && difference != 0
    {
        failures.push(format!(
            "{}: weir's retransmitted segments differ by {difference} from the kernel's {}",
            outcome.name, counts.namespace
        ));
    }
}

fn judge_losses(losses: &Losses, failures: &mut Vec<String>) {
    for (name, ring) in [("hot", losses.hot), ("bulk", losses.bulk)] {
        if ring.seen != ring.exported + ring.ring_full {
            failures.push(format!("the {name} ring does not reconcile: {ring:?}"));
        }
        if ring.ring_full > 0 {
            failures.push(format!("the {name} ring lost {} records", ring.ring_full));
        }
    }
    if losses.records_malformed > 0 || losses.followers_dropped > 0 {
        failures.push(format!("records were lost in the daemon: {losses:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::Measure;
    use super::super::measure::Retransmitted;
    use super::*;

    fn outcome() -> Outcome {
        let exact = Measure {
            compared: 100,
            within_1ms: 100,
            worst_us: 5,
            ..Measure::default()
        };
        Outcome {
            name: "one".into(),
            connections: 1,
            lost_packets: 0,
            comparison: Comparison {
                witnessed: 100,
                reported: 100,
                request: exact.clone(),
                first_byte: exact.clone(),
                first_acked: exact.clone(),
                end: exact,
                ..Comparison::default()
            },
            retransmitted: Retransmitted {
                namespace: 3,
                sockets: 3,
                capture: 3,
                weir: Some(3),
                synack: 0,
            },
            losses: None,
            seconds: 1.0,
            kept: None,
        }
    }

    fn failures(outcome: Outcome) -> Vec<String> {
        Report::new(
            Some("weir".into()),
            String::new(),
            Backend::Exact,
            vec![outcome],
            None,
            Vec::new(),
        )
        .failures
    }

    #[test]
    fn exact_outcomes_pass_and_each_bound_fails_on_its_own() {
        assert!(failures(outcome()).is_empty());
        let spoil: [fn(&mut Outcome); 11] = [
            |o| o.comparison.unmatched = 1,
            |o| o.comparison.invented = 1,
            |o| o.comparison.bytes_differ = 1,
            |o| o.comparison.phase_differs = 1,
            |o| o.comparison.kind_differs = 1,
            |o| o.comparison.totals_differ = 1,
            |o| o.comparison.crossed = 2,
            |o| o.comparison.end.bounds_broken = 1,
            |o| o.comparison.end.within_1ms = 98,
            |o| o.retransmitted.weir = Some(4),
            |o| o.retransmitted.capture = 2,
        ];
        for (n, spoil) in spoil.into_iter().enumerate() {
            let mut outcome = outcome();
            spoil(&mut outcome);
            assert_eq!(failures(outcome).len(), 1, "bound {n}");
        }
    }
}

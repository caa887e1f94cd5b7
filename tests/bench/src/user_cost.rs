//! In user space: the fold's speed and memory, from a thousand sessions to a million. Each
//! measurement is a process of its own ([`crate::fold`]).

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::fold::Folded;
use crate::measure::Plan;
use crate::observer::Tools;
use crate::report::{Aim, Bound, Report, Samples, Table, Unit};

const SESSIONS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// How sessions speak.
#[derive(Clone, Copy, Debug)]
struct Order {
    name: &'static str,
    options: &'static [&'static str],
}

const ORDERS: [Order; 3] = [
    Order {
        name: "random order",
        options: &["--random"],
    },
    Order {
        name: "in turn",
        options: &[],
    },
    Order {
        name: "coming and going",
        options: &["--random", "--churn"],
    },
];

/// Measures, and adds to the report.
pub(crate) fn measure(plan: &Plan, tools: &Tools, report: &mut Report) -> Result<()> {
    let mut folded: Vec<Vec<Vec<Folded>>> = vec![vec![Vec::new(); ORDERS.len()]; SESSIONS.len()];
    for round in 0..plan.user_rounds {
        for (sessions, folded) in SESSIONS.into_iter().zip(&mut folded) {
            for (order, folded) in ORDERS.iter().zip(folded) {
                folded.push(fold(plan, tools, sessions, *order)?);
            }
        }
        eprintln!("  user space, round {} of {}", round + 1, plan.user_rounds);
    }
    let mut table = Table::new(
        "user",
        "In user space: one record, drained and folded",
        "sessions",
        &[
            ("random order", Unit::Nanoseconds),
            ("of 1,000's", Unit::Ratio),
            ("in turn", Unit::Nanoseconds),
            ("of 1,000's", Unit::Ratio),
            ("coming and going", Unit::Nanoseconds),
            ("of 1,000's", Unit::Ratio),
            ("memory/session", Unit::Bytes),
        ],
    )
    .note(
        "Processor time of the thread that folds. Random order: deliveries alone, each of any \
         session. Coming and going: sessions begin, have 8 deliveries and end. Memory: what the \
         process took since before its first record, for each session open.",
    );
    let ns = |sessions: usize, order: usize| {
        Samples(
            folded[sessions][order]
                .iter()
                .map(|one| one.ns_per_record)
                .collect(),
        )
    };
    for (at, sessions) in SESSIONS.iter().enumerate() {
        let mut cells = Vec::new();
        for order in 0..ORDERS.len() {
            cells.push(ns(at, order));
            cells.push(ns(at, order).over(&ns(0, order)));
        }
        cells.push(memory(&folded[at][0]));
        table.row(thousands(*sessions), cells);
    }
    report.tables.push(table);
    let last = SESSIONS.len() - 1;
    report.aims.extend([
        Aim {
            what: "records a second of one core, 1,000 sessions".into(),
            unit: Unit::PerSecond,
            bound: Bound::AtLeast,
            limit: 3e6,
            measured: ns(0, 0).map(|ns| 1e9 / ns),
        },
        Aim {
            what: "records a second of one core, 1,000,000 sessions".into(),
            unit: Unit::PerSecond,
            bound: Bound::AtLeast,
            limit: 3e6,
            measured: ns(last, 0).map(|ns| 1e9 / ns),
        },
        Aim {
            what: "a record's cost at 1,000,000 sessions, of that at 1,000; random order".into(),
            unit: Unit::Ratio,
            bound: Bound::AtMost,
            limit: 1.3,
            measured: ns(last, 0).over(&ns(0, 0)),
        },
        Aim {
            what: "memory in user space of a live session, at 1,000,000".into(),
            unit: Unit::Bytes,
            bound: Bound::AtMost,
            limit: 512.0,
            measured: memory(&folded[last][2]),
        },
    ]);
    Ok(())
}

fn memory(folded: &[Folded]) -> Samples {
    Samples(folded.iter().map(|one| one.bytes_per_session).collect())
}

fn fold(plan: &Plan, tools: &Tools, sessions: u64, order: Order) -> Result<Folded> {
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    command.arg("fold").arg("--programs").arg(&tools.programs);
    command.arg("--sessions").arg(sessions.to_string());
    command.arg("--records").arg(plan.user_records.to_string());
    command.args(order.options);
    let out = command.output().context("starting the fold")?;
    if !out.status.success() {
        bail!(
            "folding {sessions} sessions, {}: {}: {}",
            order.name,
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    serde_json::from_slice(&out.stdout).context("what the fold said")
}

/// A number as people write it.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(123_456_789), "123,456,789");
    }
}

//! The budget: what following a share of the sessions costs, and what is then told of those that are
//! followed. The daemon meets a load that costs more than its limit, and what it has come to some
//! seconds later is read.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weir_proto::v1;
use weir_tests::record::Delivery;

use crate::daemon::Daemon;
use crate::observer::Tools;
use crate::report::{Report, Samples, Table, Unit};
use crate::scene::{Pace, Scene, Span, Work};

/// Of what following everything costs.
const LIMITS: [f64; 2] = [0.75, 0.5];
/// Thousandths of a core: more than anything takes.
const AMPLE: f64 = 20_000.0;
/// Longer than the daemon takes to begin, to find that it is too much, and to act on it.
const SPAN: Span = Span {
    warm_ms: 300,
    measure_ms: 16_000,
};
/// From its first measurement on, in which it acts: three of its steps, a second each, and some.
const ACTS: Duration = Duration::from_secs(6);
/// Only what is long over counts: deliveries from before the share was changed are none of it.
const LATEST: usize = 400;

/// What a daemon has come to.
struct Found {
    budget: v1::BudgetStatus,
    deliveries: Vec<Delivery>,
}

/// Measures, and adds to the report.
pub(crate) fn measure(tools: &Tools, report: &mut Report) -> Result<()> {
    let scene = Scene::new()?;
    let mut table = Table::new(
        "budget",
        "The budget: what is followed, and what is told of it",
        "load, limit",
        &[
            ("cost, of the whole's", Unit::Ratio),
            ("of the limit", Unit::Ratio),
            ("sessions followed", Unit::Percent),
            ("of these, exact latency", Unit::Percent),
            ("exact think time", Unit::Percent),
            ("exact first byte", Unit::Percent),
        ],
    )
    .note(
        "By the daemon's own status, six seconds after it had measured first, in the midst of the load at \
         full speed, in packets of wire size. Exact: of the latest deliveries, those in which no bound is at \
         either end. A daemon that follows everything tells all of them exactly.",
    );
    scene.wire_size_packets(true)?;
    for work in Work::ALL {
        let whole = found(&scene, tools, work, AMPLE)?;
        let whole_cost = whole.budget.cost_core_permille;
        ensure!(whole_cost > 0.0, "nothing was measured: {:?}", whole.budget);
        table.row(
            format!("{}, no limit", work.name()),
            row(&whole, whole_cost),
        );
        for part in LIMITS {
            let found = found(&scene, tools, work, whole_cost * part)?;
            let name = format!("{}, {:.0} % of that", work.name(), part * 100.0);
            table.row(name, row(&found, whole_cost));
            eprintln!("  budget, {}: {:?}", work.name(), found.budget);
        }
    }
    scene.wire_size_packets(false)?;
    report.tables.push(table);
    Ok(())
}

fn row(found: &Found, whole_cost: f64) -> Vec<Samples> {
    let budget = &found.budget;
    let exchanges: Vec<&Delivery> = found
        .deliveries
        .iter()
        .filter(|delivery| delivery.kind == "exchange" && delivery.phase == "complete")
        .collect();
    let percent = |is_exact: fn(&Delivery) -> bool| {
        let exact = exchanges.iter().filter(|one| is_exact(one)).count();
        exact as f64 * 100.0 / exchanges.len() as f64
    };
    let is_timed = |one: &Delivery| !one.request_bounded && !one.end_bounded;
    let values = [
        budget.cost_core_permille / whole_cost,
        budget.cost_core_permille / f64::from(budget.limit_core_permille),
        budget.followed_permille / 10.0,
        percent(is_timed),
        percent(|one| !one.request_bounded && !one.first_write_bounded),
        percent(|one| !one.request_bounded && !one.first_acked_bounded),
    ];
    values.map(|value| Samples(vec![value])).into()
}

/// What a daemon with this limit has come to under this load.
fn found(scene: &Scene, tools: &Tools, work: Work, limit_core_permille: f64) -> Result<Found> {
    let config = format!(
        "budget_core_permille = {}\n",
        limit_core_permille.max(1.0).round()
    );
    let mut found = None;
    scene.load(work, Pace::Full, SPAN, &mut |begins| {
        if !begins {
            return Ok(());
        }
        let dir = scene.lab.dir();
        let mut daemon = Daemon::start(&tools.weir, dir, Some(&scene.observer), &config)?;
        let is_measured = |status: &v1::Status| {
            let budget = status.budget.as_ref();
            budget.is_some_and(|budget| budget.measured_unix_ns != 0)
        };
        daemon.wait("weir to measure what it costs", is_measured)?;
        std::thread::sleep(ACTS);
        found = Some(Found {
            budget: daemon.status()?.budget.context("weir has no budget")?,
            deliveries: latest(tools, &daemon)?,
        });
        daemon.stop()
    })?;
    found.context("the load has not ended")
}

fn latest(tools: &Tools, daemon: &Daemon) -> Result<Vec<Delivery>> {
    let mut command = Command::new(&tools.weir);
    command.args(["deliveries", "-o", "json", "--socket"]);
    let out = command
        .arg(daemon.socket())
        .output()
        .context("cannot run weir deliveries")?;
    let words = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "weir deliveries: {words}");
    let lines = String::from_utf8(out.stdout)?;
    let lines: Vec<&str> = lines.lines().collect();
    let latest = &lines[lines.len().saturating_sub(LATEST)..];
    latest
        .iter()
        .map(|line| serde_json::from_str(line).context("a delivery"))
        .collect()
}

//! `weir fleet-sim`.

use std::io::Write;

use anyhow::{Result, bail};

use super::FleetSim;
use crate::daemon::Control;
use crate::sim::{self, Collectors, Options, Start};
use crate::ui::out::Style;
use crate::ui::table::Printer;

/// `weir fleet-sim`.
pub async fn fleet_sim(args: &FleetSim, style: Style, to: impl Write) -> Result<()> {
    let options = Options {
        edges: args.edges,
        cells: args.cells,
        busy_cells: args.busy_cells,
        interval: args.interval,
        duration: args.duration,
        prefix: args.prefix.clone(),
        files: args.tls.files(),
        kills_per_min: args.kills_per_min,
        partitions_per_min: args.partitions_per_min,
        clocks_off: args.clocks_off,
        seed: args.seed,
    };
    let collectors = match args.start_collectors {
        Some(collectors) => Collectors::start(&Start {
            collectors,
            nats: args.nats.clone(),
        })?,
        None => Collectors::at(args.collector.clone()),
    };
    let control = Control::from_signals()?;
    let report = sim::run(&options, &collectors, control.shutdown).await;
    // Whatever became of it, nothing of it stays.
    let ended = collectors.end().await;
    let report = report?;
    let (is_exact, unfinished) = (report.exact, report.unfinished);
    let why = report.unfinished_why.clone().unwrap_or_default();
    let mut printer = Printer::new(sim::COLUMNS, args.output.output, style, to);
    printer.push(&report)?;
    printer.flush()?;
    if unfinished > 0 {
        bail!("{unfinished} edges did not finish; of one of them: {why}");
    }
    if is_exact == Some(false) {
        bail!("the collectors' totals are not those of the edges");
    }
    ended
}

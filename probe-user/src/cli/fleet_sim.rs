//! `weir fleet-sim`.

use std::io::Write;

use anyhow::{Result, bail};

use super::{FleetSim, replay};
use crate::daemon::Control;
use crate::replay::Speed;
use crate::sim::{self, Collectors, Options, Playing, Recording, Start};
use crate::ui::out::Style;
use crate::ui::table::Printer;

/// `weir fleet-sim`.
pub async fn fleet_sim(args: &FleetSim, style: Style, to: impl Write) -> Result<()> {
    let options = Options {
        edges: args.edges,
        cells: args.cells,
        busy_cells: args.busy_cells,
        playing: playing(args)?,
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

/// What is to be played; each recording is read once before anything begins.
fn playing(args: &FleetSim) -> Result<Option<Playing>> {
    if args.recording.is_empty() {
        return Ok(None);
    }
    Ok(Some(Playing {
        recordings: Recording::all(&args.recording)?.into(),
        speed: args.speed,
        repeat: args.repeat,
    }))
}

/// How many times as fast as it was.
pub(super) fn parse_factor(text: &str) -> Result<f64, String> {
    match replay::parse_speed(text)? {
        Speed::Times(times) => Ok(times),
        Speed::Max => {
            Err("a fleet goes by the clock: give a factor, e.g. 1, 0.5 or 10x".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_has_a_pace() {
        assert_eq!(parse_factor("10x"), Ok(10.0));
        assert_eq!(parse_factor("0.5"), Ok(0.5));
        for bad in ["max", "0", "-1", "fast"] {
            assert!(parse_factor(bad).is_err(), "{bad}");
        }
    }
}

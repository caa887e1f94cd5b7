//! `weir steer`: so far what needs no daemon.

use std::io::Write;

use anyhow::Result;

use super::{Steer, SteerCommand, SteerSimulate};
use crate::steer::simulation::{Options, Pilot, Scene, simulate as play};
use crate::ui::listing::simulation as listing;
use crate::ui::out::Style;
use crate::ui::table::Printer;

/// `weir steer`.
pub fn steer(args: &Steer, style: Style, to: impl Write) -> Result<()> {
    match &args.command {
        SteerCommand::Simulate(args) => simulate(args, style, to),
    }
}

fn simulate(args: &SteerSimulate, style: Style, to: impl Write) -> Result<()> {
    let mut printer = Printer::new(listing::COLUMNS, args.output.output, style, to);
    let scenes = if args.scene.is_empty() {
        &Scene::ALL[..]
    } else {
        &args.scene
    };
    for scene in scenes {
        for dead_time_s in &args.dead_time_s {
            for pilot in Pilot::ALL {
                let options = Options {
                    hosts: args.hosts as usize,
                    dead_time_s: *dead_time_s,
                    // Long enough for steps to be taken, seen and taken back.
                    duration_s: args.duration_s.unwrap_or((30 * dead_time_s).max(3600)),
                    seed: args.seed,
                };
                printer.push(&play(*scene, pilot, &options))?;
            }
        }
    }
    Ok(printer.flush()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn each_pilot_of_each_scene_is_a_row() {
        let line =
            "weir steer simulate --scene step,liar --dead-time-s 12 --duration-s 600 -o json";
        let Command::Steer(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line} is another command");
        };
        let mut to = Vec::new();
        steer(&args, Style::default(), &mut to).unwrap();
        let text = String::from_utf8(to).unwrap();
        let rows: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let pilots: Vec<_> = rows
            .iter()
            .map(|row| row["pilot"].as_str().unwrap())
            .collect();
        assert_eq!(pilots, ["none", "naive", "weir", "none", "naive", "weir"]);
        assert!(rows.iter().all(|row| row["dead_time_s"] == 12));
    }
}

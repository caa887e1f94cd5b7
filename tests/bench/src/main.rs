//! `cargo xtask bench`: what does weir cost? Everything is measured beside what it is compared
//! with, in one run, by turns; claims are ratios.
//!
//! [`measure`] runs the parts, [`show`] prints what they found. Two of its own processes stand
//! apart from it, for what they cost: the [`load`] and the [`fold`]; a third [`hold`]s sessions, a fourth is the command of a
//! [`gate`].

mod adoption;
mod budget_kept;
mod daemon;
mod fold;
mod gate;
mod group;
mod hold;
mod host_cost;
mod kernel_cost;
mod latency;
mod load;
mod machine;
mod measure;
mod merge_cost;
mod observer;
mod plot;
mod programs;
mod replay_cost;
mod report;
mod scene;
mod show;
mod uplink;
mod user_cost;

use anyhow::Result;
use clap::Parser;

/// What weir costs. `cargo xtask bench` builds what this needs and starts it.
#[derive(Debug, Parser)]
#[command(name = "weir-bench")]
enum Cli {
    /// Measure, and write a report (as root)
    Measure(measure::Args),
    /// Print a report, or write it into the handbook
    Show(show::Args),
    /// Ask an HTTP server for a file again and again
    #[command(hide = true)]
    Load(load::Args),
    /// Fold records that a kernel program makes
    #[command(hide = true)]
    Fold(fold::Args),
    /// Hold sessions open
    #[command(hide = true)]
    Hold(hold::Args),
}

fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Measure(args) => measure::run(&args),
        Cli::Show(args) => show::run(&args),
        Cli::Load(args) => load::run(&args),
        Cli::Fold(args) => fold::run(&args),
        Cli::Hold(args) => hold::run(args),
    }
}

//! `cargo xtask truth --qoe`: how true is what weir says of viewers?

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use weir_tests::{qoe, weir};

/// Lets real players (hls.js and dash.js in headless Chromium) play over links that are spoiled, and
/// holds what weir says of them to what they say of themselves.
///
/// Prints a line for each session and tables of scores; writes report.json, access.log and a plot of
/// one session; exits with 1 when a run cannot be trusted or, of weir, recall or detection collapses.
#[derive(Debug, Parser)]
#[command(name = "truth --qoe")]
struct Args {
    /// The binary to measure (default: the environment's `WEIR_BIN`)
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
    /// Seven sessions in a minute and a half instead of 185 in twenty-two minutes
    #[arg(long)]
    quick: bool,
    /// Only sessions whose name contains one of these
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// Only sessions of this set
    #[arg(long, value_name = "SET")]
    set: Option<qoe::scenario::Set>,
    /// Let nobody play: have this weir replay what was recorded of the last run in the directory, and
    /// judge that; writes again.json. For a change of the model, in seconds; it needs no root
    #[arg(long, conflicts_with = "quick")]
    again: bool,
    /// Where the programme is kept, and the report goes
    #[arg(long, value_name = "DIR", default_value = "target/truth-qoe")]
    out: PathBuf,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let plan = qoe::Plan {
        weir: weir::binary(args.weir.as_deref())?,
        quick: args.quick,
        only: args.only,
        set: args.set,
        out: args.out,
    };
    let holds = if args.again {
        qoe::judge_again(&plan)?
    } else {
        qoe::run(&plan)?
    };
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

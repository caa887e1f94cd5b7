//! `cargo xtask demo`: weir at work on a stream that browns out.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use weir_tests::{demo, weir};

/// Serves a real HLS stream to several players in network namespaces, spoils the link in the
/// middle, and shows what weir says of it on the host and at a collector.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Args {
    /// The binary to show (default: the environment's `WEIR_BIN`)
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
    /// How long to play
    #[arg(long, value_name = "N", default_value_t = 66, value_parser = clap::value_parser!(u32).range(20..=90))]
    seconds: u32,
    /// One line per second instead of the live view; so is it when this is no terminal
    #[arg(long)]
    plain: bool,
    /// Where the video is kept for the next time
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    out: PathBuf,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let plan = demo::Plan {
        weir: weir::binary(args.weir.as_deref())?,
        seconds: args.seconds,
        plain: args.plain || !terminal,
        out: args.out,
    };
    Ok(if demo::run(&plan)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

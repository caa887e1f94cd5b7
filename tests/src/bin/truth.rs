//! `cargo xtask truth`: how true is what weir says?

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use weir_tests::{truth, weir};

/// Compares what weir says with a packet capture, the kernel's counters and its sockets.
///
/// Prints a table and what differs; writes report.json; exits with 1 when a bound does not hold.
#[derive(Debug, Parser)]
#[command(name = "truth")]
struct Args {
    /// The binary to measure (default: the environment's `WEIR_BIN`)
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
    /// The way of measuring, by whose promise it is judged
    #[arg(long, value_name = "NAME", default_value = "exact")]
    backend: truth::promise::Backend,
    /// A few hundred deliveries in a minute and a half instead of thousands
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Without weir: check the witnesses against one another and the clients
    #[arg(long, conflicts_with = "weir")]
    witnesses: bool,
    /// Measure and keep what the regression tests replay: recordings, what the witnesses say of
    /// them, and the numbers that come of them
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        default_missing_value = "tests/recordings",
        conflicts_with_all = ["quick", "witnesses"]
    )]
    record: Option<PathBuf>,
    /// Where report.json and the captures of what differs go
    #[arg(long, value_name = "DIR", default_value = "target/truth")]
    out: PathBuf,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let weir = if args.witnesses {
        None
    } else {
        Some(weir::binary(args.weir.as_deref())?)
    };
    if let (Some(directory), Some(binary)) = (&args.record, &weir) {
        let failures = truth::record(
            binary,
            args.backend,
            args.only.as_deref(),
            directory,
            &args.out,
        )?;
        println!("kept in {}", directory.display());
        for failure in &failures {
            println!("FAILED: {failure}");
        }
        return Ok(if failures.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let plan = truth::Plan {
        weir,
        backend: args.backend,
        quick: args.quick,
        only: args.only,
        out: args.out,
    };
    let report = truth::run(&plan)?;
    print!("{}", report.summary());
    println!("report: {}", plan.out.join("report.json").display());
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

//! `cargo xtask`: every chore of the repository. This file is its command line; each chore has a
//! file of its own.

mod arch;
mod bench;
mod chores;
mod cross;
mod debian;
mod emulator;
mod kernels;
mod lint;
mod picture;
mod privilege;
mod process;
mod setup;
mod steps;
mod test;
mod toolchain;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use arch::Arch;
use clap::{Parser, Subcommand};

/// Every chore of the weir repository.
///
/// Each command does its own set-up first: it finds what it needs, installs what is missing
/// (apt packages, a compiler and a linker for BPF) and says what it does.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Find what is needed, and install what is missing
    Setup(setup::Args),
    /// Build the binary `weir`, kernel programs included
    Build {
        /// Unoptimised, in target/debug (the kernel programs are always optimised)
        #[arg(long)]
        debug: bool,
        /// For this architecture; elsewhere than on such a host, aarch64 can be built
        #[arg(long, value_name = "ARCH")]
        target: Option<Arch>,
    },
    /// Build weir and run it; without arguments, the daemon on every accepted TCP session
    ///
    /// Only weir itself gets root privileges (by sudo, unless this is root).
    Run {
        /// Arguments of `weir run`, or another of weir's commands with its own, e.g. `doctor`;
        /// after `--`, also `--help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run all tests: host-only ones, those on the kernel (root), the quick truth
    Test {
        /// Run this step alone, and say which are left out
        #[arg(long, value_name = "STEP")]
        only: Option<test::Step>,
    },
    /// A lab in network namespaces: HLS, players, a brown-out, and the live view (root)
    Demo {
        /// Arguments of the demo; after `--`, also `--help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Compare what weir says with a packet capture and the kernel's counters (root)
    ///
    /// Prints a table, writes target/truth/report.json, and fails when something differs. With
    /// `--qoe`, compare what weir says of viewers with what real players say of themselves.
    Truth {
        /// Arguments of the comparison, e.g. `--quick`; after `--`, also `--help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Try weir on other kernels: Debian's 5.10, 6.1, 6.12 and the newest, each in an emulated
    /// machine
    ///
    /// Every way of measuring that a kernel carries is tried on it. Prints a table of kernels and
    /// checks for each, writes target/kernels/report.json, and fails when a check does. What a
    /// kernel has no hook for is lost there, and no failure.
    Kernels(kernels::Args),
    /// What weir costs: in the kernel, on the host beside other ways of looking, in user space
    ///
    /// Prints tables, and writes target/bench/report.json and plots. As root, on a machine that
    /// does nothing else: all of it takes twenty minutes.
    Bench(bench::Args),
    /// Formatting, clippy (kernel programs too), cargo-deny
    Lint,
    /// What continuous integration runs: lint, test, then kernels --quick
    Ci,
    /// Draw a terminal's capture (`tmux capture-pane -ep`) as an SVG
    Picture {
        /// The capture, with its escape sequences
        capture: PathBuf,
        /// The picture to write
        svg: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = process::forward_signals() {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    let result = match cli.chore {
        Chore::Setup(args) => setup::run(&args),
        Chore::Build { debug, target } => chores::build(debug, target),
        Chore::Run { args } => chores::run(args),
        Chore::Test { only } => test::run(only),
        Chore::Demo { args } => chores::lab_program("demo", setup::Need::Demo, args),
        Chore::Truth { args } => chores::truth(args),
        Chore::Kernels(args) => kernels::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Lint => lint::run(),
        Chore::Ci => lint::run()
            .and_then(|()| test::run(None))
            .and_then(|()| kernels::run(&kernels::Args::quick())),
        Chore::Picture { capture, svg } => picture::draw(&capture, &svg),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            process::exit_code(&error)
        }
    }
}

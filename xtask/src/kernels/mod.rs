//! `cargo xtask kernels`: weir on kernels other than this host's, each in a machine of its own.
//! Debian's cloud kernels are fetched, booted by qemu with the lab and this host's tools in
//! memory, and say check by check how weir did there; nothing of it needs root.

mod debian;
mod image;
mod machine;
mod report;

use std::{env::consts::ARCH, fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    chores::release_weir,
    process::{built_in, cargo, run as run_to_end, workspace},
    setup::{self, Need},
};
pub(crate) use debian::KEYRING;
use report::{Outcome, Report};

/// A kernel of the ladder, and the Debian suite that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rung {
    name: &'static str,
    suite: &'static str,
    /// What its releases begin with; empty: the newest of the suite.
    series: &'static str,
}

/// Oldest first.
const LADDER: [Rung; 4] = [
    Rung {
        name: "5.10",
        suite: "bullseye",
        series: "5.10",
    },
    Rung {
        name: QUICK,
        suite: "bookworm",
        series: "6.1",
    },
    Rung {
        name: "6.12",
        suite: "trixie",
        series: "6.12",
    },
    Rung {
        name: "newest",
        suite: "trixie-backports",
        series: "",
    },
];

/// The one that is tried when there is little time: what most hosts of its distribution run, and
/// the one with the most hooks to stand in for others.
const QUICK: &str = "6.1";

/// Options of `cargo xtask kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these kernels: 5.10, 6.1, 6.12, newest
    #[arg(long, value_name = "KERNEL", value_delimiter = ',', value_parser = LADDER.map(|rung| rung.name))]
    only: Vec<String>,
    /// Only one kernel, 6.1
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// Look for newer releases of kernels that are here already
    #[arg(long)]
    update: bool,
    /// Where Debian's packages are
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://deb.debian.org/debian"
    )]
    mirror: String,
}

/// Tries the kernels, prints the table and writes the report; an error if a check fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    if ARCH != "x86_64" {
        bail!("kernels are tried on x86_64 hosts only; this is {ARCH}");
    }
    setup::ensure(&[Need::Build, Need::Kernels])?;
    let weir = release_weir()?;
    run_to_end(cargo().args(["build", "--package", "weir-tests", "--bin", "guest"]))?;
    let guest = built_in("debug")?.join("guest");
    let dir = workspace().join("target/kernels");
    let mut report = Report::default();
    for rung in LADDER.iter().filter(|rung| args.wants(rung)) {
        eprintln!("==> Linux {}", rung.name);
        let outcome = try_one(rung, args, &dir.join(rung.name), &guest, &weir)
            .with_context(|| format!("Linux {}", rung.name))?;
        report.kernels.push(outcome);
    }
    let path = dir.join("report.json");
    fs::write(&path, report.json()?).with_context(|| format!("writing {}", path.display()))?;
    print!("{report}");
    println!("report: {}", path.display());
    report.verdict()
}

impl Args {
    fn wants(&self, rung: &Rung) -> bool {
        if self.quick {
            return rung.name == QUICK;
        }
        self.only.is_empty() || self.only.iter().any(|name| name == rung.name)
    }
}

fn try_one(rung: &Rung, args: &Args, dir: &Path, guest: &Path, weir: &Path) -> Result<Outcome> {
    let kernel = debian::fetch(rung, &args.mirror, args.update, dir)?;
    let image = image::build(&kernel, dir, guest, weir)?;
    let started = Instant::now();
    let said = machine::run(&kernel, &image, dir)?;
    Outcome::read(rung.name, &kernel.release, started.elapsed(), &said)
}

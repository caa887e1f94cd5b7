//! `cargo xtask kernels`: weir on kernels other than this host's, each in a machine of its own.
//! Debian's cloud kernels are fetched, booted by qemu with the lab and its tools in memory, and say
//! check by check how weir did there; nothing of it needs root.

mod cloud;
mod image;
mod machine;
mod report;
mod userland;

use std::{
    env::consts,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    arch::Arch,
    process::workspace,
    setup::{self, Need},
};
use report::{Outcome, Report};
use userland::Userland;

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
        name: "6.1",
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

/// Those that are tried when there is little time: the one whose programs keep sessions in a table
/// of their own, and the one with the most hooks to stand in for others.
const QUICK: [&str; 2] = ["5.10", "6.1"];

const MIRROR: &str = "http://deb.debian.org/debian";

/// Options of `cargo xtask kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these kernels: 5.10, 6.1, 6.12, newest
    #[arg(long, value_name = "KERNEL", value_delimiter = ',', value_parser = LADDER.map(|rung| rung.name))]
    only: Vec<String>,
    /// Only 5.10 and 6.1
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// On machines of these architectures
    #[arg(
        long,
        value_name = "ARCH",
        value_delimiter = ',',
        default_value = "x86_64"
    )]
    arch: Vec<Arch>,
    /// Look for newer releases of kernels that are here already
    #[arg(long)]
    update: bool,
    /// Where Debian's packages are
    #[arg(
        long,
        value_name = "URL",
        default_value = MIRROR
    )]
    mirror: String,
}

/// Tries the kernels, prints the table and writes the report; an error if a check fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !Arch::X86_64.is_host() {
        bail!(
            "kernels are tried on x86_64 hosts only; this is {}",
            consts::ARCH
        );
    }
    setup::ensure(&[Need::Build, Need::Kernels])?;
    let dir = workspace().join("target/kernels");
    let mut guests = Vec::new();
    for &arch in &args.arch {
        let userland = Userland::prepare(arch, args.update, &dir)?;
        for rung in LADDER.iter().filter(|rung| args.wants(rung)) {
            let guest = Guest::make(rung, arch, args, &userland, &dir);
            guests.push(guest.with_context(|| format!("Linux {}", name(rung, arch)))?);
        }
    }
    let report = Report {
        kernels: side_by_side(&guests)?,
    };
    let path = dir.join("report.json");
    fs::write(&path, report.json()?).with_context(|| format!("writing {}", path.display()))?;
    print!("{report}");
    println!("report: {}", path.display());
    report.verdict()
}

impl Args {
    /// What continuous integration tries.
    pub(crate) fn quick() -> Self {
        Self {
            only: Vec::new(),
            quick: true,
            arch: vec![Arch::X86_64],
            update: false,
            mirror: MIRROR.to_owned(),
        }
    }

    fn wants(&self, rung: &Rung) -> bool {
        if self.quick {
            return QUICK.contains(&rung.name);
        }
        self.only.is_empty() || self.only.iter().any(|name| name == rung.name)
    }
}

/// What a kernel is called in the table, and its directory.
fn name(rung: &Rung, arch: Arch) -> String {
    if arch.is_host() {
        return rung.name.to_owned();
    }
    format!("{}-{}", rung.name, arch.debian())
}

/// What is booted.
#[derive(Debug)]
struct Guest {
    name: String,
    arch: Arch,
    kernel: cloud::Kernel,
    image: PathBuf,
    dir: PathBuf,
}

impl Guest {
    fn make(
        rung: &Rung,
        arch: Arch,
        args: &Args,
        userland: &Userland,
        kept: &Path,
    ) -> Result<Self> {
        let name = name(rung, arch);
        let dir = kept.join(&name);
        let kernel = cloud::fetch(rung, arch, &args.mirror, args.update, &dir)?;
        let image = image::build(&kernel, &dir, userland)?;
        Ok(Self {
            name,
            arch,
            kernel,
            image,
            dir,
        })
    }

    fn run(&self) -> Result<Outcome> {
        eprintln!("==> Linux {}", self.name);
        let started = Instant::now();
        let said = machine::run(self.arch, &self.kernel, &self.image, &self.dir)?;
        let took = started.elapsed();
        eprintln!("==> Linux {} is done, {} s", self.name, took.as_secs());
        Outcome::read(&self.name, &self.kernel.release, took, &said)
    }
}

/// Runs all, as many at a time as there are processors: each has one. In the guests' order.
fn side_by_side(guests: &[Guest]) -> Result<Vec<Outcome>> {
    let places = thread::available_parallelism().map_or(1, usize::from);
    let waiting = Mutex::new(guests.iter().enumerate());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next()
    };
    let work = || -> Result<Vec<(usize, Outcome)>> {
        let mut outcomes = Vec::new();
        while let Some((at, guest)) = next() {
            let outcome = guest.run();
            let outcome = outcome.with_context(|| format!("Linux {}", guest.name))?;
            outcomes.push((at, outcome));
        }
        Ok(outcomes)
    };
    let mut outcomes = thread::scope(|scope| -> Result<Vec<(usize, Outcome)>> {
        let threads: Vec<_> = (0..places).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            let outcomes = thread.join().map_err(|_| anyhow!("a thread died"))?;
            all.extend(outcomes?);
        }
        Ok(all)
    })?;
    outcomes.sort_by_key(|(at, _)| *at);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

//! `cargo xtask bench`: what weir costs. Builds weir, the bench and its kernel programs as this
//! user, runs the bench as root, and writes the document from what it found.

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    privilege::raised,
    process::{built_in, cargo, cargo_path, output, run as run_to_end, workspace},
    setup::{self, Need},
    toolchain::{BENCH_OBJECT, Job, Toolchain, host_bpf_target},
};

/// The parts of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Nanoseconds of each kernel program, beside empty ones on the same hooks
    Kernel,
    /// What the budget costs and what it leaves, at limits below what following everything takes
    Budget,
    /// nginx under load: weir off and on, and other ways of looking
    Host,
    /// Records drained and folded, from a thousand sessions to a million
    User,
    /// Recordings read and folded
    Replay,
    /// From the kernel's event to a local follower
    Latency,
    /// From the kernel's event to the centre, with the cold lane idle and saturated
    Uplink,
    /// From the kernel's event, or an order on the host or at the centre, to what its gates do
    Gate,
    /// Ticks of many hosts merged by a collector, beside only decoding them
    Merge,
    /// Start-up, adoption and sweeps with up to 100,000 open sessions
    Adoption,
}

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Three minutes instead of fifteen: shorter and fewer rounds, fewer sessions
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Replay this recording instead of those in tests/recordings
    #[arg(long, value_name = "FILE")]
    recording: Vec<PathBuf>,
    /// Write the figures into docs/performance.md and the plots into docs/images
    #[arg(long)]
    document: bool,
    /// Measure nothing; take the report of an earlier run
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "only", "recording"])]
    report: Option<PathBuf>,
}

/// Builds, measures, and documents if asked to.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build, Need::Bench])?;
    let mut build = cargo();
    build.args(["build", "--release", "--package", "weir-bench"]);
    if args.report.is_none() {
        // In one go: weir would else be built twice, with other features of what both need.
        build.args(["--package", "weir"]);
    }
    run_to_end(&mut build)?;
    let bench = built_in("release")?.join("weir-bench");
    let kept = workspace().join("target/bench");
    let report = if let Some(report) = &args.report {
        report.clone()
    } else {
        fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
        measure(args, &bench, &kept)?;
        kept.join("report.json")
    };
    let docs = workspace().join("docs");
    let mut write = Command::new(&bench);
    write.current_dir(workspace()).arg("show").arg(&report);
    if args.document {
        write.arg("--document").arg(docs.join("performance.md"));
        write.arg("--images").arg(docs.join("images"));
    }
    run_to_end(&mut write)
}

fn measure(args: &Args, bench: &Path, out: &Path) -> Result<()> {
    let weir = built_in("release")?.join("weir");
    let programs = programs()?;
    let mut command = raised(bench, &[])?;
    command.current_dir(workspace()).arg("measure");
    command.arg("--weir").arg(weir);
    command.arg("--programs").arg(programs);
    command.arg("--out").arg(out);
    command.arg("--commit").arg(commit());
    if args.quick {
        command.arg("--quick");
    }
    for part in &args.only {
        let name = part.to_possible_value().expect("no part is hidden");
        command.arg("--only").arg(name.get_name());
    }
    for recording in &args.recording {
        let recording = std::path::absolute(recording)
            .with_context(|| format!("where {} is", recording.display()))?;
        command.arg("--recording").arg(recording);
    }
    run_to_end(&mut command)
}

/// What is measured: the commit, and whether the work tree differs from it.
fn commit() -> String {
    let git = |args: &[&str]| {
        let out = output(Command::new("git").args(args).current_dir(workspace())).ok()?;
        Some(String::from_utf8_lossy(&out).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => format!("{commit}, with changes"),
        _ => commit,
    }
}

/// Builds the bench's kernel programs; the object's path.
fn programs() -> Result<PathBuf> {
    let toolchain = Toolchain::detect()?;
    let job = Job {
        object: BENCH_OBJECT,
        features: "programs",
        target: host_bpf_target(),
        target_arch: ARCH,
        target_dir: &workspace().join("target/bpf-bench"),
        extra_flags: &[],
    };
    let cargo = toolchain.cargo(&cargo_path());
    run_to_end(&mut toolchain.command(&cargo, "build", workspace(), &job))?;
    let built = job.target_dir.join(job.target).join("bpf");
    Ok(built.join(BENCH_OBJECT))
}

//! A run of the bench: which parts, for how long, in which order.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use weir_tests::lab::cleanup;

use crate::observer::Tools;
use crate::report::Report;
use crate::scene::Span;
use crate::{
    adoption, budget_kept, gate, host_cost, kernel_cost, latency, machine, merge_cost, replay_cost,
    uplink, user_cost,
};

/// The parts, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Kernel,
    Budget,
    Host,
    User,
    Replay,
    Latency,
    Uplink,
    Gate,
    Merge,
    Adoption,
}

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The weir to measure
    #[arg(long)]
    weir: PathBuf,
    /// The bench's kernel programs
    #[arg(long)]
    programs: PathBuf,
    /// Where report.json goes
    #[arg(long)]
    out: PathBuf,
    /// What of the repository this is
    #[arg(long)]
    commit: String,
    /// Shorter and fewer rounds
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long)]
    only: Vec<Part>,
    /// To replay, instead of the tests'
    #[arg(long)]
    recording: Vec<PathBuf>,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kernel_rounds: usize,
    pub(crate) kernel_span: Span,
    pub(crate) host_rounds: usize,
    pub(crate) host_span: Span,
    pub(crate) rate_rounds: usize,
    pub(crate) user_rounds: usize,
    pub(crate) user_records: u64,
    pub(crate) replay_rounds: usize,
    /// At least so many in a round.
    pub(crate) replay_records: u64,
    pub(crate) latency_rounds: usize,
    pub(crate) latency_events: usize,
    /// Of each way to each gate.
    pub(crate) gate_samples: usize,
    pub(crate) merge_edges: usize,
    pub(crate) merge_rounds: usize,
    /// Sessions that are open when weir starts.
    pub(crate) open_sessions: &'static [usize],
    pub(crate) adoption_rounds: usize,
}

impl Plan {
    /// Fifteen minutes.
    const FULL: Self = Self {
        kernel_rounds: 5,
        kernel_span: Span {
            warm_ms: 300,
            measure_ms: 2000,
        },
        host_rounds: 5,
        host_span: Span {
            warm_ms: 300,
            measure_ms: 2000,
        },
        rate_rounds: 3,
        user_rounds: 3,
        user_records: 8_000_000,
        replay_rounds: 6,
        replay_records: 100_000,
        latency_rounds: 4,
        latency_events: 4000,
        gate_samples: 100,
        merge_edges: 1000,
        merge_rounds: 10,
        open_sessions: &[1_000, 10_000, 100_000],
        adoption_rounds: 3,
    };
    /// Three.
    const QUICK: Self = Self {
        kernel_rounds: 2,
        kernel_span: Span {
            warm_ms: 200,
            measure_ms: 800,
        },
        host_rounds: 2,
        host_span: Span {
            warm_ms: 200,
            measure_ms: 1000,
        },
        rate_rounds: 1,
        user_rounds: 1,
        user_records: 2_000_000,
        replay_rounds: 2,
        replay_records: 20_000,
        latency_rounds: 2,
        latency_events: 1000,
        gate_samples: 20,
        merge_edges: 200,
        merge_rounds: 5,
        open_sessions: &[1_000, 20_000],
        adoption_rounds: 1,
    };
}

/// Runs the parts and writes the report, also of a run that fails half way.
pub(crate) fn run(args: &Args) -> Result<()> {
    cleanup::start()?;
    let begin = Instant::now();
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let tools = Tools {
        weir: args.weir.clone(),
        programs: args.programs.clone(),
    };
    let mut report = Report {
        commit: args.commit.clone(),
        date: machine::date(),
        quick: args.quick,
        machine: machine::describe()?,
        seconds: 0.0,
        slots: 0,
        disturbed: 0,
        tables: Vec::new(),
        aims: Vec::new(),
    };
    let mut result = Ok(());
    for part in Part::value_variants() {
        if !args.only.is_empty() && !args.only.contains(part) {
            continue;
        }
        eprintln!("{part:?}");
        let measured = match part {
            Part::Kernel => kernel_cost::measure(&plan, &tools, &mut report),
            Part::Budget => budget_kept::measure(&tools, &mut report),
            Part::Host => host_cost::measure(&plan, &tools, &mut report),
            Part::User => user_cost::measure(&plan, &tools, &mut report),
            Part::Replay => replay_cost::measure(&plan, &tools, &args.recording, &mut report),
            Part::Latency => latency::measure(&plan, &tools, &mut report),
            Part::Uplink => uplink::measure(&plan, &tools, &mut report),
            Part::Gate => gate::measure(&plan, &tools, &mut report),
            Part::Merge => merge_cost::measure(&plan, &mut report),
            Part::Adoption => adoption::measure(&plan, &tools, &mut report),
        };
        result = measured.with_context(|| format!("the part {part:?}"));
        if result.is_err() {
            break;
        }
    }
    report.seconds = begin.elapsed().as_secs_f64();
    report.write(&args.out.join("report.json"))?;
    result
}

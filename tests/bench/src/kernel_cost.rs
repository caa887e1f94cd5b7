//! In the kernel: what each of weir's programs takes, beside an empty program on the same hook, by
//! the kernel's own statistics (`BPF_ENABLE_STATS`), which are on for as long as this looks.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};

use crate::daemon::{Daemon, WITHOUT_BUDGET};
use crate::measure::Plan;
use crate::observer::Tools;
use crate::programs::{Empty, NAMES, Part, Run, names_of, runs};
use crate::report::{Aim, Bound, Report, Samples, Table, Unit};
use crate::scene::{Pace, Scene, Span, Work};

/// What is asked of the server, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    name: &'static str,
    work: Work,
    wire_size: bool,
}

const CASES: [Case; 3] = [
    Case {
        name: "few long sessions, packets of wire size",
        work: Work::Long,
        wire_size: true,
    },
    Case {
        name: "few long sessions, segments of 64 kB",
        work: Work::Long,
        wire_size: false,
    },
    Case {
        name: "many short sessions",
        work: Work::Short,
        wire_size: false,
    },
];

/// The program that every acknowledgement meets.
const PER_ACK: &str = "tcp_probe";

/// Parts of that program (`probe-ebpf/src/bench/anatomy.rs`), and what they are.
const PARTS: [(&str, &str); 4] = [
    ("probe_clock", "the clock (bpf_ktime_get_ns)"),
    ("probe_storage", "the session's state (bpf_sk_storage_get)"),
    ("probe_socket", "the socket (bpf_skc_to_tcp_sock)"),
    ("probe_calls", "these three calls"),
];

/// What stands on the hooks in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looker {
    Empty,
    Weir,
    Part(&'static str),
}

/// One slot under statistics.
#[derive(Clone, Debug, Default)]
struct Counted {
    runs: BTreeMap<&'static str, Run>,
    megabytes: f64,
    requests: f64,
}

impl Counted {
    fn ns_per_call(&self, name: &str) -> f64 {
        let run = self.runs.get(name).copied().unwrap_or_default();
        if run.calls == 0 {
            return f64::NAN;
        }
        run.ns as f64 / run.calls as f64
    }

    fn calls(&self, name: &str) -> f64 {
        self.runs.get(name).map_or(0.0, |run| run.calls as f64)
    }

    fn total_ns(&self) -> f64 {
        self.runs.values().map(|run| run.ns as f64).sum()
    }

    fn total_calls(&self) -> f64 {
        self.runs.values().map(|run| run.calls as f64).sum()
    }
}

/// Measures, and adds to the report.
pub(crate) fn measure(plan: &Plan, tools: &Tools, report: &mut Report) -> Result<()> {
    let scene = Scene::new()?;
    let mut counted: Vec<[Vec<Counted>; 2]> = vec![[Vec::new(), Vec::new()]; CASES.len()];
    let mut parts: Vec<Vec<Counted>> = vec![Vec::new(); PARTS.len()];
    for round in 0..plan.kernel_rounds {
        for (at, case) in CASES.iter().enumerate() {
            scene.wire_size_packets(case.wire_size)?;
            // Whichever comes second finds a warmer machine: they take turns.
            for turn in 0..2 {
                let weir = (round + turn) % 2;
                let looker = [Looker::Empty, Looker::Weir][weir];
                let slot = slot(&scene, tools, plan.kernel_span, *case, looker)?;
                counted[at][weir].push(slot);
            }
            if at == 0 {
                for (part, (name, _)) in PARTS.iter().enumerate() {
                    let looker = Looker::Part(name);
                    parts[part].push(slot(&scene, tools, plan.kernel_span, *case, looker)?);
                }
            }
            eprintln!("  kernel, round {}: {}", round + 1, case.name);
        }
    }
    scene.wire_size_packets(false)?;
    for (at, case) in CASES.iter().enumerate() {
        report.tables.push(table(at, case, &counted[at]));
    }
    report.tables.push(anatomy(&counted[0], &parts));
    let [empty, weir] = &counted[0];
    let per_ack = |counted: &[Counted]| each(counted, |one| one.ns_per_call(PER_ACK));
    report.aims.push(Aim {
        what: "an acknowledgement's cost in the kernel, over that of an empty program".into(),
        unit: Unit::Ratio,
        bound: Bound::AtMost,
        limit: 1.5,
        measured: per_ack(weir).over(&per_ack(empty)),
    });
    Ok(())
}

fn each(counted: &[Counted], value: impl Fn(&Counted) -> f64) -> Samples {
    Samples(counted.iter().map(value).collect())
}

fn table(at: usize, case: &Case, [empty, weir]: &[Vec<Counted>; 2]) -> Table {
    let mut table = Table::new(
        &format!("kernel-{at}"),
        &format!("In the kernel: {}", case.name),
        "program",
        &[
            ("empty", Unit::Nanoseconds),
            ("weir", Unit::Nanoseconds),
            ("weir / empty", Unit::Ratio),
            ("calls per MB", Unit::Count),
            ("calls per request", Unit::Count),
        ],
    )
    .note(
        "Time of one call, the statistics' own cost (two readings of the clock) included in both. \
         The last line sums all calls, each by its own number.",
    );
    for name in NAMES {
        if each(weir, |one| one.calls(name)).median().unwrap_or(0.0) == 0.0 {
            continue;
        }
        let ns = [empty, weir].map(|counted| each(counted, |one| one.ns_per_call(name)));
        table.row(
            name,
            vec![
                ns[0].clone(),
                ns[1].clone(),
                ns[1].over(&ns[0]),
                each(weir, |one| one.calls(name) / one.megabytes),
                each(weir, |one| one.calls(name) / one.requests),
            ],
        );
    }
    let per_mb = [empty, weir].map(|all| each(all, |one| one.total_ns() / one.megabytes));
    table.row(
        "all, of one MB",
        vec![
            per_mb[0].clone(),
            per_mb[1].clone(),
            per_mb[1].over(&per_mb[0]),
            each(weir, |one| one.total_calls() / one.megabytes),
            each(weir, |one| one.total_calls() / one.requests),
        ],
    );
    table
}

/// What weir's program at an acknowledgement is made of: its unavoidable calls, each alone.
fn anatomy([empty, weir]: &[Vec<Counted>; 2], parts: &[Vec<Counted>]) -> Table {
    let mut table = Table::new(
        "kernel-parts",
        "In the kernel: what a call at an acknowledgement is made of",
        "the program does",
        &[
            ("a call", Unit::Nanoseconds),
            ("of empty", Unit::Ratio),
            ("more than empty", Unit::Nanoseconds),
        ],
    )
    .note(
        "Few long sessions, packets of wire size. Programs that do one thing each, alone on \
         tcp_probe, by turns. What weir's takes beyond the three calls is its own code: reading \
         socket and segment, and comparing them with the session's state.",
    );
    let empty = each(empty, |one| one.ns_per_call(PER_ACK));
    let mut row = |name: &str, ns: Samples| {
        let more = Samples(ns.0.iter().zip(&empty.0).map(|(ns, by)| ns - by).collect());
        table.row(name, vec![ns.clone(), ns.over(&empty), more]);
    };
    row("nothing", empty.clone());
    for ((name, what), counted) in PARTS.iter().zip(parts) {
        row(what, each(counted, |one| one.ns_per_call(name)));
    }
    row(
        "all that weir does",
        each(weir, |one| one.ns_per_call(PER_ACK)),
    );
    table
}

fn slot(scene: &Scene, tools: &Tools, span: Span, case: Case, looker: Looker) -> Result<Counted> {
    let stats = enable_stats(Stats::RunTime).context("the kernel's statistics of programs")?;
    let (daemon, empty, part);
    let programs = match looker {
        Looker::Weir => {
            daemon = Daemon::start(
                &tools.weir,
                scene.lab.dir(),
                Some(&scene.observer),
                WITHOUT_BUDGET,
            )?;
            names_of(&daemon.ids("prog_id")?)?
        }
        Looker::Empty => {
            empty = Empty::attach(&tools.programs)?;
            empty.programs()?
        }
        Looker::Part(name) => {
            part = Part::attach(&tools.programs, name)?;
            vec![part.program()]
        }
    };
    let ids: Vec<u32> = programs.iter().map(|(_, id)| *id).collect();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let slot = scene.load(case.work, Pace::Full, span, &mut |begins| {
        *(if begins { &mut before } else { &mut after }) = runs(&ids)?;
        Ok(())
    })?;
    drop(stats);
    let runs =
        programs
            .iter()
            .zip(before.iter().zip(&after))
            .map(|((name, _), (before, after))| {
                let run = Run {
                    calls: after.calls - before.calls,
                    ns: after.ns - before.ns,
                };
                (*name, run)
            });
    Ok(Counted {
        runs: runs.collect(),
        megabytes: slot.answered.bytes as f64 / 1e6,
        requests: slot.answered.requests as f64,
    })
}

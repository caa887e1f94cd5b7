//! A start among sessions that are open already: how long it takes until each is tracked, what a
//! sweep over them costs, and the memory that each takes in the kernel and in user space.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weir::config::Config;
use weir::kernel::{self, Backend as _, Exact};
use weir_tests::lab::link::Lab;

use crate::daemon::Daemon;
use crate::group::Group;
use crate::hold::Held;
use crate::machine::thread_time;
use crate::measure::Plan;
use crate::observer::Tools;
use crate::report::{Aim, Bound, Report, Samples, Table, Unit};
use crate::user_cost::thousands;

/// For which the daemon is watched while nothing happens.
const QUIET: Duration = Duration::from_secs(3);
/// Sweeps that are timed.
const SWEEPS: u32 = 8;
const MIB: f64 = 1024.0 * 1024.0;

/// One start.
#[derive(Clone, Copy, Debug)]
struct Started {
    /// From the process's start until it answers,
    answers_ms: f64,
    /// and until all are tracked, and the daemon knows them.
    tracked_ms: f64,
    adopt_ms: f64,
    sweep_ms: f64,
    sweep_cpu_ms: f64,
    /// Of one processor, with nothing to do but sweep.
    cpu_percent: f64,
    /// Starts that found the ring full.
    lost: f64,
    kernel_bytes: f64,
    user_bytes: f64,
    /// Its maps and programs.
    loaded_bytes: f64,
}

/// Measures, and adds to the report.
pub(crate) fn measure(plan: &Plan, tools: &Tools, report: &mut Report) -> Result<()> {
    let lab = Lab::with_veth()?;
    let group = Group::new("weir")?;
    let mut sizes = vec![0];
    sizes.extend(plan.open_sessions);
    let mut started: Vec<Vec<Started>> = vec![Vec::new(); sizes.len()];
    for round in 0..plan.adoption_rounds {
        for (sessions, started) in sizes.iter().zip(&mut started) {
            let held = Held::open(*sessions, &lab.server)?;
            started.push(start(tools, lab.dir(), &group, *sessions)?);
            held.close()?;
        }
        eprintln!(
            "  adoption, round {} of {}",
            round + 1,
            plan.adoption_rounds
        );
    }
    tell(&sizes, &started, report);
    Ok(())
}

fn tell(sizes: &[usize], started: &[Vec<Started>], report: &mut Report) {
    let mut table = Table::new(
        "adoption",
        "A start among open sessions",
        "open sessions",
        &[
            ("answers after", Unit::Milliseconds),
            ("all tracked after", Unit::Milliseconds),
            ("adoption", Unit::Milliseconds),
            ("one sweep", Unit::Milliseconds),
            ("its CPU", Unit::Milliseconds),
            ("CPU, all quiet", Unit::Percent),
            ("starts lost", Unit::Count),
            ("kernel/session", Unit::Bytes),
            ("user/session", Unit::Bytes),
        ],
    )
    .note(
        "From the start of the process. Adoption and sweep by themselves, as weir's core calls \
         them; a sweep comes every 250 ms. Kernel memory: growth of the objects in use of the \
         kmalloc-cg caches (/proc/slabinfo), because socket storage is made there and no map's own \
         figure counts it; user memory: the daemon's RssAnon. Both less what a start with no session \
         takes.",
    );
    let each = |at: usize, value: &dyn Fn(&Started) -> f64| -> Samples {
        Samples(started[at].iter().map(value).collect())
    };
    let per_session = |at: usize, value: &dyn Fn(&Started) -> f64| -> Samples {
        if sizes[at] == 0 {
            return Samples::default();
        }
        let pairs = started[at].iter().zip(&started[0]);
        Samples(
            pairs
                .map(|(one, none)| (value(one) - value(none)) / sizes[at] as f64)
                .collect(),
        )
    };
    for (at, sessions) in sizes.iter().enumerate() {
        table.row(
            thousands(*sessions as u64),
            vec![
                each(at, &|one| one.answers_ms),
                each(at, &|one| one.tracked_ms),
                each(at, &|one| one.adopt_ms),
                each(at, &|one| one.sweep_ms),
                each(at, &|one| one.sweep_cpu_ms),
                each(at, &|one| one.cpu_percent),
                each(at, &|one| one.lost),
                per_session(at, &|one| one.kernel_bytes),
                per_session(at, &|one| one.user_bytes),
            ],
        );
    }
    let last = sizes.len() - 1;
    let kernel = per_session(last, &|one| one.kernel_bytes);
    let user = per_session(last, &|one| one.user_bytes);
    report.tables.push(table);
    // Whatever the number of sessions: rings, tables, programs, and the daemon itself.
    let fixed = |one: &Started| one.loaded_bytes + one.user_bytes;
    let fixed = each(0, &fixed).median().unwrap_or_default();
    let in_all = |user: f64| kernel.map(|kernel| ((kernel + user) * 1e6 + fixed) / MIB);
    report.aims.extend([
        Aim {
            what: format!(
                "memory in user space of a live session, at {}",
                thousands(sizes[last] as u64)
            ),
            unit: Unit::Bytes,
            bound: Bound::AtMost,
            limit: 512.0,
            measured: user.clone(),
        },
        Aim {
            what: "kernel (by this start, a million times) and user space together, at 1,000,000 \
                   quiet sessions, with what none takes"
                .into(),
            unit: Unit::Mebibytes,
            bound: Bound::AtMost,
            limit: 1024.0,
            measured: folded_at_a_million(report)
                .or(user.median())
                .map(in_all)
                .unwrap_or_default(),
        },
    ]);
}

/// What the fold took for each of a million sessions, if that was measured.
fn folded_at_a_million(report: &Report) -> Option<f64> {
    let rows = &report.table("user")?.rows;
    let row = rows.iter().find(|row| row.name == thousands(1_000_000))?;
    row.cells.last()?.median()
}

fn start(tools: &Tools, dir: &Path, group: &Group, sessions: usize) -> Result<Started> {
    let kernel_before = kernel_bytes()?;
    let begin = Instant::now();
    let mut daemon = Daemon::spawn(&tools.weir, dir, Some(group), "")?;
    daemon.wait("weir to answer", |_| true)?;
    let answers_ms = ms(begin.elapsed());
    let status = daemon.wait("all sessions to be tracked", |status| {
        let losses = status.losses.unwrap_or_default();
        let lost = losses.bulk.map_or(0, |ring| ring.ring_full);
        losses.sessions_tracked >= sessions as u64 && status.sessions_open + lost >= sessions as u64
    })?;
    let tracked_ms = ms(begin.elapsed());
    let lost = status.losses.and_then(|losses| losses.bulk);
    let before = (Instant::now(), group.cpu_us()?);
    std::thread::sleep(QUIET);
    let spent_us = group.cpu_us()? - before.1;
    let cpu_percent = spent_us as f64 / before.0.elapsed().as_micros() as f64 * 100.0;
    let taken = (kernel_bytes()? - kernel_before, daemon.resident_bytes()?);
    let loaded_bytes = daemon.loaded_bytes()?;
    daemon.stop()?;
    let sweeps = sweeps()?;
    Ok(Started {
        answers_ms,
        tracked_ms,
        adopt_ms: ms(sweeps.adoption),
        sweep_ms: ms(sweeps.sweep),
        sweep_cpu_ms: ms(sweeps.cpu),
        cpu_percent,
        lost: lost.map_or(0.0, |ring| ring.ring_full as f64),
        kernel_bytes: taken.0,
        user_bytes: taken.1 as f64,
        loaded_bytes: loaded_bytes as f64,
    })
}

struct Sweeps {
    adoption: Duration,
    /// One of them,
    sweep: Duration,
    /// and its processor time.
    cpu: Duration,
}

/// Times what the daemon's core calls, in this process.
fn sweeps() -> Result<Sweeps> {
    let config = Config::default();
    let options = kernel::Options {
        hot_ring_bytes: config.limits.hot_ring_bytes,
        bulk_ring_bytes: config.limits.bulk_ring_bytes,
        max_sessions: config.limits.max_sessions,
        program_log_level: 0,
    };
    let mut backend = Exact::load(&options, &config.kernel_settings())?;
    let begin = Instant::now();
    backend.adopt(&mut |_| {})?;
    let adoption = begin.elapsed();
    let (begin, cpu) = (Instant::now(), thread_time()?);
    for _ in 0..SWEEPS {
        backend.sweep()?;
    }
    Ok(Sweeps {
        adoption,
        sweep: begin.elapsed() / SWEEPS,
        cpu: thread_time()?.saturating_sub(cpu) / SWEEPS,
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What the kernel's small allocations on somebody's account take, of which socket storage is made;
/// before Linux 5.14 there is no telling them from others.
fn kernel_bytes() -> Result<f64> {
    let text = fs::read_to_string("/proc/slabinfo").context("reading /proc/slabinfo")?;
    let prefix = ["kmalloc-cg-", "kmalloc-"]
        .into_iter()
        .find(|prefix| text.lines().any(|line| line.starts_with(prefix)))
        .context("/proc/slabinfo tells of no kmalloc")?;
    Ok(slab_bytes(&text, prefix))
}

/// Of the caches whose names begin so: objects in use times their size.
fn slab_bytes(table: &str, prefix: &str) -> f64 {
    let lines = table.lines().filter(|line| line.starts_with(prefix));
    lines
        .filter_map(|line| {
            // name, objects in use, objects, size of one
            let mut numbers = line.split_whitespace().skip(1);
            let in_use: f64 = numbers.next()?.parse().ok()?;
            let size: f64 = numbers.nth(1)?.parse().ok()?;
            Some(in_use * size)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_in_use_of_the_caches_meant_are_counted() {
        let table = "slabinfo - version: 2.1\n\
                     # name <active_objs> <num_objs> <objsize> <objperslab>\n\
                     kmalloc-cg-512 10 16 512 16 2 : tunables 0 0 0\n\
                     kmalloc-cg-192 5 21 192 21 1 : tunables 0 0 0\n\
                     kmalloc-512 100 128 512 16 2 : tunables 0 0 0\n";
        assert!((slab_bytes(table, "kmalloc-cg-") - 6080.0).abs() < f64::EPSILON);
    }
}

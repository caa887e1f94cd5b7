//! On the host: what a loaded nginx loses when weir looks on, beside empty programs and other ways
//! of looking. The variants take turns, in another order each round.

use anyhow::{Context as _, Result};

use crate::measure::Plan;
use crate::observer::{Observer, Tools, Variant};
use crate::report::{Aim, Bound, Report, Samples, Table, Unit};
use crate::scene::{Pace, Scene, Slot, Work};

/// The share of the full speed at which the fixed rate is.
const SHARE: f64 = 0.5;

/// Shares of the full speed, for the cost by rate.
const RATES: [f64; 4] = [0.2, 0.4, 0.6, 0.8];

/// What is asked, and how fast.
#[derive(Clone, Copy, Debug)]
struct Case {
    id: &'static str,
    work: Work,
    pace: Pace,
}

/// Slots of each case, each variant, each round.
type Slots = Vec<Vec<Vec<Slot>>>;

/// Measures, and adds to the report.
pub(crate) fn measure(plan: &Plan, tools: &Tools, report: &mut Report) -> Result<()> {
    let scene = Scene::new()?;
    let cases = cases(&scene, plan)?;
    let variants = Variant::ALL;
    let mut slots: Slots = vec![vec![Vec::new(); variants.len()]; cases.len()];
    for round in 0..plan.host_rounds {
        for step in 0..variants.len() {
            // Each follows another in the next round.
            let at = if round % 2 == 0 {
                (step + round) % variants.len()
            } else {
                (variants.len() - 1 - step + round) % variants.len()
            };
            let observer = Observer::start(variants[at], tools, &scene.lab, &scene.observer)?;
            for (case, slots) in cases.iter().zip(&mut slots) {
                let slot = scene.calm_load(case.work, case.pace, plan.host_span)?;
                slots[at].push(slot);
            }
            observer.finish()?;
        }
        eprintln!("  host, round {} of {}", round + 1, plan.host_rounds);
    }
    for (case, slots) in cases.iter().zip(&slots) {
        report.tables.push(table(case, slots));
        aims(case, slots, &mut report.aims);
    }
    report.tables.push(by_rate(&scene, plan, tools, &cases)?);
    let calm = scene.calm();
    report.slots += calm.slots;
    report.disturbed += calm.disturbed;
    Ok(())
}

/// What weir adds to short sessions at different rates.
fn by_rate(scene: &Scene, plan: &Plan, tools: &Tools, cases: &[Case]) -> Result<Table> {
    let half = cases.iter().find_map(|case| match (case.work, case.pace) {
        (Work::Short, Pace::Rate(rate)) => Some(rate),
        _ => None,
    });
    let full = half.context("a fixed rate")? / SHARE;
    let variants = [Variant::Off, Variant::Weir];
    let mut slots: Slots = vec![vec![Vec::new(); variants.len()]; RATES.len()];
    for round in 0..plan.rate_rounds {
        for turn in 0..variants.len() {
            let at = (round + turn) % variants.len();
            let observer = Observer::start(variants[at], tools, &scene.lab, &scene.observer)?;
            for (share, slots) in RATES.iter().zip(&mut slots) {
                let pace = Pace::Rate((full * share).round());
                let slot = scene.calm_load(Work::Short, pace, plan.host_span)?;
                slots[at].push(slot);
            }
            observer.finish()?;
        }
        eprintln!("  rates, round {} of {}", round + 1, plan.rate_rounds);
    }
    let mut table = Table::new(
        "rate",
        "On the host: processors in use, by rate of short sessions",
        "of full speed",
        &[
            ("requests/s, off", Unit::PerSecond),
            ("off", Unit::Ratio),
            ("requests/s, weir", Unit::PerSecond),
            ("weir", Unit::Ratio),
            ("weir / off", Unit::Ratio),
            ("of that, weir's daemon", Unit::Ratio),
        ],
    )
    .note("nginx, client and weir together.");
    let processors = |slot: &Slot| all_us(slot) * rate(slot) / 1e6;
    for (share, slots) in RATES.iter().zip(&slots) {
        let [off, weir] = [&slots[0], &slots[1]];
        table.row(
            format!("{:.0} %", share * 100.0),
            vec![
                each(off, rate),
                each(off, processors),
                each(weir, rate),
                each(weir, processors),
                each(weir, processors).over(&each(off, processors)),
                each(weir, |slot| {
                    slot.observer_us as f64 / slot.answered.seconds / 1e6
                }),
            ],
        );
    }
    Ok(table)
}

/// Full speed, and half of it.
fn cases(scene: &Scene, plan: &Plan) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for work in Work::ALL {
        let slot = scene.calm_load(work, Pace::Full, plan.host_span)?;
        let rate = slot.answered.requests as f64 / slot.answered.seconds * SHARE;
        let (full, fixed) = match work {
            Work::Short => ("host-short-full", "host-short-rate"),
            Work::Long => ("host-long-full", "host-long-rate"),
        };
        for (id, pace) in [(full, Pace::Full), (fixed, Pace::Rate(rate.round()))] {
            cases.push(Case { id, work, pace });
        }
    }
    Ok(cases)
}

/// Of one slot.
fn rate(slot: &Slot) -> f64 {
    slot.answered.requests as f64 / slot.answered.seconds
}

fn per_request(us: u64, slot: &Slot) -> f64 {
    us as f64 / slot.answered.requests.max(1) as f64
}

/// Server, client and who looks on together: what runs in the kernel is charged to whoever it
/// interrupts.
fn all_us(slot: &Slot) -> f64 {
    per_request(slot.server_us + slot.client_us + slot.observer_us, slot)
}

fn each(slots: &[Slot], value: impl Fn(&Slot) -> f64) -> Samples {
    Samples(slots.iter().map(value).collect())
}

fn table(case: &Case, slots: &[Vec<Slot>]) -> Table {
    let title = match case.pace {
        Pace::Full => format!("On the host: {}, full speed", case.work.name()),
        Pace::Rate(rate) => format!("On the host: {}, {rate:.0} requests/s", case.work.name()),
    };
    let mut table = Table::new(
        case.id,
        &title,
        "looking on",
        &[
            ("requests/s", Unit::PerSecond),
            ("of off", Unit::Ratio),
            ("p99", Unit::Microseconds),
            ("of off", Unit::Ratio),
            ("CPU/request", Unit::Microseconds),
            ("of off", Unit::Ratio),
            ("of that, nginx", Unit::Microseconds),
            ("who looks on", Unit::Microseconds),
            ("whole machine", Unit::Microseconds),
        ],
    )
    .note(
        "CPU of one request: nginx, client and who looks on together (cpu.stat of their cgroups), \
         because the kernel charges its programs to whoever they interrupt; the last column is the \
         whole machine's by /proc/stat, whose ticks are coarse.",
    );
    let off = &slots[0];
    for (variant, slots) in Variant::ALL.iter().zip(slots) {
        let of_off = |value: &dyn Fn(&Slot) -> f64| each(slots, value).over(&each(off, value));
        let p99 = |slot: &Slot| slot.answered.p99_us;
        table.row(
            variant.name(),
            vec![
                each(slots, rate),
                of_off(&rate),
                each(slots, p99),
                of_off(&p99),
                each(slots, all_us),
                of_off(&all_us),
                each(slots, |slot| per_request(slot.server_us, slot)),
                each(slots, |slot| per_request(slot.observer_us, slot)),
                each(slots, |slot| per_request(slot.machine_us, slot)),
            ],
        );
    }
    table
}

fn aims(case: &Case, slots: &[Vec<Slot>], aims: &mut Vec<Aim>) {
    let of = |variant: Variant| {
        let at = Variant::ALL.iter().position(|one| *one == variant);
        &slots[at.unwrap_or(0)]
    };
    let (off, weir) = (of(Variant::Off), of(Variant::Weir));
    let name = case.work.name();
    match case.pace {
        Pace::Full => {
            aims.push(Aim {
                what: format!("requests/s with weir, of those without; {name}, full speed"),
                unit: Unit::Ratio,
                bound: Bound::AtLeast,
                limit: 0.99,
                measured: each(weir, rate).over(&each(off, rate)),
            });
            for (other, what) in [
                (Variant::Bpftrace, "bpftrace"),
                (Variant::Tcpdump, "tcpdump"),
                (Variant::Ss, "ss each second"),
            ] {
                aims.push(Aim {
                    what: format!("CPU/request with weir, of that with {what}; {name}"),
                    unit: Unit::Ratio,
                    bound: Bound::AtMost,
                    limit: 1.0,
                    measured: each(weir, all_us).over(&each(of(other), all_us)),
                });
            }
        }
        Pace::Rate(_) => {
            let of_off = |what: &str, value: fn(&Slot) -> f64| Aim {
                what: format!("{what} with weir, of that without; {name}, fixed rate"),
                unit: Unit::Ratio,
                bound: Bound::AtMost,
                limit: 1.01,
                measured: each(weir, value).over(&each(off, value)),
            };
            aims.push(of_off("CPU/request", all_us));
            aims.push(of_off("p99 latency", |slot| slot.answered.p99_us));
        }
    }
}

//! From what moves a gate to what is seen of it: an event in the kernel that completes the condition of
//! an armed policy, an operator's order on the host, and one at the centre; to the answer of HAProxy's
//! agent, a command's start, and a connection that the kernel turns.

mod actuator;
mod authority;
mod stand;

use anyhow::{Context as _, Result};

use self::actuator::Kind;
use self::stand::{Mover, Stand};
use crate::measure::Plan;
use crate::observer::Tools;
use crate::report::{Aim, Bound, Report, Samples, Table, Unit};

/// Between which orders move a gate to and fro.
const TURNED_PERCENT: u32 = 50;
const NEUTRAL_PERCENT: u32 = 90;

/// Measures, and adds to the report.
pub(crate) fn measure(plan: &Plan, tools: &Tools, report: &mut Report) -> Result<()> {
    let mut table = Table::new(
        "gate",
        "From the event or the order to the gate",
        "from, to",
        &COLUMNS,
    )
    .note(NOTE);
    let mut killed_us = Kind::ALL.map(|_| Samples::default());
    for mover in Mover::ALL {
        for (kind, killed_us) in Kind::ALL.into_iter().zip(&mut killed_us) {
            let what = format!("{}, {}", mover.name(), kind.effect());
            let took_us = samples(plan.gate_samples, tools, (kind, mover), killed_us)
                .with_context(|| format!("from {what}"))?;
            table.row(what.clone(), row(&took_us));
            let p99_us = at(&took_us, 0.99);
            report.aims.push(Aim {
                what: format!("from {what}; p99"),
                unit: Unit::Microseconds,
                bound: Bound::AtMost,
                limit: mover.limit_us(),
                measured: p99_us,
            });
            eprintln!("  gate, from {what}");
        }
    }
    report.tables.push(table);
    let mut table = Table::new("gate-killed", "From SIGKILL to neutral", "gate", &COLUMNS);
    table.note = NOTE_OF_KILLS.into();
    for (kind, killed_us) in Kind::ALL.into_iter().zip(&killed_us) {
        table.row(kind.name(), row(killed_us));
    }
    report.tables.push(table);
    Ok(())
}

const COLUMNS: [(&str, Unit); 4] = [
    ("p50", Unit::Microseconds),
    ("p99", Unit::Microseconds),
    ("most", Unit::Microseconds),
    ("samples", Unit::Count),
];

fn at(took_us: &Samples, share: f64) -> Samples {
    Samples(took_us.quantile(share).into_iter().collect())
}

fn row(took_us: &Samples) -> Vec<Samples> {
    let count = Samples(vec![took_us.0.len() as f64]);
    vec![at(took_us, 0.5), at(took_us, 0.99), at(took_us, 1.0), count]
}

const NOTE_OF_KILLS: &str = "Each of the daemons of the table before, killed while its gate turned half of the traffic away: until \
     the agent's port answers 100 % (the guard has it then), until the guard has begun the command, and \
     until a client passes.";

const NOTE: &str = "Each with a daemon that has this one gate, its guard there, and its journal on the disk of the \
     temporary directory: what is decided or ordered is written there before anything moves. The event \
     is a delivery that has just become late, with the time in its record, taken in the kernel: the \
     twentieth trial of a policy that asks for twenty, and the seventh client network, which raises the \
     alarm; nothing else is on its way. The order is one without a ramp, from before the call; at the \
     centre over mutual TLS and a connection that stands, with the collector on this machine. The agent \
     is asked every tenth of a millisecond, and a client calls as often until it is turned: that and one \
     question is what is not known. The command is a \
     shell that passes on the notice which it got, and counts as running when that is here. In between all is taken back, \
     or the other way round.";

/// Microseconds, from as many daemons as it takes; `killed_us` gets what their ends took.
fn samples(
    count: usize,
    tools: &Tools,
    (kind, mover): (Kind, Mover),
    killed_us: &mut Samples,
) -> Result<Samples> {
    let mut took_us = Samples::default();
    while took_us.0.len() < count {
        let mut stand = Stand::start(tools, kind, mover)?;
        for _ in 0..mover.most().min(count - took_us.0.len()) {
            took_us.0.push(stand.sample()? as f64 / 1e3);
        }
        killed_us.0.push(stand.kill()? as f64 / 1e3);
    }
    Ok(took_us)
}

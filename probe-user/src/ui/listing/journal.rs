//! `weir journal show`: an entry in a line.

use crate::steer::central::{Central, Phase};
use crate::steer::journal::{Body, Entry};
use crate::ui::out::Mark;
use crate::ui::table::{Column, Value};
use crate::ui::units;

/// The table's columns.
pub const COLUMNS: &[Column<Entry>] = &[
    Column::right("seq", |entry| entry.seq.into()),
    Column::left("time", |entry| units::timestamp(entry.unix_ns).into()),
    Column::left("kind", |entry| kind(&entry.body).into()),
    Column::left("what", |entry| what(&entry.body)),
];

/// As the JSON calls it.
pub fn kind(body: &Body) -> &'static str {
    match body {
        Body::Opened { .. } => "opened",
        Body::Order(_) => "order",
        Body::Refused { .. } => "refused",
        Body::Decision(_) => "decision",
        Body::Position(_) => "position",
        Body::Actuated { .. } => "actuated",
        Body::Verdict(_) => "verdict",
        Body::Checkpoint(_) => "checkpoint",
        Body::Repaired { .. } => "repaired",
        Body::Central(_) => "central",
        Body::Note(_) => "note",
    }
}

/// An entry in a sentence.
pub fn text(body: &Body) -> String {
    sentence(body).0
}

fn what(body: &Body) -> Value {
    let (text, mark) = sentence(body);
    Value::new(text, mark)
}

fn sentence(body: &Body) -> (String, Mark) {
    match body {
        Body::Opened { version, .. } => (format!("by weir {version}"), Mark::Plain),
        Body::Order(order) => (
            format!(
                "{}: {} of {} by {} ({}) for {} s: {}",
                order.id,
                order.action.verb().as_str(),
                order.scope,
                order.actor,
                order.level.as_str(),
                order.ttl_s,
                order.reason
            ),
            Mark::Warn,
        ),
        Body::Refused { who, what, why } => (format!("{who}: {what}: {why}"), Mark::Bad),
        Body::Decision(told) => (
            format!(
                "{}{} of {} from {} to {} permille by {}: {}",
                if told.acts { "" } else { "advice: " },
                told.id,
                told.scope,
                told.from_permille,
                told.to_permille,
                told.by,
                told.reason
            ),
            if told.asks_human {
                Mark::Bad
            } else {
                Mark::Plain
            },
        ),
        Body::Position(position) => {
            let each = position
                .settings
                .iter()
                .map(|own| match own.cap_bps {
                    Some(bps) => format!(
                        "{} {} permille, at most {bps} bit/s",
                        own.scope, own.weight_permille
                    ),
                    None => format!("{} {} permille", own.scope, own.weight_permille),
                })
                .collect::<Vec<_>>();
            let all = if each.is_empty() {
                "neutral".to_owned()
            } else {
                each.join("; ")
            };
            (
                format!("generation {}: {all}", position.generation),
                Mark::Plain,
            )
        }
        Body::Actuated {
            actuator,
            generation,
            error: None,
            said,
        } => (
            format!(
                "{actuator} holds generation {generation}{}",
                answered(said.as_ref())
            ),
            Mark::Good,
        ),
        Body::Actuated {
            actuator,
            generation,
            error: Some(error),
            said,
        } => (
            format!(
                "{actuator} does not hold generation {generation}: {error}{}",
                answered(said.as_ref())
            ),
            Mark::Bad,
        ),
        Body::Verdict(report) => (
            format!("{} of {}: {}", report.by, report.scope, report.why()),
            Mark::Plain,
        ),
        Body::Checkpoint(kept) => (
            format!(
                "generation {}, {} orders in force",
                kept.generation,
                kept.book.orders().len()
            ),
            Mark::Plain,
        ),
        Body::Repaired { cut_bytes } => (
            format!("{cut_bytes} bytes of a torn line were cut off"),
            Mark::Warn,
        ),
        Body::Central(central) => by_the_centre(central),
        Body::Note(text) => (text.clone(), Mark::Plain),
    }
}

fn answered(said: Option<&String>) -> String {
    said.map_or_else(String::new, |said| format!("; it says {said:?}"))
}

fn by_the_centre(central: &Central) -> (String, Mark) {
    match central {
        Central::Ordered { at, hosts, order } => (
            format!(
                "{}: {} of {} at {at} ({hosts} hosts) by {} for {} s: {}",
                order.id,
                order.action.verb().as_str(),
                order.scope,
                order.actor,
                order.ttl_s,
                order.reason
            ),
            Mark::Warn,
        ),
        Central::Answered {
            order,
            taken,
            refused,
            refusals,
        } => {
            let first = refusals.first();
            let first = first.map_or_else(String::new, |(host, why)| format!("; {host}: {why}"));
            (
                format!("{order}: taken by {taken}, refused by {refused}{first}"),
                if *refused > 0 { Mark::Bad } else { Mark::Good },
            )
        }
        Central::Rebalance(kept) => {
            let plan = &kept.plan;
            let stage = match kept.phase {
                Phase::Moving { stage } => format!(", stage {stage}"),
                _ => String::new(),
            };
            let why = match kept.phase.why() {
                "" => String::new(),
                why => format!(": {why}"),
            };
            (
                format!(
                    "{}: {} permille of {} to {} by {}: {}{stage}{why}",
                    plan.id,
                    plan.permille,
                    plan.from,
                    plan.to,
                    plan.actor,
                    kept.phase.as_str()
                ),
                Mark::Warn,
            )
        }
    }
}

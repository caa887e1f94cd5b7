//! `weir steer`: how the gate stands, and what came of an order, in words.

use std::fmt::Write as _;
use std::io::{self, Write};

use weir_proto::v1::{
    OrderResponse, SteerDecision, SteerGate, SteerMove, SteerOrder, SteerSetting, Steering,
};

use crate::ui::out::{Mark, Style};
use crate::ui::units;

/// Writes the whole of it, the most important first.
pub fn write(steering: &Steering, style: Style, to: &mut dyn Write) -> io::Result<()> {
    let mut lines = Lines { style, to };
    let (text, mark) = stand(steering);
    lines.line("stands", &text, mark)?;
    for setting in &steering.settings {
        let (text, mark) = setting_sentence(setting);
        lines.line("holds", &text, mark)?;
    }
    for order in &steering.orders {
        lines.line("order", &order_sentence(order), Mark::Warn)?;
    }
    for order in &steering.waiting {
        let text = format!("{}: weir steer approve {}", order_sentence(order), order.id);
        lines.line("waits", &text, Mark::Warn)?;
    }
    for told in &steering.otherwise {
        let text = format!("without orders: {}", move_sentence(told));
        lines.line("automation", &text, Mark::Plain)?;
    }
    for told in &steering.advice {
        lines.line("advice", &decision_sentence(told), mark_of(told))?;
    }
    for told in &steering.decisions {
        if told.acts {
            lines.line("decided", &decision_sentence(told), mark_of(told))?;
        }
    }
    for told in &steering.verdicts {
        let mark = match told.verdict.as_str() {
            "helped" => Mark::Good,
            "hurt" => Mark::Bad,
            _ => Mark::Plain,
        };
        let text = format!("{} of {}: {}", told.by, told.scope, told.why);
        lines.line("verdict", &text, mark)?;
    }
    for gate in &steering.gates {
        let (text, mark) = gate_sentence(gate);
        lines.line("gate", &text, mark)?;
    }
    if steering.gates.is_empty() {
        lines.line("gate", "none: what is decided moves nothing", Mark::Warn)?;
    }
    let journal = if steering.journal_error.is_empty() {
        let text = format!(
            "{}, entry {} {}",
            steering.journal_file, steering.journal_seq, steering.journal_hash
        );
        (text, Mark::Plain)
    } else {
        (steering.journal_error.clone(), Mark::Bad)
    };
    lines.line("journal", &journal.0, journal.1)?;
    let counts = steering.counts.unwrap_or_default();
    let text = format!(
        "{} orders taken, {} refused; {} decisions, {} positions, {} errors of gates",
        counts.orders_taken,
        counts.orders_refused,
        counts.decisions,
        counts.positions,
        counts.gate_errors
    );
    lines.line("counts", &text, Mark::Plain)
}

/// The whole in a line: who has the say, and what the gates hold.
pub fn sentence(steering: &Steering) -> (String, Mark) {
    let (mut text, mut mark) = stand(steering);
    if let Some(setting) = steering.settings.first() {
        let (own, own_mark) = setting_sentence(setting);
        text = format!("{text}; {own}");
        mark = mark.max_with(own_mark);
        let more = steering.settings.len() - 1;
        if more > 0 {
            let _ = write!(text, " (and {more} more)");
        }
    }
    let failing = steering.gates.iter().find(|gate| !gate.error.is_empty());
    if let Some(gate) = failing {
        text = format!("{text}; GATE {}: {}", gate.name, gate.error);
        mark = Mark::Bad;
    }
    if let Some(told) = steering.advice.last() {
        text = format!("{text}; advice: {}", decision_sentence(told));
        mark = mark.max_with(Mark::Warn);
    }
    let waiting = steering.waiting.len();
    if waiting > 0 {
        text = format!("{text}; {waiting} orders wait for a second person");
        mark = mark.max_with(Mark::Warn);
    }
    (text, mark)
}

fn stand(steering: &Steering) -> (String, Mark) {
    let generation = steering.generation;
    if steering.panicking {
        return (
            "PANIC: all automation off, all neutral".to_owned(),
            Mark::Bad,
        );
    }
    let armed = if steering.armed {
        "armed"
    } else {
        "advice only"
    };
    if steering.settings.is_empty() {
        return (
            format!("neutral, {armed}, generation {generation}"),
            Mark::Good,
        );
    }
    let scopes = steering.settings.len();
    let text = format!("{scopes} turned, {armed}, generation {generation}");
    (text, Mark::Warn)
}

fn setting_sentence(setting: &SteerSetting) -> (String, Mark) {
    let mut text = format!("{} {}", setting.scope, share(setting.weight_permille));
    if setting.cap_bps > 0 {
        let _ = write!(text, ", at most {} Mbit/s", units::mbps(setting.cap_bps));
    }
    if !setting.by.is_empty() {
        let _ = write!(text, " by {} ({})", setting.by, setting.level);
    }
    if setting.left_s > 0 {
        let _ = write!(text, ", {} left", left(setting.left_s));
    }
    let _ = write!(text, ": {}", setting.why);
    let mark = if setting.weight_permille == 0 {
        Mark::Bad
    } else {
        Mark::Warn
    };
    (text, mark)
}

pub(super) fn order_sentence(order: &SteerOrder) -> String {
    let amount = match (order.permille, order.cap_bps) {
        (Some(permille), _) => format!(" {}", share(permille)),
        (None, bps) if bps > 0 => format!(" {} Mbit/s", units::mbps(bps)),
        _ => String::new(),
    };
    let glass = if order.break_glass {
        " BREAK-GLASS"
    } else {
        ""
    };
    let second = if order.second.is_empty() {
        String::new()
    } else {
        format!(" with {}", order.second)
    };
    // What has ended has nothing left.
    let left = match order.left_s {
        0 => String::new(),
        seconds => format!(", {} left", left(seconds)),
    };
    format!(
        "{}: {}{amount} of {}{glass} by {} ({}, {}){second}{left}: {}",
        order.id, order.verb, order.scope, order.actor, order.auth, order.level, order.reason
    )
}

fn decision_sentence(told: &SteerDecision) -> String {
    format!(
        "{} of {} from {} to {} by {}: {}",
        told.kind.replace('_', " "),
        told.scope,
        share(told.from_permille),
        share(told.to_permille),
        told.by,
        told.reason
    )
}

fn mark_of(told: &SteerDecision) -> Mark {
    if told.asks_human {
        Mark::Bad
    } else {
        Mark::Plain
    }
}

fn move_sentence(told: &SteerMove) -> String {
    let mut text = format!(
        "{} from {} to {} within {} s",
        told.scope,
        share(told.from_permille),
        share(told.to_permille),
        told.settled_after_s
    );
    if told.cap_bps > 0 {
        let _ = write!(text, ", at most {} Mbit/s", units::mbps(told.cap_bps));
    }
    text
}

fn gate_sentence(gate: &SteerGate) -> (String, Mark) {
    let holds = if gate.neutral {
        "neutral".to_owned()
    } else {
        format!(
            "holds generation {}, its lease for {} ms more",
            gate.generation, gate.lease_left_ms
        )
    };
    if gate.error.is_empty() {
        return (format!("{}: {holds}", gate.name), Mark::Plain);
    }
    let text = format!("{}: {holds}; FAILS: {}", gate.name, gate.error);
    (text, Mark::Bad)
}

/// What came of an order.
pub fn answer(
    answer: &OrderResponse,
    is_rehearsal: bool,
    style: Style,
    to: &mut dyn Write,
) -> io::Result<()> {
    let mut lines = Lines { style, to };
    if is_rehearsal {
        lines.line("dry run", "nothing was ordered", Mark::Good)?;
        if answer.moves.is_empty() {
            lines.line("moves", "nothing", Mark::Plain)?;
        }
        for told in &answer.moves {
            lines.line("moves", &move_sentence(told), Mark::Plain)?;
        }
        for told in &answer.decisions {
            lines.line("because", &decision_sentence(told), mark_of(told))?;
        }
    } else if answer.waits.is_empty() {
        let text = format!("{}, generation {}", answer.id, answer.generation);
        lines.line("taken", &text, Mark::Good)?;
    } else {
        let text = format!(
            "{}: {}; another one: weir steer approve {}",
            answer.id, answer.waits, answer.id
        );
        lines.line("waits", &text, Mark::Warn)?;
    }
    for order in &answer.released {
        lines.line("ended", &order_sentence(order), Mark::Plain)?;
    }
    Ok(())
}

/// `70 %`, `7.5 %`.
pub(super) fn share(permille: u32) -> String {
    if permille.is_multiple_of(10) {
        format!("{} %", permille / 10)
    } else {
        format!("{}.{} %", permille / 10, permille % 10)
    }
}

/// `29 min`, `45 s`.
pub(super) fn left(seconds: u32) -> String {
    if seconds >= 120 {
        format!("{} min", seconds.div_ceil(60))
    } else {
        format!("{seconds} s")
    }
}

impl Mark {
    /// The graver of two.
    fn max_with(self, other: Self) -> Self {
        let rank = |mark| match mark {
            Self::Plain | Self::Heading => 0,
            Self::Good => 1,
            Self::Warn => 2,
            Self::Bad => 3,
        };
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }
}

pub(super) struct Lines<'a> {
    pub(super) style: Style,
    pub(super) to: &'a mut dyn Write,
}

impl Lines<'_> {
    pub(super) fn line(&mut self, name: &str, text: &str, mark: Mark) -> io::Result<()> {
        write!(self.to, "{name:<11}")?;
        mark.write(self.to, self.style, text)?;
        self.to.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(steering: &Steering) -> String {
        let mut to = Vec::new();
        write(steering, Style::default(), &mut to).unwrap();
        String::from_utf8(to).unwrap()
    }

    fn held() -> Steering {
        Steering {
            armed: true,
            generation: 1003,
            settings: vec![SteerSetting {
                scope: "service=live".to_owned(),
                weight_permille: 705,
                by: "night-1".to_owned(),
                level: "on-host human".to_owned(),
                why: "weight by alice: disk 3 is slow".to_owned(),
                left_s: 1201,
                ..SteerSetting::default()
            }],
            ..Steering::default()
        }
    }

    #[test]
    fn who_holds_what_why_and_for_how_long_is_in_one_line() {
        let told = text(&held());
        assert!(
            told.contains(
                "service=live 70.5 % by night-1 (on-host human), 21 min left: weight by alice: disk"
            ),
            "{told}"
        );
        assert!(told.contains("1 turned, armed, generation 1003"), "{told}");
        assert!(
            told.contains("none: what is decided moves nothing"),
            "{told}"
        );
    }

    #[test]
    fn a_gate_that_fails_and_a_journal_that_cannot_be_written_stand_out() {
        let mut steering = held();
        steering.gates = vec![SteerGate {
            name: "haproxy".to_owned(),
            error: "connection refused".to_owned(),
            ..SteerGate::default()
        }];
        steering.journal_error = "cannot write the journal /j: no space".to_owned();
        let told = text(&steering);
        assert!(told.contains("FAILS: connection refused"), "{told}");
        assert!(told.contains("cannot write the journal /j"), "{told}");
        let (line, mark) = sentence(&steering);
        assert!(line.contains("GATE haproxy") && mark == Mark::Bad, "{line}");
        assert_eq!(sentence(&Steering::default()).1, Mark::Good);
    }
}

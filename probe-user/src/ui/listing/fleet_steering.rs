//! `weir steer` through a collector: how the fleet stands, and what came of an order, in words.

use std::io::{self, Write};

use weir_proto::v1::{
    CommandOutcome, FleetGate, FleetOrder, FleetOrderResponse, FleetPool, FleetRebalance,
    FleetSteering, HostOutcome, RebalanceGives, RebalanceResponse, RebalanceTakes,
};

use super::steering::{Lines, left, order_sentence, share};
use crate::ui::out::{Mark, Style};
use crate::ui::units;

/// Writes the whole of it, the most important first.
pub fn write(steering: &FleetSteering, style: Style, to: &mut dyn Write) -> io::Result<()> {
    let mut lines = Lines { style, to };
    for own in &steering.rebalances {
        rebalance(own, &mut lines)?;
    }
    for own in &steering.orders {
        let (text, mark) = order(own);
        lines.line("order", &text, mark)?;
        for refusal in &own.refusals {
            lines.line("", &outcome(refusal).0, Mark::Bad)?;
        }
    }
    if steering.letters > 0 {
        let text = format!(
            "{} orders are on their way to {} hosts",
            steering.letters, steering.letters_hosts
        );
        lines.line("letters", &text, Mark::Warn)?;
    }
    for pool in &steering.pools {
        let (text, mark) = pool_sentence(pool);
        lines.line("pool", &text, mark)?;
    }
    for own in &steering.hosts {
        let (text, mark) = gate(own);
        lines.line("host", &text, mark)?;
    }
    for entry in &steering.journal {
        let text = format!("{} {}: {}", entry.seq, entry.kind, entry.text);
        lines.line("written", &text, Mark::Plain)?;
    }
    let (text, mark) = if steering.journal_error.is_empty() {
        let text = format!(
            "{}, entry {} {}",
            steering.journal_file, steering.journal_seq, steering.journal_hash
        );
        (text, Mark::Plain)
    } else {
        (steering.journal_error.clone(), Mark::Bad)
    };
    lines.line("journal", &text, mark)
}

fn rebalance(own: &FleetRebalance, lines: &mut Lines<'_>) -> io::Result<()> {
    let why = match own.why.as_str() {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    let moved = if own.hosts > 0 {
        format!(", {} of {} hosts", own.hosts_moved, own.hosts)
    } else {
        String::new()
    };
    let until = if own.left_s > 0 {
        format!(", {} left", left(own.left_s))
    } else {
        String::new()
    };
    let text = format!(
        "{}: {} of {} to {}: {}{why}{moved}{until}; by {}: {}",
        own.id,
        share(own.permille),
        own.from,
        own.to,
        own.phase,
        own.actor,
        own.reason
    );
    let mark = match own.phase.as_str() {
        "stopped" => Mark::Bad,
        "undone" => Mark::Plain,
        _ => Mark::Warn,
    };
    lines.line("rebalance", &text, mark)?;
    for refusal in &own.refused {
        lines.line("", &outcome(refusal).0, Mark::Bad)?;
    }
    Ok(())
}

fn order(own: &FleetOrder) -> (String, Mark) {
    let told = own.order.as_ref().map(order_sentence).unwrap_or_default();
    if own.waits {
        return (
            format!("at {}, waits for a second person: {told}", own.at),
            Mark::Warn,
        );
    }
    let mark = if own.refused > 0 {
        Mark::Bad
    } else {
        Mark::Warn
    };
    let text = format!(
        "at {}, taken by {}, refused by {}, unanswered by {}: {told}",
        own.at, own.taken, own.refused, own.unanswered
    );
    (text, mark)
}

fn pool_sentence(pool: &FleetPool) -> (String, Mark) {
    let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
    let text = format!(
        "{} ({}): {} of {} hosts healthy, {:.0} % of its capacity takes traffic; {} tokens lent, for \
         {:.1} %",
        pool.name,
        pool.region,
        pool.hosts_healthy,
        pool.hosts,
        percent(pool.healthy_ppm),
        pool.tokens,
        percent(pool.lent_ppm)
    );
    let mark = if pool.hosts_healthy < pool.hosts {
        Mark::Warn
    } else {
        Mark::Good
    };
    (text, mark)
}

fn gate(own: &FleetGate) -> (String, Mark) {
    let word = own.gate.unwrap_or_default();
    let mut text = format!("{} takes {}", own.host, share(word.weight_permille));
    if word.panicking {
        text.push_str(", PANIC");
    }
    if !word.armed {
        text.push_str(", advice only");
    }
    if own.region_weight_permille < 1000 {
        let wanted = share(own.region_weight_permille);
        text = format!("{text}, a rebalance wants {wanted}");
    }
    if own.token {
        text.push_str(", has a token");
    }
    if !own.healthy {
        text.push_str(", not healthy");
    }
    let mark = if word.panicking || !own.healthy {
        Mark::Bad
    } else if word.weight_permille < 1000 {
        Mark::Warn
    } else {
        Mark::Plain
    };
    (text, mark)
}

/// What came of an order, host by host.
pub fn outcomes(answer: &FleetOrderResponse, style: Style, to: &mut dyn Write) -> io::Result<()> {
    let mut lines = Lines { style, to };
    if !answer.waits.is_empty() {
        let text = format!(
            "{}: {}; another one: weir steer approve {} --collector ...",
            answer.id, answer.waits, answer.id
        );
        return lines.line("waits", &text, Mark::Warn);
    }
    if answer.hosts.is_empty() {
        return lines.line("done", &answer.id, Mark::Good);
    }
    lines.line("order", &answer.id, Mark::Plain)?;
    for host in &answer.hosts {
        let (text, mark) = outcome(host);
        lines.line("host", &text, mark)?;
    }
    Ok(())
}

fn outcome(host: &HostOutcome) -> (String, Mark) {
    match host.outcome() {
        CommandOutcome::Done => (
            format!("{}: taken after {} ms", host.host, host.took_us / 1000),
            Mark::Good,
        ),
        CommandOutcome::Unspecified => (
            format!(
                "{}: no answer yet; it is sent again for five minutes",
                host.host
            ),
            Mark::Warn,
        ),
        _ => (
            format!("{}: refused: {}", host.host, host.reason),
            Mark::Bad,
        ),
    }
}

/// What would move, and who takes it.
pub fn preview(answer: &RebalanceResponse, style: Style, to: &mut dyn Write) -> io::Result<()> {
    let mut lines = Lines { style, to };
    for own in &answer.gives {
        let (text, mark) = gives(own);
        lines.line("gives", &text, mark)?;
    }
    for own in &answer.takes {
        let (text, mark) = takes(own);
        lines.line("takes", &text, mark)?;
    }
    let room = answer.headroom_bps.map_or_else(
        || "it is not known how much they can take".to_owned(),
        |bps| format!("they can take {} Mbit/s", units::mbps(bps)),
    );
    let text = format!("{} Mbit/s move; {room}", units::mbps(answer.moved_bps));
    lines.line("in all", &text, Mark::Plain)?;
    for problem in &answer.problems {
        lines.line("must not", problem, Mark::Bad)?;
    }
    if answer.id.is_empty() {
        return lines.line("begun", "nothing", Mark::Plain);
    }
    if answer.waits.is_empty() {
        return lines.line("begun", &answer.id, Mark::Good);
    }
    let text = format!(
        "{}: {}; another one: weir steer approve {} --collector ...",
        answer.id, answer.waits, answer.id
    );
    lines.line("waits", &text, Mark::Warn)
}

fn gives(own: &RebalanceGives) -> (String, Mark) {
    let mut text = format!(
        "{} from {} to {}",
        own.host,
        share(own.from_permille),
        share(own.to_permille)
    );
    if let Some(bps) = own.moved_bps {
        text = format!("{text}, {} Mbit/s", units::mbps(bps));
    }
    if own.why_not.is_empty() {
        return (text, Mark::Plain);
    }
    text = format!("{text}; it would not follow: {}", own.why_not);
    (text, Mark::Warn)
}

fn takes(own: &RebalanceTakes) -> (String, Mark) {
    let mbps = |bps: Option<u64>| bps.map_or_else(|| "?".to_owned(), units::mbps);
    let text = format!(
        "{} sends {} Mbit/s, can take {}, would get {}",
        own.host,
        mbps(own.sent_bps),
        mbps(own.headroom_bps),
        mbps(own.gets_bps)
    );
    let is_too_much = own
        .gets_bps
        .zip(own.headroom_bps)
        .is_some_and(|(gets, most)| gets > most);
    let mark = if is_too_much || own.gets_bps.is_none() {
        Mark::Warn
    } else {
        Mark::Plain
    };
    (text, mark)
}

#[cfg(test)]
mod tests {
    use weir_proto::v1::GateWord;

    use super::*;

    #[test]
    fn what_stands_is_said_of_orders_pools_hosts_and_rebalances() {
        let steering = FleetSteering {
            journal_file: "/j".to_owned(),
            pools: vec![FleetPool {
                name: "fra-live".to_owned(),
                region: "fra".to_owned(),
                hosts: 4,
                hosts_healthy: 3,
                healthy_ppm: 700_000,
                tokens: 1,
                lent_ppm: 50_000,
            }],
            rebalances: vec![FleetRebalance {
                id: "r1".to_owned(),
                from: "fra".to_owned(),
                to: "ams".to_owned(),
                permille: 300,
                phase: "stopped".to_owned(),
                why: "silent: ams-3".to_owned(),
                hosts: 10,
                hosts_moved: 1,
                left_s: 60,
                ..FleetRebalance::default()
            }],
            hosts: vec![FleetGate {
                host: "fra-1".to_owned(),
                gate: Some(GateWord {
                    weight_permille: 700,
                    armed: true,
                    ..GateWord::default()
                }),
                healthy: true,
                region_weight_permille: 700,
                token: true,
                ..FleetGate::default()
            }],
            ..FleetSteering::default()
        };
        let mut to = Vec::new();
        write(&steering, Style::default(), &mut to).unwrap();
        let text = String::from_utf8(to).unwrap();
        for said in [
            "r1: 30 % of fra to ams: stopped (silent: ams-3), 1 of 10 hosts, 60 s left",
            "fra-live (fra): 3 of 4 hosts healthy, 70 % of its capacity takes traffic; 1 tokens lent",
            "fra-1 takes 70 %, a rebalance wants 70 %, has a token",
            "journal    /j, entry 0",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
    }
}

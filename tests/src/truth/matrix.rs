//! Which scenarios the truth is measured on.
//!
//! Every server, protocol, loss, delay, behaviour and congestion control meets most others, not
//! all: the product would take an hour. Seeds are fixed: a run can be repeated.

use std::time::Duration;

use super::promise::Backend;
use super::scenario::{BLOCKING, Cut, Scenario, Server, Traffic};
use crate::lab::client::Abort;
use crate::lab::link::Family::{self, V4, V6};
use crate::lab::nginx::{CLEAR, CLOSE, COPY, H2, MAPPED, TLS12, TLS13};
use crate::lab::server::Mode;
use crate::lab::shaper::Shape;

use Server::{Blocking, Nginx};
use Traffic::{
    Aborted, HalfClosed, Http2, Http2Parallel, KeepAlive, Pipelined, SpeaksFirst, Tls, ToClose,
};

const MS: u64 = 1_000_000;

/// Loss in packets per thousand, round trip in milliseconds.
type Path = (u32, u64);

struct Row(
    Server,
    Family,
    Traffic,
    Path,
    &'static str,
    usize,
    &'static [usize],
);

/// Every port that a scenario is served at.
pub const PORTS: [u16; 8] = [CLEAR, COPY, CLOSE, MAPPED, TLS12, TLS13, H2, BLOCKING];

const SMALL: &[usize] = &[2_000, 500, 30_000, 10_000, 100_000];
const MIXED: &[usize] = &[
    30_000, 2_000, 100_000, 10_000, 500, 300_000, 30_000, 2_000, 100_000, 10_000, 30_000, 2_000,
    30_000, 10_000, 500, 100_000, 2_000, 30_000, 10_000, 30_000,
];
/// Too large to be on its way whole when the client breaks off.
const LARGE: &[usize] = &[4_000_000];
const CUBIC: &str = "cubic";
const BBR: &str = "bbr";

const ROWS: &[Row] = &[
    Row(Nginx(CLEAR), V4, KeepAlive, (0, 0), CUBIC, 6, MIXED),
    Row(Nginx(CLEAR), V6, KeepAlive, (0, 40), BBR, 6, MIXED),
    Row(Nginx(CLEAR), V4, KeepAlive, (1, 40), CUBIC, 6, MIXED),
    Row(Nginx(CLEAR), V6, KeepAlive, (10, 0), BBR, 6, MIXED),
    Row(Nginx(CLEAR), V4, KeepAlive, (30, 40), CUBIC, 6, MIXED),
    Row(Nginx(COPY), V6, KeepAlive, (10, 40), CUBIC, 6, MIXED),
    Row(Nginx(COPY), V4, KeepAlive, (30, 0), BBR, 6, MIXED),
    Row(Nginx(MAPPED), V4, KeepAlive, (1, 0), CUBIC, 6, MIXED),
    Row(Nginx(MAPPED), V4, KeepAlive, (30, 40), BBR, 6, MIXED),
    Row(
        Blocking(Mode::KeepAlive),
        V4,
        KeepAlive,
        (0, 40),
        BBR,
        6,
        MIXED,
    ),
    Row(
        Blocking(Mode::KeepAlive),
        V6,
        KeepAlive,
        (30, 40),
        CUBIC,
        6,
        MIXED,
    ),
    Row(
        Blocking(Mode::KeepAlive),
        V4,
        KeepAlive,
        (10, 0),
        CUBIC,
        6,
        MIXED,
    ),
    Row(
        Blocking(Mode::KeepAlive),
        V6,
        KeepAlive,
        (1, 0),
        BBR,
        6,
        MIXED,
    ),
    Row(Nginx(TLS12), V4, Tls, (0, 40), CUBIC, 6, MIXED),
    Row(Nginx(TLS12), V6, Tls, (30, 0), BBR, 6, MIXED),
    Row(Nginx(TLS13), V6, Tls, (0, 0), CUBIC, 6, MIXED),
    Row(Nginx(TLS13), V4, Tls, (10, 40), BBR, 6, MIXED),
    Row(Nginx(TLS13), V6, Tls, (30, 40), CUBIC, 6, MIXED),
    Row(Nginx(H2), V4, Http2, (0, 40), CUBIC, 6, MIXED),
    Row(Nginx(H2), V6, Http2, (10, 40), BBR, 6, MIXED),
    Row(Nginx(H2), V4, Http2, (30, 0), CUBIC, 6, MIXED),
    Row(Nginx(H2), V6, Http2Parallel, (1, 40), CUBIC, 8, SMALL),
    Row(Nginx(H2), V4, Http2Parallel, (30, 40), BBR, 8, SMALL),
    Row(Nginx(CLOSE), V4, ToClose("/s/"), (0, 40), CUBIC, 40, SMALL),
    Row(Nginx(CLOSE), V6, ToClose("/f/"), (10, 40), BBR, 40, SMALL),
    Row(Nginx(CLOSE), V4, ToClose("/s/"), (30, 0), CUBIC, 40, SMALL),
    Row(
        Blocking(Mode::CloseDelimited),
        V6,
        ToClose("/f/"),
        (0, 0),
        CUBIC,
        40,
        SMALL,
    ),
    Row(
        Blocking(Mode::CloseDelimited),
        V4,
        ToClose("/f/"),
        (30, 40),
        BBR,
        40,
        SMALL,
    ),
    Row(
        Nginx(CLEAR),
        V4,
        Aborted(Abort::Reset),
        (0, 40),
        CUBIC,
        30,
        LARGE,
    ),
    Row(
        Nginx(CLEAR),
        V6,
        Aborted(Abort::Close),
        (10, 40),
        BBR,
        30,
        LARGE,
    ),
    Row(
        Blocking(Mode::KeepAlive),
        V6,
        Aborted(Abort::Reset),
        (10, 40),
        CUBIC,
        30,
        LARGE,
    ),
    Row(
        Blocking(Mode::KeepAlive),
        V4,
        Aborted(Abort::Close),
        (0, 40),
        BBR,
        30,
        LARGE,
    ),
    Row(Nginx(CLEAR), V4, Pipelined, (10, 40), CUBIC, 20, SMALL),
    Row(
        Blocking(Mode::KeepAlive),
        V6,
        HalfClosed,
        (10, 40),
        BBR,
        20,
        SMALL,
    ),
    Row(
        Blocking(Mode::SpeaksFirst),
        V4,
        SpeaksFirst,
        (10, 40),
        CUBIC,
        20,
        SMALL,
    ),
];

const QUICK: [usize; 9] = [0, 10, 15, 18, 21, 25, 28, 32, 34];

/// The scenarios; `quick` takes a few of them and less of each.
pub fn scenarios(quick: bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (n, row) in ROWS.iter().enumerate() {
        if !quick || QUICK.contains(&n) {
            let mut scenario = scenario(row, 1000 + n as u64);
            if quick {
                scenario.sessions = scenario.sessions.div_ceil(2);
            }
            scenarios.push(scenario);
        }
    }
    for (n, (server, traffic, family, congestion_control)) in [
        (Nginx(CLEAR), KeepAlive, V4, CUBIC),
        (Blocking(Mode::KeepAlive), KeepAlive, V6, BBR),
        (Nginx(TLS13), Tls, V4, BBR),
        (Nginx(H2), Http2, V6, CUBIC),
    ]
    .into_iter()
    .enumerate()
    {
        if quick && n > 0 {
            break;
        }
        let row = Row(
            server,
            family,
            traffic,
            (0, 40),
            congestion_control,
            6,
            MIXED,
        );
        scenarios.push(with_rate_cut(scenario(&row, 2000 + n as u64)));
    }
    scenarios
}

/// Of these rows, recordings are kept: each kind of server, traffic, end and loss, and as few
/// deliveries as show it.
const RECORDED: [usize; 17] = [
    0, 4, 5, 8, 10, 13, 15, 17, 18, 20, 22, 25, 27, 28, 31, 32, 34,
];

/// The same of ways of measuring that are not exact: in clear, with and without loss, cut off and
/// half-closed.
const RECORDED_OTHERWISE: [usize; 5] = [0, 4, 25, 28, 33];

/// What `truth --record` keeps; the half-closed ones and a rate cut are among them.
pub fn recorded(backend: Backend) -> Vec<Scenario> {
    if backend != Backend::Exact {
        let otherwise = RECORDED_OTHERWISE.iter().zip(3000..);
        return otherwise
            .map(|(n, seed)| {
                let mut scenario = scenario(&ROWS[*n], seed);
                scenario.sessions = scenario.sessions.min(4);
                scenario
            })
            .collect();
    }
    let mut scenarios: Vec<_> = RECORDED
        .into_iter()
        .chain([33])
        .map(|n| scenario(&ROWS[n], 1000 + n as u64))
        .collect();
    let cut = Row(
        Nginx(CLEAR),
        V4,
        KeepAlive,
        (0, 40),
        CUBIC,
        4,
        &[300_000, 100_000, 1_000_000, 300_000, 300_000],
    );
    scenarios.push(with_rate_cut(scenario(&cut, 2000)));
    for scenario in &mut scenarios {
        let least = if scenario.sizes.len() > 5 { 2 } else { 8 };
        scenario.sessions = scenario.sessions.min(least);
    }
    scenarios
}

fn scenario(row: &Row, seed: u64) -> Scenario {
    let Row(server, family, traffic, (loss_per_mille, rtt_ms), congestion_control, sessions, sizes) =
        *row;
    let shape = Shape {
        delay_ns: rtt_ms * MS / 2,
        loss_ppm: loss_per_mille * 1000,
        ..Shape::default()
    };
    Scenario {
        name: format!(
            "{} {} {} {}% {rtt_ms}ms {congestion_control}",
            server_name(server),
            if family == V4 { "v4" } else { "v6" },
            traffic_name(traffic),
            f64::from(loss_per_mille) / 10.0,
        ),
        server,
        family,
        traffic,
        shape,
        cut: None,
        congestion_control,
        sessions,
        concurrent: 4,
        sizes: sizes.to_vec(),
        seed,
    }
}

/// 40 Mbit/s, then a tenth of it for three seconds.
fn with_rate_cut(mut scenario: Scenario) -> Scenario {
    scenario.shape.rate_bps = 40_000_000;
    scenario.shape.queue_bytes = 400_000;
    scenario.cut = Some(Cut {
        after: Duration::from_secs(1),
        lasts: Duration::from_secs(3),
        shape: Shape {
            rate_bps: 4_000_000,
            queue_bytes: 60_000,
            ..scenario.shape
        },
    });
    scenario.name.push_str(" rate cut");
    scenario
}

fn server_name(server: Server) -> &'static str {
    match server {
        Nginx(CLEAR) => "nginx",
        Nginx(COPY) => "nginx-copy",
        Nginx(CLOSE) => "nginx-close",
        Nginx(MAPPED) => "nginx-mapped",
        Nginx(TLS12) => "nginx-tls1.2",
        Nginx(TLS13) => "nginx-tls1.3",
        Nginx(H2) => "nginx-h2",
        Nginx(_) => "nginx-other",
        Blocking(_) => "blocking",
    }
}

fn traffic_name(traffic: Traffic) -> &'static str {
    match traffic {
        KeepAlive | Tls => "keep-alive",
        Pipelined => "pipelined",
        ToClose("/s/") => "close-delimited",
        ToClose(_) => "close",
        Aborted(Abort::Reset) => "aborted-rst",
        Aborted(Abort::Close) => "aborted-fin",
        HalfClosed => "half-closed",
        SpeaksFirst => "speaks-first",
        Http2 => "sequential",
        Http2Parallel => "parallel",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_matrix_asks_for_at_least_two_thousand_deliveries() {
        let asked: usize = scenarios(false)
            .iter()
            .map(|scenario| *scenario.expected().start())
            .sum();
        assert!(asked >= 2000, "{asked}");
    }

    #[test]
    fn names_are_unique_and_every_required_condition_is_met() {
        let all = scenarios(false);
        let mut names: Vec<_> = all.iter().map(|scenario| &scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        assert!(
            all.iter()
                .all(|scenario| PORTS.contains(&scenario.address().port()))
        );
        for loss_ppm in [0, 1_000, 10_000, 30_000] {
            let lossy = || {
                all.iter()
                    .filter(|scenario| scenario.shape.loss_ppm == loss_ppm)
            };
            for congestion_control in [CUBIC, BBR] {
                assert!(
                    lossy().any(|scenario| scenario.congestion_control == congestion_control),
                    "{loss_ppm} {congestion_control}"
                );
            }
            for family in [V4, V6] {
                assert!(
                    lossy().any(|scenario| scenario.family == family),
                    "{loss_ppm} {family:?}"
                );
            }
        }
        assert!(
            scenarios(true)
                .iter()
                .map(|scenario| *scenario.expected().start())
                .sum::<usize>()
                >= 200
        );
    }
}

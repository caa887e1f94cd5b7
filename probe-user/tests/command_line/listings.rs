//! Each listing against a daemon that says known things: what is asked, what is printed, and how
//! failures end.

use std::process::{Command, Output, Stdio};

use crate::fake_daemon::{Daemon, Script};
use clap::Parser;
use serde_json::Value;
use weir::cli::{self, Cli};
use weir::ui::out::Style;
use weir_proto::v1::{
    Cell, CellKey, Counters, Delivery, DeliveryPhase, Endpoints, Losses, Metric, RingLoss, Session,
    SessionState, Status,
};

fn key(network: &str) -> CellKey {
    CellKey {
        service: "hls".into(),
        content_class: "-".into(),
        network: network.into(),
        transport: "tcp4".into(),
        tier: 1,
        backend: weir_proto::v1::Backend::Exact.into(),
    }
}

fn endpoints(address: &str) -> Endpoints {
    Endpoints {
        local_address: "192.0.2.1".into(),
        local_port: 443,
        remote_address: address.into(),
        remote_port: 40_000,
        netns: 1,
    }
}

fn session(cookie: u64, state: SessionState, srtt_us: u32) -> Session {
    let mut session = Session {
        session: cookie,
        endpoints: Some(endpoints("198.51.100.7")),
        cell: Some(key("cable")),
        deliveries: 12,
        segments: 1_000,
        retrans_fast: 4,
        retrans_rto: 1,
        srtt_us,
        tls: true,
        ..Session::default()
    };
    session.set_state(state);
    session
}

fn delivery(index: u32, phase: DeliveryPhase, latency_us: u64) -> Delivery {
    let mut delivery = Delivery {
        session: 7,
        index,
        endpoints: Some(endpoints("2001:db8::7")),
        cell: Some(key("cable")),
        request_unix_ns: 1_700_000_000_000_000_000,
        latency_us,
        acked_bytes: 1_234_567,
        ..Delivery::default()
    };
    delivery.set_phase(phase);
    delivery
}

fn cell(network: &str, deliveries: u64, latency_us: u64) -> Cell {
    let config = histogram::Config::new(5, 40).unwrap();
    let mut dense = histogram::Histogram::with_config(&config);
    dense.add(latency_us, deliveries).unwrap();
    let (_, bucket, count) = histogram::SparseHistogram::from(&dense).into_parts();
    Cell {
        key: Some(key(network)),
        counters: Some(Counters {
            deliveries,
            late_deliveries: 1,
            ..Counters::default()
        }),
        histograms: vec![weir_proto::v1::Histogram {
            metric: Metric::DeliveryLatencyUs as i32,
            grouping_power: 5,
            max_value_power: 40,
            bucket,
            count,
        }],
        sessions_open: 3,
        hosts: 1,
        ..Cell::default()
    }
}

struct Fixture {
    daemon: Daemon,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(dir.path(), script);
        Self { _dir: dir, daemon }
    }

    fn parse(&self, line: &str) -> cli::Command {
        let words = line.split(' ').map(str::to_owned);
        let socket = self.daemon.socket.to_str().unwrap().to_owned();
        Cli::try_parse_from(words.chain(["--socket".to_owned(), socket]))
            .unwrap()
            .command
    }

    /// What the command prints when it is run in this process.
    async fn print(&self, line: &str) -> anyhow::Result<String> {
        let mut to = Vec::new();
        let style = Style::default();
        match self.parse(line) {
            cli::Command::Sessions(args) => cli::sessions(&args, style, &mut to).await?,
            cli::Command::Deliveries(args) => cli::deliveries(&args, style, &mut to).await?,
            cli::Command::Cells(args) => cli::cells(&args, style, &mut to).await?,
            cli::Command::Status(args) => cli::status(&args, style, &mut to).await?,
            other => panic!("{other:?} is no listing"),
        }
        Ok(String::from_utf8(to)?)
    }

    /// The binary, as a shell runs it.
    fn shell(&self, line: &str) -> Command {
        let mut command = weir(line);
        command.arg("--socket").arg(&self.daemon.socket);
        command
    }
}

fn weir(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(line.split(' ')).stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The table's rows as maps from heading to value; no value in them has blanks.
fn table(text: &str) -> Vec<std::collections::HashMap<&str, &str>> {
    let mut lines = text.lines();
    let titles: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    lines
        .map(|line| {
            let values: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(values.len(), titles.len(), "{line}");
            titles.iter().copied().zip(values).collect()
        })
        .collect()
}

#[tokio::test]
async fn sessions_as_a_table_have_units_in_their_headings() {
    let fixture = Fixture::new(Script {
        sessions: vec![session(1, SessionState::Late, 42_000)],
        ..Script::default()
    });
    let text = fixture.print("weir sessions").await.unwrap();
    let row = &table(&text)[0];
    assert_eq!(row["state"], "late");
    assert_eq!(row["client"], "198.51.100.7:40000");
    assert_eq!(row["cell"], "hls/-/cable/tcp4");
    assert_eq!(row["srtt_ms"], "42.000");
    assert_eq!(row["retrans_pct"], "0.50");
    assert_eq!(row["last_latency_ms"], "-");
    assert_eq!(row["flags"], "tls");
}

#[tokio::test]
async fn sessions_as_json_have_the_names_of_the_wire() {
    let fixture = Fixture::new(Script {
        sessions: vec![
            session(1, SessionState::Late, 42_000),
            session(2, SessionState::Idle, 1_000),
        ],
        ..Script::default()
    });
    let rows = json_lines(&fixture.print("weir sessions -o json").await.unwrap());
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["session"], 1);
    assert_eq!(rows[0]["state"], "late");
    assert_eq!(rows[0]["srtt_us"], 42_000);
    assert_eq!(rows[0]["endpoints"]["remote_address"], "198.51.100.7");
    assert_eq!(rows[0]["cell"]["tier"], "kernel");
    assert_eq!(rows[0]["ended"], "unspecified");
}

#[tokio::test]
async fn filters_and_limit_reach_the_daemon() {
    let fixture = Fixture::new(Script::default());
    let line = "weir sessions --port 80,443 --prefix 192.0.2.9/24 --cell /mobile/ \
                --state late,idle --troubled --limit 5";
    fixture.print(line).await.unwrap();
    let (filter, limit, _) = fixture.daemon.asked();
    assert_eq!(filter.ports, [80, 443]);
    assert_eq!(filter.prefixes, ["192.0.2.0/24"]);
    assert_eq!(filter.cell, "/mobile/");
    assert_eq!(
        filter.states,
        [SessionState::Late as i32, SessionState::Idle as i32]
    );
    assert!(filter.only_troubled);
    assert_eq!(limit, 5);
}

#[tokio::test]
async fn a_limit_counts_after_the_order_is_made() {
    let fixture = Fixture::new(Script {
        sessions: vec![
            session(1, SessionState::Idle, 10),
            session(2, SessionState::Idle, 30),
            session(3, SessionState::Idle, 20),
        ],
        ..Script::default()
    });
    let line = "weir sessions -o json --sort srtt --limit 2";
    let rows = json_lines(&fixture.print(line).await.unwrap());
    let order: Vec<u64> = rows
        .iter()
        .map(|row| row["session"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [2, 3]);
    assert_eq!(fixture.daemon.asked().1, 0, "the daemon must send all");
    let line = "weir sessions -o json --sort srtt --reverse --limit 1";
    assert_eq!(
        json_lines(&fixture.print(line).await.unwrap())[0]["session"],
        1
    );
}

#[tokio::test]
async fn deliveries_are_printed_and_chosen_by_state() {
    let mut late = delivery(3, DeliveryPhase::Complete, 9_000_000);
    late.late = true;
    let fixture = Fixture::new(Script {
        deliveries: vec![
            delivery(0, DeliveryPhase::Complete, 1_500),
            delivery(1, DeliveryPhase::Aborted, 2_500),
            delivery(2, DeliveryPhase::Aborted, 3_500),
            late,
        ],
        ..Script::default()
    });
    let text = fixture.print("weir deliveries").await.unwrap();
    let rows = table(&text);
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0]["latency_ms"], "1.500");
    assert_eq!(rows[0]["client"], "[2001:db8::7]:40000");
    assert_eq!(rows[0]["request_time"], "2023-11-14T22:13:20.000Z");
    assert_eq!(rows[3]["flags"], "late");

    let line = "weir deliveries -o json --state aborted,late --limit 2";
    let rows = json_lines(&fixture.print(line).await.unwrap());
    let order: Vec<u64> = rows
        .iter()
        .map(|row| row["index"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [2, 3], "the latest two of those states, latest last");
}

#[tokio::test]
async fn cells_have_percentiles_and_buckets_only_if_asked() {
    let fixture = Fixture::new(Script {
        cells: vec![cell("cable", 10, 1_000_000), cell("mobile", 20, 5_000_000)],
        ..Script::default()
    });
    let text = fixture
        .print("weir cells --sort latency-p99")
        .await
        .unwrap();
    let rows = table(&text);
    assert_eq!(rows[0]["cell"], "hls/-/mobile/tcp4");
    let p99: f64 = rows[0]["latency_p99_ms"].parse().unwrap();
    assert!((5_000.0..5_160.0).contains(&p99), "{p99}");
    assert_eq!(rows[0]["think_p99_ms"], "-");

    let rows = json_lines(&fixture.print("weir cells -o json").await.unwrap());
    assert_eq!(rows[0]["counters"]["deliveries"], 10);
    assert_eq!(rows[0]["percentiles"]["delivery_latency_us"]["count"], 10);
    assert_eq!(rows[0]["histograms"], serde_json::json!([]));
    let rows = json_lines(&fixture.print("weir cells -o json --buckets").await.unwrap());
    assert_eq!(rows[0]["histograms"][0]["metric"], "delivery_latency_us");
    assert_eq!(rows[0]["histograms"][0]["count"], serde_json::json!([10]));

    fixture
        .print("weir cells --port 443 --troubled")
        .await
        .unwrap();
    let (filter, ..) = fixture.daemon.asked();
    assert_eq!(
        (filter.ports.as_slice(), filter.only_troubled),
        ([443].as_slice(), true)
    );
}

#[tokio::test]
async fn status_says_what_was_lost() {
    let fixture = Fixture::new(Script {
        status: Status {
            host: "edge-1".into(),
            losses: Some(Losses {
                bulk: Some(RingLoss {
                    seen: 9,
                    exported: 6,
                    ring_full: 3,
                    drained: 6,
                }),
                ..Losses::default()
            }),
            ..Status::default()
        },
        ..Script::default()
    });
    let text = fixture.print("weir status").await.unwrap();
    assert!(text.contains("LOST: bulk ring full 3"), "{text}");
    assert!(text.contains("seen 9 = exported 6 + ring full 3"), "{text}");
    let rows = json_lines(&fixture.print("weir status -o json").await.unwrap());
    assert_eq!(rows[0]["losses"]["bulk"]["ring_full"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_prints_each_delivery_as_it_ends_under_one_header() {
    use tokio::io::{AsyncBufReadExt, BufReader};

    let fixture = Fixture::new(Script {
        deliveries: vec![delivery(0, DeliveryPhase::Complete, 1_000)],
        ..Script::default()
    });
    let mut child = tokio::process::Command::from(fixture.shell("deliveries --follow"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let header = lines.next_line().await.unwrap().unwrap();
    assert!(header.starts_with("request_time"), "{header}");
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.contains("complete"), "{first}");
    // The first row is out, so the follower has subscribed.
    for index in 1..=3 {
        let next = delivery(index, DeliveryPhase::Aborted, 2_000);
        fixture.daemon.followed.send(next).unwrap();
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(
            line.contains("aborted") && line.ends_with(&index.to_string()),
            "{line}"
        );
    }
    assert!(fixture.daemon.asked().2, "it must have asked to follow");
    // A daemon that dies ends it with an error that says so.
    drop(fixture);
    assert_eq!(lines.next_line().await.unwrap(), None);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("lost the connection"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_ends_it_silently() {
    let sessions = (0..5_000).map(|cookie| session(cookie, SessionState::Idle, 1));
    let fixture = Fixture::new(Script {
        sessions: sessions.collect(),
        ..Script::default()
    });
    for line in ["sessions", "sessions -o json", "status -o json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = fixture.shell(line);
        command.stdout(writer);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        assert_eq!(stderr(&output), "", "{line}");
        assert_eq!(output.status.code(), Some(0), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_neither_colour_nor_clipped_lines() {
    let fixture = Fixture::new(Script {
        sessions: vec![session(1, SessionState::Late, 42_000)],
        ..Script::default()
    });
    let mut command = fixture.shell("sessions");
    command.env("COLUMNS", "20").env("TERM", "xterm-256color");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!(table(&text)[0]["session"], "1");
}

#[test]
fn without_a_daemon_the_socket_is_named_and_the_status_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weir.sock");
    for line in ["sessions", "deliveries --follow", "cells", "status"] {
        let output = weir(line).arg("--socket").arg(&socket).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains(socket.to_str().unwrap()), "{line}: {said}");
        assert!(said.contains("`weir run`"), "{line}: {said}");
        assert!(output.stdout.is_empty(), "{line}");
    }
}

#[tokio::test]
async fn a_refusal_passes_on_the_daemons_words() {
    let fixture = Fixture::new(Script {
        refusal: Some("only root and members of weir may ask".into()),
        ..Script::default()
    });
    let error = fixture.print("weir cells").await.unwrap_err().to_string();
    assert!(
        error.contains("only root and members of weir may ask"),
        "{error}"
    );
    assert!(
        error.contains(fixture.daemon.socket.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn an_unreachable_collector_is_named() {
    for line in ["hosts", "cells"] {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let url = format!("http://127.0.0.1:{port}");
        let output = weir(line).arg("--collector").arg(&url).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&url), "{}", stderr(&output));
    }
}

#[test]
fn a_wrong_command_line_is_status_two() {
    for line in [
        "sessions --state tired",
        "frobnicate",
        "top --interval-ms 5",
    ] {
        assert_eq!(
            weir(line).output().unwrap().status.code(),
            Some(2),
            "{line}"
        );
    }
}

#[test]
fn the_live_view_without_a_terminal_says_what_to_use_instead() {
    let output = weir("top").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("weir cells"),
        "{}",
        stderr(&output)
    );
}

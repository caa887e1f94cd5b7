//! What a scenario showed, kept: the recording that weir made of it, what the witnesses say, and
//! the numbers that came of it. A test replays the one and compares it with the others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::compare::{Comparison, Terms, bounds, compare};
use super::measure::{Measured, Watched, Weir, measure, recording_settings};
use super::promise::{BETWEEN_LOOKS, Backend, TICK};
use super::report;
use super::scenario::{Scenario, Traffic};
use super::witness::{self, Kind, Phase, Witnessed};
use crate::lab::counters::SocketWitness;
use crate::record::{Cell, Delivery};
use crate::weir::{Daemon, Settings};

/// What the witnesses say of a scenario: one line of it, then one for each connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// What it is about.
    pub about: About,
    /// What the packets show.
    pub connections: Vec<Connection>,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The scenario's name.
    pub scenario: String,
    /// `weir --version`
    pub weir: String,
    /// `uname -r`
    pub kernel: String,
    /// The way of measuring, by whose promise it is judged.
    #[serde(default)]
    pub backend: Backend,
    /// What every delivery must end as, where packets cannot tell.
    pub every_phase: Option<Phase>,
    /// The namespace's `TcpRetransSegs`, SYN-ACKs included.
    pub retransmitted: u64,
    /// Unix time from which on the others' times count.
    pub from_unix_ns: u64,
}

/// A line: a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    client: SocketAddr,
    server: SocketAddr,
    /// In order.
    deliveries: Vec<Kept>,
}

/// A delivery: kind, phase; request, first byte, first and last acknowledgement, each since
/// `from_unix_ns`; bytes acknowledged, sent, asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept(
    Kind,
    Phase,
    u64,
    Option<u64>,
    Option<u64>,
    Option<u64>,
    u64,
    u64,
    u64,
);

impl Truth {
    fn new(about: About, connections: &[witness::Connection]) -> Self {
        let all = connections.iter().flat_map(|c| &c.deliveries);
        let from = all.map(|d| d.request_ns).min().unwrap_or(0);
        let since = |at: u64| at.saturating_sub(from);
        let kept = |d: &Witnessed| {
            Kept(
                d.kind,
                d.phase,
                since(d.request_ns),
                d.first_sent_ns.map(since),
                d.first_acked_ns.map(since),
                d.last_acked_ns.map(since),
                d.acked_bytes,
                d.sent_bytes,
                d.request_bytes,
            )
        };
        let connection = |connection: &witness::Connection| Connection {
            client: connection.client,
            server: connection.server,
            deliveries: connection.deliveries.iter().map(kept).collect(),
        };
        Self {
            about: About {
                from_unix_ns: from,
                ..about
            },
            connections: connections.iter().map(connection).collect(),
        }
    }

    /// As it is written.
    ///
    /// # Errors
    /// It cannot be.
    pub fn to_lines(&self) -> Result<String> {
        let mut text = serde_json::to_string(&self.about)? + "\n";
        for connection in &self.connections {
            let _ = writeln!(text, "{}", serde_json::to_string(connection)?);
        }
        Ok(text)
    }

    /// As it was written.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_lines(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let about = serde_json::from_str(lines.next().context("it is empty")?)?;
        let connections = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Self { about, connections })
    }

    fn witnessed(&self) -> Vec<Witnessed> {
        let from = self.about.from_unix_ns;
        let of = |connection: &Connection, kept: &Kept| Witnessed {
            server: connection.server,
            client: connection.client,
            kind: kept.0,
            phase: kept.1,
            request_ns: from + kept.2,
            first_sent_ns: kept.3.map(|at| from + at),
            first_acked_ns: kept.4.map(|at| from + at),
            last_acked_ns: kept.5.map(|at| from + at),
            acked_bytes: kept.6,
            sent_bytes: kept.7,
            request_bytes: kept.8,
            crossing_bytes: 0,
        };
        let connections = self.connections.iter();
        connections
            .flat_map(|connection| {
                connection
                    .deliveries
                    .iter()
                    .map(move |kept| of(connection, kept))
            })
            .collect()
    }

    /// Compares with what a replay lists: `weir replay --deliveries -o json`.
    ///
    /// # Errors
    /// That is no such listing.
    pub fn compare(&self, listed: &str) -> Result<Comparison> {
        let told: Vec<_> = deliveries(listed)?
            .into_iter()
            .filter(|delivery| delivery.phase != "late")
            .collect();
        let backend = self.about.backend;
        if !backend.tells_deliveries() {
            let ns = |time: Duration| u64::try_from(time.as_nanos());
            let (most_ns, tick_ns) = (ns(BETWEEN_LOOKS)?, ns(TICK)?);
            return Ok(bounds(&self.witnessed(), &told, most_ns, tick_ns));
        }
        let terms = Terms {
            backend,
            every_phase: self.about.every_phase,
            ..Terms::default()
        };
        Ok(compare(&self.witnessed(), &told, &terms))
    }
}

/// The numbers that come of a replay, of `weir replay -o json --buckets` and of the deliveries'
/// listing: cells as they are, and how often each kind, phase, end and mark occurs.
///
/// # Errors
/// They are no such listings.
pub fn numbers(cells: &str, listed: &str) -> Result<Value> {
    let cells: Vec<Value> = cells
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for line in listed.lines() {
        let delivery: BTreeMap<String, Value> = serde_json::from_str(line)?;
        for (name, value) in delivery {
            match value {
                Value::Bool(true) => *counts.entry(name).or_default() += 1,
                Value::String(word) => *counts.entry(format!("{name} {word}")).or_default() += 1,
                // Times of the calendar and names of sessions add up to nothing.
                Value::Number(number) if name != "session" && !name.ends_with("unix_ns") => {
                    *sums.entry(name).or_default() += number.as_u64().context("negative")?;
                }
                _ => {}
            }
        }
    }
    Ok(json!({
        "deliveries": listed.lines().count(),
        "counts": counts,
        "sums": sums,
        "cells": cells,
    }))
}

/// Segments that the cells count as sent again, SYN-ACKs included.
///
/// # Errors
/// That is no listing of cells.
pub fn retransmitted(cells: &str) -> Result<u64> {
    let mut sum = 0;
    for line in cells.lines() {
        let cell: Cell = serde_json::from_str(line)?;
        let counters = cell.counters;
        sum += counters.retrans_fast + counters.retrans_rto + counters.retrans_tlp;
        sum += counters.synack_retransmits;
    }
    Ok(sum)
}

fn deliveries(listed: &str) -> Result<Vec<Delivery>> {
    let lines = listed.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .context("no listing of deliveries")
}

/// The three files of a scenario.
#[derive(Clone, Debug)]
pub struct Files {
    /// The recording.
    pub recording: PathBuf,
    /// What the witnesses say.
    pub truth: PathBuf,
    /// What comes of the recording.
    pub numbers: PathBuf,
}

impl Files {
    /// Those of `name` in `directory`.
    pub fn of(directory: &Path, name: &str) -> Self {
        let words: Vec<_> = name
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        let word = words.join("-");
        let with = |extension: &str| directory.join(format!("{word}.{extension}"));
        Self {
            recording: with("weir"),
            truth: with("truth.jsonl"),
            numbers: with("numbers.json"),
        }
    }

    /// All in a directory, in order.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn all(directory: &Path) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(directory)
            .with_context(|| format!("cannot read {}", directory.display()))?
        {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "weir")
            {
                all.push(Self {
                    truth: path.with_extension("truth.jsonl"),
                    numbers: path.with_extension("numbers.json"),
                    recording: path,
                });
            }
        }
        all.sort_by(|a, b| a.recording.cmp(&b.recording));
        Ok(all)
    }
}

/// Measures a scenario with a daemon of its own that records itself, and keeps all three files in
/// `directory`. Returns what was measured, in words.
///
/// # Errors
/// It failed, or weir and the witnesses differ: then nothing is kept.
pub fn keep(
    binary: &Path,
    scenario: &Scenario,
    sockets: &SocketWitness,
    backend: Backend,
    directory: &Path,
    out: &Path,
) -> Result<String> {
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let recording = dir.path().join("recording.weir");
    let measured = if backend.tells_deliveries() {
        beside(binary, scenario, sockets, backend, &recording, out)?
    } else {
        let weir = Weir::Within(binary, Some(&recording));
        let gap_ms = Settings::default().quiet_gap_ms;
        let held = &mut Vec::new();
        measure(scenario, sockets, backend, gap_ms, Some(weir), held, out)?
    };
    let Measured {
        outcome,
        connections,
        netns,
    } = measured;
    if !outcome.comparison.differences.is_empty() || outcome.retransmitted.difference() != Some(0) {
        bail!("not kept, for it differs:\n{}", report::line(&outcome));
    }
    let replay = |what: &[&str]| replay(binary, &recording, what);
    // Portable records name no namespace.
    ensure!(
        deliveries(&replay(&["--deliveries", "--handshakes"])?)?
            .iter()
            .all(|delivery| delivery.endpoints.is_in(netns)
                && (delivery.endpoints.netns != 0
                    || connections.iter().any(|connection| {
                        delivery.endpoints.remote() == connection.client
                            && delivery.endpoints.local() == connection.server
                    }))),
        "not kept, for another lab's sessions are in it: run it again when this host is quiet"
    );
    let numbers = numbers(&replay(&["--buckets"])?, &replay(&["--deliveries"])?)?;
    let numbers = serde_json::to_string_pretty(&numbers)? + "\n";
    let about = About {
        scenario: scenario.name.clone(),
        weir: super::version(binary)?,
        kernel: super::kernel()?,
        backend,
        every_phase: matches!(scenario.traffic, Traffic::Aborted(_)).then_some(Phase::Aborted),
        retransmitted: outcome.retransmitted.namespace,
        from_unix_ns: 0,
    };
    let files = match backend {
        Backend::Exact => Files::of(directory, &scenario.name),
        other => Files::of(directory, &format!("{} {}", other.name(), scenario.name)),
    };
    write(&files.recording, &std::fs::read(&recording)?)?;
    let truth = Truth::new(about, &connections);
    write(&files.truth, truth.to_lines()?.as_bytes())?;
    write(&files.numbers, numbers.as_bytes())?;
    Ok(report::line(&outcome))
}

/// Measures with a daemon on the host that records itself.
fn beside(
    binary: &Path,
    scenario: &Scenario,
    sockets: &SocketWitness,
    backend: Backend,
    recording: &Path,
    out: &Path,
) -> Result<Measured> {
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let settings = Settings {
        backend: Some(backend.name()),
        ports: vec![scenario.address().port()],
        more: recording_settings(recording),
        ..Settings::default()
    };
    let mut daemon = Daemon::start(binary, &dir.path().join("weir"), &settings)?;
    let (follower, sessions) = (daemon.follow()?, daemon.note_sessions()?);
    let watched = Watched {
        daemon: &daemon,
        follower: &follower,
        sessions: &sessions,
    };
    let mut held = Vec::new();
    let gap_ms = settings.quiet_gap_ms;
    let measured = measure(
        scenario,
        sockets,
        backend,
        gap_ms,
        Some(Weir::Beside(&watched)),
        &mut held,
        out,
    )?;
    sessions.finish()?;
    follower.finish()?;
    let status = daemon.stop()?;
    ensure!(
        status.success(),
        "weir ended with {status}:\n{}",
        daemon.log()
    );
    Ok(measured)
}

/// What `weir replay` prints.
fn replay(binary: &Path, recording: &Path, what: &[&str]) -> Result<String> {
    let mut command = Command::new(binary);
    command.arg("replay").arg(recording).args(["-o", "json"]);
    let answer = command
        .args(what)
        .output()
        .context("cannot run weir replay")?;
    ensure!(
        answer.status.success(),
        "weir replay failed: {}",
        String::from_utf8_lossy(&answer.stderr)
    );
    Ok(String::from_utf8(answer.stdout)?)
}

/// Writes a file that belongs to whom its directory belongs to, although root makes it.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    let directory = path.parent().unwrap_or(path);
    let owner = directory.metadata().context("cannot tell the owner")?;
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))
        .with_context(|| format!("cannot give {} to its owner", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let truth = Truth {
            about: About {
                scenario: "one 0.1%".into(),
                weir: "weir 1".into(),
                kernel: "6".into(),
                backend: Backend::Portable,
                every_phase: Some(Phase::Aborted),
                retransmitted: 3,
                from_unix_ns: 5,
            },
            connections: vec![Connection {
                client: "10.0.0.2:4000".parse().unwrap(),
                server: "[2001:db8::1]:80".parse().unwrap(),
                deliveries: vec![Kept(
                    Kind::BusyPeriod,
                    Phase::Complete,
                    1,
                    Some(2),
                    None,
                    Some(4),
                    6,
                    7,
                    8,
                )],
            }],
        };
        let text = truth.to_lines().unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(Truth::from_lines(&text).unwrap(), truth);
        assert_eq!(truth.witnessed()[0].first_sent_ns, Some(7));
    }

    #[test]
    fn counts_and_sums_are_over_all_deliveries() {
        let listed = r#"{"session":7,"tls":true,"phase":"complete","acked_bytes":5,"end_unix_ns":9}
{"session":8,"tls":false,"phase":"complete","acked_bytes":6,"end_unix_ns":9}"#;
        let numbers = numbers("", listed).unwrap();
        assert_eq!(numbers["deliveries"], 2);
        assert_eq!(numbers["counts"], json!({"tls": 1, "phase complete": 2}));
        assert_eq!(numbers["sums"], json!({"acked_bytes": 11}));
    }
}

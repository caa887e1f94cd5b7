//! Runs one scenario with every witness watching, and compares.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::compare::{Comparison, Terms, bounds, compare, totals};
use super::dissect;
use super::promise::{BETWEEN_LOOKS, Backend, TICK};
use super::scenario::{Scenario, Traffic};
use super::witness::{self, Connection, Phase, Protocol, Rules, Witnessed};
use crate::lab::capture::{Capture, Keep};
use crate::lab::client::Seen;
use crate::lab::counters::{SocketWitness, tcp_counts};
use crate::lab::link::Lab;
use crate::lab::netns::Netns;
use crate::lab::process::wait_for;
use crate::lab::relay::Direction;
use crate::lab::shaper::Shape;
use crate::record::{Delivery, Losses, Session};
use crate::weir::{Daemon, Follower, SessionLog, Settings};

/// Segments that the server sent again, by four who counted; SYN-ACKs are in all of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Retransmitted {
    /// The namespace's `TcpRetransSegs`.
    pub namespace: u64,
    /// `total_retrans` of every socket at its close, and SYN-ACKs of what never became a socket.
    pub sockets: u64,
    /// By sequence ranges in the capture.
    pub capture: u64,
    /// Weir's sessions.
    pub weir: Option<u64>,
    /// Of the namespace's, SYN-ACKs.
    pub synack: u64,
}

impl Retransmitted {
    /// Weir's count less the kernel's.
    pub fn difference(&self) -> Option<i64> {
        Some(self.weir?.cast_signed() - self.namespace.cast_signed())
    }

    /// The witnesses that are not weir agree.
    pub fn witnesses_agree(&self) -> bool {
        self.namespace == self.sockets && self.namespace == self.capture
    }
}

/// What a scenario showed.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The scenario's name.
    pub name: String,
    /// Connections in the capture.
    pub connections: u64,
    /// Packets that the link lost, both ways.
    pub lost_packets: u64,
    /// Deliveries and times; counts of the witness alone if there was no weir.
    pub comparison: Comparison,
    /// Retransmissions.
    pub retransmitted: Retransmitted,
    /// Weir's losses, if it was this scenario's alone.
    pub losses: Option<Losses>,
    /// How long it took.
    pub seconds: f64,
    /// Files kept for looking into what differs.
    pub kept: Option<String>,
}

/// What a scenario showed, and what the packets showed of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What came of it.
    pub outcome: Outcome,
    /// By the capture.
    pub connections: Vec<Connection>,
    /// Inode of the server's network namespace.
    pub netns: u32,
}

/// Weir as the truth watches it.
#[derive(Debug)]
pub struct Watched<'a> {
    /// The daemon.
    pub daemon: &'a Daemon,
    /// Its deliveries.
    pub follower: &'a Follower,
    /// Its sessions.
    pub sessions: &'a SessionLog,
}

/// The weir that is measured.
#[derive(Clone, Copy, Debug)]
pub enum Weir<'a> {
    /// One that sees the whole host, for all scenarios.
    Beside(&'a Watched<'a>),
    /// This binary, started in each scenario's namespace: looking finds other namespaces only
    /// after a while. What it records of itself is kept as this file.
    Within(&'a Path, Option<&'a Path>),
}

/// Namespaces of scenarios that are over. A namespace is known by its inode, and the kernel gives
/// the number of one that is gone to the next.
pub type Held = Vec<Netns>;

/// Runs `scenario`. Without `weir`, the witnesses are checked against one another and the
/// clients alone. Where something differs, the capture is kept in `keep`.
///
/// # Errors
/// The scenario or a witness failed ([`Unfit`]: the capture was none); what differs is no error
/// here.
pub fn measure(
    scenario: &Scenario,
    sockets: &SocketWitness,
    backend: Backend,
    quiet_gap_ms: u32,
    weir: Option<Weir<'_>>,
    held: &mut Held,
    keep: &Path,
) -> Result<Measured> {
    let begin = Instant::now();
    let lab = Lab::with_relay(Shape::default(), scenario.seed)?;
    let since = unix_ns()?;
    lab.set_congestion_control(scenario.congestion_control)?;
    let servers = scenario.serve(&lab)?;
    // Who looks now and then has to have looked since the servers listen.
    let (started, recording) = Own::wanted(weir, &lab, backend, quiet_gap_ms)?;
    let own = started.as_ref().map(Own::watched);
    let weir = match (&own, weir) {
        (Some(own), _) => Some(own),
        (None, Some(Weir::Beside(watched))) => Some(watched),
        _ => None,
    };
    let capture = Capture::start(&lab, needed(scenario.protocol()))?;
    lab.shape(scenario.shape);
    let seen = scenario.run(&lab)?;
    // What is still on its way (a last FIN) must arrive for the counts to be final.
    lab.shape(Shape {
        loss_ppm: 0,
        ..scenario.shape
    });
    let netns = lab.server.inode()?;
    held.push(lab.server.try_clone()?);
    lab.server.wait_until_closed(scenario.address().port())?;
    let file = capture.finish()?;
    let keylog = lab.dir().join("keys");
    let keylog = (scenario.protocol() != Protocol::Clear).then_some(keylog.as_path());
    let packets = dissect::packets(&file, keylog)?;
    let server = scenario.address();
    let rules = Rules {
        quiet_gap_ns: u64::from(quiet_gap_ms) * 1_000_000,
        protocol: scenario.protocol(),
    };
    let connections = witness::connections(&packets, rules, |end| end == server);
    agree(scenario, &seen, &connections).or_else(|error| {
        let kept = keep_capture(scenario, &file, keylog, keep)?;
        let said = format!("{error:#}; see {}", kept.display());
        Err(anyhow::Error::new(Unfit(said)))
    })?;
    let tcp = tcp_counts(&lab.server)?;
    let mut retransmitted = Retransmitted {
        namespace: tcp.retrans_segs,
        sockets: socket_total(sockets, netns, &connections)?,
        capture: connections
            .iter()
            .map(|c| c.retransmitted + c.synack_retransmitted)
            .sum(),
        weir: None,
        synack: tcp.syn_retrans,
    };
    let witnessed: Vec<_> = connections
        .iter()
        .flat_map(|c| c.deliveries.clone())
        .collect();
    let mut comparison = Comparison {
        witnessed: witnessed.len() as u64,
        ..Comparison::default()
    };
    if let Some(weir) = weir {
        let (sessions, deliveries) = told(weir, netns, since, &connections);
        retransmitted.weir = Some(
            sessions
                .iter()
                .map(|s| s.retransmitted() + u64::from(s.synack_retransmits))
                .sum(),
        );
        comparison = judged(scenario, backend, &connections, &witnessed, &deliveries)?;
        totals(&connections, &sessions, &mut comparison);
        retransmissions(&connections, &sessions, &mut comparison);
    }
    let counts = [Direction::Down, Direction::Up].map(|d| lab.relay().counts(d).lost());
    let outcome = Outcome {
        name: scenario.name.clone(),
        connections: connections.len() as u64,
        lost_packets: counts.iter().sum(),
        kept: None,
        losses: own.as_ref().map(losses).transpose()?,
        comparison,
        retransmitted,
        seconds: begin.elapsed().as_secs_f64(),
    };
    drop(servers);
    if let (Some(own), Some(recording)) = (started, recording) {
        own.keep_recording(recording)?;
    }
    let measured = |outcome| Measured {
        outcome,
        connections,
        netns,
    };
    if outcome.comparison.differences.is_empty() && outcome.retransmitted.witnesses_agree() {
        return Ok(measured(outcome));
    }
    let kept = keep_capture(scenario, &file, keylog, keep)?;
    Ok(measured(Outcome {
        kept: Some(kept.to_string_lossy().into_owned()),
        ..outcome
    }))
}

/// How much of each packet the dissector needs.
fn needed(protocol: Protocol) -> Keep {
    match protocol {
        Protocol::Clear => Keep::Headers,
        Protocol::Tls | Protocol::Http2 => Keep::Everything,
    }
}

/// Keeps a capture for looking into what differs.
fn keep_capture(
    scenario: &Scenario,
    file: &Path,
    keylog: Option<&Path>,
    keep: &Path,
) -> Result<PathBuf> {
    let kept = keep.join(format!("{}.pcap", scenario.name.replace([' ', '%'], "-")));
    std::fs::copy(file, &kept).with_context(|| format!("cannot keep {}", kept.display()))?;
    if let Some(keylog) = keylog {
        std::fs::copy(keylog, kept.with_extension("keys"))
            .context("cannot keep the TLS secrets")?;
    }
    Ok(kept)
}

/// The deliveries against the capture, by the backend's promise.
fn judged(
    scenario: &Scenario,
    backend: Backend,
    connections: &[Connection],
    witnessed: &[Witnessed],
    deliveries: &[Delivery],
) -> Result<Comparison> {
    if backend.tells_deliveries() {
        let every_phase = matches!(scenario.traffic, Traffic::Aborted(_)).then_some(Phase::Aborted);
        let terms = Terms::new(backend, every_phase, connections);
        return Ok(compare(witnessed, deliveries, &terms));
    }
    if scenario.protocol() == Protocol::Clear {
        let ns = |time: Duration| u64::try_from(time.as_nanos());
        let (most_ns, tick_ns) = (ns(BETWEEN_LOOKS)?, ns(TICK)?);
        return Ok(bounds(witnessed, deliveries, most_ns, tick_ns));
    }
    // Handshakes are among the deliveries: totals are all there is.
    Ok(Comparison {
        witnessed: witnessed.len() as u64,
        reported: deliveries.len() as u64,
        ..Comparison::default()
    })
}

/// A daemon of a scenario's own.
struct Own {
    sessions: SessionLog,
    follower: Follower,
    daemon: Daemon,
    recording: PathBuf,
}

/// Tables of a configuration by which a daemon records itself.
pub fn recording_settings(file: &Path) -> String {
    format!(
        "[collector]\nhost = \"lab\"\n[recording]\nfile = {:?}\nmin_free_bytes = 0\n",
        file.to_string_lossy()
    )
}

impl Own {
    /// The scenario's own daemon, if it is to have one, and where its recording is to go.
    fn wanted<'a>(
        weir: Option<Weir<'a>>,
        lab: &Lab,
        backend: Backend,
        quiet_gap_ms: u32,
    ) -> Result<(Option<Self>, Option<&'a Path>)> {
        let Some(Weir::Within(binary, recording)) = weir else {
            return Ok((None, None));
        };
        let own = Self::start(binary, lab, backend, quiet_gap_ms, recording.is_some())?;
        Ok((Some(own), recording))
    }

    fn start(
        binary: &Path,
        lab: &Lab,
        backend: Backend,
        quiet_gap_ms: u32,
        records: bool,
    ) -> Result<Self> {
        let dir = lab.dir().join("weir");
        let recording = dir.join("recording.weir");
        let more = if records {
            recording_settings(&recording)
        } else {
            String::new()
        };
        let settings = Settings {
            backend: Some(backend.name()),
            quiet_gap_ms,
            more,
            ..Settings::default()
        };
        let daemon = Daemon::start_unprivileged(binary, &dir, &settings, &lab.server, &[], &[])?;
        Ok(Self {
            sessions: daemon.note_sessions()?,
            follower: daemon.follow()?,
            daemon,
            recording,
        })
    }

    /// Ends the daemon and keeps what it recorded.
    fn keep_recording(mut self, to: &Path) -> Result<()> {
        let status = self.daemon.stop()?;
        if !status.success() {
            bail!("weir ended with {status}:\n{}", self.daemon.log());
        }
        std::fs::copy(&self.recording, to)
            .with_context(|| format!("cannot keep {}", self.recording.display()))?;
        Ok(())
    }

    fn watched(&self) -> Watched<'_> {
        Watched {
            daemon: &self.daemon,
            follower: &self.follower,
            sessions: &self.sessions,
        }
    }
}

/// The capture contradicts the clients, and is no witness: nothing was learnt of weir.
#[derive(Debug)]
pub struct Unfit(String);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

/// The clients know what they got: if the witness does not see that, it is no witness.
fn agree(scenario: &Scenario, seen: &[Seen], connections: &[Connection]) -> Result<()> {
    let witnessed: usize = connections.iter().map(|c| c.deliveries.len()).sum();
    let expected = scenario.expected();
    if !expected.contains(&witnessed) {
        let each: Vec<_> = connections
            .iter()
            .map(|c| format!("{} from port {}", c.deliveries.len(), c.client.port()))
            .collect();
        bail!(
            "the capture shows {witnessed} deliveries ({}), the clients know of {expected:?}",
            each.join(", ")
        );
    }
    for session in seen {
        let connection = connections
            .iter()
            .find(|connection| connection.client.port() == session.port)
            .with_context(|| format!("client port {} is not in the capture", session.port))?;
        let body: u64 = session.bodies.iter().sum();
        let acked: u64 = connection.deliveries.iter().map(|d| d.acked_bytes).sum();
        if acked < body {
            bail!(
                "port {} got {body} bytes, the capture shows {acked} acknowledged",
                session.port
            );
        }
    }
    Ok(())
}

/// What the kernel's sockets said at their close, once all have.
fn socket_total(sockets: &SocketWitness, netns: u32, connections: &[Connection]) -> Result<u64> {
    let mut total = 0;
    wait_for(
        "bpftrace to note every closed socket",
        Duration::from_secs(10),
        || {
            let closed = sockets.closed()?;
            total = 0;
            for connection in connections {
                let key = (netns, connection.server.port(), connection.client.port());
                let Some(count) = closed.get(&key) else {
                    return Ok(false);
                };
                total += count;
            }
            Ok(true)
        },
    )?;
    Ok(total)
}

/// The time, as the records tell it.
fn unix_ns() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_nanos())?)
}

/// What weir tells of a namespace, once it has told all. The kernel gives the number of a
/// namespace that is gone to the next: what was before `since` is another's.
fn told(
    weir: &Watched<'_>,
    netns: u32,
    since: u64,
    connections: &[Connection],
) -> (Vec<Session>, Vec<Delivery>) {
    let mut sessions = Vec::new();
    let ended = wait_for(
        "weir to report every session's end",
        Duration::from_secs(10),
        || {
            sessions = of_capture(weir.sessions.of(netns, since)?, connections);
            Ok(sessions.len() >= connections.len() && sessions.iter().all(|s| s.state == "ended"))
        },
    );
    if let Err(error) = ended {
        let (shown, all) = (sessions.len(), connections.len());
        eprintln!("{error:#}: it shows {shown} of {all}");
    }
    let mine = |d: &Delivery| {
        d.endpoints.is_in(netns)
            && (d.endpoints.netns != 0 || sessions.iter().any(|s| s.session == d.session))
            && d.request_unix_ns >= since
            && d.kind != "handshake"
            && d.phase != "late"
    };
    let expected: u64 = sessions.iter().map(|session| session.deliveries).sum();
    let mut deliveries = Vec::new();
    // The stream may lag behind the listing; what is missing after that is a finding.
    let _ = wait_for("every delivery", Duration::from_secs(2), || {
        deliveries = weir.follower.seen(mine);
        Ok(deliveries.len() as u64 >= expected)
    });
    (sessions, deliveries)
}

/// Of sessions that may be in any namespace, those that the capture shows: other labs on this host
/// have the same addresses.
fn of_capture(mut sessions: Vec<Session>, connections: &[Connection]) -> Vec<Session> {
    let mut shown = Vec::new();
    for connection in connections {
        let is_it = |session: &Session| {
            session.endpoints.netns == 0
                && session.endpoints.remote() == connection.client
                && session.endpoints.local() == connection.server
        };
        let candidates = sessions.iter().filter(|session| is_it(session));
        let nearest = candidates
            .min_by_key(|session| session.established_unix_ns.abs_diff(connection.begun_ns));
        shown.extend(nearest.cloned());
    }
    sessions.retain(|session| session.endpoints.netns != 0);
    sessions.extend(shown);
    sessions
}

/// Notes sessions whose retransmissions differ from the capture's.
fn retransmissions(connections: &[Connection], sessions: &[Session], comparison: &mut Comparison) {
    for connection in connections {
        let Some(session) = sessions.iter().find(|session| {
            session.endpoints.remote() == connection.client
                && session.endpoints.local() == connection.server
        }) else {
            comparison
                .differences
                .push(format!("no session in weir for {}", connection.client));
            continue;
        };
        let (data, synack) = (
            session.retransmitted(),
            u64::from(session.synack_retransmits),
        );
        if (data, synack) != (connection.retransmitted, connection.synack_retransmitted) {
            comparison.differences.push(format!(
                "session {} retransmitted {} + {} SYN-ACK in the capture, {data} (fast {} rto {} \
                 tlp {}) + {synack} in weir",
                connection.client,
                connection.retransmitted,
                connection.synack_retransmitted,
                session.retrans_fast,
                session.retrans_rto,
                session.retrans_tlp,
            ));
        }
    }
}

/// Weir's losses while the truth was measured.
pub fn losses(weir: &Watched<'_>) -> Result<Losses> {
    Ok(weir.daemon.status()?.losses)
}

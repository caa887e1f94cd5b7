//! The core of what must hold on every kernel, over real sockets: what was done against what the
//! daemon says.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::expected::Promise;
use super::stage::{DEADLINE, DISTANT, LOSSY, ONE_WAY, ROUND_TRIP, Stage};
use crate::lab::client::{self, Abort, Connection};
use crate::lab::counters::tcp_counts;
use crate::lab::netns::join;
use crate::lab::process::{ended_by, wait_for};
use crate::lab::server::{BANNER, BlockingServer, Mode};
use crate::record::{Counters, Delivery};
use crate::watched::{PATIENCE, kernel_objects, still_there, v4, v6};

pub(super) const COMPLETE: (&str, &str) = ("exchange", "complete");

/// The blocking server's header and body, in bytes.
pub(super) fn answer_bytes(body: u64) -> u64 {
    let header = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
    header.len() as u64 + body
}

/// A server that weir knows of: who looks now and then has to have looked since it listens.
pub(super) fn serve(stage: &Stage, port: u16, mode: Mode) -> Result<BlockingServer> {
    let server = BlockingServer::dual(&stage.watched.lab.server, port, mode)?;
    std::thread::sleep(stage.promise().apart);
    Ok(server)
}

/// What an emulated machine may take to come round to something.
const SLACK: Duration = Duration::from_millis(500);
/// What all of it may take over a link that loses.
pub(super) const A_WHILE: Duration = Duration::from_secs(90);

/// An exchange as the client saw it, on the clock that weir's times are on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    at_ns: u64,
    answered_ns: u64,
    pub(super) body: u64,
}

fn now_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Asks for `paths` one after the other, each `apart` from the answer before.
pub(super) fn ask(
    address: SocketAddr,
    paths: &[&str],
    apart: Duration,
) -> Result<(u16, Vec<Asked>)> {
    let mut connection = Connection::open(address)?;
    let mut asked = Vec::new();
    for path in paths {
        std::thread::sleep(apart);
        let at_ns = now_ns();
        connection.ask(&[path], "1.1")?;
        let body = connection.answer()?;
        asked.push(Asked {
            at_ns,
            answered_ns: now_ns(),
            body,
        });
    }
    std::thread::sleep(apart);
    Ok((connection.port()?, asked))
}

/// Whether a delivery's times are where the client's put them, as far as the backend promises.
pub(super) fn check_times(told: &Delivery, asked: Asked, promise: Promise) -> Result<()> {
    let late = |is_bound: bool| {
        let bound = if is_bound {
            promise.bound
        } else {
            Duration::ZERO
        };
        ns(bound + SLACK)
    };
    ensure!(
        told.request_unix_ns <= told.first_write_unix_ns
            && told.first_write_unix_ns <= told.first_acked_unix_ns
            && told.first_acked_unix_ns <= told.last_acked_unix_ns,
        "out of order: {told:?}"
    );
    ensure!(
        (asked.at_ns..asked.answered_ns + late(told.request_bounded))
            .contains(&told.request_unix_ns),
        "{asked:?}, and the request is told otherwise: {told:?}"
    );
    let earliest = asked.at_ns + ns(ROUND_TRIP);
    let latest = asked.answered_ns + ns(ONE_WAY) + late(told.end_bounded);
    ensure!(
        (earliest..latest).contains(&told.last_acked_unix_ns),
        "{asked:?}, and the end is told otherwise: {told:?}"
    );
    if promise.times_all {
        ensure!(
            told.first_write_unix_ns < told.first_acked_unix_ns
                && u128::from(told.latency_us) >= ROUND_TRIP.as_micros(),
            "quicker than the link: {told:?}"
        );
        ensure!(
            !told.end_bounded && !told.request_bounded,
            "no more than a bound: {told:?}"
        );
    }
    Ok(())
}

/// Each answer is one delivery, of as many bytes as were sent, over both families at once.
pub(super) fn deliveries(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9000;
    const PATHS: [&str; 5] = ["/f/30000", "/f/1", "/f/300000", "/f/2000", "/f/100000"];
    let promise = stage.promise();
    let lab = &stage.watched.lab;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let address = if n % 2 == 0 { v4(PORT) } else { v6(PORT) };
            let client = lab
                .client
                .spawn("client", move || ask(address, &PATHS, promise.apart))?;
            Ok((address, client))
        })
        .collect::<Result<_>>()?;
    stage.sessions += clients.len() as u64;
    let mut bytes = 0;
    for (address, client) in clients {
        let (port, asked) = join(client)?;
        let (session, told) = stage.told(address, port, &[COMPLETE; PATHS.len()])?;
        for (delivery, &asked) in told.iter().zip(&asked) {
            ensure!(
                delivery.acked_bytes == answer_bytes(asked.body)
                    && delivery.written_bytes == delivery.acked_bytes,
                "{} bytes were sent, and told {delivery:?}",
                answer_bytes(asked.body)
            );
            check_times(delivery, asked, promise)?;
            bytes += delivery.acked_bytes;
        }
        ensure!(
            promise.allows("client_fin", &session.ended) && !session.adopted,
            "ended by the client, and told {session:?}"
        );
    }
    Ok(format!("{} deliveries, {bytes} bytes", 8 * PATHS.len()))
}

/// However little time is between exchanges, every byte of theirs is in the session's total.
pub(super) fn totals(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9008;
    const PATHS: [&str; 4] = ["/f/1", "/f/70000", "/f/2000", "/f/150000"];
    let lab = &stage.watched.lab;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let clients: Vec<_> = (1..=PATHS.len())
        .map(|count| {
            lab.client.spawn("client", move || {
                ask(v4(PORT), &PATHS[..count], Duration::ZERO)
            })
        })
        .collect::<Result<_>>()?;
    stage.sessions += clients.len() as u64;
    let mut bytes = 0;
    for client in clients {
        let (port, asked) = join(client)?;
        let sent: u64 = asked.iter().map(|asked| answer_bytes(asked.body)).sum();
        let (session, told) = stage.all_told(v4(PORT), port)?;
        let by_delivery: u64 = told.iter().map(|delivery| delivery.acked_bytes).sum();
        ensure!(
            (session.acked_bytes, by_delivery) == (sent, sent),
            "{sent} bytes were sent, and told {session:?} with {told:?}"
        );
        bytes += sent;
    }
    Ok(format!("{} sessions, {bytes} bytes", PATHS.len()))
}

/// Exchanges that end with their session, each in another way.
pub(super) fn closings(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9001;
    const CLOSING: u16 = 9002;
    let promise = stage.promise();
    let inside = &stage.watched.lab.client;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let _closing = serve(stage, CLOSING, Mode::CloseDelimited)?;
    let half = inside.run(|| client::half_closed(v4(PORT), "/f/300000?think=100"))?;
    stage.watched.note_ended()?;
    let whole = inside.run(|| client::until_close(v4(CLOSING), "/f/300000"))?;
    stage.watched.note_ended()?;
    let cut = inside.run(move || {
        let mut connection = Connection::open(v4(PORT))?;
        connection.ask(&["/f/4000000"], "1.1")?;
        connection.read_exactly(50_000)?;
        std::thread::sleep(promise.apart);
        let port = connection.port()?;
        connection.abort(Abort::Reset)?;
        Ok(port)
    })?;
    stage.sessions += 3;
    for (server, port, phase, ended) in [
        (PORT, half.port, "complete", "client_fin"),
        (CLOSING, whole.port, "complete", "server_fin"),
        (PORT, cut, "aborted", "client_rst"),
    ] {
        let (session, told) = stage.told(v4(server), port, &[("exchange", phase)])?;
        ensure!(
            promise.allows(ended, &session.ended),
            "{ended} was made, and told {session:?}"
        );
        let (acked, written) = (told[0].acked_bytes, told[0].written_bytes);
        let whole = phase == "complete";
        ensure!(
            (acked == written) == whole && (acked > 300_000 || !whole),
            "{phase}, and told {told:?}"
        );
    }
    Ok("half-closed, closed by the server, reset by the client".into())
}

/// What the server says unasked is no answer.
pub(super) fn greeting(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9003;
    let pause = stage.promise().apart.max(Duration::from_millis(100));
    let lab = &stage.watched.lab;
    let _server = serve(stage, PORT, Mode::SpeaksFirst)?;
    let port = lab.client.run(move || {
        let mut connection = Connection::open(v4(PORT))?;
        connection.read_exactly(BANNER.len())?;
        std::thread::sleep(pause);
        connection.ask(&["/f/10000"], "1.1")?;
        connection.answer()?;
        connection.port()
    })?;
    stage.sessions += 1;
    let (_, told) = stage.told(v4(PORT), port, &[("unsolicited", "complete"), COMPLETE])?;
    ensure!(told[0].acked_bytes == BANNER.len() as u64, "{told:?}");
    Ok(String::new())
}

/// The server's thinking ends with its first write, however long that write blocks.
pub(super) fn first_write(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9004;
    const THINKS_NS: u64 = 300_000_000;
    let lab = &stage.watched.lab;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let paths = ["/f/500?think=300", "/f/2000000?think=300"];
    let promise = stage.promise();
    let (port, asked) = lab
        .client
        .run(move || ask(v4(PORT), &paths, promise.apart))?;
    stage.sessions += 1;
    let (_, told) = stage.told(v4(PORT), port, &[COMPLETE; 2])?;
    let mut thinking = Vec::new();
    for (delivery, asked) in told.iter().zip(asked) {
        check_times(delivery, asked, promise)?;
        ensure!(
            !delivery.first_write_bounded,
            "the first write is only a bound: {delivery:?}"
        );
        let think_ns = delivery.first_write_unix_ns - delivery.request_unix_ns;
        ensure!(
            think_ns >= THINKS_NS,
            "thought for 300 ms, and told {delivery:?}"
        );
        thinking.push(format!("{} us", think_ns / 1000));
    }
    Ok(format!("thought for {}", thinking.join(" and ")))
}

/// What is late is told while nothing happens, before it ends.
pub(super) fn late(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9005;
    let lab = &stage.watched.lab;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let path = format!("/f/500?think={}", 4 * DEADLINE.as_millis());
    let client = lab.client.spawn("client", move || {
        client::keep_alive(v4(PORT), &[&path], Duration::ZERO)
    })?;
    let mut open_late = 0;
    while open_late == 0 && !client.is_finished() {
        let cells = stage.watched.daemon.cells()?;
        open_late = cells.iter().map(|cell| cell.deliveries_open_late).sum();
        std::thread::sleep(Duration::from_millis(50));
    }
    let seen = join(client)?;
    stage.sessions += 1;
    let (_, told) = stage.told(v4(PORT), seen.port, &[COMPLETE])?;
    ensure!(open_late == 1, "told late only when it had ended: {told:?}");
    ensure!(told[0].late, "not told late at its end: {told:?}");
    Ok("told while it was silent".into())
}

/// Segments sent again are those that the kernel counts.
pub(super) fn retransmits(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9006;
    let pause = stage.promise().apart.max(Duration::from_millis(300));
    let lab = &stage.watched.lab;
    let server = serve(stage, PORT, Mode::KeepAlive)?;
    let before = tcp_counts(&lab.server)?;
    lab.server.netem(LOSSY)?;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            lab.client.spawn("client", move || {
                let paths = ["/f/600000", "/f/200000"];
                client::keep_alive(v4(PORT), &paths, pause)
            })
        })
        .collect::<Result<_>>()?;
    stage.sessions += clients.len() as u64;
    wait_for("the clients to be served", A_WHILE, || {
        stage.watched.note_ended()?;
        Ok(clients.iter().all(std::thread::JoinHandle::is_finished))
    })?;
    let ports: Vec<_> = clients
        .into_iter()
        .map(|client| Ok(join(client)?.port))
        .collect::<Result<_>>()?;
    // A lost FIN is sent again, too.
    wait_for("the connections to close", A_WHILE, || {
        stage.watched.note_ended()?;
        lab.server.is_closed(PORT)
    })?;
    lab.server.netem(DISTANT)?;
    let after = tcp_counts(&lab.server)?;
    drop(server);
    let syn_acks = after.syn_retrans - before.syn_retrans;
    let made = after.retrans_segs - before.retrans_segs - syn_acks;
    ensure!(made > 0, "nothing was lost");
    let (mut by_session, mut by_delivery) = (0, 0);
    let mut sessions = Vec::new();
    for port in ports {
        let (session, told) = stage.told(v4(PORT), port, &[COMPLETE; 2])?;
        by_session += session.retransmitted();
        sessions.push((
            session.retrans_fast,
            session.retrans_rto,
            session.retrans_tlp,
        ));
        by_delivery += told
            .iter()
            .map(|d| u64::from(d.retrans_fast + d.retrans_rto + d.retrans_tlp))
            .sum::<u64>();
    }
    ensure!(
        by_session == made,
        "the kernel counts {made}, the sessions {by_session}: fast, after a timeout, to probe the \
         tail {sessions:?}; SYN-ACKs {syn_acks}"
    );
    // A FIN belongs to no delivery.
    ensure!(
        by_delivery <= made && made - by_delivery <= 4,
        "the kernel counts {made}, the deliveries {by_delivery}"
    );
    Ok(format!("{made} segments"))
}

/// Nothing of the checks before is missing, and every loss is accounted for.
pub(super) fn reconciled(stage: &mut Stage) -> Result<String> {
    let daemon = &stage.watched.daemon;
    let made = stage.sessions;
    let mut counted = Counters::default();
    let caught_up = wait_for("every session to be counted", PATIENCE, || {
        counted = Counters::default();
        for cell in daemon.cells()? {
            counted.sessions_started += cell.counters.sessions_started;
            counted.sessions_ended += cell.counters.sessions_ended;
        }
        let losses = daemon.status()?.losses;
        Ok(counted.sessions_ended >= made
            && losses.bulk.drained == losses.bulk.exported
            && losses.hot.drained == losses.hot.exported)
    });
    caught_up.with_context(|| format!("{made} sessions were made, and told {counted:?}"))?;
    ensure!(
        (counted.sessions_started, counted.sessions_ended) == (made, made),
        "{made} sessions were made, and told {counted:?}"
    );
    let losses = daemon.status()?.losses;
    ensure!(losses.reconcile(), "{losses:?}");
    ensure!(
        losses.hot.ring_full + losses.bulk.ring_full + losses.records_malformed == 0,
        "something was lost: {losses:?}"
    );
    Ok(format!("{made} sessions"))
}

/// A daemon that is killed leaves nothing in the kernel; one that loads nothing has nothing there.
pub(super) fn sigkill(stage: &mut Stage) -> Result<String> {
    let promise = stage.promise();
    let process = stage.watched.daemon.process();
    let objects = kernel_objects(process.id())?;
    let loads = objects.iter().any(|(kind, _)| kind == "prog");
    ensure!(
        loads == promise.loads && (loads || objects.is_empty()),
        "it should hold {} programs: {objects:?}",
        if promise.loads { "some" } else { "no" }
    );
    process.signal(Signal::SIGKILL)?;
    let status = process.wait(PATIENCE)?;
    if !ended_by(status, Signal::SIGKILL) {
        bail!("it had ended before ({status})");
    }
    let clean = wait_for("the kernel to be clean", PATIENCE, || {
        Ok(still_there(&objects)?.is_empty())
    });
    clean.with_context(|| format!("{:?}", still_there(&objects)))?;
    Ok(format!("{} objects went", objects.len()))
}

/// A daemon that comes later takes up the sessions that are there; the one before is gone by now.
pub(super) fn adopted(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9007;
    let lab = &stage.watched.lab;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let client = lab.client.spawn("client", move || {
        let mut connection = Connection::open(v4(PORT))?;
        connection.ask(&["/f/500"], "1.1")?;
        connection.answer()?;
        tell.send(connection.port()?)?;
        wait.recv()?;
        connection.ask(&["/f/30000"], "1.1")?;
        connection.answer()
    })?;
    let port = told.recv().context("the client did not connect")?;
    stage.restart(|_| ())?;
    go_on.send(())?;
    let body = join(client)?;
    let (session, told) = stage.told(v4(PORT), port, &[COMPLETE])?;
    ensure!(session.adopted && told[0].adopted, "{session:?}, {told:?}");
    ensure!(
        told[0].acked_bytes == answer_bytes(body),
        "{} bytes were sent, and told {told:?}",
        answer_bytes(body)
    );
    Ok(String::new())
}

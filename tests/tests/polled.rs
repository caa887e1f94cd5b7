//! Looking at the sockets as an ordinary user, beside the programs that measure the same sessions
//! exactly.

use std::collections::HashMap;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_tests::lab::client::{self, Abort};
use weir_tests::lab::counters::tcp_counts;
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::nginx::{CLEAR, CLOSE, MAPPED, Nginx};
use weir_tests::lab::process::wait_for;
use weir_tests::lab::relay::Direction;
use weir_tests::lab::shaper::Shape;
use weir_tests::record::{Delivery, Session};
use weir_tests::watched::{DISTANT, PATIENCE, Watched, binary, kernel_objects, settings, v4, v6};
use weir_tests::weir::Daemon;

/// Time between two looks (250 ms), the kernel's tick, and a crowded machine's delays.
const BOUND_US: u64 = 500_000;
/// Exchanges further apart than two looks are told apart.
const APART: Duration = Duration::from_millis(700);

/// A daemon without privilege in the server's namespace, beside the exact one.
fn beside(watched: &Watched) -> Result<Daemon> {
    Daemon::start_unprivileged(
        &binary(),
        &watched.lab.dir().join("polled"),
        &settings(),
        &watched.lab.server,
        &[],
        &["--backend", "polled"],
    )
}

fn by_cookie(sessions: Vec<Session>) -> HashMap<u64, Session> {
    sessions
        .into_iter()
        .map(|session| (session.session, session))
        .collect()
}

#[test]
fn totals_of_every_session_are_exact_also_of_those_shorter_than_a_look() -> Result<()> {
    let watched = Watched::new(Lab::with_relay(DISTANT, 1)?, &settings())?;
    let _nginx = Nginx::start(&watched.lab)?;
    let mut polled = beside(&watched)?;
    let status = polled.status()?;
    assert_eq!(status.backend, "polled");
    assert!(kernel_objects(polled.process().id())?.is_empty());
    let exactly = watched.daemon.note_sessions()?;
    let looked = polled.note_sessions()?;

    let client = &watched.lab.client;
    for round in 0..5 {
        client.run(|| client::until_close(v4(CLOSE), "/f/500"))?;
        client.run(|| client::until_close(v6(CLOSE), "/f/300000"))?;
        client.run(|| client::keep_alive(v4(MAPPED), &["/f/10000", "/f/2000"], Duration::ZERO))?;
        client.run(|| client::half_closed(v4(CLEAR), "/f/30000"))?;
        let how = if round % 2 == 0 {
            Abort::Reset
        } else {
            Abort::Close
        };
        client.run(move || client::aborted(v6(CLEAR), "/f/4000000", 100_000, how))?;
    }
    client.run(|| client::keep_alive(v4(CLEAR), &["/f/100000"; 4], APART))?;

    let of = |log: &weir_tests::weir::SessionLog| -> Result<HashMap<u64, Session>> {
        let mut sessions = log.of(watched.netns, 0)?;
        sessions.retain(|session| session.state == "ended");
        Ok(by_cookie(sessions))
    };
    wait_for("every session in both", PATIENCE, || {
        Ok(of(&exactly)?.len() == 26 && of(&looked)?.len() == 26)
    })
    .with_context(|| format!("{:?} and {:?}\n{}", of(&exactly), of(&looked), polled.log()))?;
    let (exactly, looked) = (of(&exactly)?, of(&looked)?);
    for (cookie, exact) in &exactly {
        let seen = looked.get(cookie).context("a session is missing")?;
        assert_eq!(seen.backend, "polled");
        assert_eq!(seen.endpoints, exact.endpoints);
        assert!(!seen.adopted);
        assert_eq!(
            (seen.acked_bytes, seen.segments, seen.retransmitted()),
            (exact.acked_bytes, exact.segments, exact.retransmitted()),
            "{seen:?}\n{exact:?}"
        );
        // Not later than it ended, and seldom later than it was.
        let late_ns = seen.established_unix_ns.abs_diff(exact.established_unix_ns);
        assert!(late_ns / 1000 < BOUND_US, "{seen:?}\n{exact:?}");
        // A reset does not show, and of two FINs between two looks not which was first.
        if seen.ended != "other" && exact.ended.ends_with("_fin") {
            assert_eq!(seen.ended, exact.ended, "{seen:?}\n{exact:?}");
        }
    }
    let losses = polled.status()?.losses;
    assert!(losses.reconcile(), "{losses:?}");
    assert_eq!((losses.ends_unseen, losses.end_overflows), (0, 0));
    Ok(())
}

#[test]
fn deliveries_that_are_apart_are_told_apart_and_timed_within_the_looks_distance() -> Result<()> {
    let watched = Watched::new(Lab::with_relay(DISTANT, 1)?, &settings())?;
    let _nginx = Nginx::start(&watched.lab)?;
    let polled = beside(&watched)?;
    let follower = polled.follow()?;
    let paths = ["/f/500", "/f/300000", "/f/4000000", "/f/30000"];
    let seen = watched
        .lab
        .client
        .run(move || client::keep_alive(v4(CLEAR), &paths, APART))?;
    let (session, exact) = watched.deliveries(v4(CLEAR), seen.port)?;
    let mut looked: Vec<Delivery> = Vec::new();
    wait_for("the same deliveries by looking", PATIENCE, || {
        looked = follower.seen(|delivery| delivery.session == session.session);
        Ok(looked.len() >= exact.len())
    })
    .with_context(|| format!("{looked:?}\n{}", polled.log()))?;
    assert_eq!(exact.len(), paths.len());
    for (seen, exact) in looked.iter().zip(&exact) {
        let what = format!("{seen:?}\n{exact:?}");
        assert_eq!(
            (seen.index, &seen.kind, &seen.phase),
            (exact.index, &exact.kind, &exact.phase),
            "{what}"
        );
        assert_eq!(
            (seen.request_bytes, seen.acked_bytes, seen.written_bytes),
            (exact.request_bytes, exact.acked_bytes, exact.written_bytes),
            "{what}"
        );
        assert!(
            seen.request_bounded && seen.first_write_bounded && seen.end_bounded,
            "{what}"
        );
        assert!(
            seen.latency_us.abs_diff(exact.latency_us) < BOUND_US,
            "{what}"
        );
        let apart_us = seen.last_acked_unix_ns.abs_diff(exact.last_acked_unix_ns) / 1000;
        assert!(apart_us < BOUND_US, "{what}");
    }
    follower.finish()
}

#[test]
fn sessions_from_before_are_adopted_and_filters_change_by_ports_and_prefixes() -> Result<()> {
    let watched = Watched::new(Lab::with_relay(DISTANT, 1)?, &settings())?;
    let _nginx = Nginx::start(&watched.lab)?;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (ready_to, ready) = std::sync::mpsc::channel();
    let client = watched.lab.client.spawn("client", move || {
        let mut connection = client::Connection::open(v4(CLEAR))?;
        connection.ask(&["/f/2000"], "1.1")?;
        connection.answer()?;
        ready_to.send(connection.port()?)?;
        wait.recv()?;
        connection.ask(&["/f/30000"], "1.1")?;
        connection.answer()
    })?;
    let port = ready.recv().context("the client did not connect")?;
    let polled = beside(&watched)?;
    let of_client = |daemon: &Daemon| -> Result<Option<Session>> {
        let sessions = daemon.sessions()?.into_iter();
        let mut ours = sessions.filter(|session| session.endpoints.remote_port == port);
        Ok(ours.next())
    };
    let mut adopted = None;
    wait_for("the session to be adopted", PATIENCE, || {
        adopted = of_client(&polled)?;
        Ok(adopted.is_some())
    })?;
    assert!(adopted.is_some_and(|session| session.adopted));

    let mut elsewhere = settings();
    elsewhere.ports = vec![CLOSE];
    polled.reload(&elsewhere)?;
    wait_for("the session to be left out", PATIENCE, || {
        Ok(of_client(&polled)?.is_none_or(|session| session.state == "ended"))
    })?;
    let mut here = settings();
    here.prefixes = vec!["10.77.0.0/16".into()];
    polled.reload(&here)?;
    wait_for("the session to be let in again", PATIENCE, || {
        Ok(of_client(&polled)?.is_some_and(|session| session.state != "ended"))
    })?;
    go.send(())?;
    join(client)?;
    wait_for("its delivery", PATIENCE, || {
        Ok(of_client(&polled)?.is_some_and(|session| session.deliveries == 1))
    })
    .with_context(|| polled.log())?;
    assert!(polled.status()?.losses.reconcile());
    Ok(())
}

#[test]
fn repeated_syn_acks_and_given_up_handshakes_are_seen_by_looking() -> Result<()> {
    const ALL_LOST: Shape = Shape {
        loss_ppm: 1_000_000,
        ..DISTANT
    };
    let lab = Lab::with_relay(DISTANT, 1)?;
    lab.server.sysctl("net/ipv4/tcp_synack_retries", "1")?;
    let watched = Watched::new(lab, &settings())?;
    let _nginx = Nginx::start(&watched.lab)?;
    let polled = beside(&watched)?;
    watched.lab.relay().set(Direction::Down, ALL_LOST);
    let refused = watched
        .lab
        .client
        .run(|| Ok(TcpStream::connect_timeout(&v4(CLEAR), Duration::from_millis(300)).is_err()))?;
    assert!(refused, "connected over a dead link");
    let client = watched.lab.client.spawn("client", || {
        client::keep_alive(v6(CLEAR), &["/f/500"], Duration::ZERO)
    })?;
    wait_for("a SYN-ACK to each sent again", PATIENCE, || {
        Ok(tcp_counts(&watched.lab.server)?.syn_retrans >= 2)
    })?;
    watched.lab.relay().set(Direction::Down, DISTANT);
    let seen = join(client)?;
    wait_for("the give-up", PATIENCE, || {
        let cells = polled.cells()?;
        let give_ups = cells.iter().map(|cell| cell.counters.half_open_give_ups);
        Ok(give_ups.sum::<u64>() == 1)
    })
    .with_context(|| format!("{:?}\n{}", polled.cells(), polled.log()))?;
    let ours = |session: &Session| session.endpoints.remote_port == seen.port;
    let (exact, _) = watched.deliveries(v6(CLEAR), seen.port)?;
    let looked = polled.sessions()?.into_iter().find(ours);
    let looked = looked.context("the session is missing")?;
    assert_eq!(looked.synack_retransmits, exact.synack_retransmits);
    assert_eq!(looked.retransmitted(), 0);
    Ok(())
}

//! The budget on a real kernel: with next to nothing allowed and a real load, a share of the
//! sessions is followed, and of the others everything stays true that is still said.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_tests::lab::client::{self, Abort, Connection};
use weir_tests::lab::counters::tcp_counts;
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::nginx::{CLEAR, Nginx};
use weir_tests::lab::process::wait_for;
use weir_tests::lab::relay::Direction;
use weir_tests::lab::shaper::Shape;
use weir_tests::record::{Budget, Delivery, Session};
use weir_tests::watched::{
    DISTANT, PATIENCE, Watched, linked_programs, own_port, settings, v4, v6,
};
use weir_tests::weir::Settings;

const LOSSY: Shape = Shape {
    delay_ns: 2_000_000,
    loss_ppm: 20_000,
    ..DISTANT
};
const ALL_LOST: Shape = Shape {
    loss_ppm: 1_000_000,
    ..DISTANT
};
/// Of each kind of session.
const SESSIONS: usize = 8;

fn tight() -> Settings {
    Settings {
        budget_core_permille: 1,
        deadline_ms: 1000,
        ..settings()
    }
}

/// Exchanges as fast as they go, in a lab of their own, until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    client: Option<JoinHandle<Result<()>>>,
    _nginx: Nginx,
    _lab: Lab,
}

impl Load {
    fn start() -> Result<Self> {
        let lab = Lab::with_veth()?;
        let nginx = Nginx::on_port(&lab, own_port())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let client = lab.client.spawn("load", move || {
            let mut connection = Connection::open(v4(own_port()))?;
            // nginx closes a connection after a thousand requests.
            for n in 1.. {
                connection.ask(&["/f/500"], "1.1")?;
                connection.answer()?;
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                if n % 500 == 0 {
                    connection = Connection::open(v4(own_port()))?;
                }
            }
            Ok(())
        })?;
        Ok(Self {
            stop,
            client: Some(client),
            _nginx: nginx,
            _lab: lab,
        })
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        self.client.take().map_or(Ok(()), join)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn budget(watched: &Watched) -> Result<Budget> {
    let budget = watched.daemon.status()?.budget;
    budget.context("weir does not tell of its budget")
}

/// The share that is followed, as told.
fn followed_permille(watched: &Watched) -> Result<String> {
    Ok(format!("{:.3}", budget(watched)?.followed_permille))
}

/// A lab with a daemon that has been brought to leave sessions out.
fn thinned(shape: Shape) -> Result<(Watched, Nginx)> {
    let load = Load::start()?;
    let watched = Watched::new(Lab::with_relay(shape, 7)?, &tight())?;
    let nginx = Nginx::start(&watched.lab)?;
    wait_for("weir to leave sessions out", PATIENCE, || {
        Ok(budget(&watched)?.followed_permille < 1000.0)
    })
    .with_context(|| format!("{:?}\n{}", budget(&watched), watched.daemon.log()))?;
    load.end()?;
    Ok((watched, nginx))
}

/// What weir says of the sessions from these ports, once they have ended.
fn ended(watched: &Watched, ports: &[u16]) -> Result<Vec<Session>> {
    let mut sessions = Vec::new();
    wait_for("the sessions' ends", PATIENCE, || {
        sessions = watched.daemon.sessions()?;
        sessions.retain(|session| {
            session.endpoints.is_in(watched.netns)
                && session.state == "ended"
                && ports.contains(&session.endpoints.remote_port)
        });
        Ok(sessions.len() >= ports.len())
    })
    .with_context(|| format!("{} of {}", sessions.len(), ports.len()))?;
    Ok(sessions)
}

fn of_lab(watched: &Watched, keep: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
    watched
        .follower
        .seen(|delivery| delivery.endpoints.is_in(watched.netns) && keep(delivery))
}

#[test]
fn beyond_the_budget_a_share_is_followed_and_every_total_stays_exact() -> Result<()> {
    let (mut watched, _nginx) = thinned(LOSSY)?;
    let pid = watched.daemon.process().id();
    let linked = linked_programs(pid)?;
    assert!(linked.contains("inet_sock_set_state"), "{linked:?}");
    assert!(!linked.contains("tcp_probe"), "{linked:?}");

    // Until some that are followed are among them.
    let mut sessions = Vec::new();
    let mut followed = Vec::new();
    let mut shares = BTreeSet::from([followed_permille(&watched)?]);
    let mut limit = tight().budget_core_permille;
    for _ in 0..40 {
        // Where others keep this kernel busy, more is needed before anything can be followed.
        if !budget(&watched)?.error.is_empty() {
            limit *= 2;
            watched.daemon.reload(&Settings {
                budget_core_permille: limit,
                ..tight()
            })?;
        }
        let mut ports = Vec::new();
        let mut clients = Vec::new();
        for n in 0..SESSIONS {
            let address = if n % 2 == 0 { v4(CLEAR) } else { v6(CLEAR) };
            clients.push(watched.lab.client.spawn("client", move || {
                client::keep_alive(address, &["/f/30000", "/f/30000"], Duration::ZERO)
            })?);
        }
        for client in clients {
            ports.push(join(client)?.port);
        }
        sessions.extend(ended(&watched, &ports)?);
        shares.insert(followed_permille(&watched)?);
        followed = of_lab(&watched, |delivery| delivery.phase == "complete");
        if followed.len() >= 4 && sessions.len() >= 8 * SESSIONS {
            break;
        }
    }
    assert!(!followed.is_empty(), "{:?}", budget(&watched));
    watched.lab.server.wait_until_closed(CLEAR)?;

    // Two answers of the same length.
    let total = sessions[0].acked_bytes;
    assert!(total > 60_000 && total.is_multiple_of(2), "{total}");
    for session in &sessions {
        assert_eq!(session.acked_bytes, total, "{session:?}");
    }
    // The share that is followed may change between a session's two answers, not at each of them.
    let cut = |session: &&Session| session.deliveries == 1;
    let half = sessions.iter().filter(cut).count();
    assert!(half * 8 <= sessions.len(), "{half} of {}", sessions.len());
    assert!(half == 0 || shares.len() > 1, "{half}, at {shares:?}");
    assert!(sessions.iter().all(|session| session.deliveries <= 2));
    for delivery in &followed {
        assert_eq!(delivery.acked_bytes, total / 2, "{delivery:?}");
        assert!(delivery.latency_us > 2000, "{delivery:?}");
    }
    // Each request is seen as it comes, and the kernel tells when the last byte was acknowledged.
    let is_timed = |one: &&Delivery| !(one.request_bounded || one.end_bounded);
    let timed = followed.iter().filter(is_timed).count();
    assert!(timed * 10 >= followed.len() * 9, "{timed}: {followed:?}");
    let left_out = sessions.iter().filter(|session| session.deliveries == 0);
    assert!(left_out.count() > 0, "{:?}", budget(&watched));

    let again: u64 = sessions
        .iter()
        .map(|session| session.retransmitted() + u64::from(session.synack_retransmits))
        .sum();
    let kernel = tcp_counts(&watched.lab.server)?.retrans_segs;
    assert!(kernel > 0, "nothing was lost");
    assert_eq!(again, kernel);

    let losses = watched.daemon.status()?.losses;
    assert!(losses.sessions_left_out > 0, "{losses:?}");
    assert!(losses.reconcile(), "{losses:?}");
    assert_eq!((losses.hot.ring_full, losses.bulk.ring_full), (0, 0));
    Ok(())
}

#[test]
fn what_is_late_or_cut_off_is_reported_of_sessions_that_are_left_out_too() -> Result<()> {
    let (watched, _nginx) = thinned(DISTANT)?;
    let mut stuck = Vec::new();
    let mut goes = Vec::new();
    let mut cut_off = Vec::new();
    let (tell, told) = std::sync::mpsc::channel();
    for n in 0..SESSIONS {
        let address = if n % 2 == 0 { v4(CLEAR) } else { v6(CLEAR) };
        cut_off.push(watched.lab.client.spawn("client", move || {
            client::aborted(address, "/f/4000000", 100_000, Abort::Reset)
        })?);
        let tell = tell.clone();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        stuck.push(watched.lab.client.spawn("client", move || {
            let mut connection = Connection::open(address)?;
            connection.ask(&["/f/4000000"], "1.1")?;
            connection.read_exactly(50_000)?;
            tell.send(connection.port()?)?;
            wait.recv()?;
            // The server tries again when its timeout, doubled each time, is over: all but what the
            // header is long is waited for.
            connection.read_exactly(3_950_000)?;
            connection.read_until_quiet(Duration::from_secs(1))?;
            connection.port()
        })?);
        goes.push(go);
    }
    let mut ports = Vec::new();
    for client in cut_off {
        ports.push(join(client)?.port);
    }
    wait_for("every session that was cut off", PATIENCE, || {
        Ok(of_lab(&watched, |delivery| delivery.phase == "aborted").len() >= SESSIONS)
    })
    .with_context(|| format!("{:?}", of_lab(&watched, |_| true)))?;
    for session in ended(&watched, &ports)? {
        assert_eq!(session.ended, "client_rst", "{session:?}");
        let aborted = of_lab(&watched, |delivery| delivery.session == session.session);
        assert_eq!(aborted.len(), 1, "{aborted:?}");
        assert!(aborted[0].acked_bytes <= session.acked_bytes);
    }

    let mut ports = Vec::new();
    for _ in 0..SESSIONS {
        ports.push(told.recv().context("a client did not connect")?);
    }
    for direction in [Direction::Down, Direction::Up] {
        watched.lab.relay().set(direction, ALL_LOST);
    }
    let late = |delivery: &Delivery| {
        delivery.phase == "late" && ports.contains(&delivery.endpoints.remote_port)
    };
    wait_for("every session that is stuck", PATIENCE, || {
        Ok(of_lab(&watched, late).len() >= SESSIONS)
    })
    .with_context(|| format!("{:?}\n{}", of_lab(&watched, late), watched.daemon.log()))?;
    watched.lab.shape(DISTANT);
    for go in goes {
        go.send(())?;
    }
    for client in stuck {
        join(client)?;
    }
    let sessions = ended(&watched, &ports)?;
    let reports = of_lab(&watched, late);
    assert_eq!(reports.len(), SESSIONS, "once each: {reports:?}");
    // A session that is left out is late since a look, not since its request.
    let looked_at: Vec<_> = reports.iter().filter(|late| late.request_bounded).collect();
    assert!(!looked_at.is_empty(), "{reports:?}");
    for session in &sessions {
        let of = |delivery: &Delivery| {
            delivery.session == session.session && delivery.phase == "complete"
        };
        let over = of_lab(&watched, of);
        assert_eq!(over.len(), 1, "what became of it: {session:?} {over:?}");
        assert!(over[0].late, "{over:?}");
    }
    // Others on this host may be late too, for a time.
    wait_for("no delivery to be open and late", PATIENCE, || {
        let cells = watched.daemon.cells()?;
        Ok(cells.iter().all(|cell| cell.deliveries_open_late == 0))
    })?;
    assert!(watched.daemon.status()?.losses.reconcile());
    Ok(())
}

#[test]
fn without_the_limit_everything_is_followed_again_and_nothing_is_invented() -> Result<()> {
    let (mut watched, _nginx) = thinned(DISTANT)?;
    let (ready_to, ready) = std::sync::mpsc::channel();
    let mut clients = Vec::new();
    let mut goes = Vec::new();
    for _ in 0..SESSIONS {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let ready_to = ready_to.clone();
        clients.push(watched.lab.client.spawn("client", move || {
            let mut connection = Connection::open(v4(CLEAR))?;
            for _ in 0..2 {
                connection.ask(&["/f/100000"], "1.1")?;
                connection.answer()?;
            }
            // One answer is under way when everything is followed again.
            connection.ask(&["/f/1000000"], "1.1")?;
            connection.read_exactly(50_000)?;
            ready_to.send(connection.port()?)?;
            wait.recv()?;
            connection.read_until_quiet(Duration::from_millis(500))?;
            for _ in 0..3 {
                connection.ask(&["/f/100000"], "1.1")?;
                connection.answer()?;
            }
            Ok(())
        })?);
        goes.push(go);
    }
    let mut ports = Vec::new();
    for _ in 0..SESSIONS {
        ports.push(ready.recv().context("a client did not connect")?);
    }
    let pid = watched.daemon.process().id();
    wait_for("the sessions to be left out", PATIENCE, || {
        Ok(watched.daemon.status()?.losses.sessions_left_out > 0)
    })?;
    assert!(!linked_programs(pid)?.contains("tcp_probe"));
    watched.daemon.reload(&Settings {
        budget_core_permille: 0,
        ..tight()
    })?;
    wait_for("everything to be followed", PATIENCE, || {
        Ok(linked_programs(pid)?.contains("tcp_probe"))
    })
    .with_context(|| watched.daemon.log())?;
    assert!(watched.daemon.status()?.budget.is_none());
    for go in goes {
        go.send(())?;
    }
    for client in clients {
        join(client)?;
    }
    for session in ended(&watched, &ports)? {
        let mut deliveries = Vec::new();
        wait_for("the session's deliveries", PATIENCE, || {
            deliveries = of_lab(&watched, |delivery| {
                delivery.session == session.session && delivery.phase != "late"
            });
            Ok(
                deliveries.iter().filter(|d| d.kind == "exchange").count() as u64
                    >= session.deliveries,
            )
        })?;
        deliveries.sort_by_key(|delivery| delivery.index);
        let what = format!("{session:?}\n{deliveries:?}");
        let last = deliveries.split_off(deliveries.len().saturating_sub(3));
        assert_eq!(last.len(), 3, "{what}");
        let answer = last[0].acked_bytes;
        assert!((100_000..101_000).contains(&answer), "{what}");
        for delivery in &last {
            assert_eq!(
                (
                    delivery.kind.as_str(),
                    delivery.phase.as_str(),
                    delivery.acked_bytes
                ),
                ("exchange", "complete", answer),
                "{what}"
            );
            assert!(!delivery.request_bounded && !delivery.end_bounded, "{what}");
        }
        // Of what was before them, no byte twice.
        let measured: u64 = deliveries.iter().map(|delivery| delivery.acked_bytes).sum();
        assert!(measured <= session.acked_bytes - 3 * answer, "{what}");
    }
    assert!(watched.daemon.status()?.losses.reconcile());
    Ok(())
}

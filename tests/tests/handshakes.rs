//! Handshakes that the link spoils: SYN-ACKs sent again, and clients that never come back.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
};
use weir_tests::lab::client::{self, Connection};
use weir_tests::lab::counters::tcp_counts;
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::nginx::{CLEAR, Nginx};
use weir_tests::lab::process::wait_for;
use weir_tests::lab::relay::Direction;
use weir_tests::lab::shaper::Shape;
use weir_tests::watched::{DISTANT, PATIENCE, Watched, settings, v4};

const ALL_LOST: Shape = Shape {
    loss_ppm: 1_000_000,
    ..DISTANT
};

#[test]
fn repeated_syn_acks_are_counted_and_the_handshake_is_timed_from_the_first() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    watched.lab.relay().set(Direction::Down, ALL_LOST);
    let client = watched.lab.client.spawn("client", || {
        client::keep_alive(v4(CLEAR), &["/f/500"], Duration::ZERO)
    })?;
    wait_for("a SYN-ACK sent again", PATIENCE, || {
        Ok(tcp_counts(&watched.lab.server)?.syn_retrans > 0)
    })?;
    watched.lab.relay().set(Direction::Down, DISTANT);
    let seen = join(client)?;
    let (session, deliveries) = watched.deliveries(v4(CLEAR), seen.port)?;
    let kernel = tcp_counts(&watched.lab.server)?;
    assert_eq!(u64::from(session.synack_retransmits), kernel.syn_retrans);
    assert!(session.handshake_us >= 1_000_000, "{session:?}");
    // Nothing of the handshake is in the delivery.
    assert_eq!(deliveries.len(), 1);
    assert!(deliveries[0].latency_us < 1_000_000, "{deliveries:?}");
    assert_eq!(session.retransmitted(), 0);
    Ok(())
}

#[test]
fn a_client_that_never_finishes_its_handshake_is_counted_as_given_up() -> Result<()> {
    let lab = Lab::with_relay(DISTANT, 1)?;
    lab.server.sysctl("net/ipv4/tcp_synack_retries", "1")?;
    let watched = Watched::new(lab, &settings())?;
    let _nginx = Nginx::start(&watched.lab)?;
    watched.lab.relay().set(Direction::Down, ALL_LOST);
    let refused = watched
        .lab
        .client
        .run(|| Ok(TcpStream::connect_timeout(&v4(CLEAR), Duration::from_millis(300)).is_err()))?;
    assert!(refused, "connected over a dead link");
    wait_for("the give-up", PATIENCE, || {
        let cells = watched.daemon.cells()?;
        Ok(cells
            .iter()
            .any(|cell| cell.counters.half_open_give_ups > 0))
    })
    .with_context(|| watched.daemon.log())?;
    // The link is whole again, and a session that comes over it is none of them.
    watched.lab.relay().set(Direction::Down, DISTANT);
    let port = watched.lab.client.run(|| {
        let mut connection = Connection::open(v4(CLEAR))?;
        connection.ask(&["/f/500"], "1.0")?;
        connection.read_exactly(500)?;
        connection.port()
    })?;
    let (session, _) = watched.deliveries(v4(CLEAR), port)?;
    assert_eq!(session.synack_retransmits, 0);

    Ok(())
}

#[test]
fn more_half_open_sessions_than_one_look_takes_are_all_counted_as_given_up() -> Result<()> {
    const CLIENTS: u16 = 6_000;
    /// `MAX_PER_CALL` of the daemon's reader.
    const ONE_LOOK: u64 = 4_096;
    let lab = Lab::with_relay(DISTANT, 1)?;
    for (name, value) in [
        ("net/core/somaxconn", "16384"),
        ("net/ipv4/tcp_max_syn_backlog", "16384"),
        ("net/ipv4/tcp_synack_retries", "1"),
    ] {
        lab.server.sysctl(name, value)?;
    }
    let watched = Watched::new(lab, &settings())?;
    let server = v4(CLEAR);
    let _listener = watched.lab.server.run(move || listen(server))?;
    watched.lab.relay().set(Direction::Down, ALL_LOST);
    // Closed again at once, so that each sends one SYN.
    let client = &watched.lab.client;
    client.run(move || knock(server, CLIENTS))?;
    let give_ups = || -> Result<u64> {
        let cells = watched.daemon.cells()?;
        Ok(cells
            .iter()
            .map(|cell| cell.counters.half_open_give_ups)
            .sum())
    };
    // A busy host may lose some of so many SYNs on the way: the server's kernel says to how many
    // it answered twice. The timers of all have run when two looks a second apart agree.
    let mut before = 0;
    wait_for("the server's second answers", PATIENCE, || {
        std::thread::sleep(Duration::from_secs(1));
        let now = tcp_counts(&watched.lab.server)?.syn_retrans;
        Ok(std::mem::replace(&mut before, now) == now && now > 0)
    })?;
    let answered_twice = before;
    anyhow::ensure!(answered_twice > ONE_LOOK, "only {answered_twice} came");
    // Others on this host may give up too.
    wait_for("every give-up", PATIENCE, || {
        Ok(give_ups()? >= answered_twice)
    })
    .with_context(|| format!("{} of {answered_twice}", give_ups().unwrap_or(0)))?;
    Ok(())
}

/// A listener that accepts nothing.
fn listen(address: SocketAddr) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&listener, Backlog::MAXALLOWABLE)?;
    Ok(listener)
}

/// Begins so many handshakes, each from a port of its own, and finishes none.
fn knock(address: SocketAddr, clients: u16) -> Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    for n in 0..clients {
        let client = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        let port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 10_000 + n));
        bind(client.as_raw_fd(), &SockaddrStorage::from(port))?;
        match connect(client.as_raw_fd(), &SockaddrStorage::from(address)) {
            Err(Errno::EINPROGRESS) => {}
            other => other.with_context(|| format!("client {n}"))?,
        }
    }
    Ok(())
}

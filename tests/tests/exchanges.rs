//! Every kind of exchange, on real servers, as the daemon reports it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use weir_tests::lab::client::{self, Abort, Connection, Curl};
use weir_tests::lab::counters::tcp_counts;
use weir_tests::lab::link::{CLIENT_V4, CLIENT_V6};
use weir_tests::lab::nginx::{CLEAR, CLOSE, H2, MAPPED, Nginx, TLS12, TLS13};
use weir_tests::lab::relay::Direction;
use weir_tests::lab::server::{BANNER, BlockingServer, Mode};
use weir_tests::lab::shaper::Shape;
use weir_tests::record::Delivery;
use weir_tests::watched::{DISTANT, Watched, v4, v6};

const BLOCKING: u16 = 9000;

fn kinds(deliveries: &[Delivery]) -> Vec<(&str, &str)> {
    deliveries
        .iter()
        .map(|d| (d.kind.as_str(), d.phase.as_str()))
        .collect()
}

#[test]
fn keep_alive_gives_one_complete_exchange_per_answer() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    let paths = ["/f/30000", "/f/500", "/f/300000", "/f/2000"];
    let seen = watched
        .lab
        .client
        .run(move || client::keep_alive(v4(CLEAR), &paths, Duration::from_millis(20)))?;
    let (session, deliveries) = watched.deliveries(v4(CLEAR), seen.port)?;
    assert_eq!(kinds(&deliveries), [("exchange", "complete"); 4]);
    for (n, (delivery, body)) in (0..).zip(deliveries.iter().zip(&seen.bodies)) {
        assert_eq!(delivery.index, n);
        // The header is on top of the body, and is small.
        assert!(
            (1..500).contains(&(delivery.acked_bytes - body)),
            "{delivery:?}"
        );
        assert_eq!(delivery.acked_bytes, delivery.written_bytes);
        assert!(
            delivery.request_unix_ns <= delivery.first_write_unix_ns,
            "{delivery:?}"
        );
        assert!(
            delivery.first_write_unix_ns < delivery.first_acked_unix_ns,
            "{delivery:?}"
        );
        assert!(
            delivery.first_acked_unix_ns <= delivery.last_acked_unix_ns,
            "{delivery:?}"
        );
        // One round trip is the least that an answer takes to be acknowledged.
        assert!(delivery.latency_us >= 40_000, "{delivery:?}");
    }
    assert_eq!(
        (session.ended.as_str(), session.adopted),
        ("client_fin", false)
    );
    Ok(())
}

#[test]
fn pipelined_requests_are_one_busy_period() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    let seen = watched.lab.client.run(|| {
        let mut connection = Connection::open(v4(CLEAR))?;
        connection.ask(&["/f/1000000"], "1.1")?;
        // The first answer is under way when the rest is asked for.
        let first = connection.read_exactly(100)?;
        assert!(first.starts_with(b"HTTP/1.1 200"));
        connection.ask(&["/f/500", "/f/500"], "1.1")?;
        let rest = connection.read_until_quiet(Duration::from_millis(500))?;
        Ok((connection.port()?, first.len() + rest))
    })?;
    let (_, deliveries) = watched.deliveries(v4(CLEAR), seen.0)?;
    assert_eq!(kinds(&deliveries), [("busy_period", "complete")]);
    assert_eq!(deliveries[0].acked_bytes, seen.1 as u64);
    assert!(deliveries[0].requests >= 2, "{:?}", deliveries[0]);
    Ok(())
}

#[test]
fn a_client_that_half_closes_after_its_request_still_gets_a_complete_delivery() -> Result<()> {
    let watched = Watched::distant()?;
    let _server = BlockingServer::v4(&watched.lab.server, BLOCKING, Mode::KeepAlive)?;
    let seen = watched
        .lab
        .client
        .run(|| client::half_closed(v4(BLOCKING), "/f/300000?think=100"))?;
    let (session, deliveries) = watched.deliveries(v4(BLOCKING), seen.port)?;
    assert_eq!(kinds(&deliveries), [("exchange", "complete")]);
    assert!(deliveries[0].acked_bytes > 300_000);
    assert_eq!(session.ended, "client_fin");
    Ok(())
}

#[test]
fn a_greeting_is_unsolicited_and_what_follows_is_asked_for() -> Result<()> {
    let watched = Watched::distant()?;
    let _server = BlockingServer::v4(&watched.lab.server, BLOCKING, Mode::SpeaksFirst)?;
    let port = watched.lab.client.run(|| {
        let mut connection = Connection::open(v4(BLOCKING))?;
        connection.read_exactly(BANNER.len())?;
        std::thread::sleep(Duration::from_millis(100));
        connection.ask(&["/f/10000"], "1.1")?;
        connection.answer()?;
        connection.port()
    })?;
    let (_, deliveries) = watched.deliveries(v4(BLOCKING), port)?;
    assert_eq!(
        kinds(&deliveries),
        [("unsolicited", "complete"), ("exchange", "complete")]
    );
    assert_eq!(deliveries[0].acked_bytes, BANNER.len() as u64);
    Ok(())
}

#[test]
fn broken_off_answers_are_aborted_and_say_by_whom() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    // What follows a FIN midway is a reset, and that is what cuts the answer off.
    for how in [Abort::Reset, Abort::Close] {
        let seen = watched
            .lab
            .client
            .run(move || client::aborted(v4(CLEAR), "/f/4000000", 50_000, how))?;
        let (session, deliveries) = watched.deliveries(v4(CLEAR), seen.port)?;
        assert_eq!(kinds(&deliveries), [("exchange", "aborted")], "{how:?}");
        assert!(deliveries[0].acked_bytes < 4_000_000, "{:?}", deliveries[0]);
        assert!(
            deliveries[0].acked_bytes <= deliveries[0].written_bytes,
            "{:?}",
            deliveries[0]
        );
        assert_eq!(session.ended, "client_rst", "{how:?}");
    }
    Ok(())
}

#[test]
fn an_answer_that_the_close_ends_is_complete() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    let seen = watched
        .lab
        .client
        .run(|| client::until_close(v4(CLOSE), "/s/300000"))?;
    let (session, deliveries) = watched.deliveries(v4(CLOSE), seen.port)?;
    assert_eq!(kinds(&deliveries), [("exchange", "complete")]);
    assert!(deliveries[0].acked_bytes > 300_000);
    assert_eq!(session.ended, "server_fin");
    Ok(())
}

#[test]
fn a_v4_client_of_a_dual_stack_socket_is_a_v4_client() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    let seen = watched
        .lab
        .client
        .run(|| client::keep_alive(v4(MAPPED), &["/f/500"], Duration::ZERO))?;
    let (session, deliveries) = watched.deliveries(v4(MAPPED), seen.port)?;
    assert_eq!(kinds(&deliveries), [("exchange", "complete")]);
    assert_eq!(session.endpoints.remote_address, IpAddr::from(CLIENT_V4));
    assert_eq!(session.endpoints.local(), v4(MAPPED));
    Ok(())
}

#[test]
fn ipv6_sessions_are_measured_alike() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    let seen = watched
        .lab
        .client
        .run(|| client::keep_alive(v6(CLEAR), &["/f/100000", "/f/500"], Duration::ZERO))?;
    let (session, deliveries) = watched.deliveries(v6(CLEAR), seen.port)?;
    assert_eq!(kinds(&deliveries), [("exchange", "complete"); 2]);
    assert_eq!(session.endpoints.remote_address, IpAddr::from(CLIENT_V6));
    assert_eq!(session.endpoints.local(), v6(CLEAR));
    Ok(())
}

#[test]
fn tls_handshakes_and_closing_alerts_are_no_deliveries() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    for (port, option) in [(TLS12, "--http1.1"), (TLS13, "--http1.1"), (H2, "--http2")] {
        let urls = ["30000", "500", "100000"].map(|size| format!("https://{}/f/{size}", v4(port)));
        let curl = Curl {
            urls: urls.to_vec(),
            options: &[option],
            keylog: &watched.lab.dir().join("keys"),
        };
        let seen = client::curl(
            &watched.lab.client,
            &curl,
            &watched.lab.dir().join("curl.log"),
        )?;
        let (_, deliveries) = watched.deliveries(v4(port), seen[0].port)?;
        let phases: Vec<_> = deliveries.iter().map(|d| d.phase.as_str()).collect();
        assert_eq!(phases, ["complete"; 3], "port {port}: {deliveries:?}");
        assert!(
            deliveries.iter().all(|delivery| delivery.tls),
            "port {port}"
        );
    }
    Ok(())
}

#[test]
fn segments_sent_again_are_those_that_the_kernel_counts() -> Result<()> {
    let watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    let lossy = Shape {
        lose_every: 40,
        ..DISTANT
    };
    watched.lab.relay().set(Direction::Down, lossy);
    let seen = watched.lab.client.run(|| {
        client::keep_alive(
            v4(CLEAR),
            &["/f/1000000", "/f/300000"],
            Duration::from_millis(300),
        )
    })?;
    let (session, deliveries) = watched.deliveries(v4(CLEAR), seen.port)?;
    let kernel = tcp_counts(&watched.lab.server)?;
    assert!(kernel.retrans_segs > 0, "nothing was lost");
    assert_eq!(
        session.retransmitted(),
        kernel.retrans_segs - kernel.syn_retrans
    );
    let told: u32 = deliveries
        .iter()
        .map(|d| d.retrans_fast + d.retrans_rto + d.retrans_tlp)
        .sum();
    assert_eq!(u64::from(told), session.retransmitted());
    Ok(())
}

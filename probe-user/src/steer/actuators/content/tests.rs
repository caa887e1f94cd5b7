use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

use super::answer::Steered;
use super::held::Held;
use super::server::{Patience, Server};
use super::settings::{ContentGate, Pathway};
use super::{ContentSteering, Counts};
use crate::steer::actuators::clock::boot_ns;
use crate::steer::actuators::{Actuator as _, Lease};
use crate::steer::{Position, Scope, Setting};

const A_WHILE: Duration = Duration::from_secs(20);
const PLAYERS: u64 = 400;

fn settings() -> ContentGate {
    ContentGate {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        home: "here".to_owned(),
        pathways: vec![Pathway {
            name: "there".to_owned(),
            weight: 1,
            ..Pathway::default()
        }],
        ..ContentGate::default()
    }
}

fn gate() -> ContentSteering {
    ContentSteering::start("steering", Some("live"), settings()).unwrap()
}

fn position(generation: u64, scope: Scope, weight_permille: u16) -> Position {
    let setting = Setting {
        scope,
        weight_permille,
        cap_bps: None,
    };
    Position {
        generation,
        decision: "d".to_owned(),
        settings: vec![setting],
    }
}

fn lease(from_now: Duration) -> Lease {
    let from_now_ns = u64::try_from(from_now.as_nanos()).unwrap();
    Lease {
        until_boot_ns: boot_ns() + from_now_ns,
    }
}

/// Waits until it holds.
fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + A_WHILE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(A_WHILE)).unwrap();
    stream
}

/// What comes until the server closes; less if it resets.
fn all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer's head and body.
fn ask_as(address: SocketAddr, method: &str, target: &str, fields: &str) -> (String, String) {
    let mut stream = connect(address);
    // Whom the server does not want to hear, it need not let finish.
    let _ = write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: x\r\n{fields}Connection: close\r\n\r\n"
    );
    let text = all(&mut stream);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.to_lowercase(), body.to_owned())
}

fn is_answered(address: SocketAddr) -> bool {
    let (head, _) = ask_as(address, "GET", "/", "");
    head.starts_with("http/1.1 200 ")
}

fn manifest(address: SocketAddr, target: &str, fields: &str) -> Value {
    let (head, body) = ask_as(address, "GET", target, fields);
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    serde_json::from_str(&body).unwrap()
}

fn of_token(token: u64) -> String {
    format!("/steer?_weir_s={token:016x}")
}

fn first(manifest: &Value) -> &str {
    manifest["PATHWAY-PRIORITY"][0].as_str().unwrap()
}

/// Which of the first players are sent elsewhere.
fn sent_away(gate: &ContentSteering) -> Vec<u64> {
    let is_away = |token: &u64| {
        let told = manifest(gate.address(), &of_token(*token), "");
        first(&told) == "there"
    };
    (0..PLAYERS).filter(is_away).collect()
}

#[test]
fn a_player_is_told_who_it_is_and_told_the_same_again() {
    let gate = gate();
    let told = manifest(
        gate.address(),
        "/any/path?event=7&_HLS_pathway=here&_HLS_throughput=1",
        "",
    );
    assert_eq!(told["VERSION"], 1);
    let ttl = told["TTL"].as_u64().unwrap();
    assert!((8..=12).contains(&ttl), "{ttl}");
    assert_eq!(first(&told), "here");
    assert_eq!(told["PATHWAY-PRIORITY"], told["SERVICE-LOCATION-PRIORITY"]);
    let reload = told["RELOAD-URI"].as_str().unwrap();
    assert!(reload.starts_with("?event=7&_weir_s="), "{reload}");
    let again = manifest(gate.address(), &format!("/any/path{reload}"), "");
    assert_eq!(again["RELOAD-URI"], reload);
    let Counts {
        told_here,
        newcomers,
        ..
    } = gate.counts();
    assert_eq!((told_here, newcomers), (2, 1));
}

#[test]
fn browsers_may_ask_from_elsewhere_and_nothing_keeps_an_answer() {
    let gate = gate();
    let (head, body) = ask_as(gate.address(), "GET", "/", "Origin: http://player\r\n");
    for field in [
        "access-control-allow-origin: *",
        "cache-control: no-store",
        "content-type: application/json",
    ] {
        assert!(head.contains(field), "{head}");
    }
    let (head_only, nothing) = ask_as(gate.address(), "HEAD", "/", "");
    assert!(head_only.starts_with("http/1.1 200 "), "{head_only}");
    assert!(!body.is_empty() && nothing.is_empty());
    let asks = "Origin: http://player\r\nAccess-Control-Request-Method: GET\r\n\
                Access-Control-Request-Headers: cmcd-session\r\n";
    let (head, _) = ask_as(gate.address(), "OPTIONS", "/", asks);
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    assert!(head.contains("access-control-allow-headers: *"), "{head}");
}

#[test]
fn no_request_is_answered_with_what_would_end_steering() {
    let gate = gate();
    let long = format!("/{}", "x".repeat(100_000));
    for (method, target, fields) in [
        ("POST", "/", "Content-Length: 0\r\n"),
        ("DELETE", "/gone", ""),
        ("GET", "/no/such/path", ""),
        ("GET", "*", ""),
        ("GET", long.as_str(), ""),
        ("GET", "/?%00%ff&&&=&_weir_s=&_weir_s=%22", ""),
        ("BREW", "/pot", ""),
        ("GET", "/", "Broken\r\n"),
    ] {
        let (head, _) = ask_as(gate.address(), method, target, fields);
        let status = head.split(' ').nth(1).unwrap_or_default();
        assert!(
            !["404", "410", "429"].contains(&status),
            "{method} {target:.40}: {head}"
        );
    }
    assert_eq!(first(&manifest(gate.address(), "/", "")), "here");
}

#[tokio::test]
async fn three_of_ten_move_and_the_same_ones_come_back() {
    let mut gate = gate();
    assert!(sent_away(&gate).is_empty());
    let turned = |generation, weight| position(generation, Scope::Host, weight);
    gate.acquire(&turned(1, 700), lease(A_WHILE)).await.unwrap();
    let away = sent_away(&gate);
    let share = away.len() as f64 / PLAYERS as f64;
    assert!((share - 0.3).abs() < 0.08, "{share}");
    assert_eq!(sent_away(&gate), away, "players are told one thing");
    gate.acquire(&turned(2, 600), lease(A_WHILE)).await.unwrap();
    let further = sent_away(&gate);
    assert!(away.iter().all(|token| further.contains(token)));
    gate.acquire(&turned(3, 700), lease(A_WHILE)).await.unwrap();
    assert_eq!(sent_away(&gate), away);
    gate.release().await.unwrap();
    assert!(sent_away(&gate).is_empty());
}

#[tokio::test]
async fn nobody_need_do_anything_for_a_lease_to_end() {
    let mut gate = gate();
    let target = of_token(1);
    let drained = position(1, Scope::Host, 0);
    gate.acquire(&drained, lease(A_WHILE)).await.unwrap();
    assert_eq!(first(&manifest(gate.address(), &target, "")), "there");
    let soon = lease(Duration::from_millis(300));
    gate.renew(soon).await.unwrap();
    let address = gate.address();
    wait_for("the neutral answer", || {
        first(&manifest(address, &target, "")) == "here"
    });
    assert!(boot_ns() >= soon.until_boot_ns, "not before its end");
    assert!(gate.counts().lapsed > 0, "{:?}", gate.counts());
    let told = gate.renew(lease(A_WHILE)).await.unwrap_err();
    assert!(format!("{told:#}").contains("acquire it again"), "{told:#}");
    assert_eq!(first(&manifest(address, &target, "")), "here");
}

#[tokio::test]
async fn a_player_behind_the_proxy_is_in_its_own_network() {
    let mut gate = gate();
    let network = Scope::Prefix("192.0.2.0/24".parse().unwrap());
    gate.acquire(&position(1, network, 0), lease(A_WHILE))
        .await
        .unwrap();
    let told = |fields: &str| first(&manifest(gate.address(), "/", fields)).to_owned();
    assert_eq!(told("X-Forwarded-For: 192.0.2.7\r\n"), "there");
    assert_eq!(told("X-Forwarded-For: 192.0.2.7, 198.51.100.1\r\n"), "here");
    assert_eq!(told(""), "here");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let settings = ContentGate {
        listen: taken.local_addr().unwrap(),
        ..settings()
    };
    let told = ContentSteering::start("steering", None, settings).unwrap_err();
    let told = format!("{told:#}");
    assert!(told.contains("steer.gate.listen of steering"), "{told}");
}

/// A server with little patience and room.
fn narrow(max_connections: u32, patience: Patience) -> (Server, Arc<Steered>) {
    let settings = ContentGate {
        max_connections,
        ..settings()
    };
    let listener = TcpListener::bind(settings.listen).unwrap();
    let steered = Arc::new(Steered::new(settings, Held::new(None)));
    let server = Server::start(listener, Arc::clone(&steered), patience).unwrap();
    (server, steered)
}

#[test]
fn who_does_not_finish_its_request_is_shut_out_and_others_are_answered() {
    let patience = Patience {
        request: Duration::from_millis(300),
        ..Patience::default()
    };
    let (server, steered) = narrow(2, patience);
    let mut half = connect(server.address());
    half.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half")
        .unwrap();
    assert_eq!(first(&manifest(server.address(), "/", "")), "here");
    let words = all(&mut half);
    assert!(!words.contains(" 200 "), "{words}");
    wait_for("the slow one to be counted", || steered.counts().slow == 1);
    // One that was answered and says no more is closed too, and is not to blame.
    let mut idle = connect(server.address());
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert!(all(&mut idle).starts_with("HTTP/1.1 200 "));
    assert_eq!(first(&manifest(server.address(), "/", "")), "here");
    assert_eq!(steered.counts().slow, 1);
}

#[test]
fn who_asks_and_never_reads_is_shut_out() {
    let patience = Patience {
        request: Duration::from_millis(500),
        connection: Duration::from_secs(3),
    };
    let (server, steered) = narrow(1, patience);
    let mut greedy = connect(server.address());
    // So that the answers soon have no room.
    setsockopt(&greedy, sockopt::RcvBuf, &4096).unwrap();
    greedy.set_write_timeout(Some(A_WHILE)).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let end = Instant::now() + A_WHILE;
    // The server stops listening when nobody takes its answers, and ends the connection.
    while greedy.write_all(&request).is_ok() {
        assert!(Instant::now() < end, "the server listens for ever");
    }
    wait_for("it to be counted", || steered.counts().slow == 1);
    wait_for("there to be room", || is_answered(server.address()));
}

#[test]
fn who_finds_no_room_is_told_to_come_again() {
    let (server, steered) = narrow(2, Patience::default());
    let mut held: Vec<_> = (0..2).map(|_| connect(server.address())).collect();
    for stream in &mut held {
        // Answered, so that they are known to have their places.
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut some = [0; 16];
        stream.read_exact(&mut some).unwrap();
    }
    let told = all(&mut connect(server.address()));
    assert!(told.starts_with("HTTP/1.1 503 "), "{told:?}");
    assert_eq!(steered.counts().turned_off, 1);
    drop(held);
    wait_for("there to be room", || is_answered(server.address()));
}

#[test]
fn the_address_is_free_when_the_gate_is_gone() {
    let gate = gate();
    let address = gate.address();
    let _open = connect(address);
    drop(gate);
    assert!(TcpStream::connect(address).is_err());
    let again = ContentGate {
        listen: address,
        ..settings()
    };
    assert!(ContentSteering::start("steering", None, again).is_ok());
}

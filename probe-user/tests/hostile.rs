//! Peers that are broken or mean it ill: each is refused with a reason and counted, holds up nobody, and
//! takes no more memory than a message may have.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::authority::Authority;
use common::centre::{Child, Collector, Edge, cell, directory, hello, tick};
use common::until;
use futures::{StreamExt as _, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::codec::CompressionEncoding;
use tonic::codegen::{Bytes, http};
use tonic::transport::Channel;
use tonic::{Code, Status};
use weir::tls::{Connector, Files};
use weir_proto::v1;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::fleet_client::FleetClient;
use weir_proto::v1::uplink_client::UplinkClient;

/// The collector's own bound of a message.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Counts what is allocated in this process.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that this asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that this asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is allocated is counted of the whole process: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn refused(collector: &Collector, reason: &str) -> u64 {
    let refusals = collector.hosts().await.refusals;
    let of = refusals.iter().find(|refusals| refusals.reason == reason);
    of.map_or(0, |refusals| refusals.count)
}

/// A frame of `bytes` bytes, after a hello that is right.
async fn send_large(
    collector: &Collector,
    host: &str,
    bytes: usize,
    is_compressed: bool,
) -> Status {
    let client = UplinkClient::connect(collector.url()).await.unwrap();
    let mut client = if is_compressed {
        client.send_compressed(CompressionEncoding::Zstd)
    } else {
        client
    };
    let (to, stream) = mpsc::channel(2);
    let frame = v1::Frame {
        host: host.into(),
        boot_id: "b".into(),
        lane: v1::Lane::Warm.into(),
        seq: 1,
        off: "x".repeat(bytes),
        ..v1::Frame::default()
    };
    for message in [Up::Hello(hello(host, "b")), Up::Frame(frame)] {
        let message = Some(message);
        to.send(v1::EdgeMessage { message }).await.unwrap();
    }
    let stream = ReceiverStream::new(stream);
    let mut from = client.report(stream).await.unwrap().into_inner();
    loop {
        match from.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("{host}: the call ended without a reason"),
            Err(status) => {
                drop(to);
                return status;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_takes_memory_and_others_go_on() {
    let _alone = ALONE.lock().await;
    let collector = Collector::start("centre", |_| {}).await;
    let mut good = Edge::connect(&collector, hello("good", "b")).await.unwrap();
    good.send(tick(1, vec![cell("a", 1)])).await.unwrap();

    // 64 MiB that are a few kilobytes on the wire.
    let before = LIVE.load(Ordering::Relaxed);
    let bomb = send_large(&collector, "bomb", 64 << 20, true).await;
    assert_eq!(bomb.code(), Code::ResourceExhausted, "{bomb}");
    let large = send_large(&collector, "large", MAX_MESSAGE_BYTES + 1, false).await;
    assert_eq!(large.code(), Code::OutOfRange, "{large}");
    // It is small enough, and nonsense.
    let long = send_large(&collector, "long", 10_000, false).await;
    assert_eq!(long.code(), Code::InvalidArgument, "{long}");
    assert!(long.message().contains("bytes of a reason"), "{long}");
    for host in ["bomb", "large", "long"] {
        let hosts = collector.hosts().await.hosts;
        let host = hosts.iter().find(|one| one.host == host).unwrap();
        assert_eq!((host.frames_refused, host.frames), (1, 0), "{}", host.host);
    }
    good.send(tick(2, vec![cell("a", 2)])).await.unwrap();
    until("what was refused to be gone", || async {
        (LIVE.load(Ordering::Relaxed) < before + MAX_MESSAGE_BYTES).then_some(())
    })
    .await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_shown_out_and_costs_little_meanwhile() {
    const GUESTS: usize = 300;
    let _alone = ALONE.lock().await;
    let collector = Collector::start("centre", |_| {}).await;
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut silent = Vec::new();
    for n in 0..GUESTS {
        let mut stream = TcpStream::connect(collector.address).await.unwrap();
        // Every other one begins, and goes no further.
        if n % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2").await.unwrap();
        }
        silent.push(stream);
    }
    // Hosts are served all the while.
    let mut good = Edge::connect(&collector, hello("good", "b")).await.unwrap();
    good.send(tick(1, vec![cell("a", 1)])).await.unwrap();
    until("the silent ones to be counted", || async {
        (refused(&collector, "silent").await == GUESTS as u64).then_some(())
    })
    .await;
    let each = (PEAK.load(Ordering::Relaxed) - before) / GUESTS;
    assert!(each < 64 << 10, "{each} bytes for each that says nothing");
    good.send(tick(2, vec![cell("a", 2)])).await.unwrap();
    collector.stop().await;
}

/// A message, as gRPC writes it.
fn framed(message: Up) -> Vec<u8> {
    let message = v1::EdgeMessage {
        message: Some(message),
    };
    let mut framed = vec![0];
    let length = u32::try_from(message.encoded_len()).unwrap();
    framed.extend(length.to_be_bytes());
    framed.extend(message.encode_to_vec());
    framed
}

/// Says hello, begins a message of `length` bytes, and sends all of it but the last.
fn never_ending(hello: v1::Hello, length: usize) -> Body {
    const PIECE: usize = 16 << 10;
    let mut begin = framed(Up::Hello(hello));
    begin.push(0);
    begin.extend(u32::try_from(length).unwrap().to_be_bytes());
    // What the sender holds is not counted against the collector.
    let piece = Bytes::from_static(&[0; PIECE]);
    let pieces = std::iter::repeat_n(piece.clone(), (length - 1) / PIECE);
    let rest = piece.slice(..(length - 1) % PIECE);
    let all = std::iter::once(begin.into()).chain(pieces).chain([rest]);
    let frames = stream::iter(all.map(|bytes| Ok::<_, Status>(Frame::data(bytes))));
    Body::new(StreamBody::new(frames.chain(stream::pending())))
}

/// Makes a call of which nothing is awaited but that it began.
async fn report(mut channel: Channel, body: Body) -> Result<http::Response<Body>, String> {
    let request = http::Request::post("/weir.v1.Uplink/Report")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let ready = std::future::poll_fn(|cx| channel.poll_ready(cx)).await;
    ready.map_err(|err| err.to_string())?;
    channel.call(request).await.map_err(|err| err.to_string())
}

/// A collector with TLS, and who may ask it.
struct Guarded {
    collector: Collector,
    url: String,
    alice: Files,
}

impl Guarded {
    async fn start(authority: &Authority, directory: &std::path::Path) -> Self {
        let files = authority.issue(&directory.join("c"), &["localhost"]);
        let collector = Collector::start("centre", |config| {
            config.plain_text = false;
            config.ca_file = Some(files.ca);
            config.cert_file = Some(files.cert);
            config.key_file = Some(files.key);
            config.operators = vec!["alice".into()];
        })
        .await;
        Self {
            url: format!("https://localhost:{}", collector.address.port()),
            alice: authority.issue(&directory.join("alice"), &["alice"]),
            collector,
        }
    }

    async fn connect(&self, files: &Files) -> Result<Channel, String> {
        let connector = Connector::new(self.url.parse().unwrap(), Some(files.clone()));
        let channel = connector.connect(|endpoint| endpoint).await;
        channel.map_err(|err| err.to_string())
    }

    async fn refused(&self, reason: &str) -> u64 {
        let channel = self.connect(&self.alice).await.unwrap();
        let mut fleet = FleetClient::new(channel);
        let hosts = fleet.list_hosts(v1::ListHostsRequest {}).await;
        let refusals = hosts.unwrap().into_inner().refusals;
        let of = refusals.iter().find(|refusals| refusals.reason == reason);
        of.map_or(0, |refusals| refusals.count)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_end_take_a_share_of_memory_and_end_in_a_refusal() {
    const CONNECTIONS: usize = 20;
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let guarded = Guarded::start(&authority, directory.path()).await;
    let evil = authority.issue(&directory.path().join("evil"), &["evil"]);
    let good = authority.issue(&directory.path().join("good"), &["good"]);
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut calls = Vec::new();
    for n in 0..CONNECTIONS {
        let channel = guarded.connect(&evil).await.unwrap();
        for call in 0..2 {
            let hello = v1::Hello {
                lane: v1::Lane::Cold.into(),
                ..hello("evil", &format!("b{}", (n + call) % 4))
            };
            let body = never_ending(hello, MAX_MESSAGE_BYTES - 1);
            calls.push(report(channel.clone(), body).await.unwrap());
        }
        // One more than a connection may make.
        let surplus = report(channel, never_ending(hello("evil", "b"), 10));
        let answer = surplus.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "8");
    }
    assert_eq!(guarded.refused("too_many").await, CONNECTIONS as u64);
    // What of a small one never comes.
    let slow = report(
        guarded.connect(&evil).await.unwrap(),
        never_ending(hello("evil", "b1"), 100),
    )
    .await;

    // Another host's large message has room all the while.
    let channel = guarded.connect(&good).await.unwrap();
    let (to, stream) = mpsc::channel(2);
    let many = (0..2000).map(|n| cell(&format!("service-{n}"), n));
    let frame = v1::Frame {
        host: "good".into(),
        boot_id: "b".into(),
        lane: v1::Lane::Warm.into(),
        ..tick(1, many.take(1000).collect())
    };
    for message in [Up::Hello(hello("good", "b")), Up::Frame(frame)] {
        let message = Some(message);
        to.send(v1::EdgeMessage { message }).await.unwrap();
    }
    let mut client = UplinkClient::new(channel);
    let mut from = client
        .report(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    from.message().await.unwrap();
    let acknowledged = from.message().await.unwrap().unwrap().message;
    assert!(
        matches!(
            acknowledged,
            Some(v1::collector_message::Message::Ack(v1::Ack { seq: 1 }))
        ),
        "{acknowledged:?}"
    );

    until("the slow one to be shown out", || async {
        (guarded.refused("silent").await > 0).then_some(())
    })
    .await;
    let taken = PEAK.load(Ordering::Relaxed) - before;
    assert!(
        taken < 64 << 20,
        "{taken} bytes for {} messages that never end",
        2 * CONNECTIONS
    );
    drop((calls, slow));
    guarded.collector.stop().await;
}

/// All of them at once, against a collector that is a process of its own: what the system says that it
/// takes, whatever its allocator makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_resident_memory_of_a_collector_is_bounded() {
    const GUESTS: usize = 300;
    const CONNECTIONS: usize = 20;
    const BOMBS: usize = 16;
    // In plain text (docs/uplink.md): 64 MiB of messages that are on their way in; what a connection may
    // have sent that was not read; a message for each bomb, of which no more is unpacked; and as much
    // again for what the allocator keeps.
    const BOUND: usize =
        2 * ((64 << 20) + (GUESTS + CONNECTIONS) * (64 << 10) + BOMBS * MAX_MESSAGE_BYTES);
    let _alone = ALONE.lock().await;
    let (_directory, path) = directory();
    let child = Child::start(&path, "centre", None).await;
    let collector = &child.seen;
    let mut good = Edge::connect(collector, hello("good", "b")).await.unwrap();
    good.send(tick(1, vec![cell("a", 1)])).await.unwrap();
    let [before, _] = child.resident();
    let mut silent = Vec::new();
    for _ in 0..GUESTS {
        let mut stream = TcpStream::connect(collector.address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2").await.unwrap();
        silent.push(stream);
    }
    let mut calls = Vec::new();
    for n in 0..CONNECTIONS {
        let endpoint = Channel::from_shared(collector.url()).unwrap();
        let channel = endpoint.connect().await.unwrap();
        for call in 0..2 {
            let hello = v1::Hello {
                lane: v1::Lane::Cold.into(),
                ..hello("evil", &format!("b{}", (n + call) % 4))
            };
            let body = never_ending(hello, MAX_MESSAGE_BYTES - 1);
            calls.push(report(channel.clone(), body).await.unwrap());
        }
    }
    let bombs = (0..BOMBS).map(|n| async move {
        let status = send_large(collector, &format!("bomb-{n}"), 64 << 20, true).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    });
    futures::future::join_all(bombs).await;
    until("the silent ones to be counted", || async {
        (refused(collector, "silent").await >= GUESTS as u64).then_some(())
    })
    .await;
    drop((silent, calls));
    good.send(tick(2, vec![cell("a", 2)])).await.unwrap();
    let [after, most] = child.resident();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "resident before {:.1} MiB, at most {:.1} MiB, after {:.1} MiB",
        mib(before),
        mib(most),
        mib(after)
    );
    let taken = usize::try_from(most - before).unwrap();
    assert!(taken < BOUND, "{taken} bytes of {BOUND}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_has_a_share_of_the_connections_and_others_have_theirs() {
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let guarded = Guarded::start(&authority, directory.path()).await;
    let evil = authority.issue(&directory.path().join("evil"), &["evil"]);
    let (mut held, mut told) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        if let Ok(channel) = guarded.connect(&evil).await
            && let Ok(answer) = report(channel, never_ending(hello("evil", "b"), 10)).await
        {
            match Status::from_header_map(answer.headers()) {
                None => held.push(answer),
                Some(why) => told.push(why),
            }
        }
    }
    assert_eq!(held.len(), 32);
    // Some came again.
    assert!(guarded.refused("too_many").await >= 100 - 32);
    // Each hears which bound it is, as long as there are not too many of them.
    assert!(!told.is_empty());
    for why in told {
        assert_eq!(why.code(), Code::ResourceExhausted, "{why}");
        let says = |what: &str| why.message().contains(what);
        assert!(says("certificate of evil") && says("32 for each"), "{why}");
    }
    // There is room again when some are gone.
    drop(held);
    until("room for one more", || async {
        let channel = guarded.connect(&evil).await.ok()?;
        let mut client = FleetClient::new(channel);
        let answer = client.list_hosts(v1::ListHostsRequest {}).await;
        (answer.unwrap_err().code() == Code::PermissionDenied).then_some(())
    })
    .await;
    guarded.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hears_why_it_is_turned_away_does_not_stay() {
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let guarded = Guarded::start(&authority, directory.path()).await;
    let evil = authority.issue(&directory.path().join("evil"), &["evil"]);
    let mut held = Vec::new();
    for _ in 0..32 {
        let channel = guarded.connect(&evil).await.unwrap();
        let answer = report(channel.clone(), never_ending(hello("evil", "b"), 10)).await;
        held.push((channel, answer.unwrap()));
    }
    // One more, which asks again and again on the connection that it has.
    let before = guarded.refused("too_many").await;
    let channel = guarded.connect(&evil).await.unwrap();
    let mut asks = FleetClient::new(channel);
    until(
        "it to be shown out, and another connection to be counted",
        || async {
            let answer = asks.clone().list_hosts(v1::ListHostsRequest {}).await;
            assert!(answer.is_err());
            (guarded.refused("too_many").await >= before + 2).then_some(())
        },
    )
    .await;
    drop(held);
    // There is room, and now it is told that it is none of those who may ask.
    until("room for one more", || async {
        let status = asks.clone().list_hosts(v1::ListHostsRequest {}).await;
        (status.unwrap_err().code() == Code::PermissionDenied).then_some(())
    })
    .await;
    // The connection is one that counts.
    assert!(asks.list_hosts(v1::ListHostsRequest {}).await.is_err());
    guarded.collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_asking_for_metrics_is_shut_out_and_others_are_answered() {
    const MOST: usize = 256;
    let _alone = ALONE.lock().await;
    let port = weir_tests::lab::nats::free_port().unwrap();
    let collector = Collector::start("centre", |config| {
        config.metrics.listen = Some(([127, 0, 0, 1], port).into());
    })
    .await;
    let mut half = Vec::new();
    for n in 0..MOST {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        // Some say nothing, some a half.
        if n % 2 == 0 {
            let request = b"GET /metrics HTTP/1.1\r\nHost: loc";
            stream.write_all(request).await.unwrap();
        }
        half.push(stream);
    }
    // One that goes on sending gets no more time by that.
    let mut drips = half.remove(0);
    let dripping = tokio::spawn(async move {
        while drips.write_all(b"x").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    // Who comes now waits for these to be shut out.
    let told = tokio::time::timeout(
        std::time::Duration::from_secs(40),
        common::centre::scrape(port),
    );
    let told = told.await.unwrap();
    assert!(
        told.contains("weir_collector_start_timestamp_seconds"),
        "{told}"
    );
    tokio::time::timeout(std::time::Duration::from_secs(40), dripping)
        .await
        .unwrap()
        .unwrap();
    for mut stream in half {
        let mut rest = Vec::new();
        // Shut, or reset.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    }
    collector.stop().await;
}

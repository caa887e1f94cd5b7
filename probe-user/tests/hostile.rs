//! Peers that are broken or mean it ill: each is refused with a reason and counted, holds up nobody, and
//! takes no more memory than a message may have.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::centre::{Collector, Edge, cell, hello, tick};
use common::until;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};
use weir_proto::v1;
use weir_proto::v1::edge_message::Message as Up;
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

//! An edge and a collector: whatever happens between them, the centre's totals equal the edge's.

mod common;

use std::net::SocketAddr;

use common::{Daemon, at, delivery, header, session_end, session_start, until};
use probe_ebpf::record::{flag, kind};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use weir::collect;
use weir::config::collect::Config;
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::fleet_client::FleetClient;
use weir_proto::v1::uplink_client::UplinkClient;

struct Collector {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Collector {
    async fn start(listen: &str) -> Self {
        let stop = CancellationToken::new();
        let (ready_to, ready) = oneshot::channel();
        let config = Config {
            listen: listen.parse().unwrap(),
            plain_text: true,
            name: Some("centre".into()),
            ..Config::default()
        };
        let options = collect::Options { config };
        let task = tokio::spawn(collect::run(options, stop.clone(), |address| {
            ready_to.send(address).unwrap();
        }));
        Self {
            address: ready.await.unwrap(),
            stop,
            task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    async fn cells(&self) -> Vec<v1::Cell> {
        let request = v1::ListCellsRequest {
            filter: None,
            histograms: true,
        };
        let mut client = FleetClient::connect(self.url()).await.unwrap();
        client.list_cells(request).await.unwrap().into_inner().cells
    }

    async fn hosts(&self) -> v1::ListHostsResponse {
        let mut client = FleetClient::connect(self.url()).await.unwrap();
        client
            .list_hosts(v1::ListHostsRequest {})
            .await
            .unwrap()
            .into_inner()
    }
}

/// What must be equal at both ends: all but the gauges, which are of the moment.
fn totals(mut cells: Vec<v1::Cell>) -> Vec<v1::Cell> {
    for cell in &mut cells {
        cell.sessions_open = 0;
        cell.deliveries_open = 0;
        cell.deliveries_open_late = 0;
    }
    cells.sort_by_key(|cell| cell.key.as_ref().map(|key| key.service.clone()));
    cells
}

async fn edge(url: &str) -> Daemon {
    Daemon::start(|config| {
        config.collector.url = Some(url.to_owned());
        config.collector.plain_text = true;
        config.collector.host = Some("edge-1".into());
        config.collector.interval_ms = 100;
    })
    .await
}

/// Sessions with deliveries on two ports.
fn traffic(daemon: &Daemon, cookies: std::ops::Range<u64>) {
    for cookie in cookies {
        let port = if cookie % 2 == 0 { 80 } else { 443 };
        daemon.script.start(session_start(cookie, port, at(0)));
        for index in 0..5 {
            let mut record = delivery(cookie, port, index, at(u64::from(index) * 10));
            record.t_last_acked_ns += cookie * 77_000;
            daemon.script.delivery(record);
        }
        let mut end = session_end(cookie, port, at(200));
        end.t_established_ns = at(0);
        end.acked_bytes = 5 * 140_000;
        end.segments = 501;
        end.retrans_fast = 11;
        end.retrans_total = 11;
        daemon.script.end(end);
    }
}

async fn same_totals(daemon: &Daemon, collector: &Collector, deliveries: u64) -> Vec<v1::Cell> {
    until("the centre's totals to equal the edge's", || async {
        let edge = totals(daemon.cells().await);
        let counted: u64 = edge
            .iter()
            .map(|cell| cell.counters.as_ref().unwrap().deliveries)
            .sum();
        let centre = totals(collector.cells().await);
        (counted == deliveries && edge == centre).then_some(centre)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collectors_restart_loses_and_doubles_nothing() {
    let collector = Collector::start("127.0.0.1:0").await;
    let address = collector.address.to_string();
    let daemon = edge(&collector.url()).await;
    traffic(&daemon, 0..20);
    let cells = same_totals(&daemon, &collector, 100).await;
    assert_eq!(cells.len(), 2);
    assert!(!cells[0].histograms.is_empty());
    collector.stop().await;

    // Measuring goes on while nobody listens.
    traffic(&daemon, 20..30);
    until("the edge to know that it is alone", || async {
        let uplink = daemon.status().await.uplink.unwrap();
        (!uplink.connected && !uplink.last_error.is_empty()).then_some(())
    })
    .await;
    let collector = Collector::start(&address).await;
    same_totals(&daemon, &collector, 150).await;
    until("the hot lane to be there again, too", || async {
        let uplink = daemon.status().await.uplink?;
        (uplink.connected && uplink.reconnects >= 1).then_some(())
    })
    .await;
    daemon.stop().await.unwrap();
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edges_restart_loses_and_doubles_nothing() {
    let collector = Collector::start("127.0.0.1:0").await;
    let first = edge(&collector.url()).await;
    traffic(&first, 0..10);
    // The last frame of a clean end carries what no tick has carried yet.
    first.stop().await.unwrap();
    let deliveries = |cells: &[v1::Cell]| -> u64 {
        let counters = cells.iter().map(|cell| cell.counters.as_ref().unwrap());
        counters.map(|counters| counters.deliveries).sum()
    };
    assert_eq!(deliveries(&collector.cells().await), 50);

    let second = edge(&collector.url()).await;
    traffic(&second, 10..14);
    let cells = until("both boots", || async {
        let cells = collector.cells().await;
        (deliveries(&cells) == 70).then_some(cells)
    })
    .await;
    let segments: u64 = cells
        .iter()
        .map(|cell| cell.counters.as_ref().unwrap().segments)
        .sum();
    assert_eq!(segments, 14 * 501);
    let host = &collector.hosts().await.hosts[0];
    assert_eq!((host.boots, host.connected), (2, true));
    assert_eq!(host.boot_id, second.ready.boot_id);
    second.stop().await.unwrap();
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_and_aborted_deliveries_do_not_wait_for_the_tick() {
    let collector = Collector::start("127.0.0.1:0").await;
    let daemon = Daemon::start(|config| {
        config.collector.url = Some(collector.url());
        config.collector.plain_text = true;
        config.collector.interval_ms = 60_000;
    })
    .await;
    until("a connection", || async {
        daemon.status().await.uplink?.connected.then_some(())
    })
    .await;
    let mut late = delivery(3, 443, 0, at(0));
    late.header = header(kind::DELIVERY_LATE, at(100));
    late.flags |= flag::LATE;
    daemon.script.delivery(late);
    let mut aborted = delivery(4, 443, 0, at(0));
    aborted.flags |= flag::ABORTED;
    daemon.script.delivery(aborted);
    let host = until("two events, in a minute without ticks", || async {
        let mut hosts = collector.hosts().await.hosts;
        let host = hosts.pop()?;
        (host.events == 2).then_some(host)
    })
    .await;
    assert_eq!(host.events_lost, 0);
    daemon.stop().await.unwrap();
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_not_opened_unasked() {
    let config = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        plain_text: true,
        ..Config::default()
    };
    let options = collect::Options { config };
    let err = collect::run(options, CancellationToken::new(), |_| {})
        .await
        .unwrap_err();
    assert!(err.to_string().contains("--ca"), "{err:#}");
}

// What an edge might send, said by hand.

struct Edge {
    to: mpsc::Sender<v1::EdgeMessage>,
    from: Streaming<v1::CollectorMessage>,
}

fn hello() -> v1::Hello {
    v1::Hello {
        wire_version: 2,
        host: "edge-2".into(),
        boot_id: "boot-a".into(),
        weir_version: "0".into(),
        backend: v1::Backend::Exact.into(),
        kernel_release: "6".into(),
        lane: v1::Lane::Warm.into(),
        ..v1::Hello::default()
    }
}

impl Edge {
    async fn connect(
        collector: &Collector,
        hello: v1::Hello,
    ) -> Result<(Self, v1::Welcome), Status> {
        let mut client = UplinkClient::connect(collector.url()).await.unwrap();
        let (to, stream) = mpsc::channel(16);
        let message = Some(Up::Hello(hello));
        to.send(v1::EdgeMessage { message }).await.unwrap();
        let stream = ReceiverStream::new(stream);
        let mut from = client.report(stream).await?.into_inner();
        match from.message().await?.unwrap().message {
            Some(Down::Welcome(welcome)) => Ok((Self { to, from }, welcome)),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    async fn send(&mut self, frame: v1::Frame) -> Result<u64, Status> {
        let message = Some(Up::Frame(frame));
        self.to.send(v1::EdgeMessage { message }).await.unwrap();
        match self.from.message().await?.unwrap().message {
            Some(Down::Ack(ack)) => Ok(ack.seq),
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }
}

fn cell(service: &str, deliveries: u64) -> v1::Cell {
    cell_of(v1::Backend::Exact, service, deliveries)
}

fn cell_of(backend: v1::Backend, service: &str, deliveries: u64) -> v1::Cell {
    v1::Cell {
        key: Some(v1::CellKey {
            service: service.into(),
            content_class: "-".into(),
            network: "other".into(),
            transport: "tcp4".into(),
            tier: v1::EvidenceTier::Kernel.into(),
            backend: backend.into(),
        }),
        counters: Some(v1::Counters {
            deliveries,
            ..v1::Counters::default()
        }),
        hosts: 1,
        ..v1::Cell::default()
    }
}

fn frame(seq: u64, cells: Vec<v1::Cell>) -> v1::Frame {
    v1::Frame {
        host: "edge-2".into(),
        boot_id: "boot-a".into(),
        lane: v1::Lane::Warm.into(),
        seq,
        tick_seq: seq,
        tick: true,
        cells: cells
            .into_iter()
            .map(|cell| cell.encode_to_vec().into())
            .collect(),
        ..v1::Frame::default()
    }
}

async fn deliveries(collector: &Collector) -> u64 {
    let cells = collector.cells().await;
    let counters = cells.iter().map(|cell| cell.counters.as_ref().unwrap());
    counters.map(|counters| counters.deliveries).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_reordered_frames_change_nothing_and_gaps_are_counted() {
    let collector = Collector::start("127.0.0.1:0").await;
    let (mut edge, welcome) = Edge::connect(&collector, hello()).await.unwrap();
    assert_eq!((welcome.wire_version, welcome.last_seq), (2, 0));
    for (seq, count) in [(1, 10), (4, 40), (3, 30), (4, 41), (2, 20)] {
        // Each is acknowledged: a repetition is answered, not refused.
        assert_eq!(
            edge.send(frame(seq, vec![cell("a", count)])).await.unwrap(),
            seq
        );
    }
    assert_eq!(deliveries(&collector).await, 40);
    drop(edge);

    let (mut edge, welcome) = Edge::connect(&collector, hello()).await.unwrap();
    assert_eq!(welcome.last_seq, 4);
    edge.send(frame(5, vec![cell("a", 50)])).await.unwrap();
    assert_eq!(deliveries(&collector).await, 50);
    let host = &collector.hosts().await.hosts[0];
    assert_eq!(
        (host.frames, host.frames_lost, host.frames_stale),
        // Two came late, and are not lost; one came twice.
        (5, 0, 1)
    );
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_measured_in_different_ways_stays_apart_also_at_the_centre() {
    let collector = Collector::start("127.0.0.1:0").await;
    let backends = [
        // An edge from before there was another way does not say how it measured.
        (v1::Backend::Unspecified, 1),
        (v1::Backend::Exact, 10),
        (v1::Backend::Polled, 100),
    ];
    for (backend, count) in backends {
        let hello = v1::Hello {
            host: format!("edge-{count}"),
            ..hello()
        };
        let (mut edge, _) = Edge::connect(&collector, hello.clone()).await.unwrap();
        let mut frame = frame(1, vec![cell_of(backend, "a", count)]);
        frame.host = hello.host;
        edge.send(frame).await.unwrap();
    }
    let mut counted: Vec<_> = collector
        .cells()
        .await
        .iter()
        .map(|cell| {
            let backend = cell.key.as_ref().unwrap().backend();
            (
                backend,
                cell.counters.as_ref().unwrap().deliveries,
                cell.hosts,
            )
        })
        .collect();
    counted.sort();
    assert_eq!(
        counted,
        [(v1::Backend::Exact, 11, 2), (v1::Backend::Polled, 100, 1)]
    );
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_with_a_reason_and_counted() {
    let collector = Collector::start("127.0.0.1:0").await;
    let (mut edge, _) = Edge::connect(&collector, hello()).await.unwrap();
    edge.send(frame(1, vec![cell("a", 10)])).await.unwrap();

    let histogram = |change: fn(&mut v1::Histogram)| {
        let mut histogram = v1::Histogram {
            metric: v1::Metric::SrttUs.into(),
            grouping_power: 5,
            max_value_power: 26,
            bucket: vec![1, 2],
            count: vec![1, 1],
        };
        change(&mut histogram);
        let mut cell = cell("a", 11);
        cell.histograms.push(histogram);
        frame(2, vec![cell])
    };
    let many = (0..2000).map(|n| cell(&n.to_string(), 1)).collect();
    let foreign = v1::Frame {
        host: "edge-3".into(),
        ..frame(2, Vec::new())
    };
    let refused = [
        ("at most 1024", frame(2, many)),
        (
            "deliveries = 18446744073709551615 cannot be",
            frame(2, vec![cell("a", u64::MAX)]),
        ),
        ("not as many", histogram(|h| h.count = vec![1])),
        ("out of range", histogram(|h| h.bucket = vec![1, 1_000_000])),
        ("not ascending", histogram(|h| h.bucket = vec![2, 1])),
        ("grouping power 7", histogram(|h| h.grouping_power = 7)),
        ("cannot be", histogram(|h| h.count[0] = u64::MAX)),
        ("unknown", histogram(|h| h.metric = 99)),
        ("twice", frame(2, vec![cell("a", 1), cell("a", 1)])),
        ("edge-3", foreign),
        ("seq is missing", frame(0, Vec::new())),
        (
            "events on the warm lane",
            v1::Frame {
                events: vec![v1::HotEvent::default()],
                ..frame(2, Vec::new())
            },
        ),
        (
            "a frame of another on the warm lane",
            v1::Frame {
                lane: v1::Lane::Hot.into(),
                ..frame(2, Vec::new())
            },
        ),
    ];
    let expected = refused.len() as u64;
    for (reason, frame) in refused {
        let (mut edge, _) = Edge::connect(&collector, hello()).await.unwrap();
        let status = edge.send(frame).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(reason), "{reason}: {status}");
    }
    let wrong_version = v1::Hello {
        wire_version: 3,
        ..hello()
    };
    let Err(status) = Edge::connect(&collector, wrong_version).await else {
        panic!("version 3 does not exist");
    };
    assert!(status.message().contains("version 2"), "{status}");

    // Those that were well goes on.
    edge.send(frame(2, vec![cell("a", 20)])).await.unwrap();
    assert_eq!(deliveries(&collector).await, 20);
    let hosts = collector.hosts().await;
    assert_eq!(hosts.hosts[0].frames_refused, expected);
    assert_eq!(hosts.connections_refused, 1);
    collector.stop().await;
}

/// A boot that begins, says its tick `seq` with so many deliveries, and goes.
async fn speak(collector: &Collector, boot_id: &str, seq: u64, count: u64) -> v1::Welcome {
    let hello = v1::Hello {
        boot_id: boot_id.into(),
        ..hello()
    };
    let (mut edge, welcome) = until("the boot before to be gone", || async {
        // The collector learns of a closed connection a moment later.
        Edge::connect(collector, hello.clone()).await.ok()
    })
    .await;
    let mut frame = frame(seq, vec![cell("a", count)]);
    frame.boot_id = boot_id.into();
    edge.send(frame).await.unwrap();
    welcome
}

#[tokio::test(flavor = "multi_thread")]
async fn more_boots_than_are_kept_apart_are_summed_all_the_same() {
    let collector = Collector::start("127.0.0.1:0").await;
    for boot in 0..40 {
        speak(&collector, &format!("boot-{boot}"), 1, 7).await;
    }
    assert_eq!(deliveries(&collector).await, 280);
    let hosts = collector.hosts().await.hosts;
    assert_eq!((hosts.len(), hosts[0].boots), (1, 40));
    // Of so many the first is forgotten but for its name.
    let first = v1::Hello {
        boot_id: "boot-0".into(),
        ..hello()
    };
    let refused = Edge::connect(&collector, first).await.err().unwrap();
    assert!(refused.message().contains("boot boot-0"), "{refused}");
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_was_let_go_while_it_was_silent_goes_on_where_it_was() {
    let collector = Collector::start("127.0.0.1:0").await;
    speak(&collector, "cut-off", 1, 5).await;
    for boot in 0..20 {
        speak(&collector, &format!("boot-{boot}"), 1, 7).await;
    }
    assert_eq!(deliveries(&collector).await, 145);
    let welcome = speak(&collector, "cut-off", 2, 9).await;
    assert_eq!(welcome.last_seq, 1);
    // Once more, as after an acknowledgement that was lost.
    let welcome = speak(&collector, "cut-off", 2, 9).await;
    assert_eq!(welcome.last_seq, 2);
    assert_eq!(deliveries(&collector).await, 149);
    let hosts = collector.hosts().await.hosts;
    assert_eq!((hosts[0].boots, hosts[0].boot_id.as_str()), (21, "cut-off"));
    collector.stop().await;
}

//! Collectors with a real NATS server behind them: any is as good as any other, and whatever ends,
//! nothing that was acknowledged is lost. Needs nats-server (`cargo xtask setup`), no privileges.

mod common;
#[expect(dead_code, reason = "the fault tests use all of it")]
#[path = "faults/edge.rs"]
mod uplink;

use common::centre::{Collector, Edge, cell, directory, engine as streams, hello, tick};
use common::until;
use uplink::{Edge as RealEdge, Story};
use weir_proto::v1;
use weir_tests::lab;

async fn collector(name: &str, nats: &lab::nats::Nats) -> Collector {
    Collector::start(name, |config| {
        config.nats = Some(streams(nats));
    })
    .await
}

fn hot_lane(edge: &RealEdge) -> v1::LaneStatus {
    let lanes = edge.counts.status().lanes;
    let mut hot = lanes
        .into_iter()
        .filter(|lane| lane.lane() == v1::Lane::Hot);
    hot.next().unwrap()
}

fn without_gauges(mut cells: Vec<v1::Cell>) -> Vec<v1::Cell> {
    for cell in &mut cells {
        cell.sessions_open = 0;
    }
    cells
}

async fn engine(collector: &Collector) -> v1::EngineStatus {
    let status = collector.hosts().await.collector.unwrap();
    status.engine.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_lost_loses_nothing_that_was_acknowledged() {
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "").unwrap();
    let first = collector("first", &nats).await;
    for n in 0..10_u64 {
        let hello = hello(&format!("edge-{n}"), "boot");
        let mut edge = Edge::connect(&first, hello).await.unwrap();
        for seq in 1..=3 {
            let frame = tick(seq, vec![cell("a", seq * 10), cell("b", n)]);
            assert_eq!(edge.send(frame).await.unwrap(), seq);
        }
    }
    let before = without_gauges(first.cells().await);
    assert_eq!(common::centre::deliveries(&before), 10 * 30 + 45);
    first.kill().await;

    // A new one knows all of it before it lets anybody in.
    let second = collector("second", &nats).await;
    assert_eq!(without_gauges(second.cells().await), before);
    let hosts = second.hosts().await;
    assert_eq!(hosts.hosts.len(), 10);
    assert!(
        hosts
            .hosts
            .iter()
            .all(|host| (host.frames, host.frames_lost) == (3, 0))
    );
    assert!(engine(&second).await.rebuilt);
    // And the minutes: what came after each boot's first frames. They were its first, so all did.
    until("the second to be over", || async {
        let window = second.window(900).await;
        (common::centre::deliveries(&window.cells) == 10 * 30 + 45).then_some(())
    })
    .await;

    // An edge goes on there, where it left off.
    let mut edge = Edge::connect(&second, hello("edge-3", "boot"))
        .await
        .unwrap();
    edge.send(tick(4, vec![cell("a", 100), cell("b", 3)]))
        .await
        .unwrap();
    assert_eq!(second.deliveries().await, 10 * 30 + 45 + 70);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_collectors_say_the_same_wherever_a_host_reports() {
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "").unwrap();
    let (one, two) = (collector("one", &nats).await, collector("two", &nats).await);
    let mut here = Edge::connect(&one, hello("edge-1", "boot")).await.unwrap();
    let mut there = Edge::connect(&two, hello("edge-2", "boot")).await.unwrap();
    for seq in 1..=20 {
        here.send(tick(seq, vec![cell("a", seq)])).await.unwrap();
        there
            .send(tick(seq, vec![cell("a", seq * 100)]))
            .await
            .unwrap();
    }
    // A host changes sides in the middle; what was sent already is sent again.
    drop(here);
    let mut here = Edge::connect(&two, hello("edge-1", "boot")).await.unwrap();
    for seq in 18..=30 {
        assert_eq!(
            here.send(tick(seq, vec![cell("a", seq)])).await.unwrap(),
            seq
        );
    }
    let same = until("both to say the same", || async {
        let (one, two) = (one.cells().await, two.cells().await);
        (one == two && common::centre::deliveries(&one) == 2030).then_some(one)
    })
    .await;
    assert_eq!(same[0].hosts, 2);
    for collector in [&one, &two] {
        let hosts = collector.hosts().await.hosts;
        let frames: Vec<_> = hosts
            .iter()
            .map(|host| (host.frames, host.frames_lost))
            .collect();
        assert_eq!(frames, [(30, 0), (20, 0)]);
    }
    // By its name, the engine knew what came again by another collector.
    assert_eq!(engine(&two).await.frames_repeated, 3);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_operators_see_all_and_the_newest_is_not_acknowledged() {
    let (_directory, path) = directory();
    let mut nats = lab::nats::Nats::start(&path, "").unwrap();
    let collector = Collector::start("alone", |config| {
        let mut nats = streams(&nats);
        // The least: it is full soon.
        nats.buffer_bytes = 1 << 20;
        config.nats = Some(nats);
    })
    .await;
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    edge.send(tick(1, vec![cell("a", 1)])).await.unwrap();
    nats.kill().unwrap();
    until("the collector to know it", || async {
        (!engine(&collector).await.connected).then_some(())
    })
    .await;
    // A tick is safe when a newer one waits in its place: the newest stays the host's to repeat.
    edge.tell(tick(2, vec![cell("a", 2)])).await;
    for seq in 3..=40 {
        edge.tell(tick(seq, vec![cell("a", seq)])).await;
        assert_eq!(edge.acknowledged().await.unwrap(), seq - 1);
    }
    until("the operator's view to go on", || async {
        (collector.deliveries().await == 40).then_some(())
    })
    .await;
    let status = engine(&collector).await;
    assert!(
        !status.error.is_empty() && status.waiting_bytes > 0,
        "{status:?}"
    );
    assert_eq!(status.frames_acknowledged, 1);

    // What was made meanwhile goes there when it is back, and then to whoever comes.
    nats.resume().unwrap();
    assert_eq!(edge.acknowledged().await.unwrap(), 40);
    let other = self::collector("other", &nats).await;
    assert_eq!(other.deliveries().await, 40);
    assert_eq!(other.hosts().await.hosts[0].frames, 40);
    other.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_no_lane_of_a_real_uplink_waits_for_it() {
    // More frames than may be under way, and than a connection's receipts were once.
    const EVENTS: u64 = 200;
    let (_directory, path) = directory();
    let mut nats = lab::nats::Nats::start(&path, "").unwrap();
    let alone = collector("alone", &nats).await;
    let (ring, mut story) = (tempfile::tempdir().unwrap(), Story::default());
    let mut edge = RealEdge::start(&alone.url(), ring.path(), &mut story).await;
    edge.tick(&mut story);
    until("the first tick to be acknowledged", || async {
        (alone.hosts().await.hosts.first()?.frames >= 2).then_some(())
    })
    .await;
    nats.kill().unwrap();
    until("the collector to know it", || async {
        (!engine(&alone).await.connected).then_some(())
    })
    .await;
    for made in 1..=EVENTS {
        // Each in a frame of its own.
        edge.happen(made, 0);
        until("the event to arrive", || async {
            (alone.hosts().await.hosts[0].events == made).then_some(())
        })
        .await;
        edge.tick(&mut story);
        let (seq, _) = edge.last();
        until("the vital frame and the cells to arrive", || async {
            let host = &alone.hosts().await.hosts[0];
            let vital = host.vital.as_ref()?;
            let told = vital.cells[0].values[v1::VitalValue::Deliveries as usize];
            (told == seq && alone.deliveries().await == seq).then_some(())
        })
        .await;
    }
    let hot = hot_lane(&edge);
    assert!(hot.waiting >= EVENTS, "{hot:?}");
    // Nobody gave up a way that works.
    assert_eq!((hot.reconnects, hot.counts.unwrap().frames_shed), (0, 0));

    nats.resume().unwrap();
    until("all to be acknowledged", || async {
        (hot_lane(&edge).waiting == 0).then_some(())
    })
    .await;
    let other = collector("other", &nats).await;
    let host = other.hosts().await.hosts.remove(0);
    assert_eq!((host.events, host.events_lost), (EVENTS, 0));
    edge.finish().await;
    other.stop().await;
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_costs_acknowledgements_and_is_counted() {
    let (_directory, path) = directory();
    let mut nats = lab::nats::Nats::start(&path, "").unwrap();
    let collector = Collector::start("alone", |config| {
        let mut nats = streams(&nats);
        nats.buffer_bytes = 1 << 20;
        config.nats = Some(nats);
    })
    .await;
    nats.kill().unwrap();
    // More than fits: 1024 frames of a unit each.
    let mut sent = 0;
    let mut edges = Vec::new();
    while engine(&collector).await.frames_unbuffered == 0 {
        let edge = Edge::connect(&collector, hello(&format!("edge-{sent}"), "boot")).await;
        let edge = edge.unwrap();
        for seq in 1..=60 {
            edge.tell(tick(seq, vec![cell("a", seq)])).await;
        }
        sent += 1;
        edges.push(edge);
        assert!(sent < 100, "it never fills");
    }
    until("the operator to see all", || async {
        (collector.deliveries().await == sent * 60).then_some(())
    })
    .await;
    assert!(engine(&collector).await.waiting_bytes <= 1 << 20);
    // The newest frame of a host is acknowledged again once there is room.
    nats.resume().unwrap();
    until("the buffer to drain", || async {
        (engine(&collector).await.waiting_bytes == 0).then_some(())
    })
    .await;
    let last = edges.len() - 1;
    edges[last].tell(tick(61, vec![cell("a", 61)])).await;
    while edges[last].acknowledged().await.unwrap() != 61 {}
    assert_eq!(collector.deliveries().await, sent * 60 + 1);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_would_never_take_is_refused_with_the_reason() {
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "max_payload: 1024").unwrap();
    let collector = collector("small", &nats).await;
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    edge.send(tick(1, vec![cell("a", 1)])).await.unwrap();
    let many = (0..500).map(|n| cell(&format!("service-{n}-{}", n * 7919), n * n));
    let refused = edge.send(tick(2, many.collect())).await.unwrap_err();
    assert!(refused.message().contains("max_payload"), "{refused}");
    assert_eq!(engine(&collector).await.frames_too_large, 1);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_deliveries_are_handed_over_to_a_stream_of_their_own() {
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "").unwrap();
    let (one, two) = (collector("one", &nats).await, collector("two", &nats).await);
    let hello = v1::Hello {
        lane: v1::Lane::Cold.into(),
        ..hello("edge-1", "boot")
    };
    let mut edge = Edge::connect(&one, hello).await.unwrap();
    let frame = v1::Frame {
        seq: 1,
        deliveries: vec![v1::Delivery::default(); 3],
        deliveries_total: 3,
        ..v1::Frame::default()
    };
    assert_eq!(edge.send(frame).await.unwrap(), 1);
    assert_eq!(one.hosts().await.hosts[0].deliveries, 3);
    let client = async_nats::connect(nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let mut stream = context.get_stream("WEIR_COLD").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    // The deliveries themselves stay there; that they came is known at whoever is asked.
    assert_eq!(two.hosts().await.hosts[0].deliveries, 3);
    assert_eq!(engine(&two).await.frames_followed, 0);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_in_the_stream_is_counted_and_changes_nothing() {
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "").unwrap();
    let collector = collector("one", &nats).await;
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    edge.send(tick(1, vec![cell("a", 5)])).await.unwrap();
    let stranger = async_nats::connect(nats.url()).await.unwrap();
    for payload in ["", "no frame", "\u{28}\u{b5}\u{2f}\u{fd}"] {
        stranger
            .publish("weir.frames.0.warm.a.b", payload.into())
            .await
            .unwrap();
    }
    stranger.flush().await.unwrap();
    until("it to be counted", || async {
        (engine(&collector).await.frames_unusable == 3).then_some(())
    })
    .await;
    assert_eq!(collector.deliveries().await, 5);
    collector.stop().await;
}

/// What hardly compresses.
fn noise(bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(bytes as u64);
    (0..bytes).map(|_| random.alphanumeric()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_begins_again_and_again_is_rebuilt_boot_by_boot() {
    const BOOTS: u64 = 320;
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "").unwrap();
    // Of the minutes the stream holds a part; the rest is among the latest frames of each boot alone.
    let collector = |name: &'static str| {
        let mut config = streams(&nats);
        config.max_bytes = 1 << 20;
        Collector::start(name, |of| of.nats = Some(config))
    };
    let first = collector("first").await;
    let second = collector("second").await;
    for boot in 0..BOOTS {
        let hello = v1::Hello {
            started_unix_ns: boot + 1,
            ..hello("edge-1", &format!("boot-{boot}"))
        };
        let mut edge = until("the boot before to be gone", || async {
            Edge::connect(&first, hello.clone()).await.ok()
        })
        .await;
        let mut frame = tick(1, vec![cell("a", 1)]);
        frame.off = noise(8_000);
        frame.budget = Some(v1::BudgetStatus {
            error: noise(8_001),
            ..v1::BudgetStatus::default()
        });
        assert_eq!(edge.send(frame).await.unwrap(), 1);
    }
    for collector in [&first, &second] {
        until("each to say all", || async {
            (collector.deliveries().await == BOOTS).then_some(())
        })
        .await;
    }
    let client = async_nats::connect(nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let held = async |name: &str| {
        let mut stream = context.get_stream(name).await.unwrap();
        stream.info().await.unwrap().state.messages
    };
    assert!(held("WEIR").await < BOOTS / 2);
    until("the server to have taken over all", || async {
        (held("WEIR_BOOTS").await == BOOTS).then_some(())
    })
    .await;
    second.kill().await;
    let second = collector("second").await;
    assert!(engine(&second).await.rebuilt);
    assert_eq!(second.deliveries().await, BOOTS);
    let host = &second.hosts().await.hosts[0];
    assert_eq!((host.boots, host.frames), (BOOTS, BOOTS));
    assert_eq!(engine(&second).await.frames_unusable, 0);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_be_made_costs_what_it_is_for_and_nothing_else() {
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "").unwrap();
    // Somebody has a part of the cold lane's subjects.
    let client = async_nats::connect(nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let other = async_nats::jetstream::stream::Config {
        name: "OTHER".into(),
        subjects: vec!["weir.cold.other".into()],
        ..async_nats::jetstream::stream::Config::default()
    };
    context.create_stream(other).await.unwrap();
    let (one, two) = (collector("one", &nats).await, collector("two", &nats).await);
    assert!(engine(&two).await.rebuilt);
    let error = engine(&two).await.error;
    assert!(error.contains("WEIR_COLD"), "{error}");
    let cold = v1::Hello {
        lane: v1::Lane::Cold.into(),
        ..hello("edge-1", "boot")
    };
    let mut cold = Edge::connect(&one, cold).await.unwrap();
    let delivery = v1::Frame {
        seq: 1,
        deliveries: vec![v1::Delivery::default(); 3],
        deliveries_total: 3,
        ..v1::Frame::default()
    };
    cold.tell(delivery).await;
    let mut warm = Edge::connect(&one, hello("edge-1", "boot")).await.unwrap();
    for seq in 1..=50 {
        assert_eq!(
            warm.send(tick(seq, vec![cell("a", seq)])).await.unwrap(),
            seq
        );
    }
    until("the other to follow", || async {
        (two.deliveries().await == 50).then_some(())
    })
    .await;
    let status = engine(&one).await;
    assert_eq!(status.frames_acknowledged, 50);
    assert!(status.waiting_bytes > 0 && status.connected, "{status:?}");
    // When it can be made, what waited for it is taken.
    context.delete_stream("OTHER").await.unwrap();
    assert_eq!(cold.acknowledged().await.unwrap(), 1);
    until("nothing to be wrong any more", || async {
        let status = [engine(&one).await, engine(&two).await];
        status
            .iter()
            .all(|status| status.error.is_empty())
            .then_some(())
    })
    .await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_beside_a_server_that_is_there_complains_of_nothing() {
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "").unwrap();
    let collector = collector("one", &nats).await;
    // No frame comes that would take a complaint back.
    for _ in 0..20 {
        let status = engine(&collector).await;
        assert_eq!((status.error.as_str(), status.rebuilt), ("", true));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_is_sent_again_is_not_acknowledged_before_the_engine_has_it() {
    let (_directory, path) = directory();
    let mut nats = lab::nats::Nats::start(&path, "").unwrap();
    let collector = collector("one", &nats).await;
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    edge.send(tick(1, vec![cell("a", 1)])).await.unwrap();
    nats.kill().unwrap();
    for _ in 0..3 {
        edge.tell(tick(2, vec![cell("a", 2)])).await;
    }
    until("it to be merged, and to have come again", || async {
        let host = collector.hosts().await.hosts.remove(0);
        (host.frames == 2 && host.frames_stale == 2).then_some(())
    })
    .await;
    // The next acknowledgement is of the next frame's coming, which has it all: not one of those.
    edge.tell(tick(3, vec![cell("a", 3)])).await;
    assert_eq!(edge.acknowledged().await.unwrap(), 2);
    nats.resume().unwrap();
    assert_eq!(edge.acknowledged().await.unwrap(), 3);
    collector.stop().await;
}

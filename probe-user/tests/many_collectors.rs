//! Several collectors behind one real NATS server: each merges a part, any answers for all, and
//! whoever ends, however, the totals are those that were sent, to the unit. Needs nats-server
//! (`cargo xtask setup`), no privileges.

mod common;
#[expect(dead_code, reason = "the fault tests use all of it")]
#[path = "faults/wire.rs"]
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::centre::{Child, Collector, Edge, cell, directory, engine, hello, tick};
use common::{Daemon, at, session_start, until};
use tonic::Code;
use weir_proto::v1;
use weir_proto::v1::fleet_subscribe_message::Message;
use weir_tests::lab::nats::Nats;

const HOSTS: u64 = 48;

async fn collector(name: &str, nats: &Nats) -> Collector {
    Collector::start(name, |config| config.nats = Some(engine(nats))).await
}

fn host(n: u64) -> String {
    format!("edge-{n}")
}

/// What a collector merges itself.
async fn partitions(collector: &Collector) -> Vec<u32> {
    let status = collector.hosts().await.collector.unwrap();
    assert_eq!(status.partitions_in_all, 16);
    status.partitions
}

/// Waits until every partition is merged by exactly one of them.
async fn settled(collectors: &[&Collector]) {
    until("each partition to be merged by one", || async {
        let mut all = Vec::new();
        for collector in collectors {
            let hosts = collector.hosts().await;
            let status = hosts.collector.unwrap();
            let is_settled = status.engine?.rebuilt && hosts.missing.is_empty();
            if !is_settled || status.collectors.len() != collectors.len() {
                return None;
            }
            all.extend(status.partitions);
        }
        all.sort_unstable();
        (all == (0..16).collect::<Vec<_>>()).then_some(())
    })
    .await;
}

/// Waits until all of them say so many deliveries, and nothing is missing.
async fn all_say(collectors: &[&Collector], deliveries: u64) {
    for collector in collectors {
        until("a collector to know all", || async {
            let (cells, missing) = collector.all().await;
            let sum = common::centre::deliveries(&cells);
            assert!(sum <= deliveries, "{sum} of {deliveries}: counted twice");
            (sum == deliveries && missing.is_empty()).then_some(())
        })
        .await;
    }
}

/// Hosts that report in turn to each of some collectors.
struct Hosts {
    edges: Vec<Edge>,
    seq: u64,
}

impl Hosts {
    async fn connect(collectors: &[&Collector]) -> Self {
        let mut edges = Vec::new();
        for n in 0..HOSTS {
            let to = collectors[usize::try_from(n).unwrap() % collectors.len()];
            let edge = Edge::connect(to, hello(&host(n), "boot")).await;
            edges.push(edge.unwrap());
        }
        Self { edges, seq: 0 }
    }

    /// Each tells once more, and has its acknowledgement; gives the sum of all deliveries.
    async fn tell(&mut self) -> u64 {
        self.seq += 1;
        let mut sum = 0;
        for (n, edge) in (0_u64..).zip(&mut self.edges) {
            let count = self.seq * (n + 1);
            sum += count;
            let frame = tick(self.seq, vec![cell("a", count)]);
            assert_eq!(edge.send(frame).await.unwrap(), self.seq);
        }
        sum
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_collectors_merge_half_each_and_say_the_same() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let (one, two) = (collector("one", &nats).await, collector("two", &nats).await);
    settled(&[&one, &two]).await;
    let halves = (partitions(&one).await.len(), partitions(&two).await.len());
    assert_eq!(halves, (8, 8));
    let mut hosts = Hosts::connect(&[&one, &two]).await;
    let mut sum = 0;
    for _ in 0..10 {
        sum = hosts.tell().await;
    }
    all_say(&[&one, &two], sum).await;
    assert_eq!(one.cells().await, two.cells().await);
    let cells = one.cells().await;
    assert_eq!(u64::from(cells[0].hosts), HOSTS);
    // Each frame was merged once, by one of them.
    let mut merged = Vec::new();
    for collector in [&one, &two] {
        let status = collector.hosts().await.collector.unwrap();
        merged.push(status.frames_merged);
    }
    assert_eq!(merged.iter().sum::<u64>(), HOSTS * 10);
    assert!(merged.iter().all(|one| *one > HOSTS), "{merged:?}");
    for collector in [&one, &two] {
        let told = collector.hosts().await.hosts;
        assert_eq!(told.len() as u64, HOSTS);
        assert!(told.iter().all(|host| host.connected && host.frames == 10));
        // Where it is connected, not where it is merged.
        let at_one = told.iter().filter(|host| host.collector == "one").count();
        assert_eq!(at_one as u64, HOSTS / 2);
        until("the window to have all", || async {
            let window = collector.window(900).await;
            let counted = common::centre::deliveries(&window.cells);
            (counted == sum && window.missing.is_empty()).then_some(())
        })
        .await;
    }
    drop(hosts);
    until("all to be gone", || async {
        let told = one.hosts().await.hosts;
        told.iter().all(|host| !host.connected).then_some(())
    })
    .await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_collectors_come_and_go_totals_are_exact_or_say_what_is_missing() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let one = collector("one", &nats).await;
    settled(&[&one]).await;
    let mut hosts = Hosts::connect(&[&one]).await;
    let mut sum = hosts.tell().await;
    let exact = async |collectors: &[&Collector], least: u64, most: u64| {
        for collector in collectors {
            let (cells, missing) = collector.all().await;
            let told = common::centre::deliveries(&cells);
            assert!(told <= most, "{told} of {most}");
            assert!(
                told >= least || !missing.is_empty(),
                "{told} of {least}, and nothing is missing"
            );
        }
    };
    // One that comes is asked when it has all: nothing is missing at any time.
    let joining = collector("two", &nats);
    tokio::pin!(joining);
    let two = loop {
        let before = sum;
        sum = hosts.tell().await;
        let (cells, missing) = one.all().await;
        assert_eq!((common::centre::deliveries(&cells), missing), (sum, vec![]));
        exact(&[&one], before, sum).await;
        let joined = tokio::time::timeout(Duration::from_millis(20), &mut joining).await;
        if let Ok(two) = joined {
            break two;
        }
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let before = sum;
        sum = hosts.tell().await;
        exact(&[&one, &two], before, sum).await;
    }
    settled(&[&one, &two]).await;
    all_say(&[&one, &two], sum).await;
    let three = collector("three", &nats).await;
    settled(&[&one, &two, &three]).await;
    sum = hosts.tell().await;
    all_say(&[&one, &two, &three], sum).await;
    // One leaves in order, one is lost.
    three.stop().await;
    sum = hosts.tell().await;
    exact(&[&one, &two], 0, sum).await;
    settled(&[&one, &two]).await;
    all_say(&[&one, &two], sum).await;
    two.kill().await;
    sum = hosts.tell().await;
    exact(&[&one], 0, sum).await;
    settled(&[&one]).await;
    all_say(&[&one], sum).await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_merged_is_merged_by_others_within_seconds() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let one = collector("one", &nats).await;
    let three = collector("three", &nats).await;
    let lost = Child::start(&path, "two", Some(&nats)).await;
    settled(&[&one, &three, &lost.seen]).await;
    let mut hosts = Hosts::connect(&[&one, &lost.seen, &three]).await;
    let mut sum = 0;
    for _ in 0..5 {
        sum = hosts.tell().await;
    }
    all_say(&[&one, &three, &lost.seen], sum).await;
    let whole = one.cells().await;
    let killed = Instant::now();
    lost.kill();
    // Nobody is asked to wait for it, nothing is told twice, and what is missing is named.
    let named = AtomicBool::new(false);
    until("all to be merged elsewhere", || async {
        let (cells, missing) = one.all().await;
        let told = common::centre::deliveries(&cells);
        assert!(told <= sum);
        assert!(told == sum || !missing.is_empty(), "{told} of {sum}");
        let is_named = missing
            .iter()
            .any(|missing| missing.is_less && !missing.partitions.is_empty());
        named.fetch_or(is_named, Ordering::Relaxed);
        (told == sum && missing.is_empty()).then_some(())
    })
    .await;
    println!(
        "whole again {:?} after the kill, named {named:?}",
        killed.elapsed()
    );
    assert!(
        killed.elapsed() < Duration::from_secs(8),
        "{:?}",
        killed.elapsed()
    );
    settled(&[&one, &three]).await;
    let without_gauges = |mut cells: Vec<v1::Cell>| {
        for cell in &mut cells {
            cell.sessions_open = 0;
        }
        cells
    };
    assert_eq!(without_gauges(three.cells().await), without_gauges(whole));
    // Those that were connected there go elsewhere, and go on.
    for n in (1..HOSTS).step_by(3) {
        let edge = Edge::connect(&three, hello(&host(n), "boot"))
            .await
            .unwrap();
        hosts.edges[usize::try_from(n).unwrap()] = edge;
    }
    sum = hosts.tell().await;
    all_say(&[&one, &three], sum).await;
    for told in [one.hosts().await, three.hosts().await] {
        assert!(
            told.hosts
                .iter()
                .all(|host| (host.frames, host.frames_lost) == (6, 0))
        );
    }
    one.stop().await;
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_without_a_way_to_the_engine_says_so_and_comes_back() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let address = nats.url().trim_start_matches("nats://").parse().unwrap();
    let way = wire::Wire::start(address).await;
    let one = collector("one", &nats).await;
    let two = Collector::start("two", |config| {
        let mut nats = engine(&nats);
        nats.urls = vec![way.url().replace("http://", "nats://")];
        config.nats = Some(nats);
    })
    .await;
    settled(&[&one, &two]).await;
    let mut hosts = Hosts::connect(&[&one, &two]).await;
    let mut sum = hosts.tell().await;
    all_say(&[&one, &two], sum).await;
    way.block(true);
    way.cut();
    for collector in [&one, &two] {
        until("each to take up what the other had", || async {
            (partitions(collector).await.len() == 16).then_some(())
        })
        .await;
    }
    // Ticks of its hosts wait there, but are told there, and as not all there is.
    for (n, edge) in (0_u64..).zip(&mut hosts.edges) {
        edge.tell(tick(2, vec![cell("a", 2 * (n + 1))])).await;
    }
    until("it to be alone, and to say so", || async {
        let (cells, missing) = two.all().await;
        let told = common::centre::deliveries(&cells);
        assert!(told <= sum * 2 && (told == sum * 2 || !missing.is_empty()));
        let status = two.hosts().await.collector.unwrap();
        (status.partitions.len() == 16 && !missing.is_empty() && told > sum).then_some(())
    })
    .await;
    let (_, missing) = one.all().await;
    assert_eq!(missing, []);
    way.block(false);
    way.cut();
    settled(&[&one, &two]).await;
    hosts.seq = 2;
    for edge in &mut hosts.edges {
        while edge.acknowledged().await.unwrap() != 2 {}
    }
    sum *= 2;
    all_say(&[&one, &two], sum).await;
    sum = hosts.tell().await;
    all_say(&[&one, &two], sum).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_that_do_not_divide_alike_name_each_other() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let one = collector("one", &nats).await;
    let other = Collector::start("other", |config| {
        let mut nats = engine(&nats);
        nats.partitions = 4;
        config.nats = Some(nats);
    })
    .await;
    until("both to be named", || async {
        let mut errors = Vec::new();
        for collector in [&one, &other] {
            let status = collector.hosts().await.collector.unwrap();
            errors.push(status.engine.unwrap().error);
        }
        let is_named = errors[0].contains("other") && errors[1].contains("the collector one");
        is_named.then_some(())
    })
    .await;
    one.stop().await;
    other.stop().await;
}

async fn edge(collector: &Collector, ring: Option<&std::path::Path>) -> Daemon {
    let daemon = Daemon::start(|config| {
        config.collector.url = Some(collector.url());
        config.collector.plain_text = true;
        config.collector.host = Some("edge-1".into());
        config.collector.interval_ms = 100;
        config.collector.ring_directory = ring.map(std::path::Path::to_owned);
        config.labels.hash_clients = false;
    })
    .await;
    until("a connection", || async {
        daemon.status().await.uplink?.connected.then_some(())
    })
    .await;
    daemon
}

fn look(hosts: &[&str]) -> v1::FleetSubscribeRequest {
    v1::FleetSubscribeRequest {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        selector: Some(v1::Selector {
            client_prefix: "198.51.100.0/24".into(),
            ..v1::Selector::default()
        }),
        interval_ms: 250,
        ..v1::FleetSubscribeRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_looked_at_through_whichever_collector_is_asked() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let (one, two) = (collector("one", &nats).await, collector("two", &nats).await);
    settled(&[&one, &two]).await;
    let daemon = edge(&two, None).await;
    daemon.script.start(session_start(3, 443, at(0)));
    let stream = one.client().await.subscribe(look(&[])).await;
    let mut stream = stream.unwrap().into_inner();
    let mut answered = false;
    while !answered {
        let message = stream.message().await.unwrap().unwrap();
        assert_eq!(message.host, "edge-1");
        answered =
            matches!(message.message, Some(Message::Answer(answer)) if answer.refused.is_empty());
    }
    let mut late = common::delivery(3, 443, 0, at(0));
    late.header = common::header(probe_ebpf::record::kind::DELIVERY_LATE, at(100));
    late.flags |= probe_ebpf::record::flag::LATE;
    daemon.script.delivery(late);
    loop {
        let message = stream.message().await.unwrap().unwrap();
        if let Some(Message::Drill(drill)) = message.message
            && !drill.events.is_empty()
        {
            assert_eq!(drill.sessions.len(), 1);
            break;
        }
    }
    // The lease ends with the operator.
    assert_eq!(daemon.status().await.uplink.unwrap().subscriptions, 1);
    drop(stream);
    until("the host to forget it", || async {
        (daemon.status().await.uplink?.subscriptions == 0).then_some(())
    })
    .await;
    daemon.stop().await.unwrap();
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_says_is_heard_elsewhere_in_milliseconds() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let (one, two) = (collector("one", &nats).await, collector("two", &nats).await);
    settled(&[&one, &two]).await;
    let hot = v1::Hello {
        lane: v1::Lane::Hot.into(),
        ..hello("edge-1", "boot")
    };
    let mut host = Edge::connect(&two, hot).await.unwrap();
    let mut medians_ms = Vec::new();
    for asked in [&two, &one] {
        let stream = asked.client().await.subscribe(look(&["edge-1"])).await;
        let mut stream = stream.unwrap().into_inner();
        let id = host.asked().await.id;
        let mut took_ms = Vec::new();
        for said in 0..100_u64 {
            let begun = Instant::now();
            let drill = v1::Drill {
                id: id.clone(),
                left_out: said,
                ..v1::Drill::default()
            };
            host.say(v1::edge_message::Message::Drill(drill)).await;
            let message = stream.message().await.unwrap().unwrap();
            took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
            assert!(
                matches!(message.message, Some(Message::Drill(drill)) if drill.left_out == said)
            );
            assert_eq!(message.missed_before, 0);
        }
        took_ms.sort_by(f64::total_cmp);
        println!(
            "heard after {:.2} ms (median), {:.2} ms at most",
            took_ms[50], took_ms[99]
        );
        medians_ms.push(took_ms[50]);
    }
    // Not the next tick, nor a renewal; how fast it is, depends on the machine.
    assert!(medians_ms[1] < 1_000.0, "{medians_ms:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_connected_nowhere_is_said_to_be_at_once_and_where_it_was() {
    let (_directory, path) = directory();
    let (ring, _) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let (one, two) = (collector("one", &nats).await, collector("two", &nats).await);
    settled(&[&one, &two]).await;
    let daemon = edge(&two, Some(ring.path())).await;
    until("two seconds to be kept", || async {
        (daemon.status().await.uplink?.ring?.entries >= 2).then_some(())
    })
    .await;
    let fetch = |host: &str| v1::FleetFetchRingRequest {
        host: host.into(),
        ..v1::FleetFetchRingRequest::default()
    };
    let fetched = one.client().await.fetch_ring(fetch("edge-1")).await;
    let mut stream = fetched.unwrap().into_inner();
    let mut frames = Vec::new();
    loop {
        let part = stream.message().await.unwrap().unwrap();
        frames.extend(part.frames);
        if part.is_last {
            break;
        }
    }
    assert!(frames.len() >= 2 && frames.is_sorted_by(|a, b| a.seq < b.seq));
    daemon.stop().await.unwrap();
    until("it to be gone", || async {
        let hosts = one.hosts().await.hosts;
        (!hosts[0].connected).then_some(())
    })
    .await;
    let refused = async |host: &str| {
        let fetched = one.client().await.fetch_ring(fetch(host)).await;
        fetched.unwrap().into_inner().message().await.unwrap_err()
    };
    let status = refused("edge-1").await;
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("last heard of"), "{status}");
    let status = refused("edge-9").await;
    assert!(
        status.message().contains("nobody has heard of it"),
        "{status}"
    );
    let stream = one
        .client()
        .await
        .subscribe(look(&["edge-1", "edge-9"]))
        .await;
    let mut stream = stream.unwrap().into_inner();
    let mut told = Vec::new();
    while told.len() < 2 {
        match stream.message().await.unwrap().unwrap().message {
            Some(Message::NotConnected(seen)) => {
                told.push((seen.host, seen.last_heard_unix_ns > 0));
            }
            other => panic!("not of one that is not there: {other:?}"),
        }
    }
    told.sort();
    assert_eq!(
        told,
        [("edge-1".to_owned(), true), ("edge-9".to_owned(), false)]
    );
    // It is asked when it comes, wherever that is.
    let daemon = edge(&two, None).await;
    loop {
        if let Some(Message::Answer(answer)) = stream.message().await.unwrap().unwrap().message {
            assert_eq!(answer.refused, "");
            break;
        }
    }
    drop(stream);
    daemon.stop().await.unwrap();
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metrics_endpoint_tells_the_whole_fleet_or_nothing_of_it() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let port = weir_tests::lab::nats::free_port().unwrap();
    let one = Collector::start("one", |config| {
        config.nats = Some(engine(&nats));
        config.metrics.listen = Some(([127, 0, 0, 1], port).into());
    })
    .await;
    let lost = Child::start(&path, "two", Some(&nats)).await;
    settled(&[&one, &lost.seen]).await;
    let mut hosts = Hosts::connect(&[&one, &lost.seen]).await;
    let sum = hosts.tell().await;
    all_say(&[&one], sum).await;
    let deliveries = async || {
        let text = common::centre::scrape(port).await;
        let of = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.rsplit_once(' ')?.1.parse::<f64>().ok()
        };
        (
            of("weir_deliveries_total{"),
            of("weir_fleet_partitions_missing"),
        )
    };
    assert_eq!(deliveries().await, (Some(sum as f64), Some(0.0)));
    lost.kill();
    until("all to be told again", || async {
        match deliveries().await {
            (None, Some(missing)) => {
                assert!(missing > 0.0);
                None
            }
            (told, Some(missing)) => {
                // Never less than it was.
                assert_eq!((told, missing), (Some(sum as f64), 0.0));
                let told = one.hosts().await.collector.unwrap();
                (told.partitions.len() == 16).then_some(())
            }
            other => panic!("not what a collector says: {other:?}"),
        }
    })
    .await;
    one.stop().await;
}

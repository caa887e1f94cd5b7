//! Closer looks: an operator asks through a collector, the host bounds what it answers.

mod common;

use std::path::Path;

use common::centre::Collector;
use common::{Daemon, at, delivery, header, session_start, until};
use probe_ebpf::record::{flag, kind};
use tonic::{Code, Streaming};
use weir_proto::v1;
use weir_proto::v1::fleet_subscribe_message::Message;

async fn edge(collector: &Collector, ring: Option<&Path>) -> Daemon {
    let daemon = Daemon::start(|config| {
        config.collector.url = Some(collector.url());
        config.collector.plain_text = true;
        config.collector.host = Some("edge-1".into());
        config.collector.interval_ms = 100;
        config.collector.ring_directory = ring.map(Path::to_owned);
        config.labels.hash_clients = false;
    })
    .await;
    until("a connection", || async {
        daemon.status().await.uplink?.connected.then_some(())
    })
    .await;
    daemon
}

async fn subscribe(collector: &Collector, prefix: &str) -> Streaming<v1::FleetSubscribeMessage> {
    let request = v1::FleetSubscribeRequest {
        selector: Some(v1::Selector {
            client_prefix: prefix.into(),
            ..v1::Selector::default()
        }),
        interval_ms: 250,
        ..v1::FleetSubscribeRequest::default()
    };
    let answer = collector.client().await.subscribe(request).await;
    answer.unwrap().into_inner()
}

/// The host's answer; what it sees comes by another connection, and may come first.
async fn answer(stream: &mut Streaming<v1::FleetSubscribeMessage>) -> v1::SubscribeAnswer {
    loop {
        let message = stream.message().await.unwrap().unwrap();
        assert_eq!(message.host, "edge-1");
        match message.message {
            Some(Message::Answer(answer)) => return answer,
            Some(Message::Drill(_)) => {}
            other => panic!("not an answer: {other:?}"),
        }
    }
}

async fn drill(stream: &mut Streaming<v1::FleetSubscribeMessage>) -> v1::Drill {
    loop {
        let message = stream.message().await.unwrap().unwrap();
        if let Some(Message::Drill(drill)) = message.message {
            return drill;
        }
    }
}

fn late(cookie: u64) -> probe_ebpf::record::Delivery {
    let mut late = delivery(cookie, 443, 0, at(0));
    late.header = header(kind::DELIVERY_LATE, at(100));
    late.flags |= flag::LATE;
    late
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_tells_of_what_is_looked_at_and_forgets_it_afterwards() {
    let collector = Collector::start("centre", |_| {}).await;
    let daemon = edge(&collector, None).await;
    daemon.script.start(session_start(3, 443, at(0)));
    let mut seen = subscribe(&collector, "198.51.100.0/24").await;
    let mut unseen = subscribe(&collector, "203.0.113.0/24").await;
    for stream in [&mut seen, &mut unseen] {
        let answer = answer(stream).await;
        assert_eq!((answer.refused.as_str(), answer.interval_ms), ("", 250));
    }
    daemon.script.delivery(late(3));
    let found = loop {
        let drill = drill(&mut seen).await;
        if !drill.events.is_empty() {
            break drill;
        }
    };
    assert_eq!(found.sessions.len(), 1);
    assert!(matches!(
        found.events[0].event,
        Some(v1::hot_event::Event::Late(_))
    ));
    let other = drill(&mut unseen).await;
    assert!(other.events.is_empty() && other.sessions.is_empty());
    assert_eq!(daemon.status().await.uplink.unwrap().subscriptions, 2);

    drop((seen, unseen));
    until("the host to forget both", || async {
        let uplink = daemon.status().await.uplink?;
        let drills = uplink
            .lanes
            .iter()
            .find(|lane| lane.lane() == v1::Lane::Drill)?;
        (uplink.subscriptions == 0 && !drills.connected).then_some(())
    })
    .await;
    daemon.stop().await.unwrap();
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_looks_than_a_host_allows_are_refused_with_a_reason() {
    let collector = Collector::start("centre", |_| {}).await;
    let daemon = edge(&collector, None).await;
    let mut kept = Vec::new();
    let refused = loop {
        let mut stream = subscribe(&collector, "198.51.100.0/24").await;
        let answer = answer(&mut stream).await;
        if !answer.refused.is_empty() {
            break answer.refused;
        }
        kept.push(stream);
    };
    assert_eq!(kept.len(), 8);
    assert!(refused.contains("8 closer looks"), "{refused}");
    let uplink = daemon.status().await.uplink.unwrap();
    assert_eq!((uplink.subscriptions, uplink.subscriptions_refused), (8, 1));

    let nothing = v1::FleetSubscribeRequest::default();
    let status = collector
        .client()
        .await
        .subscribe(nothing)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    drop(kept);
    daemon.stop().await.unwrap();
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hosts_ring_can_be_fetched() {
    let directory = tempfile::tempdir().unwrap();
    let collector = Collector::start("centre", |_| {}).await;
    let daemon = edge(&collector, Some(directory.path())).await;
    daemon.script.start(session_start(3, 443, at(0)));
    until("two seconds to be kept", || async {
        (daemon.status().await.uplink?.ring?.entries >= 2).then_some(())
    })
    .await;
    let fetch = |host: &str| v1::FleetFetchRingRequest {
        host: host.into(),
        ..v1::FleetFetchRingRequest::default()
    };
    let fetched = collector.client().await.fetch_ring(fetch("edge-1")).await;
    let mut stream = fetched.unwrap().into_inner();
    let mut frames = Vec::new();
    loop {
        let part = stream.message().await.unwrap().unwrap();
        frames.extend(part.frames);
        if part.is_last {
            break;
        }
    }
    assert!(frames.len() >= 2);
    assert!(frames.is_sorted_by(|a, b| a.seq < b.seq));
    assert_eq!(frames[0].boot_id, daemon.ready.boot_id);

    let fetched = collector.client().await.fetch_ring(fetch("edge-9")).await;
    let status = fetched.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    daemon.stop().await.unwrap();
    collector.stop().await;
}

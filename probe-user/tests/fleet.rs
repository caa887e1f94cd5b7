//! What operators ask a collector: hosts by rank, who is silent, whose clock is off, what the last
//! seconds brought.

mod common;

use clap::Parser as _;
use common::centre::{Collector, Edge, cell, deliveries, hello, tick};
use common::until;
use tonic::Code;
use weir::cli::{self, Cli, Command};
use weir::ui::out::Style;
use weir::ui::units::now_unix_ns;
use weir_proto::v1;

/// What `weir hosts` and `weir cells` print.
async fn printed(collector: &Collector, line: &str) -> String {
    let line = format!("weir {line} --collector {}", collector.url());
    let mut to = Vec::new();
    match Cli::try_parse_from(line.split_whitespace())
        .unwrap()
        .command
    {
        Command::Hosts(args) => cli::hosts(&args, Style::default(), &mut to).await.unwrap(),
        Command::Cells(args) => cli::cells(&args, Style::default(), &mut to).await.unwrap(),
        other => panic!("{other:?}"),
    }
    String::from_utf8(to).unwrap()
}

/// The first column of each line but the heading.
fn names(printed: &str) -> Vec<&str> {
    let lines = printed.lines().skip(1);
    lines
        .map(|line| line.split_whitespace().next().unwrap())
        .collect()
}

fn vital(seq: u64, stalled: u64, at_risk: u64) -> v1::Frame {
    let mut values = vec![0; 20];
    values[v1::VitalValue::ViewersActive as usize] = 100;
    values[v1::VitalValue::ViewersStalled as usize] = stalled;
    values[v1::VitalValue::ViewersAtRisk as usize] = at_risk;
    v1::Frame {
        seq,
        tick: true,
        unix_ns: now_unix_ns(),
        interval_ms: 250,
        vital: Some(v1::Vital {
            cells: Vec::new(),
            other: values,
            cells_in_other: 1,
        }),
        ..v1::Frame::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_ranked_by_viewer_time_at_risk_as_soon_as_it_is_told() {
    let collector = Collector::start("centre", |_| {}).await;
    let mut edges = Vec::new();
    for (name, stalled, at_risk) in [("calm", 0, 0), ("bad", 3, 2), ("worst", 40, 10)] {
        let mut hello = hello(name, "boot");
        hello.lane = v1::Lane::Hot.into();
        let edge = Edge::connect(&collector, hello).await.unwrap();
        edges.push((edge, stalled, at_risk));
    }
    let mut seq = 0;
    let host = loop {
        seq += 1;
        for (edge, stalled, at_risk) in &mut edges {
            edge.send(vital(seq, *stalled, *at_risk)).await.unwrap();
        }
        let hosts = collector.hosts().await.hosts;
        let worst = hosts.into_iter().find(|host| host.host == "worst").unwrap();
        if worst.at_risk_minute_ms > 1_000 {
            break worst;
        }
    };
    assert_eq!(
        (
            host.viewers_active,
            host.viewers_stalled,
            host.viewers_at_risk
        ),
        (100, 40, 10)
    );
    let ranked = printed(&collector, "hosts").await;
    assert_eq!(names(&ranked), ["worst", "bad", "calm"]);
    let ranked = printed(&collector, "hosts --reverse --limit 1").await;
    assert_eq!(names(&ranked), ["calm"]);
    let named = printed(&collector, "hosts --sort name").await;
    assert_eq!(names(&named), ["bad", "calm", "worst"]);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_known_and_so_is_what_the_fleet_runs() {
    let collector = Collector::start("centre", |_| {}).await;
    let mut edges = Vec::new();
    for (n, off_s) in [(1, 0), (2, 0), (3, 90)] {
        let mut hello = hello(&format!("edge-{n}"), "boot");
        hello.weir_version = format!("0.{}", n / 2);
        let mut edge = Edge::connect(&collector, hello).await.unwrap();
        let mut frame = tick(1, vec![cell("a", 1)]);
        frame.unix_ns += off_s * 1_000_000_000;
        edge.send(frame).await.unwrap();
        edges.push(edge);
    }
    let off = printed(&collector, "hosts --clock-off -o json").await;
    // The others may be among them on a machine that is slow enough.
    let off = off
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|row| row["host"] == "edge-3")
        .unwrap();
    let offset_ms = off["clock_offset_ms"].as_i64().unwrap();
    assert!((30_000..=90_000).contains(&offset_ms), "{offset_ms}");
    assert!(names(&printed(&collector, "hosts --silent").await).is_empty());

    let versions = printed(&collector, "hosts --versions -o json").await;
    let versions: Vec<serde_json::Value> = versions
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let counts: Vec<_> = versions
        .iter()
        .map(|row| {
            (
                row["weir_version"].as_str().unwrap(),
                row["hosts"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(counts, [("0.0", 1), ("0.1", 2)]);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_holds_what_was_counted_in_it_and_nothing_from_before_the_collector() {
    let collector = Collector::start("centre", |_| {}).await;
    // It has counted for long; the collector has just begun.
    let mut old = Edge::connect(&collector, hello("old", "boot"))
        .await
        .unwrap();
    old.send(tick(5_000, vec![cell("a", 1_000_000)]))
        .await
        .unwrap();
    old.send(tick(5_001, vec![cell("a", 1_000_010)]))
        .await
        .unwrap();
    // It has begun now.
    let mut new = Edge::connect(&collector, hello("new", "boot"))
        .await
        .unwrap();
    new.send(tick(1, vec![cell("a", 7), cell("b", 5)]))
        .await
        .unwrap();
    let window = until("the second to be over", || async {
        let window = collector.window(60).await;
        (deliveries(&window.cells) > 0).then_some(window)
    })
    .await;
    assert_eq!(deliveries(&window.cells), 10 + 7 + 5);
    assert_eq!((window.hosts, window.cells[0].hosts), (2, 2));
    // Of the distribution, too: one value more than deliveries of each first frame in it.
    let values: u64 = window.cells[0].histograms[0].count.iter().sum();
    assert_eq!(values, 10 + 8 + 1);
    assert_eq!(collector.deliveries().await, 1_000_010 + 7 + 5);

    let json = printed(&collector, "cells --last 60s -o json --cell b/").await;
    let row: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(row["counters"]["deliveries"], 5);
    assert!(row["seconds"].as_u64().unwrap() <= 60 && row["percentiles"].is_object());
    let table = printed(&collector, "cells --last 1m --cell b/").await;
    assert!(
        table.contains(" hosts\n") && table.contains("b/-/other/tcp4"),
        "{table}"
    );

    // Who follows gets one window after the other.
    let request = v1::ListWindowRequest {
        seconds: 2,
        follow: true,
        ..v1::ListWindowRequest::default()
    };
    let mut windows = collector
        .client()
        .await
        .list_window(request)
        .await
        .unwrap()
        .into_inner();
    let mut ends = Vec::new();
    for _ in 0..3 {
        ends.push(windows.message().await.unwrap().unwrap().until_unix_ns);
    }
    assert!(ends.is_sorted() && ends[2] > ends[0], "{ends:?}");
    let refused = v1::ListWindowRequest {
        interval_s: 10_000,
        ..request_of(2)
    };
    let refused = collector
        .client()
        .await
        .list_window(refused)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    collector.stop().await;
}

fn request_of(seconds: u32) -> v1::ListWindowRequest {
    v1::ListWindowRequest {
        seconds,
        ..v1::ListWindowRequest::default()
    }
}

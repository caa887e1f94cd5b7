//! What a collector tells Prometheus, as Prometheus itself understands it. Needs prometheus with
//! promtool, and curl (`cargo xtask setup`); no privileges.

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use common::centre::{Collector, Edge, cell, directory, engine, hello, tick};
use common::until;
use weir::config::collect as config;
use weir_tests::lab::nats::{Nats, free_port};
use weir_tests::lab::process::output;
use weir_tests::lab::prometheus::Prometheus;

/// A collector with `/metrics`, and its address.
async fn collector() -> (Collector, String) {
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let listen = Some(address.parse().unwrap());
    let collector = Collector::start("centre", |config| {
        config.metrics.listen = listen;
        config.metrics.max_cells = 3;
        config.metrics.max_hosts = 2;
    })
    .await;
    (collector, address)
}

fn fetch(address: &str, accept: &str) -> String {
    let accept = format!("Accept: {accept}");
    output(
        "curl",
        &["-sf", "-H", &accept, &format!("http://{address}/metrics")],
    )
    .unwrap()
}

/// What promtool has against it; empty: nothing.
fn checked(text: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: `cargo xtask setup --for test`");
    let mut to = promtool.stdin.take().unwrap();
    to.write_all(text.as_bytes()).unwrap();
    drop(to);
    let out = promtool.wait_with_output().unwrap();
    let told = [out.stdout, out.stderr].concat();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&told));
    String::from_utf8(told).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_no_fault_and_the_number_of_series_is_bounded() {
    let (collector, address) = collector().await;
    for n in 0..5_u64 {
        let hello = hello(&format!("edge \"{n}\"\n"), "boot");
        let mut edge = Edge::connect(&collector, hello).await.unwrap();
        let cells = (0..5).map(|m| cell(&format!("service \\{m}"), 10 * m + n));
        edge.send(tick(1, cells.collect())).await.unwrap();
    }
    let text = fetch(&address, "text/plain");
    assert_eq!(checked(&text), "");
    let series = |begin: &str| text.lines().filter(|line| line.starts_with(begin)).count();
    assert_eq!(series("weir_deliveries_total{"), 3);
    assert_eq!(series("weir_delivery_latency_seconds_count{"), 3);
    assert_eq!(series("weir_host_frames_total{"), 2);
    assert!(text.contains("weir_cells_not_told 2.0\n"), "{text}");
    // The busiest, exactly.
    let expected = (0..5).map(|n| 40 + n).sum::<u64>();
    let line = text
        .lines()
        .find(|line| line.starts_with("weir_deliveries_total{service=\"service \\\\4\""));
    assert!(
        line.unwrap().ends_with(&format!(" {expected}.0")),
        "{line:?}"
    );

    let open_metrics = fetch(&address, "application/openmetrics-text; version=1.0.0");
    assert!(open_metrics.ends_with("# EOF\n"));
    assert!(open_metrics.contains("# UNIT weir_delivery_latency_seconds seconds\n"));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_takes_the_same_totals_and_native_histograms() {
    let (collector, address) = collector().await;
    let (_directory, path) = directory();
    let prometheus = Prometheus::start(&path, &[address]).unwrap();
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    for count in [100, 250] {
        edge.send(tick(count, vec![cell("a", count)]))
            .await
            .unwrap();
        until("Prometheus to have the total", || async {
            let total = prometheus
                .value("weir_deliveries_total{service=\"a\"}")
                .unwrap();
            (total == Some(count as f64)).then_some(())
        })
        .await;
    }
    // A native histogram: counts are exact, and a quantile lies in the bucket of the value.
    let count = prometheus.value("histogram_count(weir_delivery_latency_seconds)");
    assert_eq!(count.unwrap(), Some(252.0));
    let quantile = "histogram_quantile(0.5, weir_delivery_latency_seconds)";
    let median = prometheus.value(quantile).unwrap().unwrap();
    let range = weir::qoe::Metric::DeliveryLatencyUs.buckets();
    let bucket = histogram::SparseHistogram::from_parts(range, vec![400], vec![1]).unwrap();
    let bucket = bucket.iter().next().unwrap();
    let true_s = (bucket.start() + bucket.end()) as f64 / 2e6;
    assert!((median / true_s - 1.0).abs() < 0.1, "{median} for {true_s}");
    let reporting = prometheus.value("weir_hosts{state=\"reporting\"}").unwrap();
    assert_eq!(reporting, Some(1.0));
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_rules_are_rules_and_ask_for_what_is_told() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/weir-rules.yml");
    output("promtool", &["check", "rules", rules]).unwrap();
    // With everything that there can be.
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let listen = Some(address.parse().unwrap());
    let collector = Collector::start("centre", |config| {
        config.metrics.listen = listen;
        config.nats = Some(engine(&nats));
        config.files = Some(config::Files::within(path.join("events")));
    })
    .await;
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    edge.send(tick(1, vec![cell("a", 1)])).await.unwrap();
    let told = fetch(&address, "text/plain");
    let text = std::fs::read_to_string(rules).unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_name(c));
    let asked: BTreeSet<_> = words.filter(|word| word.starts_with("weir_")).collect();
    assert!(asked.len() > 8, "{asked:?}");
    for name in asked {
        let is_told = [format!("\n{name}{{"), format!("\n{name} ")];
        assert!(
            is_told.iter().any(|line| told.contains(line)),
            "{name} is not told"
        );
    }
    collector.stop().await;
}

//! A simulated fleet against collectors in this process: with kills, partitions and clocks that are
//! off, the centre's totals are those of the edges.

mod common;

use std::time::Duration;

use common::centre::Collector;
use common::centre::directory;
use common::until;
use futures::TryStreamExt as _;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use weir::sim::{self, Collectors, Options};
use weir_tests::lab;

/// A quarter of the edges is killed in each tick, so that some are before their first.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_before_its_first_tick_comes_back_like_any_other() {
    let collector = Collector::start("centre", |_| {}).await;
    let options = Options {
        edges: 20,
        cells: 2,
        busy_cells: 2,
        interval: Duration::from_millis(100),
        duration: Duration::from_secs(1),
        prefix: "sim-".into(),
        files: None,
        kills_per_min: 3000,
        partitions_per_min: 0,
        clocks_off: 0,
        seed: 1,
    };
    let collectors = Collectors::at(vec![collector.url()]);
    let report = sim::run(&options, &collectors, CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(report.unfinished, 0, "{report:?}");
    assert!(report.kills > 0);
    let truth = report.sent;
    until("the centre to know what the edges sent", || async {
        let cells = collector.cells().await;
        (sim::Totals::of(&cells) == truth).then_some(())
    })
    .await;
    collector.stop().await;
}

/// A real NATS server (`cargo xtask setup`), and collectors that are processes of their own.
#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_a_run_are_small_and_gone_afterwards() {
    let (_directory, path) = directory();
    let nats = lab::nats::Nats::start(&path, "").unwrap();
    let context = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let mut run = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["fleet-sim", "--start-collectors", "2", "--edges", "6"])
        .args(["--cells", "4", "--interval", "200ms", "--duration", "2s"])
        .args(["--nats", &nats.url()])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until("the streams to be there", || async {
        (streams(&context).await.len() == 3).then_some(())
    })
    .await;
    for (name, most) in [("", 1 << 30), ("_COLD", 64 << 20)] {
        let name = format!("{}{name}", streams(&context).await[0]);
        let stream = context.get_stream(&name).await.unwrap();
        assert_eq!(stream.cached_info().config.max_bytes, most, "{name}");
    }
    assert!(run.wait().await.unwrap().success());
    assert_eq!(streams(&context).await, [""; 0]);
}

/// All streams of the server, the shortest name first.
async fn streams(context: &async_nats::jetstream::Context) -> Vec<String> {
    let mut names: Vec<String> = context.stream_names().try_collect().await.unwrap();
    names.sort_unstable_by_key(String::len);
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_fleet_reports_fails_and_comes_back() {
    let collector = Collector::start("centre", |_| {}).await;
    let options = Options {
        edges: 20,
        cells: 10,
        busy_cells: 5,
        interval: Duration::from_millis(100),
        duration: Duration::from_secs(3),
        prefix: "sim-".into(),
        files: None,
        // Enough that some come in three seconds, whatever the seed.
        kills_per_min: 200,
        partitions_per_min: 40,
        clocks_off: 2,
        seed: 7,
    };
    let collectors = Collectors::at(vec![collector.url()]);
    let report = sim::run(&options, &collectors, CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(report.unfinished, 0);
    assert!(
        report.kills > 0 && report.merged_cells_per_s > 0.0,
        "{report:?}"
    );
    let truth = report.sent;
    until("the centre to know what the edges sent", || async {
        let cells = collector.cells().await;
        (sim::Totals::of(&cells) == truth).then_some(())
    })
    .await;
    let hosts = collector.hosts().await.hosts;
    assert_eq!(hosts.len(), 20);
    let boots: u64 = hosts.iter().map(|host| host.boots).sum();
    assert_eq!(boots, 20 + report.kills);
    let off = hosts.iter().filter(|host| host.clock_offset_ms > 60_000);
    assert_eq!(off.count(), 2);
    collector.stop().await;
}

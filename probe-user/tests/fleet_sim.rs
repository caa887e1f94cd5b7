//! A simulated fleet against collectors in this process: with kills, partitions and clocks that are
//! off, the centre's totals are those of the edges.

mod common;

use std::time::Duration;

use common::centre::Collector;
use common::until;
use tokio_util::sync::CancellationToken;
use weir::sim::{self, Collectors, Options};

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

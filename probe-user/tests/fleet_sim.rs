//! A simulated fleet against collectors in this process: with kills, partitions and clocks that are
//! off, the centre's totals are those of the edges.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::centre::Collector;
use common::centre::directory;
use common::until;
use futures::TryStreamExt as _;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use weir::intake::{Intake, Told};
use weir::recording::chain::Chain;
use weir::replay::{self, Moment};
use weir::sim::{self, Collectors, Options, Playing, Recording, Report};
use weir::wire::{self, Heard};
use weir_tests::lab;

fn options() -> Options {
    Options {
        edges: 20,
        cells: 10,
        busy_cells: 5,
        playing: None,
        interval: Duration::from_millis(100),
        duration: Duration::from_secs(3),
        prefix: "sim-".into(),
        files: None,
        kills_per_min: 0,
        partitions_per_min: 0,
        clocks_off: 0,
        seed: 7,
    }
}

/// A quarter of the edges is killed in each tick, so that some are before their first.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_before_its_first_tick_comes_back_like_any_other() {
    let collector = Collector::start("centre", |_| {}).await;
    let options = Options {
        cells: 2,
        busy_cells: 2,
        duration: Duration::from_secs(1),
        kills_per_min: 3000,
        seed: 1,
        ..options()
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
        // Enough that some come in three seconds, whatever the seed.
        kills_per_min: 200,
        partitions_per_min: 40,
        clocks_off: 2,
        ..options()
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

/// A recording of a truth run.
fn recording(name: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings");
    all.join(format!("{name}.weir"))
}

/// Of two services' hosts, and six players.
fn recordings() -> [PathBuf; 2] {
    ["nginx-v4-keep-alive-3-40ms-cubic", "viewers/six-players"].map(recording)
}

/// Of these, as edges play them.
fn playing(files: &[PathBuf], speed: f64, repeat: bool) -> Playing {
    Playing {
        recordings: Recording::all(files).unwrap().into(),
        speed,
        repeat,
    }
}

/// What `weir replay` says of a recording, up to a moment of it.
fn replayed(file: &Path, until: Option<Moment>) -> sim::Totals {
    let options = replay::Options {
        until,
        ..replay::Options::default()
    };
    let chain = Chain::open(&[file.to_owned()]).unwrap();
    let replayed = replay::replay(chain, options, &mut |_: &Intake, _: Told<'_>| Ok(())).unwrap();
    let cells = replayed.cells();
    let cells: Vec<_> = cells
        .iter()
        .map(|cell| wire::cell(cell, 1, Heard::default()))
        .collect();
    sim::Totals::of(&cells)
}

fn times(totals: sim::Totals, n: u64) -> sim::Totals {
    sim::Totals {
        deliveries: totals.deliveries * n,
        acked_bytes: totals.acked_bytes * n,
        watched_us: totals.watched_us * n,
        values: totals.values * n,
    }
}

fn sum(one: sim::Totals, other: sim::Totals) -> sim::Totals {
    sim::Totals {
        deliveries: one.deliveries + other.deliveries,
        acked_bytes: one.acked_bytes + other.acked_bytes,
        watched_us: one.watched_us + other.watched_us,
        values: one.values + other.values,
    }
}

/// Plays it, and holds the collector to what was sent.
async fn play(collector: &Collector, options: &Options) -> Report {
    let collectors = Collectors::at(vec![collector.url()]);
    let report = sim::run(options, &collectors, CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(report.unfinished, 0, "{report:?}");
    until("the centre to know what the edges sent", || async {
        let cells = collector.cells().await;
        (sim::Totals::of(&cells) == report.sent).then_some(())
    })
    .await;
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_that_are_played_come_to_what_a_replay_of_them_says() {
    let collector = Collector::start("centre", |_| {}).await;
    let files = recordings();
    let options = Options {
        edges: 3,
        // So fast that each is over in its second tick.
        playing: Some(playing(&files, 1e6, false)),
        ..options()
    };
    let report = play(&collector, &options).await;
    let [one, other] = files.map(|file| replayed(&file, None));
    assert!(
        one.deliveries > 0 && other.watched_us > 0,
        "{one:?} {other:?}"
    );
    assert_eq!(report.sent, times(sum(one, other), 3));
    let hosts = collector.hosts().await.hosts;
    assert_eq!(hosts.len(), 3);
    for host in hosts {
        // Each recording is a start of its own, and after the last one the host goes on.
        assert_eq!(host.boots, 2, "{}", host.host);
        let vital = host.lanes.iter().find(|lane| lane.lane == 1).unwrap();
        assert!(vital.last_seq > 3, "{}: {vital:?}", host.host);
    }
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_begin_at_different_places_of_a_recording() {
    let collector = Collector::start("centre", |_| {}).await;
    let [_, file] = recordings();
    let options = Options {
        edges: 4,
        duration: Duration::from_millis(500),
        // So slow that none gets on from where it begins.
        playing: Some(playing(std::slice::from_ref(&file), 1e-9, false)),
        ..options()
    };
    let report = play(&collector, &options).await;
    let [recording] = &Recording::all(std::slice::from_ref(&file)).unwrap()[..] else {
        panic!("it is one");
    };
    let until = |share: f64| {
        let until = Moment::After(recording.span().mul_f64(share));
        replayed(&file, Some(until))
    };
    let places = [0.0, 0.25, 0.5, 0.75].map(until);
    assert!(places.is_sorted_by_key(|totals| totals.values));
    assert!(places[1].values < places[3].values, "{places:?}");
    let expected = places.into_iter().reduce(sum).unwrap();
    assert_eq!(report.sent, expected);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_come_again_and_their_edges_fail_and_nothing_is_lost_or_doubled() {
    let collector = Collector::start("centre", |_| {}).await;
    let options = Options {
        edges: 6,
        playing: Some(playing(&recordings(), 300.0, true)),
        kills_per_min: 60,
        partitions_per_min: 20,
        ..options()
    };
    let report = play(&collector, &options).await;
    let hosts = collector.hosts().await.hosts;
    let boots: u64 = hosts.iter().map(|host| host.boots).sum();
    assert!(boots > 2 * 6 + report.kills, "{boots} boots, {report:?}");
    collector.stop().await;
}

/// What the sim itself says of collectors that it has started.
#[tokio::test(flavor = "multi_thread")]
async fn the_sim_holds_collectors_to_recordings() {
    let run = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["fleet-sim", "--start-collectors", "1", "--edges", "4"])
        .args(["--speed", "20x", "--interval", "200ms", "--duration", "2s"])
        .args(["-o", "json", "--recording"])
        .args(recordings())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{told}");
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["exact"], true, "{report}");
    assert!(report["sent"]["deliveries"].as_u64().unwrap() > 0);
    assert!(report["cells"].as_u64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_recording_is_named() {
    let (_directory, path) = directory();
    let [_, whole] = recordings();
    let whole = std::fs::read(whole).unwrap();
    let middle = whole.len() / 2;
    let mut damaged = whole.clone();
    damaged[middle] ^= 1;
    for (name, content, why) in [
        ("no.weir", &b"no recording"[..], "no recording of weir"),
        ("damaged.weir", &damaged, "DAMAGED"),
        ("torn.weir", &whole[..middle], "torn"),
    ] {
        let file = path.join(name);
        std::fs::write(&file, content).unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["fleet-sim", "--start-collectors", "1", "--recording"])
            .arg(&file)
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{name}: {told}");
        assert!(told.contains(why), "{name}: {told}");
        assert!(told.contains(&*file.to_string_lossy()), "{name}: {told}");
    }
}

//! A daemon around a scripted backend, recorded and replayed: the same comes of it.

mod common;

use std::path::{Path, PathBuf};

use clap::Parser;
use common::{Daemon, MS, at, config_in, delivery, session_end, session_start, until};
use probe_ebpf::record::{ended, flag, kind};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use weir::cli::{self, Cli, Command, Outcome};
use weir::kernel::{HalfOpenGiveUp, Ring};
use weir::ui::out::Style;
use weir_proto::v1;

/// A recording, in a directory that goes with it.
struct Kept {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

struct Recorder {
    file: Kept,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Recorder {
    async fn start(daemon: &Daemon, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = Kept {
            path: directory.path().join("a.weir"),
            _directory: directory,
        };
        let socket = daemon.ready.socket.display();
        let line = format!(
            "weir record {} --socket {socket}{more}",
            file.path.display()
        );
        let Command::Record(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            unreachable!("{line}");
        };
        let stop = CancellationToken::new();
        let told = stop.clone();
        let task =
            tokio::spawn(async move { cli::record_until(&args, told, std::io::sink()).await });
        let begun = || async { (file.path.exists() || task.is_finished()).then_some(()) };
        until("the recording has begun, or was refused", begun).await;
        Self { file, stop, task }
    }

    async fn end(self) -> Kept {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.file
    }
}

/// What `weir replay` prints and notes; how fast it was is another time another.
fn replay(file: &Kept, more: &str) -> (String, String) {
    let (printed, mut notes) = try_replay(&[&file.path], more).unwrap();
    notes.truncate(notes.rfind("replayed in ").unwrap());
    (printed, notes)
}

fn try_replay(files: &[&Path], more: &str) -> anyhow::Result<(String, String)> {
    let files: Vec<_> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let line = format!("weir replay {} -o json{more}", files.join(" "));
    let Command::Replay(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
        unreachable!("{line}");
    };
    let (mut printed, mut notes) = (Vec::new(), Vec::new());
    cli::replay(&args, Style::default(), &mut printed, &mut notes)?;
    Ok((
        String::from_utf8(printed).unwrap(),
        String::from_utf8(notes).unwrap(),
    ))
}

/// What a listing of the running daemon prints.
async fn ask(daemon: &Daemon, what: &str) -> String {
    ask_at(&daemon.ready.socket, what).await
}

async fn ask_at(socket: &Path, what: &str) -> String {
    let line = format!("weir {what} -o json --socket {}", socket.display());
    let mut printed = Vec::new();
    match Cli::try_parse_from(line.split(' ')).unwrap().command {
        Command::Cells(args) => cli::cells(&args, Style::default(), &mut printed).await,
        Command::Sessions(args) => cli::sessions(&args, Style::default(), &mut printed).await,
        Command::Status(args) => cli::status(&args, Style::default(), &mut printed).await,
        other => unreachable!("{other:?}"),
    }
    .unwrap();
    String::from_utf8(printed).unwrap()
}

/// As a listing prints them.
fn lines(deliveries: &[v1::Delivery]) -> String {
    let line = |delivery| serde_json::to_string(delivery).unwrap() + "\n";
    deliveries.iter().map(line).collect()
}

/// A little of everything: two services, lateness, an abort, loss, a give-up.
fn play(daemon: &Daemon, from: u64) {
    let script = &daemon.script;
    for cookie in from..from + 300 {
        let port = if cookie % 3 == 0 { 80 } else { 443 };
        script.start(session_start(cookie, port, at(1000)));
        for index in 0..3 {
            let mut one = delivery(cookie, port, index, at(2000 + 200 * u64::from(index)));
            one.t_last_acked_ns += cookie * MS / 7;
            if cookie % 50 == 0 && index == 1 {
                one.header.kind = kind::DELIVERY_LATE;
                one.flags |= flag::LATE;
                script.delivery(one);
                one.header.kind = kind::DELIVERY_END;
                one.flags |= flag::ABORTED;
                one.ended = ended::CLIENT_RST;
                one.acked_bytes /= 2;
            }
            script.delivery(one);
        }
        if cookie % 2 == 0 {
            script.end(session_end(cookie, port, at(5000)));
        }
    }
    script.write(Ring::Bulk, common::Owned::Malformed);
    script.give_up(HalfOpenGiveUp {
        remote: "198.51.100.9".parse().unwrap(),
        remote_port: 4,
        local_port: 443,
        synack_retransmits: 5,
    });
}

async fn drained(daemon: &Daemon, give_ups: u64) -> v1::Status {
    until("all taken in", || async {
        let status = daemon.status().await;
        let losses = status.losses?;
        let all = |ring: v1::RingLoss| ring.drained == ring.exported;
        let cells = daemon.cells().await;
        let counters = cells.iter().filter_map(|cell| cell.counters.as_ref());
        let heard: u64 = counters.map(|counters| counters.half_open_give_ups).sum();
        (all(losses.hot?) && all(losses.bulk?) && heard == give_ups).then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_says_what_the_daemon_said_and_says_it_again_each_time() {
    let daemon = Daemon::start(|config| {
        config.services.push(weir::config::Service {
            name: "live".into(),
            ports: vec![443],
        });
    })
    .await;
    let recorder = Recorder::start(&daemon, "").await;
    let follow = v1::ListDeliveriesRequest {
        follow: true,
        ..v1::ListDeliveriesRequest::default()
    };
    let following = daemon.client().await.list_deliveries(follow).await.unwrap();
    // Until the daemon ends.
    let following = tokio::spawn(following.into_inner().map_while(Result::ok).collect());
    play(&daemon, 1);
    let status = drained(&daemon, 1).await;
    let cells = ask(&daemon, "cells --buckets").await;
    let sessions = ask(&daemon, "sessions").await;
    let watch = v1::WatchRequest::default();
    let watching = daemon.client().await.watch(watch).await.unwrap();
    let snapshot = watching.into_inner().message().await.unwrap().unwrap();
    // Every event that there was: the daemon keeps a hundred.
    let troubled = snapshot.troubled;
    let file = recorder.end().await;
    daemon.stop().await.unwrap();
    let deliveries: Vec<v1::Delivery> = following.await.unwrap();

    let (printed, notes) = replay(&file, " --buckets");
    assert_eq!(printed, cells);
    assert!(notes.contains("ended in order (stopped)"), "{notes}");
    assert!(
        !notes.contains("INCOMPLETE") && !notes.contains("midst"),
        "{notes}"
    );
    assert!(notes.contains("records malformed 1"), "{notes}");
    assert_eq!(status.losses.unwrap().records_malformed, 1);
    assert_eq!(
        printed.matches("\"service\":\"live\"").count(),
        1,
        "{printed}"
    );
    // The clock's offset is read each second, and by the end it may be another.
    let stable = |text: &str| -> Vec<serde_json::Value> {
        let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
        rows.map(|mut row: serde_json::Value| {
            row.as_object_mut()
                .unwrap()
                .retain(|name, _| !name.ends_with("unix_ns"));
            row
        })
        .collect()
    };
    assert_eq!(stable(&replay(&file, " --sessions").0), stable(&sessions));
    let (printed, _) = replay(&file, " --deliveries");
    assert_eq!(printed, lines(&deliveries));
    assert!(!troubled.is_empty());
    // The daemon keeps of each delivery what was last heard of it.
    let mut kept: Vec<serde_json::Value> = Vec::new();
    for event in stable(&replay(&file, " --events").0) {
        let name = |row: &serde_json::Value| (row["session"].clone(), row["index"].clone());
        match kept.iter_mut().find(|known| name(known) == name(&event)) {
            Some(known) => *known = event,
            None => kept.push(event),
        }
    }
    assert_eq!(kept, stable(&lines(&troubled)));
    for what in ["", " --sessions", " --deliveries", " --events"] {
        let (printed, notes) = replay(&file, what);
        for speed in ["max", "1000000x"] {
            let again = replay(&file, &format!("{what} --speed {speed}"));
            assert_eq!(again, (printed.clone(), notes.clone()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_and_lost_records_are_replayed_too() {
    let directory = tempfile::tempdir().unwrap();
    let config = config_in(directory.path());
    let path = directory.path().join("weir.toml");
    let daemon = Daemon::start_in(directory, config.clone(), Some(path.clone())).await;
    let recorder = Recorder::start(&daemon, "").await;
    play(&daemon, 1);
    drained(&daemon, 1).await;
    let socket = &config.query.socket;
    let text = format!(
        "[query]\nsocket = {socket:?}\n[[service]]\nname = \"vod\"\nports = [80]\n\
         [[network]]\nname = \"lab\"\nprefixes = [\"198.51.100.0/24\"]\n"
    );
    std::fs::write(&path, text).unwrap();
    daemon.control.reload.notify_one();
    until("the reload", || async {
        (daemon.status().await.config_generation == 2).then_some(())
    })
    .await;
    daemon.script.limit_rings(0);
    play(&daemon, 5000);
    daemon.script.limit_rings(usize::MAX);
    play(&daemon, 1000);
    let status = drained(&daemon, 3).await;
    let cells = ask(&daemon, "cells --buckets").await;
    assert!(
        cells.contains("\"vod\"") && cells.contains("\"lab\""),
        "{cells}"
    );
    let file = recorder.end().await;
    daemon.stop().await.unwrap();
    let (printed, notes) = replay(&file, " --buckets");
    assert_eq!(printed, cells);
    let full = status.losses.unwrap().bulk.unwrap().ring_full;
    assert!(full > 0);
    assert!(notes.contains(&format!("bulk ring full {full}")), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_cannot_even_begin_leaves_no_file() {
    let daemon = Daemon::start(|_| {}).await;
    let recorder = Recorder::start(&daemon, " --max-bytes 100").await;
    let refused = recorder.task.await.unwrap().unwrap_err();
    let refused = format!("{refused:#}");
    assert!(
        refused.contains("cannot write") && refused.contains("allow more"),
        "{refused}"
    );
    assert!(!recorder.file.path.exists());
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_less_than_there_was_says_so_to_the_shell() {
    let daemon = Daemon::start(|_| {}).await;
    let recorder = Recorder::start(&daemon, "").await;
    play(&daemon, 1);
    drained(&daemon, 1).await;
    let file = recorder.end().await;
    daemon.stop().await.unwrap();
    let whole = std::fs::read(&file.path).unwrap();
    let outcome = |bytes: &[u8]| {
        std::fs::write(&file.path, bytes).unwrap();
        let line = format!("weir replay {} --stats", file.path.display());
        let Command::Replay(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            unreachable!("{line}");
        };
        cli::replay(&args, Style::default(), std::io::sink(), std::io::sink()).unwrap()
    };
    assert_eq!(outcome(&whole), Outcome::Done);
    assert_eq!(
        outcome(&whole[..whole.len() - 1]),
        Outcome::Incomplete,
        "torn"
    );
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(outcome(&damaged), Outcome::Incomplete, "damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_end_ends_the_recording_with_all_that_was_said() {
    let daemon = Daemon::start(|_| {}).await;
    let recorder = Recorder::start(&daemon, "").await;
    play(&daemon, 1);
    let script = daemon.script.clone();
    daemon.stop().await.unwrap();
    recorder.task.await.unwrap().unwrap();
    assert!(script.dropped());
    let (printed, notes) = replay(&recorder.file, " --deliveries");
    let ends = printed
        .lines()
        .filter(|line| !line.contains(r#""phase":"late""#));
    assert_eq!(ends.count(), 900);
    assert!(notes.contains("daemon_ended"), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_begins_late_counts_from_there_on() {
    let daemon = Daemon::start(|_| {}).await;
    // Long ago, as far as the recording goes; the host need not have been up for long.
    let begun = at(0) / 2;
    daemon.script.start(session_start(1, 443, begun));
    daemon.script.delivery(delivery(1, 443, 0, begun));
    drained(&daemon, 0).await;
    let recorder = Recorder::start(&daemon, "").await;
    daemon.script.delivery(delivery(1, 443, 1, at(9000)));
    let mut end = session_end(1, 443, at(9900));
    end.t_established_ns = begun;
    end.acked_bytes = 280_000;
    daemon.script.end(end);
    drained(&daemon, 0).await;
    let file = recorder.end().await;
    daemon.stop().await.unwrap();
    let (printed, notes) = replay(&file, "");
    assert!(notes.contains("midst"), "{notes}");
    let cell: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let counters = &cell["counters"];
    assert_eq!(counters["deliveries"], 1);
    assert_eq!(counters["acked_bytes"], 140_000, "{counters}");
    assert_eq!(counters["sessions_started"], 0);
    assert_eq!(counters["sessions_ended"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_ends_at_its_bounds_and_the_daemon_goes_on() {
    let daemon = Daemon::start(|_| {}).await;
    let recorder = Recorder::start(&daemon, " --max-bytes 2K").await;
    play(&daemon, 1);
    recorder.task.await.unwrap().unwrap();
    assert!(std::fs::metadata(&recorder.file.path).unwrap().len() <= 2048);
    let (_, notes) = replay(&recorder.file, "");
    assert!(notes.contains("max_bytes"), "{notes}");

    // There is room for the next one, once the daemon has noticed.
    let recorder = until("the next recording", || async {
        let recorder = Recorder::start(&daemon, " --max-duration 1s").await;
        let ended = recorder.task.await.unwrap();
        ended.is_ok().then_some(recorder.file)
    })
    .await;
    let (_, notes) = replay(&recorder, "");
    assert!(notes.contains("max_duration"), "{notes}");
    drained(&daemon, 1).await;
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_recording_at_a_time_is_refused() {
    let daemon = Daemon::start(|_| {}).await;
    let recorder = Recorder::start(&daemon, "").await;
    let refused = daemon.client().await.record(v1::RecordRequest {}).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("once at a time"), "{refused}");
    recorder.end().await;
    daemon.stop().await.unwrap();
}

/// A daemon that records itself, in a directory that outlives it.
async fn recording_daemon(kept: &Path) -> Daemon {
    let file = kept.join("own.weir");
    Daemon::start(|config| {
        config.recording.file = Some(file);
        config.recording.min_free_bytes = 0;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemons_own_recording_is_its_whole_life_in_files_that_make_one_history() {
    let kept = tempfile::tempdir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = config_in(directory.path());
    config.recording.file = Some(kept.path().join("own.weir"));
    config.recording.min_free_bytes = 0;
    let path = directory.path().join("weir.toml");
    let daemon = Daemon::start_in(directory, config.clone(), Some(path.clone())).await;
    play(&daemon, 1);
    drained(&daemon, 1).await;
    // Another who records is not in the way.
    let beside = Recorder::start(&daemon, "").await;
    let text = format!(
        "[query]\nsocket = {:?}\n[recording]\nfile = {:?}\nmin_free_bytes = 0\n\
         [[service]]\nname = \"vod\"\nports = [80]\n",
        config.query.socket,
        config.recording.file.as_ref().unwrap()
    );
    for generation in 2..=3 {
        std::fs::write(&path, &text).unwrap();
        daemon.control.reload.notify_one();
        until("the reload", || async {
            (daemon.status().await.config_generation == generation).then_some(())
        })
        .await;
        play(&daemon, 1000 * generation);
        drained(&daemon, generation).await;
        let files = generation;
        until("the next file", || async {
            (daemon.status().await.recording?.files == files).then_some(())
        })
        .await;
    }
    let cells = ask(&daemon, "cells --buckets").await;
    let status = daemon.status().await;
    let beside = beside.end().await;
    daemon.stop().await.unwrap();

    let recording = status.recording.unwrap();
    assert_eq!(recording.error, "");
    assert_eq!(status.losses.unwrap().recorder_unwritten, 0);
    let parts =
        ["own.weir", "own.000001.weir", "own.000002.weir"].map(|name| kept.path().join(name));
    let [last, first, second] = parts.each_ref().map(|path| &**path);
    // In any order.
    let (printed, notes) = try_replay(&[last, second, first], " --buckets").unwrap();
    assert_eq!(printed, cells);
    assert!(
        notes.contains("in 3 files; ended in order (daemon_ended)"),
        "{notes}"
    );
    assert!(
        !notes.contains("midst") && !notes.contains("INCOMPLETE"),
        "{notes}"
    );

    // Each by itself, and with what is missing between told.
    let records = |files: &[&Path]| {
        let (printed, notes) = try_replay(files, " --stats").unwrap();
        let row: serde_json::Value = serde_json::from_str(&printed).unwrap();
        let number = |name: &str| row[name].as_u64().unwrap();
        (number("records"), number("records_missing"), notes)
    };
    let (all, none, _) = records(&[first, second, last]);
    assert_eq!(none, 0);
    let alone = [first, second, last].map(|file| records(&[file]));
    assert_eq!(alone.iter().map(|(records, ..)| records).sum::<u64>(), all);
    assert!(!alone[0].2.contains("midst") && alone[1].2.contains("midst"));
    let (found, missing, notes) = records(&[first, last]);
    assert_eq!(found + missing, all);
    assert_eq!(missing, alone[1].0);
    assert!(notes.contains("INCOMPLETE: 1 gaps"), "{notes}");

    // What is no one history is refused.
    let err = try_replay(&[first, &beside.path], "").unwrap_err();
    assert!(format!("{err:#}").contains("replay it alone"), "{err:#}");
    let err = try_replay(&[first, first], "").unwrap_err();
    assert!(format!("{err:#}").contains("same part"), "{err:#}");
    let daemon = recording_daemon(kept.path()).await;
    daemon.stop().await.unwrap();
    let err = try_replay(&[first, &kept.path().join("own.weir")], "").unwrap_err();
    assert!(format!("{err:#}").contains("different starts"), "{err:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_leaves_all_but_the_last_second() {
    let kept = tempfile::tempdir().unwrap();
    let daemon = recording_daemon(kept.path()).await;
    play(&daemon, 1);
    let status = drained(&daemon, 1).await;
    let drained = status.losses.unwrap().bulk.unwrap().drained;
    let written = until("all written", || async {
        let recording = daemon.status().await.recording?;
        (recording.records > drained).then_some(recording.records)
    })
    .await;
    // As it would be if the daemon went now.
    let copy = kept.path().join("copy.weir");
    std::fs::copy(kept.path().join("own.weir"), &copy).unwrap();
    daemon.stop().await.unwrap();
    let (printed, notes) = try_replay(&[&copy], " --stats").unwrap();
    assert!(notes.contains("not ended in order"), "{notes}");
    let numbers: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(numbers["records"], written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_cannot_be_begun_is_an_error_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config_in(directory.path());
    config.recording.file = Some(directory.path().join("absent/own.weir"));
    let options = weir::daemon::Options {
        config,
        config_path: None,
        overrides: Box::new(|_| {}),
        gates: Box::new(|_| Ok(Vec::new())),
    };
    let backend = |_: &weir::config::Config| Ok(common::Script::new().backend());
    let control = weir::daemon::Control::default();
    let err = weir::daemon::run(options, backend, control, |_| {}).await;
    let text = format!("{:#}", err.unwrap_err());
    assert!(
        text.contains("absent/own.weir") && text.contains("No such file"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_recording_is_what_was_told_in_that_time() {
    let kept = tempfile::tempdir().unwrap();
    let daemon = recording_daemon(kept.path()).await;
    play(&daemon, 1);
    drained(&daemon, 1).await;
    let cells = ask(&daemon, "cells --buckets").await;
    // What is taken in from here on comes later than all before.
    let own = kept.path().join("own.weir");
    let header = weir::recording::chain::Chain::open(std::slice::from_ref(&own)).unwrap();
    let begin_ns = header.header().begin_monotonic_ns;
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let now_ns = u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap();
    let then = format!("{}ns", now_ns - begin_ns);
    play(&daemon, 1000);
    drained(&daemon, 2).await;
    daemon.stop().await.unwrap();

    let until = |what: &str| try_replay(&[&own], &format!("{what} --until {then}")).unwrap();
    let (printed, notes) = until(" --buckets");
    assert_eq!(printed, cells);
    assert!(notes.contains("read up to there"), "{notes}");
    let from = |what: &str| {
        try_replay(&[&own], &format!("{what} --from {then}"))
            .unwrap()
            .0
    };
    let all = try_replay(&[&own], " --deliveries").unwrap().0;
    assert_eq!(until(" --deliveries").0 + &from(" --deliveries"), all);
    // Whether a late one is told while it is open depends on which ring is read first.
    let ends = |listed: &str| {
        let ends = listed.lines();
        ends.filter(|line| !line.contains(r#""phase":"late""#))
            .count()
    };
    assert_eq!(ends(&from(" --deliveries")), 900);
    assert_eq!(ends(&all), 1800);
    let sum = |printed: &str| -> u64 {
        let cells = printed.lines().map(|line| {
            let cell: serde_json::Value = serde_json::from_str(line).unwrap();
            cell["counters"]["deliveries"].as_u64().unwrap()
                + cell["percentiles"]["delivery_latency_us"]["count"]
                    .as_u64()
                    .unwrap()
        });
        cells.sum()
    };
    let whole = try_replay(&[&own], "").unwrap().0;
    assert_eq!(sum(&cells) + sum(&from("")), sum(&whole));
    let never = try_replay(&[&own], " --from 1h").unwrap().0;
    assert!(never.contains("\"deliveries\":0"), "{never}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_stands_in_for_the_daemon() {
    let kept = tempfile::tempdir().unwrap();
    let daemon = recording_daemon(kept.path()).await;
    play(&daemon, 1);
    let status = drained(&daemon, 1).await;
    let cells = ask(&daemon, "cells --buckets").await;
    daemon.stop().await.unwrap();

    let own = kept.path().join("own.weir");
    let chain = weir::recording::chain::Chain::open(&[own]).unwrap();
    let socket = kept.path().join("played.sock");
    let stop = CancellationToken::new();
    let (ready_to, ready) = tokio::sync::oneshot::channel();
    let playing = {
        let (socket, stop) = (socket.clone(), stop.clone());
        let options = weir::replay::Options::default();
        let ready = move || ready_to.send(()).unwrap();
        tokio::spawn(async move {
            weir::daemon::playback::play(chain, options, &socket, stop, ready).await
        })
    };
    ready.await.unwrap();
    until("the same cells", || async {
        (ask_at(&socket, "cells --buckets").await == cells).then_some(())
    })
    .await;
    let played = ask_at(&socket, "status").await;
    let played: serde_json::Value = serde_json::from_str(&played).unwrap();
    assert_eq!(played["boot_id"], status.boot_id);
    assert_eq!(played["probes"][0]["name"], "scripted");
    assert_eq!(played["losses"]["records_malformed"], 1);
    stop.cancel();
    playing.await.unwrap().unwrap();
    assert!(!socket.exists());
}

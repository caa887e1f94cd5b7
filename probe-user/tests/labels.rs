//! Labels on their way through a daemon: heard, counted, recorded, replayed, and in nobody's way.

mod common;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Daemon, at, config_in, delivery, session_start, until};
use weir::config::Config;
use weir::intake::{Intake, Told};
use weir::labels::request::RequestLabel;
use weir::recording::chain::{Chain, Piece};
use weir::recording::{Said, entry};
use weir::replay::{self, Options};
use weir::wire::DaemonCounts;
use weir_proto::v1;
use weir_tag::{Client, Session, Tag};

fn with_sockets(directory: &Path) -> Config {
    let mut config = config_in(directory);
    config.labels.access_log_socket = Some(directory.join("log.sock"));
    config.labels.tag_socket = Some(directory.join("tag.sock"));
    config
}

fn line(port: u16) -> Vec<u8> {
    format!(
        r#"<190>Nov 22 22:01:33 weir: {{"remote_addr":"198.51.100.7","remote_port":"{port}","server_port":"443","request_uri":"/a/seg7.ts","status":"200"}}"#
    )
    .into_bytes()
}

fn server(daemon: &Daemon) -> UnixDatagram {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(daemon.directory().join("log.sock")).unwrap();
    socket
}

async fn losses(daemon: &Daemon) -> v1::Losses {
    daemon.status().await.losses.unwrap()
}

/// The labels in a recording.
/// In all files of a recording: a reload begins another.
fn recorded(file: &Path) -> Vec<RequestLabel> {
    let mut labels = Vec::new();
    let files: Vec<_> = std::fs::read_dir(file.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "weir"))
        .collect();
    let mut chain = Chain::open(&files).unwrap();
    while let Some(piece) = chain.next_piece().unwrap() {
        let Piece::Block(block) = piece else { continue };
        entry::read(&block, |said| {
            if let Said::Label(label) = said {
                labels.push(*label);
            }
        })
        .unwrap();
    }
    labels
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_counted_recorded_and_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let recording = tempfile::tempdir().unwrap();
    let file = recording.path().join("edge.weir");
    let mut config = with_sockets(directory.path());
    config.recording.file = Some(file.clone());
    config.recording.min_free_bytes = 0;
    let daemon = Daemon::start_in(directory, config, None).await;

    let log = server(&daemon);
    for port in 1..=3 {
        log.send(&line(port)).unwrap();
    }
    log.send(b"what is this?").unwrap();
    let client = Client::connect(daemon.directory().join("tag.sock")).unwrap();
    client.send(&Tag::new(Session::Cookie(7))).unwrap();
    let counted = until("all labels", || async {
        let losses = losses(&daemon).await;
        let all = losses.labels_taken_log + losses.labels_taken_tag + losses.labels_malformed;
        (all == 5).then_some(losses)
    })
    .await;
    assert_eq!((counted.labels_heard_log, counted.labels_heard_tag), (4, 1));
    assert_eq!((counted.labels_taken_log, counted.labels_taken_tag), (3, 1));
    assert_eq!((counted.labels_malformed, counted.labels_dropped), (1, 0));
    let status = daemon.status().await.labels.unwrap();
    assert!(status.access_log_socket.ends_with("log.sock"));
    let socket = daemon.directory().join("log.sock");
    daemon.stop().await.unwrap();
    assert!(!socket.exists());

    assert_eq!(recorded(&file).len(), 4);
    let chain = Chain::open(&[file]).unwrap();
    let mut nothing = |_: &Intake, _: Told<'_>| Ok(());
    let replayed = replay::replay(chain, Options::default(), &mut nothing).unwrap();
    let again = replayed.intake.losses(&DaemonCounts::default());
    assert_eq!((again.labels_taken_log, again.labels_taken_tag), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_puts_other_rules_in_force_and_a_bad_one_none() {
    let directory = tempfile::tempdir().unwrap();
    let recording = tempfile::tempdir().unwrap();
    let file = recording.path().join("edge.weir");
    let mut config = with_sockets(directory.path());
    config.recording.file = Some(file.clone());
    config.recording.min_free_bytes = 0;
    let path = directory.path().join("weir.toml");
    let daemon = Daemon::start_in(directory, config.clone(), Some(path.clone())).await;
    let log = server(&daemon);
    let heard = async |n: u64| {
        until("a label", || async {
            (losses(&daemon).await.labels_taken_log == n).then_some(())
        })
        .await;
    };
    log.send(&line(1)).unwrap();
    heard(1).await;
    let error = async |found: bool| {
        until("the reload", || async {
            let error = daemon.status().await.config_error;
            (error.contains("weir.toml:2: rule.match") == found).then_some(())
        })
        .await;
    };
    for (duration_ms, regex) in [(3000, "("), (2000, "seg")] {
        let text = format!("[[rule]]\nmatch = \"{regex}\"\nduration_ms = {duration_ms}\n");
        std::fs::write(&path, text).unwrap();
        daemon.control.reload.notify_one();
        error(regex == "(").await;
    }
    log.send(&line(2)).unwrap();
    heard(2).await;
    daemon.stop().await.unwrap();
    let durations = recorded(&file)
        .into_iter()
        .map(|label| label.object.duration_us);
    assert_eq!(durations.collect::<Vec<_>>(), [0, 2_000_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_labels_starves_neither_records_nor_questions() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = with_sockets(directory.path());
    config.labels.queue = 64;
    let daemon = Daemon::start_in(directory, config, None).await;
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let log = server(&daemon);
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                log.send(&line(9)).unwrap();
                sent += 1;
            }
            sent
        })
    };
    until("the flood", || async {
        (losses(&daemon).await.labels_heard_log > 1000).then_some(())
    })
    .await;
    daemon.script.start(session_start(7, 443, at(1000)));
    for index in 0..50 {
        daemon
            .script
            .delivery(delivery(7, 443, index, at(2000 + u64::from(index) * 200)));
    }
    until("all deliveries", || async {
        let cells = daemon.cells().await;
        let counters = cells.first()?.counters?;
        (counters.deliveries == 50).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap();
    until("every label to be accounted for", || async {
        let losses = losses(&daemon).await;
        assert_eq!(losses.labels_malformed, 0);
        let known = losses.labels_taken_log + losses.labels_dropped;
        (losses.labels_heard_log == sent && known == sent).then_some(())
    })
    .await;
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_another_process_reads_is_an_error_and_stays_its() {
    let directory = tempfile::tempdir().unwrap();
    let theirs = directory.path().join("log.sock");
    let other = UnixDatagram::bind(&theirs).unwrap();
    let config = with_sockets(directory.path());
    let options = weir::daemon::Options {
        config,
        config_path: None,
        overrides: Box::new(|_| {}),
        gates: Box::new(|_| Ok(Vec::new())),
    };
    let script = common::Script::new();
    let backend = move |_: &Config| Ok(script.backend());
    let control = weir::daemon::Control::default();
    let err = weir::daemon::run(options, backend, control, |_| {})
        .await
        .unwrap_err();
    let told = format!("{err:#}");
    assert!(told.contains("another process reads"), "{told}");
    assert!(told.contains("labels.access_log_socket"), "{told}");
    assert!(theirs.exists() && other.local_addr().is_ok());
}

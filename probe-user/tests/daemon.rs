//! The daemon around a scripted backend: what it answers, and how it behaves when told to reload
//! or to end, or when others get in its way.

mod common;

use std::sync::{Arc, Mutex};

use clap::Parser as _;
use common::{Daemon, at, config_in, delivery, session_end, session_start, until};
use probe_ebpf::record::{flag, kind};
use tokio_stream::StreamExt as _;
use tonic::Code;
use weir::cli::{self, Cli, Command};
use weir::kernel::HalfOpenGiveUp;
use weir::ui::out::Style;
use weir_proto::v1;

async fn counters(daemon: &Daemon) -> v1::Counters {
    let cells = daemon.cells().await;
    let mut cells = cells.into_iter();
    match (cells.next(), cells.next()) {
        (Some(cell), None) => cell.counters.unwrap(),
        (None, _) => v1::Counters::default(),
        _ => panic!("more cells than one"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_says_is_what_the_operator_hears() {
    let daemon = Daemon::start(|_| {}).await;
    daemon.script.start(session_start(7, 443, at(1000)));
    daemon.script.delivery(delivery(7, 443, 0, at(2000)));
    daemon.script.give_up(HalfOpenGiveUp {
        remote: "198.51.100.9".parse().unwrap(),
        remote_port: 4,
        local_port: 443,
        synack_retransmits: 5,
    });
    let counters = until("a delivery and a give-up", || async {
        let counters = counters(&daemon).await;
        (counters.deliveries == 1 && counters.half_open_give_ups == 1).then_some(counters)
    })
    .await;
    assert_eq!(counters.sessions_started, 1);
    assert_eq!(counters.acked_bytes, 140_000);
    assert_eq!(counters.retrans_fast, 2);
    assert_eq!(counters.synack_retransmits, 5);
    assert_eq!(counters.busy_us, 89_000);

    let mut client = daemon.client().await;
    let sessions: Vec<_> = client
        .list_sessions(v1::ListSessionsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].session, 7);
    assert_eq!(sessions[0].last_latency_us, 100_000);
    let ends = sessions[0].endpoints.as_ref().unwrap();
    assert_eq!(ends.remote_address, "198.51.100.7");

    let deliveries: Vec<_> = client
        .list_deliveries(v1::ListDeliveriesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(deliveries.len(), 1);
    let told = &deliveries[0];
    assert_eq!(told.kind(), v1::DeliveryKind::Exchange);
    assert_eq!(told.phase(), v1::DeliveryPhase::Complete);
    assert_eq!(
        (
            told.latency_us,
            told.think_us,
            told.first_byte_us,
            told.tail_us
        ),
        (100_000, 10_000, 31_000, 40_000)
    );
    assert_eq!(told.delivery_rate_bps, 16_000_000);

    let status = daemon.status().await;
    let losses = status.losses.unwrap();
    let bulk = losses.bulk.unwrap();
    assert_eq!((bulk.seen, bulk.exported, bulk.drained), (2, 2, 2));
    assert_eq!(status.sessions_open, 1);
    assert_eq!(status.boot_id, daemon.ready.boot_id);
    assert_eq!(status.probes.len(), 1);
    assert!(daemon.script.adopted());
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_leaves_no_socket_and_no_backend_and_ends_streams() {
    let daemon = Daemon::start(|_| {}).await;
    let mut client = daemon.client().await;
    let follow = v1::ListDeliveriesRequest {
        follow: true,
        ..v1::ListDeliveriesRequest::default()
    };
    let mut following = client.list_deliveries(follow).await.unwrap().into_inner();
    let mut watching = client
        .watch(v1::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watching.message().await.unwrap().is_some());
    let socket = daemon.ready.socket.clone();
    let script = daemon.script.clone();
    daemon.stop().await.unwrap();
    assert!(!socket.exists());
    assert!(script.dropped());
    assert!(matches!(following.message().await, Ok(None) | Err(_)));
    while let Ok(Some(_)) = watching.message().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_takes_the_backend_away_and_gives_it_back_and_counts_go_on() {
    let daemon = Daemon::start(|config| config.filter.ports = vec![443]).await;
    let switch = daemon.directory().join("off");
    daemon.script.start(session_start(1, 443, at(1000)));
    until("the session", || async {
        (daemon.status().await.sessions_open == 1).then_some(())
    })
    .await;

    // What the programs say when the filter leaves the session out comes after this.
    daemon.script.end(session_end(1, 443, at(2000)));
    std::fs::write(&switch, "").unwrap();
    let off = until("weir to be off", || async {
        let status = daemon.status().await;
        (!status.off.is_empty()).then_some(status)
    })
    .await;
    assert!(off.off.contains(&switch.display().to_string()), "{off:?}");
    assert!(daemon.script.dropped());
    assert_eq!(off.sessions_open, 0);
    let said = off.losses.unwrap().bulk.unwrap();
    assert_eq!((said.seen, said.exported, said.drained), (2, 2, 2));
    // Before the end, every session was dismissed.
    let applied = daemon.script.applied();
    assert_eq!(applied.last().unwrap().filter.ports, [0]);

    std::fs::remove_file(&switch).unwrap();
    until("weir to measure again", || async {
        daemon.status().await.off.is_empty().then_some(())
    })
    .await;
    let applied = daemon.script.applied();
    assert_eq!(applied.last().unwrap().filter.ports, [443]);
    assert!(daemon.script.adopted());
    daemon.script.start(session_start(2, 443, at(3000)));
    let on = until("another session", || async {
        let status = daemon.status().await;
        (status.sessions_open == 1).then_some(status)
    })
    .await;
    assert!(on.losses.unwrap().bulk.unwrap().seen >= 3);
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_started_while_it_is_off_waits_and_can_be_told_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let config = config_in(directory.path());
    std::fs::write(&config.kill_switch, "").unwrap();
    let options = weir::daemon::Options {
        config,
        config_path: None,
        overrides: Box::new(|_| {}),
        gates: Box::new(|_| Ok(Vec::new())),
    };
    let backend = |_: &weir::config::Config| panic!("nothing may be loaded");
    let control = weir::daemon::Control::default();
    let running = weir::daemon::run(options, backend, control.clone(), |_| panic!("not up"));
    let told = async { control.shutdown.cancel() };
    let (ended, ()) = tokio::join!(running, told);
    ended.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_socket_is_refused() {
    let first = Daemon::start(|_| {}).await;
    let config = config_in(first.directory());
    let options = weir::daemon::Options {
        config,
        config_path: None,
        overrides: Box::new(|_| {}),
        gates: Box::new(|_| Ok(Vec::new())),
    };
    let backend = |_: &weir::config::Config| panic!("nothing may be loaded");
    let control = weir::daemon::Control::default();
    let err = weir::daemon::run(options, backend, control, |_| {})
        .await
        .unwrap_err();
    assert!(err.to_string().contains("another weir daemon"), "{err:#}");
    // The first one is none the worse.
    first.status().await;
    first.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_cannot_load_is_told_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let config = config_in(directory.path());
    let socket = config.query.socket.clone();
    let options = weir::daemon::Options {
        config,
        config_path: None,
        overrides: Box::new(|_| {}),
        gates: Box::new(|_| Ok(Vec::new())),
    };
    let backend = |_: &weir::config::Config| anyhow::bail!("no BTF here");
    let control = weir::daemon::Control::default();
    let err = weir::daemon::run(options, backend, control, |_| {})
        .await
        .unwrap_err();
    assert!(format!("{err:#}").contains("no BTF here"));
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn full_rings_are_counted_and_the_daemon_goes_on() {
    let daemon = Daemon::start(|_| {}).await;
    daemon.script.limit_rings(0);
    for n in 0..10 {
        daemon.script.start(session_start(n, 443, at(1000)));
    }
    daemon.script.limit_rings(usize::MAX);
    daemon.script.start(session_start(100, 443, at(1000)));
    let bulk = until("the one that fitted", || async {
        let losses = daemon.status().await.losses.unwrap();
        losses.bulk.filter(|bulk| bulk.drained == 1)
    })
    .await;
    assert_eq!((bulk.seen, bulk.exported, bulk.ring_full), (11, 1, 10));
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_follower_loses_the_oldest_and_learns_how_many() {
    let daemon = Daemon::start(|config| config.limits.follower_lag = 16).await;
    let mut client = daemon.client().await;
    let follow = v1::ListDeliveriesRequest {
        follow: true,
        ..v1::ListDeliveriesRequest::default()
    };
    let mut following = client.list_deliveries(follow).await.unwrap().into_inner();
    // More than all buffers on the way hold, written while nobody reads.
    let written = 20_000;
    for index in 0..written {
        daemon.script.delivery(delivery(1, 80, index, at(1000)));
    }
    until("all taken in", || async {
        let counters = counters(&daemon).await;
        (counters.deliveries == u64::from(written)).then_some(())
    })
    .await;
    let (mut heard, mut missed, mut next) = (0, 0, 0);
    while heard + missed < u64::from(written) {
        let delivery = following.message().await.unwrap().unwrap();
        missed += delivery.missed_before;
        heard += 1;
        assert_eq!(u64::from(delivery.index), next + delivery.missed_before);
        next = u64::from(delivery.index) + 1;
    }
    assert!(
        missed > 0,
        "the follower was not slow enough to prove anything"
    );
    assert_eq!(
        daemon.status().await.losses.unwrap().followers_dropped,
        missed
    );
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn late_deliveries_show_at_once_and_only_while_they_are_open() {
    let daemon = Daemon::start(|_| {}).await;
    let mut client = daemon.client().await;
    let follow = v1::ListDeliveriesRequest {
        follow: true,
        ..v1::ListDeliveriesRequest::default()
    };
    let mut following = client.list_deliveries(follow).await.unwrap().into_inner();
    let mut late = delivery(3, 443, 0, at(1000));
    late.header.kind = kind::DELIVERY_LATE;
    late.flags |= flag::LATE;
    daemon.script.delivery(late);
    let told = following.message().await.unwrap().unwrap();
    assert_eq!(told.phase(), v1::DeliveryPhase::Late);
    let open_late = || async {
        let cells = daemon.cells().await;
        let cell = cells.first()?;
        Some((cell.deliveries_open, cell.deliveries_open_late))
    };
    until("it is late", || async {
        (open_late().await == Some((1, 1))).then_some(())
    })
    .await;
    let mut watching = daemon
        .client()
        .await
        .watch(v1::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let snapshot = watching.message().await.unwrap().unwrap();
    assert_eq!(snapshot.troubled.len(), 1);
    assert_eq!(snapshot.troubled[0].phase(), v1::DeliveryPhase::Late);
    assert_eq!(snapshot.sessions[0].state(), v1::SessionState::Late);

    let mut over = delivery(3, 443, 0, at(1000));
    over.flags |= flag::LATE;
    daemon.script.delivery(over);
    until("it is over", || async {
        (open_late().await == Some((0, 0))).then_some(())
    })
    .await;
    assert_eq!(counters(&daemon).await.late_deliveries, 1);
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_told_what_is_wrong() {
    let daemon = Daemon::start(|_| {}).await;
    let mut client = daemon.client().await;
    let filter = |filter| v1::ListSessionsRequest {
        filter: Some(filter),
        limit: 0,
    };
    let bad_prefix = filter(v1::Filter {
        prefixes: vec!["not-a-prefix".into()],
        ..v1::Filter::default()
    });
    let refused = client.list_sessions(bad_prefix).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("not-a-prefix"));
    let refused = client
        .watch(v1::WatchRequest {
            interval_ms: 1,
            ..v1::WatchRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("100 to 10000"), "{refused}");
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_choose_by_port_cell_and_state() {
    let daemon = Daemon::start(|config| {
        config.services.push(weir::config::Service {
            name: "live".into(),
            ports: vec![443],
        });
    })
    .await;
    for n in 0..5000 {
        let port = if n % 2 == 0 { 443 } else { 80 };
        daemon.script.start(session_start(n, port, at(1000)));
    }
    daemon.script.end(session_end(0, 443, at(2000)));
    until("all taken in", || async {
        (daemon.status().await.sessions_open == 4999).then_some(())
    })
    .await;
    let mut client = daemon.client().await;
    let mut count = async |filter| {
        client
            .list_sessions(v1::ListSessionsRequest {
                filter: Some(filter),
                limit: 0,
            })
            .await
            .unwrap()
            .into_inner()
            .map(Result::unwrap)
            .fold(0, |n, _| n + 1)
            .await
    };
    let none = v1::Filter::default;
    assert_eq!(count(none()).await, 5000);
    assert_eq!(
        count(v1::Filter {
            ports: vec![80],
            ..none()
        })
        .await,
        2500
    );
    assert_eq!(
        count(v1::Filter {
            cell: "live/".into(),
            ..none()
        })
        .await,
        2500
    );
    let ended = vec![v1::SessionState::Ended.into()];
    assert_eq!(
        count(v1::Filter {
            states: ended,
            ..none()
        })
        .await,
        1
    );
    let here = vec!["198.51.100.0/24".into()];
    assert_eq!(
        count(v1::Filter {
            prefixes: here,
            ..none()
        })
        .await,
        5000
    );
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_clients_watch_as_allowed_and_a_place_comes_free() {
    let daemon = Daemon::start(|config| config.limits.followers = 1).await;
    let mut client = daemon.client().await;
    let first = client.watch(v1::WatchRequest::default()).await.unwrap();
    let refused = client.watch(v1::WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    until("the place is free", || {
        let mut client = client.clone();
        async move { client.watch(v1::WatchRequest::default()).await.ok() }
    })
    .await;
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_effect_and_what_cannot_be_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = config_in(directory.path());
    let path = directory.path().join("weir.toml");
    let daemon = Daemon::start_in(directory, config.clone(), Some(path.clone())).await;
    let reload = |deadline_ms: &str| {
        let socket = &config.query.socket;
        let text = format!("deadline_ms = {deadline_ms}\n[query]\nsocket = {socket:?}\n");
        std::fs::write(&path, text).unwrap();
        daemon.control.reload.notify_one();
    };
    let refused = async |why: &str| {
        until(why, || async {
            let status = daemon.status().await;
            status.config_error.contains(why).then_some(status)
        })
        .await
    };
    let accepted = async |deadline_ms: u64| {
        until("the new deadline", || async {
            let status = daemon.status().await;
            (status.deadline_ms == deadline_ms && status.config_error.is_empty()).then_some(status)
        })
        .await
    };

    reload("soon");
    let status = refused("weir.toml:1").await;
    assert_eq!((status.config_generation, status.deadline_ms), (1, 4000));
    reload("2000");
    assert_eq!(accepted(2000).await.config_generation, 2);
    assert_eq!(daemon.script.applied().last().unwrap().deadline_ms, 2000);

    daemon.script.refuse_settings(true);
    reload("3000");
    let status = refused("the script refuses").await;
    assert_eq!((status.config_generation, status.deadline_ms), (2, 2000));
    daemon.script.refuse_settings(false);
    reload("5000");
    assert_eq!(accepted(5000).await.config_generation, 3);
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sweep_takes_all_that_the_bulk_ring_holds() {
    let daemon = Daemon::start(|_| {}).await;
    daemon.script.fall_silent();
    for cookie in 0..5000 {
        daemon
            .script
            .start(session_start(cookie, 443, at(1000 + cookie)));
    }
    let (before, _) = daemon.script.swept();
    let after = until("an empty ring", || async {
        let (sweeps, left) = daemon.script.swept();
        (left == 0).then_some(sweeps)
    })
    .await;
    // One may have been under way.
    assert!(after <= before + 2, "{} sweeps", after - before);
}

/// What a command prints, while it runs.
#[derive(Clone, Debug, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn following_fails_when_the_daemon_ends() {
    let daemon = Daemon::start(|_| {}).await;
    daemon.script.delivery(delivery(1, 443, 0, at(0)));
    let socket = daemon.ready.socket.display();
    let line = format!("weir deliveries --follow -o json --socket {socket}");
    let Command::Deliveries(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
        unreachable!("{line}");
    };
    let screen = Screen::default();
    let to = screen.clone();
    let following = tokio::spawn(async move { cli::deliveries(&args, Style::default(), to).await });
    until("the delivery", || async {
        (!screen.0.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    daemon.stop().await.unwrap();
    let err = following.await.unwrap().unwrap_err();
    assert!(err.to_string().contains("it has ended"), "{err}");
}

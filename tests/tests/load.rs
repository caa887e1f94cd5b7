//! Thousands of short sessions, and rings that are too small: every record is accounted for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weir_tests::lab::client;
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::nginx::Nginx;
use weir_tests::lab::process::wait_for;
use weir_tests::record::Counters;
use weir_tests::watched::{PATIENCE, binary, own_port, settings, v4};
use weir_tests::weir::{Daemon, Settings};

const SESSIONS: usize = 8000;

/// One load at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sessions of one exchange each, four at a time; returns how many a second.
fn short_sessions(lab: &Lab, count: usize) -> Result<f64> {
    let begin = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(lab.client.spawn("client", move || {
            for _ in 0..count / 4 {
                client::keep_alive(v4(own_port()), &["/f/500"], Duration::ZERO)?;
            }
            Ok(())
        })?);
    }
    for client in clients {
        join(client)?;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

fn start(lab: &Lab, settings: Settings) -> Result<(Nginx, Daemon)> {
    let nginx = Nginx::on_port(lab, own_port())?;
    let settings = Settings {
        ports: vec![own_port()],
        ..settings
    };
    let daemon = Daemon::start(&binary(), &lab.dir().join("weir"), &settings)?;
    Ok((nginx, daemon))
}

fn sums(daemon: &Daemon) -> Result<Counters> {
    let mut sums = Counters::default();
    for cell in daemon.cells()? {
        sums.sessions_started += cell.counters.sessions_started;
        sums.sessions_ended += cell.counters.sessions_ended;
        sums.deliveries += cell.counters.deliveries;
    }
    Ok(sums)
}

#[test]
fn thousands_of_short_sessions_are_all_measured() -> Result<()> {
    let _alone = alone();
    let lab = Lab::with_veth()?;
    let (_nginx, daemon) = start(&lab, settings())?;
    let rate = short_sessions(&lab, SESSIONS)?;
    println!("{rate:.0} sessions a second");
    let want = SESSIONS as u64;
    let mut counted = Counters::default();
    wait_for("every session to be counted", PATIENCE, || {
        counted = sums(&daemon)?;
        Ok(counted.sessions_ended >= want)
    })
    .with_context(|| format!("{counted:?} {:?}", daemon.status()))?;
    assert_eq!(
        (
            counted.sessions_started,
            counted.sessions_ended,
            counted.deliveries
        ),
        (want, want, want)
    );
    let losses = daemon.status()?.losses;
    assert!(losses.reconcile(), "{losses:?}");
    assert_eq!((losses.hot.ring_full, losses.bulk.ring_full), (0, 0));
    wait_for("everything to be drained", PATIENCE, || {
        let losses = daemon.status()?.losses;
        Ok(
            losses.bulk.drained == losses.bulk.exported
                && losses.hot.drained == losses.hot.exported,
        )
    })
}

#[test]
fn a_ring_that_is_too_small_loses_records_and_says_so_and_counts_go_on_reconciling() -> Result<()> {
    let _alone = alone();
    let lab = Lab::with_veth()?;
    let tiny = Settings {
        bulk_ring_bytes: 4096,
        ..settings()
    };
    let (_nginx, mut daemon) = start(&lab, tiny)?;
    let mut losses = daemon.status()?.losses;
    for _ in 0..10 {
        short_sessions(&lab, SESSIONS / 8)?;
        losses = daemon.status()?.losses;
        assert!(losses.reconcile(), "{losses:?}");
        if losses.bulk.ring_full > 0 {
            break;
        }
    }
    assert!(
        losses.bulk.ring_full > 0,
        "the ring never filled: {losses:?}"
    );
    wait_for("everything left to be drained", PATIENCE, || {
        losses = daemon.status()?.losses;
        Ok(losses.bulk.drained == losses.bulk.exported)
    })
    .with_context(|| format!("{losses:?}"))?;
    assert!(losses.reconcile(), "{losses:?}");
    let counted = sums(&daemon)?;
    assert!(counted.deliveries > 0, "nothing got through");
    assert!(
        daemon.log().contains("ring"),
        "the log does not say it: {}",
        daemon.log()
    );
    assert!(daemon.stop()?.success(), "{}", daemon.log());
    Ok(())
}

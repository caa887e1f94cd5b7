//! A host and its collector: after whatever happened to either, the centre has the host's totals.

use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use weir_tests::demo::numbers::Sums;
use weir_tests::lab::client;
use weir_tests::lab::link::Lab;
use weir_tests::lab::nginx::Nginx;
use weir_tests::lab::process::wait_for;
use weir_tests::watched::{DISTANT, PATIENCE, binary, own_port, settings, v4};
use weir_tests::weir::{Collector, Daemon, Settings};

/// Totals are the host's: what another test does would be in them.
static ALONE: Mutex<()> = Mutex::new(());

fn visit(lab: &Lab) -> Result<()> {
    for _ in 0..5 {
        lab.client.run(|| {
            client::keep_alive(
                v4(own_port()),
                &["/f/30000", "/f/500"],
                Duration::from_millis(10),
            )
        })?;
    }
    Ok(())
}

/// Waits until both say the same, and that it is more than `deliveries`.
fn same(daemon: &Daemon, collector: &Collector, deliveries: u64) -> Result<Sums> {
    let (mut edge, mut centre) = (Sums::default(), Sums::default());
    wait_for("host and collector to agree", PATIENCE, || {
        edge = Sums::of(&daemon.cells()?);
        centre = Sums::of(&collector.cells()?);
        Ok(edge == centre && edge.deliveries >= deliveries)
    })
    .with_context(|| format!("host {edge:?}, collector {centre:?}\n{}", daemon.log()))?;
    Ok(edge)
}

#[test]
fn a_collector_that_is_killed_and_comes_back_has_the_hosts_totals() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::with_relay(DISTANT, 1)?;
    let _nginx = Nginx::on_port(&lab, own_port())?;
    let free = TcpListener::bind("127.0.0.1:0")?;
    let address = free.local_addr()?.to_string();
    drop(free);
    let mut collector = Collector::start(&binary(), &lab.dir().join("one"), &address)?;
    let settings = Settings {
        collector: Some(collector.url()),
        ports: vec![own_port()],
        ..settings()
    };
    let daemon = Daemon::start(&binary(), &lab.dir().join("weir"), &settings)?;
    visit(&lab)?;
    let before = same(&daemon, &collector, 10)?;

    collector.process().signal(Signal::SIGKILL)?;
    collector.process().wait(PATIENCE)?;
    visit(&lab)?;
    let collector = Collector::start(&binary(), &lab.dir().join("two"), &address)?;
    let after = same(&daemon, &collector, before.deliveries + 10)?;
    assert!(after.acked_bytes > before.acked_bytes);
    Ok(())
}

#[test]
fn a_host_that_starts_again_adds_to_what_it_told_before() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::with_relay(DISTANT, 1)?;
    let _nginx = Nginx::on_port(&lab, own_port())?;
    let collector = Collector::anywhere(&binary(), &lab.dir().join("one"))?;
    let settings = Settings {
        collector: Some(collector.url()),
        ports: vec![own_port()],
        ..settings()
    };
    let mut daemon = Daemon::start(&binary(), &lab.dir().join("weir"), &settings)?;
    visit(&lab)?;
    let first = same(&daemon, &collector, 10)?;
    assert!(daemon.stop()?.success(), "{}", daemon.log());
    let daemon = Daemon::start(&binary(), &lab.dir().join("weir"), &settings)?;
    visit(&lab)?;
    let mut centre = Sums::default();
    wait_for("the collector to have both starts", PATIENCE, || {
        let second = Sums::of(&daemon.cells()?);
        centre = Sums::of(&collector.cells()?);
        Ok(second.deliveries >= 10 && centre.since(second) == first)
    })
    .with_context(|| {
        format!(
            "first {first:?}, now {:?}, collector {centre:?}",
            daemon.cells()
        )
    })
}

//! A host and its collector: after whatever happened to either, the centre has the host's totals.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
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

/// The number of the last tick that a ring has, and deliveries in it; none if it has none.
fn kept(directory: &Path) -> Result<Option<(u64, u64)>> {
    let mut command = Command::new(binary());
    command.arg("ring").arg("--directory").arg(directory);
    let answer = command.output().context("cannot run weir ring")?;
    let lines = String::from_utf8(answer.stdout)?;
    let Some(last) = lines.lines().last() else {
        return Ok(None);
    };
    let frame: serde_json::Value = serde_json::from_str(last)?;
    let cells = frame["cells"]
        .as_array()
        .context("a second without cells")?;
    let deliveries = cells
        .iter()
        .map(|cell| cell["counters"]["deliveries"].as_u64());
    let seq = frame["seq"].as_u64().context("a second without a number")?;
    Ok(Some((seq, deliveries.flatten().sum())))
}

#[test]
fn what_a_killed_daemon_had_on_its_disk_the_next_one_tells_and_tells_again() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::with_relay(DISTANT, 1)?;
    let _nginx = Nginx::on_port(&lab, own_port())?;
    let free = TcpListener::bind("127.0.0.1:0")?;
    let address = free.local_addr()?.to_string();
    drop(free);
    let ring = lab.dir().join("ring");
    let settings = Settings {
        collector: Some(format!("http://{address}")),
        ports: vec![own_port()],
        // Further keys of [collector], which comes last.
        more: format!("ring_directory = {:?}\n", ring.display().to_string()),
        ..settings()
    };
    // Nobody hears the first daemon at all.
    let mut daemon = Daemon::start(&binary(), &lab.dir().join("weir"), &settings)?;
    visit(&lab)?;
    let (mut first, mut since) = (Sums::default(), None);
    wait_for("all of it to be on disk", PATIENCE, || {
        let now = Sums::of(&daemon.cells()?);
        let Some((seq, deliveries)) = kept(&ring)? else {
            return Ok(false);
        };
        if now != first || deliveries != now.deliveries {
            (first, since) = (now, None);
            return Ok(false);
        }
        // Four ticks a second: one that began when nothing more was counted is there.
        let since = *since.get_or_insert(seq);
        Ok(first.deliveries >= 10 && seq >= since + 8)
    })?;
    daemon.process().signal(Signal::SIGKILL)?;
    daemon.process().wait(PATIENCE)?;

    let daemon = Daemon::start(&binary(), &lab.dir().join("weir"), &settings)?;
    visit(&lab)?;
    // And a collector that is killed has forgotten the first one, too.
    for round in 0..2 {
        let dir = lab.dir().join(format!("collector-{round}"));
        let mut collector = Collector::start(&binary(), &dir, &address)?;
        let mut centre = Sums::default();
        wait_for("the collector to have both starts", PATIENCE, || {
            let second = Sums::of(&daemon.cells()?);
            centre = Sums::of(&collector.cells()?);
            Ok(second.deliveries >= 10 && centre.since(second) == first)
        })
        .with_context(|| format!("first {first:?}, collector {centre:?}\n{}", daemon.log()))?;
        collector.process().signal(Signal::SIGKILL)?;
        collector.process().wait(PATIENCE)?;
    }
    Ok(())
}

//! A lab with a daemon watching: what the tests on sessions and on the daemon share.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_tests::lab::link::{Lab, SERVER_V4, SERVER_V6};
use weir_tests::lab::process::wait_for;
use weir_tests::lab::shaper::Shape;
use weir_tests::record::{Delivery, Session};
use weir_tests::weir::{self, Daemon, Follower, Settings};

/// Long enough for anything that is going to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// 20 ms each way.
pub(crate) const DISTANT: Shape = Shape {
    delay_ns: 20_000_000,
    loss_ppm: 0,
    lose_every: 0,
    rate_bps: 0,
    queue_bytes: 0,
};

/// A port that no other lab on this host serves at.
pub(crate) fn own_port() -> u16 {
    let offset = u16::try_from(std::process::id() % 20_000).expect("less than 20000");
    20_000 + offset
}

pub(crate) fn v4(port: u16) -> SocketAddr {
    (SERVER_V4, port).into()
}

pub(crate) fn v6(port: u16) -> SocketAddr {
    (SERVER_V6, port).into()
}

pub(crate) fn binary() -> PathBuf {
    weir::binary(None).expect("the tests need weir: run them by `cargo xtask test`")
}

/// Short gaps, so that a test need not wait for long ones.
pub(crate) fn settings() -> Settings {
    Settings {
        quiet_gap_ms: 300,
        ..Settings::default()
    }
}

/// A lab, a daemon, and the deliveries that it reports of the lab.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) follower: Follower,
    pub(crate) daemon: Daemon,
    pub(crate) netns: u32,
    pub(crate) lab: Lab,
}

impl Watched {
    pub(crate) fn new(lab: Lab, settings: &Settings) -> Result<Self> {
        let daemon = Daemon::start(&binary(), &lab.dir().join("weir"), settings)?;
        let follower = daemon.follow()?;
        Ok(Self {
            netns: lab.server.inode()?,
            lab,
            daemon,
            follower,
        })
    }

    pub(crate) fn distant() -> Result<Self> {
        Self::new(Lab::with_relay(DISTANT, 1)?, &settings())
    }

    /// The deliveries of the session from the client's `port`, once its end is reported and all
    /// of them are here; handshakes and lateness reports left out.
    pub(crate) fn deliveries(&self, port: u16) -> Result<(Session, Vec<Delivery>)> {
        let mut found = None;
        wait_for(
            &format!("the end of the session from port {port}"),
            PATIENCE,
            || {
                let sessions = self.daemon.sessions()?;
                found = sessions.into_iter().find(|session| {
                    session.endpoints.netns == self.netns
                        && session.endpoints.remote_port == port
                        && session.state == "ended"
                });
                Ok(found.is_some())
            },
        )
        .with_context(|| self.daemon.log())?;
        let session = found.context("the session is gone")?;
        let mut deliveries = Vec::new();
        wait_for("every delivery of the session", PATIENCE, || {
            deliveries = self.follower.seen(|delivery| {
                delivery.session == session.session
                    && delivery.kind != "handshake"
                    && delivery.phase != "late"
            });
            Ok(deliveries.len() as u64 >= session.deliveries)
        })
        .with_context(|| format!("{session:?} and {deliveries:?}"))?;
        deliveries.sort_by_key(|delivery| delivery.index);
        Ok((session, deliveries))
    }
}

/// The kernel objects that a process holds: lines of its descriptors' information such as
/// `prog_id: 17`.
pub(crate) fn kernel_objects(pid: u32) -> Result<BTreeSet<(String, u32)>> {
    let mut objects = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).context("the daemon is gone")? {
        let Ok(text) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            if matches!(key, "prog_id" | "map_id" | "link_id")
                && let Ok(id) = value.trim().parse()
            {
                objects.insert((key.trim_end_matches("_id").to_owned(), id));
            }
        }
    }
    Ok(objects)
}

/// Those of `objects` that the kernel still has.
pub(crate) fn still_there(objects: &BTreeSet<(String, u32)>) -> Result<Vec<(String, u32)>> {
    let mut left = Vec::new();
    for kind in ["prog", "map", "link"] {
        let listed = weir_tests::lab::process::output("bpftool", &["-j", kind, "list"])?;
        let listed: Vec<serde_json::Value> =
            serde_json::from_str(&listed).with_context(|| format!("bpftool {kind}: {listed}"))?;
        let ids: BTreeSet<u64> = listed
            .iter()
            .filter_map(|object| object["id"].as_u64())
            .collect();
        left.extend(
            objects
                .iter()
                .filter(|(k, id)| k == kind && ids.contains(&u64::from(*id)))
                .cloned(),
        );
    }
    Ok(left)
}

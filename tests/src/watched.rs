//! A lab with a daemon watching: what the tests on sessions and on the daemon, and the checks on
//! other kernels, share.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::link::{Lab, SERVER_V4, SERVER_V6};
use crate::lab::process::{output, wait_for};
use crate::lab::shaper::Shape;
use crate::record::{Delivery, Session};
use crate::weir::{self, Daemon, Follower, Settings};
use anyhow::{Context as _, Result};

/// Long enough for anything that is going to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// 20 ms each way.
pub const DISTANT: Shape = Shape {
    delay_ns: 20_000_000,
    loss_ppm: 0,
    lose_every: 0,
    rate_bps: 0,
    queue_bytes: 0,
};

/// A port that no other lab on this host serves at.
pub fn own_port() -> u16 {
    let offset = u16::try_from(std::process::id() % 20_000).expect("less than 20000");
    20_000 + offset
}

/// The server's `port` at its IPv4 address.
pub fn v4(port: u16) -> SocketAddr {
    (SERVER_V4, port).into()
}

/// The server's `port` at its IPv6 address.
pub fn v6(port: u16) -> SocketAddr {
    (SERVER_V6, port).into()
}

/// The weir under test: the environment's `WEIR_BIN`.
///
/// # Panics
/// It names no file.
pub fn binary() -> PathBuf {
    weir::binary(None).expect("the tests need weir: run them by `cargo xtask test`")
}

/// Short gaps, so that a test need not wait for long ones.
pub fn settings() -> Settings {
    Settings {
        quiet_gap_ms: 300,
        ..Settings::default()
    }
}

/// A lab, a daemon, and the deliveries that it reports of the lab.
#[derive(Debug)]
pub struct Watched {
    /// The deliveries of the whole host.
    pub follower: Follower,
    /// The daemon.
    pub daemon: Daemon,
    /// The server's namespace, as the daemon names it.
    pub netns: u32,
    /// The lab; it goes last.
    pub lab: Lab,
}

impl Watched {
    /// Starts a daemon beside the lab.
    ///
    /// # Errors
    /// It does not start.
    pub fn new(lab: Lab, settings: &Settings) -> Result<Self> {
        Self::with_binary(lab, &binary(), settings)
    }

    /// The same with another program in weir's place.
    ///
    /// # Errors
    /// It does not start.
    pub fn with_binary(lab: Lab, binary: &Path, settings: &Settings) -> Result<Self> {
        let daemon = Daemon::start(binary, &lab.dir().join("weir"), settings)?;
        let follower = daemon.follow()?;
        Ok(Self {
            netns: lab.server.inode()?,
            lab,
            daemon,
            follower,
        })
    }

    /// A lab behind a relay, 20 ms each way, and a daemon.
    ///
    /// # Errors
    /// The lab cannot work here, or the daemon does not start.
    pub fn distant() -> Result<Self> {
        Self::new(Lab::with_relay(DISTANT, 1)?, &settings())
    }

    /// The deliveries of the session with `server` from the client's `port`, once its end is
    /// reported and all of them are here; handshakes and lateness reports left out. A client has the
    /// same port for another server now and then.
    ///
    /// # Errors
    /// They do not come in time.
    pub fn deliveries(&self, server: SocketAddr, port: u16) -> Result<(Session, Vec<Delivery>)> {
        let mut found = None;
        wait_for(
            &format!("the end of the session with {server} from port {port}"),
            PATIENCE,
            || {
                let sessions = self.daemon.sessions()?;
                found = sessions.into_iter().find(|session| {
                    session.endpoints.is_in(self.netns)
                        && session.endpoints.local() == server
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
///
/// # Errors
/// There is no such process.
pub fn kernel_objects(pid: u32) -> Result<BTreeSet<(String, u32)>> {
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

/// The names of the programs that a process keeps attached by links.
///
/// # Errors
/// There is no such process, or bpftool fails.
pub fn linked_programs(pid: u32) -> Result<BTreeSet<String>> {
    let listed = output("bpftool", &["-j", "prog", "list"])?;
    let listed: Vec<serde_json::Value> =
        serde_json::from_str(&listed).with_context(|| format!("bpftool prog: {listed}"))?;
    let name_of = |id: u64| {
        let program = listed.iter().find(|program| program["id"] == id)?;
        program["name"].as_str().map(str::to_owned)
    };
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).context("the daemon is gone")? {
        let Ok(text) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        if !text.lines().any(|line| line.starts_with("link_id:")) {
            continue;
        }
        let program = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        names.extend(
            program
                .and_then(|id| id.trim().parse().ok())
                .and_then(name_of),
        );
    }
    Ok(names)
}

/// Those of `objects` that the kernel still has.
///
/// # Errors
/// bpftool fails.
pub fn still_there(objects: &BTreeSet<(String, u32)>) -> Result<Vec<(String, u32)>> {
    let mut left = Vec::new();
    for kind in ["prog", "map", "link"] {
        let listed = output("bpftool", &["-j", kind, "list"])?;
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

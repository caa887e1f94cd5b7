//! What the checks act on: a lab over a link of the kernel's own making, and a daemon that watches.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::expected::{Backend, Promise};
use crate::lab::link::Lab;
use crate::record::{Delivery, Session};
use crate::watched::{Watched, binary};
use crate::weir::{Daemon, Settings};

/// 20 ms each way.
pub(super) const DISTANT: &str = "delay 20ms limit 10000";
/// The same, and every thirtieth packet or so is lost.
pub(super) const LOSSY: &str = "delay 20ms loss 3% limit 10000";
/// One way.
pub(super) const ONE_WAY: Duration = Duration::from_millis(20);
/// The least that an answer takes to be acknowledged.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(40);
/// When a delivery is late.
pub(super) const DEADLINE: Duration = Duration::from_millis(1500);

/// The lab and the daemon.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) watched: Watched,
    pub(super) backend: Backend,
    /// Sessions that clients have made so far.
    pub(super) sessions: u64,
    /// What the daemon was told.
    settings: Settings,
    restarts: u32,
}

/// What a daemon is told.
fn settings(backend: Backend) -> Settings {
    Settings {
        backend: Some(backend.name()),
        deadline_ms: u32::try_from(DEADLINE.as_millis()).unwrap_or(u32::MAX),
        quiet_gap_ms: 300,
        // Not what wakes a server on its loopback.
        prefixes: vec!["10.77.0.0/16".into(), "fd77::/64".into()],
        ..Settings::default()
    }
}

impl Stage {
    /// A lab and a daemon that measures with `backend`.
    pub(super) fn new(backend: Backend) -> Result<Self> {
        let lab = Lab::with_veth()?;
        for netns in [&lab.server, &lab.client] {
            netns.netem(DISTANT)?;
        }
        let settings = settings(backend);
        Ok(Self {
            watched: Watched::new(lab, &settings)?,
            backend,
            sessions: 0,
            settings,
            restarts: 0,
        })
    }

    pub(super) fn promise(&self) -> Promise {
        self.backend.promise()
    }

    /// Looks that the daemon has left out, because looking takes long here: what it tells is then
    /// coarser than is expected of it, and it says so.
    pub(super) fn looks_left_out(&self) -> Result<u64> {
        Ok(self.watched.daemon.status()?.losses.looks_left_out)
    }

    /// Another daemon in the place of the one that was, told what the first was but for `change`.
    pub(super) fn restart(&mut self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        self.settings = settings(self.backend);
        change(&mut self.settings);
        self.restarts += 1;
        let dir = self
            .watched
            .lab
            .dir()
            .join(format!("again-{}", self.restarts));
        // There is memory for one at a time. It may be gone already.
        self.watched.daemon.stop()?;
        let daemon = Daemon::start(&binary(), &dir, &self.settings)?;
        self.watched.follower = daemon.follow()?;
        self.watched.daemon = daemon;
        Ok(())
    }

    /// The same daemon is told otherwise.
    pub(super) fn reload(&mut self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        change(&mut self.settings);
        self.watched.daemon.reload(&self.settings)
    }

    /// The session with `server` from the client's `port`, and its deliveries.
    pub(super) fn all_told(
        &self,
        server: SocketAddr,
        port: u16,
    ) -> Result<(Session, Vec<Delivery>)> {
        let (session, deliveries) = self.watched.deliveries(server, port)?;
        ensure!(
            session.backend == self.backend.name(),
            "measured otherwise: {session:?}"
        );
        Ok((session, deliveries))
    }

    /// The same; the deliveries must be of these kinds and phases.
    pub(super) fn told(
        &self,
        server: SocketAddr,
        port: u16,
        kinds: &[(&str, &str)],
    ) -> Result<(Session, Vec<Delivery>)> {
        let (session, deliveries) = self.all_told(server, port)?;
        let found: Vec<_> = deliveries
            .iter()
            .map(|delivery| (delivery.kind.as_str(), delivery.phase.as_str()))
            .collect();
        if found != kinds {
            bail!("{kinds:?} were made, and told {found:?}: {deliveries:?}");
        }
        Ok((session, deliveries))
    }
}

//! What the checks act on: a lab over a link of the kernel's own making, and a daemon that watches.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::link::Lab;
use crate::record::{Delivery, Session};
use crate::watched::Watched;
use crate::weir::Settings;

/// 20 ms each way.
pub(super) const DISTANT: &str = "delay 20ms limit 10000";
/// The same, and every thirtieth packet or so is lost.
pub(super) const LOSSY: &str = "delay 20ms loss 3% limit 10000";
/// The least that an answer takes to be acknowledged.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(40);
/// When a delivery is late.
pub(super) const DEADLINE: Duration = Duration::from_millis(1500);

/// The lab and the daemon.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) watched: Watched,
    /// Sessions that clients have made so far.
    pub(super) sessions: u64,
}

/// What the daemon is told.
pub(super) fn settings() -> Settings {
    Settings {
        deadline_ms: u32::try_from(DEADLINE.as_millis()).unwrap_or(u32::MAX),
        quiet_gap_ms: 300,
        // Not what wakes a server on its loopback.
        prefixes: vec!["10.77.0.0/16".into(), "fd77::/64".into()],
        ..Settings::default()
    }
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let lab = Lab::with_veth()?;
        for netns in [&lab.server, &lab.client] {
            netns.netem(DISTANT)?;
        }
        Ok(Self {
            watched: Watched::new(lab, &settings())?,
            sessions: 0,
        })
    }

    /// The session from the client's `port`, and its deliveries, which must be of these kinds and
    /// phases.
    pub(super) fn told(
        &mut self,
        port: u16,
        kinds: &[(&str, &str)],
    ) -> Result<(Session, Vec<Delivery>)> {
        self.sessions += 1;
        let (session, deliveries) = self.watched.deliveries(port)?;
        let found: Vec<_> = deliveries
            .iter()
            .map(|delivery| (delivery.kind.as_str(), delivery.phase.as_str()))
            .collect();
        if found != kinds {
            bail!("{kinds:?} were made, and told {found:?}");
        }
        Ok((session, deliveries))
    }
}

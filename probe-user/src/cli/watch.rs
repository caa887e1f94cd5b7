//! `weir watch` and `weir ring`: what hosts answer through a collector, and what they keep.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_proto::v1::{FleetFetchRingRequest, FleetSubscribeRequest, Frame, HotEventKind, Selector};

use super::ask::next;
use super::{EventKind, Ring, Watch};
use crate::query::client::{self, Peer};
use crate::ui::units;
use crate::uplink::ring::disk;

impl EventKind {
    fn on_the_wire(self) -> i32 {
        let kind = match self {
            Self::Late => HotEventKind::Late,
            Self::Aborted => HotEventKind::Aborted,
            Self::Viewer => HotEventKind::Viewer,
            Self::Alarm => HotEventKind::Alarm,
            Self::Steer => HotEventKind::Steer,
        };
        kind.into()
    }
}

fn print(row: &impl serde::Serialize, to: &mut impl Write) -> Result<()> {
    // By way of io::Error, so that a reader that went away is known as one.
    serde_json::to_writer(&mut *to, row).map_err(std::io::Error::from)?;
    to.write_all(b"\n")?;
    Ok(to.flush()?)
}

/// `weir watch`.
pub async fn watch(args: &Watch, mut to: impl Write) -> Result<()> {
    let centre = &args.centre;
    let peer = Peer::Collector(centre.collector.clone());
    let request = FleetSubscribeRequest {
        hosts: args.host.clone(),
        selector: Some(Selector {
            sid: args.sid.clone().unwrap_or_default(),
            client_prefix: args
                .prefix
                .map(|prefix| prefix.to_string())
                .unwrap_or_default(),
            cell: args.cell.clone().unwrap_or_default(),
            events: args.event.iter().map(|kind| kind.on_the_wire()).collect(),
        }),
        interval_ms: args.interval_ms,
        duration_ms: args.duration.map_or(0, |duration| {
            u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
        }),
    };
    let mut fleet = client::fleet(&centre.collector, centre.tls.files()).await?;
    let answer = fleet.subscribe(request).await;
    let mut stream = answer.map_err(|status| peer.error(&status))?.into_inner();
    while let Some(message) = next(&mut stream, &peer).await? {
        print(&message, &mut to)?;
    }
    if args.duration.is_none() {
        return Err(peer.ended().into());
    }
    Ok(())
}

/// `weir ring`.
pub async fn ring(args: &Ring, mut to: impl Write) -> Result<()> {
    let from_unix_ns = args.last.map_or(0, |last: Duration| {
        let last_ns = u64::try_from(last.as_nanos()).unwrap_or(u64::MAX);
        units::now_unix_ns().saturating_sub(last_ns)
    });
    let mut damaged = 0;
    let mut show = |frames: &[Frame]| frames.iter().try_for_each(|frame| print(frame, &mut to));
    if let Some(directory) = &args.directory {
        let unreadable = || format!("cannot read the ring in {}", directory.display());
        let files = disk::files(directory).with_context(unreadable)?;
        for (number, _) in files {
            let read = disk::frames(directory, number, from_unix_ns, u64::MAX);
            let (frames, places) = read.with_context(unreadable)?;
            damaged += places;
            show(&frames)?;
        }
    } else if let (Some(url), Some(host)) = (&args.collector, &args.host) {
        let peer = Peer::Collector(url.clone());
        let mut fleet = client::fleet(url, args.tls.files()).await?;
        let request = FleetFetchRingRequest {
            host: host.clone(),
            from_unix_ns,
            until_unix_ns: 0,
        };
        let answer = fleet.fetch_ring(request).await;
        let mut stream = answer.map_err(|status| peer.error(&status))?.into_inner();
        while let Some(part) = next(&mut stream, &peer).await? {
            damaged += part.damaged;
            show(&part.frames)?;
        }
    }
    if damaged > 0 {
        eprintln!("the ring was damaged at {damaged} places; what was whole was read");
    }
    Ok(())
}

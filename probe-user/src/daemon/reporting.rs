//! Begins to report to a collector, if there is one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_proto::v1;

use super::core::Ticks;
use super::desk::Identity;
use super::labelling;
use crate::config::{self, Config};
use crate::kernel::Backend;
use crate::query::{Followed, Query};
use crate::tls::Connector;
use crate::uplink::{
    self, Budgets, Centre, DELIVERIES_KEPT, EVENTS_KEPT, HotEvent, Private, Queue, UplinkCounts,
    ring,
};
use crate::wire::{self, WIRE_VERSION};

/// Where the desk puts what is to be sent; none of it without a collector.
#[derive(Debug, Default)]
pub(super) struct Handover {
    pub(super) events: Option<Arc<Queue<HotEvent>>>,
    pub(super) deliveries: Option<Arc<Queue<Box<Followed>>>>,
}

type Parts = (
    Option<Ticks>,
    Handover,
    Option<JoinHandle<anyhow::Result<()>>>,
);

/// Without a collector there is nothing to start.
pub(super) fn start(
    config: &Config,
    identity: &Identity,
    backend: &dyn Backend,
    counts: Arc<UplinkCounts>,
    core: mpsc::Sender<Query>,
    centre: Centre,
    finish: &CancellationToken,
) -> anyhow::Result<Parts> {
    let collector = &config.collector;
    let Some(url) = &collector.url else {
        return Ok((None, Handover::default(), None));
    };
    let files = collector.files();
    let uri = config::collector_url(url, collector.plain_text, files.is_some());
    let (ticks_to, ticks) = watch::channel(None);
    let events = Arc::new(Queue::new(EVENTS_KEPT));
    let deliveries =
        (collector.cold_bytes_per_s > 0).then(|| Arc::new(Queue::new(DELIVERIES_KEPT)));
    let options = uplink::Options {
        collector: Connector::new(uri.map_err(anyhow::Error::msg)?, files),
        hello: v1::Hello {
            wire_version: WIRE_VERSION,
            host: identity.host.clone(),
            boot_id: identity.boot_id.clone(),
            weir_version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: wire::backend(backend.kind()).into(),
            kernel_release: identity.kernel_release.clone(),
            started_unix_ns: identity.started_unix_ns,
            ..v1::Hello::default()
        },
        private: Private::new(labelling::pseudonyms(&config.labels)?),
        budgets: Budgets {
            hot: collector.hot_bytes_per_s,
            warm: collector.warm_bytes_per_s,
            cold: collector.cold_bytes_per_s,
        },
        core: Some(core),
        ring: collector
            .ring_directory
            .clone()
            .map(|directory| ring::Options::within(directory, collector.ring_max_bytes)),
    };
    let inputs = uplink::Inputs {
        ticks,
        events: events.clone(),
        deliveries: deliveries.clone(),
        centre: Some(centre),
        finish: finish.clone(),
    };
    let task = tokio::spawn(uplink::run(options, inputs, counts));
    let ticks = Ticks {
        to: ticks_to,
        interval: Duration::from_millis(collector.interval_ms.into()),
    };
    let handover = Handover {
        events: Some(events),
        deliveries,
    };
    Ok((Some(ticks), handover, Some(task)))
}

//! Pushes the fleet's metrics at an interval. What a receiver does not take in time is not kept:
//! all of it is cumulative, and the next push says it again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Counts;
use crate::collect::metrics::Gatherer;
use crate::collect::metrics::family::Family;

/// A receiver has so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whose the metrics are.
#[derive(Clone, Debug)]
pub(in crate::collect) struct Identity {
    /// The collector's name.
    pub(in crate::collect) collector: String,
}

/// A receiver of metrics.
pub(super) trait Push: Send + 'static {
    /// Passes families on, as they are at `unix_ns`. Gives how many samples it took and how many it
    /// refused, or why it took none.
    fn push(
        &mut self,
        families: Vec<Family>,
        unix_ns: u64,
    ) -> impl Future<Output = anyhow::Result<(u64, u64)>> + Send;
}

/// Until `stop`, and then once more, so that what was counted last is there as well.
pub(super) async fn run(
    mut sink: impl Push,
    interval_s: u32,
    gatherer: Gatherer,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(interval_s.into()));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let is_last = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        let families = gatherer.gather().await;
        let samples: usize = families.iter().map(|family| family.samples.len()).sum();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ns = u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        match tokio::time::timeout(PATIENCE, sink.push(families, unix_ns)).await {
            Ok(Ok((taken, refused))) => {
                counts.lose(refused);
                counts.pass(taken);
            }
            failed => {
                counts.lose(samples as u64);
                counts.fail(&match failed {
                    Ok(Err(err)) => format!("{err:#}"),
                    _ => format!("the receiver has not answered within {PATIENCE:?}"),
                });
            }
        }
        if is_last {
            return;
        }
    }
}

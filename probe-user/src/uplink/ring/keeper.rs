//! Writes a second's tick to the ring, where waiting for the disk holds up nobody.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::lane::Common;
use super::super::{Tick, warm};
use super::Ring;
use crate::throttle::Throttle;

const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Until the core has made its last tick, which is kept, too.
pub(in super::super) async fn keep(
    ring: Ring,
    every: Duration,
    mut ticks: watch::Receiver<Option<Arc<Tick>>>,
    common: Common,
    finish: CancellationToken,
) {
    let mut keeper = Keeper {
        ring,
        common,
        warnings: Throttle::new(WARNING_INTERVAL),
    };
    keeper.tell(String::new());
    let mut latest: Option<Instant> = None;
    let mut kept = 0;
    let mut is_over = false;
    while !is_over {
        tokio::select! {
            changed = ticks.changed() => is_over = changed.is_err(),
            () = finish.cancelled() => is_over = true,
        }
        // Ticks come at their own interval, which may be a little short of this one.
        let is_due = latest.is_none_or(|at| at.elapsed() >= every.mul_f64(0.95));
        let tick = ticks.borrow_and_update().clone();
        let Some(tick) = tick.filter(|tick| tick.seq > kept && (is_due || is_over)) else {
            continue;
        };
        latest = Some(Instant::now());
        kept = tick.seq;
        let written = tokio::task::spawn_blocking(move || {
            keeper.write(&tick);
            keeper
        });
        match written.await {
            Ok(back) => keeper = back,
            Err(err) => return tracing::error!("the ring's writer failed: {err}"),
        }
    }
}

struct Keeper {
    ring: Ring,
    common: Common,
    warnings: Throttle,
}

impl Keeper {
    fn write(&mut self, tick: &Tick) {
        let counts = &self.common.counts;
        let frame = warm::frame(tick, &self.common.hello, counts.counts());
        match self.ring.write(&frame) {
            Ok(()) => self.tell(String::new()),
            Err(err) => {
                counts.ring_unwritten.fetch_add(1, Ordering::Relaxed);
                if let Some(withheld) = self.warnings.pass(Instant::now()) {
                    tracing::warn!(withheld, "a second is missing in the ring: {err}");
                }
                self.tell(err.to_string());
            }
        }
    }

    fn tell(&self, error: String) {
        self.common.counts.set_ring(self.ring.status(error));
    }
}

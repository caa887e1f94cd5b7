//! What the log is told of losses and failures: once in a while, and what to do.

use std::time::{Duration, Instant};

use super::desk::Desk;
use crate::throttle::Throttle;

const LOSS_WARNING_INTERVAL: Duration = Duration::from_secs(10);
const FAILURE_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// What the log has been told.
#[derive(Debug)]
pub(super) struct Warnings {
    losses: Throttle,
    failures: Throttle,
    told: Vec<u64>,
}

impl Warnings {
    pub(super) fn new() -> Self {
        Self {
            losses: Throttle::new(LOSS_WARNING_INTERVAL),
            failures: Throttle::new(FAILURE_WARNING_INTERVAL),
            told: Vec::new(),
        }
    }

    /// Something that the core does has failed.
    pub(super) fn failure(&mut self, doing: &str, err: &anyhow::Error) {
        if let Some(withheld) = self.failures.pass(Instant::now()) {
            tracing::error!(withheld, "{doing} failed: {err:#}");
        }
    }

    /// Says what was lost since it was last said.
    pub(super) fn losses(&mut self, desk: &Desk) {
        let intake = &desk.intake;
        let labels = desk.label_counts();
        let kernel = intake.kernel_counts();
        let fold = intake.fold().losses();
        let lost = [
            (
                kernel.hot.ring_full,
                "hot_ring_full",
                "raise limits.hot_ring_bytes",
            ),
            (
                kernel.bulk.ring_full,
                "bulk_ring_full",
                "raise limits.bulk_ring_bytes",
            ),
            (
                kernel.sessions_storage_refused,
                "sessions_storage_refused",
                "the kernel has no memory for more sessions",
            ),
            (
                kernel.half_open_refused,
                "half_open_refused",
                "more half-open sessions than weir can watch: a SYN flood?",
            ),
            (
                kernel.ends_unseen,
                "ends_unseen",
                "totals of these sessions are those of the last look; raise \
                 net.core.rmem_default, or give weir CAP_NET_ADMIN",
            ),
            (
                kernel.end_overflows,
                "end_overflows",
                "sessions end faster than their last words fit; raise net.core.rmem_max, or give \
                 weir CAP_NET_ADMIN",
            ),
            (
                intake.records_malformed(),
                "records_malformed",
                "programs and daemon are not of one version",
            ),
            (
                labels.malformed,
                "labels_malformed",
                "what the server sends is no label: see docs/labels.md for the log_format",
            ),
            (
                labels.dropped,
                "labels_dropped",
                "labels come faster than they may; raise labels.max_per_s or labels.queue",
            ),
            (
                fold.sessions_evicted,
                "sessions_evicted",
                "raise limits.max_sessions",
            ),
            (
                fold.cells_overflowed,
                "cells_overflowed",
                "raise limits.max_cells, or name fewer services and networks",
            ),
        ];
        self.told.resize(lost.len(), 0);
        let grown = |told: &[u64]| lost.iter().zip(told).any(|((now, ..), told)| now > told);
        if !grown(&self.told) || self.losses.pass(Instant::now()).is_none() {
            return;
        }
        for ((now, cause, remedy), told) in lost.into_iter().zip(&mut self.told) {
            if now > *told {
                tracing::warn!(cause, lost = now - *told, total = now, "lost: {remedy}");
                *told = now;
            }
        }
    }
}

//! Ticks of a test's own.

use std::time::Instant;

use weir_proto::v1;

use super::{Encoded, Tick};
use crate::kernel::BackendKind;
use crate::labels::Service;
use crate::qoe::viewer::Tier;
use crate::qoe::{CellKey, CellSnapshot, Counters, Gauges, Transport};

/// A cell in which everything counts `n`.
pub(super) fn cell(service: &str, n: u64) -> CellSnapshot {
    CellSnapshot {
        key: CellKey {
            service: Service::Named(service.into()),
            content_class: "-".into(),
            network: "other".into(),
            transport: Transport::Tcp4,
            tier: Tier::Kernel,
            backend: BackendKind::Exact,
        },
        counters: Counters {
            deliveries: n,
            acked_bytes: n * 1000,
            segments: n * 3,
            retrans_fast: n / 2,
            start_attempts: n,
            stalls: n / 7,
            ..Counters::default()
        },
        gauges: Gauges {
            sessions_open: n % 1000,
            ..Gauges::default()
        },
        sustain: Default::default(),
        histograms: Vec::new(),
    }
}

pub(super) fn tick(seq: u64, cells: Vec<CellSnapshot>) -> Tick {
    Tick {
        seq,
        unix_ns: seq.wrapping_mul(1_000_000_000),
        made: Instant::now(),
        interval_ms: 1000,
        config_generation: 1,
        losses: v1::Losses::default(),
        cells,
        encoded: Encoded::default(),
        off: String::new(),
        budget: None,
    }
}

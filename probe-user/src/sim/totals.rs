//! What a run is held to in the end.

use std::ops::AddAssign;

use serde::Serialize;
use weir_proto::v1;

/// Sums by which a collector can be held to what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// As cells count them.
    pub deliveries: u64,
    /// The same.
    pub acked_bytes: u64,
    /// The same.
    pub watched_us: u64,
    /// In all distributions.
    pub values: u64,
}

impl Totals {
    /// Of some cells.
    pub fn of(cells: &[v1::Cell]) -> Self {
        let mut totals = Self::default();
        for cell in cells {
            let counters = cell.counters.unwrap_or_default();
            totals.deliveries += counters.deliveries;
            totals.acked_bytes += counters.acked_bytes;
            totals.watched_us += counters.watched_us;
            let each = cell
                .histograms
                .iter()
                .flat_map(|histogram| &histogram.count);
            totals.values += each.sum::<u64>();
        }
        totals
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.deliveries.add_assign(other.deliveries);
        self.acked_bytes.add_assign(other.acked_bytes);
        self.watched_us.add_assign(other.watched_us);
        self.values.add_assign(other.values);
    }
}

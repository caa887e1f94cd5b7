//! The numbers of the demo: differences of weir's cumulative counters, and delivery times.

use crate::record::{Cell, Counters, Delivery};

/// Sums of all cells at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Finished deliveries.
    pub deliveries: u64,
    /// Of all kinds, those past their deadline.
    pub late: u64,
    /// Cut off.
    pub aborted: u64,
    /// Bytes acknowledged.
    pub acked_bytes: u64,
    /// Data segments sent.
    pub segments: u64,
    /// Sent again.
    pub retransmitted: u64,
}

impl Sums {
    /// Adds up cells.
    pub fn of(cells: &[Cell]) -> Self {
        cells
            .iter()
            .fold(Self::default(), |sums, cell| sums.plus(&cell.counters))
    }

    fn plus(self, counters: &Counters) -> Self {
        Self {
            deliveries: self.deliveries + counters.deliveries,
            late: self.late + counters.late_deliveries,
            aborted: self.aborted + counters.aborted_deliveries,
            acked_bytes: self.acked_bytes + counters.acked_bytes,
            segments: self.segments + counters.segments,
            retransmitted: self.retransmitted
                + counters.retrans_fast
                + counters.retrans_rto
                + counters.retrans_tlp,
        }
    }

    /// What came since `before`. Counters never fall while the daemon runs.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            deliveries: self.deliveries.saturating_sub(before.deliveries),
            late: self.late.saturating_sub(before.late),
            aborted: self.aborted.saturating_sub(before.aborted),
            acked_bytes: self.acked_bytes.saturating_sub(before.acked_bytes),
            segments: self.segments.saturating_sub(before.segments),
            retransmitted: self.retransmitted.saturating_sub(before.retransmitted),
        }
    }

    /// Retransmitted per hundred segments.
    pub fn retransmitted_percent(self) -> f64 {
        if self.segments == 0 {
            0.0
        } else {
            self.retransmitted as f64 * 100.0 / self.segments as f64
        }
    }

    /// Megabits per second over `seconds`.
    pub fn mbps(self, seconds: f64) -> f64 {
        if seconds > 0.0 {
            self.acked_bytes as f64 * 8.0 / 1e6 / seconds
        } else {
            0.0
        }
    }
}

/// Times of the segments among `deliveries`: playlists would only dilute them.
pub fn segment_latencies_ms(deliveries: &[Delivery]) -> Vec<u64> {
    const LEAST_SEGMENT_BYTES: u64 = 20_000;
    let mut latencies: Vec<_> = deliveries
        .iter()
        .filter(|delivery| delivery.acked_bytes >= LEAST_SEGMENT_BYTES)
        .map(|delivery| delivery.latency_us / 1000)
        .collect();
    latencies.sort_unstable();
    latencies
}

/// The value below which `percent` of the sorted values lie; 0 of none.
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99)), (50, 99));
        assert_eq!(percentile(&[7], 95), 7);
        assert_eq!(percentile(&[], 95), 0);
    }

    #[test]
    fn windows_are_differences_and_ratios_survive_nothing() {
        let before = Sums {
            deliveries: 5,
            segments: 100,
            ..Sums::default()
        };
        let after = Sums {
            deliveries: 9,
            segments: 300,
            retransmitted: 20,
            ..before
        };
        let window = after.since(before);
        assert_eq!(window.deliveries, 4);
        assert!((window.retransmitted_percent() - 10.0).abs() < 1e-9);
        assert!(Sums::default().retransmitted_percent().abs() < 1e-9);
    }
}

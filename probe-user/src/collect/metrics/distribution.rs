//! weir's histograms as others have them: with a few fixed bounds, and with exponential buckets.
//!
//! weir's buckets are 3 % wide and log-linear; theirs have other bounds. A bucket goes whole to
//! where its middle lies, so that a value near a bound may be counted 1.6 % beside it, always on the
//! same side: counts stay exact, and only grow. The sum is that of the buckets' middles.

use std::collections::BTreeMap;

use histogram::SparseHistogram;

use super::family::Unit;
use crate::qoe::Metric;

/// Eight buckets for each doubling: 9 % wide.
pub(in crate::collect) const SCHEMA: i32 = 3;

/// A histogram in base units.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::collect) struct Distribution {
    pub(in crate::collect) count: u64,
    pub(in crate::collect) sum: f64,
    /// Upper bounds, the last infinite, and the counts between.
    pub(in crate::collect) bounds: Vec<(f64, u64)>,
    /// Values of zero.
    pub(in crate::collect) zeros: u64,
    /// By exponent: bucket `n` reaches from over `2^((n-1)/8)` up to `2^(n/8)`.
    pub(in crate::collect) exponential: BTreeMap<i32, u64>,
}

/// A metric's unit elsewhere, and what one of weir's units is in it.
pub(super) fn unit_of(metric: Metric) -> (Unit, f64) {
    match metric {
        Metric::DeliveryLatencyUs
        | Metric::ThinkTimeUs
        | Metric::FirstByteUs
        | Metric::DeliveryTailUs
        | Metric::SrttUs
        | Metric::HandshakeUs
        | Metric::StartupTimeUs
        | Metric::StallTimeUs => (Unit::Seconds, 1e-6),
        Metric::DeliveryRateKbps | Metric::BitrateKbps => (Unit::BitsPerSecond, 1e3),
        Metric::RetransmitRatioPpm => (Unit::Ratio, 1e-6),
        Metric::ChunkPerformancePermille => (Unit::Ratio, 1e-3),
    }
}

/// Where a metric's fixed bounds are.
fn bounds_of(metric: Metric) -> &'static [f64] {
    match metric {
        Metric::RetransmitRatioPpm => &[0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5],
        // One: an object takes as long as it plays.
        Metric::ChunkPerformancePermille => &[
            0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0,
        ],
        Metric::DeliveryRateKbps | Metric::BitrateKbps => &[
            250e3, 500e3, 1e6, 2.5e6, 5e6, 8e6, 16e6, 25e6, 50e6, 100e6, 250e6, 1e9,
        ],
        _ => &[
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0,
            30.0, 60.0,
        ],
    }
}

impl Distribution {
    /// The same in base units.
    pub(in crate::collect) fn new(metric: Metric, histogram: &SparseHistogram) -> Self {
        let (_, scale) = unit_of(metric);
        let limits = bounds_of(metric);
        let mut bounds: Vec<_> = limits.iter().map(|bound| (*bound, 0)).collect();
        bounds.push((f64::INFINITY, 0));
        let mut distribution = Self {
            count: 0,
            sum: 0.0,
            bounds,
            zeros: 0,
            exponential: BTreeMap::new(),
        };
        for bucket in histogram {
            let count = bucket.count();
            let middle = f64::midpoint(bucket.start() as f64, bucket.end() as f64) * scale;
            distribution.count += count;
            distribution.sum += middle * count as f64;
            let place = limits.partition_point(|bound| *bound < middle);
            distribution.bounds[place].1 += count;
            if middle > 0.0 {
                *distribution
                    .exponential
                    .entry(exponent(middle))
                    .or_default() += count;
            } else {
                distribution.zeros += count;
            }
        }
        distribution
    }

    /// The exponential buckets as stretches of consecutive ones: how many exponents lie between it
    /// and the stretch before it (of the first: its exponent), and its counts.
    pub(in crate::collect) fn spans(&self) -> Vec<(i32, Vec<u64>)> {
        let mut spans: Vec<(i32, Vec<u64>)> = Vec::new();
        let mut next = 0;
        for (exponent, count) in &self.exponential {
            match spans.last_mut() {
                Some((_, counts)) if *exponent == next => counts.push(*count),
                _ => spans.push((exponent - next, vec![*count])),
            }
            next = exponent + 1;
        }
        spans
    }
}

/// The bucket of a positive value.
fn exponent(value: f64) -> i32 {
    let per_doubling = f64::from(1_i32 << SCHEMA);
    // Every value is between 1e-6 and 1e15.
    #[expect(clippy::cast_possible_truncation, reason = "within +-400")]
    let exponent = (value.log2() * per_doubling).ceil() as i32;
    exponent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qoe::Cell;

    #[test]
    fn counts_stay_exact_and_values_near_where_they_were() {
        let mut random = fastrand::Rng::with_seed(7);
        for metric in Metric::ALL {
            let (_, scale) = unit_of(metric);
            let mut cell = Cell::default();
            let values: Vec<u64> = (0..2000)
                .map(|_| {
                    let power = random.u32(1..20);
                    random.u64(0..1 << power)
                })
                .collect();
            for value in &values {
                cell.record(metric, *value);
            }
            let key = crate::qoe::CellKey::other(crate::kernel::BackendKind::Exact);
            let snapshot = cell.snapshot(key, true);
            let found = Distribution::new(metric, snapshot.histogram(metric).unwrap());
            assert_eq!(found.count, 2000);
            assert_eq!(
                found.bounds.iter().map(|(_, count)| count).sum::<u64>(),
                2000
            );
            let exponential: u64 = found.exponential.values().sum();
            assert_eq!(exponential + found.zeros, 2000);
            assert_eq!(
                found.zeros,
                values.iter().filter(|value| **value == 0).count() as u64
            );
            let sum: f64 = values.iter().map(|value| *value as f64 * scale).sum();
            assert!((found.sum / sum - 1.0).abs() < 0.016, "{metric:?}");
            // Each bound divides them as it would have divided the values, but for those beside it.
            let mut below = 0;
            for (bound, count) in &found.bounds[..found.bounds.len() - 1] {
                below += count;
                let less = |factor: f64| {
                    let bound = bound * factor;
                    values
                        .iter()
                        .filter(|value| **value as f64 * scale <= bound)
                        .count() as u64
                };
                assert!(
                    (less(0.98)..=less(1.02)).contains(&below),
                    "{metric:?} at {bound}"
                );
            }
        }
    }

    #[test]
    fn exponents_are_those_of_native_histograms() {
        // Prometheus: bucket n of schema 3 is (2^((n-1)/8), 2^(n/8)].
        assert_eq!((exponent(1.0), exponent(2.0), exponent(0.5)), (0, 8, -8));
        assert_eq!((exponent(1.01), exponent(1.99)), (1, 8));
        let distribution = Distribution {
            count: 0,
            sum: 0.0,
            bounds: Vec::new(),
            zeros: 0,
            exponential: [(-3, 1), (-2, 2), (5, 3)].into(),
        };
        assert_eq!(distribution.spans(), [(-3, vec![1, 2]), (6, vec![3])]);
    }
}

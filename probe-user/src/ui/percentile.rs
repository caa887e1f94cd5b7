//! Percentiles from the wire's cumulative histograms, whole or over a window.
//!
//! The bucket maths is the `histogram` crate's, with the parameters that travel in the message.

use histogram::{Config, SparseHistogram};
use serde::Serialize;
use weir_proto::v1::{Cell, Histogram, Metric};

/// A distribution in four numbers, in the metric's own unit. Each percentile is the upper end of
/// the bucket it falls into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Values counted.
    pub count: u64,
    /// Half of them are at most this.
    pub p50: u64,
    /// 90 % of them are at most this.
    pub p90: u64,
    /// 99 % of them are at most this.
    pub p99: u64,
}

impl Percentiles {
    /// Of a histogram; `None` if it is empty.
    pub fn of(histogram: &SparseHistogram) -> Option<Self> {
        let result = histogram.quantiles(&[0.5, 0.9, 0.99]).ok()??;
        let mut ends = result.entries().values().map(histogram::Bucket::end);
        Some(Self {
            count: u64::try_from(result.total_count()).unwrap_or(u64::MAX),
            p50: ends.next()?,
            p90: ends.next()?,
            p99: ends.next()?,
        })
    }

    /// Of one metric of a cell, since the daemon's start.
    pub fn of_cell(cell: &Cell, metric: Metric) -> Option<Self> {
        Self::of(&decode(find(cell, metric)?)?)
    }
}

/// The cell's histogram of a metric.
pub fn find(cell: &Cell, metric: Metric) -> Option<&Histogram> {
    cell.histograms
        .iter()
        .find(|histogram| histogram.metric == metric as i32)
}

/// A wire histogram for calculation; `None` if its parts do not fit together.
pub fn decode(histogram: &Histogram) -> Option<SparseHistogram> {
    let config = Config::new(
        u8::try_from(histogram.grouping_power).ok()?,
        u8::try_from(histogram.max_value_power).ok()?,
    )
    .ok()?;
    SparseHistogram::from_parts(config, histogram.bucket.clone(), histogram.count.clone()).ok()
}

/// What was counted between two states of one cumulative histogram; without an older one,
/// everything. `None` if they do not fit together, e.g. because counting began anew between them.
pub fn window(newer: &Histogram, older: Option<&Histogram>) -> Option<SparseHistogram> {
    let newer = decode(newer)?;
    match older {
        Some(older) => newer.checked_sub(&decode(older)?).ok(),
        None => Some(newer),
    }
}

/// The sum of two, exactly; the first alone if their parameters differ.
pub fn merged(sum: Option<SparseHistogram>, next: SparseHistogram) -> Option<SparseHistogram> {
    match sum {
        None => Some(next),
        Some(sum) => sum.checked_add(&next).ok().or(Some(sum)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A wire histogram of the values, as a daemon makes it.
    pub(crate) fn wire(metric: Metric, values: &[u64]) -> Histogram {
        let mut dense = histogram::Histogram::new(5, 40).unwrap();
        for value in values {
            dense.increment(*value).unwrap();
        }
        let (_, bucket, count) = SparseHistogram::from(&dense).into_parts();
        Histogram {
            metric: metric as i32,
            grouping_power: 5,
            max_value_power: 40,
            bucket,
            count,
        }
    }

    #[test]
    fn percentiles_are_within_a_bucket_of_the_truth() {
        let values: Vec<u64> = (1..=10_000).collect();
        let histogram = decode(&wire(Metric::DeliveryLatencyUs, &values)).unwrap();
        let found = Percentiles::of(&histogram).unwrap();
        assert_eq!(found.count, 10_000);
        for (got, truth) in [(found.p50, 5_000), (found.p90, 9_000), (found.p99, 9_900)] {
            assert!(
                got >= truth && got <= truth + truth / 32 + 1,
                "{got} for {truth}"
            );
        }
    }

    #[test]
    fn a_window_holds_only_what_came_after_the_older_state() {
        let older = wire(Metric::DeliveryLatencyUs, &[10, 10, 10]);
        let newer = wire(Metric::DeliveryLatencyUs, &[10, 10, 10, 50_000, 50_000]);
        let window = window(&newer, Some(&older)).unwrap();
        let found = Percentiles::of(&window).unwrap();
        assert_eq!(found.count, 2);
        assert!(found.p50 >= 50_000, "{found:?}");
    }

    #[test]
    fn states_of_different_starts_have_no_window() {
        let before = wire(Metric::DeliveryLatencyUs, &[10, 10, 10]);
        let after = wire(Metric::DeliveryLatencyUs, &[10]);
        assert!(window(&after, Some(&before)).is_none());
    }

    #[test]
    fn a_histogram_whose_parts_do_not_fit_is_not_used() {
        let mut broken = wire(Metric::DeliveryLatencyUs, &[1, 2]);
        broken.count.pop();
        assert!(decode(&broken).is_none());
        broken.grouping_power = 300;
        assert!(decode(&broken).is_none());
    }

    #[test]
    fn nothing_counted_has_no_percentiles() {
        let empty = decode(&wire(Metric::DeliveryLatencyUs, &[])).unwrap();
        assert_eq!(Percentiles::of(&empty), None);
    }
}

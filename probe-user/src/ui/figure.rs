//! Figures with what they rest on: how many, and between what the truth lies in nineteen cases of
//! twenty, if what was counted is taken for independent.

use histogram::SparseHistogram;
use serde::Serialize;
use weir_proto::v1::{Cell, Counters, Metric};

use super::percentile::{decode, find};
use crate::qoe::share::{Z, wilson};

/// A number that is published.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The likeliest.
    pub value: f64,
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
    /// Of how many.
    pub n: u64,
}

impl Figure {
    /// A share with its interval; none: of nothing.
    pub fn share(part: u64, whole: u64) -> Option<Self> {
        let (value, low, high) = wilson(part, whole)?;
        Some(Self {
            value,
            low,
            high,
            n: whole,
        })
    }

    /// A quantile, between the ranks that bound it whatever the distribution is: how many of n lie
    /// below it is binomial. Ends are those of the buckets.
    pub fn quantile(histogram: &SparseHistogram, quantile: f64) -> Option<Self> {
        let n: u64 = histogram.count().iter().sum();
        if n == 0 {
            return None;
        }
        let half = Z * (quantile * (1.0 - quantile) / n as f64).sqrt();
        let at = |quantile: f64| {
            let result = histogram.quantiles(&[quantile.clamp(0.0, 1.0)]).ok()??;
            result.entries().values().next().cloned()
        };
        Some(Self {
            value: at(quantile)?.end() as f64,
            low: at(quantile - half)?.start() as f64,
            high: at(quantile + half)?.end() as f64,
            n,
        })
    }

    /// The same of a cell's distribution.
    pub fn of_cell(cell: &Cell, metric: Metric, quantile: f64) -> Option<Self> {
        Self::quantile(&decode(find(cell, metric)?)?, quantile)
    }

    /// In another unit.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self {
            value: self.value * factor,
            low: self.low * factor,
            high: self.high * factor,
            n: self.n,
        }
    }

    /// `1.25 (1.10-1.43, n 812)`.
    pub fn text(&self, digits: usize) -> String {
        let Self {
            value,
            low,
            high,
            n,
            ..
        } = self;
        format!("{value:.digits$} ({low:.digits$}-{high:.digits$}, n {n})")
    }
}

/// One request in so many without a name, and what is said of viewers may be something else than all
/// labels would have said.
const VOID_ONE_IN: u64 = 20;
/// Of fewer requests nothing follows.
const LEAST_REQUESTS: u64 = 20;

/// Of the requests of a cell's viewers, how many are named, and how many there are as far as is known;
/// none: nothing is named here. A request of which nothing came shows as a delivery without a name, or
/// as a line's missing number, or as both.
pub fn coverage(counters: &Counters) -> Option<(u64, u64)> {
    let named = counters.requests_named;
    let missing = counters.requests_nameless.max(counters.lines_lost);
    let all = named.saturating_add(missing);
    (all > 0).then_some((named, all))
}

/// Whether too few requests are named for the numbers of viewers to mean anything.
pub fn is_void_by_labels(counters: &Counters) -> bool {
    coverage(counters).is_some_and(|(named, all)| {
        all >= LEAST_REQUESTS && (all - named).saturating_mul(VOID_ONE_IN) > all
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::percentile::tests::wire;

    #[test]
    fn a_share_has_wilsons_interval() {
        // By hand: 1 of 10, 95 %: 0.0179 to 0.4042.
        let found = Figure::share(1, 10).unwrap();
        assert!((found.low - 0.0179).abs() < 1e-3 && (found.high - 0.4042).abs() < 1e-3);
        let none = Figure::share(0, 100).unwrap();
        assert!(
            none.low.abs() < 1e-9 && (none.high - 0.037).abs() < 1e-3,
            "{none:?}"
        );
        assert_eq!(Figure::share(0, 0), None);
        assert_eq!(Figure::share(5, 5).map(|found| found.n), Some(5));
    }

    #[test]
    fn a_medians_interval_holds_the_median_and_narrows_with_more() {
        let of = |n: u64| {
            let values: Vec<u64> = (1..=n).map(|at| 1000 * at / n).collect();
            let histogram = decode(&wire(Metric::StartupTimeUs, &values)).unwrap();
            Figure::quantile(&histogram, 0.5).unwrap()
        };
        let (few, many) = (of(20), of(2000));
        for found in [few, many] {
            assert!(found.low <= 500.0 && found.high >= 500.0, "{found:?}");
        }
        assert!(many.high - many.low < (few.high - few.low) / 2.0);
        assert_eq!((few.n, many.n), (20, 2000));
        // One value is its own bounds.
        assert_eq!(of(1).n, 1);
    }

    #[test]
    fn half_of_the_lines_missing_makes_viewers_void_and_few_requests_do_not() {
        let counters = |requests_named, requests_nameless, lines_lost| Counters {
            requests_named,
            requests_nameless,
            lines_lost,
            ..Counters::default()
        };
        assert_eq!(coverage(&counters(0, 0, 0)), None);
        assert!(is_void_by_labels(&counters(50, 50, 0)));
        assert!(is_void_by_labels(&counters(50, 0, 50)));
        assert!(!is_void_by_labels(&counters(950, 50, 49)));
        assert!(!is_void_by_labels(&counters(5, 5, 5)));
        assert_eq!(coverage(&counters(6, 4, 5)), Some((6, 11)));
    }
}

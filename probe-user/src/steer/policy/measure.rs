//! From what a cell counted to the shares that policies watch.

use super::input::Estimate;
use super::rules::Metric;
use crate::qoe::blame::WHOLE_PPM;
use crate::qoe::share::wilson;
use crate::qoe::{Counters, Gauges};

/// What a metric counts: trials, and of these those that were bad. Of viewers at risk it is what is
/// open `now`, of stalls seconds.
pub fn counted(metric: Metric, counted: &Counters, now: &Gauges) -> (u64, u64) {
    match metric {
        Metric::LateDeliveryShare => (counted.deliveries, counted.late_deliveries),
        Metric::StartFailureShare => (counted.start_attempts, counted.start_failures()),
        Metric::SessionsAtRiskShare => (now.viewers_active, now.viewers_at_risk),
        Metric::RetransmitRatio => {
            let again = counted
                .retrans_fast
                .saturating_add(counted.retrans_rto)
                .saturating_add(counted.retrans_tlp);
            (counted.segments, again)
        }
        Metric::RebufferRatio => (
            counted.watched_us / 1_000_000,
            counted.stalled_us / 1_000_000,
        ),
    }
}

/// Every share of one window: `in_window` is the difference of two looks at a cell, `now` what is
/// open at its end, and `is_void` whether too much is missing.
pub fn estimates(in_window: &Counters, now: &Gauges, is_void: bool) -> Vec<(Metric, Estimate)> {
    Metric::ALL
        .into_iter()
        .map(|metric| {
            let estimate = if metric == Metric::RebufferRatio {
                rebuffer(in_window, is_void)
            } else {
                let (n, bad) = counted(metric, in_window, now);
                Estimate::of_counts(n, bad, is_void)
            };
            (metric, estimate)
        })
        .collect()
}

/// Seconds of watching are no independent trials; its bounds are those of the viewers' models.
fn rebuffer(counted: &Counters, is_void: bool) -> Estimate {
    let share = |us: u64| {
        let ppm = u128::from(us.min(counted.watched_us)) * u128::from(WHOLE_PPM)
            / u128::from(counted.watched_us.max(1));
        u32::try_from(ppm).unwrap_or(WHOLE_PPM)
    };
    let point_ppm = share(counted.stalled_us);
    Estimate {
        n: counted.watched_us / 1_000_000,
        low_ppm: share(counted.stalled_low_us).min(point_ppm),
        point_ppm,
        high_ppm: share(counted.stalled_high_us).max(point_ppm),
        is_void,
    }
}

impl Estimate {
    /// So many bad of n, with Wilson's interval of 95 %. Without trials it is void.
    pub fn of_counts(n: u64, bad: u64, is_void: bool) -> Self {
        let Some((point, low, high)) = wilson(bad, n) else {
            return Self {
                is_void: true,
                ..Self::default()
            };
        };
        Self {
            n,
            low_ppm: ppm(low),
            point_ppm: ppm(point),
            high_ppm: ppm(high),
            is_void,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a million is between 0 and a million"
)]
fn ppm(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * f64::from(WHOLE_PPM)).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_is_made_of_its_counts() {
        let counted = Counters {
            deliveries: 1000,
            late_deliveries: 20,
            start_attempts: 100,
            start_failures_http: 3,
            start_failures_client: 2,
            segments: 10_000,
            retrans_fast: 60,
            retrans_rto: 30,
            retrans_tlp: 10,
            watched_us: 100_000_000,
            stalled_us: 2_000_000,
            stalled_low_us: 1_000_000,
            stalled_high_us: 4_000_000,
            ..Counters::default()
        };
        let now = Gauges {
            viewers_active: 50,
            viewers_at_risk: 5,
            ..Gauges::default()
        };
        let all = estimates(&counted, &now, false);
        for (metric, n, point_ppm) in [
            (Metric::LateDeliveryShare, 1000, 20_000),
            (Metric::StartFailureShare, 100, 50_000),
            (Metric::SessionsAtRiskShare, 50, 100_000),
            (Metric::RetransmitRatio, 10_000, 10_000),
            (Metric::RebufferRatio, 100, 20_000),
        ] {
            let (_, found) = all.iter().find(|(own, _)| *own == metric).unwrap();
            assert_eq!((found.n, found.point_ppm), (n, point_ppm), "{metric:?}");
            assert!(found.is_sound() && found.low_ppm < point_ppm && found.high_ppm > point_ppm);
        }
    }

    #[test]
    fn nothing_counted_and_counts_that_cannot_be_are_no_evidence_or_whole() {
        for (_, found) in estimates(&Counters::default(), &Gauges::default(), false) {
            assert!(found.is_void || found.n == 0, "{found:?}");
        }
        let mad = Estimate::of_counts(3, u64::MAX, false);
        assert_eq!((mad.point_ppm, mad.is_sound()), (WHOLE_PPM, true));
        assert!(Estimate::of_counts(u64::MAX, u64::MAX, false).is_sound());
    }
}

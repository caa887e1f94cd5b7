//! What the live view knows: the latest snapshot, a short past of the cells' cumulative counters,
//! and what follows from their differences. No drawing, no clock, no I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use histogram::SparseHistogram;
use weir_proto::v1::{Cell, Metric, Snapshot};

use crate::ui::listing::retransmitted;
use crate::ui::losses;
use crate::ui::percentile::{self, Percentiles};
use crate::ui::units;

/// Window lengths to choose from, in seconds.
pub const WINDOWS_S: [u64; 3] = [5, 1, 30];
/// Snapshots kept to take windows from: enough for the longest at one per second.
const PAST: usize = 32;
/// Points kept for the trends.
pub const TREND_POINTS: usize = 120;

/// Whether the numbers are live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Nothing has been heard yet.
    #[default]
    Connecting,
    /// Snapshots come.
    Live,
    /// The daemon is gone, and why; it is being looked for.
    Gone(String),
}

/// What happened in a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// Length of the window.
    pub seconds: f64,
    /// Deliveries completed.
    pub deliveries: u64,
    /// Bytes acknowledged.
    pub acked_bytes: u64,
    /// Deliveries reported late.
    pub late: u64,
    /// Deliveries cut off.
    pub aborted: u64,
    /// Segments sent.
    pub segments: u64,
    /// Segments retransmitted.
    pub retransmitted: u64,
    /// Delivery latency.
    pub latency_us: Option<Percentiles>,
    /// Request to first acknowledgement.
    pub first_byte_us: Option<Percentiles>,
    /// Request to first write.
    pub think_us: Option<Percentiles>,
    /// Last write to last acknowledgement.
    pub tail_us: Option<Percentiles>,
}

impl Rates {
    /// Deliveries per second.
    pub fn deliveries_per_s(&self) -> f64 {
        self.deliveries as f64 / self.seconds
    }

    /// Bits acknowledged per second.
    pub fn bits_per_s(&self) -> f64 {
        self.acked_bytes as f64 * 8.0 / self.seconds
    }

    /// Retransmitted per segments sent; `None` if none was sent.
    pub fn retransmit_ratio(&self) -> Option<f64> {
        (self.segments > 0).then(|| self.retransmitted as f64 / self.segments as f64)
    }
}

/// One line of the cells pane.
#[derive(Clone, Debug, PartialEq)]
pub struct CellRow {
    /// `service/content_class/network/transport`.
    pub path: String,
    /// Sessions open now.
    pub sessions_open: u64,
    /// Deliveries open and late now.
    pub open_late: u64,
    /// `None` until there are two snapshots.
    pub rates: Option<Rates>,
    /// Too many records of that time are missing for the rates to mean anything.
    pub void: bool,
}

/// All cells together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Sessions open now.
    pub sessions_open: u64,
    /// Deliveries open and late now.
    pub open_late: u64,
    /// Viewers now.
    pub viewers: Viewers,
    /// `None` until there are two snapshots.
    pub rates: Option<Rates>,
}

/// Viewers at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Viewers {
    /// All.
    pub active: u64,
    /// Standing still.
    pub stalled: u64,
    /// About to.
    pub at_risk: u64,
}

/// One point of the trends: what happened between two snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Deliveries per second, in tenths.
    pub deliveries_per_10s: u64,
    /// 99th percentile of the delivery latency; 0 if nothing was delivered.
    pub latency_p99_us: u64,
    /// Deliveries open and late.
    pub open_late: u64,
}

/// The cells of one snapshot.
#[derive(Debug)]
struct Past {
    unix_ns: u64,
    cells: HashMap<String, Cell>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Model {
    latest: Option<Arc<Snapshot>>,
    link: Link,
    past: VecDeque<Arc<Past>>,
    trend: VecDeque<Point>,
}

impl Model {
    /// Takes in what the daemon says now. A daemon that was started anew begins a new past.
    pub fn apply(&mut self, snapshot: Snapshot) {
        self.link = Link::Live;
        let boot = |snapshot: &Snapshot| {
            snapshot
                .status
                .as_ref()
                .map(|status| status.boot_id.clone())
        };
        let same_boot = self
            .latest
            .as_ref()
            .is_some_and(|latest| boot(latest) == boot(&snapshot));
        // A clock that was set back would make windows of negative length.
        let forward = self
            .past
            .back()
            .is_some_and(|past| past.unix_ns < snapshot.unix_ns);
        if !(same_boot && forward) {
            self.past.clear();
        }
        if !same_boot {
            self.trend.clear();
        }
        if self.past.len() == PAST {
            self.past.pop_front();
        }
        self.past.push_back(Arc::new(Past {
            unix_ns: snapshot.unix_ns,
            cells: snapshot
                .cells
                .iter()
                .map(|cell| (units::cell_path(cell.key.as_ref()), cell.clone()))
                .collect(),
        }));
        self.latest = Some(Arc::new(snapshot));
        self.extend_trend();
    }

    /// Notes that the daemon is gone; what it said last stays.
    pub fn lost(&mut self, why: String) {
        self.link = Link::Gone(why);
    }

    /// Begins a new past: what comes next answers another question.
    pub fn restart(&mut self) {
        self.past.clear();
        self.trend.clear();
    }

    /// What the daemon said last.
    pub fn latest(&self) -> Option<&Snapshot> {
        self.latest.as_deref()
    }

    /// Whether it still says something.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The last points, oldest first.
    pub fn trend(&self) -> &VecDeque<Point> {
        &self.trend
    }

    /// The cells, with what happened in them during the last `window_s` seconds (or as long as is
    /// known).
    pub fn cells(&self, window_s: u64) -> Vec<CellRow> {
        let Some(now) = self.past.back() else {
            return Vec::new();
        };
        let base = self.base(window_s);
        let row = |(path, cell): (&String, &Cell)| CellRow {
            path: path.clone(),
            sessions_open: cell.sessions_open,
            open_late: cell.deliveries_open_late,
            rates: base.map(|base| {
                let mut sum = Sum::default();
                sum.add(cell, base.cells.get(path));
                sum.over(seconds_between(base, now))
            }),
            void: base.is_some_and(|base| losses::is_void_since(cell, base.cells.get(path))),
        };
        now.cells.iter().map(row).collect()
    }

    /// All cells together, likewise.
    pub fn totals(&self, window_s: u64) -> Totals {
        let Some(now) = self.past.back() else {
            return Totals::default();
        };
        let gauge = |of: fn(&Cell) -> u64| now.cells.values().map(of).sum();
        Totals {
            sessions_open: gauge(|cell| cell.sessions_open),
            open_late: gauge(|cell| cell.deliveries_open_late),
            viewers: Viewers {
                active: gauge(|cell| cell.viewers_active),
                stalled: gauge(|cell| cell.viewers_stalled),
                at_risk: gauge(|cell| cell.viewers_at_risk),
            },
            rates: self.base(window_s).map(|base| sum_between(base, now)),
        }
    }

    /// The snapshot that the window begins with: the latest that is old enough, else the oldest;
    /// `None` if there is but one.
    fn base(&self, window_s: u64) -> Option<&Past> {
        let now = self.past.back()?;
        // Snapshots come a little early or late: a tenth of a second is still the same window.
        let begin = now.unix_ns.saturating_sub(window_s * 1_000_000_000) + 100_000_000;
        let older = self.past.iter().rev().skip(1);
        older
            .clone()
            .find(|past| past.unix_ns <= begin)
            .or(older.last())
            .map(AsRef::as_ref)
    }

    fn extend_trend(&mut self) {
        let mut last_two = self.past.iter().rev();
        let (Some(now), Some(before)) = (last_two.next(), last_two.next()) else {
            return;
        };
        let rates = sum_between(before, now);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is not negative and far below 2^63"
        )]
        let point = Point {
            deliveries_per_10s: (rates.deliveries_per_s() * 10.0).round() as u64,
            latency_p99_us: rates.latency_us.map_or(0, |found| found.p99),
            open_late: now
                .cells
                .values()
                .map(|cell| cell.deliveries_open_late)
                .sum(),
        };
        if self.trend.len() == TREND_POINTS {
            self.trend.pop_front();
        }
        self.trend.push_back(point);
    }
}

fn seconds_between(older: &Past, newer: &Past) -> f64 {
    newer.unix_ns.saturating_sub(older.unix_ns).max(1) as f64 / 1e9
}

fn sum_between(older: &Past, newer: &Past) -> Rates {
    let mut sum = Sum::default();
    for (path, cell) in &newer.cells {
        sum.add(cell, older.cells.get(path));
    }
    sum.over(seconds_between(older, newer))
}

/// Differences of cells, added up.
#[derive(Default)]
struct Sum {
    rates: Rates,
    latency: Option<SparseHistogram>,
    first_byte: Option<SparseHistogram>,
    think: Option<SparseHistogram>,
    tail: Option<SparseHistogram>,
}

impl Sum {
    /// Adds what happened to `newer` since `older` (since its beginning, if it is new).
    fn add(&mut self, newer: &Cell, older: Option<&Cell>) {
        let now = newer.counters.unwrap_or_default();
        let then = older.and_then(|older| older.counters).unwrap_or_default();
        let rates = &mut self.rates;
        rates.deliveries += now.deliveries.saturating_sub(then.deliveries);
        rates.acked_bytes += now.acked_bytes.saturating_sub(then.acked_bytes);
        rates.late += now.late_deliveries.saturating_sub(then.late_deliveries);
        rates.aborted += now
            .aborted_deliveries
            .saturating_sub(then.aborted_deliveries);
        rates.segments += now.segments.saturating_sub(then.segments);
        rates.retransmitted += retransmitted(&now).saturating_sub(retransmitted(&then));
        for (metric, sum) in [
            (Metric::DeliveryLatencyUs, &mut self.latency),
            (Metric::FirstByteUs, &mut self.first_byte),
            (Metric::ThinkTimeUs, &mut self.think),
            (Metric::DeliveryTailUs, &mut self.tail),
        ] {
            let window = percentile::find(newer, metric).and_then(|newer| {
                let older = older.and_then(|older| percentile::find(older, metric));
                percentile::window(newer, older)
            });
            if let Some(window) = window {
                *sum = percentile::merged(sum.take(), window);
            }
        }
    }

    fn over(self, seconds: f64) -> Rates {
        let of = |sum: Option<SparseHistogram>| Percentiles::of(&sum?);
        Rates {
            seconds,
            latency_us: of(self.latency),
            first_byte_us: of(self.first_byte),
            think_us: of(self.think),
            tail_us: of(self.tail),
            ..self.rates
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, SECOND_NS};
    use super::*;

    /// A snapshot of one cell at `second`, with deliveries of these latencies so far.
    fn at(second: u64, latencies_us: &[u64]) -> Snapshot {
        fixture::snapshot(second, latencies_us)
    }

    fn only_rates(model: &Model, window_s: u64) -> Rates {
        let cells = model.cells(window_s);
        assert_eq!(cells.len(), 1);
        cells[0].rates.clone().unwrap()
    }

    #[test]
    fn one_snapshot_has_gauges_and_no_rates() {
        let mut model = Model::default();
        model.apply(at(10, &[1000]));
        assert_eq!(model.cells(5)[0].rates, None);
        assert_eq!(model.totals(5).sessions_open, 7);
        assert!(model.trend().is_empty());
    }

    #[test]
    fn rates_and_percentiles_are_those_of_the_window() {
        let mut model = Model::default();
        let mut latencies = vec![1_000; 100];
        model.apply(at(10, &latencies));
        for second in 11..=20 {
            latencies.extend([50_000, 50_000]);
            model.apply(at(second, &latencies));
        }
        let rates = only_rates(&model, 5);
        assert!((rates.seconds - 5.0).abs() < 1e-9, "{rates:?}");
        assert_eq!(rates.deliveries, 10);
        assert!((rates.deliveries_per_s() - 2.0).abs() < 1e-9);
        let latency = rates.latency_us.unwrap();
        assert_eq!(latency.count, 10);
        assert!(latency.p50 >= 50_000 && latency.p50 < 52_000, "{latency:?}");
        // One second, and longer than is known.
        assert_eq!(only_rates(&model, 1).deliveries, 2);
        assert_eq!(only_rates(&model, 30).deliveries, 20);
    }

    #[test]
    fn a_missed_snapshot_lengthens_the_window_and_keeps_the_rate() {
        let mut model = Model::default();
        model.apply(at(10, &[]));
        model.apply(at(14, &[1_000; 8]));
        let rates = only_rates(&model, 1);
        assert!((rates.deliveries_per_s() - 2.0).abs() < 1e-9, "{rates:?}");
        assert_eq!(model.trend().back().unwrap().deliveries_per_10s, 20);
    }

    #[test]
    fn a_new_cell_counts_from_its_beginning() {
        let mut model = Model::default();
        let mut empty = at(10, &[]);
        empty.cells.clear();
        model.apply(empty);
        model.apply(at(11, &[1_000; 3]));
        assert_eq!(only_rates(&model, 5).deliveries, 3);
    }

    #[test]
    fn totals_add_up_over_cells() {
        let mut model = Model::default();
        let mut two = |second, latencies: &[u64]| {
            let mut snapshot = at(second, latencies);
            let mut other = snapshot.cells[0].clone();
            other.key.as_mut().unwrap().network = "mobile".into();
            snapshot.cells.push(other);
            model.apply(snapshot);
        };
        two(10, &[]);
        two(11, &[2_000, 3_000]);
        let totals = model.totals(5);
        assert_eq!(totals.sessions_open, 14);
        let rates = totals.rates.unwrap();
        assert_eq!(rates.deliveries, 4);
        assert_eq!(rates.latency_us.unwrap().count, 4);
    }

    #[test]
    fn a_restarted_daemon_begins_a_new_past() {
        let mut model = Model::default();
        model.apply(at(10, &[1_000; 50]));
        model.apply(at(11, &[1_000; 60]));
        let mut anew = at(12, &[1_000; 2]);
        anew.status.as_mut().unwrap().boot_id = "another".into();
        model.apply(anew);
        assert_eq!(model.cells(5)[0].rates, None);
        assert!(model.trend().is_empty());
    }

    #[test]
    fn a_clock_set_back_gives_no_window_instead_of_a_wrong_one() {
        let mut model = Model::default();
        model.apply(at(10, &[1_000; 5]));
        model.apply(at(8, &[1_000; 9]));
        assert_eq!(model.totals(5).rates, None);
    }

    #[test]
    fn what_a_lost_daemon_said_last_stays() {
        let mut model = Model::default();
        model.apply(at(10, &[1_000]));
        model.lost("connection reset".into());
        assert_eq!(model.link(), &Link::Gone("connection reset".into()));
        assert_eq!(model.latest().unwrap().unix_ns, 10 * SECOND_NS);
        model.apply(at(11, &[1_000; 4]));
        assert_eq!(model.link(), &Link::Live);
        assert_eq!(only_rates(&model, 5).deliveries, 3);
    }

    #[test]
    fn memory_is_bounded() {
        let mut model = Model::default();
        for second in 0..1_000 {
            model.apply(at(second, &[]));
        }
        assert_eq!(model.past.len(), PAST);
        assert_eq!(model.trend().len(), TREND_POINTS);
    }
}

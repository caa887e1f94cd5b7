//! `weir cells`: the aggregates, since the daemon's start, with their percentiles.

use std::collections::BTreeMap;

use serde::Serialize;
use weir_proto::v1::{Cell, Counters, Estimate, Metric};

use super::viewers::ratio;
use super::{ratio_ppm, retransmitted, sort_by_key};
use crate::ui::losses;
use crate::ui::out::Mark;
use crate::ui::percentile::Percentiles;
use crate::ui::table::{Column, Value};
use crate::ui::units;

/// A cell as printed: the wire's message, and the percentiles of its histograms by metric.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// As counted. Without its histograms unless they were asked for.
    #[serde(flatten)]
    pub cell: Cell,
    /// By the metric's name, which says the unit; a metric without values is absent, and so is one
    /// of which too much is missing.
    pub percentiles: BTreeMap<String, Percentiles>,
    /// Too many records are missing for shares and distributions to mean anything.
    pub void: bool,
}

/// The same of a window.
#[derive(Clone, Debug, Serialize)]
pub struct InWindow {
    /// Its end.
    pub until_unix_ns: u64,
    /// How long it is.
    pub seconds: u32,
    /// What was counted in it.
    #[serde(flatten)]
    pub row: Row,
}

impl Row {
    /// Computes the percentiles; keeps the buckets only if `buckets`.
    pub fn new(mut cell: Cell, buckets: bool) -> Self {
        let void = losses::is_void(&cell);
        let percentiles = cell
            .histograms
            .iter()
            .filter_map(|histogram| {
                let metric = histogram.metric();
                if void {
                    return None;
                }
                Percentiles::of_cell(&cell, metric).map(|found| (metric.word(), found))
            })
            .collect();
        if !buckets {
            cell.histograms.clear();
        }
        Self {
            cell,
            percentiles,
            void,
        }
    }

    fn counters(&self) -> Counters {
        self.cell.counters.unwrap_or_default()
    }

    fn percentiles(&self, metric: Metric) -> Option<&Percentiles> {
        self.percentiles.get(&metric.word())
    }
}

/// What to order cells by, largest first (`name` the other way round).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Service, content class, network, transport.
    Name,
    /// Deliveries.
    Deliveries,
    /// Late deliveries.
    Late,
    /// Aborted deliveries.
    Aborted,
    /// The 99th percentile of the delivery latency.
    LatencyP99,
    /// Share of segments retransmitted.
    Retransmit,
    /// Bytes acknowledged.
    Bytes,
    /// Sessions open now.
    Open,
}

/// Puts cells into an order.
pub fn sort(rows: &mut [Row], by: Sort, reverse: bool) {
    if by == Sort::Name {
        rows.sort_by_key(|row| units::cell_path(row.cell.key.as_ref()));
        if reverse {
            rows.reverse();
        }
        return;
    }
    sort_by_key(rows, reverse, |row| {
        let counters = row.counters();
        match by {
            Sort::Name => 0,
            Sort::Deliveries => counters.deliveries,
            Sort::Late => counters.late_deliveries,
            Sort::Aborted => counters.aborted_deliveries,
            Sort::LatencyP99 => row
                .percentiles(Metric::DeliveryLatencyUs)
                .map_or(0, |found| found.p99),
            Sort::Retransmit => ratio_ppm(retransmitted(&counters), counters.segments),
            Sort::Bytes => counters.acked_bytes,
            Sort::Open => row.cell.sessions_open,
        }
    });
}

/// A figure, unless too much is missing for one.
fn unless_void(row: &Row, figure: impl FnOnce() -> Value) -> Value {
    if row.void {
        Value::new(losses::VOID, Mark::Bad)
    } else {
        figure()
    }
}

/// A percentile over a thousand: microseconds as milliseconds, kilobits as megabits.
fn thousandths(row: &Row, metric: Metric, which: fn(&Percentiles) -> u64) -> Value {
    unless_void(row, || {
        row.percentiles(metric)
            .map_or_else(
                || units::ABSENT.to_owned(),
                |found| format!("{:.3}", which(found) as f64 / 1e3),
            )
            .into()
    })
}

fn start_failures(counters: &Counters) -> u64 {
    weir_counters(counters).start_failures()
}

/// The counts as the daemon has them, which know what follows from them.
fn weir_counters(counters: &Counters) -> crate::qoe::Counters {
    counters.into()
}

/// The table's columns.
pub const COLUMNS: &[Column<Row>] = &[
    Column::left("cell", |row| units::cell_path(row.cell.key.as_ref()).into()),
    Column::right("hosts", |row| row.cell.hosts.into()),
    Column::right("sessions_open", |row| row.cell.sessions_open.into()),
    Column::right("open_late", |row| {
        Value::count(row.cell.deliveries_open_late, Mark::Bad)
    }),
    Column::right("deliveries", |row| row.counters().deliveries.into()),
    Column::right("late", |row| {
        Value::count(row.counters().late_deliveries, Mark::Bad)
    }),
    Column::right("left_out", |row| {
        // Not 0: the deliveries are a sample.
        Value::count(row.counters().sessions_left_out, Mark::Warn)
    }),
    Column::right("aborted", |row| {
        Value::count(row.counters().aborted_deliveries, Mark::Warn)
    }),
    Column::right("unanswered", |row| {
        Value::count(row.counters().unanswered_requests, Mark::Warn)
    }),
    Column::right("latency_p50_ms", |row| {
        thousandths(row, Metric::DeliveryLatencyUs, |found| found.p50)
    }),
    Column::right("latency_p99_ms", |row| {
        thousandths(row, Metric::DeliveryLatencyUs, |found| found.p99)
    }),
    Column::right("think_p99_ms", |row| {
        thousandths(row, Metric::ThinkTimeUs, |found| found.p99)
    }),
    Column::right("first_byte_p99_ms", |row| {
        thousandths(row, Metric::FirstByteUs, |found| found.p99)
    }),
    Column::right("tail_p99_ms", |row| {
        thousandths(row, Metric::DeliveryTailUs, |found| found.p99)
    }),
    Column::right("srtt_p50_ms", |row| {
        thousandths(row, Metric::SrttUs, |found| found.p50)
    }),
    Column::right("rate_p50_mbps", |row| {
        thousandths(row, Metric::DeliveryRateKbps, |found| found.p50)
    }),
    Column::right("retrans_pct", |row| {
        let counters = row.counters();
        unless_void(row, || {
            units::percent(retransmitted(&counters), counters.segments).into()
        })
    }),
    Column::right("retrans_fast", |row| row.counters().retrans_fast.into()),
    Column::right("retrans_rto", |row| {
        Value::count(row.counters().retrans_rto, Mark::Warn)
    }),
    Column::right("retrans_tlp", |row| row.counters().retrans_tlp.into()),
    Column::right("viewers", |row| row.cell.viewers_active.into()),
    Column::right("stalled", |row| {
        Value::count(row.cell.viewers_stalled, Mark::Bad)
    }),
    Column::right("at_risk", |row| {
        Value::count(row.cell.viewers_at_risk, Mark::Warn)
    }),
    Column::right("start_attempts", |row| row.counters().start_attempts.into()),
    Column::right("start_failure_pct", |row| {
        let counters = row.counters();
        unless_void(row, || {
            units::share(start_failures(&counters), counters.start_attempts).into()
        })
    }),
    Column::right("startup_p50_ms", |row| {
        thousandths(row, Metric::StartupTimeUs, |found| found.p50)
    }),
    Column::right("rebuffer_pct", |row| {
        let counters = row.counters();
        let stalled = Estimate {
            low: counters.stalled_low_us,
            point: counters.stalled_us,
            high: counters.stalled_high_us,
        };
        unless_void(row, || ratio(Some(stalled), counters.watched_us).into())
    }),
    Column::right("stalls", |row| {
        Value::count(row.counters().stalls, Mark::Bad)
    }),
    Column::right("slow_chunk_pct", |row| {
        let counters = row.counters();
        unless_void(row, || {
            units::share(counters.slow_chunks, counters.chunks).into()
        })
    }),
    Column::left("verdict", |row| {
        unless_void(row, || {
            weir_counters(&row.counters())
                .verdict()
                .map_or_else(|| units::ABSENT.to_owned(), |found| found.to_string())
                .into()
        })
    }),
    Column::right("acked_bytes", |row| row.counters().acked_bytes.into()),
    Column::right("sessions", |row| {
        let counters = row.counters();
        (counters.sessions_started + counters.sessions_adopted).into()
    }),
    Column::right("half_open_give_ups", |row| {
        Value::count(row.counters().half_open_give_ups, Mark::Warn)
    }),
];

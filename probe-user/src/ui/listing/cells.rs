//! `weir cells`: the aggregates, since the daemon's start, with their percentiles.

use std::collections::BTreeMap;

use serde::Serialize;
use weir_proto::v1::{Cell, Counters, Estimate, Metric};

use super::viewers::ratio;
use super::{ratio_ppm, retransmitted, sort_by_key};
use crate::ui::figure::{self, Figure};
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
    /// With what they rest on; absent: of nothing, or void.
    pub figures: BTreeMap<&'static str, Figure>,
    /// Too many records are missing for shares and distributions to mean anything.
    pub void: bool,
    /// Too few requests are named for the numbers of viewers to mean anything.
    pub void_viewers: bool,
    /// Why either is.
    pub void_why: Vec<String>,
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
        let counters = cell.counters.unwrap_or_default();
        let void_viewers = void || figure::is_void_by_labels(&counters);
        let figures = figures(&cell, void, void_viewers);
        let void_why = void_why(&cell, void);
        if !buckets {
            cell.histograms.clear();
        }
        Self {
            cell,
            percentiles,
            figures,
            void,
            void_viewers,
            void_why,
        }
    }

    fn counters(&self) -> Counters {
        self.cell.counters.unwrap_or_default()
    }

    fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.get(name)
    }

    fn percentiles(&self, metric: Metric) -> Option<&Percentiles> {
        self.percentiles.get(&metric.word())
    }
}

/// What is missing, where it makes numbers void.
fn void_why(cell: &Cell, void: bool) -> Vec<String> {
    let mut why = Vec::new();
    if void {
        let (lost, seen) = (cell.records_lost, cell.records_seen);
        why.push(format!("{lost} of {seen} records lost"));
    }
    let counters = cell.counters.unwrap_or_default();
    if figure::is_void_by_labels(&counters)
        && let Some((named, all)) = figure::coverage(&counters)
    {
        why.push(format!("{named} of {all} requests named"));
    }
    why
}

/// Every figure of a cell that is not void.
fn figures(cell: &Cell, void: bool, void_viewers: bool) -> BTreeMap<&'static str, Figure> {
    let counters = cell.counters.unwrap_or_default();
    let late_of = counters.deliveries.max(counters.late_deliveries);
    let median = |metric| Figure::of_cell(cell, metric, 0.5);
    let of_deliveries = [
        ("late", Figure::share(counters.late_deliveries, late_of)),
        (
            "retransmitted",
            Figure::share(retransmitted(&counters), counters.segments),
        ),
        ("latency_p50_us", median(Metric::DeliveryLatencyUs)),
        (
            "latency_p99_us",
            Figure::of_cell(cell, Metric::DeliveryLatencyUs, 0.99),
        ),
        ("rate_p50_kbps", median(Metric::DeliveryRateKbps)),
    ];
    let rebuffer = (counters.watched_us > 0).then(|| {
        let of_watched = |us: u64| us as f64 / counters.watched_us as f64;
        Figure {
            value: of_watched(counters.stalled_us),
            low: of_watched(counters.stalled_low_us),
            high: of_watched(counters.stalled_high_us),
            n: counters.starts + counters.viewers_joined,
        }
    });
    let of_viewers = [
        (
            "start_failures",
            Figure::share(start_failures(&counters), counters.start_attempts),
        ),
        ("startup_p50_us", median(Metric::StartupTimeUs)),
        ("rebuffer", rebuffer),
        ("stall_p50_us", median(Metric::StallTimeUs)),
        (
            "viewers_stalled",
            Figure::share(cell.viewers_stalled, cell.viewers_active),
        ),
        (
            "viewers_at_risk",
            Figure::share(cell.viewers_at_risk, cell.viewers_active),
        ),
        (
            "slow_chunks",
            Figure::share(counters.slow_chunks, counters.chunks),
        ),
        ("bitrate_p50_kbps", median(Metric::BitrateKbps)),
        (
            "exits_under_stress",
            Figure::share(counters.exits_under_stress, counters.viewers_ended),
        ),
    ];
    let coverage = figure::coverage(&counters).and_then(|(named, all)| Figure::share(named, all));
    let of_deliveries = of_deliveries.into_iter().filter(|_| !void);
    let of_viewers = of_viewers.into_iter().filter(|_| !void_viewers);
    of_deliveries
        .chain(of_viewers)
        .chain([("coverage", coverage)])
        .filter_map(|(name, found)| Some((name, found?)))
        .collect()
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

/// A figure of viewers, unless too much is missing for one.
fn unless_unnamed(row: &Row, figure: impl FnOnce() -> Value) -> Value {
    if row.void_viewers {
        Value::new(losses::VOID, Mark::Bad)
    } else {
        figure()
    }
}

/// A figure with what it rests on, in another unit; `-`: there is none.
fn rests_on(row: &Row, name: &str, factor: f64, digits: usize) -> Value {
    row.figure(name)
        .map_or_else(
            || units::ABSENT.to_owned(),
            |found| found.times(factor).text(digits),
        )
        .into()
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
        unless_unnamed(row, || {
            units::share(start_failures(&counters), counters.start_attempts).into()
        })
    }),
    Column::right("startup_p50_ms", |row| {
        unless_unnamed(row, || {
            thousandths(row, Metric::StartupTimeUs, |found| found.p50)
        })
    }),
    Column::right("rebuffer_pct", |row| {
        let counters = row.counters();
        let stalled = Estimate {
            low: counters.stalled_low_us,
            point: counters.stalled_us,
            high: counters.stalled_high_us,
        };
        unless_unnamed(row, || ratio(Some(stalled), counters.watched_us).into())
    }),
    Column::right("stalls", |row| {
        Value::count(row.counters().stalls, Mark::Bad)
    }),
    Column::right("slow_chunk_pct", |row| {
        let counters = row.counters();
        unless_unnamed(row, || {
            units::share(counters.slow_chunks, counters.chunks).into()
        })
    }),
    Column::left("void_why", |row| {
        if row.void_why.is_empty() {
            units::ABSENT.into()
        } else {
            Value::new(row.void_why.join(", "), Mark::Bad)
        }
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

/// The columns of `--qoe`: what viewers have of it, and what each number rests on.
pub const QOE_COLUMNS: &[Column<Row>] = &[
    Column::left("cell", |row| units::cell_path(row.cell.key.as_ref()).into()),
    Column::left("coverage_pct", |row| rests_on(row, "coverage", 100.0, 1)),
    Column::left("void_why", |row| {
        if row.void_why.is_empty() {
            units::ABSENT.into()
        } else {
            Value::new(row.void_why.join(", "), Mark::Bad)
        }
    }),
    Column::right("viewers", |row| row.cell.viewers_active.into()),
    Column::right("start_attempts", |row| row.counters().start_attempts.into()),
    Column::left("start_failure_pct", |row| {
        unless_unnamed(row, || rests_on(row, "start_failures", 100.0, 1))
    }),
    Column::right("failed_http", |row| {
        Value::count(row.counters().start_failures_http, Mark::Bad)
    }),
    Column::right("failed_origin", |row| {
        Value::count(row.counters().start_failures_origin, Mark::Bad)
    }),
    Column::right("failed_network", |row| {
        Value::count(row.counters().start_failures_network, Mark::Bad)
    }),
    Column::right("failed_client", |row| {
        Value::count(row.counters().start_failures_client, Mark::Warn)
    }),
    Column::right("retries", |row| row.counters().failed_retries.into()),
    Column::right("manifest_visits", |row| {
        row.counters().manifest_visits.into()
    }),
    Column::right("joined", |row| row.counters().viewers_joined.into()),
    Column::left("startup_p50_ms", |row| {
        unless_unnamed(row, || rests_on(row, "startup_p50_us", 1e-3, 0))
    }),
    Column::left("rebuffer_pct", |row| {
        unless_unnamed(row, || rests_on(row, "rebuffer", 100.0, 2))
    }),
    Column::left("stall_p50_ms", |row| {
        unless_unnamed(row, || rests_on(row, "stall_p50_us", 1e-3, 0))
    }),
    Column::left("stalled_now_pct", |row| {
        unless_unnamed(row, || rests_on(row, "viewers_stalled", 100.0, 1))
    }),
    Column::left("at_risk_pct", |row| {
        unless_unnamed(row, || rests_on(row, "viewers_at_risk", 100.0, 1))
    }),
    Column::left("exits_under_stress_pct", |row| {
        unless_unnamed(row, || rests_on(row, "exits_under_stress", 100.0, 1))
    }),
    Column::left("slow_chunk_pct", |row| {
        unless_unnamed(row, || rests_on(row, "slow_chunks", 100.0, 1))
    }),
    Column::left("bitrate_p50_mbps", |row| {
        unless_unnamed(row, || rests_on(row, "bitrate_p50_kbps", 1e-3, 2))
    }),
    Column::right("up_switches", |row| row.counters().up_switches.into()),
    Column::right("down_switches", |row| {
        Value::count(row.counters().down_switches, Mark::Warn)
    }),
    Column::right("late_at_origin", |row| {
        Value::count(row.counters().late_at_origin, Mark::Bad)
    }),
    Column::left("sustained_pct", |row| {
        unless_void(row, || sustained(&row.cell).into())
    }),
    Column::left("latency_p50_ms", |row| {
        unless_void(row, || rests_on(row, "latency_p50_us", 1e-3, 1))
    }),
    Column::left("retrans_pct", |row| {
        unless_void(row, || rests_on(row, "retransmitted", 100.0, 3))
    }),
];

/// `2.5M 98.0 (95.1-99.2, n 210), 5M ...`: of the rates, the share of deliveries that sustained them.
fn sustained(cell: &Cell) -> String {
    let rates: Vec<_> = cell
        .sustain
        .iter()
        .filter_map(|of_rate| {
            let found = Figure::share(of_rate.sustained, of_rate.tested)?;
            let rate = of_rate.rate_bps as f64 / 1e6;
            Some(format!("{rate}M {}", found.times(100.0).text(1)))
        })
        .collect();
    if rates.is_empty() {
        units::ABSENT.to_owned()
    } else {
        rates.join(", ")
    }
}

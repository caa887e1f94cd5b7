//! What a run was like.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::collectors::Look;
use super::totals::Totals;
use super::{Counts, Options};
use crate::ui::out::Mark;
use crate::ui::table::{Column, Value};

/// One run. What is of a collector's process is absent if it was not started for this.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// As asked for.
    pub edges: u32,
    /// Of each edge; of recordings, most cells.
    pub cells: u32,
    /// Collectors.
    pub collectors: usize,
    /// Measured for so long.
    pub seconds: f64,
    /// That edges sent, each second.
    pub frames_per_s: f64,
    /// By all collectors together, each frame counted wherever it is merged.
    pub merged_frames_per_s: f64,
    /// The same of cells.
    pub merged_cells_per_s: f64,
    /// Of the collectors' processes together, in cores.
    pub cores: Option<f64>,
    /// Of each collector's process.
    pub cores_each: Option<Vec<f64>>,
    /// Of the busiest collector, in thousandths of a core for each edge of the fleet.
    pub busiest_mcores_per_edge: Option<f64>,
    /// Cells merged in a second of one core.
    pub cells_per_core_s: Option<f64>,
    /// From the sending of a frame to its acknowledgement.
    pub delay_p50_ms: f64,
    /// The same.
    pub delay_p99_ms: f64,
    /// The same.
    pub delay_p999_ms: f64,
    /// Resident memory of all collectors, by edge.
    pub bytes_per_edge: Option<u64>,
    /// Ticks that were superseded because those before were not acknowledged.
    pub shed: u64,
    /// Connections that ended without being asked to.
    pub connections_lost: u64,
    /// As dealt out.
    pub kills: u64,
    /// As dealt out.
    pub partitions: u64,
    /// Edges of which it is not known that the collectors have all they said.
    pub unfinished: u32,
    /// Why, of one of them.
    pub unfinished_why: Option<String>,
    /// What the collectors must know in the end.
    pub sent: Totals,
    /// Whether the collectors' totals were those of the edges, to the unit. Absent if that cannot be
    /// told.
    pub exact: Option<bool>,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        counts: &Counts,
        frames: u64,
        before: &[Look],
        after: &[Look],
    ) -> Self {
        let pairs = || before.iter().zip(after);
        let seconds = pairs()
            .map(|(before, after)| after.at.duration_since(before.at).as_secs_f64())
            .fold(f64::MIN_POSITIVE, f64::max);
        let sum = |of: fn(&Look) -> u64| -> f64 {
            pairs()
                .map(|(before, after)| (of(after) - of(before)) as f64)
                .sum()
        };
        let merged_frames = sum(|look| look.status.frames_merged);
        let merged_cells = sum(|look| look.status.cells_merged);
        let cpu_s: Option<f64> = pairs()
            .map(|(before, after)| Some(after.cpu_s? - before.cpu_s?))
            .sum();
        let each: Option<Vec<f64>> = pairs()
            .map(|(before, after)| Some((after.cpu_s? - before.cpu_s?) / seconds))
            .collect();
        let busiest = each
            .as_ref()
            .map(|each| each.iter().copied().fold(0.0, f64::max));
        let resident: Option<u64> = after.iter().map(|look| look.resident_bytes).sum();
        let delays = counts.delays.load();
        let delay_ms = |share: f64| {
            let found = delays.quantile(share).ok().flatten();
            let bucket = found.and_then(|found| found.into_entries().into_values().next());
            bucket.map_or(f64::NAN, |bucket| bucket.end() as f64 / 1e3)
        };
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        Self {
            edges: options.edges,
            cells: options.cells_of_an_edge(),
            collectors: after.len(),
            seconds,
            frames_per_s: frames as f64 / seconds,
            merged_frames_per_s: merged_frames / seconds,
            merged_cells_per_s: merged_cells / seconds,
            cores: cpu_s.map(|cpu_s| cpu_s / seconds),
            cores_each: each,
            busiest_mcores_per_edge: busiest
                .map(|cores| cores * 1e3 / f64::from(options.edges.max(1))),
            cells_per_core_s: cpu_s.map(|cpu_s| merged_cells / cpu_s.max(f64::MIN_POSITIVE)),
            delay_p50_ms: delay_ms(0.5),
            delay_p99_ms: delay_ms(0.99),
            delay_p999_ms: delay_ms(0.999),
            bytes_per_edge: resident.map(|bytes| bytes / u64::from(options.edges.max(1))),
            shed: count(&counts.shed),
            connections_lost: count(&counts.connections_lost),
            kills: count(&counts.kills),
            partitions: count(&counts.partitions),
            unfinished: 0,
            unfinished_why: None,
            sent: Totals::default(),
            exact: None,
        }
    }
}

fn number(value: Option<f64>, digits: usize) -> Value {
    value.map_or_else(
        || crate::ui::units::ABSENT.into(),
        |value| format!("{value:.digits$}").into(),
    )
}

/// The table's columns.
pub const COLUMNS: &[Column<Report>] = &[
    Column::right("edges", |row| u64::from(row.edges).into()),
    Column::right("cells", |row| u64::from(row.cells).into()),
    Column::right("collectors", |row| (row.collectors as u64).into()),
    Column::right("seconds", |row| number(Some(row.seconds), 1)),
    Column::right("frames_per_s", |row| number(Some(row.frames_per_s), 0)),
    Column::right("merged_frames_per_s", |row| {
        number(Some(row.merged_frames_per_s), 0)
    }),
    Column::right("merged_cells_per_s", |row| {
        number(Some(row.merged_cells_per_s), 0)
    }),
    Column::right("cores", |row| number(row.cores, 2)),
    Column::right("busiest_mcores_per_edge", |row| {
        number(row.busiest_mcores_per_edge, 3)
    }),
    Column::right("cells_per_core_s", |row| number(row.cells_per_core_s, 0)),
    Column::right("delay_p50_ms", |row| number(Some(row.delay_p50_ms), 2)),
    Column::right("delay_p99_ms", |row| number(Some(row.delay_p99_ms), 2)),
    Column::right("delay_p999_ms", |row| number(Some(row.delay_p999_ms), 2)),
    Column::right("kib_per_edge", |row| {
        number(row.bytes_per_edge.map(|bytes| bytes as f64 / 1024.0), 0)
    }),
    Column::right("shed", |row| Value::count(row.shed, Mark::Warn)),
    Column::right("connections_lost", |row| {
        Value::count(row.connections_lost, Mark::Warn)
    }),
    Column::right("kills", |row| row.kills.into()),
    Column::right("partitions", |row| row.partitions.into()),
    Column::right("unfinished", |row| {
        Value::count(row.unfinished.into(), Mark::Bad)
    }),
    Column::left("exact", |row| match row.exact {
        None => crate::ui::units::ABSENT.into(),
        Some(true) => Value::new("yes", Mark::Good),
        Some(false) => Value::new("NO", Mark::Bad),
    }),
];

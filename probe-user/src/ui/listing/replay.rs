//! `weir replay --stats`: how much is in a recording, and what it took to fold it.

use serde::Serialize;

use crate::ui::table::Column;

/// One replay.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time from the recording's beginning to its end.
    pub span_s: f64,
    /// Records in it.
    pub records: u64,
    /// Records known to be missing in it.
    pub records_missing: u64,
    /// Sessions known at its end.
    pub sessions: u64,
    /// Cells.
    pub cells: u64,
    /// Reading, decompressing and folding, by the wall clock.
    pub seconds: f64,
    /// Records in each of these seconds.
    pub records_per_s: f64,
    /// The most memory that the process had.
    pub peak_resident_bytes: u64,
}

/// The table's columns.
pub const COLUMNS: &[Column<Row>] = &[
    Column::right("files", |row| row.files.into()),
    Column::right("bytes", |row| row.bytes.into()),
    Column::right("span_s", |row| format!("{:.3}", row.span_s).into()),
    Column::right("records", |row| row.records.into()),
    Column::right("records_missing", |row| row.records_missing.into()),
    Column::right("sessions", |row| row.sessions.into()),
    Column::right("cells", |row| row.cells.into()),
    Column::right("seconds", |row| format!("{:.3}", row.seconds).into()),
    Column::right("records_per_s", |row| {
        format!("{:.0}", row.records_per_s).into()
    }),
    Column::right("peak_resident_bytes", |row| row.peak_resident_bytes.into()),
];

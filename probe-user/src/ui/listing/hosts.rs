//! `weir hosts`: who reports to a collector, and what got lost between.

use serde::Serialize;
use weir_proto::v1::Host;

use crate::ui::losses;
use crate::ui::out::Mark;
use crate::ui::table::{Column, Value};
use crate::ui::units;

/// A host and the collector's time. As JSON, the host alone.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Row {
    /// As the collector knows it.
    pub host: Host,
    /// For the age of its last frame.
    #[serde(skip)]
    pub now_unix_ns: u64,
}

/// The table's columns.
pub const COLUMNS: &[Column<Row>] = &[
    Column::left("host", |row| row.host.host.as_str().into()),
    Column::left("connected", |row| {
        if row.host.connected {
            Value::new("yes", Mark::Good)
        } else {
            Value::new("no", Mark::Bad)
        }
    }),
    Column::left("measures", |row| {
        if row.host.off.is_empty() {
            Value::new("yes", Mark::Good)
        } else {
            Value::new("OFF", Mark::Bad)
        }
    }),
    Column::right("followed_pct", |row| match &row.host.budget {
        None => units::ABSENT.into(),
        Some(budget) => {
            let text = format!("{:.1}", budget.followed_permille / 10.0);
            let is_thinned = budget.followed_permille < 1000.0;
            Value::new(text, if is_thinned { Mark::Warn } else { Mark::Plain })
        }
    }),
    Column::right("last_frame_age_ms", |row| {
        match row.host.last_frame_unix_ns {
            0 => units::ABSENT.into(),
            at => (row.now_unix_ns.saturating_sub(at) / 1_000_000).into(),
        }
    }),
    Column::right("sessions_open", |row| row.host.sessions_open.into()),
    Column::right("frames", |row| row.host.frames.into()),
    Column::right("frames_lost", |row| {
        Value::count(row.host.frames_lost, Mark::Warn)
    }),
    Column::right("frames_stale", |row| row.host.frames_stale.into()),
    Column::right("events", |row| row.host.events.into()),
    Column::right("events_lost", |row| {
        Value::count(row.host.events_lost, Mark::Warn)
    }),
    Column::right("records_lost", |row| {
        let lost = row.host.losses.as_ref().map_or(0, losses::total);
        Value::count(lost, Mark::Bad)
    }),
    Column::right("clock_offset_ms", |row| row.host.clock_offset_ms.into()),
    Column::right("boots", |row| row.host.boots.into()),
    Column::left("backend", |row| row.host.backend().word().into()),
    Column::left("weir_version", |row| row.host.weir_version.as_str().into()),
    Column::left("kernel_release", |row| {
        row.host.kernel_release.as_str().into()
    }),
];

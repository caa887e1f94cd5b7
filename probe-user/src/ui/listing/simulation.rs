//! Runs of `weir steer simulate`.

use crate::steer::simulation::Report;
use crate::ui::out::Mark;
use crate::ui::table::{Column, Value};
use crate::ui::units::ABSENT;

/// The table's columns.
pub const COLUMNS: &[Column<Report>] = &[
    Column::left("scene", |run| run.scene.as_str().into()),
    Column::right("dead_time_s", |run| run.dead_time_s.into()),
    Column::left("pilot", |run| run.pilot.as_str().into()),
    Column::right("amplitude_percent", |run| {
        let mark = if run.amplitude_percent > 20.0 {
            Mark::Bad
        } else {
            Mark::Plain
        };
        Value::new(format!("{:.1}", run.amplitude_percent), mark)
    }),
    Column::right("settling_s", |run| match run.settling_s {
        Some(s) => s.into(),
        None => Value::new(ABSENT, Mark::Bad),
    }),
    Column::right("moved_percent", |run| {
        format!("{:.1}", run.moved_percent).into()
    }),
    Column::right("reversals", |run| run.reversals.into()),
    Column::right("late_percent", |run| {
        format!("{:.2}", run.late_percent).into()
    }),
    Column::right("late_end_percent", |run| {
        format!("{:.2}", run.late_end_percent).into()
    }),
    Column::right("lowest_percent", |run| {
        format!("{:.1}", run.lowest_percent).into()
    }),
    Column::right("end_percent", |run| {
        format!("{:.1}", run.end_percent).into()
    }),
    Column::right("asked_human", |run| {
        Value::count(run.asked_human.into(), Mark::Warn)
    }),
];

//! `weir hosts`: who reports to a collector, where viewers are at risk, and what got lost between.

use serde::Serialize;
use weir_proto::v1::{CollectorStatus, Host, Missing};

use crate::collect::fleet::{FRESH_MS, rank};
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

/// A clock that is this far from the collector's is off: times of different hosts do not fit
/// together any more.
pub const CLOCK_OFF_MS: u64 = 500;

impl Row {
    /// How long nothing was heard of it, in milliseconds.
    pub fn silent_ms(&self) -> u64 {
        self.now_unix_ns
            .saturating_sub(self.host.last_heard_unix_ns)
            / 1_000_000
    }

    /// Whether it has fallen silent.
    pub fn is_silent(&self) -> bool {
        self.silent_ms() > FRESH_MS
    }

    /// Whether its clock is off.
    pub fn is_clock_off(&self) -> bool {
        self.host.clock_offset_ms.unsigned_abs() > CLOCK_OFF_MS
    }
}

/// What to order hosts by, largest first (`name` the other way round).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Viewer time at risk in the last minute, then viewers in trouble now.
    Risk,
    /// Name.
    Name,
    /// How long nothing was heard of it.
    Silent,
    /// How far its clock is off.
    Clock,
    /// Sessions open now.
    Sessions,
    /// Frames missing.
    Lost,
}

/// Puts hosts into an order.
pub fn sort(rows: &mut [Row], by: Sort, reverse: bool) {
    rows.sort_by(|a, b| a.host.host.cmp(&b.host.host));
    match by {
        Sort::Risk => rows.sort_by(|a, b| rank(&a.host, &b.host)),
        Sort::Name => {}
        _ => {
            return super::sort_by_key(rows, reverse, |row| match by {
                Sort::Silent => row.silent_ms(),
                Sort::Clock => row.host.clock_offset_ms.unsigned_abs(),
                Sort::Sessions => row.host.sessions_open,
                _ => row.host.frames_lost,
            });
        }
    }
    if reverse {
        rows.reverse();
    }
}

/// What an operator must know beside the list: an engine that does not work.
pub fn warning(collector: &CollectorStatus) -> Option<String> {
    let engine = collector.engine.as_ref()?;
    let name = &collector.name;
    if !engine.error.is_empty() {
        return Some(format!(
            "the engine behind the collector {name}: {}; {} bytes of frames wait, {} frames found no \
             room",
            engine.error, engine.waiting_bytes, engine.frames_unbuffered
        ));
    }
    (!engine.rebuilt).then(|| {
        format!("the collector {name} is still taking in what the engine has of its partitions")
    })
}

/// What is missing in an answer that several collectors have a part in.
pub fn missing(missing: &[Missing], partitions: u32) -> Vec<String> {
    let told = |missing: &Missing| {
        let whose = match missing.collector.as_str() {
            "" => "nobody's".to_owned(),
            name => format!("of {name}"),
        };
        let which: Vec<_> = missing.partitions.iter().map(u32::to_string).collect();
        let of = match which.len() {
            0 => "who is connected there".to_owned(),
            _ => format!("partitions {}", which.join(", ")),
        };
        let all = match partitions {
            0 => String::new(),
            all => format!(" of {all}"),
        };
        let less = if missing.is_less {
            "less than it is"
        } else {
            "not complete"
        };
        format!("{less}: {of}{all} ({whose}): {}", missing.why)
    };
    missing.iter().map(told).collect()
}

fn seconds(ms: u64) -> String {
    format!("{:.1}", ms as f64 / 1e3)
}

/// The table's columns.
pub const COLUMNS: &[Column<Row>] = &[
    Column::left("host", |row| row.host.host.as_str().into()),
    Column::left("state", |row| {
        if row.is_silent() {
            Value::new("SILENT", Mark::Bad)
        } else if row.host.connected {
            Value::new("connected", Mark::Good)
        } else {
            // To another collector, or lately to this one.
            Value::new("heard", Mark::Plain)
        }
    }),
    Column::right("at_risk_s_per_min", |row| {
        let mark = if row.host.at_risk_minute_ms > 0 {
            Mark::Bad
        } else {
            Mark::Plain
        };
        Value::new(seconds(row.host.at_risk_minute_ms), mark)
    }),
    Column::right("viewers", |row| row.host.viewers_active.into()),
    Column::right("stalled", |row| {
        Value::count(row.host.viewers_stalled, Mark::Bad)
    }),
    Column::right("at_risk", |row| {
        Value::count(row.host.viewers_at_risk, Mark::Warn)
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
    Column::right("silent_s", |row| match row.host.last_heard_unix_ns {
        0 => units::ABSENT.into(),
        _ => seconds(row.silent_ms()).into(),
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
    Column::right("clock_offset_ms", |row| {
        let mark = if row.is_clock_off() {
            Mark::Bad
        } else {
            Mark::Plain
        };
        Value::new(row.host.clock_offset_ms.to_string(), mark)
    }),
    Column::right("boots", |row| row.host.boots.into()),
    Column::left("backend", |row| row.host.backend().word().into()),
    Column::left("weir_version", |row| row.host.weir_version.as_str().into()),
    Column::left("kernel_release", |row| {
        row.host.kernel_release.as_str().into()
    }),
];

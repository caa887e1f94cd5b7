//! `weir viewers`: how each viewer's playback fares, by the estimate, and what happens to it.

use std::borrow::Cow;

use serde::Serialize;
use weir_proto::v1::{
    Alarm, AlarmRate, CellKey, Estimate, EvidenceTier, StartFailure, Viewer, ViewerEnd,
    ViewerEvent, ViewerState,
};

use super::{flags, ratio_ppm, sort_by_key};
use crate::ui::out::Mark;
use crate::ui::table::{Column, Value};
use crate::ui::units;

/// A viewer, or something that happened to one. As JSON, the message alone.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Row {
    /// As it is.
    Viewer(Viewer),
    /// What happened, and how it is since.
    Event(ViewerEvent),
}

impl Row {
    fn viewer(&self) -> Cow<'_, Viewer> {
        match self {
            Self::Viewer(viewer) => Cow::Borrowed(viewer),
            Self::Event(event) => event
                .viewer
                .as_ref()
                .map_or_else(|| Cow::Owned(Viewer::default()), Cow::Borrowed),
        }
    }
}

/// What to order viewers by, largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Share of the time watched that playback stood still.
    Rebuffer,
    /// Time that playback stood still.
    Stalled,
    /// Stalls.
    Stalls,
    /// Start-up time.
    Startup,
    /// Bitrate of the latest object.
    Bitrate,
    /// Changes to a lower rendition.
    DownSwitches,
    /// Time watched.
    Watched,
    /// When it began (latest first).
    Begun,
}

/// Puts viewers into an order.
pub fn sort(rows: &mut [Viewer], by: Sort, reverse: bool) {
    sort_by_key(rows, reverse, |viewer| match by {
        Sort::Rebuffer => ratio_ppm(point(viewer.stalled_us), viewer.watched_us),
        Sort::Stalled => point(viewer.stalled_us),
        Sort::Stalls => viewer.stalls,
        Sort::Startup => viewer.startup_us,
        Sort::Bitrate => viewer.bitrate_bps,
        Sort::DownSwitches => viewer.down_switches,
        Sort::Watched => viewer.watched_us,
        Sort::Begun => viewer.attempt_unix_ns,
    });
}

fn point(estimate: Option<Estimate>) -> u64 {
    estimate.unwrap_or_default().point
}

/// `2.10 [1.80,2.40]`, in percent of `whole`; `-` if there is no whole.
pub fn ratio(estimate: Option<Estimate>, whole: u64) -> String {
    if whole == 0 {
        return units::ABSENT.to_owned();
    }
    let Estimate { low, point, high } = estimate.unwrap_or_default();
    format!(
        "{} [{},{}]",
        units::percent(point, whole),
        units::percent(low, whole),
        units::percent(high, whole)
    )
}

/// An alarm in a line.
pub fn alarm_sentence(alarm: &Alarm) -> String {
    let what = match alarm.rate() {
        AlarmRate::StartFailures => "starts fail",
        AlarmRate::StalledViewers => "viewers stand still",
        AlarmRate::LateDeliveries => "deliveries are late",
        AlarmRate::Unspecified => "something is wrong",
    };
    let verdict = if alarm.verdict.is_empty() {
        String::new()
    } else {
        format!(": {}", alarm.verdict)
    };
    format!(
        "{}: {what}, {:.1} % of {} (usual: {:.1} %), since {} UTC{verdict}",
        units::cell_path(alarm.cell.as_ref()),
        alarm.rate_found * 100.0,
        alarm.n,
        alarm.base * 100.0,
        units::clock(alarm.onset_unix_ns),
    )
}

/// The evidence that a number rests on, in a word.
pub fn tier_word(viewer: &Viewer) -> String {
    viewer
        .cell
        .as_ref()
        .map_or(EvidenceTier::Unspecified, CellKey::tier)
        .word()
}

/// How a viewer's state is marked.
pub fn state_mark(viewer: &Viewer) -> Mark {
    match viewer.state() {
        ViewerState::Stalled => Mark::Bad,
        ViewerState::Starting | ViewerState::Seeking => Mark::Warn,
        ViewerState::Ended if viewer.start_failure() != StartFailure::Unspecified => Mark::Bad,
        ViewerState::Playing if viewer.at_risk => Mark::Warn,
        ViewerState::Playing => Mark::Good,
        _ => Mark::Plain,
    }
}

/// How it ended, and why it never began.
fn end(viewer: &Viewer) -> String {
    match (viewer.ended(), viewer.start_failure()) {
        (ViewerEnd::Unspecified, _) => units::ABSENT.to_owned(),
        (end, StartFailure::Unspecified) => end.word(),
        (end, failure) => format!("{} ({})", end.word(), failure.word()),
    }
}

/// The table's columns.
pub const COLUMNS: &[Column<Row>] = &[
    Column::left("event", |row| match row {
        Row::Viewer(_) => units::ABSENT.into(),
        Row::Event(event) => event.change().word().into(),
    }),
    Column::left("state", |row| {
        let viewer = row.viewer();
        Value::new(viewer.state().word(), state_mark(&viewer))
    }),
    Column::left("viewer", |row| {
        let viewer = row.viewer();
        if viewer.sid.is_empty() {
            viewer.key.clone().into()
        } else {
            viewer.sid.clone().into()
        }
    }),
    Column::left("client", |row| row.viewer().client_address.clone().into()),
    Column::left("cell", |row| {
        units::cell_path(row.viewer().cell.as_ref()).into()
    }),
    Column::left("tier", |row| tier_word(&row.viewer()).into()),
    Column::left("family", |row| row.viewer().family.clone().into()),
    Column::right("startup_ms", |row| {
        units::ms(row.viewer().startup_us).into()
    }),
    Column::right("watched_ms", |row| {
        units::ms(row.viewer().watched_us).into()
    }),
    Column::right("stalls", |row| Value::count(row.viewer().stalls, Mark::Bad)),
    Column::right("stalled_ms", |row| {
        units::ms(point(row.viewer().stalled_us)).into()
    }),
    Column::right("rebuffer_pct", |row| {
        let viewer = row.viewer();
        ratio(viewer.stalled_us, viewer.watched_us).into()
    }),
    Column::right("buffer_ms", |row| {
        units::ms(point(row.viewer().buffer_us)).into()
    }),
    Column::right("bitrate_mbps", |row| {
        units::mbps(row.viewer().bitrate_bps).into()
    }),
    Column::right("down_switches", |row| {
        Value::count(row.viewer().down_switches, Mark::Warn)
    }),
    Column::right("at_risk", |row| {
        Value::count(row.viewer().at_risk_times, Mark::Warn)
    }),
    Column::right("objects", |row| row.viewer().objects.into()),
    Column::right("sessions", |row| row.viewer().sessions.into()),
    Column::left("begun", |row| {
        units::timestamp(row.viewer().attempt_unix_ns).into()
    }),
    Column::left("ended", |row| end(&row.viewer()).into()),
    Column::left("flags", |row| {
        let viewer = row.viewer();
        flags(&[
            (viewer.live, "live"),
            (viewer.at_risk, "at_risk"),
            (viewer.corrections > 0, "corrected"),
        ])
        .into()
    }),
    Column::left("verdict", |row| {
        let viewer = row.viewer();
        if viewer.verdict.is_empty() {
            units::ABSENT.into()
        } else {
            viewer.verdict.clone().into()
        }
    }),
];

//! Viewers, what happens to them, and blame, as messages.

use weir_proto::v1;

use super::{Context, cell_key};
use crate::qoe::alarms::{Raised, Rate};
use crate::qoe::audience::{By, Entry, Happening, Stall};
use crate::qoe::blame::{Part, Spent};
use crate::qoe::learn::Family;
use crate::qoe::startup::FailureClass;
use crate::qoe::viewer::{Bounded, Cause, Change, Ending, Phase, Thresholds};
use crate::qoe::{CellKey, Counters};

/// A viewer as it is at `now_ns`.
pub fn viewer(
    entry: &Entry,
    cell: &CellKey,
    with: &Thresholds,
    context: &Context,
    now_ns: u64,
) -> v1::Viewer {
    let view = entry.view(now_ns, with);
    v1::Viewer {
        key: format!("{:016x}", entry.key.hash),
        key_kind: key_kind(entry.key.by).into(),
        sid: entry.name.map(|name| name.to_string()).unwrap_or_default(),
        cell: Some(cell_key(cell)),
        state: state(view.phase).into(),
        ended: ended(entry).into(),
        start_failure: entry
            .failure
            .map_or(v1::StartFailure::Unspecified, start_failure)
            .into(),
        family: entry.family.to_string(),
        client_address: entry.client.to_string(),
        live: entry.is_live,
        attempt_unix_ns: context.unix_ns(entry.t_attempt_ns),
        started_unix_ns: context.unix_ns(entry.t_started_ns),
        updated_unix_ns: context.unix_ns(entry.t_updated_ns),
        ended_unix_ns: context.unix_ns(entry.t_ended_ns),
        startup_us: if entry.is_joined {
            0
        } else {
            view.sums.startup_us
        },
        watched_us: entry.watched_us(&view.sums),
        stalled_us: Some(estimate(view.sums.stalled_us)),
        buffer_us: Some(estimate(view.ahead_us)),
        stalls: view.sums.stalls.into(),
        at_risk: view.is_at_risk,
        at_risk_times: entry.at_risk_times,
        bitrate_bps: u64::from(view.bitrate_kbps) * 1000,
        up_switches: view.sums.switches_up.into(),
        down_switches: view.sums.switches_down.into(),
        objects: entry.objects,
        media_us: entry.media_us,
        acked_bytes: entry.acked_bytes,
        corrections: view.sums.idle_errors.into(),
        sessions: entry.sessions,
        joined: entry.is_joined,
        blame: blame(&entry.blame),
        verdict: entry
            .verdict()
            .map(|found| found.to_string())
            .unwrap_or_default(),
        latest_stalls: entry
            .stalls
            .iter()
            .map(|stall| stall_message(stall, context))
            .collect(),
    }
}

/// What was learned of a family of players.
pub fn learned(name: &str, family: &Family) -> v1::LearnedFamily {
    let bracket = |[low, point, high]: [u32; 3]| v1::Estimate {
        low: low.into(),
        point: point.into(),
        high: high.into(),
    };
    let bias = family.bias;
    v1::LearnedFamily {
        family: name.to_owned(),
        start_us: family.start_us().map(bracket),
        starts: family.starts(),
        resume_us: family.resume_us().map(bracket),
        resumes: family.resumes(),
        playbacks: bias.playbacks,
        stalled_modelled_us: bias.modelled_us,
        stalled_declared_us: bias.declared_us,
        correction_ppm: bias.corrected_us(1_000_000).unwrap_or(0),
    }
}

/// An alarm on a cell that has counted this.
pub fn alarm(raised: &Raised, cell: &CellKey, counters: &Counters, context: &Context) -> v1::Alarm {
    let evidence = raised.evidence;
    v1::Alarm {
        cell: Some(cell_key(cell)),
        rate: match raised.rate {
            Rate::StartFailures => v1::AlarmRate::StartFailures,
            Rate::StalledViewers => v1::AlarmRate::StalledViewers,
            Rate::LateDeliveries => v1::AlarmRate::LateDeliveries,
        }
        .into(),
        on: raised.is_on,
        onset_unix_ns: context.unix_ns(raised.t_onset_ns),
        unix_ns: context.unix_ns(raised.t_ns),
        n: evidence.n,
        bad: evidence.bad,
        base: evidence.base,
        rate_found: raised.rate_found,
        evidence: evidence.e_value,
        alpha: raised.alpha,
        verdict: counters
            .verdict()
            .map(|found| found.to_string())
            .unwrap_or_default(),
    }
}

/// Something that happened to a viewer.
pub fn viewer_event(
    happening: &Happening,
    viewer: v1::Viewer,
    context: &Context,
) -> v1::ViewerEvent {
    let (change, t_ns) = match happening.change {
        Change::Started { t_ns, .. } => (v1::ViewerChange::Started, t_ns),
        Change::Failed { t_ns, .. } => (v1::ViewerChange::StartFailed, t_ns),
        Change::StallBegan { t_ns, .. } => (v1::ViewerChange::StallBegan, t_ns),
        Change::StallEnded { t_ns, .. } => (v1::ViewerChange::StallEnded, t_ns),
        Change::StallRetracted { t_began_ns } => (v1::ViewerChange::StallRetracted, t_began_ns),
        Change::AtRisk { t_ns, .. } => (v1::ViewerChange::AtRisk, t_ns),
        Change::Safe { t_ns } => (v1::ViewerChange::NoLongerAtRisk, t_ns),
        Change::Ended { t_ns, .. } | Change::Shared { t_ns } => (v1::ViewerChange::Ended, t_ns),
    };
    v1::ViewerEvent {
        change: change.into(),
        unix_ns: context.unix_ns(t_ns),
        told_unix_ns: context.unix_ns(happening.now_ns),
        viewer: Some(viewer),
    }
}

fn stall_message(stall: &Stall, context: &Context) -> v1::Stall {
    v1::Stall {
        begin_unix_ns: context.unix_ns(stall.t_begin_ns),
        end_unix_ns: context.unix_ns(stall.t_end_ns),
        told_unix_ns: context.unix_ns(stall.t_told_ns),
        origin_late: stall.cause == Cause::Origin,
        blame: blame(&stall.blame),
        verdict: stall.verdict().to_string(),
    }
}

fn key_kind(by: By) -> v1::ViewerKeyKind {
    match by {
        By::Sid => v1::ViewerKeyKind::Sid,
        By::Token => v1::ViewerKeyKind::Token,
        By::Heuristic => v1::ViewerKeyKind::Heuristic,
        By::Address => v1::ViewerKeyKind::Address,
    }
}

fn state(phase: Phase) -> v1::ViewerState {
    match phase {
        Phase::Starting => v1::ViewerState::Starting,
        Phase::Playing => v1::ViewerState::Playing,
        Phase::Stalled => v1::ViewerState::Stalled,
        Phase::Seeking => v1::ViewerState::Seeking,
        Phase::Idle => v1::ViewerState::Paused,
        Phase::Ended => v1::ViewerState::Ended,
    }
}

fn ended(entry: &Entry) -> v1::ViewerEnd {
    if entry.is_shared {
        return v1::ViewerEnd::Excluded;
    }
    match entry.ended {
        None => v1::ViewerEnd::Unspecified,
        Some(_) if entry.failure.is_some() => v1::ViewerEnd::StartFailed,
        Some(Ending::Left | Ending::Restarted) => v1::ViewerEnd::Left,
        Some(Ending::UnderStress) => v1::ViewerEnd::UnderStress,
        Some(Ending::Forgotten) => v1::ViewerEnd::Evicted,
    }
}

fn start_failure(class: FailureClass) -> v1::StartFailure {
    match class {
        FailureClass::Http => v1::StartFailure::Http,
        FailureClass::Origin => v1::StartFailure::Origin,
        FailureClass::Network => v1::StartFailure::Network,
        FailureClass::Client => v1::StartFailure::Client,
    }
}

fn estimate(bounded: Bounded) -> v1::Estimate {
    v1::Estimate {
        low: bounded.lo,
        point: bounded.point,
        high: bounded.hi,
    }
}

fn blame(spent: &Spent) -> Option<v1::Blame> {
    let shares = spent.shares_ppm()?;
    let ppm = |part: Part| shares[part as usize];
    Some(v1::Blame {
        think_ppm: ppm(Part::Think),
        write_ppm: ppm(Part::ApplicationWrite),
        sender_window_ppm: ppm(Part::SenderWindow),
        loss_ppm: ppm(Part::LossRecovery),
        queue_ppm: ppm(Part::PathQueue),
        receiver_ppm: ppm(Part::ReceiverWindow),
        pacing_ppm: ppm(Part::Pacing),
    })
}

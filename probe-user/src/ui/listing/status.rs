//! `weir status`: the daemon about itself.

use std::io::{self, Write};

use weir_proto::v1::{
    BudgetStatus, Estimate, LabelStatus, LaneStatus, LearnedFamily, Losses, Probe, RecordingStatus,
    RingStatus, Status, Verdict,
};

use crate::qoe::learn::LEAST_TO_CORRECT;
use crate::ui::losses;
use crate::ui::out::{Mark, Style};
use crate::ui::units;

/// Whether the daemon misses something: a loss, or a probe that it needs and does not have.
pub fn is_degraded(status: &Status) -> bool {
    status
        .losses
        .as_ref()
        .is_some_and(|losses| losses::total(losses) > 0)
        || status.probes.iter().any(is_missing)
}

/// Whether this probe's absence costs something.
pub fn is_missing(probe: &Probe) -> bool {
    !matches!(probe.verdict(), Verdict::Ok | Verdict::NotApplicable)
}

/// `chrome/hls: begins with 2.0 s (1.8-2.4, n 40), goes on with - (n 3); stalled 12.0 s by the model
/// alone, 10.1 s by the players, correction - (n 52 of 200)`.
fn learned_sentence(family: &LearnedFamily) -> String {
    let seconds = |us: u64| format!("{:.1}", us as f64 / 1e6);
    let wants = |what: Option<Estimate>, n: u64| match what {
        Some(Estimate { low, point, high }) => {
            let (low, point, high) = (seconds(low), seconds(point), seconds(high));
            format!("{point} s ({low}-{high}, n {n})")
        }
        None => format!("- (n {n})"),
    };
    let correction = match family.correction_ppm {
        0 => "-".to_owned(),
        ppm => format!("{:.2}", ppm as f64 / 1e6),
    };
    format!(
        "{}: begins with {}, goes on with {}; stalled {} s by the model alone, {} s by the players, \
         correction {correction} (n {} of {LEAST_TO_CORRECT})",
        family.family,
        wants(family.start_us, family.starts),
        wants(family.resume_us, family.resumes),
        seconds(family.stalled_modelled_us),
        seconds(family.stalled_declared_us),
        family.playbacks,
    )
}

/// Writes the status as `name: value` lines, then the probes that are missing.
pub fn write(
    status: &Status,
    now_unix_ns: u64,
    style: Style,
    to: &mut dyn Write,
) -> io::Result<()> {
    let mut lines = Lines { style, to };
    let uptime_us = now_unix_ns.saturating_sub(status.started_unix_ns) / 1_000;
    lines.line("weir", &status.version, Mark::Plain)?;
    lines.line("host", &status.host, Mark::Heading)?;
    lines.line("kernel", &status.kernel_release, Mark::Plain)?;
    lines.line("backend", &status.backend().word(), Mark::Plain)?;
    if !status.off.is_empty() {
        lines.line("off", &status.off, Mark::Bad)?;
    }
    let started = units::timestamp(status.started_unix_ns);
    let since = format!("{started} (for {})", units::short_us(uptime_us));
    lines.line("started", &since, Mark::Plain)?;
    lines.line("boot_id", &status.boot_id, Mark::Plain)?;
    let config = match status.config_path.as_str() {
        "" => format!(
            "built-in defaults (generation {})",
            status.config_generation
        ),
        path => format!("{path} (generation {})", status.config_generation),
    };
    lines.line("config", &config, Mark::Plain)?;
    lines.line(
        "deadline",
        &format!("{} ms", status.deadline_ms),
        Mark::Plain,
    )?;
    lines.line(
        "sessions_open",
        &status.sessions_open.to_string(),
        Mark::Plain,
    )?;
    lines.line("cells", &status.cells.to_string(), Mark::Plain)?;
    let losses = status.losses.unwrap_or_default();
    lines.uplink(status)?;
    let (budget, mark) = budget_sentence(status.budget.as_ref(), losses.sessions_left_out);
    lines.line("budget", &budget, mark)?;
    let (recording, mark) = recording_sentence(status.recording.as_ref());
    lines.line("recording", &recording, mark)?;
    let labels = labels_sentence(status.labels.as_ref(), &losses);
    lines.line("labels", &labels, Mark::Plain)?;
    for family in &status.learned {
        lines.line("learned", &learned_sentence(family), Mark::Plain)?;
    }
    let refused = status.queries_refused.to_string();
    lines.line("queries_refused", &refused, Mark::Plain)?;
    let mark = if losses::total(&losses) == 0 {
        Mark::Good
    } else {
        Mark::Bad
    };
    lines.line("losses", &losses::sentence(&losses), mark)?;
    lines.line("records", &records_sentence(&losses), Mark::Plain)?;
    lines.line("sessions", &sessions_sentence(&losses), Mark::Plain)?;
    lines.line(
        "skipped",
        &format!(
            "{} program runs, by the kernel; made good by what followed",
            losses.programs_skipped
        ),
        Mark::Plain,
    )?;
    lines.line(
        "looks_left_out",
        &format!("{}, because looking takes long", losses.looks_left_out),
        Mark::Plain,
    )?;
    lines.probes(status)
}

/// Lines of `name value`, the names in a column.
struct Lines<'a> {
    style: Style,
    to: &'a mut dyn Write,
}

impl Lines<'_> {
    fn line(&mut self, name: &str, value: &str, mark: Mark) -> io::Result<()> {
        Mark::Plain.write(self.to, self.style, &format!("{name:<16}"))?;
        mark.write(self.to, self.style, value)?;
        self.to.write_all(b"\n")
    }

    /// The way to the centre, its lanes, and the ring on disk.
    fn uplink(&mut self, status: &Status) -> io::Result<()> {
        let (uplink, mark) = uplink_sentence(status);
        self.line("uplink", &uplink, mark)?;
        if let Some(uplink) = &status.uplink {
            for lane in &uplink.lanes {
                let (name, sentence, mark) = lane_sentence(lane);
                self.line(&name, &sentence, mark)?;
            }
            if let Some(ring) = &uplink.ring {
                let (sentence, mark) = ring_sentence(ring);
                self.line("ring", &sentence, mark)?;
            }
        }
        Ok(())
    }

    /// How many probes work, and each that does not.
    fn probes(&mut self, status: &Status) -> io::Result<()> {
        let working = status
            .probes
            .iter()
            .filter(|probe| !is_missing(probe))
            .count();
        let all = status.probes.len();
        let mark = if working == all {
            Mark::Good
        } else {
            Mark::Bad
        };
        self.line(
            "probes",
            &format!("{working} of {all} as they should be"),
            mark,
        )?;
        for probe in status.probes.iter().filter(|probe| is_missing(probe)) {
            let verdict = probe.verdict().word();
            let text = format!(
                "{} {verdict}: {}; not measured: {}",
                probe.name, probe.reason, probe.lost
            );
            self.line("", &text, Mark::Bad)?;
        }
        Ok(())
    }
}

/// What the kernel programs cost and may cost, and how it is meant.
fn budget_sentence(budget: Option<&BudgetStatus>, left_out: u64) -> (String, Mark) {
    let Some(budget) = budget else {
        return ("no limit".to_owned(), Mark::Plain);
    };
    let limit = f64::from(budget.limit_core_permille) / 10.0;
    if !budget.error.is_empty() {
        return (
            format!("{limit:.1} % of a core, but not kept: {}", budget.error),
            Mark::Bad,
        );
    }
    if budget.measured_unix_ns == 0 {
        return (
            format!("{limit:.1} % of a core, not measured yet"),
            Mark::Plain,
        );
    }
    let cost = budget.cost_core_permille / 10.0;
    let followed = budget.followed_permille / 10.0;
    let is_thinned = followed < 100.0;
    let thinned = if is_thinned {
        format!(
            "; {followed:.1} % of the sessions are followed, of the others what is late or cut off"
        )
    } else {
        String::new()
    };
    let before = if left_out > 0 {
        format!("; {left_out} sessions were left out for a time")
    } else {
        String::new()
    };
    let mark = if is_thinned { Mark::Bad } else { Mark::Good };
    (
        format!("{cost:.2} % of a core of {limit:.1} %{thinned}{before}"),
        mark,
    )
}

/// The uplink's state in a few words, and how it is meant.
pub fn uplink_sentence(status: &Status) -> (String, Mark) {
    let Some(uplink) = status
        .uplink
        .as_ref()
        .filter(|uplink| !uplink.collector.is_empty())
    else {
        return ("no collector configured".to_owned(), Mark::Plain);
    };
    let dropped = status
        .losses
        .map_or(0, |losses| losses.uplink_frames_dropped);
    let unacked = uplink.sent_seq.saturating_sub(uplink.acked_seq);
    if uplink.connected {
        let past = match dropped {
            0 => String::new(),
            _ => format!(", {dropped} frames dropped before and made good by later ones"),
        };
        let text = format!(
            "connected to {} (frame {}, {unacked} unacknowledged, {} reconnects{past})",
            uplink.collector, uplink.sent_seq, uplink.reconnects
        );
        return (text, Mark::Good);
    }
    let why = match uplink.last_error.as_str() {
        "" => "not connected yet",
        error => error,
    };
    let missed = match dropped {
        0 => String::new(),
        _ => format!(" ({dropped} frames dropped; the next to arrive makes them good)"),
    };
    (
        format!("NOT CONNECTED to {}: {why}{missed}", uplink.collector),
        Mark::Bad,
    )
}

/// A lane's name, and what became of its frames.
fn lane_sentence(lane: &LaneStatus) -> (String, String, Mark) {
    let counts = lane.counts.unwrap_or_default();
    let items = match counts.items_shed {
        0 => String::new(),
        shed => format!(
            ", {shed} of {} events or deliveries shed",
            counts.items_made
        ),
    };
    let (state, mark) = match (lane.connected, lane.last_error.as_str()) {
        (true, _) => ("connected".to_owned(), Mark::Good),
        // Nobody looks, which is all right.
        (false, "") => ("not connected".to_owned(), Mark::Plain),
        (false, error) => (format!("NOT CONNECTED: {error}"), Mark::Bad),
    };
    let text = format!(
        "{state}; {} frames sent, {} again, {} superseded, {}{items}",
        counts.frames_sent,
        counts.frames_resent,
        counts.frames_shed,
        units::short_bytes(counts.bytes_sent)
    );
    (format!("lane_{}", lane.lane().word()), text, mark)
}

/// The last minutes on disk.
fn ring_sentence(ring: &RingStatus) -> (String, Mark) {
    if !ring.error.is_empty() {
        return (format!("NOT WRITTEN: {}", ring.error), Mark::Bad);
    }
    let text = format!(
        "{} entries in {} ({})",
        ring.entries,
        ring.file,
        units::short_bytes(ring.bytes)
    );
    (text, Mark::Good)
}

/// The same of the daemon's own recording.
pub fn recording_sentence(recording: Option<&RecordingStatus>) -> (String, Mark) {
    let Some(recording) = recording else {
        return ("none of its own".to_owned(), Mark::Plain);
    };
    let RecordingStatus { file, error, .. } = recording;
    if !error.is_empty() {
        return (format!("NOT RECORDING to {file}: {error}"), Mark::Bad);
    }
    let text = format!(
        "to {file} ({} files, {}; {} records since the start)",
        recording.files,
        units::short_bytes(recording.bytes),
        recording.records
    );
    (text, Mark::Good)
}

/// Where labels come in, and how many did.
fn labels_sentence(labels: Option<&LabelStatus>, losses: &Losses) -> String {
    let Some(labels) = labels else {
        return "none: no socket for them is configured".to_owned();
    };
    let one = |what: &str, socket: &str, heard: u64, taken: u64| {
        let told = format!("{what} at {socket}: {heard} heard, {taken} taken");
        (!socket.is_empty()).then_some(told)
    };
    let log = one(
        "access log",
        &labels.access_log_socket,
        losses.labels_heard_log,
        losses.labels_taken_log,
    );
    let tags = one(
        "tags",
        &labels.tag_socket,
        losses.labels_heard_tag,
        losses.labels_taken_tag,
    );
    let each: Vec<_> = log.into_iter().chain(tags).collect();
    each.join("; ")
}

fn records_sentence(losses: &Losses) -> String {
    let (hot, bulk) = (
        losses.hot.unwrap_or_default(),
        losses.bulk.unwrap_or_default(),
    );
    format!(
        "seen {} = exported {} + ring full {}",
        hot.seen + bulk.seen,
        hot.exported + bulk.exported,
        hot.ring_full + bulk.ring_full
    )
}

fn sessions_sentence(losses: &Losses) -> String {
    format!(
        "seen {} = tracked {} + filtered {} + refused {}",
        losses.sessions_seen,
        losses.sessions_tracked,
        losses.sessions_filtered,
        losses.sessions_storage_refused
    )
}

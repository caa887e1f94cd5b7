//! `weir replay`: a recording through the daemon's own intake, and what comes of it.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use probe_ebpf::record::flag;
use weir_proto::v1::Delivery;

use super::{Outcome, Replay};
use crate::intake::{Intake, Told};
use crate::qoe::audience::Happening;
use crate::recording::chain::Chain;
use crate::recording::read::Ending;
use crate::replay::{
    Error, Listener, Moment, Options, Progress, Replayed, Speed, replay as put_through,
};
use crate::ui::listing::deliveries::COLUMNS as DELIVERY_COLUMNS;
use crate::ui::listing::{
    cells as cell_listing, replay as stats_listing, sessions as session_listing,
    viewers as viewer_listing,
};
use crate::ui::out::Style;
use crate::ui::table::Printer;
use crate::ui::{losses, units};
use crate::wire::{self, DaemonCounts, Heard};

/// Time between two looks at how far it is.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
const BAR_COLUMNS: u64 = 30;

/// `weir replay`: the listing to `to`, and what is to be known of the recording to `notes`.
pub fn replay(args: &Replay, style: Style, to: impl Write, notes: impl Write) -> Result<Outcome> {
    show(args, style, to, notes, false)
}

/// The same at a terminal: while it takes long, standard error shows how far it is.
pub fn replay_at_terminal(args: &Replay, style: Style, to: impl Write) -> Result<Outcome> {
    // Not between the lines of a listing, and what is paced takes as long as it took.
    let listing =
        (args.deliveries || args.events || args.viewer_events) && io::stdout().is_terminal();
    let paced = matches!(args.speed, Some(Speed::Times(_)));
    let bar = io::stderr().is_terminal() && !listing && !paced;
    show(args, style, to, io::stderr(), bar)
}

fn show(
    args: &Replay,
    style: Style,
    to: impl Write,
    mut notes: impl Write,
    bar: bool,
) -> Result<Outcome> {
    let chain = Chain::open(&args.files)?;
    let options = Options {
        speed: args.speed.unwrap_or_default(),
        from: args.from,
        until: args.until,
    };
    let format = args.output.output;
    let mut teller = Teller {
        args,
        printer: if args.viewer_events {
            Lines::Viewers(Printer::new(viewer_listing::COLUMNS, format, style, to))
        } else {
            Lines::Deliveries(Printer::new(DELIVERY_COLUMNS, format, style, to))
        },
        bar: bar.then(|| Bar::new(&mut notes)),
    };
    let replayed = put_through(chain, options, &mut teller);
    let Teller { printer, bar, .. } = teller;
    if let Some(bar) = bar {
        bar.clear();
    }
    let replayed = replayed.map_err(|err| match err {
        // As it is, so that a reader that went away is known as one.
        Error::Told(err) => anyhow::Error::from(err),
        err => anyhow::Error::from(err),
    })?;
    let is_told = args.deliveries || args.events || args.viewer_events;
    let to = printer.into_inner(is_told)?;
    if is_told {
        // All is told.
    } else if args.viewers {
        let mut printer = Printer::new(viewer_listing::COLUMNS, format, style, to);
        for row in viewers(&replayed) {
            printer.push(&row)?;
        }
        printer.flush()?;
    } else if args.sessions {
        let mut printer = Printer::new(session_listing::COLUMNS, format, style, to);
        for row in sessions(&replayed) {
            printer.push(&row)?;
        }
        printer.flush()?;
    } else if args.stats {
        let mut printer = Printer::new(stats_listing::COLUMNS, format, style, to);
        printer.push(&stats(&replayed))?;
        printer.flush()?;
    } else {
        let mut printer = Printer::new(cell_listing::COLUMNS, format, style, to);
        for row in cells(&replayed, args.buckets) {
            printer.push(&row)?;
        }
        printer.flush()?;
    }
    note(&replayed, &mut notes)?;
    Ok(if replayed.is_complete() {
        Outcome::Done
    } else {
        Outcome::Incomplete
    })
}

/// What is printed as it goes on.
enum Lines<'a, W: Write> {
    Deliveries(Printer<'a, Delivery, W>),
    Viewers(Printer<'a, viewer_listing::Row, W>),
}

impl<W: Write> Lines<'_, W> {
    /// Prints what is held back, if anything of it was asked for; gives back where to.
    fn into_inner(self, is_told: bool) -> io::Result<W> {
        match self {
            Self::Deliveries(mut printer) => {
                if is_told {
                    printer.flush()?;
                }
                Ok(printer.into_inner())
            }
            Self::Viewers(mut printer) => {
                if is_told {
                    printer.flush()?;
                }
                Ok(printer.into_inner())
            }
        }
    }
}

/// Prints deliveries, or what happens to viewers, as they are folded.
struct Teller<'a, W: Write> {
    args: &'a Replay,
    printer: Lines<'a, W>,
    bar: Option<Bar<'a>>,
}

impl<W: Write> Listener for Teller<'_, W> {
    fn delivery(&mut self, intake: &Intake, told: Told<'_>) -> io::Result<()> {
        if let Lines::Deliveries(printer) = &mut self.printer
            && wanted(self.args, &told)
        {
            printer.push(&message(intake, &told))?;
        }
        Ok(())
    }

    fn viewer(&mut self, intake: &Intake, happening: &Happening) -> io::Result<()> {
        if let Lines::Viewers(printer) = &mut self.printer
            && let Some(event) = intake.viewer_event(happening)
        {
            printer.push(&viewer_listing::Row::Event(event))?;
        }
        Ok(())
    }

    fn progress(&mut self, progress: Progress) {
        if let Some(bar) = &mut self.bar {
            bar.show(progress);
        }
    }
}

/// How far a replay is, drawn over itself on a terminal.
struct Bar<'a> {
    to: &'a mut dyn Write,
    begin: Instant,
    shown: Option<Instant>,
}

impl<'a> Bar<'a> {
    fn new(to: &'a mut dyn Write) -> Self {
        Self {
            to,
            begin: Instant::now(),
            shown: None,
        }
    }

    fn show(&mut self, progress: Progress) {
        let now = Instant::now();
        let last = self.shown.unwrap_or(self.begin);
        if now - last < BAR_INTERVAL {
            return;
        }
        self.shown = Some(now);
        let line = bar(progress, now - self.begin);
        // It is for looking at: a terminal that does not take it is none.
        let _ = write!(self.to, "\r\x1b[K{line}").and_then(|()| self.to.flush());
    }

    fn clear(self) {
        if self.shown.is_some() {
            let _ = write!(self.to, "\r\x1b[K").and_then(|()| self.to.flush());
        }
    }
}

fn bar(progress: Progress, since: Duration) -> String {
    let Progress {
        bytes,
        bytes_read,
        records,
    } = progress;
    let share = |of: u64| bytes_read.min(bytes) * of / bytes.max(1);
    let done = usize::try_from(share(BAR_COLUMNS)).unwrap_or(0);
    format!(
        "[{:<width$}] {:>3} %  {} records, {}/s",
        "=".repeat(done),
        share(100),
        units::short_count(records),
        units::short_rate(records as f64 / since.as_secs_f64().max(1e-9)),
        width = usize::try_from(BAR_COLUMNS).unwrap_or(0),
    )
}

fn wanted(args: &Replay, told: &Told<'_>) -> bool {
    let handshake = told.record.flags & flag::HANDSHAKE != 0;
    (args.deliveries && told.is_for_followers() && (args.handshakes || !handshake))
        || (args.events && told.folded.event.is_some())
}

fn message(intake: &Intake, told: &Told<'_>) -> Delivery {
    let cell = intake.fold().cells().key(told.folded.cell);
    wire::delivery(told.record, cell, intake.context())
}

fn cells(replayed: &Replayed, buckets: bool) -> Vec<cell_listing::Row> {
    let cells = replayed.cells();
    let heard = Heard::of(&replayed.intake.losses(&DaemonCounts::default()));
    let mut rows: Vec<_> = cells
        .iter()
        .map(|cell| cell_listing::Row::new(wire::cell(cell, 1, heard), buckets))
        .collect();
    cell_listing::sort(&mut rows, cell_listing::Sort::Name, false);
    rows
}

fn sessions(replayed: &Replayed) -> impl Iterator<Item = session_listing::Row> {
    let intake = &replayed.intake;
    let now_unix_ns = intake.unix_ns(replayed.end_monotonic_ns);
    let sessions = intake.fold().sessions().iter_from(0);
    sessions.map(move |(_, session)| {
        let cell = intake.fold().cells().key(session.cell);
        session_listing::Row {
            session: wire::session(session, cell, intake.context()),
            now_unix_ns,
        }
    })
}

fn viewers(replayed: &Replayed) -> impl Iterator<Item = viewer_listing::Row> {
    let intake = &replayed.intake;
    let viewers = intake.audience().iter_from(0);
    viewers.map(move |(_, entry)| {
        viewer_listing::Row::Viewer(intake.viewer(entry, replayed.end_monotonic_ns))
    })
}

fn stats(replayed: &Replayed) -> stats_listing::Row {
    let fold = replayed.intake.fold();
    stats_listing::Row {
        files: replayed.files as u64,
        bytes: replayed.bytes,
        span_s: replayed.span().as_secs_f64(),
        records: replayed.records,
        records_missing: replayed.missing,
        sessions: fold.sessions().iter_from(0).count() as u64,
        cells: fold.cells().len() as u64,
        seconds: replayed.took.as_secs_f64(),
        records_per_s: replayed.records_per_s(),
        peak_resident_bytes: peak_resident_bytes().unwrap_or(0),
    }
}

/// Of this process; none: the kernel does not tell.
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Whose recording it is, whether it is all there, what the daemon itself had lost, and how fast it
/// went.
fn note(replayed: &Replayed, to: &mut impl Write) -> io::Result<()> {
    let header = &replayed.header;
    let (files, ending) = match (replayed.files, replayed.endings.last()) {
        (1, Some((_, ending))) => (String::new(), ending.to_string()),
        (files, Some((_, ending))) => (format!(" in {files} files"), ending.to_string()),
        (_, None) => (String::new(), "read up to there".to_owned()),
    };
    writeln!(
        to,
        "{} (weir {}, kernel {}, {}): {:.3} s from {}, {} records{files}; {ending}",
        printable(&header.host),
        printable(&header.weir_version),
        printable(&header.kernel_release),
        header.backend().word(),
        replayed.span().as_secs_f64(),
        units::timestamp(header.begin_unix_ns),
        replayed.records,
    )?;
    for (path, ending) in &replayed.endings[..replayed.endings.len().saturating_sub(1)] {
        if !matches!(ending, Ending::Ended(_)) {
            writeln!(to, "{}: {ending}", path.display())?;
        }
    }
    if replayed.is_before_from {
        writeln!(
            to,
            "it ends before the moment that --from asks for: nothing is told"
        )?;
    }
    if !header.whole {
        writeln!(
            to,
            "it begins in the midst of the daemon's life: counts are from there on, and sessions \
             that were open already are known only as far as they were heard of since"
        )?;
    }
    if replayed.gaps > 0 {
        writeln!(
            to,
            "INCOMPLETE: {} gaps with {} records, because the recorder was too slow, its disk full \
             or failing, or a file is missing",
            replayed.gaps, replayed.missing
        )?;
    }
    let lost = replayed.intake.losses(&wire::DaemonCounts::default());
    writeln!(
        to,
        "the daemon's own losses until then: {}",
        losses::sentence(&lost)
    )?;
    writeln!(
        to,
        "replayed in {:.3} s: {} records/s",
        replayed.took.as_secs_f64(),
        units::short_rate(replayed.records_per_s())
    )?;
    to.flush()
}

/// What comes from elsewhere must not drive the terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// `max`, or how many times as fast as it was.
pub(super) fn parse_speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.strip_suffix('x').unwrap_or(text).parse::<f64>() {
        Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
        _ => Err("give a factor greater than 0, e.g. 1, 0.5 or 10x, or \"max\"".to_owned()),
    }
}

/// A time since the recording's beginning, or one of the calendar.
pub(super) fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(since) = humantime::parse_duration(text) {
        return Ok(Moment::After(since));
    }
    humantime::parse_rfc3339_weak(text)
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .map(|ns| Moment::Unix { ns })
        .ok_or_else(|| {
            "give a time since the beginning, e.g. 90s or 2m 30s, or one of the calendar in UTC, \
             e.g. 2026-03-01T20:15:00Z"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_factors_with_or_without_an_x() {
        assert_eq!(parse_speed("max"), Ok(Speed::Max));
        assert_eq!(parse_speed("10x"), Ok(Speed::Times(10.0)));
        assert_eq!(parse_speed("0.5"), Ok(Speed::Times(0.5)));
        for bad in ["", "x", "0x", "-1", "inf", "fast"] {
            assert!(parse_speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_since_the_beginning_or_of_the_calendar() {
        let after = |s| Ok(Moment::After(Duration::from_secs(s)));
        assert_eq!(parse_moment("90s"), after(90));
        assert_eq!(parse_moment("2m 30s"), after(150));
        let ns = 1_000_000_000 * 86_400;
        for text in ["1970-01-02T00:00:00Z", "1970-01-02 00:00:00"] {
            assert_eq!(parse_moment(text), Ok(Moment::Unix { ns }));
        }
        for bad in ["", "soon", "12:00", "1969-01-01T00:00:00Z"] {
            assert!(parse_moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_bar_shows_how_far_it_is() {
        let progress = Progress {
            bytes: 200,
            bytes_read: 100,
            records: 5000,
        };
        let line = bar(progress, Duration::from_secs(2));
        assert!(line.contains(&format!("[{}{}]", "=".repeat(15), " ".repeat(15))));
        assert!(line.contains(" 50 %"), "{line}");
    }
}

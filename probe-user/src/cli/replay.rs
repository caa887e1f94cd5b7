//! `weir replay`: a recording through the daemon's own intake, and what comes of it.

use std::fs::File;
use std::io::{self, BufReader, Write};

use anyhow::{Context as _, Result};
use probe_ebpf::record::flag;
use weir_proto::v1::Delivery;

use super::Replay;
use crate::intake::{Intake, Told};
use crate::recording::read::Reader;
use crate::replay::{Replayed, Speed, replay as put_through};
use crate::ui::listing::deliveries::COLUMNS as DELIVERY_COLUMNS;
use crate::ui::listing::{cells as cell_listing, sessions as session_listing};
use crate::ui::out::Style;
use crate::ui::table::Printer;
use crate::ui::{losses, units};
use crate::wire;

/// `weir replay`: the listing to `to`, and what is to be known of the recording to `notes`.
pub fn replay(args: &Replay, style: Style, to: impl Write, mut notes: impl Write) -> Result<()> {
    let name = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("cannot open {name}"))?;
    let reader =
        Reader::open(BufReader::new(file)).with_context(|| format!("cannot read {name}"))?;
    let mut printer = Printer::new(DELIVERY_COLUMNS, args.output.output, style, to);
    let replayed = put_through(reader, args.speed, |intake, told| {
        if wanted(args, &told) {
            printer.push(&message(intake, &told))?;
        }
        Ok(())
    })
    .map_err(|err| match err {
        // As it is, so that a reader that went away is known as one.
        crate::replay::Error::Told(err) => anyhow::Error::from(err),
        err => anyhow::Error::from(err).context(format!("cannot replay {name}")),
    })?;
    let format = args.output.output;
    if args.deliveries || args.events {
        printer.flush()?;
    } else if args.sessions {
        let mut printer = Printer::new(
            session_listing::COLUMNS,
            format,
            style,
            printer.into_inner(),
        );
        for row in sessions(&replayed) {
            printer.push(&row)?;
        }
        printer.flush()?;
    } else {
        let mut printer = Printer::new(cell_listing::COLUMNS, format, style, printer.into_inner());
        for row in cells(&replayed, args.buckets) {
            printer.push(&row)?;
        }
        printer.flush()?;
    }
    Ok(note(&replayed, &mut notes)?)
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
    let cells = replayed.intake.cells();
    let mut rows: Vec<_> = cells
        .iter()
        .map(|cell| cell_listing::Row::new(wire::cell(cell, 1), buckets))
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

/// Whose recording it is, whether it is all there, and what the daemon itself had lost.
fn note(replayed: &Replayed, to: &mut impl Write) -> io::Result<()> {
    let header = &replayed.header;
    writeln!(
        to,
        "{} (weir {}, kernel {}, {}): {:.3} s from {}, {} records; {}",
        header.host,
        header.weir_version,
        header.kernel_release,
        header.backend().word(),
        replayed.span().as_secs_f64(),
        units::timestamp(header.begin_unix_ns),
        replayed.records,
        replayed.ending
    )?;
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
            "INCOMPLETE: {} gaps with {} records, because the recorder was too slow",
            replayed.gaps, replayed.missing
        )?;
    }
    let lost = replayed.intake.losses(&wire::DaemonCounts::default());
    writeln!(
        to,
        "the daemon's own losses until then: {}",
        losses::sentence(&lost)
    )?;
    to.flush()
}

/// `max`, or how many times as fast as it was.
pub(super) fn parse_speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.parse::<f64>() {
        Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
        _ => Err("give a factor greater than 0, e.g. 1 or 0.5, or \"max\"".to_owned()),
    }
}

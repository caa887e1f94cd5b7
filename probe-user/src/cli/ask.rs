//! The commands that ask a daemon or a collector, and print what it says.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tonic::Streaming;
use weir_proto::v1::{
    Delivery, GetStatusRequest, ListCellsRequest, ListDeliveriesRequest, ListHostsRequest,
    ListSessionsRequest, ListWindowRequest, Missing,
};

use super::filter::{Client, on_the_wire};
use super::{Cells, Deliveries, Hosts, Sessions, Status};
use crate::query::client::{self, Peer};
use crate::ui::listing::{cells as cell_listing, deliveries as delivery_listing};
use crate::ui::listing::{
    hosts as host_listing, sessions as session_listing, status as status_listing,
    versions as version_listing,
};
use crate::ui::out::Style;
use crate::ui::table::{Format, Printer};
use crate::ui::units;

/// Rows that come apart by more than this are not held back any longer to align columns.
pub(super) const HOLD: Duration = Duration::from_millis(50);

/// `weir sessions`.
pub async fn sessions(args: &Sessions, style: Style, to: impl Write) -> Result<()> {
    let peer = Peer::Daemon(args.socket.socket.clone());
    let mut daemon = client::local(&args.socket.socket).await?;
    let request = ListSessionsRequest {
        filter: Some(on_the_wire(
            &args.client,
            &args.cell,
            &args.state,
            args.troubled,
        )),
        // The limit is one of the order printed, which only this side knows.
        limit: if args.sort.is_some() {
            0
        } else {
            args.limit.unwrap_or(0)
        },
    };
    let answer = daemon.list_sessions(request).await;
    let mut stream = answer.map_err(|status| peer.error(&status))?.into_inner();
    let mut printer = Printer::new(session_listing::COLUMNS, args.output.output, style, to);
    let row = |session| session_listing::Row {
        session,
        now_unix_ns: units::now_unix_ns(),
    };
    if let Some(by) = args.sort {
        let mut rows: Vec<_> = collect(&mut stream, &peer)
            .await?
            .into_iter()
            .map(row)
            .collect();
        session_listing::sort(&mut rows, by, args.reverse);
        rows.truncate(limit(args.limit));
        for row in &rows {
            printer.push(row)?;
        }
    } else {
        while let Some(session) = next(&mut stream, &peer).await? {
            printer.push(&row(session))?;
        }
    }
    Ok(printer.flush()?)
}

/// `weir deliveries`.
pub async fn deliveries(args: &Deliveries, style: Style, to: impl Write) -> Result<()> {
    let peer = Peer::Daemon(args.socket.socket.clone());
    let mut daemon = client::local(&args.socket.socket).await?;
    let keep = |delivery: &Delivery| {
        args.state.is_empty() || args.state.iter().any(|state| state.holds(delivery))
    };
    // An order, and the states of deliveries, are known on this side only: then so is the limit.
    let whole = !args.follow && (args.sort.is_some() || !args.state.is_empty());
    let request = ListDeliveriesRequest {
        filter: Some(on_the_wire(&args.client, &args.cell, &[], args.troubled)),
        limit: if whole { 0 } else { args.limit.unwrap_or(0) },
        follow: args.follow,
        handshakes: args.handshakes,
    };
    let answer = daemon.list_deliveries(request).await;
    let mut stream = answer.map_err(|status| peer.error(&status))?.into_inner();
    let mut printer = Printer::new(delivery_listing::COLUMNS, args.output.output, style, to);
    if !whole {
        print_as_they_come(&mut stream, &peer, keep, &mut printer).await?;
        if args.follow {
            // Following has no end of its own: whoever waits for more must hear of it.
            return Err(peer.ended().into());
        }
        return Ok(());
    }
    let mut rows = collect(&mut stream, &peer).await?;
    rows.retain(keep);
    if let Some(by) = args.sort {
        delivery_listing::sort(&mut rows, by, args.reverse);
        rows.truncate(limit(args.limit));
    } else {
        rows.drain(..rows.len().saturating_sub(limit(args.limit)));
    }
    print_all(&rows, printer)
}

/// Prints rows as they arrive; those that arrive together are aligned together.
async fn print_as_they_come<W: Write>(
    stream: &mut Streaming<Delivery>,
    peer: &Peer,
    keep: impl Fn(&Delivery) -> bool,
    printer: &mut Printer<'_, Delivery, W>,
) -> Result<()> {
    loop {
        let row = if printer.holds_rows() {
            let Ok(row) = tokio::time::timeout(HOLD, next(stream, peer)).await else {
                printer.flush()?;
                continue;
            };
            row?
        } else {
            next(stream, peer).await?
        };
        let Some(row) = row else {
            return Ok(printer.flush()?);
        };
        if keep(&row) {
            printer.push(&row)?;
        }
    }
}

/// `weir cells`.
pub async fn cells(args: &Cells, style: Style, to: impl Write) -> Result<()> {
    let client = Client {
        port: args.port.clone(),
        prefix: Vec::new(),
    };
    let request = ListCellsRequest {
        filter: Some(on_the_wire(&client, &args.cell, &[], args.troubled)),
        histograms: true,
    };
    if let (Some(url), Some(last)) = (&args.collector, args.last) {
        return windows(args, request, (url, last), style, to).await;
    }
    let (peer, answer) = if let Some(url) = &args.collector {
        let mut fleet = client::fleet(url, args.tls.files()).await?;
        let answer = fleet.list_cells(request).await;
        (Peer::Collector(url.clone()), answer)
    } else {
        let socket = &args.socket.socket;
        let answer = client::local(socket).await?.list_cells(request).await;
        (Peer::Daemon(socket.clone()), answer)
    };
    let answer = answer.map_err(|status| peer.error(&status))?.into_inner();
    say_missing(&answer.missing, 0);
    let mut rows: Vec<_> = answer
        .cells
        .into_iter()
        .map(|cell| cell_listing::Row::new(cell, args.buckets))
        .collect();
    cell_listing::sort(&mut rows, args.sort, args.reverse);
    rows.truncate(limit(args.limit));
    let columns = if args.qoe {
        cell_listing::QOE_COLUMNS
    } else {
        cell_listing::COLUMNS
    };
    print_all(&rows, Printer::new(columns, args.output.output, style, to))
}

/// `weir cells --last`: a window, or one after the other.
async fn windows(
    args: &Cells,
    request: ListCellsRequest,
    (url, last): (&str, Duration),
    style: Style,
    mut to: impl Write,
) -> Result<()> {
    let peer = Peer::Collector(url.to_owned());
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
    let request = ListWindowRequest {
        filter: request.filter,
        histograms: request.histograms,
        seconds: seconds(last),
        follow: args.follow,
        interval_s: seconds(args.every),
    };
    let answer = client::fleet(url, args.tls.files())
        .await?
        .list_window(request)
        .await;
    let mut stream = answer.map_err(|status| peer.error(&status))?.into_inner();
    while let Some(window) = next(&mut stream, &peer).await? {
        say_missing(&window.missing, 0);
        let mut rows: Vec<_> = window
            .cells
            .into_iter()
            .map(|cell| cell_listing::Row::new(cell, args.buckets))
            .collect();
        cell_listing::sort(&mut rows, args.sort, args.reverse);
        rows.truncate(limit(args.limit));
        if args.output.output == Format::Json {
            let windows = rows.into_iter().map(|row| cell_listing::InWindow {
                until_unix_ns: window.until_unix_ns,
                seconds: window.seconds,
                row,
            });
            for row in windows {
                serde_json::to_writer(&mut to, &row).map_err(std::io::Error::from)?;
                to.write_all(b"\n")?;
            }
            to.flush()?;
            continue;
        }
        writeln!(
            to,
            "{} s until {}, {} hosts",
            window.seconds,
            units::timestamp(window.until_unix_ns),
            window.hosts
        )?;
        let printer = Printer::new(cell_listing::COLUMNS, args.output.output, style, &mut to);
        print_all(&rows, printer)?;
    }
    Ok(())
}

/// `weir hosts`.
pub async fn hosts(args: &Hosts, style: Style, to: impl Write) -> Result<()> {
    let centre = &args.centre;
    let peer = Peer::Collector(centre.collector.clone());
    let mut collector = client::fleet(&centre.collector, centre.tls.files()).await?;
    let answer = collector.list_hosts(ListHostsRequest {}).await;
    let answer = answer.map_err(|status| peer.error(&status))?.into_inner();
    if let Some(warning) = answer.collector.as_ref().and_then(host_listing::warning) {
        eprintln!("weir: {warning}");
    }
    let collector = answer.collector.as_ref();
    let partitions = collector.map_or(0, |collector| collector.partitions_in_all);
    say_missing(&answer.missing, partitions);
    let now_unix_ns = answer.unix_ns;
    let mut rows: Vec<_> = answer
        .hosts
        .into_iter()
        .map(|host| host_listing::Row { host, now_unix_ns })
        .filter(|row| (!args.silent || row.is_silent()) && (!args.clock_off || row.is_clock_off()))
        .collect();
    if args.versions {
        return print_all(
            &version_listing::rows(&rows),
            Printer::new(version_listing::COLUMNS, args.output.output, style, to),
        );
    }
    host_listing::sort(&mut rows, args.sort, args.reverse);
    rows.truncate(limit(args.limit));
    print_all(
        &rows,
        Printer::new(host_listing::COLUMNS, args.output.output, style, to),
    )
}

/// What is missing in an answer is said beside it.
fn say_missing(missing: &[Missing], partitions: u32) {
    for missing in host_listing::missing(missing, partitions) {
        eprintln!("weir: {missing}");
    }
}

/// `weir status`.
pub async fn status(args: &Status, style: Style, mut to: impl Write) -> Result<()> {
    let peer = Peer::Daemon(args.socket.socket.clone());
    let mut daemon = client::local(&args.socket.socket).await?;
    let answer = daemon.get_status(GetStatusRequest {}).await;
    let status = answer.map_err(|status| peer.error(&status))?.into_inner();
    match args.output.output {
        Format::Json => {
            // By way of io::Error, so that a reader that went away is known as one.
            serde_json::to_writer(&mut to, &status).map_err(std::io::Error::from)?;
            to.write_all(b"\n")?;
        }
        Format::Table => status_listing::write(&status, units::now_unix_ns(), style, &mut to)?,
    }
    Ok(to.flush()?)
}

fn print_all<T: Serialize, W: Write>(rows: &[T], mut printer: Printer<'_, T, W>) -> Result<()> {
    for row in rows {
        printer.push(row)?;
    }
    Ok(printer.flush()?)
}

pub(super) async fn next<T>(stream: &mut Streaming<T>, peer: &Peer) -> Result<Option<T>> {
    Ok(stream
        .message()
        .await
        .map_err(|status| peer.error(&status))?)
}

async fn collect<T>(stream: &mut Streaming<T>, peer: &Peer) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    while let Some(row) = next(stream, peer).await? {
        rows.push(row);
    }
    Ok(rows)
}

pub(super) fn limit(limit: Option<u32>) -> usize {
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

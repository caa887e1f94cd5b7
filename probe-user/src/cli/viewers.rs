//! `weir viewers`: lists them, and follows what happens to them.

use std::io::Write;

use anyhow::Result;
use tonic::Streaming;
use weir_proto::v1::viewer_message::Message;
use weir_proto::v1::{ListViewersRequest, Viewer, ViewerMessage};

use super::Viewers;
use super::ask::{HOLD, limit, next};
use super::filter::on_the_wire;
use crate::query::client::{self, Peer};
use crate::ui::listing::viewers::{self as listing, Row};
use crate::ui::out::Style;
use crate::ui::table::Printer;

/// `weir viewers`.
pub async fn viewers(args: &Viewers, style: Style, to: impl Write) -> Result<()> {
    let peer = Peer::Daemon(args.socket.socket.clone());
    let mut daemon = client::local(&args.socket.socket).await?;
    let request = ListViewersRequest {
        filter: Some(on_the_wire(&args.client, &args.cell, &[], args.troubled)),
        limit: if args.sort.is_some() {
            0
        } else {
            args.limit.unwrap_or(0)
        },
        follow: args.follow,
    };
    let answer = daemon.list_viewers(request).await;
    let mut stream = answer.map_err(|status| peer.error(&status))?.into_inner();
    let mut printer = Printer::new(listing::COLUMNS, args.output.output, style, to);
    if let Some(by) = args.sort {
        let mut viewers: Vec<Viewer> = Vec::new();
        while let Some(message) = next(&mut stream, &peer).await? {
            if let Some(Message::Viewer(viewer)) = message.message {
                viewers.push(viewer);
            }
        }
        listing::sort(&mut viewers, by, args.reverse);
        viewers.truncate(limit(args.limit));
        for viewer in viewers {
            printer.push(&Row::Viewer(viewer))?;
        }
        return Ok(printer.flush()?);
    }
    as_they_come(&mut stream, &peer, &mut printer).await?;
    if args.follow {
        // Following has no end of its own: whoever waits for more must hear of it.
        return Err(peer.ended().into());
    }
    Ok(())
}

/// Prints rows as they arrive; those that arrive together are aligned together.
async fn as_they_come<W: Write>(
    stream: &mut Streaming<ViewerMessage>,
    peer: &Peer,
    printer: &mut Printer<'_, Row, W>,
) -> Result<()> {
    loop {
        let message = if printer.holds_rows() {
            let Ok(message) = tokio::time::timeout(HOLD, next(stream, peer)).await else {
                printer.flush()?;
                continue;
            };
            message?
        } else {
            next(stream, peer).await?
        };
        let Some(message) = message else {
            return Ok(printer.flush()?);
        };
        match message.message {
            Some(Message::Viewer(viewer)) => printer.push(&Row::Viewer(viewer))?,
            Some(Message::Event(event)) => printer.push(&Row::Event(event))?,
            Some(Message::Alarm(alarm)) => {
                printer.flush()?;
                let what = if alarm.on { "ALARM" } else { "cleared" };
                eprintln!("weir: {what}: {}", listing::alarm_sentence(&alarm));
            }
            None => {}
            Some(Message::Missed(missed)) => {
                printer.flush()?;
                eprintln!("weir: missed {missed} events: this reader is too slow");
            }
        }
    }
}

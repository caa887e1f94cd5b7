//! `weir top`: the live view of a daemon in another process.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::Top;
use super::filter::on_the_wire;
use crate::query::client;
use crate::ui::out::colour_wanted;
use crate::ui::top::{self, LogLines, Options};

/// `weir top`.
pub async fn top(args: &Top) -> Result<()> {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        bail!(
            "the live view needs a terminal for input and output; \
             `weir cells` and `weir sessions` print the same numbers once"
        );
    }
    // A daemon that goes away later is waited for; one that never was is an error.
    client::local(&args.socket.socket).await?;
    let options = Options {
        socket: args.socket.socket.clone(),
        filter: on_the_wire(&args.client, &args.cell, &[], false),
        interval_ms: args.interval_ms,
        colour: colour_wanted(),
    };
    top::run(options, &LogLines::default(), ended()?).await
}

/// Done when a signal asks this process to end.
pub(super) fn ended() -> Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

//! Sends what the boots before this one had kept on disk and could not send any more.
//!
//! A boot that ended in order has sent all, and the collector takes its last frame for a repetition.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::Notify;
use tokio::time::timeout;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::{self, Lane};

use super::super::link::{connect, refused};
use super::Found;
use crate::tls::Connector;

const ACK_TIMEOUT: Duration = Duration::from_secs(20);
const BACKOFF_LEAST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(30);

/// Whenever the collector turns out to know nothing of this boot, it knows nothing of those before
/// it either: tries until it has taken, or refused, each.
pub(in super::super) async fn run(
    mut found: Found,
    host: String,
    connector: Connector,
    wanted: Arc<Notify>,
) {
    found.last.retain(|(hello, _)| {
        let is_ours = hello.host == host;
        if !is_ours {
            let former = &hello.host;
            tracing::warn!(
                former,
                "what the ring has of this host's former name stays there"
            );
        }
        is_ours
    });
    loop {
        wanted.notified().await;
        for (hello, frame) in &found.last {
            deliver(&connector, hello, frame).await;
        }
    }
}

async fn deliver(connector: &Connector, hello: &v1::Hello, frame: &v1::Frame) {
    let boot_id = &hello.boot_id;
    let mut backoff = BACKOFF_LEAST;
    loop {
        match send(connector, hello.clone(), frame.clone()).await {
            Ok(()) => {
                let tick = frame.seq;
                tracing::info!(
                    boot_id,
                    tick,
                    "the collector has the last of an earlier start"
                );
                return;
            }
            Err(Failed::Refused(why)) => {
                return tracing::warn!(
                    boot_id,
                    "the collector does not take the last of an earlier start: {why}"
                );
            }
            Err(Failed::Later(why)) => {
                tracing::debug!(boot_id, "the last of an earlier start waits: {why:#}");
            }
        }
        tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        backoff = (backoff * 2).min(BACKOFF_MOST);
    }
}

enum Failed {
    /// It would be refused again.
    Refused(String),
    /// There is no way to the collector.
    Later(anyhow::Error),
}

impl From<anyhow::Error> for Failed {
    fn from(err: anyhow::Error) -> Self {
        Self::Later(err)
    }
}

async fn send(connector: &Connector, hello: v1::Hello, frame: v1::Frame) -> Result<(), Failed> {
    let hello = v1::Hello {
        lane: Lane::Warm.into(),
        is_recovery: true,
        ..hello
    };
    let seq = frame.seq;
    let mut connection = match connect(connector, hello).await {
        Ok(connection) => connection,
        Err(err) => {
            // Its words, with the code behind them.
            let said = format!("{err:#}");
            let is_final = ["InvalidArgument", "PermissionDenied", "FailedPrecondition"];
            return Err(if is_final.iter().any(|code| said.contains(code)) {
                Failed::Refused(said)
            } else {
                Failed::Later(err)
            });
        }
    };
    let message = Some(Up::Frame(frame));
    let sent = connection.to.send(v1::EdgeMessage { message }).await;
    sent.context("the connection ended")?;
    let acknowledged = async {
        loop {
            let answer = connection.from.message().await.map_err(refused)?;
            match answer.map(|answer| answer.message) {
                Some(Some(Down::Ack(ack))) if ack.seq == seq => return Ok(()),
                Some(_) => {}
                None => bail!("it closed the connection"),
            }
        }
    };
    timeout(ACK_TIMEOUT, acknowledged)
        .await
        .context("it has acknowledged nothing")??;
    Ok(())
}

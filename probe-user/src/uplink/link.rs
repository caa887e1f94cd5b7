//! One connection to the collector, from its hello to its end.

use std::collections::VecDeque;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::uplink_client::UplinkClient;

use super::{Options, Outbox};
use crate::query::client::innermost;
use crate::wire::WIRE_VERSION;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A collector that acknowledges nothing for so long is not there any more.
const ACK_TIMEOUT: Duration = Duration::from_secs(20);
/// Frames handed to the connection and not yet on their way.
const IN_FLIGHT: usize = 4;

/// Speaks with the collector until the connection fails, or until the core is finished and all is
/// acknowledged.
pub(super) async fn run(options: &Options, outbox: &mut Outbox) -> anyhow::Result<()> {
    let (to, mut from, welcome) = connect(options).await?;
    let counts = Arc::clone(&outbox.counts);
    tracing::info!(
        collector = %options.collector,
        name = welcome.collector,
        "connected to the collector"
    );
    counts.update(|status| {
        status.connected = true;
        status.last_error.clear();
        if status.sent_seq > 0 {
            status.reconnects += 1;
        }
    });

    let finish = outbox.inputs.finish.clone();
    let mut unacknowledged: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut finishing = false;
    let mut events_over = false;
    // Whatever was lost with the connection before: the newest tick repairs it.
    if outbox.waiting.is_none() {
        outbox.take_tick();
    }
    loop {
        if finishing && events_over && outbox.waiting.is_none() && unacknowledged.is_empty() {
            return Ok(());
        }
        let oldest = unacknowledged.front().map(|(_, sent)| *sent + ACK_TIMEOUT);
        tokio::select! {
            biased;
            answer = from.message() => {
                let seq = acknowledged(answer)?;
                counts.update(|status| status.acked_seq = status.acked_seq.max(seq));
                while unacknowledged.front().is_some_and(|(sent, _)| *sent <= seq) {
                    unacknowledged.pop_front();
                }
            }
            () = wait_until(oldest) => {
                bail!("it has acknowledged nothing for {ACK_TIMEOUT:?}");
            }
            // Events first; taken from their queue only when there is room to send them.
            (place, event) = async {
                let place = to.reserve().await;
                (place, outbox.inputs.events.recv().await)
            }, if !events_over => {
                let place = place.context("the connection ended")?;
                match event {
                    Ok(event) => {
                        let frame = outbox.take_events(&event);
                        sent(&mut unacknowledged, outbox, frame.seq);
                        place.send(message(Up::Frame(frame)));
                    }
                    Err(RecvError::Lagged(missed)) => outbox.missed_events(missed),
                    Err(RecvError::Closed) => events_over = true,
                }
            }
            place = to.reserve(), if outbox.waiting.is_some() => {
                let place = place.context("the connection ended")?;
                if let Some(frame) = outbox.waiting.take() {
                    let frame = outbox.numbered(frame);
                    sent(&mut unacknowledged, outbox, frame.seq);
                    place.send(message(Up::Frame(frame)));
                }
            }
            Ok(()) = outbox.inputs.ticks.changed() => outbox.take_tick(),
            () = finish.cancelled(), if !finishing => {
                finishing = true;
                if outbox.inputs.ticks.has_changed().unwrap_or(true) {
                    outbox.take_tick();
                }
            }
        }
    }
}

async fn wait_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn sent(unacknowledged: &mut VecDeque<(u64, Instant)>, outbox: &Outbox, seq: u64) {
    unacknowledged.push_back((seq, Instant::now()));
    outbox.counts.update(|status| status.sent_seq = seq);
}

fn message(message: Up) -> v1::EdgeMessage {
    v1::EdgeMessage {
        message: Some(message),
    }
}

type Connection = (
    mpsc::Sender<v1::EdgeMessage>,
    Streaming<v1::CollectorMessage>,
    v1::Welcome,
);

async fn connect(options: &Options) -> anyhow::Result<Connection> {
    let channel = Endpoint::from(options.collector.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(|err| anyhow::anyhow!("cannot connect: {}", innermost(&err)))?;
    let (to, stream) = mpsc::channel(IN_FLIGHT);
    to.send(message(Up::Hello(options.hello.clone()))).await?;
    let mut client = UplinkClient::new(channel);
    let speak = async {
        let mut from = client
            .report(ReceiverStream::new(stream))
            .await
            .map_err(refused)?
            .into_inner();
        let first = from.message().await.map_err(refused)?;
        match first.and_then(|message| message.message) {
            Some(Down::Welcome(welcome)) if welcome.wire_version == WIRE_VERSION => {
                Ok((from, welcome))
            }
            Some(Down::Welcome(welcome)) => bail!(
                "it speaks version {} of the wire, this daemon version {WIRE_VERSION}",
                welcome.wire_version
            ),
            _ => bail!("it did not say welcome; is it a weir collector?"),
        }
    };
    let (from, welcome) = timeout(WELCOME_TIMEOUT, speak)
        .await
        .with_context(|| format!("it did not answer within {WELCOME_TIMEOUT:?}"))??;
    Ok((to, from, welcome))
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn refused(status: tonic::Status) -> anyhow::Error {
    match status.source() {
        Some(cause) => anyhow::anyhow!("{}", innermost(cause)),
        None => anyhow::anyhow!("{} ({:?})", status.message(), status.code()),
    }
}

/// The frame number in what the collector said.
fn acknowledged(
    answer: Result<Option<v1::CollectorMessage>, tonic::Status>,
) -> anyhow::Result<u64> {
    match answer.map_err(refused)?.map(|message| message.message) {
        Some(Some(Down::Ack(ack))) => Ok(ack.seq),
        // Of a later version; this one does not need it.
        Some(_) => Ok(0),
        None => bail!("it closed the connection"),
    }
}

//! Sends frames to the engine in the order in which they came, until it has acknowledged each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::carried::Packed;
use super::{Counts, Error};

/// Frames that are on their way to the server and not acknowledged yet.
pub(super) const IN_FLIGHT: usize = 1024;
/// Time until what failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// A frame that is to be published.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) packed: Packed,
    /// What it takes of the buffer.
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) done: oneshot::Sender<Result<(), Error>>,
}

impl Item {
    fn message(&self, by: &str) -> PublishMessage {
        PublishMessage::build()
            .payload(self.packed.payload.clone())
            .message_id(&self.packed.id)
            .header(super::follow::BY, by)
    }
}

/// Until there is nothing more to come.
pub(super) async fn run(
    context: Context,
    by: String,
    counts: Arc<Counts>,
    mut items: mpsc::UnboundedReceiver<Item>,
) {
    let mut acks = FuturesUnordered::new();
    let mut again = VecDeque::new();
    let mut is_over = false;
    while !(is_over && acks.is_empty() && again.is_empty()) {
        let is_connected = context.client().connection_state() == State::Connected;
        let has_room = is_connected && acks.len() < IN_FLIGHT;
        let item = if has_room { again.pop_front() } else { None };
        let item = if let Some(item) = item {
            item
        } else {
            tokio::select! {
                Some((item, ack)) = acks.next() => {
                    if let Some(item) = settle(&counts, item, ack) {
                        again.push_back(item);
                        tokio::time::sleep(PAUSE).await;
                    }
                    continue;
                }
                item = items.recv(), if has_room && !is_over => {
                    if let Some(item) = item {
                        item
                    } else {
                        is_over = true;
                        continue;
                    }
                }
                () = tokio::time::sleep(PAUSE) => {
                    if !is_connected {
                        counts.fail("the NATS server cannot be reached");
                    }
                    continue;
                }
            }
        };
        let subject = item.packed.subject.clone();
        match context.send_publish(subject, item.message(&by)).await {
            Ok(ack) => acks.push(async move { (item, ack.await) }),
            Err(err) => {
                if let Some(item) = settle(&counts, item, Err(err)) {
                    again.push_front(item);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Takes note of what became of a frame; gives it back if it must be sent again.
fn settle(counts: &Counts, item: Item, ack: Result<PublishAck, PublishError>) -> Option<Item> {
    let done = match ack {
        Ok(ack) => {
            counts.works();
            counts.add(|counts| &counts.acknowledged);
            if ack.duplicate {
                counts.add(|counts| &counts.repeated);
            }
            Ok(())
        }
        Err(err) if err.kind() == PublishErrorKind::MaxPayloadExceeded => {
            counts.add(|counts| &counts.too_large);
            Err(Error::TooLarge {
                bytes: item.packed.payload.len(),
            })
        }
        Err(err) => {
            counts.fail(&format!("a frame could not be published: {err}"));
            counts.add(|counts| &counts.retried);
            return Some(item);
        }
    };
    counts
        .waiting_bytes
        .fetch_sub(item.packed.payload.len() as u64, Ordering::Relaxed);
    // Its host may be gone.
    let _ = item.done.send(done);
    drop(item.permit);
    None
}

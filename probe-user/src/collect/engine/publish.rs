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
use tokio::time::Instant;

use super::carried::Packed;
use super::{Counts, Error, Part};

/// Frames that are on their way to the server and not acknowledged yet.
pub(super) const IN_FLIGHT: usize = 1024;
/// Time until what failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two such, so that a stream that takes nothing is not asked without end.
const APART: Duration = Duration::from_millis(1);
/// A server that is there is met within this.
const FIRST_MEETING: Duration = Duration::from_secs(2);

/// A frame that is to be published.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) packed: Packed,
    /// Whose it is, and where it is merged already.
    pub(super) by: String,
    /// What it takes of the buffer.
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) part: Part,
    pub(super) done: oneshot::Sender<Result<(), Error>>,
}

impl Item {
    fn message(&self) -> PublishMessage {
        let message = PublishMessage::build()
            .payload(self.packed.payload.clone())
            .message_id(&self.packed.id)
            .header(super::follow::BY, self.by.as_str());
        match &self.packed.bare {
            Some(bare) => message.header(super::tally::BARE, bare.as_str()),
            None => message,
        }
    }
}

/// Until there is nothing more to come.
pub(super) async fn run(
    context: Context,
    counts: Arc<Counts>,
    mut items: mpsc::UnboundedReceiver<Item>,
) {
    let begun = Instant::now();
    let mut acks = FuturesUnordered::new();
    // What failed, and when it is tried again. It holds up nothing else: streams fail by themselves.
    let mut again = Again::default();
    let mut is_over = false;
    while !(is_over && acks.is_empty() && again.items.is_empty()) {
        let is_connected = context.client().connection_state() == State::Connected;
        let has_room = is_connected && acks.len() < IN_FLIGHT;
        let item = tokio::select! {
            Some((item, ack)) = acks.next() => {
                if let Some(item) = settle(&counts, item, ack) {
                    again.add(item);
                }
                continue;
            }
            item = again.next(), if has_room => item,
            item = items.recv(), if has_room && !is_over => {
                is_over = item.is_none();
                item
            }
            () = tokio::time::sleep(PAUSE) => {
                if !is_connected && begun.elapsed() > FIRST_MEETING {
                    counts.fail(Part::Frames, "the NATS server cannot be reached");
                }
                None
            }
        };
        let Some(item) = item else { continue };
        let subject = item.packed.subject.clone();
        match context.send_publish(subject, item.message()).await {
            Ok(ack) => acks.push(async move { (item, ack.await) }),
            Err(err) => {
                if let Some(item) = settle(&counts, item, Err(err)) {
                    again.add(item);
                    // It is the connection that does not take it.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Frames that are to be sent again.
#[derive(Debug, Default)]
struct Again {
    items: VecDeque<(Instant, Item)>,
}

impl Again {
    fn add(&mut self, item: Item) {
        let soonest = Instant::now() + PAUSE;
        let last = self.items.back().map(|(at, _)| *at + APART);
        let at = last.map_or(soonest, |last| last.max(soonest));
        self.items.push_back((at, item));
    }

    /// The next, when it is time; never, if there is none. May be dropped while it waits.
    async fn next(&mut self) -> Option<Item> {
        match self.items.front() {
            Some((at, _)) => tokio::time::sleep_until(*at).await,
            None => std::future::pending().await,
        }
        self.items.pop_front().map(|(_, item)| item)
    }
}

/// Takes note of what became of a frame; gives it back if it must be sent again.
fn settle(counts: &Counts, item: Item, ack: Result<PublishAck, PublishError>) -> Option<Item> {
    let done = match ack {
        Ok(ack) => {
            counts.works(item.part);
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
            let why = format!("a frame could not be published: {err}");
            counts.fail(item.part, &why);
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

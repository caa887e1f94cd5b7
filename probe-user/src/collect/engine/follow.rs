//! Takes in what is in the engine: at the start everything, then what other collectors hand over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::{self, Message};
use futures::StreamExt as _;
use tokio::sync::watch;

use super::Counts;
use super::carried::unpack;
use super::nats::Streams;
use crate::collect::decode;
use crate::collect::fleet::Way;
use crate::collect::known::Shared;

/// The header that says which collector a message is of.
pub(super) const BY: &str = "Weir-By";
const RETRY: Duration = Duration::from_secs(1);

/// Follows both streams.
pub(super) struct Follower {
    pub(super) context: jetstream::Context,
    pub(super) streams: Streams,
    pub(super) by: String,
    pub(super) known: Arc<Shared>,
    pub(super) counts: Arc<Counts>,
    /// Counts the times that the server was met.
    pub(super) met: watch::Receiver<u64>,
    pub(super) rebuilt: watch::Sender<bool>,
}

impl Follower {
    /// For ever.
    pub(super) async fn run(mut self) {
        // The last message of the stream of frames that was taken in.
        let mut last = 0;
        loop {
            // A server that was away has forgotten who followed.
            let mut met = self.met.clone();
            if *met.borrow_and_update() > 0 {
                let followed = tokio::select! {
                    followed = self.follow(&mut last) => followed,
                    _ = met.changed() => continue,
                };
                if let Err(err) = followed {
                    self.counts
                        .fail(&format!("cannot follow the frames: {err:#}"));
                }
                tokio::time::sleep(RETRY).await;
            } else if self.met.changed().await.is_err() {
                return;
            }
        }
    }

    async fn follow(&self, last: &mut u64) -> anyhow::Result<()> {
        self.streams.ensure(&self.context).await?;
        let frames = &self.streams.frames;
        let mut stream = self.context.get_stream(frames).await?;
        let state = &stream.info().await?.state;
        if state.last_sequence < *last {
            // It was made anew.
            *last = 0;
        }
        let there = (state.messages > 0).then_some(state.last_sequence);
        let mut messages = self.messages(frames, *last + 1).await?;
        if let Some(there) = there {
            while *last < there {
                let Some(left) = self.next(&mut messages, last).await? else {
                    bail!("the stream {frames} has ended");
                };
                if left == 0 {
                    break;
                }
            }
        }
        if !self.counts.is_rebuilt.load(Ordering::Relaxed) {
            self.take_boots().await?;
            self.counts.is_rebuilt.store(true, Ordering::Relaxed);
            self.rebuilt.send_replace(true);
            let followed = self.counts.followed.load(Ordering::Relaxed);
            tracing::info!(frames = followed, "took in what the engine has");
        }
        while self.next(&mut messages, last).await?.is_some() {}
        bail!("the stream {frames} has ended")
    }

    /// The boots that have said nothing in the last minutes are in the other stream alone.
    async fn take_boots(&self) -> anyhow::Result<()> {
        let boots = &self.streams.boots;
        let mut stream = self.context.get_stream(boots).await?;
        if stream.info().await?.state.messages == 0 {
            return Ok(());
        }
        let mut messages = self.messages(boots, 1).await?;
        let mut last = 0;
        while let Some(left) = self.next(&mut messages, &mut last).await? {
            if left == 0 {
                return Ok(());
            }
        }
        bail!("the stream {boots} has ended")
    }

    async fn messages(&self, stream: &str, from: u64) -> anyhow::Result<Ordered> {
        let deliver_policy = match from {
            1 => DeliverPolicy::All,
            start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
        };
        let config = OrderedConfig {
            deliver_policy,
            ..OrderedConfig::default()
        };
        let consumer = self
            .context
            .get_stream(stream)
            .await?
            .create_consumer(config)
            .await;
        let consumer = consumer.with_context(|| format!("cannot follow the stream {stream}"))?;
        Ok(consumer.messages().await?)
    }

    /// Takes one message in. Gives how many there are left now; none: the stream has ended.
    async fn next(&self, messages: &mut Ordered, last: &mut u64) -> anyhow::Result<Option<u64>> {
        let Some(message) = messages.next().await else {
            return Ok(None);
        };
        let message = message?;
        let info = message.info().map_err(|err| anyhow::anyhow!("{err}"))?;
        *last = info.stream_sequence;
        let left = info.pending;
        if !self.is_own(&message) {
            self.counts.add(|counts| &counts.followed);
            if let Err(why) = self.take(&message) {
                self.counts.add(|counts| &counts.unusable);
                tracing::debug!(subject = %message.subject, "cannot use a frame of the engine: {why:#}");
            }
        }
        Ok(Some(left))
    }

    /// What this process published itself is known here.
    fn is_own(&self, message: &Message) -> bool {
        let by = message.headers.as_ref().and_then(|headers| headers.get(BY));
        by.is_some_and(|by| by.as_str() == self.by)
    }

    fn take(&self, message: &Message) -> anyhow::Result<()> {
        let carried = unpack(&message.payload)?;
        let hello = carried.hello.context("it has no hello")?;
        let frame = carried.frame.context("it has no frame")?;
        decode::hello(&hello)?;
        let before = self.known.latest(&hello);
        let cells = decode::frame(&frame, &hello, &before)?;
        let merged = self
            .known
            .merge(&hello, &frame, cells, Way::Engine, carried.heard_unix_ns);
        merged.map(|_| ()).map_err(anyhow::Error::from)
    }
}

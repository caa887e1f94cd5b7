//! Takes in what is in the engine: at the start everything, then what other collectors hand over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Message};
use futures::StreamExt as _;
use tokio::sync::watch;

use super::carried::unpack;
use super::nats::Streams;
use super::{Counts, Part};
use crate::collect::decode;
use crate::collect::fleet::Way;
use crate::collect::known::Shared;

/// The header that says which collector a message is of.
pub(super) const BY: &str = "Weir-By";
const RETRY: Duration = Duration::from_secs(1);

/// Time until what could not be made, or not be read, is tried again.
const REPAIR: Duration = Duration::from_secs(10);
/// The header by which the server says where in another stream it took a message from.
const SOURCE: &str = "Nats-Stream-Source";

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

/// How far the stream of frames was taken in.
#[derive(Debug, Default)]
struct Taken {
    /// Its last message that was, or that went before it could be.
    last: u64,
    /// First and last of those that went: what counts of them is in the stream of boots.
    gone: Vec<(u64, u64)>,
    /// Whether the stream of boots was read.
    has_boots: bool,
}

impl Taken {
    fn is_all(&self) -> bool {
        self.has_boots && self.gone.is_empty()
    }

    /// Whether what stands in the stream of frames at `seq` went before it was taken in.
    fn is_gone(&self, seq: u64) -> bool {
        let gone = &mut self.gone.iter();
        gone.any(|(first, last)| (*first..=*last).contains(&seq))
    }
}

impl Follower {
    /// For ever.
    pub(super) async fn run(mut self) {
        let mut taken = Taken::default();
        loop {
            // A server that was away has forgotten who followed.
            let mut met = self.met.clone();
            if *met.borrow_and_update() > 0 {
                let followed = tokio::select! {
                    followed = self.follow(&mut taken) => followed,
                    _ = met.changed() => continue,
                };
                if let Err(err) = followed {
                    let why = format!("cannot follow the frames: {err:#}");
                    self.counts.fail(Part::Follow, &why);
                    tokio::time::sleep(RETRY).await;
                }
            } else if self.met.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes what collectors can do without; says whether it is there.
    async fn ensure_others(&self) -> bool {
        let made = [
            self.streams.ensure_boots(&self.context).await,
            self.streams.ensure_cold(&self.context).await,
        ];
        let failed: Vec<_> = made.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            self.counts.works(Part::Streams);
            return true;
        }
        let why = failed.iter().map(|err| format!("{err:#}"));
        let why = why.collect::<Vec<_>>().join("; ");
        self.counts.fail(Part::Streams, &why);
        false
    }

    /// Until there is something to repair.
    async fn follow(&self, taken: &mut Taken) -> anyhow::Result<()> {
        self.streams.ensure_frames(&self.context).await?;
        let mut is_whole = self.ensure_others().await;
        let frames = &self.streams.frames;
        let mut stream = self.context.get_stream(frames).await?;
        let info = stream.info().await?;
        let state = &info.state;
        if state.last_sequence < taken.last {
            // It was made anew.
            *taken = Taken {
                has_boots: taken.has_boots,
                ..Taken::default()
            };
        }
        let first = match state.messages {
            0 => state.last_sequence + 1,
            _ => state.first_sequence,
        };
        if first > taken.last + 1 {
            taken.gone.push((taken.last + 1, first - 1));
            taken.last = first - 1;
        }
        let (there, created) = (state.last_sequence, info.created);
        // In the order in which all of it was, so that each boot is over before the next.
        if !taken.is_all() {
            match self.take_boots(taken, created).await {
                Ok(()) => {
                    taken.gone.clear();
                    taken.has_boots = true;
                }
                Err(err) => {
                    let why = format!("cannot read the latest frames of each boot: {err:#}");
                    self.counts.fail(Part::Follow, &why);
                    is_whole = false;
                }
            }
        }
        let mut messages = self.messages(frames, taken.last + 1).await?;
        while taken.last < there {
            if !self.next(&mut stream, &mut messages, taken).await? {
                break;
            }
        }
        if taken.is_all() {
            self.counts.works(Part::Follow);
            if !self.counts.is_rebuilt.swap(true, Ordering::Relaxed) {
                self.rebuilt.send_replace(true);
                let followed = self.counts.followed.load(Ordering::Relaxed);
                tracing::info!(frames = followed, "took in what the engine has");
            }
        }
        let repair = tokio::time::sleep(REPAIR);
        tokio::pin!(repair);
        loop {
            tokio::select! {
                next = self.next(&mut stream, &mut messages, taken) => next?,
                () = &mut repair, if !is_whole => return Ok(()),
            };
        }
    }

    /// What went from the stream of frames before it was taken in; what counts of a boot that has
    /// said nothing in the last minutes is here alone. `created`: when that stream was made; what
    /// was there before is of one that it has replaced.
    async fn take_boots(&self, taken: &Taken, created: DateTime) -> anyhow::Result<()> {
        let boots = &self.streams.boots;
        let mut stream = self.context.get_stream(boots).await?;
        if stream.info().await?.state.messages == 0 {
            return Ok(());
        }
        let mut messages = self.messages(boots, 1).await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            let info = message.info().map_err(|err| anyhow::anyhow!("{err}"))?;
            let left = info.pending;
            let is_former = info.published < created;
            if is_former || source(&message).is_none_or(|seq| taken.is_gone(seq)) {
                self.hear(&message);
            }
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

    /// Takes the next frame in. Says whether there are more by now.
    async fn next(
        &self,
        stream: &mut Stream,
        messages: &mut Ordered,
        taken: &mut Taken,
    ) -> anyhow::Result<bool> {
        let Some(message) = messages.next().await else {
            bail!("the stream {} has ended", self.streams.frames);
        };
        let message = message?;
        let info = message.info().map_err(|err| anyhow::anyhow!("{err}"))?;
        let (seq, left) = (info.stream_sequence, info.pending);
        let next = taken.last + 1;
        if seq > next && stream.info().await?.state.first_sequence > next {
            bail!("frames are over before they are taken in");
        }
        taken.last = seq;
        self.hear(&message);
        Ok(left > 0)
    }

    /// Takes a message in, and counts it.
    fn hear(&self, message: &Message) {
        if self.is_own(message) {
            return;
        }
        self.counts.add(|counts| &counts.followed);
        if let Err(why) = self.take(message) {
            self.counts.add(|counts| &counts.unusable);
            tracing::debug!(subject = %message.subject, "cannot use a frame of the engine: {why:#}");
        }
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

/// Where in the stream of frames a message of the stream of boots was taken from.
fn source(message: &Message) -> Option<u64> {
    // The stream's name, then the number; newer servers say more.
    let header = message.headers.as_ref()?.get(SOURCE)?;
    header.as_str().split(' ').nth(1)?.parse().ok()
}

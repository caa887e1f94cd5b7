//! Takes in what the engine has of a partition: at its taking up everything, then what other
//! collectors hand over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, State, Stream};
use async_nats::jetstream::{self, Message};
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::carried::unpack;
use super::streams::Streams;
use super::{Counts, Part};
use crate::collect::decode;
use crate::collect::fleet::Way;
use crate::collect::holding::{Held, Holding};
use crate::collect::known::Coming;

/// The header that says which collector a message is of, and, if that merged it itself, in which
/// holding of its partition.
pub(super) const BY: &str = "Weir-By";
const RETRY: Duration = Duration::from_secs(1);

/// Time until what could not be read is tried again.
const REPAIR: Duration = Duration::from_secs(10);
/// Time between two looks whether frames went before they were taken in.
const CHECK: Duration = Duration::from_secs(5);
/// What is there comes within this; if it does not, it went meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
const GONE: &str = "a message that was there does not come";
/// The header by which the server says where in another stream it took a message from.
const SOURCE: &str = "Nats-Stream-Source";

/// What such a header says.
pub(super) fn by(collector: &str, generation: Option<u64>) -> String {
    match generation {
        Some(generation) => format!("{collector}/{generation}"),
        None => collector.to_owned(),
    }
}

/// Follows the streams of one partition after the other; clones do so at the same time.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    pub(super) context: jetstream::Context,
    pub(super) streams: Arc<Streams>,
    /// This process.
    pub(super) by: String,
    pub(super) holding: Arc<Holding>,
    pub(super) counts: Arc<Counts>,
    /// Counts the times that the server was met.
    pub(super) met: watch::Receiver<u64>,
}

/// How far the stream of frames was taken in.
#[derive(Debug, Default)]
struct Taken {
    /// Its last message of the partition that was.
    last: u64,
    /// Up to here, nothing went before it was taken in.
    checked: u64,
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

    /// What is not known to be taken in is read again.
    fn begin(&mut self, state: &State) {
        if state.last_sequence < self.last {
            // It was made anew.
            *self = Self {
                has_boots: self.has_boots,
                ..Self::default()
            };
        }
        let first = first(state);
        if first > self.checked + 1 {
            self.gone.push((self.checked + 1, first - 1));
            self.checked = first - 1;
        }
        self.last = self.checked;
    }
}

/// The first message that is there, or that would be.
fn first(state: &State) -> u64 {
    match state.messages {
        0 => state.last_sequence + 1,
        _ => state.first_sequence,
    }
}

/// A partition's messages of a stream.
pub(super) struct Messages(Ordered);

impl Messages {
    /// The next, and its place in the stream.
    pub(super) async fn next(&mut self) -> anyhow::Result<(Message, u64)> {
        let message = self.0.next().await;
        let message = message.context("the stream has ended")??;
        let info = message.info().map_err(|err| anyhow::anyhow!("{err}"))?;
        let seq = info.stream_sequence;
        Ok((message, seq))
    }
}

/// The last message of some subjects; 0: there is none. How many a consumer says are left is not relied
/// on: servers have been wrong about it.
pub(super) async fn last_of(stream: &Stream, filter: &str) -> anyhow::Result<u64> {
    match stream.get_last_raw_message_by_subject(filter).await {
        Ok(message) => Ok(message.sequence),
        Err(err) if err.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
        Err(err) => Err(err).context("cannot find the last message of a partition"),
    }
}

impl Follower {
    /// Until it is aborted.
    pub(super) async fn run(mut self, held: Arc<Held>) {
        let mut taken = Taken::default();
        loop {
            // A server that was away has forgotten who followed.
            let mut met = self.met.clone();
            if *met.borrow_and_update() > 0 {
                let followed = tokio::select! {
                    followed = self.follow(&held, &mut taken) => followed,
                    _ = met.changed() => continue,
                };
                if let Err(err) = followed {
                    let why = format!("cannot follow the frames: {err:#}");
                    self.counts.fail(Part::Follow, &why);
                    self.streams.forget().await;
                    tokio::time::sleep(RETRY).await;
                }
            } else if self.met.changed().await.is_err() {
                return;
            }
        }
    }

    /// Until there is something to repair.
    async fn follow(&self, held: &Held, taken: &mut Taken) -> anyhow::Result<()> {
        let met = *self.met.borrow();
        self.streams
            .ensure(&self.context, &self.counts, met)
            .await?;
        let frames = &self.streams.frames;
        let mut stream = self.context.get_stream(frames).await?;
        let info = stream.info().await?;
        let created = info.created;
        taken.begin(&info.state);
        if held.reads_history() && info.state.messages > 0 {
            // Before that, nothing is known; after it, what is not there did not happen.
            let began = info.state.first_timestamp.unix_timestamp();
            held.known.advance(began.unsigned_abs());
        }
        // In the order in which all of it was, so that each boot is over before the next.
        let mut is_repaired = taken.is_all();
        if !is_repaired {
            match self.take_boots(held, taken, created).await {
                Ok(()) => {
                    taken.gone.clear();
                    taken.has_boots = true;
                    is_repaired = true;
                }
                Err(err) => {
                    let why = format!("cannot read the latest frames of each boot: {err:#}");
                    self.counts.fail(Part::Follow, &why);
                }
            }
        }
        let filter = self.streams.of_frames(held.partition);
        let last = last_of(&stream, &filter).await?;
        let mut messages = self.messages(frames, &filter, taken.last + 1).await?;
        while taken.last < last {
            let next = self.next(held, &mut messages, taken);
            timeout(PATIENCE, next).await.context(GONE)??;
        }
        check(&mut stream, taken).await?;
        held.caught_up();
        if is_repaired && self.holding.all().iter().all(|held| held.is_followed()) {
            self.counts.works(Part::Follow);
        }
        let mut checks = checks();
        let repair = tokio::time::sleep(REPAIR);
        tokio::pin!(repair);
        loop {
            tokio::select! {
                next = self.next(held, &mut messages, taken) => next?,
                _ = checks.tick() => check(&mut stream, taken).await?,
                () = &mut repair, if !is_repaired => return Ok(()),
            };
        }
    }

    /// What went from the stream of frames before it was taken in; what counts of a boot that has
    /// said nothing in the last minutes is here alone. `created`: when that stream was made; what
    /// was there before is of one that it has replaced.
    async fn take_boots(
        &self,
        held: &Held,
        taken: &Taken,
        created: DateTime,
    ) -> anyhow::Result<()> {
        let filter = self.streams.of_boots(held.partition);
        let stream = self.context.get_stream(&self.streams.boots).await?;
        let last = last_of(&stream, &filter).await?;
        let mut messages = self.messages(&self.streams.boots, &filter, 1).await?;
        let mut taken_last = 0;
        while taken_last < last {
            let next = timeout(PATIENCE, messages.next());
            let (message, seq) = next.await.context(GONE)??;
            taken_last = seq;
            let info = message.info().map_err(|err| anyhow::anyhow!("{err}"))?;
            let is_former = info.published < created;
            if is_former || source(&message).is_none_or(|seq| taken.is_gone(seq)) {
                self.hear(held, &message);
            }
        }
        Ok(())
    }

    /// A stream's messages of some subjects.
    async fn messages(&self, stream: &str, filter: &str, from: u64) -> anyhow::Result<Messages> {
        let config = OrderedConfig {
            filter_subject: filter.to_owned(),
            ..OrderedConfig::default()
        };
        messages(&self.context, stream, config, from).await
    }

    /// Takes the next frame in.
    async fn next(
        &self,
        held: &Held,
        messages: &mut Messages,
        taken: &mut Taken,
    ) -> anyhow::Result<()> {
        let (message, seq) = messages.next().await?;
        taken.last = seq;
        self.hear(held, &message);
        Ok(())
    }

    /// Takes a message in, and counts it.
    fn hear(&self, held: &Held, message: &Message) {
        if self.is_known(held, message) {
            return;
        }
        self.counts.add(|counts| &counts.followed);
        if let Err(why) = self.take(held, message) {
            self.counts.add(|counts| &counts.unusable);
            tracing::debug!(subject = %message.subject, "cannot use a frame of the engine: {why:#}");
        }
    }

    /// What this process merged itself when it came from its host.
    pub(super) fn is_known(&self, held: &Held, message: &Message) -> bool {
        let by = message.headers.as_ref().and_then(|headers| headers.get(BY));
        let by = by.and_then(|by| by.as_str().split_once('/'));
        by.is_some_and(|(by, generation)| {
            by == self.by && generation.parse() == Ok(held.generation)
        })
    }

    fn take(&self, held: &Held, message: &Message) -> anyhow::Result<()> {
        let carried = unpack(&message.payload)?;
        let hello = carried.hello.context("it has no hello")?;
        let frame = carried.frame.context("it has no frame")?;
        decode::hello(&hello)?;
        let of = self.holding.partition(&hello.host);
        if of != held.partition {
            bail!("{} belongs to the partition {of}", hello.host);
        }
        let before = held.known.latest(&hello);
        let cells = match decode::frame(&frame, &hello, &before) {
            Ok(cells) => cells,
            Err(err) => {
                // Who took it did not look into it.
                held.known.lock().fleet.refused(&hello);
                return Err(err.into());
            }
        };
        let coming = Coming {
            hello: &hello,
            frame: &frame,
            way: Way::Engine,
            heard_unix_ns: carried.heard_unix_ns,
            deliveries: frame.deliveries.len() as u64,
        };
        held.known.merge(coming, cells).map(|_| ())?;
        Ok(())
    }
}

/// A stream's messages from a place on.
pub(super) async fn messages(
    context: &jetstream::Context,
    stream: &str,
    config: OrderedConfig,
    from: u64,
) -> anyhow::Result<Messages> {
    let deliver_policy = match from {
        1 => DeliverPolicy::All,
        start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
    };
    let config = OrderedConfig {
        deliver_policy,
        ..config
    };
    let consumer = context
        .get_stream(stream)
        .await?
        .create_consumer(config)
        .await;
    let consumer = consumer.with_context(|| format!("cannot follow the stream {stream}"))?;
    Ok(Messages(consumer.messages().await?))
}

fn checks() -> Interval {
    let mut checks = interval(CHECK);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks
}

/// Fails if frames may have gone before they were taken in. Those of other partitions, too, leave
/// gaps between this one's, so that it is not seen by these.
async fn check(stream: &mut Stream, taken: &mut Taken) -> anyhow::Result<()> {
    let last = taken.last;
    if last == taken.checked {
        return Ok(());
    }
    if first(&stream.info().await?.state) > taken.checked + 1 {
        bail!("frames are over before they are taken in");
    }
    taken.checked = last;
    Ok(())
}

/// Where in the stream of frames a message of the stream of boots was taken from.
fn source(message: &Message) -> Option<u64> {
    // The stream's name, then the number; newer servers say more.
    let header = message.headers.as_ref()?.get(SOURCE)?;
    header.as_str().split(' ').nth(1)?.parse().ok()
}

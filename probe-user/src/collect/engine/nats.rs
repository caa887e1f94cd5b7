//! NATS and its streams: of every frame of the last minutes, of each boot's latest, and of what the
//! cold lane brings, which can push nothing else out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream;
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;
use weir_proto::v1;

use super::carried::Packer;
use super::publish::{self, IN_FLIGHT, Item};
use super::{Counts, Error, Part, Receipt, follow};
use crate::collect::known::Shared;
use crate::config::collect as config;

/// An acknowledgement that has not come by then will not; the frame is sent again.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// The server knows a repetition for so long.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Of each boot so many latest frames are kept: one that was sent again may come after a newer one.
const FRAMES_OF_A_BOOT: i64 = 2;
const RECONNECT_MOST: Duration = Duration::from_secs(2);
/// The buffer is counted in units of so many bytes.
const UNIT_BYTES: usize = 1024;

/// The streams' names and bounds.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    /// Of every frame.
    pub(super) frames: String,
    /// Of the latest frames with cells, by boot.
    pub(super) boots: String,
    /// Of finished deliveries, for others to take; collectors do not follow it.
    cold: String,
    config: config::Nats,
}

impl Streams {
    fn of(config: &config::Nats) -> Self {
        let frames = config.prefix.to_uppercase();
        Self {
            boots: format!("{frames}_BOOTS"),
            cold: format!("{frames}_COLD"),
            frames,
            config: config.clone(),
        }
    }

    /// Makes that of every frame, or puts its bounds in force. Without it there is nothing.
    pub(super) async fn ensure_frames(&self, context: &jetstream::Context) -> anyhow::Result<()> {
        let config = &self.config;
        let prefix = &config.prefix;
        let keep = Duration::from_secs(config.keep_s.into());
        let frames = stream::Config {
            name: self.frames.clone(),
            description: Some("weir: every frame of the last minutes".to_owned()),
            subjects: vec![format!("{prefix}.hot.>"), format!("{prefix}.warm.>")],
            max_age: keep,
            max_bytes: i64::try_from(config.max_bytes)?,
            duplicate_window: DUPLICATE_WINDOW.min(keep),
            num_replicas: usize::try_from(config.replicas)?,
            ..stream::Config::default()
        };
        ensure(context, frames).await
    }

    /// Likewise that of the boots' latest frames.
    pub(super) async fn ensure_boots(&self, context: &jetstream::Context) -> anyhow::Result<()> {
        let config = &self.config;
        let prefix = &config.prefix;
        let boots = stream::Config {
            name: self.boots.clone(),
            description: Some("weir: the latest frames of each boot".to_owned()),
            sources: Some(vec![stream::Source {
                name: self.frames.clone(),
                filter_subject: Some(format!("{prefix}.warm.>")),
                ..stream::Source::default()
            }]),
            max_messages_per_subject: FRAMES_OF_A_BOOT,
            max_age: Duration::from_secs(config.keep_boots_s.into()),
            max_bytes: i64::try_from(config.boots_max_bytes)?,
            num_replicas: usize::try_from(config.replicas)?,
            ..stream::Config::default()
        };
        ensure(context, boots).await
    }

    /// Likewise that of the cold lane.
    pub(super) async fn ensure_cold(&self, context: &jetstream::Context) -> anyhow::Result<()> {
        let config = &self.config;
        let keep = Duration::from_secs(config.keep_s.into());
        let cold = stream::Config {
            name: self.cold.clone(),
            description: Some("weir: the cold lane's frames of the last minutes".to_owned()),
            subjects: vec![format!("{}.cold.>", config.prefix)],
            max_age: keep,
            max_bytes: i64::try_from(config.cold_max_bytes)?,
            duplicate_window: DUPLICATE_WINDOW.min(keep),
            num_replicas: usize::try_from(config.replicas)?,
            ..stream::Config::default()
        };
        ensure(context, cold).await
    }
}

async fn ensure(context: &jetstream::Context, stream: stream::Config) -> anyhow::Result<()> {
    let name = stream.name.clone();
    let made = context.create_or_update_stream(stream).await;
    made.with_context(|| format!("cannot make the stream {name}"))?;
    Ok(())
}

/// A collector's way to NATS.
#[derive(Debug)]
pub(in crate::collect) struct Nats {
    packer: Packer,
    items: mpsc::UnboundedSender<Item>,
    /// Of the buffer, in units.
    room: Arc<Semaphore>,
    /// Cold frames leave so much of it to others.
    set_aside: usize,
    counts: Arc<Counts>,
    rebuilt: watch::Receiver<bool>,
}

/// What works for it.
#[derive(Debug)]
pub(in crate::collect) struct Tasks {
    publish: JoinHandle<()>,
    follow: JoinHandle<()>,
}

impl Nats {
    /// Begins to connect, to follow what is there into `known`, and to publish.
    pub(in crate::collect) async fn start(
        config: &config::Nats,
        name: &str,
        known: Arc<Shared>,
    ) -> anyhow::Result<(Self, Tasks)> {
        let counts = Arc::new(Counts::default());
        let (met_to, met) = watch::channel(0_u64);
        let client = connect(config, name, Arc::clone(&counts), met_to).await?;
        let context = ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(IN_FLIGHT * 2)
            .build(client);
        let by = Uuid::new_v4().to_string();
        let (items, from) = mpsc::unbounded_channel();
        let publish = publish::run(context.clone(), by.clone(), Arc::clone(&counts), from);
        let (rebuilt_to, rebuilt) = watch::channel(false);
        let follower = follow::Follower {
            context,
            streams: Streams::of(config),
            by: by.clone(),
            known,
            counts: Arc::clone(&counts),
            met,
            rebuilt: rebuilt_to,
        };
        let tasks = Tasks {
            publish: tokio::spawn(publish),
            follow: tokio::spawn(follower.run()),
        };
        let units = usize::try_from(config.buffer_bytes)? / UNIT_BYTES;
        let units = units.min(Semaphore::MAX_PERMITS);
        let nats = Self {
            packer: Packer::new(by, config.prefix.clone(), config.partitions),
            items,
            room: Arc::new(Semaphore::new(units)),
            set_aside: units / 2,
            counts,
            rebuilt,
        };
        Ok((nats, tasks))
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Waits until all that was there at the start is taken in; false: not within `patience`.
    pub(in crate::collect) async fn rebuilt(&self, patience: Duration) -> bool {
        let mut rebuilt = self.rebuilt.clone();
        let wait = rebuilt.wait_for(|is_rebuilt| *is_rebuilt);
        tokio::time::timeout(patience, wait).await.is_ok()
    }

    pub(super) fn hand_over(
        &self,
        hello: &v1::Hello,
        frame: &v1::Frame,
        heard_unix_ns: u64,
    ) -> Result<Receipt, Error> {
        let packed = self.packer.pack(hello, frame, heard_unix_ns);
        // Only memory can fail here.
        let packed = packed.map_err(|_| Error::Full)?;
        let bytes = packed.payload.len();
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let (part, set_aside) = match frame.lane() {
            v1::Lane::Cold => (Part::Cold, self.set_aside),
            _ => (Part::Frames, 0),
        };
        let permit = Arc::clone(&self.room).try_acquire_many_owned(units);
        let permit = permit
            .ok()
            .filter(|_| self.room.available_permits() >= set_aside);
        let Some(permit) = permit else {
            self.counts.add(|counts| &counts.unbuffered);
            return Err(Error::Full);
        };
        let (done, receipt) = oneshot::channel();
        let item = Item {
            packed,
            permit,
            part,
            done,
        };
        let waiting = &self.counts.waiting_bytes;
        waiting.fetch_add(bytes as u64, Ordering::Relaxed);
        self.items.send(item).map_err(|_| Error::Ended)?;
        Ok(receipt)
    }
}

impl Tasks {
    /// Ends the following at once, and the publishing when all that waits is acknowledged or
    /// `patience` is over. All of [`Nats`] must be gone by then.
    pub(in crate::collect) async fn end(mut self, patience: Duration) {
        self.follow.abort();
        if tokio::time::timeout(patience, &mut self.publish)
            .await
            .is_err()
        {
            tracing::warn!(
                "frames that their hosts have no acknowledgement for were not handed over"
            );
            self.publish.abort();
        }
    }
}

async fn connect(
    config: &config::Nats,
    name: &str,
    counts: Arc<Counts>,
    met: watch::Sender<u64>,
) -> anyhow::Result<Client> {
    let mut options = ConnectOptions::new()
        .name(format!("weir collect {name}"))
        .retry_on_initial_connect()
        .reconnect_delay_callback(|attempt| {
            let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
            Duration::from_millis(100)
                .saturating_mul(attempt)
                .min(RECONNECT_MOST)
        })
        .event_callback(move |event| {
            match event {
                Event::Connected => {
                    tracing::info!("connected to the NATS server");
                    counts.is_connected.store(true, Ordering::Relaxed);
                    met.send_modify(|times| *times += 1);
                }
                Event::Disconnected => {
                    counts.is_connected.store(false, Ordering::Relaxed);
                    let why = "the connection to the NATS server is lost";
                    counts.fail(Part::Frames, why);
                }
                Event::ClientError(err) => counts.fail(Part::Frames, &format!("NATS: {err}")),
                Event::ServerError(err) => {
                    counts.fail(Part::Frames, &format!("the NATS server says: {err}"));
                }
                other => tracing::debug!("NATS: {other}"),
            }
            async {}
        });
    if let Some(path) = &config.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    if let Some(path) = &config.credentials_file {
        options = options
            .credentials_file(path)
            .await
            .with_context(|| format!("cannot read nats.credentials_file {}", path.display()))?;
    }
    options
        .connect(config.urls.as_slice())
        .await
        .with_context(|| format!("cannot set up the connection to {}", config.urls.join(", ")))
}

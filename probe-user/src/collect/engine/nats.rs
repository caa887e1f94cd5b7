//! NATS and its streams: of every frame of the last minutes, of each boot's latest, and of what the
//! cold lane brings, which can push nothing else out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;
use weir_proto::v1;

use super::carried::Packer;
use super::follow::{Follower, by};
use super::publish::{self, IN_FLIGHT, Item};
use super::streams::Streams;
use super::{Counts, Error, Part, Receipt};
use crate::collect::holding::{Held, Holding};
use crate::config::collect as config;

/// An acknowledgement that has not come by then will not; the frame is sent again.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether all streams are there.
const KEEP_INTERVAL: Duration = Duration::from_secs(2);
const RECONNECT_MOST: Duration = Duration::from_secs(2);
/// The buffer is counted in units of so many bytes.
const UNIT_BYTES: usize = 1024;

/// A collector's way to NATS.
#[derive(Debug)]
pub(in crate::collect) struct Nats {
    client: Client,
    /// This process; no other has this name.
    id: String,
    packer: Packer,
    items: mpsc::UnboundedSender<Item>,
    /// Of the buffer, in units.
    room: Arc<Semaphore>,
    /// Cold frames leave so much of it to others.
    set_aside: usize,
    counts: Arc<Counts>,
    follower: Follower,
}

/// What works for it.
#[derive(Debug)]
pub(in crate::collect) struct Tasks {
    publish: JoinHandle<()>,
    keep: JoinHandle<()>,
}

/// What follows a partition; it ends with this value.
#[derive(Debug)]
pub(in crate::collect) struct Following {
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Following {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Nats {
    /// Begins to connect, and to publish. Nothing is followed yet.
    pub(in crate::collect) async fn start(
        config: &config::Nats,
        name: &str,
        holding: Arc<Holding>,
    ) -> anyhow::Result<(Self, Tasks)> {
        let counts = Arc::new(Counts::default());
        let (met_to, met) = watch::channel(0_u64);
        let client = connect(config, name, Arc::clone(&counts), met_to).await?;
        let context = ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(IN_FLIGHT * 2)
            .build(client.clone());
        let id = Uuid::new_v4().simple().to_string();
        let (items, from) = mpsc::unbounded_channel();
        let publish = publish::run(context.clone(), Arc::clone(&counts), from);
        let follower = Follower {
            context,
            streams: Arc::new(Streams::of(config)),
            by: id.clone(),
            holding,
            counts: Arc::clone(&counts),
            met,
        };
        let tasks = Tasks {
            publish: tokio::spawn(publish),
            keep: tokio::spawn(keep_streams(follower.clone())),
        };
        let units = usize::try_from(config.buffer_bytes)? / UNIT_BYTES;
        let units = units.min(Semaphore::MAX_PERMITS);
        let nats = Self {
            client,
            packer: Packer::new(id.clone(), config.prefix.clone(), config.partitions),
            id,
            items,
            room: Arc::new(Semaphore::new(units)),
            set_aside: units / 2,
            counts,
            follower,
        };
        Ok((nats, tasks))
    }

    /// Takes in what the engine has of a partition, until what is returned is dropped.
    pub(in crate::collect) fn follow(&self, held: &Arc<Held>) -> Following {
        let follow = self.follower.clone().run(Arc::clone(held));
        let tally = self.follower.clone().tally(Arc::clone(held));
        Following {
            tasks: [tokio::spawn(follow), tokio::spawn(tally)],
        }
    }

    /// Whether the server can be reached now.
    pub(in crate::collect) fn is_connected(&self) -> bool {
        self.counts.is_connected.load(Ordering::Relaxed)
    }

    /// Counts the times that the server was met.
    pub(in crate::collect) fn met(&self) -> watch::Receiver<u64> {
        self.follower.met.clone()
    }

    /// The connection.
    pub(in crate::collect) fn client(&self) -> &Client {
        &self.client
    }

    /// This process.
    pub(in crate::collect) fn id(&self) -> &str {
        &self.id
    }

    /// All that this collector is to hold is taken in, or is not.
    pub(in crate::collect) fn set_rebuilt(&self, is_rebuilt: bool) {
        self.counts.is_rebuilt.store(is_rebuilt, Ordering::Relaxed);
    }

    /// What is wrong with the work of several collectors together; none: nothing.
    pub(in crate::collect) fn say_of_others(&self, wrong: Option<&str>) {
        match wrong {
            Some(why) => self.counts.fail(Part::Others, why),
            None => self.counts.works(Part::Others),
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn hand_over(
        &self,
        hello: &v1::Hello,
        frame: &v1::Frame,
        heard_unix_ns: u64,
        merged_in: Option<u64>,
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
            by: by(&self.id, merged_in),
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
    /// Ends the publishing when all that waits is acknowledged or `patience` is over. All of [`Nats`]
    /// must be gone by then.
    pub(in crate::collect) async fn end(mut self, patience: Duration) {
        self.keep.abort();
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

/// Sees to it that the streams are there that collectors can do without.
async fn keep_streams(mut follower: Follower) {
    loop {
        let met = *follower.met.borrow_and_update();
        if met > 0 {
            let Follower {
                context,
                streams,
                counts,
                ..
            } = &follower;
            // Without a stream of frames, those who follow it say so.
            let _ = streams.ensure(context, counts, met).await;
        }
        tokio::select! {
            () = tokio::time::sleep(KEEP_INTERVAL) => {}
            changed = follower.met.changed() => if changed.is_err() { return },
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

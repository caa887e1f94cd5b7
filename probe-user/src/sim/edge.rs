//! One edge: its boots, its lanes, its failures.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::codec::CompressionEncoding;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::uplink_client::UplinkClient;
use weir_proto::v1::{self, Lane};

use super::load::{Load, Mark};
use super::totals::Totals;
use super::{Counts, Options};
use crate::tls::Connector;
use crate::ui::units::now_unix_ns;
use crate::wire::WIRE_VERSION;

/// Ticks of one lane that are not acknowledged; what comes then is superseded.
const UNACKNOWLEDGED: usize = 2;
const RETRY: Duration = Duration::from_millis(500);
/// The last state of a boot that was killed is brought to the collector so often, before it is given
/// up.
const RECOVERIES: u32 = 20;
const PARTITION: Duration = Duration::from_secs(5);
/// How far a clock that is off is off.
const CLOCK_OFF_NS: u64 = 90_000_000_000;

type Pending = Arc<Mutex<VecDeque<(u64, Instant)>>>;

/// A lane's connection.
#[derive(Debug)]
struct Connection {
    to: mpsc::Sender<v1::EdgeMessage>,
    pending: Pending,
    reader: JoinHandle<()>,
}

impl Connection {
    fn is_open(&self) -> bool {
        !self.reader.is_finished()
    }

    fn waiting(&self) -> usize {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.len()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// One edge.
#[derive(Debug)]
pub(super) struct Edge {
    host: String,
    boot: u32,
    started_unix_ns: u64,
    tick: u64,
    clock_ns: u64,
    load: Load,
    /// What was sent of the boots before.
    past: Totals,
    options: Options,
    phase: Duration,
    random: fastrand::Rng,
    connector: Connector,
    counts: Arc<Counts>,
    connecting: Arc<Semaphore>,
    hot: Option<Connection>,
    warm: Option<Connection>,
    cut_until: Option<Instant>,
}

impl Edge {
    /// The one with the number `n`, before it connects.
    pub(super) async fn begin(
        n: u32,
        options: &Options,
        connector: Connector,
        counts: Arc<Counts>,
        connecting: Arc<Semaphore>,
    ) -> Result<Self> {
        let seed = options.seed.wrapping_add(u64::from(n));
        let mut random = fastrand::Rng::with_seed(seed);
        let load = Load::begin(options, n, random.fork()).await?;
        Ok(Self {
            host: format!("{}{n}", options.prefix),
            boot: 0,
            started_unix_ns: now_unix_ns(),
            tick: 0,
            clock_ns: if n < options.clocks_off {
                CLOCK_OFF_NS
            } else {
                0
            },
            load,
            past: Totals::default(),
            options: options.clone(),
            // Evenly over the interval.
            phase: options
                .interval
                .mul_f64(f64::from(n) / f64::from(options.edges.max(1))),
            random,
            connector,
            counts,
            connecting,
            hot: None,
            warm: None,
            cut_until: None,
        })
    }

    /// Until `finish`, and then until all is acknowledged. Gives what the centre must know of it, or
    /// why that is not sure.
    pub(super) async fn run(mut self, finish: CancellationToken) -> Result<Totals> {
        while self.hot.is_none() || self.warm.is_none() {
            if let Err(err) = self.connect().await {
                if finish.is_cancelled() {
                    return Err(err.context(format!("{} was never connected", self.host)));
                }
                tracing::debug!(host = self.host, "{err:#}");
                tokio::time::sleep(RETRY).await;
            }
        }
        let begin = tokio::time::Instant::now() + self.phase;
        let mut ticks = tokio::time::interval_at(begin, self.options.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = finish.cancelled() => break,
            }
            self.fail().await?;
            // Before its first tick a boot has nothing that anybody could miss.
            if self.tick > 0 && self.load.is_followed() && !self.is_cut_off() {
                // A recording is of one start of a daemon, and the next one of another.
                self.end_boot().await?;
                self.load.follow()?;
            }
            self.tick += 1;
            self.load.advance(Mark {
                seq: self.tick,
                unix_ns: self.unix_ns(),
                interval_ms: self.interval_ms(),
            })?;
            if self.is_cut_off() {
                continue;
            }
            self.cut_until = None;
            if let Err(err) = self.say().await {
                tracing::debug!(host = self.host, "{err:#}");
            }
        }
        self.tick += 1;
        self.last_word().await;
        let mut totals = self.past;
        totals.add(&self.load.totals());
        Ok(totals)
    }

    fn is_cut_off(&self) -> bool {
        self.cut_until.is_some_and(|until| Instant::now() < until)
    }

    fn unix_ns(&self) -> u64 {
        now_unix_ns() + self.clock_ns
    }

    fn interval_ms(&self) -> u32 {
        u32::try_from(self.options.interval.as_millis()).unwrap_or(u32::MAX)
    }

    fn boot_id(&self) -> String {
        format!("{}-{}", self.started_unix_ns, self.boot)
    }

    fn hello(&self, lane: Lane, is_recovery: bool) -> v1::Hello {
        v1::Hello {
            wire_version: WIRE_VERSION,
            host: self.host.clone(),
            boot_id: self.boot_id(),
            weir_version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.load.backend().into(),
            kernel_release: "simulated".to_owned(),
            lane: lane.into(),
            started_unix_ns: self.started_unix_ns + u64::from(self.boot),
            is_recovery,
        }
    }

    /// Opens what is not open.
    async fn connect(&mut self) -> Result<()> {
        if self.hot.as_ref().is_none_or(|hot| !hot.is_open()) {
            self.hot = Some(self.open(self.hello(Lane::Hot, false)).await?);
        }
        if self.warm.as_ref().is_none_or(|warm| !warm.is_open()) {
            self.warm = Some(self.open(self.hello(Lane::Warm, false)).await?);
        }
        Ok(())
    }

    async fn open(&self, hello: v1::Hello) -> Result<Connection> {
        let _room = self.connecting.acquire().await?;
        let channel = self.connector.connect(|endpoint| endpoint).await?;
        let (to, stream) = mpsc::channel(UNACKNOWLEDGED);
        let message = Some(Up::Hello(hello));
        to.send(v1::EdgeMessage { message }).await?;
        let mut client = UplinkClient::new(channel).send_compressed(CompressionEncoding::Zstd);
        let answer = client.report(ReceiverStream::new(stream)).await;
        let mut from = answer.context("it does not take reports")?.into_inner();
        match from.message().await?.and_then(|message| message.message) {
            Some(Down::Welcome(_)) => {}
            _ => bail!("it did not say welcome"),
        }
        let pending = Pending::default();
        self.counts.connected.fetch_add(1, Ordering::Relaxed);
        let reader = tokio::spawn(read(from, Arc::clone(&pending), Arc::clone(&self.counts)));
        Ok(Connection {
            to,
            pending,
            reader,
        })
    }

    /// Says how things are, on both lanes, where the frames before are acknowledged.
    async fn say(&mut self) -> Result<()> {
        self.connect().await?;
        let hot = self.frame(Lane::Hot);
        let warm = self.frame(Lane::Warm);
        for (connection, frame) in [(&self.hot, hot), (&self.warm, warm)] {
            let Some(connection) = connection else {
                continue;
            };
            if connection.waiting() >= UNACKNOWLEDGED {
                self.counts.shed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            send(connection, frame, &self.counts).await?;
        }
        Ok(())
    }

    fn frame(&self, lane: Lane) -> v1::Frame {
        self.load.frame(v1::Frame {
            host: self.host.clone(),
            boot_id: self.boot_id(),
            seq: self.tick,
            tick_seq: self.tick,
            unix_ns: self.unix_ns(),
            interval_ms: self.interval_ms(),
            losses: Some(v1::Losses::default()),
            tick: true,
            lane: lane.into(),
            ..v1::Frame::default()
        })
    }

    /// Deals out what goes wrong in this tick.
    async fn fail(&mut self) -> Result<()> {
        let ticks_per_min = 60.0 / self.options.interval.as_secs_f64();
        let share = |per_min: u32| {
            f64::from(per_min) / f64::from(self.options.edges.max(1)) / ticks_per_min
        };
        let (kill, partition) = (
            share(self.options.kills_per_min),
            share(self.options.partitions_per_min),
        );
        if self.random.f64() < partition {
            self.counts.partitions.fetch_add(1, Ordering::Relaxed);
            self.hot = None;
            self.warm = None;
            self.cut_until = Some(Instant::now() + PARTITION);
        } else if self.random.f64() < kill && self.tick > 0 {
            // Before its first tick a boot has nothing that anybody could miss.
            self.counts.kills.fetch_add(1, Ordering::Relaxed);
            self.end_boot().await?;
            self.load.begin_anew(&self.options, self.random.fork())?;
        }
        Ok(())
    }

    /// A boot is over, and another one begins, which says first what that one left.
    async fn end_boot(&mut self) -> Result<()> {
        self.hot = None;
        self.warm = None;
        // As the daemon after it does, with what the ring on disk has.
        self.recover().await?;
        self.past.add(&self.load.totals());
        self.boot += 1;
        self.tick = 0;
        Ok(())
    }

    /// The last state of a boot that is over goes to the collector, and is acknowledged.
    async fn recover(&mut self) -> Result<()> {
        let hello = self.hello(Lane::Warm, true);
        let mut why = None;
        for _ in 0..RECOVERIES {
            let delivered = match self.open(hello.clone()).await {
                Ok(connection) => self.deliver(&connection).await,
                Err(err) => Err(err),
            };
            match delivered {
                Ok(()) => return Ok(()),
                Err(err) => why = Some(err),
            }
            tokio::time::sleep(RETRY).await;
        }
        let why = why.unwrap_or_else(|| anyhow!("it was not tried"));
        let boot = self.boot_id();
        Err(why.context(format!(
            "the last state of {}'s start {boot} was not acknowledged",
            self.host
        )))
    }

    async fn last_word(&mut self) {
        loop {
            let delivered = match (self.connect().await, &self.warm) {
                (Ok(()), Some(warm)) => self.deliver(warm).await,
                (Err(err), _) => Err(err),
                (Ok(()), None) => Err(anyhow!("there is no connection")),
            };
            match delivered {
                Ok(()) => return,
                Err(err) => tracing::debug!(host = self.host, "the last word: {err:#}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Sends the state as it is and waits until all is acknowledged.
    async fn deliver(&self, connection: &Connection) -> Result<()> {
        send(connection, self.frame(Lane::Warm), &self.counts).await?;
        while connection.waiting() > 0 {
            if !connection.is_open() {
                bail!("the connection ended");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

async fn send(connection: &Connection, frame: v1::Frame, counts: &Counts) -> Result<()> {
    {
        let mut pending = connection
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pending.push_back((frame.seq, Instant::now()));
    }
    let message = Some(Up::Frame(frame));
    connection.to.send(v1::EdgeMessage { message }).await?;
    counts.frames.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Takes acknowledgements until the connection ends.
async fn read(mut from: Streaming<v1::CollectorMessage>, pending: Pending, counts: Arc<Counts>) {
    loop {
        let answer = match from.message().await {
            Ok(Some(answer)) => answer,
            ended => {
                counts.connections_lost.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("a connection ended: {ended:?}");
                return;
            }
        };
        let Some(Down::Ack(ack)) = answer.message else {
            continue;
        };
        counts.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = pending.iter().position(|(seq, _)| *seq == ack.seq)
            && let Some((_, sent)) = pending.remove(place)
            && counts.is_measured.load(Ordering::Relaxed)
        {
            let delay_us = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            // Cannot fail: it is within the range.
            let _ = counts.delays.increment(delay_us.min((1 << 27) - 1));
        }
    }
}

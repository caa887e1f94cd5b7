//! A lane's connection to the collector, from its hello to its end, and the one after it.

use std::collections::VecDeque;
use std::error::Error as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::codec::CompressionEncoding;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::uplink_client::UplinkClient;
use weir_proto::v1::{self, Lane};

use super::budget::Budget;
use super::hot::age_us;
use super::lane::{Common, Pressure, Room, Source};
use super::{FAREWELL, MAX_ANSWER_BYTES};
use crate::query::client::innermost;
use crate::tls::{Connector, Meter};
use crate::wire::WIRE_VERSION;

const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A collector that acknowledges nothing for so long is not there any more.
const ACK_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks whether the certificates have changed.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(2);
/// Frames that are not acknowledged: beyond, what comes waits, where it can be shed.
const UNACKNOWLEDGED: usize = 32;
/// And of these, those of ticks: a third would only make the newest wait.
const UNACKNOWLEDGED_TICKS: usize = 2;
/// One that is not acknowledged for so long was taken, but what stands behind the collector does not
/// answer: newer ones go on.
const TICK_PATIENCE: Duration = Duration::from_secs(2);
/// Of what is kept to be sent again, in all.
const KEPT_BYTES: usize = 4 << 20;
/// How often a lane that has to stop looks whether it still has to.
const STOPPED: Duration = Duration::from_millis(100);
const BACKOFF_LEAST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A connection that held for so long was a good one: the next back-off starts anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

/// A frame that was sent and not acknowledged.
#[derive(Debug)]
struct Sent {
    seq: u64,
    at: Instant,
    is_tick: bool,
    /// None: what is in it is in the next tick, too.
    kept: Option<v1::Frame>,
    bytes: usize,
}

/// A lane and its connection.
#[derive(Debug)]
pub(super) struct Link<S> {
    source: S,
    common: Common,
    connector: Connector,
    meter: Meter,
    budget: Option<Budget>,
    /// Oldest first.
    unacknowledged: VecDeque<Sent>,
    finish: CancellationToken,
}

impl<S: Source> Link<S> {
    /// `bytes_per_s`: none: as many as there are.
    pub(super) fn new(
        source: S,
        common: Common,
        connector: &Connector,
        bytes_per_s: Option<u32>,
        finish: CancellationToken,
    ) -> Self {
        let meter = Meter::default();
        Self {
            source,
            common,
            connector: connector.metered(meter.clone()),
            meter,
            budget: bytes_per_s.map(|bytes| Budget::new(bytes, std::time::Instant::now())),
            unacknowledged: VecDeque::new(),
            finish,
        }
    }

    /// Keeps a connection until the core is finished and its last word delivered.
    pub(super) async fn keep(mut self) {
        let mut backoff = BACKOFF_LEAST;
        let lane = S::LANE.word();
        loop {
            let started = Instant::now();
            let finish = self.finish.clone();
            let deadline = async {
                finish.cancelled().await;
                tokio::time::sleep(FAREWELL).await;
            };
            let ended = tokio::select! {
                ended = self.run() => ended,
                () = deadline => Err(anyhow::anyhow!(
                    "the last frame was not acknowledged within {FAREWELL:?}"
                )),
            };
            self.common.pressure.set(Duration::ZERO);
            let counts = &self.common.counts;
            counts.update(S::LANE, |status| status.connected = false);
            let Err(err) = ended else {
                return;
            };
            let why = format!("{err:#}");
            let mut is_known = false;
            counts.update(S::LANE, |status| {
                is_known = status.last_error == why;
                status.last_error.clone_from(&why);
            });
            let collector = self.connector.uri();
            if self.finish.is_cancelled() {
                tracing::warn!(%collector, lane, "the collector may miss the last numbers: {why}");
                return;
            }
            if started.elapsed() >= GOOD_CONNECTION {
                backoff = BACKOFF_LEAST;
            }
            // Hosts that lost one collector together must not come back together.
            let wait = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
            if is_known {
                tracing::debug!(%collector, lane, "no connection to the collector: {why}");
            } else {
                tracing::warn!(
                    %collector,
                    lane,
                    "no connection to the collector; measuring goes on, trying again in \
                     {wait:.1?}: {why}"
                );
            }
            backoff = (backoff * 2).min(BACKOFF_MOST);
            self.pause(wait).await;
        }
    }

    /// Waits for the next attempt, and takes in what is new all the while, so that a gap in the
    /// numbers tells the collector what it missed.
    async fn pause(&mut self, wait: Duration) {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                () = self.finish.cancelled() => return,
                () = self.source.hear() => {}
            }
        }
    }

    fn room(&mut self) -> Room {
        let now = std::time::Instant::now();
        let moved = self.meter.moved();
        if moved > 0 {
            self.common
                .counts
                .count(S::LANE, |counts| counts.bytes_sent += moved);
        }
        if let Some(budget) = &mut self.budget {
            budget.spend(moved, now);
        }
        let is_full = self.unacknowledged.len() >= UNACKNOWLEDGED;
        let may = !is_full && !self.common.pressure.stops(S::LANE);
        let budgeted = may
            && self
                .budget
                .as_ref()
                .is_none_or(|budget| budget.wait().is_none());
        let is_awaited = |sent: &&Sent| sent.is_tick && sent.at.elapsed() < TICK_PATIENCE;
        let ticks = self.unacknowledged.iter().filter(is_awaited);
        let tick = may && ticks.count() < UNACKNOWLEDGED_TICKS;
        Room {
            tick: tick && (budgeted || !S::TICKS_ARE_BUDGETED),
            budgeted,
        }
    }

    /// When there may be room that there is not now, without anything being acknowledged.
    fn look_again(&self, room: Room) -> Option<Instant> {
        if room.budgeted && room.tick {
            return None;
        }
        if self.common.pressure.stops(S::LANE) {
            return Some(Instant::now() + STOPPED);
        }
        let wait = self.budget.as_ref().and_then(Budget::wait)?;
        Some(Instant::now() + wait)
    }

    /// Speaks with the collector until the connection fails, or until the core is finished and all
    /// is acknowledged.
    async fn run(&mut self) -> anyhow::Result<()> {
        let Connection {
            to,
            mut from,
            welcome,
        } = connect(&self.connector, self.hello()).await?;
        self.connected(&welcome);
        let finish = self.finish.clone();
        let mut is_finishing = false;
        let mut look = tokio::time::interval(CERTIFICATE_LOOK);
        self.source.begin(welcome.last_seq);
        self.again(&to).await?;
        loop {
            let room = self.room();
            let has_next = self.source.has_next(room);
            if is_finishing && !has_next && self.unacknowledged.is_empty() {
                // What is not acknowledged by itself is there when the collector ends the call, too.
                drop(to);
                while let Ok(Some(_)) = from.message().await {}
                return Ok(());
            }
            let oldest = self.unacknowledged.front().map(|sent| sent.at);
            if S::LANE == Lane::Hot {
                let age = oldest.map_or(Duration::ZERO, |at| at.elapsed());
                self.common.pressure.set(age);
            }
            let look_again = self.look_again(room);
            tokio::select! {
                biased;
                answer = from.message() => self.answered(answer)?,
                () = wait_until(oldest.map(|at| at + ACK_TIMEOUT)) => {
                    bail!("it has acknowledged nothing for {ACK_TIMEOUT:?}");
                }
                place = to.reserve(), if has_next => {
                    let place = place.context("the connection ended")?;
                    if let Some(message) = self.next(room) {
                        place.send(message);
                    }
                }
                () = self.source.hear() => {}
                () = wait_until(look_again) => {}
                () = wait_until(oldest.and_then(next_pressure)), if S::LANE == Lane::Hot => {}
                _ = look.tick(), if !is_finishing => {
                    if self.connector.renew() {
                        bail!("the certificates have changed");
                    }
                }
                () = finish.cancelled(), if !is_finishing => {
                    is_finishing = true;
                    self.source.finish();
                }
            }
        }
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            lane: S::LANE.into(),
            ..self.common.hello.clone()
        }
    }

    fn connected(&self, welcome: &v1::Welcome) {
        tracing::info!(
            collector = %self.connector.uri(),
            lane = S::LANE.word(),
            name = welcome.collector,
            "connected to the collector"
        );
        self.common.counts.update(S::LANE, |status| {
            status.connected = true;
            status.last_error.clear();
            if status.sent_seq > 0 {
                status.reconnects += 1;
            }
        });
    }

    /// What was under way when the connection before ended is sent again. The collector knows what
    /// it has taken already by its number.
    async fn again(&mut self, to: &mpsc::Sender<v1::EdgeMessage>) -> anyhow::Result<()> {
        self.unacknowledged.retain(|sent| sent.kept.is_some());
        for sent in &mut self.unacknowledged {
            sent.at = Instant::now();
            let Some(frame) = sent.kept.clone() else {
                continue;
            };
            to.send(message(Up::Frame(frame)))
                .await
                .context("the connection ended")?;
            self.common
                .counts
                .count(S::LANE, |counts| counts.frames_resent += 1);
        }
        Ok(())
    }

    fn next(&mut self, room: Room) -> Option<v1::EdgeMessage> {
        let made = self.source.next(room)?;
        let Up::Frame(mut frame) = made.message else {
            return Some(message(made.message));
        };
        frame.delay_us = age_us(made.since);
        let is_kept = !frame.events.is_empty() || !frame.deliveries.is_empty();
        let sent = Sent {
            seq: frame.seq,
            at: Instant::now(),
            is_tick: frame.tick,
            bytes: if is_kept { frame.encoded_len() } else { 0 },
            kept: is_kept.then(|| frame.clone()),
        };
        self.unacknowledged.push_back(sent);
        self.forget_oldest();
        let waiting = self.unacknowledged.len() as u64;
        self.common.counts.update(S::LANE, |status| {
            status.waiting = waiting;
            let counts = status.counts.get_or_insert_default();
            // A tick that was under way when the connection before ended.
            if frame.seq <= status.sent_seq {
                counts.frames_resent += 1;
            } else {
                counts.frames_sent += 1;
                status.sent_seq = frame.seq;
            }
        });
        Some(message(Up::Frame(frame)))
    }

    /// More than may be kept is not sent again; the collector misses it in its count.
    fn forget_oldest(&mut self) {
        let mut bytes: usize = self.unacknowledged.iter().map(|sent| sent.bytes).sum();
        for sent in &mut self.unacknowledged {
            if bytes <= KEPT_BYTES {
                break;
            }
            bytes -= std::mem::take(&mut sent.bytes);
            sent.kept = None;
        }
    }

    fn answered(
        &mut self,
        answer: Result<Option<v1::CollectorMessage>, tonic::Status>,
    ) -> anyhow::Result<()> {
        match answer.map_err(refused)?.map(|message| message.message) {
            Some(Some(Down::Ack(ack))) => {
                let seq = ack.seq;
                self.unacknowledged.retain(|sent| sent.seq != seq);
                let waiting = self.unacknowledged.len() as u64;
                self.common.counts.update(S::LANE, |status| {
                    status.acked_seq = status.acked_seq.max(seq);
                    status.waiting = waiting;
                });
            }
            Some(Some(wish)) => self.source.obey(wish),
            // Of a later version; this one does not need it.
            Some(None) => {}
            None => bail!("it closed the connection"),
        }
        Ok(())
    }
}

/// When the oldest frame that is not acknowledged makes the next lane stop.
fn next_pressure(oldest: Instant) -> Option<Instant> {
    let steps = [Pressure::COLD_STOPS, Pressure::WARM_STOPS];
    let next = steps.into_iter().map(|step| oldest + step);
    next.filter(|at| *at > Instant::now()).min()
}

async fn wait_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn message(message: Up) -> v1::EdgeMessage {
    v1::EdgeMessage {
        message: Some(message),
    }
}

/// An open call.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) to: mpsc::Sender<v1::EdgeMessage>,
    pub(super) from: Streaming<v1::CollectorMessage>,
    welcome: v1::Welcome,
}

/// Connects, and says who it is.
pub(super) async fn connect(connector: &Connector, hello: v1::Hello) -> anyhow::Result<Connection> {
    let channel = connector.connect(|endpoint| {
        endpoint
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
    });
    let channel = channel.await?;
    let lane = hello.lane();
    // The connection takes one at a time: what waits, waits where it can be shed.
    let (to, stream) = mpsc::channel(1);
    to.send(message(Up::Hello(hello))).await?;
    let mut client = UplinkClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    if lane != Lane::Hot {
        client = client.send_compressed(CompressionEncoding::Zstd);
    }
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
    Ok(Connection { to, from, welcome })
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
pub(super) fn refused(status: tonic::Status) -> anyhow::Error {
    match status.source() {
        Some(cause) => anyhow::anyhow!("{}", innermost(cause)),
        None => anyhow::anyhow!("{} ({:?})", status.message(), status.code()),
    }
}

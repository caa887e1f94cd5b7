//! A lane's connection to the collector, from its hello to its end, and the one after it.

use std::error::Error as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
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
use super::window::{ANSWER_TIMEOUT, Window};
use super::{FAREWELL, MAX_ANSWER_BYTES};
use crate::query::client::innermost;
use crate::tls::{Connector, Meter, in_words};
use crate::wire::WIRE_VERSION;

const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether the certificates have changed.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(2);
/// How often a lane that has to stop looks whether it still has to.
const STOPPED: Duration = Duration::from_millis(100);
const BACKOFF_LEAST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A connection that held for so long was a good one: the next back-off starts anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

/// Why a connection ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All was said.
    Finished,
    /// The next one has newer certificates.
    Renewed,
}

/// A lane and its connection.
#[derive(Debug)]
pub(super) struct Link<S> {
    source: S,
    common: Common,
    connector: Connector,
    meter: Meter,
    budget: Option<Budget>,
    window: Window,
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
            window: Window::new(S::GOES_ON, Instant::now()),
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
            let err = match ended {
                Ok(Ended::Finished) => return,
                Ok(Ended::Renewed) => {
                    tracing::info!(lane, "the certificates have changed; connecting anew");
                    continue;
                }
                Err(err) => err,
            };
            let why = match self.meter.refusal() {
                Some(refusal) => in_words(refusal),
                None => format!("{err:#}"),
            };
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
        let budget = self.budget.as_ref();
        let is_affordable = budget.is_none_or(|budget| budget.wait().is_none());
        let may = !self.common.pressure.stops(S::LANE);
        // A tick waits for no event: how things are is said whatever becomes of the rest.
        let tick = may && self.window.has_room_for_tick(Instant::now());
        Room {
            tick: tick && (is_affordable || !S::TICKS_ARE_BUDGETED),
            budgeted: may && is_affordable && self.window.has_room(),
            again: may && is_affordable && self.window.has_again(),
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
    async fn run(&mut self) -> anyhow::Result<Ended> {
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
        self.window.begin(Instant::now());
        loop {
            let repeat = self.window.repeat(Instant::now());
            let room = self.room();
            let has_next = room.again || self.source.has_next(room);
            if is_finishing && !has_next && self.window.is_empty() {
                // What is not acknowledged by itself is there when the collector ends the call, too.
                drop(to);
                while let Ok(Some(_)) = from.message().await {}
                return Ok(Ended::Finished);
            }
            let oldest = self.window.oldest();
            if S::LANE == Lane::Hot {
                let age = oldest.map_or(Duration::ZERO, |at| at.elapsed());
                self.common.pressure.set(age);
            }
            let look_again = self.look_again(room);
            tokio::select! {
                biased;
                answer = from.message() => self.answered(answer)?,
                () = wait_until(self.window.deadline()) => {
                    bail!("it has answered nothing for {ANSWER_TIMEOUT:?}");
                }
                place = to.reserve(), if has_next => {
                    let place = place.context("the connection ended")?;
                    if let Some(message) = self.next(room) {
                        place.send(message);
                    }
                }
                () = self.source.hear() => {}
                () = wait_until(look_again) => {}
                () = wait_until(repeat) => {}
                () = wait_until(oldest.and_then(next_pressure)), if S::LANE == Lane::Hot => {}
                _ = look.tick(), if !is_finishing => {
                    if self.connector.renew() {
                        return Ok(Ended::Renewed);
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

    /// What comes next. A vital frame goes before what is sent again, and that before what is new.
    fn next(&mut self, room: Room) -> Option<v1::EdgeMessage> {
        let urgent = Room {
            budgeted: false,
            ..room
        };
        if !self.source.has_next(urgent)
            && room.again
            && let Some(frame) = self.window.again(Instant::now())
        {
            // The collector knows by its number what it has taken already.
            self.common
                .counts
                .count(S::LANE, |counts| counts.frames_resent += 1);
            return Some(message(Up::Frame(frame)));
        }
        let made = self.source.next(room)?;
        let Up::Frame(mut frame) = made.message else {
            return Some(message(made.message));
        };
        frame.delay_us = age_us(made.since);
        self.window.push(&frame, Instant::now());
        let waiting = self.window.len() as u64;
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

    fn answered(
        &mut self,
        answer: Result<Option<v1::CollectorMessage>, tonic::Status>,
    ) -> anyhow::Result<()> {
        self.window.answered(Instant::now());
        match answer.map_err(refused)?.map(|message| message.message) {
            Some(Some(Down::Taken(taken))) => self.window.taken(&taken.seqs),
            Some(Some(Down::Ack(ack))) => {
                let seq = ack.seq;
                self.window.acknowledge(seq);
                let waiting = self.window.len() as u64;
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

/// When the oldest frame that is not taken makes the next lane stop.
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

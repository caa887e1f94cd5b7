//! The way to the collector: numbered frames of cumulative counts, and events ahead of them.
//!
//! The core hands over and never waits: of ticks the newest wins, of events the oldest go first,
//! and what is dropped is counted. A frame holds everything, so the first one after a reconnect
//! repairs all that was missed. The connection itself is [`link`]'s work.

mod link;
mod privacy;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;
use weir_proto::v1;

use crate::labels::pseudonym::Pseudonyms;
use crate::qoe::{CellSnapshot, Event};
use crate::query::Followed;
use crate::wire;

/// Events that wait for a connection; beyond, the oldest are dropped.
pub const EVENTS_KEPT: usize = 1024;
/// Events in one frame.
const EVENTS_PER_FRAME: usize = 64;
const BACKOFF_LEAST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A connection that held for so long was a good one: the next back-off starts anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// At the end of either side, the other has so long to take what is on its way to it.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// What must be known at once.
#[derive(Clone, Debug)]
pub enum HotEvent {
    /// Of a delivery.
    Delivery {
        /// What happened.
        event: Event,
        /// To which.
        delivery: Box<Followed>,
    },
    /// Of a viewer.
    Viewer(Arc<v1::ViewerEvent>),
    /// Of a cell.
    Alarm(Arc<v1::Alarm>),
}

impl HotEvent {
    fn message(&self) -> v1::HotEvent {
        match self {
            Self::Delivery { event, delivery } => {
                let Followed {
                    record,
                    cell,
                    context,
                } = &**delivery;
                let delivery = wire::delivery(record, cell, context);
                v1::HotEvent {
                    unix_ns: context.unix_ns(record.header.t_ns),
                    event: Some(match event {
                        Event::Late => v1::hot_event::Event::Late(delivery),
                        Event::Aborted => v1::hot_event::Event::Aborted(delivery),
                    }),
                }
            }
            Self::Viewer(event) => v1::HotEvent {
                unix_ns: event.told_unix_ns,
                event: Some(v1::hot_event::Event::Viewer((**event).clone())),
            },
            Self::Alarm(alarm) => v1::HotEvent {
                unix_ns: alarm.unix_ns,
                event: Some(v1::hot_event::Event::Alarm((**alarm).clone())),
            },
        }
    }
}

/// All that the daemon knows at one moment.
#[derive(Clone, Debug)]
pub struct Tick {
    /// That moment.
    pub unix_ns: u64,
    /// Since the tick before.
    pub interval_ms: u32,
    /// Which configuration was in force.
    pub config_generation: u64,
    /// Cumulative.
    pub losses: v1::Losses,
    /// Cumulative.
    pub cells: Vec<CellSnapshot>,
    /// Why nothing is measured; empty: it is.
    pub off: String,
    /// None: no limit.
    pub budget: Option<v1::BudgetStatus>,
}

/// What the uplink says about itself. The core reads it, the uplink writes it.
#[derive(Debug, Default)]
pub struct UplinkCounts {
    /// Events dropped while no connection took them.
    pub events_dropped: AtomicU64,
    /// Frames dropped likewise.
    pub frames_dropped: AtomicU64,
    status: Mutex<v1::UplinkStatus>,
}

impl UplinkCounts {
    /// How the connection is.
    pub fn status(&self) -> v1::UplinkStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn update(&self, change: impl FnOnce(&mut v1::UplinkStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Where to, and as whom.
#[derive(Debug)]
pub struct Options {
    /// The collector.
    pub collector: Uri,
    /// The first message of each connection.
    pub hello: v1::Hello,
    /// Clients' names in what is sent; none: their addresses.
    pub pseudonyms: Option<Pseudonyms>,
}

/// What the core hands over.
#[derive(Debug)]
pub struct Inputs {
    /// The newest tick.
    pub ticks: watch::Receiver<Option<Arc<Tick>>>,
    /// Events, oldest first.
    pub events: broadcast::Receiver<HotEvent>,
    /// The core has made its last tick.
    pub finish: CancellationToken,
}

/// Makes the frames of this boot and remembers what is yet to be sent.
#[derive(Debug)]
struct Outbox {
    host: String,
    boot_id: String,
    inputs: Inputs,
    counts: Arc<UplinkCounts>,
    seq: u64,
    /// Events taken from the queue so far, those dropped included.
    events_seen: u64,
    /// Clients' names; none: their addresses are sent.
    pseudonyms: Option<Pseudonyms>,
    /// The newest frame with cells, while it is not sent.
    waiting: Option<v1::Frame>,
}

impl Outbox {
    /// Numbers a frame that is about to be sent.
    fn numbered(&mut self, frame: v1::Frame) -> v1::Frame {
        self.seq += 1;
        v1::Frame {
            host: self.host.clone(),
            boot_id: self.boot_id.clone(),
            seq: self.seq,
            events_total: self.events_seen,
            ..frame
        }
    }

    /// Makes a frame of the newest tick. One that still waits is dropped for it, and leaves a gap
    /// in the numbers.
    fn take_tick(&mut self) {
        let Some(tick) = self.inputs.ticks.borrow_and_update().clone() else {
            return;
        };
        let heard = wire::Heard::of(&tick.losses);
        let cells = tick.cells.iter();
        let frame = v1::Frame {
            unix_ns: tick.unix_ns,
            interval_ms: tick.interval_ms,
            config_generation: tick.config_generation,
            losses: Some(tick.losses),
            cells: cells.map(|cell| wire::cell(cell, 1, heard)).collect(),
            tick: true,
            off: tick.off.clone(),
            budget: tick.budget.clone(),
            ..v1::Frame::default()
        };
        if self.waiting.replace(frame).is_some() {
            self.seq += 1;
            self.counts.frames_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes a frame of an event and those that wait behind it.
    fn take_events(&mut self, first: &HotEvent) -> v1::Frame {
        self.events_seen += 1;
        let mut events = vec![self.message(first)];
        while events.len() < EVENTS_PER_FRAME {
            match self.inputs.events.try_recv() {
                Ok(event) => {
                    self.events_seen += 1;
                    events.push(self.message(&event));
                }
                Err(broadcast::error::TryRecvError::Lagged(missed)) => self.missed_events(missed),
                Err(_) => break,
            }
        }
        let unix_ns = events.last().map_or(0, |event| event.unix_ns);
        self.numbered(v1::Frame {
            unix_ns,
            events,
            ..v1::Frame::default()
        })
    }

    fn message(&mut self, event: &HotEvent) -> v1::HotEvent {
        let mut message = event.message();
        if let Some(pseudonyms) = &mut self.pseudonyms {
            privacy::hide_clients(&mut message, pseudonyms, Instant::now());
        }
        message
    }

    fn missed_events(&mut self, missed: u64) {
        self.events_seen += missed;
        self.counts
            .events_dropped
            .fetch_add(missed, Ordering::Relaxed);
    }
}

/// Keeps a connection to the collector until the core is finished and its last tick delivered.
pub async fn run(mut options: Options, inputs: Inputs, counts: Arc<UplinkCounts>) {
    let collector = options.collector.to_string();
    counts.update(|status| status.collector.clone_from(&collector));
    let finish = inputs.finish.clone();
    let mut outbox = Outbox {
        host: options.hello.host.clone(),
        boot_id: options.hello.boot_id.clone(),
        inputs,
        counts: counts.clone(),
        seq: 0,
        events_seen: 0,
        pseudonyms: options.pseudonyms.take(),
        waiting: None,
    };
    let mut backoff = BACKOFF_LEAST;
    loop {
        let started = tokio::time::Instant::now();
        let deadline = async {
            finish.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let ended = tokio::select! {
            ended = link::run(&options, &mut outbox) => ended,
            () = deadline => Err(anyhow::anyhow!(
                "the last frame was not acknowledged within {FAREWELL:?}"
            )),
        };
        counts.update(|status| status.connected = false);
        let Err(err) = ended else {
            return;
        };
        let why = format!("{err:#}");
        let known = counts.status().last_error == why;
        counts.update(|status| status.last_error.clone_from(&why));
        if finish.is_cancelled() {
            tracing::warn!(collector, "the collector may miss the last numbers: {why}");
            return;
        }
        if started.elapsed() >= GOOD_CONNECTION {
            backoff = BACKOFF_LEAST;
        }
        // Hosts that lost one collector together must not come back together.
        let wait = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        if known {
            tracing::debug!(collector, "no connection to the collector: {why}");
        } else {
            tracing::warn!(
                collector,
                "no connection to the collector; measuring goes on, trying again in {wait:.1?}: \
                 {why}"
            );
        }
        backoff = (backoff * 2).min(BACKOFF_MOST);
        pause(wait, &mut outbox, &finish).await;
    }
}

/// Waits for the next attempt. Frames are made all the while, so that a gap in their numbers tells
/// the collector what it missed.
async fn pause(wait: Duration, outbox: &mut Outbox, finish: &CancellationToken) {
    let over = tokio::time::sleep(wait);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return,
            () = finish.cancelled() => return,
            Ok(()) = outbox.inputs.ticks.changed() => outbox.take_tick(),
        }
    }
}

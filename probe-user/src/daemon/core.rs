//! The core: one thread that owns the kernel's backend and all that is known, and does one thing
//! at a time, so that nothing it holds needs a lock.
//!
//! The hot ring comes first, always; the bulk ring is read in small batches between which the hot
//! one is looked at again.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use weir_proto::v1;

use super::budget::Budget;
use super::desk::Desk;
use super::measuring::{Measuring, Turn};
use super::warnings::Warnings;
use crate::kernel::{Backend, Batch, KernelCounts, Ring, SWEEP_INTERVAL, Settings};
use crate::labels::geo::Geo;
use crate::labels::inlet::Heard;
use crate::query::Query;
use crate::recording::Said;
use crate::uplink::{Encoded, Tick};

/// Records taken from the bulk ring before the hot one is looked at again: about 50 us of folding.
const BULK_BATCH: usize = 256;
/// Batches of the bulk ring that one sweep takes at most, so that queries are answered even when
/// records come faster than they are folded: more than the largest ring holds.
const MOST_BATCHES: usize = 16_384;
/// So long of one sweep others are let in between batches; on a processor that is never free, they would
/// else take it until the ring is full.
const MOST_YIELDING: Duration = Duration::from_millis(100);
const HOT_BATCH: usize = 1024;
/// Batches of it that labels wait for at most, because what is in them may be older than they are.
const LABEL_BULK_BATCHES: usize = 16;
/// Labels taken in before the rings are looked at again.
const LABEL_BATCH: usize = 64;
/// Records of either ring taken out at the end; what comes faster than this is left.
const LAST_RECORDS: usize = 1_000_000;

/// New settings for a running core.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) settings: Settings,
    pub(super) budget_core_permille: u32,
    pub(super) geo: Option<Arc<Geo>>,
    /// The same for the fold, with the names of cells.
    pub(super) recorded: Arc<v1::RecordedSettings>,
    /// Gets whether they are in force.
    pub(super) reply: oneshot::Sender<anyhow::Result<()>>,
}

/// What reaches the core from outside, and how it is stopped.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) queries: mpsc::Receiver<Query>,
    pub(super) reloads: mpsc::Receiver<Reload>,
    /// None: no label is heard.
    pub(super) labels: Option<Arc<Heard>>,
    pub(super) stop: CancellationToken,
}

/// Where ticks go.
#[derive(Debug)]
pub(super) struct Ticks {
    pub(super) to: watch::Sender<Option<Arc<Tick>>>,
    pub(super) interval: Duration,
}

pub(super) struct Core {
    pub(super) measuring: Measuring,
    pub(super) desk: Desk,
    /// None without a collector.
    pub(super) ticks: Option<Ticks>,
    /// Of the latest one.
    tick_seq: u64,
    batch: Batch,
    budget: Budget,
    warnings: Warnings,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// Monotonic time as the kernel programs read it.
pub(super) fn monotonic_ns() -> anyhow::Result<u64> {
    clock_ns(ClockId::CLOCK_MONOTONIC)
}

/// Unix time less monotonic time.
pub(super) fn unix_minus_monotonic_ns() -> anyhow::Result<i64> {
    let monotonic = clock_ns(ClockId::CLOCK_MONOTONIC)?;
    let unix = clock_ns(ClockId::CLOCK_REALTIME)?;
    Ok(unix.cast_signed() - monotonic.cast_signed())
}

fn clock_ns(clock: ClockId) -> anyhow::Result<u64> {
    let time = clock_gettime(clock).context("cannot read the clock")?;
    let seconds = u64::try_from(time.tv_sec()).context("the clock is before 1970")?;
    Ok(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0))
}

impl Core {
    pub(super) fn new(
        measuring: Measuring,
        desk: Desk,
        ticks: Option<Ticks>,
        budget: Budget,
    ) -> Self {
        Self {
            budget,
            measuring,
            desk,
            ticks,
            tick_seq: 0,
            batch: Batch::new(),
            warnings: Warnings::new(),
        }
    }

    /// Runs until it is told to stop; then reads what is left and sends a last tick.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> anyhow::Result<()> {
        let mut rings = self.watch_rings()?;
        self.adopt()?;
        let mut sweep = interval(SWEEP_INTERVAL);
        let mut second = interval(Duration::from_secs(1));
        let mut tick = interval(
            self.ticks
                .as_ref()
                .map_or(Duration::from_secs(1), |ticks| ticks.interval),
        );
        let mut last_tick = Instant::now();
        loop {
            tokio::select! {
                biased;
                ready = readable(rings.as_ref().map(|rings| &rings.hot)) => {
                    let mut ready = ready.context("cannot wait for the hot ring")?;
                    if self.drain(Ring::Hot, HOT_BATCH)? < HOT_BATCH {
                        ready.clear_ready();
                    }
                }
                () = inputs.stop.cancelled() => break,
                Some(query) = inputs.queries.recv() => self.answer(query)?,
                Some(reload) = inputs.reloads.recv() => self.reload(reload)?,
                _ = sweep.tick() => {
                    match self.measuring.turn() {
                        Turn::Stay => {}
                        Turn::Off => {
                            // They hold the rings in the kernel.
                            rings = None;
                            self.turn_off()?;
                        }
                        Turn::On => {
                            self.turn_on()?;
                            self.budget.begin_again();
                            rings = self.watch_rings()?;
                        }
                    }
                    self.keep_budget()?;
                    self.sweep()?;
                }
                _ = second.tick() => self.every_second()?,
                _ = tick.tick(), if self.ticks.is_some() => {
                    let now = Instant::now();
                    self.tick(now - last_tick)?;
                    last_tick = now;
                }
                ready = readable(rings.as_ref().map(|rings| &rings.bulk)) => {
                    let mut ready = ready.context("cannot wait for the bulk ring")?;
                    // As long as this ring never runs dry, nobody is asked about the other: it is
                    // looked into.
                    self.drain(Ring::Hot, HOT_BATCH)?;
                    if self.drain(Ring::Bulk, BULK_BATCH)? < BULK_BATCH {
                        ready.clear_ready();
                    }
                    // Nor about labels.
                    self.desk.take_labels(LABEL_BATCH);
                }
                () = labelled(inputs.labels.as_deref()) => self.hear()?,
            }
        }
        self.drain_rest()?;
        self.desk.take_labels(usize::MAX);
        self.desk.keep_learned(true);
        self.read_counts()?;
        self.tick(last_tick.elapsed())
    }

    /// None while weir is off.
    fn watch_rings(&mut self) -> anyhow::Result<Option<Rings>> {
        let Some(backend) = self.measuring.backend() else {
            return Ok(None);
        };
        Ok(Some(Rings {
            hot: Self::watch_ring(backend, Ring::Hot)?,
            bulk: Self::watch_ring(backend, Ring::Bulk)?,
        }))
    }

    fn watch_ring(backend: &dyn Backend, ring: Ring) -> anyhow::Result<AsyncFd<OwnedFd>> {
        let fd = backend.ring_fd(ring);
        let fd = fd
            .try_clone_to_owned()
            .context("cannot keep a ring's descriptor")?;
        // SAFETY: an OwnedFd is open, and the same one, for as long as it lives; the AsyncFd owns it.
        let watched = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) };
        watched.with_context(|| format!("cannot wait for the {ring:?} ring"))
    }

    /// The kill switch is on: nothing stays in the kernel. What is known stays, and what the
    /// sessions had carried until now is told first.
    fn turn_off(&mut self) -> anyhow::Result<()> {
        tracing::warn!("off: {}", self.measuring.why_off());
        if let Err(err) = self.measuring.dismiss_sessions() {
            tracing::warn!("the sessions' last numbers are missing: {err:#}");
        }
        self.drain_rest()?;
        self.read_counts()?;
        let counted: KernelCounts = *self.desk.intake.kernel_counts();
        self.measuring.take_down(counted);
        self.desk.off = self.measuring.why_off();
        Ok(())
    }

    /// The kill switch is off again.
    fn turn_on(&mut self) -> anyhow::Result<()> {
        match self.measuring.put_up() {
            Ok(()) => {
                tracing::info!("the kill switch is gone: measuring again");
                self.desk.off.clear();
                self.adopt()?;
            }
            Err(err) => {
                tracing::error!("the kill switch is gone, but nothing is measured: {err:#}");
                self.desk.off = format!("the kill switch is gone, but: {err:#}");
            }
        }
        Ok(())
    }

    fn adopt(&mut self) -> anyhow::Result<()> {
        let ring = Ring::Bulk;
        let desk = &mut self.desk;
        let Some(backend) = self.measuring.backend() else {
            return Ok(());
        };
        if desk.intake.is_recorded() {
            let now_ns = monotonic_ns()?;
            desk.take(&Said::Drain { ring, now_ns });
        }
        let batch = &mut self.batch;
        let adopted = backend.adopt(&mut |record| {
            if batch.push(record) {
                desk.take_records(ring, batch);
            }
        });
        desk.take_records(ring, batch);
        match adopted {
            Ok(0) => {}
            Ok(left_out) => tracing::warn!(
                left_out,
                "network namespaces were left out, as said above: sessions that are open in them \
                 already stay unmeasured"
            ),
            Err(err) => tracing::warn!("sessions that are open already stay unmeasured: {err:#}"),
        }
        Ok(())
    }

    /// Takes at most `max` records out of a ring.
    fn drain(&mut self, ring: Ring, max: usize) -> anyhow::Result<usize> {
        let desk = &mut self.desk;
        let Some(backend) = self.measuring.backend() else {
            return Ok(0);
        };
        if desk.intake.is_recorded() {
            let now_ns = monotonic_ns()?;
            desk.take(&Said::Drain { ring, now_ns });
        }
        let batch = &mut self.batch;
        let drained = backend.drain(ring, max, &mut |record| {
            if batch.push(record) {
                desk.take_records(ring, batch);
            }
        });
        desk.take_records(ring, batch);
        if ring == Ring::Hot && drained > 0 {
            // Who was just told of it may be waiting for this very processor, which this thread
            // does not give up by itself while there are records to fold.
            std::thread::yield_now();
        }
        Ok(drained)
    }

    /// Takes in labels, and before them what the kernel had said when they were sent: that a request
    /// came, and so that the delivery before it was over.
    fn hear(&mut self) -> anyhow::Result<()> {
        self.drain(Ring::Hot, HOT_BATCH)?;
        for _ in 0..LABEL_BULK_BATCHES {
            if self.drain(Ring::Bulk, BULK_BATCH)? < BULK_BATCH {
                break;
            }
        }
        self.desk.take_labels(LABEL_BATCH);
        Ok(())
    }

    fn drain_rest(&mut self) -> anyhow::Result<()> {
        let mut left = LAST_RECORDS;
        for ring in [Ring::Hot, Ring::Bulk] {
            while left > 0 {
                let drained = self.drain(ring, BULK_BATCH)?;
                left = left.saturating_sub(drained);
                if drained < BULK_BATCH {
                    break;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, query: Query) -> anyhow::Result<()> {
        if matches!(query, Query::Status(_) | Query::Snapshot { .. }) {
            self.read_counts()?;
        }
        self.desk.answer(query, monotonic_ns()?);
        Ok(())
    }

    fn reload(&mut self, reload: Reload) -> anyhow::Result<()> {
        let applied = self.measuring.apply(reload.settings);
        if applied.is_ok() {
            self.desk.labelling.geo = reload.geo;
            self.desk.take(&Said::Settings(reload.recorded));
            self.budget.set_limit(reload.budget_core_permille);
            // A wider filter lets in sessions that are open already.
            self.adopt()?;
        }
        // Whoever asked for it is this daemon, and waits.
        let _ = reload.reply.send(applied);
        Ok(())
    }

    fn sweep(&mut self) -> anyhow::Result<()> {
        let swept = self.measuring.backend().map(Backend::sweep);
        if let Some(Err(err)) = swept {
            self.warnings.failure("looking through the sessions", &err);
        }
        // The bulk ring wakes the daemon seldom: all that was written since is taken along.
        let begin = Instant::now();
        for _ in 0..MOST_BATCHES {
            while self.drain(Ring::Hot, HOT_BATCH)? == HOT_BATCH {}
            if self.drain(Ring::Bulk, BULK_BATCH)? < BULK_BATCH {
                break;
            }
            if begin.elapsed() < MOST_YIELDING {
                // A server that has something to do on this very processor does not wait for all of it.
                std::thread::yield_now();
            }
        }
        let now_ns = monotonic_ns()?;
        self.desk.take(&Said::Now { now_ns });
        Ok(())
    }

    fn keep_budget(&mut self) -> anyhow::Result<()> {
        let unix_ns = self.desk.intake.unix_ns(monotonic_ns()?);
        self.budget.keep(self.measuring.backend(), unix_ns);
        self.desk.budget = self.budget.status();
        Ok(())
    }

    fn every_second(&mut self) -> anyhow::Result<()> {
        self.desk.take(&Said::Clock {
            now_ns: monotonic_ns()?,
            unix_minus_monotonic_ns: unix_minus_monotonic_ns()?,
        });
        let give_ups = self.measuring.backend().map(Backend::half_open_give_ups);
        match give_ups.unwrap_or_else(|| Ok(Vec::new())) {
            Ok(give_ups) => {
                for give_up in give_ups {
                    self.desk.take_give_up(give_up);
                }
            }
            Err(err) => self.warnings.failure("reading given-up handshakes", &err),
        }
        self.read_counts()?;
        self.warnings.losses(&self.desk);
        self.desk.intake.pass_on();
        self.desk.keep_learned(false);
        self.desk.forget_networks(Instant::now());
        Ok(())
    }

    fn read_counts(&mut self) -> anyhow::Result<()> {
        match self.measuring.counts() {
            Ok(None) => {}
            Ok(Some(counts)) => {
                let now_ns = monotonic_ns()?;
                self.desk.take(&Said::Counts { now_ns, counts });
            }
            Err(err) => self.warnings.failure("reading the programs' counts", &err),
        }
        Ok(())
    }

    fn tick(&mut self, since_last: Duration) -> anyhow::Result<()> {
        let Some(ticks) = &self.ticks else {
            return Ok(());
        };
        self.tick_seq += 1;
        let tick = Tick {
            seq: self.tick_seq,
            made: Instant::now(),
            unix_ns: self.desk.intake.unix_ns(monotonic_ns()?),
            interval_ms: u32::try_from(since_last.as_millis()).unwrap_or(u32::MAX),
            config_generation: self.desk.intake.settings().config_generation,
            losses: self.desk.losses(),
            cells: self.desk.intake.cells(),
            encoded: Encoded::default(),
            off: self.desk.off.clone(),
            budget: self.desk.budget.clone(),
        };
        ticks.to.send_replace(Some(Arc::new(tick)));
        Ok(())
    }
}

/// The ways out of the kernel, watched.
#[derive(Debug)]
struct Rings {
    hot: AsyncFd<OwnedFd>,
    bulk: AsyncFd<OwnedFd>,
}

/// Waits until a ring wants draining; without one, for ever.
async fn readable(
    ring: Option<&AsyncFd<OwnedFd>>,
) -> std::io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match ring {
        Some(ring) => ring.readable().await,
        None => std::future::pending().await,
    }
}

/// Waits until there is a label; without a socket for them, for ever.
async fn labelled(labels: Option<&Heard>) {
    match labels {
        Some(labels) => labels.ready().await,
        None => std::future::pending().await,
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

//! User space: records taken out of a real ring and folded, in a process of its own, so that its
//! memory is nobody else's. What is timed is the processor time of the thread that folds, as the
//! daemon's core does it; the records are made in between, by a kernel program.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, RingBuf};
use serde::{Deserialize, Serialize};
use weir::config::Config;
use weir::intake::{self, Intake};
use weir::kernel::{self, BackendKind, Batch, Ring};
use weir::qoe::Limits;
use weir::recording::Said;
use weir::wire::Context;

use crate::machine::thread_time;
use crate::programs::{Making, Producer};

/// What the daemon's core takes from the bulk ring at a time.
const BATCH: usize = 256;
/// Of each session, in a table where sessions come and go.
const DELIVERIES: u64 = 8;
/// One in so many had segments sent again.
const TROUBLED: u64 = 64;
/// Each session speaks so often, in the records' own time.
const SESSION_PERIOD_NS: u64 = 4_000_000_000;
/// The core's passing of time, likewise.
const SWEEP_NS: u64 = 250_000_000;
/// Records are older than this in no clock.
const BEGIN_NS: u64 = 1_000_000_000_000;

/// What to fold.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The bench's kernel programs
    #[arg(long)]
    pub(crate) programs: PathBuf,
    /// Open at the same time
    #[arg(long)]
    pub(crate) sessions: u64,
    /// Records to time, after as many as make the table full
    #[arg(long)]
    pub(crate) records: u64,
    /// In random order, instead of one session after the other
    #[arg(long)]
    pub(crate) random: bool,
    /// Sessions end after a few deliveries, and others begin
    #[arg(long)]
    pub(crate) churn: bool,
}

/// What it took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Folded {
    /// Processor time of one record.
    pub(crate) ns_per_record: f64,
    /// Memory that the process has taken since before the first record, for each session open.
    pub(crate) bytes_per_session: f64,
    /// Sessions that the fold knew in the end.
    pub(crate) sessions: u64,
}

/// Folds, and says how long it took as JSON.
pub(crate) fn run(args: &Args) -> Result<()> {
    let making = Making {
        sessions: args.sessions,
        deliveries: if args.churn { DELIVERIES } else { 0 },
        random: args.random,
        troubled: TROUBLED,
        begin_ns: BEGIN_NS,
        step_ns: SESSION_PERIOD_NS / args.sessions,
    };
    let mut producer = Producer::load(&args.programs, &[], making)?;
    let ring = producer.take_bulk()?;
    let mut core = Core::new(ring, making)?;
    let before = resident_bytes()?;
    let full = if args.random {
        // Some would never be met in as many records as there are sessions.
        args.sessions * 4
    } else {
        args.sessions
    };
    let warm = full + full / 2 * u64::from(args.churn) * (DELIVERIES + 2);
    core.fold_until(&mut producer, warm)?;
    let (spent, records) = (core.spent, core.records);
    core.fold_until(&mut producer, warm + args.records)?;
    let folded = Folded {
        ns_per_record: core.spent.saturating_sub(spent).as_nanos() as f64
            / (core.records - records) as f64,
        bytes_per_session: (resident_bytes()? - before) as f64 / args.sessions as f64,
        sessions: core.intake.fold().sessions().len() as u64,
    };
    if core.intake.records_malformed() > 0 {
        bail!("the bench's records are not those of this weir");
    }
    println!("{}", serde_json::to_string(&folded)?);
    Ok(())
}

/// What the daemon's core does with its bulk ring, and nothing else.
struct Core {
    ring: RingBuf<MapData>,
    intake: Intake,
    batch: Batch,
    /// Records that are a sweep's.
    sweep_records: u64,
    step_ns: u64,
    records: u64,
    swept: u64,
    spent: Duration,
}

impl Core {
    fn new(ring: RingBuf<MapData>, making: Making) -> Result<Self> {
        let mut config = Config::default();
        // Those that have ended stay for a while.
        config.limits.max_sessions = u32::try_from(making.sessions * 5 / 4)?.max(1024);
        let context = Context {
            unix_minus_monotonic_ns: 0,
            tick_hz: 250,
            backend: BackendKind::Exact,
        };
        let settings = Arc::new(intake::settings_of(&config, 1));
        Ok(Self {
            ring,
            intake: Intake::new(Limits::from(&config.limits), settings, context)?,
            batch: Batch::new(),
            sweep_records: (SWEEP_NS / making.step_ns).max(1),
            step_ns: making.step_ns,
            records: 0,
            swept: 0,
            spent: Duration::ZERO,
        })
    }

    /// Lets records be made and folds them, until so many were.
    fn fold_until(&mut self, producer: &mut Producer, records: u64) -> Result<()> {
        /// More than the ring holds.
        const RUN: u32 = 100_000;
        while self.records < records {
            let left = u32::try_from(records - self.records).unwrap_or(RUN);
            let made = producer.produce(left.min(RUN))?;
            if made == self.records {
                bail!("the kernel made no records");
            }
            let begin = thread_time()?;
            self.drain();
            self.spent += thread_time()?.saturating_sub(begin);
            if self.records != made {
                bail!("{made} records were made and {} found", self.records);
            }
        }
        Ok(())
    }

    fn drain(&mut self) {
        loop {
            let until_sweep = self.swept + self.sweep_records - self.records;
            let max = usize::try_from(until_sweep).map_or(BATCH, |left| left.min(BATCH));
            let intake = &mut self.intake;
            let batch = &mut self.batch;
            let taken = kernel::drain(&mut self.ring, max, &mut |record| {
                if batch.push(record) {
                    fold(intake, batch);
                }
            });
            fold(intake, batch);
            self.records += taken as u64;
            if self.records == self.swept + self.sweep_records {
                self.swept = self.records;
                let now_ns = BEGIN_NS + self.records * self.step_ns;
                self.intake.take(&Said::Now { now_ns });
            }
            if taken < max {
                return;
            }
        }
    }
}

fn fold(intake: &mut Intake, batch: &mut Batch) {
    for (at, record) in batch.iter().enumerate() {
        intake.foresee(batch, at);
        let ring = Ring::Bulk;
        intake.take(&Said::Record { ring, record });
    }
    batch.clear();
}

fn resident_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("reading this process's size")?;
    crate::machine::kilobytes(&status, "RssAnon:").map(|kb| kb * 1024)
}

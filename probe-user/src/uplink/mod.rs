//! The way to the collector: what matters most goes first, and never waits for the rest.
//!
//! The core hands over and never waits. [`hot`] carries what must be known at once and a vital frame
//! of fixed size, [`warm`] every cell with its distributions, [`cold`] each delivery. Each has a queue,
//! a budget and a connection ([`link`]) of its own; the hot lane has a thread of its own, too. Of what
//! is cumulative the newest wins, of events and deliveries the oldest go first, and what is dropped is
//! counted. Such a frame holds everything, so the first one after a reconnect repairs all that was
//! missed; events and deliveries are sent again until they are acknowledged.

mod budget;
mod cold;
mod drill;
mod hot;
mod lane;
mod link;
mod privacy;
mod queue;
pub mod ring;
#[cfg(test)]
mod tests;
mod vital;
mod warm;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use weir_proto::v1;

pub use lane::UplinkCounts;
pub use privacy::Private;
pub use queue::{Counts, Queue};
pub(crate) use vital::frame as vital_frame;
pub use vital::{VITAL_FRAME_BYTES, VITAL_VALUES};
pub use warm::Encoded;

use crate::qoe::{CellSnapshot, Event};
use crate::query::steering::ToCentre;
use crate::query::{Followed, Query};
use crate::tls::Connector;
use crate::wire::central;
use cold::Cold;
use hot::Hot;
use lane::{Common, Pressure};
use link::Link;
use ring::{Found, Ring};
use warm::Warm;

/// Events that wait for a connection; beyond, the oldest are dropped.
pub const EVENTS_KEPT: usize = 1024;
/// Deliveries likewise: some megabytes.
pub const DELIVERIES_KEPT: usize = 8192;
/// At the end of either side, the other has so long to take what is on its way to it.
pub const FAREWELL: Duration = Duration::from_secs(2);
/// Of what a collector says.
const MAX_ANSWER_BYTES: usize = 256 << 10;

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
    /// Of the gate: an entry of its journal, and when it was made.
    Steer(u64, Arc<v1::SteerEvent>),
}

/// All that the daemon knows at one moment.
#[derive(Clone, Debug)]
pub struct Tick {
    /// From 1.
    pub seq: u64,
    /// That moment.
    pub unix_ns: u64,
    /// The same by the clock that never steps.
    pub made: Instant,
    /// Since the tick before.
    pub interval_ms: u32,
    /// Which configuration was in force.
    pub config_generation: u64,
    /// Cumulative.
    pub losses: v1::Losses,
    /// Cumulative.
    pub cells: Vec<CellSnapshot>,
    /// The same as frames have them, once somebody needs them.
    pub encoded: Encoded,
    /// Why nothing is measured; empty: it is.
    pub off: String,
    /// None: no limit.
    pub budget: Option<v1::BudgetStatus>,
}

/// Where to, as whom, and how much.
#[derive(Debug)]
pub struct Options {
    /// The collector.
    pub collector: Connector,
    /// The first message of each connection.
    pub hello: v1::Hello,
    /// Clients' names in what is sent.
    pub private: Private,
    /// What the lanes may send.
    pub budgets: Budgets,
    /// The last minutes on disk; none: they are not kept.
    pub ring: Option<ring::Options>,
    /// Who answers closer looks; none: nobody.
    pub core: Option<mpsc::Sender<Query>>,
}

/// Bytes per second, on average over seconds.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Of events; vital frames are always sent.
    pub hot: u32,
    /// Of cells with distributions.
    pub warm: u32,
    /// Of deliveries.
    pub cold: u32,
}

/// What the core hands over.
#[derive(Debug)]
pub struct Inputs {
    /// The newest tick.
    pub ticks: watch::Receiver<Option<Arc<Tick>>>,
    /// What must be known at once.
    pub events: Arc<Queue<HotEvent>>,
    /// Finished deliveries; none: they are not sent.
    pub deliveries: Option<Arc<Queue<Box<Followed>>>>,
    /// The way from the centre to the gate, and back; none: nothing is taken from the centre.
    pub centre: Option<Centre>,
    /// The core has made its last tick.
    pub finish: CancellationToken,
}

/// The way from the centre to the gate, and back.
#[derive(Debug)]
pub struct Centre {
    /// What the centre wants.
    pub commands: mpsc::Sender<Commanded>,
    /// How the gate stands.
    pub gate: watch::Receiver<Option<v1::GateWord>>,
}

/// What the centre wants, and the way back to it.
#[derive(Debug)]
pub struct Commanded {
    /// As it came.
    pub command: v1::Command,
    answers: Arc<Queue<v1::edge_message::Message>>,
}

impl Commanded {
    /// Answers it.
    pub fn answer(&self, answer: &ToCentre) {
        let result = central::answer(&self.command, answer, hot::unix_ns_of(Instant::now()));
        let result = v1::edge_message::Message::CommandResult(result);
        self.answers.push(result);
    }
}

/// Keeps connections to the collector until the core is finished and its last tick delivered. When
/// it is dropped, all ends at once.
///
/// # Errors
/// If there is no thread to be had.
pub async fn run(
    options: Options,
    inputs: Inputs,
    counts: Arc<UplinkCounts>,
) -> anyhow::Result<()> {
    let Options {
        collector,
        hello,
        private,
        budgets,
        ring,
        core,
    } = options;
    let Inputs {
        ticks,
        events,
        deliveries,
        centre,
        finish,
    } = inputs;
    let (commands, gate) = centre.map(|own| (own.commands, own.gate)).unzip();
    counts.set_collector(&collector.uri().to_string());
    let common = Common {
        hello,
        counts,
        pressure: Arc::new(Pressure::default()),
    };
    let directory = ring.as_ref().and_then(|ring| ring.directory.clone());
    let (ring, found) = match ring {
        Some(options) => open_ring(options, &common).await?,
        None => (None, Found::default()),
    };
    let kept = keep_ring(ring, ticks.clone(), common.clone(), finish.clone());
    let unknown = Arc::new(Notify::new());
    let host = common.hello.host.clone();
    let recovery = ring::recovery::run(found, host, collector.clone(), unknown.clone());
    let recovery = finish.clone().run_until_cancelled_owned(recovery);
    let (ends, drills) = drill::new(core, directory, commands, common.clone(), private.clone());
    let drills = drills.run(&collector, finish.clone());
    let hot = Hot::new(
        common.clone(),
        ticks.clone(),
        events,
        gate,
        private.clone(),
        ends,
    );
    let hot = Link::new(
        hot,
        common.clone(),
        &collector,
        Some(budgets.hot),
        finish.clone(),
    );
    let hot = on_its_own(hot.keep())?;
    let warm = Warm::new(common.clone(), ticks, unknown);
    let warm = Link::new(
        warm,
        common.clone(),
        &collector,
        Some(budgets.warm),
        finish.clone(),
    );
    let cold = async {
        if let Some(deliveries) = deliveries {
            let cold = Cold::new(common.clone(), deliveries, private);
            let link = Link::new(cold, common, &collector, Some(budgets.cold), finish);
            link.keep().await;
        }
    };
    tokio::join!(hot, warm.keep(), cold, kept, recovery, drills);
    Ok(())
}

type OpenRing = (Option<(Ring, Duration)>, Found);

/// Without a disk for it, all else goes on.
async fn open_ring(options: ring::Options, common: &Common) -> anyhow::Result<OpenRing> {
    let ring::Options {
        open,
        max_bytes,
        every,
        ..
    } = options;
    let hello = common.hello.clone();
    let opened = tokio::task::spawn_blocking(move || Ring::open(open()?, hello, max_bytes));
    match opened.await.context("opening the ring failed")? {
        Ok((ring, found)) => {
            if found.damaged > 0 {
                let places = found.damaged;
                tracing::warn!(places, "the ring was damaged; what was whole was read");
            }
            Ok((Some((ring, every)), found))
        }
        Err(err) => {
            tracing::error!("the last minutes are not kept on disk: {err}");
            common.counts.set_ring(v1::RingStatus {
                error: err.to_string(),
                ..v1::RingStatus::default()
            });
            Ok((None, Found::default()))
        }
    }
}

async fn keep_ring(
    ring: Option<(Ring, Duration)>,
    ticks: watch::Receiver<Option<Arc<Tick>>>,
    common: Common,
    finish: CancellationToken,
) {
    if let Some((ring, every)) = ring {
        ring::keep(ring, every, ticks, common, finish).await;
    }
}

/// Runs a lane on a thread of its own, so that no other lane's work comes before it. Ends with what is
/// returned.
fn on_its_own(
    lane: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<impl Future<Output = ()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the hot lane")?;
    let (ended_to, ended) = oneshot::channel();
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    std::thread::Builder::new()
        .name("weir-hot".to_owned())
        .spawn(move || {
            runtime.block_on(stop.run_until_cancelled(lane));
            // Fails only if nobody waits any more.
            let _ = ended_to.send(());
        })
        .context("cannot start the hot lane's thread")?;
    Ok(async move {
        let _guard = guard;
        if ended.await.is_err() {
            tracing::error!("the hot lane's thread failed; the collector hears of nothing at once");
        }
    })
}

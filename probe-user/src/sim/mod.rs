//! `weir fleet-sim`: a whole fleet in one process, for sizing collectors and for testing them.
//!
//! Every edge speaks the real wire over connections of its own, one for each lane, with TLS where
//! that is asked for; what it measured is [made up](made_up) or [played](play) from recordings, and
//! failures are dealt out from a seed. What a collector must know in the end is known here, so that
//! its totals can be held to it.

mod collectors;
mod edge;
mod load;
mod made_up;
mod play;
mod report;
mod totals;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use histogram::AtomicHistogram;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

use crate::tls::{Connector, Files};
pub use collectors::{Collectors, Start};
use edge::Edge;
pub use play::{Playing, Recording};
pub use report::{COLUMNS, Report};
pub use totals::Totals;

/// Edges that connect at the same time.
const CONNECTING: usize = 64;
/// At the end, edges have so long until all they said is acknowledged.
const FINISH: Duration = Duration::from_secs(30);

/// What to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// Edges; they are spread over the collectors.
    pub edges: u32,
    /// Cells of each, if they are made up.
    pub cells: u32,
    /// Of these, those that change in a tick.
    pub busy_cells: u32,
    /// What is played; none: what edges say is made up.
    pub playing: Option<Playing>,
    /// Time from one tick to the next.
    pub interval: Duration,
    /// How long the load is measured, after all are connected.
    pub duration: Duration,
    /// What the edges are called, before their number.
    pub prefix: String,
    /// Who they are; none: plain text.
    pub files: Option<Files>,
    /// Edges killed in each minute, each of which comes back with a new boot.
    pub kills_per_min: u32,
    /// Edges cut off in each minute, for a few seconds.
    pub partitions_per_min: u32,
    /// Edges whose clock is off.
    pub clocks_off: u32,
    /// What all of it is dealt out from.
    pub seed: u64,
}

impl Options {
    /// Cells that an edge has; of recordings, most cells.
    fn cells_of_an_edge(&self) -> u32 {
        let Some(playing) = &self.playing else {
            return self.cells;
        };
        let each = playing.recordings.iter().map(Recording::cells);
        each.max().unwrap_or(0)
    }

    /// Descriptors that an edge takes: a socket for each lane, and what it plays.
    fn descriptors_of_an_edge(&self) -> u64 {
        if self.playing.is_some() { 3 } else { 2 }
    }
}

/// What the edges count together.
#[derive(Debug)]
pub(crate) struct Counts {
    /// From the sending of a frame to its acknowledgement, in microseconds, while it is measured.
    pub(crate) delays: AtomicHistogram,
    pub(crate) is_measured: std::sync::atomic::AtomicBool,
    pub(crate) connected: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    /// Ticks that were superseded before they could be sent.
    pub(crate) shed: AtomicU64,
    pub(crate) connections_lost: AtomicU64,
    pub(crate) kills: AtomicU64,
    pub(crate) partitions: AtomicU64,
}

impl Counts {
    fn new() -> Result<Self> {
        Ok(Self {
            // Up to two minutes, 3 % exact.
            delays: AtomicHistogram::new(5, 27).context("no such histogram")?,
            is_measured: false.into(),
            connected: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            connections_lost: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            partitions: AtomicU64::new(0),
        })
    }
}

/// Plays the fleet against the collectors, and says what that was like.
pub async fn run(
    options: &Options,
    collectors: &Collectors,
    stop: CancellationToken,
) -> Result<Report> {
    allow_descriptors(u64::from(options.edges) * options.descriptors_of_an_edge() + 256)?;
    let counts = Arc::new(Counts::new()?);
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let finish = CancellationToken::new();
    let mut edges = JoinSet::new();
    let urls = collectors.urls();
    for n in 0..options.edges {
        let uri: Uri = urls[n as usize % urls.len()]
            .parse()
            .with_context(|| format!("{:?} is no address", urls[n as usize % urls.len()]))?;
        let connector = Connector::new(uri, options.files.clone());
        let (options, counts) = (options.clone(), Arc::clone(&counts));
        let (connecting, finish) = (Arc::clone(&connecting), finish.clone());
        edges.spawn(async move {
            let edge = Edge::begin(n, &options, connector, counts, connecting);
            edge.await?.run(finish).await
        });
    }
    let began = wait_for_all(options, &counts, &mut edges, &stop).await;
    let measured = match began {
        Ok(()) => measure(options, &counts, collectors, &stop).await,
        Err(err) => Err(err),
    };
    let mut report = match measured {
        Ok(report) => report,
        Err(err) => {
            finish.cancel();
            edges.shutdown().await;
            return Err(err);
        }
    };
    finish.cancel();
    let mut truth = Totals::default();
    let mut unfinished = Vec::new();
    let all = async {
        while let Some(ended) = edges.join_next().await {
            match ended.context("an edge has failed").and_then(|ended| ended) {
                Ok(totals) => truth.add(&totals),
                Err(why) => unfinished.push(format!("{why:#}")),
            }
        }
    };
    if tokio::time::timeout(FINISH, all).await.is_err() {
        let why = format!("the last word was not acknowledged within {FINISH:?}");
        unfinished.extend(std::iter::repeat_n(why, edges.len()));
        edges.shutdown().await;
    }
    report.unfinished = u32::try_from(unfinished.len()).unwrap_or(u32::MAX);
    report.unfinished_why = unfinished.pop();
    report.sent = truth;
    // Of an edge that did not finish it is not known what the centre should know.
    if report.unfinished == 0 {
        report.exact = collectors.hold_to(&truth, options.files.clone()).await?;
    }
    Ok(report)
}

/// Until every edge is connected once.
async fn wait_for_all(
    options: &Options,
    counts: &Counts,
    edges: &mut JoinSet<Result<Totals>>,
    stop: &CancellationToken,
) -> Result<()> {
    loop {
        if counts.connected.load(Ordering::Relaxed) >= u64::from(options.edges) * 2 {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            Some(ended) = edges.join_next() => {
                let ended = ended.context("an edge has failed")?;
                ended.context("an edge has ended before all were connected")?;
            }
            () = stop.cancelled() => bail!("ended before all edges were connected"),
        }
    }
}

async fn measure(
    options: &Options,
    counts: &Counts,
    collectors: &Collectors,
    stop: &CancellationToken,
) -> Result<Report> {
    // What was connected together comes into step.
    tokio::time::sleep(options.interval * 2).await;
    let before = collectors.look(options.files.clone()).await?;
    counts.is_measured.store(true, Ordering::Relaxed);
    let frames_before = counts.frames.load(Ordering::Relaxed);
    tokio::select! {
        () = tokio::time::sleep(options.duration) => {}
        () = stop.cancelled() => {}
    }
    let after = collectors.look(options.files.clone()).await?;
    counts.is_measured.store(false, Ordering::Relaxed);
    let frames = counts.frames.load(Ordering::Relaxed) - frames_before;
    Ok(Report::new(options, counts, frames, &before, &after))
}

/// So many as all edges take.
fn allow_descriptors(wanted: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read a limit")?;
    if soft >= wanted {
        return Ok(());
    }
    if hard < wanted {
        bail!(
            "{wanted} descriptors are needed and {hard} allowed: play fewer edges, or raise the \
             limit (ulimit -Hn)"
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).context("cannot raise a limit")
}

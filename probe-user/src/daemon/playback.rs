//! A recording in a daemon's place: whoever asks gets what the daemon would have answered then.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use weir_proto::v1;

use super::QUERIES_WAITING;
use super::desk::{Desk, Followers, Identity};
use super::labelling::Labelling;
use crate::config::Config;
use crate::intake::Intake;
use crate::query::Query;
use crate::query::access::{Access, Socket};
use crate::query::server::{QueryCounts, Service};
use crate::recording::Said;
use crate::recording::chain::{Chain, Piece};
use crate::recording::entry;
use crate::replay::{Options, Pace, gap};
use crate::wire;

/// Whoever asks while nothing is due waits no longer than this.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Plays a recording and answers at `socket`, also after its end, until `stop`. `ready` is called
/// when all is up.
pub async fn play(
    chain: Chain,
    options: Options,
    socket: &Path,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let mut config = Config::default();
    config.query.socket = socket.to_owned();
    let access = Access::new(&config.query)?;
    let (held, listener) = Socket::take(socket, &access)?;
    let counts = Arc::new(QueryCounts::default());
    let (queries_to, queries) = mpsc::channel(QUERIES_WAITING);
    let (_error_to, config_error) = watch::channel(String::new());
    let followers = Followers::new(config.limits.follower_lag as usize);
    let header = chain.header();
    let desk = Desk {
        intake: Intake::at_beginning_of(header)?,
        config_error,
        budget: None,
        off: String::new(),
        identity: Arc::new(identity(header)),
        probes: header.probes.iter().map(wire::recorded_probe).collect(),
        query_counts: counts.clone(),
        uplink_counts: Arc::default(),
        followers,
        events: None,
        alarmed: Arc::default(),
        deliveries: None,
        own_recording: None,
        labelling: Labelling::new(&config.labels, None, None),
        learned: None,
    };
    let stage = Stage {
        pace: Pace::new(header, options),
        until_ns: options.until_ns(header),
        now_ns: header.begin_monotonic_ns,
        known: header.records_before,
        desk,
        queries,
        stop: stop.clone(),
    };
    let (ended_to, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("weir-playback".to_owned())
        .spawn(move || {
            // Fails only if nobody waits any more.
            let _ = ended_to.send(stage.play(chain));
        })
        .context("cannot start the playback's thread")?;
    let (_access_to, access) = watch::channel(Arc::new(access));
    let service = Service {
        core: queries_to,
        followers: Arc::new(Semaphore::new(config.limits.followers as usize)),
        orders: None,
        counts,
        stop: stop.clone(),
    };
    let served = tokio::spawn(service.serve(listener, access));
    ready();
    let ended = ended.await.context("the playback's thread failed");
    stop.cancel();
    // Its clients are this process's own view, or see the connection close.
    served.abort();
    drop(held);
    ended?
}

fn identity(header: &v1::RecordingHeader) -> Identity {
    Identity {
        host: header.host.clone(),
        boot_id: header.boot_id.clone(),
        started_unix_ns: header.started_unix_ns,
        kernel_release: header.kernel_release.clone(),
        cpus: header.cpus,
        config_path: String::new(),
    }
}

struct Stage {
    pace: Pace,
    until_ns: u64,
    now_ns: u64,
    /// Records said so far.
    known: u64,
    desk: Desk,
    queries: mpsc::Receiver<Query>,
    stop: CancellationToken,
}

impl Stage {
    fn play(mut self, mut chain: Chain) -> anyhow::Result<()> {
        let mut over = false;
        while !over && let Some(piece) = chain.next_piece()? {
            match piece {
                Piece::Block(block) => {
                    entry::read(&block, |said| over |= over || !self.take(&said))
                        .with_context(|| format!("cannot read {}", chain.path().display()))?;
                }
                Piece::Part(header) => {
                    let settings = self.desk.intake.settings();
                    for said in gap(&header, self.known, settings).into_iter().flatten() {
                        self.take(&said);
                    }
                }
            }
            self.answer();
        }
        // What is known at its end can still be asked.
        while !self.stop.is_cancelled() {
            self.answer();
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Whether it goes on.
    fn take(&mut self, said: &Said<'_>) -> bool {
        if let Some(now_ns) = said.now_ns() {
            if now_ns > self.until_ns {
                return false;
            }
            if let Some(due) = self.pace.due(now_ns) {
                self.answer_until(due);
            }
            self.now_ns = self.now_ns.max(now_ns);
        }
        match said {
            Said::Record { .. } => self.known += 1,
            Said::Missing { records, .. } => self.known = self.known.saturating_add(*records),
            _ => {}
        }
        self.desk.take(said);
        !self.stop.is_cancelled()
    }

    fn answer_until(&mut self, due: Instant) {
        loop {
            self.answer();
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.is_cancelled() {
                return;
            }
            std::thread::sleep(left.min(LOOK_INTERVAL));
        }
    }

    fn answer(&mut self) {
        while let Ok(query) = self.queries.try_recv() {
            self.desk.answer(query, self.now_ns);
        }
    }
}

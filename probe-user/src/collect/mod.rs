//! The central side, `weir collect`: takes the frames of many hosts, sums them exactly, and
//! answers questions about the sum.
//!
//! Everything is in memory. Alone, a collector knows the hosts that have spoken since its start; an
//! edge's first frame after its restart repairs its numbers. With an engine behind it, it knows all
//! that any collector was told, and rebuilds that at its start.

pub mod decode;
mod door;
mod drills;
mod engine;
pub mod fleet;
mod gaps;
mod gather;
mod guests;
mod holding;
mod known;
mod link;
mod local;
mod looks;
mod messages;
mod metrics;
pub mod minutes;
mod partial;
mod partition;
mod peers;
mod receipts;
mod refusals;
pub mod sent;
mod service;
mod shares;
mod sinks;
pub mod steering;
mod waiting;
mod windows;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::utsname::uname;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::Request;
use tonic::transport::Server;
use tower::util::MapRequestLayer;
use weir_proto::v1::fleet_server::FleetServer;
use weir_proto::v1::uplink_server::UplinkServer;

use crate::config::collect::Config;
use crate::tls::Acceptor;
use crate::uplink::FAREWELL;
use drills::Drills;
use engine::{Engine, Nats};
use fleet::Limits;
use gather::Gather;
use holding::Holding;
use local::Local;
use metrics::Gatherer;
use peers::{Peers, Words};
use refusals::Refusals;
use service::{Centre, Collector, Operators, Parts};
use shares::Shares;
use sinks::Sinks;
use steering::Steering;

/// A frame of 256 busy cells takes about a megabyte.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Of one connection: a host needs one, an operator a few.
const MAX_STREAMS: u32 = 16;
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Of a connection, what may have come and not been read.
const WINDOW_BYTES: u32 = 256 << 10;

/// So long at most, hosts and operators wait at the start until what the engine has is taken in.
const REBUILD_PATIENCE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// All that can be set.
    pub config: Config,
}

/// Runs a collector until it is told to end. `ready` hears the address it listens on, which tells
/// the port if `listen` left it open.
pub async fn run(
    options: Options,
    shutdown: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    // Whatever ends this ends all that it began.
    let shutdown = shutdown.child_token();
    let _over = shutdown.clone().drop_guard();
    let config = options.config;
    config.check()?;
    let acceptor = acceptor(&config)?;
    let name = match &config.name {
        Some(name) => name.clone(),
        None => uname()
            .context("cannot read the host's name")?
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let (centre, working) = begin(&config, name.clone(), &shutdown).await?;
    let clock = tokio::spawn(keep_time(Arc::clone(&centre.holding)));
    let sinks = Sinks::new(&config, &name)?;
    let refusals = Arc::new(Refusals::default());
    let operators = acceptor.as_ref().map(|_| Operators::new(&config.operators));
    let drills = Arc::clone(&centre.drills);
    let steering = Steering::open(&config.steer, Arc::clone(&centre.gather), drills);
    let collector = Collector::new(Parts {
        centre,
        sinks,
        operators,
        refusals: Arc::clone(&refusals),
        steering: steering.clone(),
        stop: shutdown.clone(),
    });
    let gatherer = Gatherer::new(collector.clone(), config.metrics.clone());
    let mut helpers = JoinSet::new();
    if let Some(steering) = steering {
        helpers.spawn(steering.run(shutdown.clone()));
    }
    collector
        .sinks()
        .push(&config, &gatherer, &shutdown, &mut helpers)?;
    if let Some(listen) = config.metrics.listen {
        let (address, serve) = metrics::serve(listen, gatherer, shutdown.clone()).await?;
        tracing::info!(%address, "metrics at /metrics");
        helpers.spawn(serve);
    }
    tracing::info!(%address, tls = acceptor.is_some(), "collecting");
    ready(address);
    let shares = Arc::new(Shares::default());
    let connections = door::open(
        listener,
        acceptor,
        Arc::clone(&refusals),
        Arc::clone(&shares),
        shutdown.clone(),
    );
    let bound = move |request| messages::bounded(request, &shares, &refusals);
    let served = serve(connections, collector.clone(), bound, shutdown).await;
    clock.abort();
    // Pushes say once more what was counted last.
    let last = async { while helpers.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, last).await.is_err() {
        helpers.shutdown().await;
    }
    let ended = tokio::task::spawn_blocking(move || collector.sinks().end());
    ended.await.context("a sink has failed")?;
    if let Some(working) = working {
        working.end().await;
    }
    served?;
    tracing::info!("ended");
    Ok(())
}

/// What works behind a collector that is not alone.
struct Working {
    engine: engine::Tasks,
    peers: JoinHandle<()>,
    speaks: JoinHandle<()>,
    stop: DropGuard,
}

impl Working {
    /// Others hear that this one ends; what waits for the engine is handed over.
    async fn end(mut self) {
        drop(self.stop);
        if tokio::time::timeout(FAREWELL, &mut self.peers)
            .await
            .is_err()
        {
            self.peers.abort();
        }
        self.engine.end(FAREWELL).await;
        self.speaks.abort();
    }
}

/// What a collector is made of, with all that its engine has of what it is to hold.
async fn begin(
    config: &Config,
    name: String,
    shutdown: &CancellationToken,
) -> anyhow::Result<(Centre, Option<Working>)> {
    let partitions = config.nats.as_ref().map_or(1, |nats| nats.partitions);
    let holding = Arc::new(Holding::new(
        partitions,
        Limits {
            max_hosts: usize::try_from(config.limits.max_hosts)?,
            max_cells: usize::try_from(config.limits.max_cells)?,
        },
        minutes::Limits {
            keep_s: config.minutes.keep_s,
            max_bytes: config.minutes.max_bytes,
        },
    ));
    let local = |drills: &Arc<Drills>| {
        Arc::new(Local {
            name: name.clone(),
            holding: Arc::clone(&holding),
            drills: Arc::clone(drills),
        })
    };
    let Some(config) = &config.nats else {
        let all = holding.take_up(0, false);
        all.tallied();
        all.caught_up();
        let drills = Arc::<Drills>::default();
        let gather = Arc::new(Gather::new(local(&drills), None));
        let centre = Centre {
            name,
            holding,
            gather,
            drills,
            engine: Engine::Embedded,
        };
        return Ok((centre, None));
    };
    let (nats, tasks) = Nats::start(config, &name, Arc::clone(&holding)).await?;
    let nats = Arc::new(nats);
    let (words, speak) = Words::new(nats.client().clone(), &config.prefix, nats.id());
    let drills = Arc::new(Drills::beside(words.clone()));
    let local = local(&drills);
    let peers = Peers::new(Arc::clone(&nats), words, &name, Arc::clone(&holding));
    let peers = Arc::new(peers);
    // Others are answered until the end.
    let stop = CancellationToken::new();
    let work = Arc::clone(&peers).run(Arc::clone(&local), stop.clone());
    let working = Working {
        engine: tasks,
        peers: tokio::spawn(work),
        speaks: tokio::spawn(speak),
        stop: stop.drop_guard(),
    };
    let is_settled = tokio::select! {
        is_settled = peers.settled(REBUILD_PATIENCE) => is_settled,
        () = shutdown.cancelled() => true,
    };
    if !is_settled {
        tracing::warn!(
            "the engine has not told all within {REBUILD_PATIENCE:?}; collecting all the same, \
             totals grow until it has"
        );
    }
    let centre = Centre {
        name,
        holding,
        gather: Arc::new(Gather::new(local, Some(peers))),
        drills,
        engine: Engine::Nats(nats),
    };
    Ok((centre, Some(working)))
}

/// Closes each second when it is over.
async fn keep_time(holding: Arc<Holding>) {
    loop {
        let now_ns = known::unix_ns();
        holding.advance(now_ns / 1_000_000_000);
        let left_ns = 1_000_000_000 - now_ns % 1_000_000_000;
        tokio::time::sleep(Duration::from_nanos(left_ns)).await;
    }
}

/// How it is known who speaks; none: in plain text it is not.
fn acceptor(config: &Config) -> anyhow::Result<Option<Acceptor>> {
    match config.files() {
        Some(files) => Acceptor::new(files)
            .map(Some)
            .context("cannot listen with TLS (--ca, --cert, --key)"),
        None if config.plain_text => Ok(None),
        None => bail!(
            "how is it known who speaks? Give a certificate (--ca, --cert and --key, or ca_file, \
             cert_file and key_file), or ask for plain text on loopback (--plain-text, or \
             plain_text = true)"
        ),
    }
}

async fn serve(
    connections: door::Connections,
    collector: Collector,
    bound: impl Fn(Request<Body>) -> Request<Body> + Clone + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let uplink = UplinkServer::new(collector.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Zstd);
    let fleet = FleetServer::new(collector).send_compressed(CompressionEncoding::Zstd);
    let serve = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .http2_max_header_list_size(Some(MAX_HEADER_BYTES))
        .initial_stream_window_size(Some(WINDOW_BYTES))
        .initial_connection_window_size(Some(WINDOW_BYTES))
        .layer(MapRequestLayer::new(bound))
        .add_service(uplink)
        .add_service(fleet)
        .serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = serve => served.context("the collector's server failed")?,
        () = late => tracing::debug!("a client kept its connection open; closed"),
    }
    Ok(())
}

//! The central side, `weir collect`: takes the frames of many hosts, sums them exactly, and
//! answers questions about the sum.
//!
//! Everything is in memory and of the hosts that have spoken since the start; an edge's first
//! frame after a collector's restart repairs its numbers.

pub mod decode;
mod door;
pub mod fleet;
pub mod lanes;
mod refusals;
mod service;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::utsname::uname;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use weir_proto::v1::fleet_server::FleetServer;
use weir_proto::v1::uplink_server::UplinkServer;

use crate::tls::{self, Acceptor};
use crate::uplink::FAREWELL;
use fleet::{Fleet, Limits};
use refusals::Refusals;
use service::{Collector, Operators};

/// Where a collector listens if nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7447";
/// Hosts, and cells of all of them together: about a gigabyte if all are busy.
const LIMITS: Limits = Limits {
    max_hosts: 4096,
    max_cells: 262_144,
};
/// A frame of 256 busy cells takes about a megabyte.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Of one connection: a host needs one, an operator a few.
const MAX_STREAMS: u32 = 16;
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How it is known who speaks.
    pub security: Security,
    /// What the collector calls itself; none: the host's name.
    pub name: Option<String>,
}

/// How it is known who speaks.
#[derive(Clone, Debug)]
pub enum Security {
    /// It is not: who can connect may say and ask anything. On loopback only.
    PlainText,
    /// By certificates.
    Tls {
        /// The collector's own, and whom it believes.
        files: tls::Files,
        /// The names in certificates that may ask; a host's own may only report.
        operators: Vec<String>,
    },
}

impl Security {
    fn acceptor(&self, listen: SocketAddr) -> anyhow::Result<Option<Acceptor>> {
        match self {
            Self::PlainText => {
                ensure!(
                    listen.ip().is_loopback(),
                    "listening on {listen} would take and give measurements unencrypted over the \
                     network; give --ca, --cert and --key, or listen on loopback"
                );
                Ok(None)
            }
            Self::Tls { files, .. } => Acceptor::new(files.clone())
                .map(Some)
                .context("cannot listen with TLS (--ca, --cert, --key)"),
        }
    }

    fn operators(&self) -> Operators {
        match self {
            Self::PlainText => Operators::default(),
            Self::Tls { operators, .. } => Operators::new(operators),
        }
    }
}

/// Runs a collector until it is told to end. `ready` hears the address it listens on, which tells
/// the port if `listen` left it open.
pub async fn run(
    options: Options,
    shutdown: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let Options {
        listen,
        security,
        name,
    } = options;
    let acceptor = security.acceptor(listen)?;
    let name = match name {
        Some(name) => name,
        None => uname()
            .context("cannot read the host's name")?
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let refusals = Arc::new(Refusals::default());
    let collector = Collector::new(
        name,
        Fleet::new(LIMITS),
        security.operators(),
        refusals.clone(),
        shutdown.clone(),
    );
    tracing::info!(%address, tls = acceptor.is_some(), "collecting");
    ready(address);
    let uplink = UplinkServer::new(collector.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Zstd);
    let fleet = FleetServer::new(collector).send_compressed(CompressionEncoding::Zstd);
    let serve = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(Some(MAX_STREAMS))
        .http2_max_header_list_size(Some(MAX_HEADER_BYTES))
        .add_service(uplink)
        .add_service(fleet)
        .serve_with_incoming_shutdown(
            door::open(listener, acceptor, refusals, shutdown.clone()),
            shutdown.clone().cancelled_owned(),
        );
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = serve => served.context("the collector's server failed")?,
        () = late => tracing::debug!("a client kept its connection open; closed"),
    }
    tracing::info!("ended");
    Ok(())
}

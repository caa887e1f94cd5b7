//! The central side, `weir collect`: takes the frames of many hosts, sums them exactly, and
//! answers questions about the sum.
//!
//! Everything is in memory and of the hosts that have spoken since the start; an edge's first
//! frame after a collector's restart repairs its numbers.

pub mod decode;
pub mod fleet;
mod service;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::utsname::uname;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use weir_proto::v1::fleet_server::FleetServer;
use weir_proto::v1::uplink_server::UplinkServer;

use crate::uplink::FAREWELL;
use fleet::{Fleet, Limits};
use service::Collector;

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

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether plain text may come from other hosts, and be answered.
    pub insecure: bool,
    /// What the collector calls itself; none: the host's name.
    pub name: Option<String>,
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
        insecure,
        name,
    } = options;
    ensure!(
        insecure || listen.ip().is_loopback(),
        "listening on {listen} would take and give measurements unencrypted over the network; \
         listen on a loopback address and tunnel to it, or pass --insecure if the network is yours"
    );
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
    let collector = Collector::new(name, Fleet::new(LIMITS), shutdown.clone());
    tracing::info!(%address, "collecting");
    ready(address);
    let uplink = UplinkServer::new(collector.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let serve = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(uplink)
        .add_service(FleetServer::new(collector))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
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

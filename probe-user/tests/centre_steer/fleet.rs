//! A collector that takes orders, and hosts that obey it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;
use weir::collect;
use weir::config::collect::{Config as Central, SteerPool};
use weir::config::{Config, SteerRole};
use weir::steer::journal::{Body, read};
use weir::steer::overrides::Verb;
use weir::steer::overrides::roles::Reach;
use weir::tls::{Connector, Files};
use weir_proto::v1;
use weir_proto::v1::fleet_client::FleetClient;

use crate::common::authority::Authority;
use crate::common::gate::TestGate;
use crate::common::{Daemon, config_in, until};

pub(crate) fn order(verb: &str) -> v1::OrderRequest {
    v1::OrderRequest {
        scope: "host".to_owned(),
        verb: verb.to_owned(),
        reason: "a test wants it".to_owned(),
        ..v1::OrderRequest::default()
    }
}

pub(crate) fn weight(permille: u16) -> v1::OrderRequest {
    v1::OrderRequest {
        permille: Some(permille.into()),
        ..order("weight")
    }
}

/// What became of an order at a host.
pub(crate) fn outcome_of(answer: &v1::FleetOrderResponse, host: &str) -> v1::CommandOutcome {
    let own = answer.hosts.iter().find(|own| own.host == host);
    own.unwrap_or_else(|| panic!("nothing of {host}: {answer:?}"))
        .outcome()
}

/// What a journal holds; it must be sound.
pub(crate) fn bodies(file: &Path) -> Vec<Body> {
    let mut bodies = Vec::new();
    let verified = read(file, |entry| bodies.push(entry.body.clone())).unwrap();
    assert!(verified.is_sound(), "{:?}", verified.findings);
    bodies
}

/// May do all, as far as `reach`.
pub(crate) fn role(name: &str, reach: Reach) -> SteerRole {
    SteerRole {
        name: name.to_owned(),
        users: Vec::new(),
        certificates: vec![name.to_owned()],
        verbs: Verb::ALL.to_vec(),
        reach,
        services: Vec::new(),
        max_turned_permille: 1000,
        may_break_glass: false,
    }
}

/// A collector, and certificates for whoever speaks to it.
pub(crate) struct Centre {
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    directory: TempDir,
    config: Central,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn run(
    config: &Central,
) -> (
    SocketAddr,
    CancellationToken,
    JoinHandle<anyhow::Result<()>>,
) {
    let stop = CancellationToken::new();
    let (ready_to, ready) = oneshot::channel();
    let options = collect::Options {
        config: config.clone(),
    };
    let task = tokio::spawn(collect::run(options, stop.clone(), |address| {
        let _ = ready_to.send(address);
    }));
    let Ok(address) = ready.await else {
        panic!("the collector did not start: {:?}", task.await);
    };
    (address, stop, task)
}

impl Centre {
    /// With a region `fra` and a region `ams`; `noc` and `second` may do all, `nearby` at single hosts,
    /// `intruder` may ask and order nothing.
    pub(crate) async fn start(change: impl FnOnce(&mut Central)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let files = authority.issue(&directory.path().join("centre"), &["localhost"]);
        let pool = |region: &str| SteerPool {
            name: format!("{region}-live"),
            region: region.to_owned(),
            hosts: vec![format!("{region}-*")],
            capacity_mbps: Some(10_000),
        };
        let mut config = Central {
            listen: "127.0.0.1:0".parse().unwrap(),
            ca_file: Some(files.ca),
            cert_file: Some(files.cert),
            key_file: Some(files.key),
            name: Some("centre".to_owned()),
            operators: ["noc", "second", "nearby", "intruder"]
                .map(str::to_owned)
                .to_vec(),
            ..Central::default()
        };
        config.steer.journal_file = Some(directory.path().join("steer.journal"));
        // Its word on pools is for those tests that want it.
        config.steer.settle_s = 600;
        config.steer.pools = vec![pool("fra"), pool("ams")];
        config.steer.roles = vec![
            role("noc", Reach::Fleet),
            role("second", Reach::Fleet),
            role("nearby", Reach::Host),
        ];
        change(&mut config);
        let (address, stop, task) = run(&config).await;
        config.listen = address;
        Self {
            authority,
            address,
            directory,
            config,
            stop,
            task,
        }
    }

    /// As if its process were gone, and another began with its journal.
    pub(crate) async fn kill_and_start_again(self) -> Self {
        self.task.abort();
        let _ = self.task.await;
        self.stop.cancel();
        // Its journal is locked until all that held it is gone.
        let file = self.directory.path().join("steer.journal");
        until("the journal to be let go", || async {
            let file = std::fs::File::open(&file).unwrap();
            let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock);
            lock.ok().map(drop)
        })
        .await;
        let (address, stop, task) = run(&self.config).await;
        Self {
            address,
            stop,
            task,
            ..self
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// By a name that its certificate has.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.path().join("steer.journal")
    }

    pub(crate) fn files(&self, name: &str) -> Files {
        self.authority
            .issue(&self.directory.path().join(name), &[name])
    }

    pub(crate) async fn client(&self, name: &str) -> FleetClient<Channel> {
        let connector = Connector::new(self.url().parse().unwrap(), Some(self.files(name)));
        let channel = connector.connect(|endpoint| endpoint).await;
        FleetClient::new(channel.unwrap())
    }

    pub(crate) async fn order(
        &self,
        name: &str,
        request: v1::FleetOrderRequest,
    ) -> Result<v1::FleetOrderResponse, Status> {
        let answer = self.client(name).await.order(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn give(
        &self,
        name: &str,
        at: &str,
        order: v1::OrderRequest,
    ) -> Result<v1::FleetOrderResponse, Status> {
        let request = v1::FleetOrderRequest {
            at: at.to_owned(),
            order: Some(order),
            ..v1::FleetOrderRequest::default()
        };
        self.order(name, request).await
    }

    pub(crate) async fn approve(
        &self,
        name: &str,
        id: &str,
    ) -> Result<v1::FleetOrderResponse, Status> {
        let order = v1::OrderRequest {
            approves: id.to_owned(),
            ..v1::OrderRequest::default()
        };
        self.give(name, "", order).await
    }

    pub(crate) async fn undo(
        &self,
        name: &str,
        id: &str,
    ) -> Result<v1::FleetOrderResponse, Status> {
        let request = v1::FleetOrderRequest {
            undoes: id.to_owned(),
            order: Some(v1::OrderRequest {
                reason: "it is over".to_owned(),
                ..v1::OrderRequest::default()
            }),
            ..v1::FleetOrderRequest::default()
        };
        self.order(name, request).await
    }

    pub(crate) async fn rebalance(
        &self,
        name: &str,
        request: v1::RebalanceRequest,
    ) -> Result<v1::RebalanceResponse, Status> {
        let answer = self.client(name).await.rebalance(request).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn status(&self, name: &str, journal_of: &str) -> v1::FleetSteering {
        let request = v1::GetFleetSteeringRequest {
            journal_of: journal_of.to_owned(),
        };
        let answer = self.client(name).await.get_steering(request).await;
        answer.unwrap().into_inner()
    }

    pub(crate) async fn hosts(&self, name: &str) -> Vec<v1::Host> {
        let mut client = self.client(name).await;
        let answer = client.list_hosts(v1::ListHostsRequest {}).await;
        answer.unwrap().into_inner().hosts
    }

    pub(crate) async fn has(&self, host: &str) {
        until("the host to say how its gate stands", || async {
            let told = self.status("noc", "").await;
            told.hosts.iter().any(|own| own.host == host).then_some(())
        })
        .await;
    }
}

/// A daemon with a gate that is watched.
pub(crate) struct Edge {
    pub(crate) daemon: Daemon,
    pub(crate) gate: TestGate,
}

fn config(directory: &Path, url: &str, host: &str) -> Config {
    let mut config = config_in(directory);
    config.collector.url = Some(url.to_owned());
    config.collector.host = Some(host.to_owned());
    config.collector.interval_ms = 100;
    config.steer.journal_file = Some(directory.join("steer.journal"));
    config.steer.rules.is_armed = true;
    config.steer.roles = vec![role("noc", Reach::Fleet), role("second", Reach::Fleet)];
    config
}

impl Edge {
    /// Until the centre has heard of its gate.
    pub(crate) async fn start(
        centre: &Centre,
        host: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let edge = Self::start_at(&centre.url(), &centre.authority, host, change).await;
        centre.has(host).await;
        edge
    }

    pub(crate) async fn start_at(
        url: &str,
        authority: &Authority,
        host: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::certified(url, authority, directory, host, change).await
    }

    /// Where another one was.
    pub(crate) async fn start_in(
        centre: &Centre,
        directory: TempDir,
        host: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        Self::certified(&centre.url(), &centre.authority, directory, host, change).await
    }

    async fn certified(
        url: &str,
        authority: &Authority,
        directory: TempDir,
        host: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let files = authority.issue(&directory.path().join("tls"), &[host]);
        let mut config = config(directory.path(), url, host);
        config.collector.ca_file = Some(files.ca);
        config.collector.cert_file = Some(files.cert);
        config.collector.key_file = Some(files.key);
        change(&mut config);
        Self::run(directory, config).await
    }

    pub(crate) async fn start_in_plain_text(url: &str, host: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), url, host);
        config.collector.plain_text = true;
        Self::run(directory, config).await
    }

    async fn run(directory: TempDir, config: Config) -> Self {
        let gate = TestGate::default();
        let daemon = Daemon::start_with(directory, config, None, gate.make()).await;
        Self { daemon, gate }
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.daemon.directory().join("steer.journal")
    }

    pub(crate) async fn until_weight(&self, permille: u16) {
        until(&format!("a weight of {permille}"), || async {
            (self.gate.weight() == permille).then_some(())
        })
        .await;
    }

    /// Ends it, and gives its directory for another one.
    pub(crate) async fn leave(self) -> TempDir {
        self.daemon.leave().await
    }

    pub(crate) async fn stop(self) {
        self.daemon.stop().await.unwrap();
    }
}

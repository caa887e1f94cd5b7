//! Mutual TLS: who is believed, as whom, and that files change without a restart.

mod common;

use std::net::SocketAddr;

use common::authority::Authority;
use common::{Daemon, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use weir::collect;
use weir::config::collect::Config;
use weir::tls::{Connector, Files, names};
use weir_proto::v1;
use weir_proto::v1::fleet_client::FleetClient;

struct Collector {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Collector {
    async fn start(files: Files) -> Self {
        Self::start_telling(files, None).await
    }

    async fn start_telling(files: Files, metrics: Option<SocketAddr>) -> Self {
        let stop = CancellationToken::new();
        let (ready_to, ready) = oneshot::channel();
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            ca_file: Some(files.ca),
            cert_file: Some(files.cert),
            key_file: Some(files.key),
            operators: vec!["alice".into()],
            ..Config::default()
        };
        config.metrics.listen = metrics;
        let options = collect::Options { config };
        let task = tokio::spawn(collect::run(options, stop.clone(), |address| {
            ready_to.send(address).unwrap();
        }));
        let address = ready.await.unwrap();
        Self {
            address,
            stop,
            task,
        }
    }

    /// By a name that its certificate has.
    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    async fn fleet(&self, files: &Files) -> Result<FleetClient<Channel>, String> {
        let connector = Connector::new(self.url().parse().unwrap(), Some(files.clone()));
        let channel = connector.connect(|endpoint| endpoint).await;
        channel.map(FleetClient::new).map_err(|err| err.to_string())
    }

    async fn hosts(&self, alice: &Files) -> v1::ListHostsResponse {
        let mut fleet = self.fleet(alice).await.unwrap();
        let hosts = fleet.list_hosts(v1::ListHostsRequest {}).await;
        hosts.unwrap().into_inner()
    }

    async fn refused(&self, alice: &Files, reason: &str) -> u64 {
        let refusals = self.hosts(alice).await.refusals;
        let of = refusals.iter().find(|refusals| refusals.reason == reason);
        of.map_or(0, |refusals| refusals.count)
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn edge(url: String, host: &str, files: Files) -> Daemon {
    Daemon::start(|config| {
        config.collector.url = Some(url);
        config.collector.host = Some(host.into());
        config.collector.interval_ms = 100;
        config.collector.ca_file = Some(files.ca);
        config.collector.cert_file = Some(files.cert);
        config.collector.key_file = Some(files.key);
    })
    .await
}

async fn connected(daemon: &Daemon) {
    until("the edge to be connected", || async {
        let uplink = daemon.status().await.uplink?;
        (uplink.connected && uplink.acked_seq > 0).then_some(())
    })
    .await;
}

async fn refusal(daemon: &Daemon, what: &str) -> String {
    until("the edge to be refused", || async {
        let uplink = daemon.status().await.uplink?;
        uplink
            .last_error
            .contains(what)
            .then_some(uplink.last_error)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_may_speak_as_its_certificate_says_and_only_operators_may_ask() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = |name: &str| authority.issue(&directory.path().join(name), &[name]);
    let collector = Collector::start(files("localhost")).await;
    let alice = files("alice");

    let daemon = edge(collector.url(), "Edge-1", files("edge-1")).await;
    connected(&daemon).await;
    assert_eq!(collector.hosts(&alice).await.hosts[0].host, "Edge-1");

    // Another host's name.
    let liar = edge(collector.url(), "edge-1", files("edge-2")).await;
    let said = refusal(&liar, "not for the host edge-1").await;
    assert!(said.contains("edge-2"), "{said}");
    assert!(collector.refused(&alice, "identity").await > 0);
    assert_eq!(collector.hosts(&alice).await.hosts[0].boots, 1);

    // A host is no operator.
    let mut fleet = collector.fleet(&files("edge-1")).await.unwrap();
    let status = fleet.list_hosts(v1::ListHostsRequest {}).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(status.message().contains("edge-1"), "{status}");
    assert_eq!(collector.refused(&alice, "operator").await, 1);

    liar.stop().await.unwrap();
    daemon.stop().await.unwrap();
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_plain_text_are_refused_by_either_side() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let path = |name: &str| directory.path().join(name);
    let port = weir_tests::lab::nats::free_port().unwrap();
    let files = authority.issue(&path("c"), &["localhost"]);
    let metrics = Some(([127, 0, 0, 1], port).into());
    let collector = Collector::start_telling(files, metrics).await;
    let alice = authority.issue(&path("alice"), &["alice"]);

    // Of another authority's, with this one's believed.
    let mut stranger = other.issue(&path("stranger"), &["alice"]);
    stranger.ca.clone_from(&alice.ca);
    let refused = match collector.fleet(&stranger).await {
        Err(why) => why,
        // TLS 1.3: the client learns of it with its first bytes.
        Ok(mut fleet) => fleet
            .list_hosts(v1::ListHostsRequest {})
            .await
            .unwrap_err()
            .to_string(),
    };
    assert!(!refused.is_empty());
    until("the stranger to be counted", || async {
        (collector.refused(&alice, "certificate").await > 0).then_some(())
    })
    .await;
    assert_eq!(collector.refused(&alice, "handshake").await, 0);

    // Plain HTTP/2.
    let mut stream = TcpStream::connect(collector.address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // Closed, or reset.
    let _ = stream.read_to_end(&mut answer).await;
    until("it to be counted", || async {
        (collector.refused(&alice, "handshake").await > 0).then_some(())
    })
    .await;

    // Its daemon says what is wrong, in words, and so does one that believes another authority.
    let daemon = edge(collector.url(), "alice", stranger.clone()).await;
    let said = refusal(&daemon, "another authority").await;
    assert!(said.contains("this side's certificate"), "{said}");
    daemon.stop().await.unwrap();
    let mut astray = stranger;
    astray.ca = other.issue(&path("astray"), &["alice"]).ca;
    let daemon = edge(collector.url(), "alice", astray).await;
    let said = refusal(&daemon, "another authority").await;
    assert!(said.contains("other side's certificate"), "{said}");
    daemon.stop().await.unwrap();
    let told = common::centre::scrape(port).await;
    let of = |reason: &str| {
        let name = format!("weir_collector_connections_refused_total{{reason=\"{reason}\"}} ");
        let mut values = told.lines().filter_map(|line| line.strip_prefix(&*name));
        values.next().map(|value| value.parse::<f64>().unwrap())
    };
    assert!(of("certificate").unwrap() >= 2.0, "{told}");
    // There from the beginning.
    assert_eq!(of("full"), Some(0.0), "{told}");

    // The collector's name is believed only if its certificate has it.
    let url = format!("https://127.0.0.1:{}", collector.address.port());
    let daemon = edge(url, "e", authority.issue(&path("e"), &["e"])).await;
    refusal(&daemon, "certificate").await;
    daemon.stop().await.unwrap();
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_are_taken_up_by_both_sides_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let path = |name: &str| directory.path().join(name);
    let collector = Collector::start(old.issue(&path("c"), &["localhost"])).await;
    let daemon = edge(collector.url(), "e", old.issue(&path("e"), &["e"])).await;
    connected(&daemon).await;

    // Everything is issued anew, by another authority.
    new.issue(&path("c"), &["localhost"]);
    let alice = new.issue(&path("alice"), &["alice"]);
    until("the collector to believe the new authority", || async {
        let mut fleet = collector.fleet(&alice).await.ok()?;
        fleet.list_hosts(v1::ListHostsRequest {}).await.ok()
    })
    .await;
    new.issue(&path("e"), &["e"]);
    until(
        "the edge to have connected with the new certificate",
        || async {
            let host = collector.hosts(&alice).await.hosts.pop()?;
            let uplink = daemon.status().await.uplink?;
            // It is no failure, and nothing is waited for.
            assert_eq!(uplink.last_error, "");
            (host.connected && uplink.connected && uplink.reconnects > 0).then_some(())
        },
    )
    .await;

    // What cannot be used changes nothing.
    std::fs::write(path("c").join("cert.pem"), "half of a certif").unwrap();
    let another = edge(collector.url(), "e2", new.issue(&path("e2"), &["e2"])).await;
    connected(&another).await;
    another.stop().await.unwrap();
    daemon.stop().await.unwrap();
    collector.stop().await;
}

#[test]
fn a_certificate_is_known_by_its_names_and_a_wildcard_names_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let given = ["Edge-1", "*.example.net", "10.0.0.1"];
    let files = Authority::new().issue(directory.path(), &given);
    let certificate = CertificateDer::from_pem_file(files.cert).unwrap();
    assert_eq!(names(&certificate), ["edge-1"]);
}

#[test]
fn what_is_wrong_with_the_files_is_said_with_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let one = authority.issue(&directory.path().join("one"), &["one"]);
    let two = authority.issue(&directory.path().join("two"), &["two"]);
    assert!(one.server().is_ok() && one.client().is_ok());

    let wrong = |files: &Files, expected: &str| {
        let said = files.server().unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    };
    let absent = Files {
        ca: "/nowhere/ca.pem".into(),
        ..one.clone()
    };
    wrong(&absent, "/nowhere/ca.pem");
    let mixed = Files {
        key: two.key.clone(),
        ..one.clone()
    };
    wrong(&mixed, "two/key.pem");
    let no_key = Files {
        key: one.cert.clone(),
        ..one.clone()
    };
    wrong(&no_key, "holds no private key");
    std::fs::write(&one.cert, "nothing").unwrap();
    wrong(&one, "holds no certificate");
}

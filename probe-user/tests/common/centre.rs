//! A collector in this process, and what an edge might send to it, said by hand.

use std::net::SocketAddr;
use std::path::PathBuf;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use weir::collect;
use weir::config::collect::{Config, Nats};
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::fleet_client::FleetClient;
use weir_proto::v1::uplink_client::UplinkClient;
use weir_tests::lab;

/// A NATS server behind a collector, with streams so small that the server has room for them whatever
/// the disk.
pub fn engine(nats: &lab::nats::Nats) -> Nats {
    Nats {
        max_bytes: 256 << 20,
        boots_max_bytes: 64 << 20,
        cold_max_bytes: 64 << 20,
        ..Nats::at(vec![nats.url()])
    }
}

#[derive(Debug)]
pub struct Collector {
    pub address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Collector {
    /// On a free port, with defaults, as `change` changes them.
    pub async fn start(name: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            plain_text: true,
            listen: "127.0.0.1:0".parse().unwrap(),
            name: Some(name.to_owned()),
            ..Config::default()
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let (ready_to, ready) = oneshot::channel();
        let options = collect::Options { config };
        let task = tokio::spawn(collect::run(options, stop.clone(), |address| {
            let _ = ready_to.send(address);
        }));
        let Ok(address) = ready.await else {
            panic!("the collector did not start: {:?}", task.await);
        };
        Self {
            address,
            stop,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As if its process were gone: nothing is finished.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub async fn client(&self) -> FleetClient<Channel> {
        FleetClient::connect(self.url()).await.unwrap()
    }

    pub async fn cells(&self) -> Vec<v1::Cell> {
        self.all().await.0
    }

    /// All cells, and what is missing in them.
    pub async fn all(&self) -> (Vec<v1::Cell>, Vec<v1::Missing>) {
        let request = v1::ListCellsRequest {
            filter: None,
            histograms: true,
        };
        let answer = self.client().await.list_cells(request).await;
        let v1::ListCellsResponse {
            mut cells, missing, ..
        } = answer.unwrap().into_inner();
        cells.sort_by_key(|cell| cell.key.as_ref().map(|key| key.service.clone()));
        (cells, missing)
    }

    pub async fn hosts(&self) -> v1::ListHostsResponse {
        let answer = self
            .client()
            .await
            .list_hosts(v1::ListHostsRequest {})
            .await;
        answer.unwrap().into_inner()
    }

    pub async fn window(&self, seconds: u32) -> v1::Window {
        let request = v1::ListWindowRequest {
            histograms: true,
            seconds,
            ..v1::ListWindowRequest::default()
        };
        let answer = self.client().await.list_window(request).await;
        answer
            .unwrap()
            .into_inner()
            .message()
            .await
            .unwrap()
            .unwrap()
    }

    /// Of all cells.
    pub async fn deliveries(&self) -> u64 {
        deliveries(&self.cells().await)
    }
}

pub fn deliveries(cells: &[v1::Cell]) -> u64 {
    let counters = cells.iter().map(|cell| cell.counters.as_ref().unwrap());
    counters.map(|counters| counters.deliveries).sum()
}

/// One lane of one boot of one host.
#[derive(Debug)]
pub struct Edge {
    pub hello: v1::Hello,
    to: mpsc::Sender<v1::EdgeMessage>,
    from: Streaming<v1::CollectorMessage>,
}

pub fn hello(host: &str, boot_id: &str) -> v1::Hello {
    v1::Hello {
        wire_version: weir::wire::WIRE_VERSION,
        host: host.into(),
        boot_id: boot_id.into(),
        weir_version: "0".into(),
        backend: v1::Backend::Exact.into(),
        kernel_release: "6".into(),
        lane: v1::Lane::Warm.into(),
        started_unix_ns: 1,
        is_recovery: false,
    }
}

impl Edge {
    pub async fn connect(collector: &Collector, hello: v1::Hello) -> Result<Self, Status> {
        let mut client = UplinkClient::connect(collector.url()).await.unwrap();
        let (to, stream) = mpsc::channel(16);
        let message = Some(Up::Hello(hello.clone()));
        to.send(v1::EdgeMessage { message }).await.unwrap();
        let mut from = client
            .report(ReceiverStream::new(stream))
            .await?
            .into_inner();
        match from.message().await?.unwrap().message {
            Some(Down::Welcome(_)) => Ok(Self { hello, to, from }),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// Sends a frame and does not wait.
    pub async fn tell(&self, frame: v1::Frame) {
        let message = Some(Up::Frame(v1::Frame {
            host: self.hello.host.clone(),
            boot_id: self.hello.boot_id.clone(),
            lane: self.hello.lane,
            ..frame
        }));
        self.to.send(v1::EdgeMessage { message }).await.unwrap();
    }

    pub async fn acknowledged(&mut self) -> Result<u64, Status> {
        loop {
            match self.from.message().await?.unwrap().message {
                Some(Down::Ack(ack)) => return Ok(ack.seq),
                // It is merged, and not safe yet.
                Some(Down::Taken(_)) => {}
                other => panic!("not an acknowledgement: {other:?}"),
            }
        }
    }

    /// Says something that is no frame.
    pub async fn say(&self, message: Up) {
        let message = Some(message);
        self.to.send(v1::EdgeMessage { message }).await.unwrap();
    }

    /// The next closer look that somebody wants of it, renewed or new.
    pub async fn asked(&mut self) -> v1::Subscribe {
        loop {
            if let Some(Down::Subscribe(wish)) = self.from.message().await.unwrap().unwrap().message
            {
                return wish;
            }
        }
    }

    pub async fn send(&mut self, frame: v1::Frame) -> Result<u64, Status> {
        self.tell(frame).await;
        self.acknowledged().await
    }
}

/// A cell with a distribution, in which `count` deliveries were counted.
pub fn cell(service: &str, count: u64) -> v1::Cell {
    v1::Cell {
        key: Some(v1::CellKey {
            service: service.into(),
            content_class: "-".into(),
            network: "other".into(),
            transport: "tcp4".into(),
            tier: v1::EvidenceTier::Kernel.into(),
            backend: v1::Backend::Exact.into(),
        }),
        counters: Some(v1::Counters {
            deliveries: count,
            acked_bytes: count * 1000,
            ..v1::Counters::default()
        }),
        histograms: vec![v1::Histogram {
            metric: v1::Metric::DeliveryLatencyUs.into(),
            grouping_power: 5,
            max_value_power: 32,
            bucket: vec![400, 401],
            count: vec![count + 1, 1],
        }],
        hosts: 1,
        sessions_open: count,
        ..v1::Cell::default()
    }
}

pub fn tick(seq: u64, cells: Vec<v1::Cell>) -> v1::Frame {
    v1::Frame {
        seq,
        tick: true,
        cells: cells
            .into_iter()
            .map(|cell| cell.encode_to_vec().into())
            .collect(),
        unix_ns: weir::ui::units::now_unix_ns(),
        interval_ms: 1000,
        ..v1::Frame::default()
    }
}

pub fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

/// What Prometheus would hear, as text.
pub async fn scrape(port: u16) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A collector in a process of its own, which can be lost as processes are.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    /// For asking it; its `stop` and `kill` do nothing to the process.
    pub seen: Collector,
}

impl Child {
    /// `weir collect` on a free port, with its configuration in `directory`.
    pub async fn start(
        directory: &std::path::Path,
        name: &str,
        nats: Option<&lab::nats::Nats>,
    ) -> Self {
        use std::fmt::Write as _;
        let mut config = "listen = \"127.0.0.1:0\"\nplain_text = true\n".to_owned();
        if let Some(nats) = nats {
            let Nats {
                max_bytes,
                boots_max_bytes,
                cold_max_bytes,
                ..
            } = engine(nats);
            write!(
                config,
                "[nats]\nurls = [{:?}]\nmax_bytes = {max_bytes}\nboots_max_bytes = \
                 {boots_max_bytes}\ncold_max_bytes = {cold_max_bytes}\n",
                nats.url()
            )
            .unwrap();
        }
        let file = directory.join(format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        let name = name.to_owned();
        let started = tokio::task::spawn_blocking(move || {
            let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
                .args(["collect", "--name", &name, "--config"])
                .arg(&file)
                .env("NO_COLOR", "1")
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let log = process.stderr.take().unwrap();
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(log));
            let mut said = Vec::new();
            let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
                let (_, rest) = line.split_once("collecting address=").or_else(|| {
                    said.push(line.clone());
                    None
                })?;
                rest.split_whitespace().next()?.parse().ok()
            });
            let address =
                address.unwrap_or_else(|| panic!("it did not start:\n{}", said.join("\n")));
            // Its log must not fill the pipe.
            std::thread::spawn(move || for _ in lines.map_while(Result::ok) {});
            (process, address)
        });
        let (process, address): (_, SocketAddr) = started.await.unwrap();
        let seen = Collector {
            address,
            stop: CancellationToken::new(),
            task: tokio::spawn(async { Ok(()) }),
        };
        Self { process, seen }
    }

    /// Its resident memory now, and the most that it ever was, in bytes (proc(5)).
    pub fn resident(&self) -> [u64; 2] {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        ["VmRSS:", "VmHWM:"].map(|name| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
            let kib = value.trim().strip_suffix(" kB").unwrap();
            kib.parse::<u64>().unwrap() * 1024
        })
    }

    /// By SIGKILL.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

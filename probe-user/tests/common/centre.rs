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
        let request = v1::ListCellsRequest {
            filter: None,
            histograms: true,
        };
        let answer = self.client().await.list_cells(request).await;
        let mut cells = answer.unwrap().into_inner().cells;
        cells.sort_by_key(|cell| cell.key.as_ref().map(|key| key.service.clone()));
        cells
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

//! What a collector passes on: to a real Prometheus, to an OTLP receiver made from the official
//! protocol, and to files. Needs prometheus and curl (`cargo xtask setup`); no privileges.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::centre::{Collector, Edge, cell, directory, hello, tick};
use common::until;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use weir::config::collect::{Files, Format, Push};
use weir_proto::v1;
use weir_tests::lab::prometheus::Prometheus;

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_takes_remote_writes_of_counters_and_native_histograms() {
    let (_directory, path) = directory();
    let prometheus = Prometheus::start(&path, &[]).unwrap();
    let collector = Collector::start("centre", |config| {
        let mut push = Push::to(prometheus.write_url());
        push.interval_s = 1;
        config.remote_write = Some(push);
    })
    .await;
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    for count in [7, 70] {
        edge.send(tick(count, vec![cell("a", count)]))
            .await
            .unwrap();
        until("Prometheus to have the total", || async {
            let total = prometheus
                .value("weir_deliveries_total{service=\"a\"}")
                .unwrap();
            (total == Some(count as f64)).then_some(())
        })
        .await;
    }
    let count = prometheus.value("histogram_count(weir_delivery_latency_seconds)");
    assert_eq!(count.unwrap(), Some(72.0));
    let frames = prometheus.value("weir_host_frames_total{host=\"edge-1\",collector=\"centre\"}");
    assert_eq!(frames.unwrap(), Some(2.0));
    collector.stop().await;
}

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Receiver {
    metrics: Arc<Mutex<Vec<Metric>>>,
    resources: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for resource in request.into_inner().resource_metrics {
            let attributes = &resource.resource.as_ref().unwrap().attributes;
            let names = attributes.iter().map(|attribute| attribute.key.clone());
            self.resources.lock().unwrap().extend(names);
            for scope in resource.scope_metrics {
                self.metrics.lock().unwrap().extend(scope.metrics);
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: 1,
                error_message: "one is too many".into(),
            }),
        }))
    }
}

impl Receiver {
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = tonic::transport::Server::builder()
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serve);
        (receiver, url)
    }

    /// The newest of that name.
    fn latest(&self, name: &str) -> Option<Metric> {
        let metrics = self.metrics.lock().unwrap();
        metrics
            .iter()
            .rev()
            .find(|metric| metric.name == name)
            .cloned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_otlp_receiver_takes_sums_gauges_and_exponential_histograms() {
    let (receiver, url) = Receiver::start().await;
    let collector = Collector::start("centre", |config| {
        let mut push = Push::to(url.clone());
        push.interval_s = 1;
        config.otlp = Some(push);
    })
    .await;
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    edge.send(tick(1, vec![cell("a", 41)])).await.unwrap();
    let sum = until("the sum", || async {
        let metric::Data::Sum(sum) = receiver.latest("weir.deliveries")?.data? else {
            panic!("no sum");
        };
        Some(sum)
    })
    .await;
    assert!(sum.is_monotonic);
    let point = &sum.data_points[0];
    assert_eq!(point.value, Some(number_data_point::Value::AsDouble(41.0)));
    // The daemon has counted since then, however long there is a collector.
    assert_eq!(point.start_time_unix_nano, edge.hello.started_unix_ns);
    assert!(point.start_time_unix_nano < point.time_unix_nano);
    let merged = receiver.latest("weir.collector_frames_merged").unwrap();
    let Some(metric::Data::Sum(merged)) = merged.data else {
        panic!("no sum");
    };
    let own = &merged.data_points[0];
    assert!(1 < own.start_time_unix_nano && own.start_time_unix_nano < own.time_unix_nano);
    assert!(
        point
            .attributes
            .iter()
            .any(|attribute| attribute.key == "service")
    );

    let latency = receiver.latest("weir.delivery_latency").unwrap();
    assert_eq!(latency.unit, "s");
    let Some(metric::Data::ExponentialHistogram(latency)) = latency.data else {
        panic!("no exponential histogram");
    };
    let point = &latency.data_points[0];
    let buckets = point.positive.as_ref().unwrap();
    assert_eq!((point.count, point.scale), (43, 3));
    assert_eq!(
        buckets.bucket_counts.iter().sum::<u64>() + point.zero_count,
        43
    );
    // The value lies in the bucket that the protocol gives it: (2^(n/8), 2^((n+1)/8)].
    let mean_s = point.sum.unwrap() / 43.0;
    let begin_of = |n: i32| (f64::from(n) / 8.0).exp2();
    let len = i32::try_from(buckets.bucket_counts.len()).unwrap();
    let (least, most) = (begin_of(buckets.offset), begin_of(buckets.offset + len));
    assert!(least < mean_s && mean_s <= most, "{least} {mean_s} {most}");
    assert!(
        receiver
            .resources
            .lock()
            .unwrap()
            .contains(&"service.name".to_owned())
    );

    // What it refused is counted, and so is that it is gone.
    until("the refused points to be known", || async {
        let text = receiver.latest("weir.sink_items")?;
        let Some(metric::Data::Sum(sum)) = text.data else {
            panic!()
        };
        let lost = sum.data_points.iter().find(|point| {
            let is = |key: &str, value: &str| {
                point.attributes.iter().any(|attribute| {
                    attribute.key == key && format!("{:?}", attribute.value).contains(value)
                })
            };
            is("sink", "otlp") && is("outcome", "lost")
        })?;
        (lost.value != Some(number_data_point::Value::AsDouble(0.0))).then_some(())
    })
    .await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_holds_up_neither_hosts_nor_the_other_sinks() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (receiver, url) = Receiver::start().await;
    let collector = Collector::start("centre", |config| {
        let mut push = Push::to(format!("http://{}/", silent.local_addr().unwrap()));
        push.interval_s = 1;
        config.remote_write = Some(push);
        let mut push = Push::to(url.clone());
        push.interval_s = 1;
        config.otlp = Some(push);
    })
    .await;
    let mut edge = Edge::connect(&collector, hello("edge-1", "boot"))
        .await
        .unwrap();
    for seq in 1..=100 {
        edge.send(tick(seq, vec![cell("a", seq)])).await.unwrap();
    }
    until("the other receiver to have it", || async {
        let metric::Data::Sum(sum) = receiver.latest("weir.deliveries")?.data? else {
            panic!()
        };
        let value = sum.data_points[0].value;
        (value == Some(number_data_point::Value::AsDouble(100.0))).then_some(())
    })
    .await;
    collector.stop().await;
}

// ---------------------------------------------------------------- files

fn late(n: u64) -> v1::HotEvent {
    v1::HotEvent {
        unix_ns: 1_700_000_000_000_000_000 + n,
        event: Some(v1::hot_event::Event::Late(v1::Delivery {
            session: n,
            latency_us: n * 10,
            acked_bytes: u64::MAX - n,
            phase: v1::DeliveryPhase::Late.into(),
            endpoints: Some(v1::Endpoints {
                remote_address: "198.51.100.7".into(),
                ..v1::Endpoints::default()
            }),
            ..v1::Delivery::default()
        })),
    }
}

fn alarm() -> v1::HotEvent {
    v1::HotEvent {
        unix_ns: 5,
        event: Some(v1::hot_event::Event::Alarm(v1::Alarm {
            rate: v1::AlarmRate::LateDeliveries.into(),
            verdict: "it is late".into(),
            ..v1::Alarm::default()
        })),
    }
}

fn hot() -> v1::Hello {
    v1::Hello {
        lane: v1::Lane::Hot.into(),
        ..hello("edge-1", "boot")
    }
}

fn events(seq: u64, events: Vec<v1::HotEvent>) -> v1::Frame {
    v1::Frame {
        seq,
        events,
        ..v1::Frame::default()
    }
}

async fn writing(path: &Path, change: impl FnOnce(&mut Files)) -> Collector {
    let mut files = Files::within(path.to_owned());
    files.min_free_bytes = 0;
    change(&mut files);
    Collector::start("centre/1", |config| config.files = Some(files)).await
}

fn finished(path: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let files = finished(path, "ndjson");
    let text: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_one_line_also_if_its_frame_comes_twice() {
    let (_directory, path) = directory();
    let collector = writing(&path, |files| files.max_bytes = 64 << 10).await;
    let mut edge = Edge::connect(&collector, hot()).await.unwrap();
    for seq in 1..=50 {
        let frame = events(seq, (0..20).map(|n| late(seq * 100 + n)).collect());
        edge.send(frame.clone()).await.unwrap();
        edge.send(frame).await.unwrap();
    }
    edge.send(events(51, vec![alarm()])).await.unwrap();
    collector.stop().await;
    assert!(finished(&path, "part").is_empty());
    // They were divided, and none is much too large.
    let files = finished(&path, "ndjson");
    assert!(files.len() > 3, "{files:?}");
    assert!(
        files
            .iter()
            .all(|file| fs::metadata(file).unwrap().len() < (64 << 10) + 4096)
    );
    let lines = lines(&path);
    assert_eq!(lines.len(), 50 * 20 + 1);
    let sessions = lines.iter().filter(|line| line["kind"] == "late");
    let sessions: Vec<_> = sessions
        .map(|line| line["what"]["session"].as_u64().unwrap())
        .collect();
    let expected: Vec<_> = (1..=50)
        .flat_map(|seq| (0..20).map(move |n| seq * 100 + n))
        .collect();
    assert_eq!(sessions, expected);
    let last = lines.last().unwrap();
    assert_eq!(
        (last["kind"].as_str(), last["seq"].as_u64()),
        (Some("alarm"), Some(51))
    );
    assert_eq!(last["what"]["verdict"], "it is late");
    assert_eq!(
        (&lines[7]["place"], &lines[7]["host"]),
        (&7.into(), &"edge-1".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_hold_the_same_and_are_named_only_when_they_are_whole() {
    let (_directory, path) = directory();
    let collector = writing(&path, |files| files.format = Format::Parquet).await;
    let mut edge = Edge::connect(&collector, hot()).await.unwrap();
    for seq in 1..=5 {
        let mut all: Vec<_> = (0..2000).map(|n| late(seq * 10_000 + n)).collect();
        all.push(alarm());
        edge.send(events(seq, all)).await.unwrap();
    }
    assert!(finished(&path, "parquet").is_empty());
    collector.stop().await;
    let files = finished(&path, "parquet");
    assert_eq!(files.len(), 1);
    let reader = SerializedFileReader::new(fs::File::open(&files[0]).unwrap()).unwrap();
    assert_eq!(reader.metadata().num_row_groups(), 2);
    let columns = reader
        .metadata()
        .file_metadata()
        .schema_descr()
        .columns()
        .to_vec();
    let at = |name: &str| {
        columns
            .iter()
            .position(|column| column.name() == name)
            .unwrap()
    };
    let rows: Vec<_> = reader
        .get_row_iter(None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows.len(), 5 * 2001);
    let row = &rows[2001 + 7];
    assert_eq!(row.get_string(at("kind")).unwrap(), "late");
    assert_eq!(row.get_ulong(at("session")).unwrap(), 20_007);
    assert_eq!(row.get_ulong(at("acked_bytes")).unwrap(), u64::MAX - 20_007);
    assert_eq!(
        row.get_string(at("client_address")).unwrap(),
        "198.51.100.7"
    );
    let json: serde_json::Value =
        serde_json::from_str(row.get_string(at("json")).unwrap()).unwrap();
    assert_eq!(json["what"]["latency_us"], 200_070);
    assert_eq!(
        rows[2000].get_string(at("change")).unwrap(),
        "late_deliveries"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_behind_is_finished_up_to_its_last_whole_line() {
    let (_directory, path) = directory();
    let part = path.join("weir-centre-1-0000000000001-000001.ndjson.part");
    fs::write(&part, "{\"n\":1}\n{\"n\":2}\n{\"n\":").unwrap();
    let empty = path.join("weir-centre-1-0000000000002-000002.ndjson.part");
    fs::write(&empty, "{\"n\"").unwrap();
    let parquet = path.join("weir-centre-1-0000000000003-000003.parquet.part");
    fs::write(&parquet, "PAR1").unwrap();
    // Another collector's, which may be writing it now.
    let other = path.join("weir-centre-10-0000000000001-000001.ndjson.part");
    fs::write(&other, "{\"n\":9}\n").unwrap();
    let collector = writing(&path, |_| {}).await;
    collector.stop().await;
    assert_eq!(finished(&path, "part"), [other]);
    let n: Vec<_> = lines(&path)
        .iter()
        .map(|line| line["n"].as_u64().unwrap())
        .collect();
    assert_eq!(n, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_files_go_and_a_full_disk_costs_a_count_and_nothing_else() {
    let (_directory, path) = directory();
    let collector = writing(&path, |files| {
        files.max_bytes = 64 << 10;
        files.max_files = 2;
    })
    .await;
    let mut edge = Edge::connect(&collector, hot()).await.unwrap();
    for seq in 1..=100 {
        edge.send(events(seq, (0..20).map(late).collect()))
            .await
            .unwrap();
    }
    collector.stop().await;
    assert_eq!(finished(&path, "ndjson").len(), 2);

    let (_directory, path) = directory();
    let collector = writing(&path, |files| files.min_free_bytes = 1 << 60).await;
    let mut edge = Edge::connect(&collector, hot()).await.unwrap();
    for seq in 1..=10 {
        edge.send(events(seq, vec![late(seq)])).await.unwrap();
    }
    assert_eq!(collector.hosts().await.hosts[0].events, 10);
    collector.stop().await;
    assert!(fs::read_dir(&path).unwrap().next().is_none());
}

//! Prometheus' remote write, version 1: snappy and protobuf over HTTP, distributions as native
//! histograms.

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message as _;
use prost::bytes::Bytes;
use tonic::codegen::http::{Request, Uri, header};
use weir_proto::prometheus::{self as wire, TimeSeries};

use super::push::{Identity, Push};
use crate::collect::metrics::distribution::{Distribution, SCHEMA};
use crate::collect::metrics::family::{Family, Kind, Labels, Value};

/// Series in one request.
const SERIES: usize = 5_000;
/// Of what a receiver says is wrong.
const MAX_ANSWER_BYTES: usize = 4_096;

/// A receiver.
#[derive(Debug)]
pub(super) struct RemoteWrite {
    url: Uri,
    client: Client<HttpConnector, Full<Bytes>>,
    identity: Identity,
}

impl RemoteWrite {
    pub(super) fn new(url: &str, identity: Identity) -> anyhow::Result<Self> {
        Ok(Self {
            url: url.parse().context("remote_write.url")?,
            client: Client::builder(TokioExecutor::new()).build_http(),
            identity,
        })
    }

    async fn write(&self, timeseries: Vec<TimeSeries>) -> anyhow::Result<()> {
        let request = wire::WriteRequest { timeseries };
        let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?;
        let request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONTENT_ENCODING, "snappy")
            .header(
                header::USER_AGENT,
                concat!("weir/", env!("CARGO_PKG_VERSION")),
            )
            .header("X-Prometheus-Remote-Write-Version", "0.1.0")
            .body(Full::new(Bytes::from(body)))?;
        let answer = self.client.request(request).await;
        let answer = answer.with_context(|| format!("cannot reach {}", self.url))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let why = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        let why = why
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        bail!(
            "{} says {status}: {}",
            self.url,
            String::from_utf8_lossy(&why).trim()
        );
    }

    fn series(&self, name: &str, labels: &Labels) -> TimeSeries {
        let mut all: Vec<_> = labels
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .chain([
                ("__name__", name),
                ("collector", self.identity.collector.as_str()),
            ])
            .collect();
        // The protocol wants them in this order.
        all.sort_unstable();
        TimeSeries {
            labels: all
                .into_iter()
                .map(|(name, value)| wire::Label {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
                .collect(),
            ..TimeSeries::default()
        }
    }
}

impl Push for RemoteWrite {
    async fn push(&mut self, families: Vec<Family>, unix_ns: u64) -> anyhow::Result<(u64, u64)> {
        let timestamp = i64::try_from(unix_ns / 1_000_000)?;
        let mut batch = Vec::new();
        let mut sent = 0;
        for family in &families {
            let name = match family.kind {
                Kind::Counter => format!("{}_total", family.name()),
                Kind::Gauge | Kind::Histogram => family.name(),
            };
            for sample in &family.samples {
                let mut series = self.series(&name, &sample.labels);
                match &sample.value {
                    Value::Number(value) => series.samples.push(wire::Sample {
                        value: *value,
                        timestamp,
                    }),
                    Value::Distribution(distribution) => {
                        series.histograms.push(histogram(distribution, timestamp)?);
                    }
                }
                batch.push(series);
                if batch.len() >= SERIES {
                    sent += batch.len() as u64;
                    self.write(std::mem::take(&mut batch)).await?;
                }
            }
        }
        sent += batch.len() as u64;
        self.write(batch).await?;
        Ok((sent, 0))
    }
}

fn histogram(of: &Distribution, timestamp: i64) -> anyhow::Result<wire::Histogram> {
    let mut histogram = wire::Histogram {
        count: Some(wire::histogram::Count::CountInt(of.count)),
        sum: of.sum,
        schema: SCHEMA,
        zero_count: Some(wire::histogram::ZeroCount::ZeroCountInt(of.zeros)),
        timestamp,
        ..wire::Histogram::default()
    };
    let mut before = 0;
    for (offset, counts) in of.spans() {
        histogram.positive_spans.push(wire::BucketSpan {
            offset,
            length: u32::try_from(counts.len())?,
        });
        for count in counts {
            let count = i64::try_from(count)?;
            histogram.positive_deltas.push(count - before);
            before = count;
        }
    }
    Ok(histogram)
}

//! OTLP metrics over gRPC, distributions as exponential histograms.

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tonic::transport::{Channel, Endpoint};

use super::push::{Identity, Push};
use crate::collect::metrics::distribution::{Distribution, SCHEMA};
use crate::collect::metrics::family::{Family, Kind, Labels, Sample, Value};

/// Data points in one request, so that it stays below the 4 MiB that receivers take.
const POINTS: usize = 4_000;

/// A receiver.
#[derive(Debug)]
pub(super) struct Otlp {
    client: MetricsServiceClient<Channel>,
    identity: Identity,
}

impl Otlp {
    /// Connects when it is first needed, and again whenever the connection is gone.
    pub(super) fn new(url: &str, identity: Identity) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned()).context("otlp.url")?;
        let client = MetricsServiceClient::new(endpoint.connect_lazy());
        Ok(Self { client, identity })
    }

    fn request(&self, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        let attributes = [
            ("service.name", "weir"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", &self.identity.collector),
        ];
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(Resource {
                    attributes: attributes.map(|(key, value)| attribute(key, value)).into(),
                    ..Resource::default()
                }),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(InstrumentationScope {
                        name: "weir".to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }
}

impl Push for Otlp {
    async fn push(&mut self, families: Vec<Family>, unix_ns: u64) -> anyhow::Result<(u64, u64)> {
        let (mut sent, mut refused) = (0, 0);
        let mut batch = Vec::new();
        let mut points = 0;
        let mut left = families.iter().peekable();
        while let Some(family) = left.next() {
            for samples in family.samples.chunks(POINTS) {
                batch.push(metric(family, samples, unix_ns));
                points += samples.len();
                let is_last = left.peek().is_none();
                if points < POINTS && !is_last {
                    continue;
                }
                let request = self.request(std::mem::take(&mut batch));
                let answer = self.client.export(request).await;
                let answer = answer.map_err(|status| {
                    anyhow::anyhow!("{} ({:?})", status.message(), status.code())
                })?;
                sent += std::mem::take(&mut points) as u64;
                if let Some(partial) = answer.into_inner().partial_success {
                    refused += u64::try_from(partial.rejected_data_points).unwrap_or(0);
                    if !partial.error_message.is_empty() {
                        tracing::debug!("OTLP: {}", partial.error_message);
                    }
                }
            }
        }
        Ok((sent - refused.min(sent), refused))
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(key, value)| attribute(key, value))
        .collect()
}

fn metric(family: &Family, samples: &[Sample], unix_ns: u64) -> Metric {
    // Of the moment: without a beginning.
    let start_time_unix_nano = match family.kind {
        Kind::Gauge => 0,
        // A daemon's clock may be ahead.
        Kind::Counter | Kind::Histogram => family.began_unix_ns.min(unix_ns),
    };
    let mut numbers = Vec::new();
    let mut histograms = Vec::new();
    for Sample { labels, value } in samples {
        match value {
            Value::Number(number) => numbers.push(NumberDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano,
                time_unix_nano: unix_ns,
                value: Some(number_data_point::Value::AsDouble(*number)),
                ..NumberDataPoint::default()
            }),
            Value::Distribution(distribution) => histograms.push(ExponentialHistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano,
                time_unix_nano: unix_ns,
                count: distribution.count,
                sum: Some(distribution.sum),
                scale: SCHEMA,
                zero_count: distribution.zeros,
                positive: buckets(distribution),
                ..ExponentialHistogramDataPoint::default()
            }),
        }
    }
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    Metric {
        name: family.stem.replacen('_', ".", 1),
        description: family.help.clone(),
        unit: family.unit.ucum().to_owned(),
        data: Some(match family.kind {
            Kind::Gauge => metric::Data::Gauge(Gauge {
                data_points: numbers,
            }),
            Kind::Counter => metric::Data::Sum(Sum {
                data_points: numbers,
                aggregation_temporality,
                is_monotonic: true,
            }),
            Kind::Histogram => metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: histograms,
                aggregation_temporality,
            }),
        }),
        ..Metric::default()
    }
}

/// Without gaps, as OTLP has them; bucket `n` there begins where ours of that number ends.
fn buckets(distribution: &Distribution) -> Option<Buckets> {
    let exponential = &distribution.exponential;
    let (first, last) = (*exponential.keys().next()?, *exponential.keys().last()?);
    Some(Buckets {
        offset: first - 1,
        bucket_counts: (first..=last)
            .map(|exponent| exponential.get(&exponent).copied().unwrap_or(0))
            .collect(),
    })
}

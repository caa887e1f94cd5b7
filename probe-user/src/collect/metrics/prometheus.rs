//! Families in Prometheus' words: `OpenMetrics` text, the older text format, and protobuf with
//! native histograms.

use std::fmt;
use std::sync::Mutex;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NativeHistogram, NativeHistogramBuckets, NoLabelSet,
    prometheus_protobuf, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::distribution::{Distribution, SCHEMA};
use super::family::{Family, Kind, Value};

/// A way of writing them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Text,
    Protobuf,
}

impl Format {
    /// What a client that accepts `accept` gets.
    pub(super) fn of(accept: &str) -> Self {
        if accept.contains("application/vnd.google.protobuf")
            && accept.contains("io.prometheus.client.MetricFamily")
            && accept.contains("encoding=delimited")
        {
            Self::Protobuf
        } else if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }

    pub(super) fn encode(self, families: Vec<Family>) -> Result<Vec<u8>, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Once(Mutex::new(families))));
        let mut written = String::new();
        match self {
            Self::Protobuf => {
                return prometheus_protobuf::encode_to_vec(&registry).map_err(|_| fmt::Error);
            }
            Self::OpenMetrics => text::encode(&mut written, &registry)?,
            Self::Text => prometheus_text::encode(&mut written, &registry)?,
        }
        Ok(written.into_bytes())
    }
}

/// Families that are written once.
#[derive(Debug)]
struct Once(Mutex<Vec<Family>>);

impl Collector for Once {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let families = self.0.lock().map_err(|_| fmt::Error)?;
        for family in &*families {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let unit = match family.unit.suffix() {
                "" => None,
                suffix => Some(Unit::Other(suffix.to_owned())),
            };
            let mut descriptor =
                encoder.encode_descriptor(&family.stem, &family.help, unit.as_ref(), kind)?;
            for sample in &family.samples {
                if sample.labels.is_empty() {
                    // A family of one.
                    write_value(&mut descriptor, family.kind, &sample.value)?;
                } else {
                    let mut labelled = descriptor.encode_family(&sample.labels)?;
                    write_value(&mut labelled, family.kind, &sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn write_value(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Number(number)) => {
            encoder.encode_counter::<NoLabelSet, _, f64>(number, None::<&Exemplar<_, _>>)
        }
        (_, Value::Number(number)) => encoder.encode_gauge(number),
        (_, Value::Distribution(distribution)) => write_distribution(encoder, distribution),
    }
}

fn write_distribution(encoder: &mut MetricEncoder<'_>, of: &Distribution) -> fmt::Result {
    // The library writes the largest number as +Inf.
    let bounds: Vec<_> = of
        .bounds
        .iter()
        .map(|(bound, count)| (bound.min(f64::MAX), *count))
        .collect();
    let stretches = of.spans();
    let mut spans = Vec::with_capacity(stretches.len());
    let mut deltas = Vec::new();
    let mut before = 0;
    for (offset, counts) in &stretches {
        spans.push((
            *offset,
            u32::try_from(counts.len()).map_err(|_| fmt::Error)?,
        ));
        for count in counts {
            let count = i64::try_from(*count).map_err(|_| fmt::Error)?;
            deltas.push(count - before);
            before = count;
        }
    }
    let native = NativeHistogram {
        schema: SCHEMA,
        zero_threshold: 0.0,
        zero_count: of.zeros,
        negative: NativeHistogramBuckets {
            spans: &[],
            deltas: &[],
        },
        positive: NativeHistogramBuckets {
            spans: &spans,
            deltas: &deltas,
        },
        created: None,
    };
    encoder.encode_histogram_with_native::<NoLabelSet>(of.sum, of.count, &bounds, None, native)
}

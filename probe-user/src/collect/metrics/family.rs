//! Metrics as every receiver knows them: families of samples with labels. Units are the base units
//! that Prometheus and OpenTelemetry ask for.

use super::distribution::Distribution;

/// Labels, in the order in which they are told.
pub(in crate::collect) type Labels = Vec<(&'static str, String)>;

/// What is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collect) enum Unit {
    /// A number of things.
    None,
    Seconds,
    Bytes,
    Ratio,
    BitsPerSecond,
}

impl Unit {
    /// What the name of a metric ends in; empty: nothing.
    pub(in crate::collect) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
            Self::BitsPerSecond => "bits_per_second",
        }
    }

    /// In the Unified Code for Units of Measure, which OpenTelemetry uses.
    pub(in crate::collect) fn ucum(self) -> &'static str {
        match self {
            Self::None | Self::Ratio => "1",
            Self::Seconds => "s",
            Self::Bytes => "By",
            Self::BitsPerSecond => "bit/s",
        }
    }
}

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collect) enum Kind {
    /// Only grows; what is of the collector itself begins anew with it.
    Counter,
    /// Of the moment.
    Gauge,
    /// Only grows, in each bucket.
    Histogram,
}

/// One value.
#[derive(Clone, Debug)]
pub(in crate::collect) enum Value {
    Number(f64),
    Distribution(Box<Distribution>),
}

/// A value and whose it is.
#[derive(Clone, Debug)]
pub(in crate::collect) struct Sample {
    pub(in crate::collect) labels: Labels,
    pub(in crate::collect) value: Value,
}

/// Samples that are of one thing.
#[derive(Clone, Debug)]
pub(in crate::collect) struct Family {
    /// Without its unit and without `_total`.
    pub(in crate::collect) stem: String,
    pub(in crate::collect) unit: Unit,
    pub(in crate::collect) kind: Kind,
    pub(in crate::collect) help: String,
    pub(in crate::collect) samples: Vec<Sample>,
    /// Whether it is of the collector itself, not of hosts.
    pub(in crate::collect) is_of_collector: bool,
    /// When what is counted in it began, as Unix time; 0: that is not known.
    pub(in crate::collect) began_unix_ns: u64,
}

impl Family {
    pub(in crate::collect) fn new(stem: &str, unit: Unit, kind: Kind, help: &str) -> Self {
        Self {
            stem: stem.to_owned(),
            unit,
            kind,
            help: help.to_owned(),
            samples: Vec::new(),
            is_of_collector: false,
            began_unix_ns: 0,
        }
    }

    /// The same, of the collector itself.
    pub(in crate::collect) fn of_collector(mut self) -> Self {
        self.is_of_collector = true;
        self
    }

    /// With its unit, as Prometheus has it.
    pub(in crate::collect) fn name(&self) -> String {
        match self.unit.suffix() {
            "" => self.stem.clone(),
            suffix => format!("{}_{suffix}", self.stem),
        }
    }

    pub(in crate::collect) fn add(&mut self, labels: Labels, number: f64) {
        self.samples.push(Sample {
            labels,
            value: Value::Number(number),
        });
    }

    /// The same with a sample.
    pub(in crate::collect) fn with(mut self, labels: Labels, number: f64) -> Self {
        self.add(labels, number);
        self
    }
}

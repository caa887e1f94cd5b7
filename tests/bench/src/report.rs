//! What was measured, and how it is kept: every sample, in tables that are printed and written
//! alike.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use histogram::{Histogram, Quantile};
use serde::{Deserialize, Serialize};

/// One run of the bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What ran.
    pub(crate) commit: String,
    /// When it began, in UTC.
    pub(crate) date: String,
    /// A short form of it.
    pub(crate) quick: bool,
    /// On what.
    pub(crate) machine: Machine,
    /// How long it took.
    pub(crate) seconds: f64,
    /// What was measured.
    pub(crate) tables: Vec<Table>,
    /// What it should have come to.
    pub(crate) aims: Vec<Aim>,
}

/// What it ran on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
}

/// Values of one kind, by two names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    /// By which it is found again.
    pub(crate) id: String,
    pub(crate) title: String,
    /// What must be known to read it.
    pub(crate) note: String,
    /// What the rows are.
    pub(crate) rows_are: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
}

/// What stands in a column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) unit: Unit,
}

/// One line of a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// As many as columns.
    pub(crate) cells: Vec<Samples>,
}

/// In what a value is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Count,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    PerSecond,
    Bytes,
    Mebibytes,
    Percent,
    Ratio,
}

/// All measurements of one value, one of each round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Option<f64>>")]
pub(crate) struct Samples(pub(crate) Vec<f64>);

/// JSON has no word for what is no number, and writes null.
impl From<Vec<Option<f64>>> for Samples {
    fn from(values: Vec<Option<f64>>) -> Self {
        Self(
            values
                .into_iter()
                .map(|value| value.unwrap_or(f64::NAN))
                .collect(),
        )
    }
}

/// A value that was aimed at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Aim {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) bound: Bound,
    pub(crate) limit: f64,
    pub(crate) measured: Samples,
}

/// On which side of the limit it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost,
    AtLeast,
}

impl Samples {
    /// The value at a share of the sorted samples, between the two nearest; none without samples.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.retain(|value| value.is_finite());
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = share * last as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the number of samples"
        )]
        let below = at.floor() as usize;
        let above = (below + 1).min(last);
        Some(sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64))
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// Each by the sample of the same round, so that what both rounds suffered cancels.
    pub(crate) fn over(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(value, by)| value / by).collect())
    }

    pub(crate) fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self(self.0.iter().map(|value| change(*value)).collect())
    }
}

impl Aim {
    /// None without a measurement.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let median = self.measured.median()?;
        Some(match self.bound {
            Bound::AtMost => median <= self.limit,
            Bound::AtLeast => median >= self.limit,
        })
    }
}

impl Table {
    /// A table with columns and no rows yet.
    pub(crate) fn new(id: &str, title: &str, rows_are: &str, columns: &[(&str, Unit)]) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            note: String::new(),
            rows_are: rows_are.into(),
            columns: columns
                .iter()
                .map(|(name, unit)| Column {
                    name: (*name).into(),
                    unit: *unit,
                })
                .collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn note(mut self, note: &str) -> Self {
        self.note = note.into();
        self
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, cells: Vec<Samples>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(Row {
            name: name.into(),
            cells,
        });
    }
}

impl Report {
    /// A table by its id.
    pub(crate) fn table(&self, id: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.id == id)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("writing the report as JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of this bench", path.display()))
    }
}

/// The middle of the bucket in which a share of a histogram's values ends.
pub(crate) fn quantile(histogram: &Histogram, share: f64) -> Result<f64> {
    let found = histogram.quantile(share).context("a histogram")?;
    let key = Quantile::new(share).context("a quantile")?;
    let bucket = found.as_ref().and_then(|found| found.get(&key));
    let bucket = bucket.context("nothing was counted")?;
    Ok((bucket.start() + bucket.end()) as f64 / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples_and_ignore_what_was_not_measured() {
        let samples = Samples(vec![4.0, 1.0, f64::NAN, 2.0, 3.0]);
        assert_eq!(samples.median(), Some(2.5));
        assert_eq!(samples.quantile(0.0), Some(1.0));
        assert_eq!(samples.quantile(1.0), Some(4.0));
        assert_eq!(Samples::default().median(), None);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let fast_then_slow = Samples(vec![10.0, 20.0]);
        let other = Samples(vec![11.0, 22.0]);
        assert_eq!(other.over(&fast_then_slow).0, [1.1, 1.1]);
    }

    #[test]
    fn an_aim_without_a_measurement_is_neither_met_nor_missed() {
        let mut aim = Aim {
            what: "x".into(),
            unit: Unit::Ratio,
            bound: Bound::AtMost,
            limit: 1.5,
            measured: Samples::default(),
        };
        assert_eq!(aim.is_met(), None);
        aim.measured = Samples(vec![1.5]);
        assert_eq!(aim.is_met(), Some(true));
        aim.bound = Bound::AtLeast;
        aim.limit = 1.6;
        assert_eq!(aim.is_met(), Some(false));
    }
}

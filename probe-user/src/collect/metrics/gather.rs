//! From the fleet's cells to families.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use histogram::SparseHistogram;
use weir_proto::v1;

use super::distribution::{Distribution, unit_of};
use super::family::{Family, Kind, Labels, Sample, Unit, Value};
use super::hosts;
use crate::collect::service::Collector;
use crate::collect::sinks::Identity;
use crate::config::collect as config;
use crate::qoe::{Counters, Metric};
use crate::wire;

/// Counters that are one family with a label: what their names begin with, the family and the label.
const GROUPS: [(&str, &str, &str); 5] = [
    ("ended_", "session_ends", "cause"),
    ("retrans_", "retransmitted_segments", "kind"),
    ("start_failures_", "start_failures", "cause"),
    ("blame_", "blame", "part"),
    ("untestable_", "untestable_deliveries", "reason"),
];

/// Makes the families.
#[derive(Clone, Debug)]
pub(in crate::collect) struct Gatherer {
    collector: Collector,
    limits: config::Metrics,
    /// The same for all who are told.
    told: Arc<Mutex<hosts::Told>>,
}

impl Gatherer {
    pub(in crate::collect) fn new(collector: Collector, limits: config::Metrics) -> Self {
        Self {
            collector,
            limits,
            told: Arc::default(),
        }
    }

    /// Whose they are.
    pub(in crate::collect) fn identity(&self) -> Identity {
        let status = self.collector.status();
        Identity {
            collector: status.name,
        }
    }

    /// All of them, as they are now. Of a fleet of which a part is missing, what the collector says of
    /// itself alone: sums that are less than they were would be taken for new beginnings.
    pub(in crate::collect) async fn gather(&self) -> Vec<Family> {
        let ((cells, daemons_unix_ns), hosts) =
            tokio::join!(self.collector.all_cells(), self.collector.hosts());
        let gatherer = self.clone();
        // It takes milliseconds, more with many cells: not on a thread that moves frames.
        let made =
            tokio::task::spawn_blocking(move || gatherer.families(cells, &hosts, daemons_unix_ns));
        made.await.unwrap_or_default()
    }

    fn families(
        &self,
        cells: v1::ListCellsResponse,
        hosts: &v1::ListHostsResponse,
        daemons_unix_ns: u64,
    ) -> Vec<Family> {
        let missing = cells.missing.iter().chain(&hosts.missing);
        let missing: BTreeSet<_> = missing
            .filter(|missing| missing.is_less)
            .flat_map(|missing| missing.partitions.iter().copied())
            .collect();
        let is_whole = missing.is_empty() && cells.missing.iter().all(|missing| !missing.is_less);
        let mut families = Vec::new();
        if is_whole {
            families.extend(self.of_cells(cells.cells));
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            families.extend(hosts::families(hosts, &self.limits, &mut told));
        }
        families.extend(
            hosts::of_collector(hosts)
                .into_iter()
                .map(Family::of_collector),
        );
        families.extend(self.sinks().map(Family::of_collector));
        families.push(Family::of_collector(
            Family::new(
                "weir_fleet_partitions_missing",
                Unit::None,
                Kind::Gauge,
                "Partitions that no collector could tell of; while there are any, nothing is told of \
                 the fleet here.",
            )
            .with(Labels::new(), missing.len() as f64),
        ));
        families.retain(|family| !family.samples.is_empty());
        // Sums go back to the beginning of the oldest daemon in them: another collector, and this
        // one after a restart, says the same.
        let own = self.collector.status().started_unix_ns;
        for family in &mut families {
            family.began_unix_ns = if family.is_of_collector {
                own
            } else {
                daemons_unix_ns
            };
        }
        families
    }

    fn of_cells(&self, mut cells: Vec<v1::Cell>) -> Vec<Family> {
        let told = usize::try_from(self.limits.max_cells).unwrap_or(usize::MAX);
        let left_out = cells.len().saturating_sub(told);
        // By what only grows, so that those that are told stay the same.
        cells.sort_by_key(|cell| {
            std::cmp::Reverse(
                cell.counters
                    .as_ref()
                    .map_or(0, |counters| counters.acked_bytes),
            )
        });
        cells.truncate(told);
        let mut families = counters(&cells);
        families.extend(gauges(&cells));
        families.extend(histograms(&cells));
        families.push(
            Family::new(
                "weir_cells_not_told",
                Unit::None,
                Kind::Gauge,
                "Cells beyond metrics.max_cells, which are in no metric here.",
            )
            .with(Labels::new(), left_out as f64),
        );
        families
    }
}

impl Gatherer {
    /// What became of what the sinks were given.
    fn sinks(&self) -> [Family; 2] {
        let counter = |stem, help| Family::new(stem, Unit::None, Kind::Counter, help);
        let mut items = counter(
            "weir_sink_items",
            "Samples and records by sink and by what became of them.",
        );
        let mut failures = counter("weir_sink_failures", "Times that a sink failed.");
        for counts in self.collector.sinks().counts() {
            let sink = ("sink", counts.sink.to_owned());
            for (outcome, count) in [("passed", &counts.passed), ("lost", &counts.lost)] {
                let labels = vec![sink.clone(), ("outcome", outcome.to_owned())];
                items.add(labels, count.load(Ordering::Relaxed) as f64);
            }
            failures.add(vec![sink], counts.failures.load(Ordering::Relaxed) as f64);
        }
        [items, failures]
    }
}

fn labels(cell: &v1::Cell) -> Labels {
    let key = cell.key.clone().unwrap_or_default();
    let (tier, backend) = (key.tier().word(), key.backend().word());
    vec![
        ("service", key.service),
        ("content_class", key.content_class),
        ("network", key.network),
        ("transport", key.transport),
        ("tier", tier),
        ("backend", backend),
    ]
}

/// A counter's family: its stem, its unit, the label that tells it from others of that family, and
/// what one of weir's units is in it.
struct Place {
    stem: String,
    unit: Unit,
    label: Option<(&'static str, String)>,
    scale: f64,
}

impl Place {
    fn of(name: &str) -> Self {
        let (stem, unit, scale) = match (name.strip_suffix("_us"), name.strip_suffix("_bytes")) {
            (Some(stem), _) => (stem, Unit::Seconds, 1e-6),
            (_, Some(stem)) => (stem, Unit::Bytes, 1.0),
            _ => (name, Unit::None, 1.0),
        };
        let group = GROUPS.iter().find_map(|(begin, family, label)| {
            let rest = stem.strip_prefix(begin)?;
            Some((*family, (*label, rest.to_owned())))
        });
        let (stem, label) = match group {
            Some((family, label)) => (family, Some(label)),
            None => (stem, None),
        };
        Self {
            stem: format!("weir_{stem}"),
            unit,
            label,
            scale,
        }
    }
}

/// Each of the cells' counters; docs/metrics.md says what it counts.
fn counters(cells: &[v1::Cell]) -> Vec<Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for cell in cells {
        let labels = labels(cell);
        let counters = Counters::from(&cell.counters.unwrap_or_default());
        let heard = [
            ("records_seen", cell.records_seen),
            ("records_lost", cell.records_lost),
        ];
        for (name, count) in counters.named().into_iter().chain(heard) {
            let place = Place::of(name);
            let family = families.entry(place.stem.clone()).or_insert_with(|| {
                let field = match &place.label {
                    Some((label, value)) => {
                        let field = name.replace(value.as_str(), &label.to_uppercase());
                        format!("{field}, by {label}")
                    }
                    None => name.to_owned(),
                };
                let help = format!("The cells' {field} (docs/metrics.md).");
                Family::new(&place.stem, place.unit, Kind::Counter, &help)
            });
            let mut labels = labels.clone();
            labels.extend(place.label);
            family.add(labels, count as f64 * place.scale);
        }
    }
    families.into_values().collect()
}

fn gauges(cells: &[v1::Cell]) -> Vec<Family> {
    type Gauge = (&'static str, fn(&v1::Cell) -> u64, &'static str);
    let all: [Gauge; 7] = [
        ("weir_sessions_open", |cell| cell.sessions_open, "Sessions."),
        (
            "weir_deliveries_open",
            |cell| cell.deliveries_open,
            "Deliveries under way that were reported.",
        ),
        (
            "weir_deliveries_open_late",
            |cell| cell.deliveries_open_late,
            "Of those, past their deadline.",
        ),
        (
            "weir_viewers_active",
            |cell| cell.viewers_active,
            "Viewers.",
        ),
        (
            "weir_viewers_stalled",
            |cell| cell.viewers_stalled,
            "Of those, standing still for want of media.",
        ),
        (
            "weir_viewers_at_risk",
            |cell| cell.viewers_at_risk,
            "Of those, about to stand still.",
        ),
        (
            "weir_cell_hosts",
            |cell| cell.hosts.into(),
            "Hosts in the cell.",
        ),
    ];
    let family = |(stem, value, help): Gauge| {
        let mut family = Family::new(stem, Unit::None, Kind::Gauge, help);
        for cell in cells {
            family.add(labels(cell), value(cell) as f64);
        }
        family
    };
    all.into_iter().map(family).collect()
}

fn histograms(cells: &[v1::Cell]) -> Vec<Family> {
    let family = |metric: Metric| {
        let (unit, _) = unit_of(metric);
        let word = wire::metric(metric).word();
        let stem = word.rsplit_once('_').map_or(&*word, |(stem, _)| stem);
        // The word's unit goes, and so does one that the name would then have twice.
        let stem = stem.strip_suffix("_ratio").unwrap_or(stem);
        let mut family = Family::new(
            &format!("weir_{stem}"),
            unit,
            Kind::Histogram,
            &format!("The cells' distribution {word} (docs/metrics.md); its sum is within 1.6 %."),
        );
        let buckets = metric.buckets();
        for cell in cells {
            let found = cell.histograms.iter();
            let mut found = found.filter(|found| found.metric() == wire::metric(metric));
            let histogram = found.next().and_then(|found| {
                let (bucket, count) = (found.bucket.clone(), found.count.clone());
                SparseHistogram::from_parts(buckets, bucket, count).ok()
            });
            if let Some(histogram) = histogram {
                let distribution = Distribution::new(metric, &histogram);
                family.samples.push(Sample {
                    labels: labels(cell),
                    value: Value::Distribution(Box::new(distribution)),
                });
            }
        }
        family
    };
    Metric::ALL.into_iter().map(family).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counters_family_has_base_units_and_groups_have_a_label() {
        let place = |name| {
            let place = Place::of(name);
            (
                place.stem,
                place.unit,
                place.label.map(|(key, value)| format!("{key}={value}")),
            )
        };
        assert_eq!(
            place("deliveries"),
            ("weir_deliveries".into(), Unit::None, None)
        );
        assert_eq!(
            place("acked_bytes"),
            ("weir_acked".into(), Unit::Bytes, None)
        );
        assert_eq!(
            place("stalled_us"),
            ("weir_stalled".into(), Unit::Seconds, None)
        );
        let blame = (
            "weir_blame".into(),
            Unit::Seconds,
            Some("part=sender_window".into()),
        );
        assert_eq!(place("blame_sender_window_us"), blame);
        let ends = (
            "weir_session_ends".into(),
            Unit::None,
            Some("cause=client_rst".into()),
        );
        assert_eq!(place("ended_client_rst"), ends);
    }

    #[test]
    fn no_two_metrics_have_one_name() {
        let cell = v1::Cell {
            histograms: Metric::ALL
                .into_iter()
                .map(|metric| v1::Histogram {
                    metric: wire::metric(metric).into(),
                    bucket: vec![1],
                    count: vec![1],
                    ..v1::Histogram::default()
                })
                .collect(),
            ..v1::Cell::default()
        };
        let cells = [cell];
        let all = [counters(&cells), gauges(&cells), histograms(&cells)].concat();
        let mut names: Vec<_> = all.iter().map(Family::name).collect();
        names.sort();
        let len = names.len();
        names.dedup();
        assert_eq!(names.len(), len);
        assert!(
            names.contains(&"weir_delivery_latency_seconds".to_owned()),
            "{names:?}"
        );
        assert!(
            names.contains(&"weir_retransmit_ratio".to_owned()),
            "{names:?}"
        );
        let series = all.iter().flat_map(|family| &family.samples).count();
        assert_eq!(series, Counters::COUNT + 2 + 7 + Metric::COUNT);
    }
}

//! What an edge pretends to have measured: cells whose counts and distributions grow.

use bytes::Bytes;
use prost::Message as _;
use weir_proto::v1;

use crate::qoe::Metric;
use crate::wire;

/// Buckets of each distribution that are in use.
const BUCKETS: u32 = 30;
/// Distributions of each cell.
const METRICS: [Metric; 6] = [
    Metric::DeliveryLatencyUs,
    Metric::ThinkTimeUs,
    Metric::FirstByteUs,
    Metric::DeliveryTailUs,
    Metric::SrttUs,
    Metric::DeliveryRateKbps,
];

/// The cells of a boot.
#[derive(Debug)]
pub(super) struct MadeUp {
    pub(super) cells: Vec<v1::Cell>,
    /// The same as frames have them.
    pub(super) encoded: Vec<Bytes>,
    busy: usize,
    /// Where the next busy ones begin.
    turn: usize,
    random: fastrand::Rng,
}

impl MadeUp {
    pub(super) fn new(cells: u32, busy: u32, random: fastrand::Rng) -> Self {
        let cells: Vec<_> = (0..cells).map(cell).collect();
        Self {
            encoded: cells.iter().map(encoded).collect(),
            busy: cells.len().min(busy as usize),
            cells,
            turn: 0,
            random,
        }
    }

    /// Some time goes by.
    pub(super) fn grow(&mut self) {
        for n in 0..self.busy {
            let place = (self.turn + n) % self.cells.len();
            let random = &mut self.random;
            let cell = &mut self.cells[place];
            let deliveries = random.u64(1..50);
            if let Some(counters) = &mut cell.counters {
                counters.deliveries += deliveries;
                counters.acked_bytes += deliveries * 850_000;
                counters.segments += deliveries * 600;
                counters.retrans_fast += random.u64(0..20);
                counters.watched_us += random.u64(0..100_000_000);
                counters.chunks += deliveries;
            }
            cell.viewers_active = random.u64(50..60);
            cell.viewers_stalled = random.u64(0..2);
            cell.viewers_at_risk = random.u64(0..3);
            for histogram in &mut cell.histograms {
                for _ in 0..4 {
                    let bucket = random.usize(0..histogram.count.len());
                    histogram.count[bucket] += deliveries / 4 + 1;
                }
            }
            self.encoded[place] = encoded(cell);
        }
        self.turn = (self.turn + self.busy) % self.cells.len().max(1);
    }

    /// A vital frame's part: the first cells, and the sum of the rest.
    pub(super) fn vital(&self) -> v1::Vital {
        const NAMED: usize = 16;
        let values = |cell: &v1::Cell| {
            let counters = cell.counters.unwrap_or_default();
            let mut values = vec![0; v1::VitalValue::ViewersAtRisk as usize + 1];
            for (value, number) in [
                (v1::VitalValue::WatchedUs, counters.watched_us),
                (v1::VitalValue::Deliveries, counters.deliveries),
                (v1::VitalValue::AckedBytes, counters.acked_bytes),
                (v1::VitalValue::Segments, counters.segments),
                (v1::VitalValue::ViewersActive, cell.viewers_active),
                (v1::VitalValue::ViewersStalled, cell.viewers_stalled),
                (v1::VitalValue::ViewersAtRisk, cell.viewers_at_risk),
            ] {
                values[value as usize] = number;
            }
            values
        };
        let named = self.cells.len().min(NAMED);
        let mut other = vec![0; v1::VitalValue::ViewersAtRisk as usize + 1];
        for cell in &self.cells[named..] {
            for (sum, value) in other.iter_mut().zip(values(cell)) {
                *sum += value;
            }
        }
        v1::Vital {
            cells: self.cells[..named]
                .iter()
                .map(|cell| v1::VitalCell {
                    key: cell.key.clone(),
                    values: values(cell),
                })
                .collect(),
            other,
            cells_in_other: u32::try_from(self.cells.len() - named).unwrap_or(u32::MAX),
        }
    }
}

fn encoded(cell: &v1::Cell) -> Bytes {
    cell.encode_to_vec().into()
}

/// The cells of all edges have the same names, as those of one service have.
fn cell(n: u32) -> v1::Cell {
    v1::Cell {
        key: Some(v1::CellKey {
            service: format!("service-{}", n % 4),
            content_class: if n.is_multiple_of(2) { "segment" } else { "-" }.to_owned(),
            network: format!("network-{}", n / 4),
            transport: "tcp4".to_owned(),
            tier: v1::EvidenceTier::Server.into(),
            backend: v1::Backend::Exact.into(),
        }),
        counters: Some(v1::Counters::default()),
        histograms: METRICS
            .into_iter()
            .map(|metric| v1::Histogram {
                metric: wire::metric(metric).into(),
                grouping_power: metric.buckets().grouping_power().into(),
                max_value_power: metric.buckets().max_value_power().into(),
                bucket: (0..BUCKETS)
                    .map(|bucket| 300 + bucket * 4 + n % 4)
                    .collect(),
                count: vec![1; BUCKETS as usize],
            })
            .collect(),
        hosts: 1,
        sessions_open: 50,
        ..v1::Cell::default()
    }
}

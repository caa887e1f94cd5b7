//! The collector: ticks of many edges merged into the sum and into the last second, beside what it
//! would take only to decode them into values. On one thread, without network, compression or TLS.

use anyhow::{Result, anyhow};
use prost::Message as _;
use weir::collect::decode;
use weir::collect::fleet::{Fleet, How, Limits, Way};
use weir::kernel::BackendKind;
use weir::labels::Service;
use weir::qoe::cell::Cell;
use weir::qoe::{CellKey, Metric};
use weir::wire::{self, Heard, WIRE_VERSION};
use weir_proto::v1::{self, Lane};

use crate::machine::thread_time;
use crate::measure::Plan;
use crate::report::{Aim, Bound, Report, Samples, Table, Unit};

/// Of each edge.
const CELLS: usize = 100;
/// Of these, those in which something was counted since the tick before.
const BUSY: [usize; 3] = [0, 25, 100];
const METRICS: [Metric; 6] = [
    Metric::DeliveryLatencyUs,
    Metric::ThinkTimeUs,
    Metric::FirstByteUs,
    Metric::DeliveryTailUs,
    Metric::SrttUs,
    Metric::DeliveryRateKbps,
];
/// In each distribution before the first tick.
const VALUES: usize = 60;
const INTERVAL_NS: u64 = 1_000_000_000;
const BEGIN_NS: u64 = 1_700_000_000_000_000_000;

/// An edge that counts.
struct Edge {
    hello: v1::Hello,
    cells: Vec<(CellKey, Cell)>,
    random: fastrand::Rng,
    seq: u64,
    /// Where the next busy ones begin.
    next: usize,
}

impl Edge {
    fn new(n: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(n as u64);
        let cells = (0..CELLS).map(|cell| {
            let mut key = CellKey::other(BackendKind::Exact);
            key.service = Service::Named(format!("service-{}", cell % 4).into());
            key.network = format!("network-{}", cell / 4).into();
            let mut cell = Cell::default();
            count(&mut cell, VALUES, &mut random);
            (key, cell)
        });
        Self {
            hello: v1::Hello {
                wire_version: WIRE_VERSION,
                host: format!("edge-{n}"),
                boot_id: "boot".into(),
                lane: Lane::Warm.into(),
                ..v1::Hello::default()
            },
            cells: cells.collect(),
            random,
            seq: 0,
            next: 0,
        }
    }

    /// The next tick, as its frame is sent.
    fn tick(&mut self, busy: usize) -> Vec<u8> {
        for n in 0..busy {
            let place = (self.next + n) % CELLS;
            count(&mut self.cells[place].1, 4, &mut self.random);
        }
        self.next += busy;
        self.seq += 1;
        let cells = self.cells.iter().map(|(key, cell)| {
            let snapshot = cell.snapshot(key.clone(), true);
            wire::cell(&snapshot, 1, Heard::default())
        });
        let frame = v1::Frame {
            host: self.hello.host.clone(),
            boot_id: self.hello.boot_id.clone(),
            lane: Lane::Warm.into(),
            seq: self.seq,
            tick_seq: self.seq,
            unix_ns: BEGIN_NS + self.seq * INTERVAL_NS,
            tick: true,
            cells: cells.map(|cell| cell.encode_to_vec().into()).collect(),
            ..v1::Frame::default()
        };
        frame.encode_to_vec()
    }
}

fn count(cell: &mut Cell, values: usize, random: &mut fastrand::Rng) {
    cell.counters.deliveries += values as u64;
    cell.counters.acked_bytes += values as u64 * 850_000;
    cell.counters.segments += values as u64 * 600;
    for metric in METRICS {
        for _ in 0..values {
            cell.record(metric, random.u64(20_000..60_000));
        }
    }
}

/// In each round, microseconds of the processor for one tick.
#[derive(Default)]
struct Side {
    decoded_us: Samples,
    merged_us: Samples,
    cells_per_s: Samples,
}

/// Measures, and adds to the report.
pub(crate) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut sides = Vec::new();
    for busy in BUSY {
        let mut edges: Vec<_> = (0..plan.merge_edges).map(Edge::new).collect();
        let mut fleet = Fleet::new(Limits {
            max_hosts: plan.merge_edges,
            max_cells: plan.merge_edges * CELLS,
        });
        let mut side = Side::default();
        // The first tick of a boot is new in all its cells.
        round(&mut edges, &mut fleet, CELLS, &mut Side::default())?;
        for _ in 0..plan.merge_rounds {
            round(&mut edges, &mut fleet, busy, &mut side)?;
        }
        eprintln!("  merge, {busy} of {CELLS} cells busy");
        sides.push((busy, side));
    }
    tell(sides, report);
    Ok(())
}

fn round(edges: &mut [Edge], fleet: &mut Fleet, busy: usize, side: &mut Side) -> Result<()> {
    let frames: Vec<_> = edges.iter_mut().map(|edge| edge.tick(busy)).collect();
    let ticks = frames.len() as f64;
    let begin = thread_time()?;
    for frame in &frames {
        let frame = v1::Frame::decode(frame.as_slice())?;
        for cell in &frame.cells {
            std::hint::black_box(v1::Cell::decode(cell.clone())?);
        }
    }
    let decoded = thread_time()?.saturating_sub(begin);
    let begin = thread_time()?;
    for (edge, frame) in edges.iter().zip(frames) {
        let frame = v1::Frame::decode(bytes::Bytes::from(frame))?;
        let before = fleet.latest(&edge.hello);
        let cells = decode::frame(&frame, &edge.hello, &before)?;
        let how = How {
            way: Way::Engine,
            heard_unix_ns: frame.unix_ns,
            is_of_now: true,
            deliveries: frame.deliveries.len() as u64,
        };
        let merged = fleet.merge(&edge.hello, &frame, cells, how);
        merged.map_err(|err| anyhow!("{err}"))?;
    }
    std::hint::black_box(fleet.take_recent());
    let merged = thread_time()?.saturating_sub(begin);
    side.decoded_us.0.push(decoded.as_secs_f64() * 1e6 / ticks);
    side.merged_us.0.push(merged.as_secs_f64() * 1e6 / ticks);
    let cells = ticks * CELLS as f64;
    side.cells_per_s.0.push(cells / merged.as_secs_f64());
    Ok(())
}

fn tell(sides: Vec<(usize, Side)>, report: &mut Report) {
    let mut table = Table::new(
        "merge",
        "What a collector does with a tick of 100 cells",
        "busy cells",
        &[
            ("only decoded", Unit::Microseconds),
            ("merged", Unit::Microseconds),
            ("cells/s", Unit::PerSecond),
        ],
    )
    .note(
        "Processor time of one thread: a frame of 100 cells with six distributions each, decoded \
         into values, and, by turns, checked and merged into the fleet's sum and the second that is \
         open. Network, compression and TLS come on top: `weir fleet-sim` has them all.",
    );
    for (busy, side) in sides {
        if busy == 25 {
            report.aims.push(Aim {
                what: "a tick with a quarter of its cells busy merged, of decoding it".into(),
                unit: Unit::Ratio,
                bound: Bound::AtMost,
                limit: 1.0,
                measured: side.merged_us.over(&side.decoded_us),
            });
        }
        table.row(
            busy.to_string(),
            vec![side.decoded_us, side.merged_us, side.cells_per_s],
        );
    }
    report.tables.push(table);
}

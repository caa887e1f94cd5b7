//! What is held of one boot of one host.

use weir_proto::v1;

use super::gaps::Gaps;
use crate::qoe::CellSnapshot;
use crate::wire::Heard;

/// Lanes, the one that is none included.
const LANES: usize = v1::Lane::Drill as usize + 1;

/// A cell of a boot, and its place in the sum.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) place: u32,
    pub(super) cell: CellSnapshot,
}

/// One boot.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) hello: v1::Hello,
    /// To this collector.
    pub(super) connections: usize,
    /// By lane.
    pub(super) seqs: [Gaps; LANES],
    /// When the newest frame with cells reached a collector.
    pub(super) last_tick_ms: u64,
    /// When the newest of any kind did.
    pub(super) last_heard_ms: u64,
    pub(super) last_frame_unix_ns: u64,
    pub(super) clock_offset_ms: i64,
    pub(super) frames: u64,
    pub(super) frames_stale: u64,
    pub(super) frames_refused: u64,
    pub(super) events: u64,
    pub(super) events_total: u64,
    pub(super) deliveries: u64,
    pub(super) deliveries_total: u64,
    pub(super) losses: v1::Losses,
    /// What the sum was told that it has heard of the kernel.
    pub(super) heard: Heard,
    pub(super) vital: Option<v1::Vital>,
    pub(super) off: String,
    pub(super) budget: Option<v1::BudgetStatus>,
    pub(super) cells: Vec<Held>,
}

impl Boot {
    pub(super) fn new(hello: v1::Hello) -> Self {
        Self {
            hello,
            connections: 0,
            seqs: Default::default(),
            last_tick_ms: 0,
            last_heard_ms: 0,
            last_frame_unix_ns: 0,
            clock_offset_ms: 0,
            frames: 0,
            frames_stale: 0,
            frames_refused: 0,
            events: 0,
            events_total: 0,
            deliveries: 0,
            deliveries_total: 0,
            losses: v1::Losses::default(),
            heard: Heard::default(),
            vital: None,
            off: String::new(),
            budget: None,
            cells: Vec::new(),
        }
    }

    /// The frames of a lane.
    pub(super) fn lane(&mut self, lane: v1::Lane) -> &mut Gaps {
        // Every lane is less than their number.
        &mut self.seqs[lane as usize % LANES]
    }

    /// Viewers that are active, stand still, and are about to, by the latest vital frame.
    pub(super) fn viewers(&self) -> Option<[u64; 3]> {
        let vital = self.vital.as_ref()?;
        let all = vital.cells.iter().map(|cell| &cell.values);
        let all = all.chain([&vital.other]);
        let values = [
            v1::VitalValue::ViewersActive,
            v1::VitalValue::ViewersStalled,
            v1::VitalValue::ViewersAtRisk,
        ];
        Some(values.map(|value| {
            let each = all.clone().filter_map(|values| values.get(value as usize));
            each.fold(0, |sum: u64, value| sum.saturating_add(*value))
        }))
    }
}

//! What is held of one boot of one host.

use std::sync::Arc;

use hashbrown::HashMap;
use weir_proto::v1;

use crate::collect::gaps::Gaps;
use crate::collect::sent::SentCell;
use crate::wire::Heard;

/// Lanes, the one that is none included.
const LANES: usize = v1::Lane::Drill as usize + 1;

/// A lane's place among them.
pub(super) fn place(lane: v1::Lane) -> usize {
    // Every lane is less than their number.
    lane as usize % LANES
}

/// Of a lane's newest frame.
#[derive(Clone, Copy, Debug, Default)]
struct About {
    delay_us: u64,
    unix_ns: u64,
}

/// The cells of a boot, and their places in the sum.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) cells: Arc<[SentCell]>,
    pub(super) places: Vec<u32>,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Each with its place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &SentCell)> {
        self.places.iter().copied().zip(self.cells.iter())
    }
}

/// One boot.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) hello: v1::Hello,
    /// To this collector, by lane.
    pub(super) connections: [usize; LANES],
    /// By lane.
    about: [About; LANES],
    /// By the host's own count.
    counts: Vec<v1::LaneCounts>,
    /// By lane.
    pub(super) seqs: [Gaps; LANES],
    /// When the newest frame with cells reached a collector.
    pub(super) last_tick_ms: u64,
    /// When the newest of any kind did.
    pub(super) last_heard_ms: u64,
    /// When the newest did that it sent itself; what a later boot found of it on disk is not that.
    pub(super) last_alive_ms: u64,
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
    pub(super) gate: Option<v1::GateWord>,
    pub(super) off: String,
    pub(super) budget: Option<v1::BudgetStatus>,
    pub(super) cells: Held,
}

/// What was counted of frames; sums over boots only grow, but for what is missing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) frames: u64,
    pub(super) frames_lost: u64,
    pub(super) frames_stale: u64,
    pub(super) frames_refused: u64,
    pub(super) events: u64,
    pub(super) events_lost: u64,
    pub(super) deliveries: u64,
    pub(super) deliveries_lost: u64,
}

impl Sums {
    pub(super) fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.frames_lost = self.frames_lost.saturating_add(other.frames_lost);
        self.frames_stale += other.frames_stale;
        self.frames_refused += other.frames_refused;
        self.events += other.events;
        // What an edge says that it made is anything.
        self.events_lost = self.events_lost.saturating_add(other.events_lost);
        self.deliveries += other.deliveries;
        self.deliveries_lost = self.deliveries_lost.saturating_add(other.deliveries_lost);
    }
}

impl Boot {
    pub(super) fn new(hello: v1::Hello) -> Self {
        Self {
            hello,
            connections: [0; LANES],
            about: [About::default(); LANES],
            counts: Vec::new(),
            seqs: Default::default(),
            last_tick_ms: 0,
            last_heard_ms: 0,
            last_alive_ms: 0,
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
            gate: None,
            off: String::new(),
            budget: None,
            cells: Held::default(),
        }
    }

    /// Whether this is its name.
    pub(super) fn is(&self, boot_id: &str) -> bool {
        self.hello.boot_id == boot_id
    }

    /// The frames of a lane.
    pub(super) fn lane(&mut self, lane: v1::Lane) -> &mut Gaps {
        &mut self.seqs[place(lane)]
    }

    /// Whether any lane is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.connections.iter().any(|connections| *connections > 0)
    }

    /// What was counted of its frames.
    pub(super) fn sums(&self) -> Sums {
        let lost = self.seqs.iter().map(Gaps::lost);
        Sums {
            frames: self.frames,
            frames_lost: lost.fold(0, u64::saturating_add),
            frames_stale: self.frames_stale,
            frames_refused: self.frames_refused,
            events: self.events,
            events_lost: self.events_total.saturating_sub(self.events),
            deliveries: self.deliveries,
            deliveries_lost: self.deliveries_total.saturating_sub(self.deliveries),
        }
    }

    /// Whether no frame of it ever came.
    pub(super) fn is_unheard(&self) -> bool {
        self.seqs.iter().all(|seqs| seqs.newest() == 0)
    }

    /// Takes note of what a lane's newest frame says of the lanes.
    pub(super) fn note(&mut self, lane: v1::Lane, frame: &v1::Frame) {
        self.about[place(lane)] = About {
            delay_us: frame.delay_us,
            unix_ns: frame.unix_ns,
        };
        for counts in &frame.lanes {
            let mut known = self.counts.iter();
            // Frames of each lane tell of all; the largest counts are the latest.
            match known.position(|known| known.lane == counts.lane) {
                Some(at) if self.counts[at].frames_made <= counts.frames_made => {
                    self.counts[at] = *counts;
                }
                None if self.counts.len() < LANES => self.counts.push(*counts),
                _ => {}
            }
        }
    }

    /// Those lanes of which anything is known.
    pub(super) fn lanes(&self) -> Vec<v1::HostLane> {
        let lanes = [
            v1::Lane::Hot,
            v1::Lane::Warm,
            v1::Lane::Cold,
            v1::Lane::Drill,
        ];
        let of = |lane: v1::Lane| {
            let place = place(lane);
            v1::HostLane {
                lane: lane.into(),
                connected: self.connections[place] > 0,
                last_seq: self.seqs[place].newest(),
                frames_lost: self.seqs[place].lost(),
                delay_us: self.about[place].delay_us,
                last_frame_unix_ns: self.about[place].unix_ns,
                counts: self.counts.iter().find(|one| one.lane() == lane).copied(),
            }
        };
        let is_known = |lane: &v1::HostLane| lane.connected || lane.last_seq > 0;
        lanes.into_iter().map(of).filter(is_known).collect()
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

/// A boot's cells before a tick, from which those that go on are taken.
pub(super) struct Before {
    held: Held,
    taken: Vec<bool>,
    /// By key as it was sent; made when the order has changed.
    by_key: Option<HashMap<Box<[u8]>, usize>>,
}

impl Before {
    pub(super) fn new(held: Held) -> Self {
        Self {
            taken: vec![false; held.cells.len()],
            held,
            by_key: None,
        }
    }

    /// The cell with this one's key, and its place; an edge nearly always has it where it was.
    pub(super) fn take(&mut self, n: usize, cell: &SentCell) -> Option<(u32, &SentCell)> {
        let cells = &self.held.cells;
        let is_same = |before: &SentCell| before.key_bytes() == cell.key_bytes();
        let n = if cells.get(n).is_some_and(is_same) {
            n
        } else {
            let by_key = self.by_key.get_or_insert_with(|| {
                let keys = cells.iter().map(|cell| cell.key_bytes().into());
                keys.zip(0..).collect()
            });
            *by_key.get(cell.key_bytes())?
        };
        self.taken[n] = true;
        Some((self.held.places[n], &self.held.cells[n]))
    }

    /// Those that do not go on.
    pub(super) fn left(&self) -> impl Iterator<Item = (u32, &SentCell)> {
        let all = self.held.iter().zip(&self.taken);
        all.filter(|(_, is_taken)| !**is_taken)
            .map(|(held, _)| held)
    }
}

//! What the lanes have in common: who they are, what they count, and what a connection wants of
//! each.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::{self, Lane};

use super::queue::Counts;

const LANES: [Lane; 4] = [Lane::Hot, Lane::Warm, Lane::Cold, Lane::Drill];

/// What the uplink says about itself. The core reads it, the lanes write it.
#[derive(Debug)]
pub struct UplinkCounts {
    collector: Mutex<String>,
    lanes: [Mutex<v1::LaneStatus>; LANES.len()],
    ring: Mutex<Option<v1::RingStatus>>,
    /// In force, and those that were refused.
    pub(super) subscriptions: (AtomicU32, AtomicU64),
    /// Seconds that the ring's disk did not take.
    pub ring_unwritten: AtomicU64,
}

impl Default for UplinkCounts {
    fn default() -> Self {
        Self {
            collector: Mutex::default(),
            lanes: LANES.map(|lane| {
                Mutex::new(v1::LaneStatus {
                    lane: lane.into(),
                    counts: Some(v1::LaneCounts {
                        lane: lane.into(),
                        ..v1::LaneCounts::default()
                    }),
                    ..v1::LaneStatus::default()
                })
            }),
            ring: Mutex::default(),
            subscriptions: Default::default(),
            ring_unwritten: AtomicU64::new(0),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UplinkCounts {
    fn lane(&self, lane: Lane) -> MutexGuard<'_, v1::LaneStatus> {
        let place = LANES.iter().position(|one| *one == lane).unwrap_or(0);
        locked(&self.lanes[place])
    }

    /// How all is.
    pub fn status(&self) -> v1::UplinkStatus {
        let hot = self.lane(Lane::Hot).clone();
        let used = |status: &v1::LaneStatus| {
            status.connected
                || !status.last_error.is_empty()
                || status
                    .counts
                    .is_some_and(|counts| counts.frames_made > 0 || counts.items_made > 0)
        };
        let lanes = LANES.iter().map(|lane| self.lane(*lane).clone());
        v1::UplinkStatus {
            collector: locked(&self.collector).clone(),
            connected: hot.connected,
            sent_seq: hot.sent_seq,
            acked_seq: hot.acked_seq,
            reconnects: hot.reconnects,
            last_error: hot.last_error,
            lanes: lanes.filter(used).collect(),
            ring: locked(&self.ring).clone(),
            subscriptions: self.subscriptions.0.load(Ordering::Relaxed),
            subscriptions_refused: self.subscriptions.1.load(Ordering::Relaxed),
        }
    }

    /// What became of the frames of each lane that has any.
    pub fn counts(&self) -> Vec<v1::LaneCounts> {
        let counts = LANES.iter().filter_map(|lane| self.lane(*lane).counts);
        counts.filter(|counts| counts.frames_made > 0).collect()
    }

    /// Of one lane.
    pub fn of(&self, lane: Lane) -> v1::LaneCounts {
        self.lane(lane).counts.unwrap_or_default()
    }

    pub(super) fn set_collector(&self, collector: &str) {
        collector.clone_into(&mut locked(&self.collector));
    }

    pub(super) fn set_ring(&self, ring: v1::RingStatus) {
        *locked(&self.ring) = Some(ring);
    }

    pub(super) fn update(&self, lane: Lane, change: impl FnOnce(&mut v1::LaneStatus)) {
        change(&mut self.lane(lane));
    }

    pub(super) fn count(&self, lane: Lane, change: impl FnOnce(&mut v1::LaneCounts)) {
        change(self.lane(lane).counts.get_or_insert_default());
    }
}

/// How hard it is to get the hot lane's frames through. Whoever is less important makes room.
#[derive(Debug, Default)]
pub(super) struct Pressure(AtomicU8);

impl Pressure {
    /// A hot frame that is not taken after so long is held up: the cold lane stops.
    pub(super) const COLD_STOPS: Duration = Duration::from_secs(1);
    /// And after so long the warm lane, too.
    pub(super) const WARM_STOPS: Duration = Duration::from_secs(3);

    /// `age`: of the oldest hot frame that the collector has not taken. How long what stands behind
    /// the collector takes is no sign of a way that is too narrow.
    pub(super) fn set(&self, age: Duration) {
        let level = u8::from(age >= Self::COLD_STOPS) + u8::from(age >= Self::WARM_STOPS);
        self.0.store(level, Ordering::Relaxed);
    }

    /// Whether a lane has to stop.
    pub(super) fn stops(&self, lane: Lane) -> bool {
        let level = self.0.load(Ordering::Relaxed);
        match lane {
            Lane::Hot | Lane::Unspecified => false,
            Lane::Warm => level >= 2,
            Lane::Cold | Lane::Drill => level >= 1,
        }
    }
}

/// What all lanes of one boot know.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) hello: v1::Hello,
    pub(super) counts: Arc<UplinkCounts>,
    pub(super) pressure: Arc<Pressure>,
}

/// A lane's numbers.
#[derive(Debug)]
pub(super) struct Numbers {
    lane: Lane,
    common: Common,
    seq: u64,
}

impl Numbers {
    pub(super) fn new(lane: Lane, common: Common) -> Self {
        Self {
            lane,
            common,
            seq: 0,
        }
    }

    /// The head of the next frame.
    pub(super) fn next(&mut self) -> v1::Frame {
        self.seq += 1;
        self.common
            .counts
            .count(self.lane, |counts| counts.frames_made += 1);
        v1::Frame {
            host: self.common.hello.host.clone(),
            boot_id: self.common.hello.boot_id.clone(),
            lane: self.lane.into(),
            seq: self.seq,
            ..v1::Frame::default()
        }
    }

    /// A frame is not sent, because a newer one replaces it: its number is a gap.
    pub(super) fn shed(&mut self) {
        self.next();
        self.common
            .counts
            .count(self.lane, |counts| counts.frames_shed += 1);
    }

    /// What the lane's queue counted.
    pub(super) fn items(&self, queue: Counts) {
        self.common.counts.count(self.lane, |counts| {
            counts.items_made = queue.made;
            counts.items_shed = queue.shed;
        });
    }

    pub(super) fn all(&self) -> Vec<v1::LaneCounts> {
        self.common.counts.counts()
    }
}

/// Something to be sent.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) message: Up,
    /// Since when it waits: the oldest of what is in it.
    pub(super) since: Instant,
}

impl Made {
    pub(super) fn frame(frame: v1::Frame, since: Instant) -> Self {
        Self {
            message: Up::Frame(frame),
            since,
        }
    }
}

/// What may be sent now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// A frame of a tick.
    pub(super) tick: bool,
    /// What the lane's budget is for.
    pub(super) budgeted: bool,
    /// What was sent before.
    pub(super) again: bool,
}

/// What a lane has to send. The connection asks; nothing here waits for it.
pub(super) trait Source: Send {
    const LANE: Lane;
    /// Whether ticks are what the budget is for.
    const TICKS_ARE_BUDGETED: bool;
    /// Whether what is new goes on while what the collector has taken is not safe yet.
    const GOES_ON: bool = false;

    /// Whether there is something to be sent.
    fn has_next(&self, room: Room) -> bool;
    /// Makes it.
    fn next(&mut self, room: Room) -> Option<Made>;
    /// Takes in what is new, and waits for it if there is nothing. May be dropped while it waits.
    fn hear(&mut self) -> impl Future<Output = ()> + Send;
    /// There is a new connection: what was under way on the one before is lost.
    /// `last_seq`: the newest number that the collector has of this lane and boot.
    fn begin(&mut self, last_seq: u64);
    /// Takes in what is new for the last time.
    fn finish(&mut self);
    /// What the collector wants.
    fn obey(&mut self, _wish: v1::collector_message::Message) {}
}

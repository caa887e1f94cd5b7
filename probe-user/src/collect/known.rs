//! What is known of the hosts of one partition, shared by those who add to it and those who ask.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use weir_proto::v1;

use super::fleet::{Error, Fleet, How, Merged, Way};
use super::minutes::Minutes;
use super::sent::SentCell;
use crate::query::filter::Filter;

/// A frame that reached a collector so long before the second that is open now is in the sum, and
/// in no window.
const LATELY_S: u64 = 5;

/// Time between two looks for cells in which nobody counts any more.
const ROOM_S: u64 = 60;

/// The fleet and its last minutes.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) fleet: Fleet,
    pub(super) minutes: Minutes,
    /// The second that is open.
    second: u64,
}

impl Known {
    /// Closes all seconds before `unix_s`.
    fn advance(&mut self, unix_s: u64) {
        if unix_s > self.second {
            let counted = self.fleet.take_recent();
            if self.second > 0 {
                // What came in it, and that nothing came since.
                self.minutes.close(self.second, counted);
                self.minutes.close(unix_s - 1, Vec::new());
            }
            if unix_s / ROOM_S != self.second / ROOM_S {
                self.fleet.make_room_for_cells();
                let gone = self.fleet.make_room(unix_s * 1_000);
                if !gone.is_empty() {
                    self.minutes.replace(&gone);
                }
            }
            self.second = unix_s;
        }
    }
}

impl Known {
    /// What it holds.
    pub(super) fn status(&self) -> v1::CollectorStatus {
        let (frames_merged, cells_merged) = self.fleet.merged();
        let (minutes_s, minutes_bytes) = self.minutes.held();
        v1::CollectorStatus {
            frames_merged,
            cells_merged,
            cells_held: self.fleet.cells_held() as u64,
            cells_overflowed: self.fleet.cells_overflowed(),
            minutes_s: minutes_s as u64,
            minutes_bytes,
            minutes_dropped_s: self.minutes.dropped(),
            ..v1::CollectorStatus::default()
        }
    }
}

/// A frame on its way into the sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coming<'a> {
    pub(super) hello: &'a v1::Hello,
    pub(super) frame: &'a v1::Frame,
    pub(super) way: Way,
    pub(super) heard_unix_ns: u64,
    /// Finished deliveries that it had.
    pub(super) deliveries: u64,
}

/// All of it, behind one lock that is never held for long.
#[derive(Debug)]
pub(super) struct Shared {
    known: Mutex<Known>,
}

impl Shared {
    pub(super) fn new(fleet: Fleet, minutes: Minutes) -> Self {
        Self {
            known: Mutex::new(Known {
                fleet,
                minutes,
                second: 0,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest cells of the boot that a hello names.
    pub(super) fn latest(&self, hello: &v1::Hello) -> Arc<[SentCell]> {
        self.lock().fleet.latest(hello)
    }

    /// Merges a frame whose cells were checked.
    pub(super) fn merge(
        &self,
        coming: Coming<'_>,
        cells: Arc<[SentCell]>,
    ) -> Result<Merged, Error> {
        let Coming {
            hello,
            frame,
            way,
            heard_unix_ns,
            deliveries,
        } = coming;
        let heard_s = heard_unix_ns / 1_000_000_000;
        let mut known = self.lock();
        if way == Way::Engine {
            // While it is rebuilt, time is that of the frames. Another collector's clock may be
            // ahead; the future stays open.
            known.advance(heard_s.min(unix_ns() / 1_000_000_000));
        }
        let how = How {
            way,
            heard_unix_ns,
            is_of_now: heard_s + LATELY_S >= known.second,
            deliveries,
        };
        known.fleet.merge(hello, frame, cells, how)
    }

    /// What was counted in the last `seconds` before `until_unix_s`, or before the second that is
    /// open if that is earlier.
    pub(super) fn window(
        &self,
        filter: &Filter,
        histograms: bool,
        (seconds, until_unix_s): (u32, u64),
        now_unix_ns: u64,
    ) -> v1::Window {
        let known = self.lock();
        let window = known.minutes.window(seconds, until_unix_s);
        v1::Window {
            until_unix_ns: window.until_unix_s * 1_000_000_000,
            seconds: window.seconds,
            cells: known
                .fleet
                .window(&window.cells, filter, histograms, now_unix_ns),
            hosts: u32::try_from(known.fleet.len()).unwrap_or(u32::MAX),
            missing: Vec::new(),
        }
    }

    /// Time has come to `unix_s`.
    pub(super) fn advance(&self, unix_s: u64) {
        self.lock().advance(unix_s);
    }
}

/// Now.
pub(super) fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

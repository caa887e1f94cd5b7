//! The partitions whose hosts are merged here. Alone, a collector holds the only one there is; with
//! others behind one engine, each holds some.
//!
//! A partition is taken up and let go as a whole, with all that was counted in it: what two
//! collectors hold of it is of one origin, and only one of them is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;
use weir_proto::v1;

use super::fleet::{Error, Fleet, InAll, Limits};
use super::guests::Guests;
use super::known::{Shared, unix_ns};
use super::minutes::{self, Minutes};
use super::partition::partition;

/// A partition, from its taking up to its letting go.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) partition: u32,
    /// No other time that any partition was held here has this number.
    pub(super) generation: u64,
    pub(super) known: Shared,
    /// What the engine had of it was taken in once.
    is_whole: AtomicBool,
    /// The same of how many finished deliveries there were.
    is_tallied: AtomicBool,
    /// And what comes is.
    is_followed: AtomicBool,
    /// It is at what the engine has from before: its time is that of what it reads, and what hosts
    /// say now comes in its turn, by way of the engine.
    reads_history: AtomicBool,
}

impl Held {
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed) && self.is_tallied.load(Ordering::Relaxed)
    }

    /// The finished deliveries that there were are counted, or cannot be.
    pub(super) fn tallied(&self) {
        self.is_tallied.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_followed(&self) -> bool {
        self.is_followed.load(Ordering::Relaxed)
    }

    pub(super) fn reads_history(&self) -> bool {
        self.reads_history.load(Ordering::Relaxed)
    }

    /// All that there was is taken in.
    pub(super) fn caught_up(&self) {
        self.stop_reading_history();
        self.is_whole.store(true, Ordering::Relaxed);
        self.is_followed.store(true, Ordering::Relaxed);
    }

    /// The engine is away, or cannot be read.
    pub(super) fn lost_the_engine(&self) {
        self.stop_reading_history();
        self.is_followed.store(false, Ordering::Relaxed);
    }

    /// From now on its time is the collector's, and what hosts say is merged when they say it.
    pub(super) fn stop_reading_history(&self) {
        if self.reads_history.swap(false, Ordering::Relaxed) {
            self.known.advance(unix_ns() / 1_000_000_000);
        }
    }
}

/// What was counted in partitions that were let go.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    frames: u64,
    cells: u64,
    overflowed: u64,
    dropped_s: u64,
}

/// All that are held.
#[derive(Debug)]
pub(super) struct Holding {
    partitions: u32,
    limits: Limits,
    minutes: minutes::Limits,
    in_all: Arc<InAll>,
    /// Goes before `held` where both are needed.
    guests: Mutex<Guests>,
    held: RwLock<BTreeMap<u32, Arc<Held>>>,
    past: Mutex<Past>,
    generations: AtomicU64,
    /// The second that was closed last.
    closed: watch::Sender<u64>,
}

impl Holding {
    /// None of `partitions` yet.
    pub(super) fn new(partitions: u32, limits: Limits, minutes: minutes::Limits) -> Self {
        Self {
            partitions: partitions.max(1),
            limits,
            minutes,
            in_all: Arc::default(),
            guests: Mutex::new(Guests::new(limits.max_hosts)),
            held: RwLock::default(),
            past: Mutex::default(),
            generations: AtomicU64::new(0),
            closed: watch::Sender::new(0),
        }
    }

    /// How many partitions there are.
    pub(super) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Where a host belongs.
    pub(super) fn partition(&self, host: &str) -> u32 {
        partition(host, self.partitions)
    }

    /// A partition, if it is held.
    pub(super) fn at(&self, partition: u32) -> Option<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(&partition).cloned()
    }

    /// Those that are held.
    pub(super) fn all(&self) -> Vec<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.values().cloned().collect()
    }

    /// What is known of who is connected.
    pub(super) fn guests<T>(&self, of: impl FnOnce(&mut Guests) -> T) -> T {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        of(&mut guests)
    }

    /// Holds a partition from now on. `has_history`: the engine may have something of it.
    pub(super) fn take_up(&self, partition: u32, has_history: bool) -> Arc<Held> {
        let fleet = Fleet::beside(self.limits, Arc::clone(&self.in_all));
        let known = Shared::new(fleet, Minutes::new(self.minutes));
        if !has_history {
            known.advance(unix_ns() / 1_000_000_000);
        }
        let held = Arc::new(Held {
            partition,
            generation: self.generations.fetch_add(1, Ordering::Relaxed) + 1,
            known,
            is_whole: AtomicBool::new(false),
            is_tallied: AtomicBool::new(false),
            is_followed: AtomicBool::new(false),
            reads_history: AtomicBool::new(has_history),
        });
        self.guests(|guests| {
            for hello in guests.connected() {
                if self.partition(&hello.host) == partition
                    && let Err(err) = held.known.lock().fleet.connect(&hello)
                {
                    tracing::warn!(host = hello.host, "connected, and not taken up: {err}");
                }
            }
            let mut all = self.held.write().unwrap_or_else(PoisonError::into_inner);
            all.insert(partition, Arc::clone(&held));
        });
        self.share_minutes();
        held
    }

    /// Holds a partition no longer.
    pub(super) fn let_go(&self, partition: u32) {
        let gone = {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            held.remove(&partition)
        };
        if let Some(gone) = gone {
            let status = gone.known.lock().status();
            let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
            past.frames += status.frames_merged;
            past.cells += status.cells_merged;
            past.overflowed += status.cells_overflowed;
            past.dropped_s += status.minutes_dropped_s;
        }
        self.share_minutes();
    }

    /// The minutes of all together keep to their bytes.
    fn share_minutes(&self) {
        let all = self.all();
        let each = self.minutes.max_bytes / all.len().max(1) as u64;
        for held in all {
            held.known.lock().minutes.limit(each);
        }
    }

    /// A lane of a host has connected. Gives the newest frame of it that is known here.
    pub(super) fn connect(&self, hello: &v1::Hello) -> Result<u64, Error> {
        let partition = self.partition(&hello.host);
        self.guests(|guests| {
            let newest = match self.at(partition) {
                Some(held) => held.known.lock().fleet.connect(hello)?,
                None => 0,
            };
            if let Err(err) = guests.connect(hello, unix_ns()) {
                if let Some(held) = self.at(partition) {
                    held.known.lock().fleet.disconnect(hello);
                }
                return Err(err);
            }
            Ok(newest.max(guests.newest(hello)))
        })
    }

    /// Its connection has ended.
    pub(super) fn disconnect(&self, hello: &v1::Hello) {
        self.guests(|guests| {
            guests.disconnect(hello);
            if let Some(held) = self.at(self.partition(&hello.host)) {
                held.known.lock().fleet.disconnect(hello);
            }
        });
    }

    /// A frame of a host could not be used.
    pub(super) fn refuse(&self, hello: &v1::Hello) {
        match self.at(self.partition(&hello.host)) {
            Some(held) => held.known.lock().fleet.refused(hello),
            None => self.guests(|guests| guests.refuse(hello)),
        }
    }

    /// When a host was last heard of here.
    pub(super) fn last_heard_unix_ns(&self, host: &str) -> Option<u64> {
        let guest = self.guests(|guests| guests.seen(host)).map(|(_, at)| at);
        let held = self.at(self.partition(host));
        let merged = held.and_then(|held| held.known.lock().fleet.last_heard_unix_ns(host));
        guest.max(merged)
    }

    /// Time has come to `unix_s`.
    pub(super) fn advance(&self, unix_s: u64) {
        for held in self.all() {
            if !held.reads_history() {
                held.known.advance(unix_s);
            }
        }
        self.closed.send_replace(unix_s);
    }

    /// Becomes known with each second that is over.
    pub(super) fn seconds(&self) -> watch::Receiver<u64> {
        self.closed.subscribe()
    }

    /// What it holds.
    pub(super) fn status(&self) -> v1::CollectorStatus {
        let past = *self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = v1::CollectorStatus {
            frames_merged: past.frames,
            cells_merged: past.cells,
            cells_overflowed: past.overflowed,
            minutes_dropped_s: past.dropped_s,
            partitions_in_all: self.partitions,
            ..v1::CollectorStatus::default()
        };
        for held in self.all() {
            let one = held.known.lock().status();
            sum.frames_merged += one.frames_merged;
            sum.cells_merged += one.cells_merged;
            sum.cells_held += one.cells_held;
            sum.cells_overflowed += one.cells_overflowed;
            sum.minutes_s = sum.minutes_s.max(one.minutes_s);
            sum.minutes_bytes += one.minutes_bytes;
            sum.minutes_dropped_s += one.minutes_dropped_s;
            sum.partitions.push(held.partition);
        }
        sum
    }
}

//! What a collector knows: the latest cumulative state of every boot of every host, and their
//! exact sum.
//!
//! Pure: time enters as an argument. A boot's newest frame replaces all before it, so lost, late,
//! repeated and reordered frames cost resolution, never truth. A host is the sum of its boots, so
//! a restart loses and doubles nothing. The sum is kept as frames come in: each puts its boot's new
//! counts in the place of the old ones.

mod boot;
mod host;
mod in_all;
mod past;
mod risk;
mod room;
#[cfg(test)]
mod tests;
mod told;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_proto::v1;

use super::gaps::Arrival;
use crate::collect::sent::{self, SentCell};
use crate::qoe::CellSnapshot;
use crate::wire::Heard;
use boot::{Before, Boot, Held};
use host::Host;
pub use in_all::InAll;
pub use risk::{RISK_WINDOW_MS, rank};
pub(in crate::collect) use totals::MAX_TOTALS;
use totals::{Recent, Totals};

/// Cells of the sum in which a host counts; one that has more brings no new ones there, but for what
/// is counted in `other`. An edge has 256 at a time.
const MAX_PLACES_OF_A_HOST: usize = 512;
/// A gauge is of the moment: one older than this is not told. A host unheard of for so long is
/// silent.
pub const FRESH_MS: u64 = 15_000;

/// What bounds a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hosts.
    pub max_hosts: usize,
    /// Cells of all boots together.
    pub max_cells: usize,
}

/// Why a host or a frame is refused although it is well formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No room for another host.
    #[error("this collector holds {0} hosts already, as many as it may")]
    TooManyHosts(usize),
    /// No room for more cells.
    #[error("this collector holds {0} cells already, as many as it may")]
    TooManyCells(usize),
    /// As many boots of one host are connected as are kept apart.
    #[error(
        "{0} boots of this host are connected at once; do several hosts have one name \
         (collector.host)?"
    )]
    TooManyBoots(usize),
    /// It was long gone.
    #[error(
        "boot {0} was silent while many others of its host were there, so it is over: what it had \
         counted is kept, and what it counts now is taken when its daemon is started again"
    )]
    Past(String),
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It was the newest.
    New,
    /// It came after a newer one: what happened is counted, its cells are not needed any more.
    Late,
    /// It was here before: ignored.
    Repeated,
}

/// By which way a frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From its host.
    Link,
    /// Through the engine, where a frame of this collector's own comes back as well.
    Engine,
}

/// How and when a frame came.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// By which way.
    pub way: Way,
    /// When it reached a collector.
    pub heard_unix_ns: u64,
    /// Whether what it counts anew belongs to the second that is open.
    pub is_of_now: bool,
    /// Finished deliveries that it had, also if they are not in it any more.
    pub deliveries: u64,
}

/// All hosts.
#[derive(Debug)]
pub struct Fleet {
    hosts: BTreeMap<String, Host>,
    limits: Limits,
    cells: usize,
    /// Some host has boots that rest.
    has_resting: bool,
    in_all: in_all::Part,
    totals: Totals,
    /// What was counted since it was last taken.
    recent: Recent,
    frames: u64,
    cells_merged: u64,
    /// When the oldest boot began, by its own clock; 0: none has said so.
    began_unix_ns: u64,
}

impl Fleet {
    /// No hosts yet.
    pub fn new(limits: Limits) -> Self {
        Self::beside(limits, Arc::default())
    }

    /// One of several, which share their limits.
    pub fn beside(limits: Limits, others: Arc<InAll>) -> Self {
        Self {
            in_all: in_all::Part::new(others),
            hosts: BTreeMap::new(),
            limits,
            cells: 0,
            has_resting: false,
            totals: Totals::default(),
            recent: Recent::default(),
            frames: 0,
            cells_merged: 0,
            began_unix_ns: 0,
        }
    }

    /// A host has connected. Returns the last frame number that is known of this boot.
    pub fn connect(&mut self, hello: &v1::Hello) -> Result<u64, Error> {
        let boot = self.meet(hello)?;
        boot.connections[boot::place(hello.lane())] += 1;
        Ok(boot.lane(hello.lane()).newest())
    }

    /// A connection has ended.
    pub fn disconnect(&mut self, hello: &v1::Hello) {
        if let Some(boot) = self.boot(hello) {
            let connections = &mut boot.connections[boot::place(hello.lane())];
            *connections = connections.saturating_sub(1);
        }
    }

    /// The boot that a hello names, which may be new.
    fn meet(&mut self, hello: &v1::Hello) -> Result<&mut Boot, Error> {
        let in_all = self.in_all.hosts();
        if !self.hosts.contains_key(&hello.host) && in_all >= self.limits.max_hosts {
            return Err(Error::TooManyHosts(in_all));
        }
        let may_rest = self.may_rest();
        let host = self.hosts.entry(hello.host.clone()).or_default();
        host.meet(hello, may_rest, &mut self.cells)?;
        self.has_resting |= host.has_resting();
        self.in_all.note(self.hosts.len(), self.cells);
        self.boot(hello)
            .ok_or_else(|| Error::Past(hello.boot_id.clone()))
    }

    /// Merges a frame whose cells were checked.
    pub fn merge(
        &mut self,
        hello: &v1::Hello,
        frame: &v1::Frame,
        cells: Arc<[SentCell]>,
        how: How,
    ) -> Result<Merged, Error> {
        let How {
            way,
            heard_unix_ns,
            is_of_now,
            deliveries,
        } = how;
        if way == Way::Engine {
            // Of another collector's host, which said hello there.
            self.meet(hello)?;
        }
        let Some(boot) = self.boot(hello) else {
            return Err(Error::Past(hello.boot_id.clone()));
        };
        let has_cells = frame.tick && frame.vital.is_none();
        let lane = match frame.lane() {
            v1::Lane::Unspecified => hello.lane(),
            lane => lane,
        };
        let newest = boot.lane(lane).newest();
        let more = cells.len().saturating_sub(boot.cells.len());
        if has_cells && frame.seq > newest && more > 0 {
            self.room_for(more)?;
        }
        let Some(boot) = self.boot(hello) else {
            return Err(Error::Past(hello.boot_id.clone()));
        };
        let merged = match boot.lane(lane).arrive(frame.seq) {
            Arrival::Newest => Merged::New,
            Arrival::Missing => Merged::Late,
            Arrival::Repeated => {
                boot.frames_stale += u64::from(way == Way::Link);
                return Ok(Merged::Repeated);
            }
        };
        boot.frames += 1;
        boot.events += frame.events.len() as u64;
        boot.events_total = boot.events_total.max(frame.events_total);
        boot.deliveries += deliveries;
        boot.deliveries_total = boot.deliveries_total.max(frame.deliveries_total);
        let heard_ms = heard_unix_ns / 1_000_000;
        boot.last_heard_ms = boot.last_heard_ms.max(heard_ms);
        if !hello.is_recovery {
            boot.last_alive_ms = boot.last_alive_ms.max(heard_ms);
        }
        if merged == Merged::New {
            boot.note(lane, frame);
            boot.last_frame_unix_ns = boot.last_frame_unix_ns.max(frame.unix_ns);
            if frame.tick && !hello.is_recovery {
                // Other frames, and those of older edges, say when something happened.
                let sent_unix_ns = i128::from(frame.unix_ns) + i128::from(frame.delay_us) * 1_000;
                let ahead_ns = sent_unix_ns - i128::from(heard_unix_ns);
                boot.clock_offset_ms = i64::try_from(ahead_ns / 1_000_000).unwrap_or(i64::MAX);
            }
            if frame.tick {
                boot.losses = frame.losses.unwrap_or_default();
                boot.off.clone_from(&frame.off);
                boot.budget.clone_from(&frame.budget);
            }
            let vital = frame.vital.is_some();
            if vital {
                boot.vital.clone_from(&frame.vital);
                boot.gate = frame.gate;
            }
            let at_risk = boot
                .viewers()
                .map_or(0, |[_, stalled, at_risk]| stalled + at_risk);
            if vital && let Some(host) = self.hosts.get_mut(&hello.host) {
                host.risk.tick(heard_ms, at_risk);
            }
            if has_cells {
                let is_older = newest == 0 && frame.seq > 1;
                self.tick(hello, cells, heard_ms, is_of_now && !is_older);
            }
        }
        self.frames += 1;
        if self.began_unix_ns == 0 || (1..self.began_unix_ns).contains(&hello.started_unix_ns) {
            self.began_unix_ns = hello.started_unix_ns;
        }
        Ok(merged)
    }

    /// Puts a boot's new cells in the place of the old ones. `is_recent`: what they count anew was
    /// counted just now; not so what a boot brings that has counted for long.
    fn tick(&mut self, hello: &v1::Hello, cells: Arc<[SentCell]>, heard_ms: u64, is_recent: bool) {
        let Self {
            hosts,
            totals,
            recent,
            ..
        } = self;
        let hosts_held = hosts.len();
        let Some(host) = hosts.get_mut(&hello.host) else {
            return;
        };
        let Some(boot) = host.boots.iter_mut().find(|boot| boot.is(&hello.boot_id)) else {
            return;
        };
        boot.last_tick_ms = heard_ms;
        let heard = Heard::of(&boot.losses);
        let heard_before = std::mem::replace(&mut boot.heard, heard);
        self.cells_merged += cells.len() as u64;
        self.cells = self.cells - boot.cells.len() + cells.len();
        let mut before = Before::new(std::mem::take(&mut boot.cells));
        let mut places = Vec::with_capacity(cells.len());
        let mut at_risk = 0_u64;
        for (n, cell) in cells.iter().enumerate() {
            let viewers = cell
                .gauges
                .viewers_at_risk
                .saturating_add(cell.gauges.viewers_stalled);
            at_risk = at_risk.saturating_add(viewers);
            let old = before.take(n, cell);
            let may_name = host.places.len() < MAX_PLACES_OF_A_HOST;
            let place = old.map_or_else(|| totals.place(&cell.key, may_name), |(place, _)| place);
            if old.is_none() && host.places.insert(place) {
                totals.another_host(place);
            }
            let heard_of_old = old.map_or_else(Heard::default, |_| heard_before);
            totals.heard(place, heard_of_old, heard);
            let old = old.map(|(_, cell)| cell);
            if old.is_none_or(|old| !old.counts_equal(cell)) {
                let lately = is_recent.then(|| recent.entry(place).or_default());
                sent::exchange(old, Some(cell), totals.cell_mut(place), lately);
            }
            places.push(place);
        }
        for (place, cell) in before.left() {
            sent::exchange(Some(cell), None, totals.cell_mut(place), None);
            totals.heard(place, heard_before, Heard::default());
        }
        boot.cells = Held { cells, places };
        self.in_all.note(hosts_held, self.cells);
        if boot.vital.is_none() {
            host.risk.tick(heard_ms, at_risk);
        }
    }

    /// The latest cells of the boot that a hello names; none, if it is new.
    pub fn latest(&self, hello: &v1::Hello) -> Arc<[SentCell]> {
        let known = self.known(hello);
        known.map_or_else(Arc::default, |boot| Arc::clone(&boot.cells.cells))
    }

    /// A frame of a connected boot could not be used.
    pub fn refused(&mut self, hello: &v1::Hello) {
        if let Some(boot) = self.boot(hello) {
            boot.frames_refused += 1;
        }
    }

    fn known(&self, hello: &v1::Hello) -> Option<&Boot> {
        self.hosts.get(&hello.host)?.boot(&hello.boot_id)
    }

    fn boot(&mut self, hello: &v1::Hello) -> Option<&mut Boot> {
        self.hosts.get_mut(&hello.host)?.boot_mut(&hello.boot_id)
    }

    /// The newest frame that came of a lane of a boot; 0: none.
    pub fn newest(&self, hello: &v1::Hello) -> u64 {
        let known = self.known(hello);
        known.map_or(0, |boot| boot.seqs[boot::place(hello.lane())].newest())
    }

    /// When a host was last heard of; none: never.
    pub fn last_heard_unix_ns(&self, host: &str) -> Option<u64> {
        let boots = &self.hosts.get(host)?.boots;
        let heard = boots.iter().map(|boot| boot.last_heard_ms * 1_000_000);
        heard.max().filter(|heard| *heard > 0)
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// How often a cell found no place of its own in the sum.
    pub fn cells_overflowed(&self) -> u64 {
        self.totals.overflowed()
    }

    /// Cells held of all boots.
    pub fn cells_held(&self) -> usize {
        self.cells
    }

    /// Frames, and cells in them, that were merged since the collector's start.
    pub fn merged(&self) -> (u64, u64) {
        (self.frames, self.cells_merged)
    }

    /// When the oldest boot in the sum began, by its own clock, as Unix time; 0: nobody knows.
    pub fn began_unix_ns(&self) -> u64 {
        self.began_unix_ns
    }

    /// What was counted since this was last called, by its place in the sum.
    pub fn take_recent(&mut self) -> Vec<(u32, CellSnapshot)> {
        let totals = &self.totals;
        self.recent
            .drain()
            .map(|(place, cell)| (place, cell.snapshot(totals.key(place).clone(), true)))
            .collect()
    }
}

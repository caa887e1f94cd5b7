//! What a collector knows: the latest cumulative state of every boot of every host, and their
//! exact sum.
//!
//! Pure: time enters as an argument. A boot's newest frame replaces all before it, so lost, late,
//! repeated and reordered frames cost resolution, never truth. A host is the sum of its boots, so
//! a restart loses and doubles nothing. The sum is kept as frames come in: each puts its boot's new
//! counts in the place of the old ones.

mod boot;
mod gaps;
mod risk;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use weir_proto::v1;

use crate::collect::sent::{self, SentCell};
use crate::qoe::{CellSnapshot, Gauges};
use crate::query::filter::Filter;
use crate::wire::Heard;
use boot::{Boot, Held};
use gaps::{Arrival, Gaps};
use risk::Risk;
pub use risk::{RISK_WINDOW_MS, rank};
use totals::{Recent, Totals};

/// Boots of one host that are kept apart; beyond, the oldest are kept in the sum alone.
const MAX_BOOTS: usize = 8;
/// Boots that are in the sum alone whose names are remembered, so that none is counted twice.
const MAX_PAST_BOOTS: usize = 256;
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
    #[error("boot {0} is over and folded into its host's past; it cannot go on")]
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
}

/// Boots that are in the sum alone.
#[derive(Debug, Default)]
struct Past {
    boot_ids: Vec<String>,
    boots: u64,
}

#[derive(Debug, Default)]
struct Host {
    /// Oldest first.
    boots: Vec<Boot>,
    past: Past,
    /// Of the sum, those that this host has counted in.
    places: HashSet<u32>,
    risk: Risk,
}

/// All hosts.
#[derive(Debug)]
pub struct Fleet {
    hosts: BTreeMap<String, Host>,
    limits: Limits,
    cells: usize,
    totals: Totals,
    /// What was counted since it was last taken.
    recent: Recent,
    frames: u64,
    cells_merged: u64,
}

impl Fleet {
    /// No hosts yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            hosts: BTreeMap::new(),
            limits,
            cells: 0,
            totals: Totals::default(),
            recent: Recent::default(),
            frames: 0,
            cells_merged: 0,
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
        if !self.hosts.contains_key(&hello.host) && self.hosts.len() >= self.limits.max_hosts {
            return Err(Error::TooManyHosts(self.hosts.len()));
        }
        let host = self.hosts.entry(hello.host.clone()).or_default();
        if host.past.boot_ids.contains(&hello.boot_id) {
            return Err(Error::Past(hello.boot_id.clone()));
        }
        let known = |boot: &Boot| boot.hello.boot_id == hello.boot_id;
        let place = if let Some(place) = host.boots.iter().position(known) {
            place
        } else {
            if host.boots.len() >= MAX_BOOTS {
                self.cells -= host.let_go_of_oldest()?;
            }
            // What a boot left on disk comes after a newer one has begun.
            let began = hello.started_unix_ns;
            let place = host
                .boots
                .partition_point(|boot| boot.hello.started_unix_ns <= began);
            host.boots.insert(place, Boot::new(hello.clone()));
            place
        };
        Ok(&mut host.boots[place])
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
        } = how;
        if way == Way::Engine {
            // Of another collector's host, which said hello there.
            self.meet(hello)?;
        }
        let (limits, held) = (self.limits, self.cells);
        let Some(boot) = self.boot(hello) else {
            return Err(Error::Past(hello.boot_id.clone()));
        };
        let cells_after = held - boot.cells.len() + cells.len();
        let has_cells = frame.tick && frame.vital.is_none();
        let lane = match frame.lane() {
            v1::Lane::Unspecified => hello.lane(),
            lane => lane,
        };
        let newest = boot.lane(lane).newest();
        if has_cells
            && frame.seq > newest
            && cells.len() > boot.cells.len()
            && cells_after > limits.max_cells
        {
            return Err(Error::TooManyCells(held));
        }
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
        boot.deliveries += frame.deliveries.len() as u64;
        boot.deliveries_total = boot.deliveries_total.max(frame.deliveries_total);
        let heard_ms = heard_unix_ns / 1_000_000;
        boot.last_heard_ms = boot.last_heard_ms.max(heard_ms);
        if merged == Merged::New {
            boot.note(lane, frame);
            boot.last_frame_unix_ns = boot.last_frame_unix_ns.max(frame.unix_ns);
            let sent_unix_ns = i128::from(frame.unix_ns) + i128::from(frame.delay_us) * 1_000;
            let ahead_ns = sent_unix_ns - i128::from(heard_unix_ns);
            boot.clock_offset_ms = i64::try_from(ahead_ns / 1_000_000).unwrap_or(i64::MAX);
            if frame.tick {
                boot.losses = frame.losses.unwrap_or_default();
                boot.off.clone_from(&frame.off);
                boot.budget.clone_from(&frame.budget);
            }
            let vital = frame.vital.is_some();
            if vital {
                boot.vital.clone_from(&frame.vital);
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
        let Some(host) = hosts.get_mut(&hello.host) else {
            return;
        };
        let known = |boot: &&mut Boot| boot.hello.boot_id == hello.boot_id;
        let Some(boot) = host.boots.iter_mut().find(known) else {
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
            let place = old.map_or_else(|| totals.place(&cell.key), |(place, _)| place);
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
        if boot.vital.is_none() {
            host.risk.tick(heard_ms, at_risk);
        }
    }

    /// The latest cells of the boot that a hello names; none, if it is new.
    pub fn latest(&self, hello: &v1::Hello) -> Arc<[SentCell]> {
        let host = self.hosts.get(&hello.host);
        let mut boots = host.into_iter().flat_map(|host| &host.boots);
        let boot = boots.find(|boot| boot.hello.boot_id == hello.boot_id);
        boot.map(|boot| Arc::clone(&boot.cells.cells))
            .unwrap_or_default()
    }

    /// A frame of a connected boot could not be used.
    pub fn refused(&mut self, hello: &v1::Hello) {
        if let Some(boot) = self.boot(hello) {
            boot.frames_refused += 1;
        }
    }

    fn boot(&mut self, hello: &v1::Hello) -> Option<&mut Boot> {
        self.hosts
            .get_mut(&hello.host)?
            .boots
            .iter_mut()
            .find(|boot| boot.hello.boot_id == hello.boot_id)
    }

    /// Every host, by name.
    pub fn hosts(&self, now_unix_ns: u64) -> v1::ListHostsResponse {
        v1::ListHostsResponse {
            hosts: self
                .hosts
                .values()
                .filter_map(|host| host.message(now_unix_ns))
                .collect(),
            unix_ns: now_unix_ns,
            // What never became a host is not known here.
            ..v1::ListHostsResponse::default()
        }
    }

    /// The sum of all hosts' cells.
    pub fn cells(
        &self,
        filter: &Filter,
        histograms: bool,
        now_unix_ns: u64,
    ) -> v1::ListCellsResponse {
        let gauges = self.gauges(now_unix_ns);
        v1::ListCellsResponse {
            cells: self.totals.messages(filter, histograms, &gauges),
            unix_ns: now_unix_ns,
            hosts: u32::try_from(self.hosts.len()).unwrap_or(u32::MAX),
        }
    }

    /// What is open now, by place.
    fn gauges(&self, now_unix_ns: u64) -> Vec<Gauges> {
        let mut gauges = vec![Gauges::default(); self.totals.len()];
        for host in self.hosts.values() {
            for (place, cell) in host.current_cells(now_unix_ns) {
                gauges[place as usize].merge(&cell.gauges);
            }
        }
        gauges
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

    /// What was counted since this was last called, by its place in the sum.
    pub fn take_recent(&mut self) -> Vec<(u32, CellSnapshot)> {
        let totals = &self.totals;
        self.recent
            .drain()
            .map(|(place, cell)| (place, cell.snapshot(totals.key(place).clone(), true)))
            .collect()
    }

    /// Cells of a window, by place, as cells of the sum, with what is open now.
    pub fn window(
        &self,
        cells: &HashMap<u32, crate::qoe::Cell>,
        filter: &Filter,
        histograms: bool,
        now_unix_ns: u64,
    ) -> Vec<v1::Cell> {
        let gauges = self.gauges(now_unix_ns);
        let mut places: Vec<_> = (0..).take(self.totals.len()).collect();
        places.retain(|place: &u32| {
            cells.contains_key(place) || gauges[*place as usize] != Gauges::default()
        });
        let nothing = crate::qoe::Cell::default();
        places
            .into_iter()
            .filter_map(|place| {
                let key = self.totals.key(place);
                let cell = cells.get(&place).unwrap_or(&nothing);
                if !filter.matches_fleet_cell(key, &cell.counters) {
                    return None;
                }
                let mut snapshot = cell.snapshot(key.clone(), histograms);
                snapshot.gauges = gauges[place as usize];
                Some(self.totals.message(place, &snapshot))
            })
            .collect()
    }
}

/// A boot's cells before a tick, from which those that go on are taken.
struct Before {
    held: Held,
    taken: Vec<bool>,
    /// By key as it was sent; made when the order has changed.
    by_key: Option<HashMap<Box<[u8]>, usize>>,
}

impl Before {
    fn new(held: Held) -> Self {
        Self {
            taken: vec![false; held.cells.len()],
            held,
            by_key: None,
        }
    }

    /// The cell with this one's key, and its place; an edge nearly always has it where it was.
    fn take(&mut self, n: usize, cell: &SentCell) -> Option<(u32, &SentCell)> {
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
    fn left(&self) -> impl Iterator<Item = (u32, &SentCell)> {
        let all = self.held.iter().zip(&self.taken);
        all.filter(|(_, is_taken)| !**is_taken)
            .map(|(held, _)| held)
    }
}

impl Host {
    /// Lets the oldest boot that is not connected go; what it counted stays in the sum. Returns how
    /// many cells were held for it.
    fn let_go_of_oldest(&mut self) -> Result<usize, Error> {
        let oldest = self
            .boots
            .iter()
            .position(|boot| !boot.is_connected())
            .ok_or(Error::TooManyBoots(self.boots.len()))?;
        let boot = self.boots.remove(oldest);
        self.past.boots += 1;
        if self.past.boot_ids.len() >= MAX_PAST_BOOTS {
            self.past.boot_ids.remove(0);
        }
        self.past.boot_ids.push(boot.hello.boot_id);
        Ok(boot.cells.len())
    }

    /// Whether a boot's gauges are of now: it was heard of lately, and is either connected or the
    /// newest.
    fn is_current(&self, boot: &Boot, now_unix_ns: u64) -> bool {
        let age_ms = (now_unix_ns / 1_000_000).saturating_sub(boot.last_tick_ms);
        let newest = self
            .boots
            .last()
            .is_some_and(|newest| newest.hello.boot_id == boot.hello.boot_id);
        age_ms <= FRESH_MS && (boot.is_connected() || newest)
    }

    fn current_cells(&self, now_unix_ns: u64) -> impl Iterator<Item = (u32, &SentCell)> {
        self.boots
            .iter()
            .filter(move |boot| self.is_current(boot, now_unix_ns))
            .flat_map(|boot| boot.cells.iter())
    }

    /// None before the first boot.
    fn message(&self, now_unix_ns: u64) -> Option<v1::Host> {
        let newest = self.boots.last()?;
        let sum = |of: fn(&Boot) -> u64| self.boots.iter().map(of).sum();
        let mut open = Gauges::default();
        for (_, cell) in self.current_cells(now_unix_ns) {
            open.merge(&cell.gauges);
        }
        let now_ms = now_unix_ns / 1_000_000;
        let last_heard_ms = self.boots.iter().map(|boot| boot.last_heard_ms).max();
        let last_heard_ms = last_heard_ms.unwrap_or(0);
        let is_silent = now_ms.saturating_sub(last_heard_ms) > FRESH_MS;
        let [active, stalled, at_risk] = match newest.viewers() {
            Some(viewers) if !is_silent => viewers,
            _ => [
                open.viewers_active,
                open.viewers_stalled,
                open.viewers_at_risk,
            ],
        };
        let lanes = |boot: &Boot, of: fn(&Gaps) -> u64| boot.seqs.iter().map(of).sum::<u64>();
        Some(v1::Host {
            host: newest.hello.host.clone(),
            boot_id: newest.hello.boot_id.clone(),
            weir_version: newest.hello.weir_version.clone(),
            backend: newest.hello.backend,
            kernel_release: newest.hello.kernel_release.clone(),
            connected: self.boots.iter().any(Boot::is_connected),
            last_frame_unix_ns: newest.last_frame_unix_ns,
            last_seq: newest.seqs.iter().map(Gaps::newest).max().unwrap_or(0),
            frames: sum(|boot| boot.frames),
            frames_lost: self.boots.iter().map(|boot| lanes(boot, Gaps::lost)).sum(),
            frames_stale: sum(|boot| boot.frames_stale),
            frames_refused: sum(|boot| boot.frames_refused),
            events: sum(|boot| boot.events),
            events_lost: sum(|boot| boot.events_total.saturating_sub(boot.events)),
            sessions_open: open.sessions_open,
            boots: self.past.boots + self.boots.len() as u64,
            clock_offset_ms: newest.clock_offset_ms,
            losses: Some(newest.losses),
            off: newest.off.clone(),
            budget: newest.budget.clone(),
            vital: newest.vital.clone(),
            lanes: newest.lanes(),
            deliveries: sum(|boot| boot.deliveries),
            deliveries_lost: sum(|boot| boot.deliveries_total.saturating_sub(boot.deliveries)),
            viewers_active: active,
            viewers_stalled: stalled,
            viewers_at_risk: at_risk,
            at_risk_minute_ms: self.risk.minute_ms(now_ms),
            last_heard_unix_ns: last_heard_ms * 1_000_000,
        })
    }
}

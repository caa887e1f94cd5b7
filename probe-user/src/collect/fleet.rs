//! What a collector knows: the latest cumulative state of every boot of every host, and their
//! exact sum.
//!
//! Pure: time enters as an argument. A boot's newest frame replaces all before it, so lost, late,
//! repeated and reordered frames cost resolution, never truth. A host is the sum of its boots, so
//! a restart loses and doubles nothing.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use weir_proto::v1;

use super::lanes::{Admission, Lanes};
use crate::qoe::cell::Cells;
use crate::qoe::{CellSnapshot, Gauges};
use crate::query::filter::Filter;
use crate::wire::{self, Heard};

/// Boots of one host that are kept apart; beyond, the oldest are folded into one sum.
const MAX_BOOTS: usize = 8;
/// Boots folded into that sum whose names are remembered, so that none is counted twice.
const MAX_PAST_BOOTS: usize = 256;
/// Cells kept of one host's past boots, and told of all hosts together.
const MAX_MERGED_CELLS: usize = 4096;
/// A gauge is of the moment: one older than this is not told.
const GAUGE_FRESH_MS: u64 = 15_000;

/// What bounds a collector.
#[derive(Clone, Copy, Debug)]
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
    /// It came after a newer one: what is in no other frame was taken.
    Late,
    /// It was repeated: ignored.
    Stale,
}

#[derive(Debug)]
struct Boot {
    hello: v1::Hello,
    lanes: Lanes,
    /// When the newest frame with cells arrived.
    last_tick_ms: u64,
    last_frame_unix_ns: u64,
    clock_offset_ms: i64,
    frames_refused: u64,
    losses: v1::Losses,
    off: String,
    budget: Option<v1::BudgetStatus>,
    cells: Vec<CellSnapshot>,
}

impl Boot {
    fn new(hello: v1::Hello) -> Self {
        Self {
            hello,
            lanes: Lanes::default(),
            last_tick_ms: 0,
            last_frame_unix_ns: 0,
            clock_offset_ms: 0,
            frames_refused: 0,
            losses: v1::Losses::default(),
            off: String::new(),
            budget: None,
            cells: Vec::new(),
        }
    }
}

/// Boots that are over, as one sum.
#[derive(Debug, Default)]
struct Past {
    boot_ids: Vec<String>,
    boots: u64,
    heard: Heard,
    cells: Vec<CellSnapshot>,
}

#[derive(Debug, Default)]
struct Host {
    /// By when they began, oldest first.
    boots: Vec<Boot>,
    past: Past,
}

/// All hosts.
#[derive(Debug)]
pub struct Fleet {
    hosts: BTreeMap<String, Host>,
    limits: Limits,
    cells: usize,
}

impl Fleet {
    /// No hosts yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            hosts: BTreeMap::new(),
            limits,
            cells: 0,
        }
    }

    /// A lane of a host has connected. Returns the last frame number that is known of it.
    pub fn connect(&mut self, hello: &v1::Hello) -> Result<u64, Error> {
        if !self.hosts.contains_key(&hello.host) && self.hosts.len() >= self.limits.max_hosts {
            return Err(Error::TooManyHosts(self.hosts.len()));
        }
        let host = self.hosts.entry(hello.host.clone()).or_default();
        if host.past.boot_ids.contains(&hello.boot_id) {
            return Err(Error::Past(hello.boot_id.clone()));
        }
        let known = host
            .boots
            .iter()
            .position(|boot| boot.hello.boot_id == hello.boot_id);
        let place = if let Some(known) = known {
            known
        } else {
            if host.boots.len() >= MAX_BOOTS {
                self.cells -= host.fold_oldest()?;
                self.cells += host.past.cells.len();
            }
            // A boot that is over may be heard of after the one that followed it.
            let began = |boot: &Boot| boot.hello.started_unix_ns <= hello.started_unix_ns;
            let place = host
                .boots
                .iter()
                .rposition(began)
                .map_or(0, |before| before + 1);
            host.boots.insert(place, Boot::new(hello.clone()));
            place
        };
        Ok(host.boots[place].lanes.connect(hello.lane()))
    }

    /// A connection has ended.
    pub fn disconnect(&mut self, hello: &v1::Hello) {
        if let Some(boot) = self.boot(hello) {
            boot.lanes.disconnect(hello.lane());
        }
    }

    /// Merges a frame whose cells were checked. `now_unix_ns`: when it arrived.
    pub fn merge(
        &mut self,
        hello: &v1::Hello,
        frame: &v1::Frame,
        cells: Vec<CellSnapshot>,
        now_unix_ns: u64,
    ) -> Result<Merged, Error> {
        let (limits, held) = (self.limits, self.cells);
        let Some(boot) = self.boot(hello) else {
            return Err(Error::Past(hello.boot_id.clone()));
        };
        let cells_after = held - boot.cells.len() + cells.len();
        let has_cells = frame.tick && frame.lane() == v1::Lane::Warm;
        if has_cells && cells.len() > boot.cells.len() && cells_after > limits.max_cells {
            return Err(Error::TooManyCells(held));
        }
        match boot.lanes.admit(frame) {
            Admission::Stale => return Ok(Merged::Stale),
            Admission::Late => return Ok(Merged::Late),
            Admission::Newest => {}
        }
        boot.last_frame_unix_ns = frame.unix_ns;
        let ahead_ns = i128::from(frame.unix_ns) - i128::from(now_unix_ns);
        boot.clock_offset_ms = i64::try_from(ahead_ns / 1_000_000).unwrap_or(i64::MAX);
        if boot.lanes.is_latest_tick(frame) {
            boot.last_tick_ms = now_unix_ns / 1_000_000;
            boot.losses = frame.losses.unwrap_or_default();
            boot.off.clone_from(&frame.off);
            boot.budget.clone_from(&frame.budget);
        }
        if has_cells {
            boot.cells = cells;
            self.cells = cells_after;
        }
        Ok(Merged::New)
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
        let mut merged = Merge::default();
        for host in self.hosts.values() {
            merged.next_host();
            host.add_to(&mut merged, now_unix_ns);
        }
        v1::ListCellsResponse {
            cells: merged
                .cells
                .iter_indexed()
                .filter(|(_, key, cell)| filter.matches_fleet_cell(key, &cell.counters))
                .map(|(place, key, cell)| {
                    let whose = merged.whose.get(&place).copied().unwrap_or_default();
                    let cell = cell.snapshot(key.clone(), histograms);
                    wire::cell(&cell, whose.hosts, whose.heard)
                })
                .collect(),
            unix_ns: now_unix_ns,
            hosts: u32::try_from(self.hosts.len()).unwrap_or(u32::MAX),
        }
    }
}

impl Host {
    /// Folds the oldest boot that is not connected into the past. Returns how many cells were held
    /// for it and for the past before.
    fn fold_oldest(&mut self) -> Result<usize, Error> {
        let oldest = self
            .boots
            .iter()
            .position(|boot| !boot.lanes.are_connected())
            .ok_or(Error::TooManyBoots(self.boots.len()))?;
        let boot = self.boots.remove(oldest);
        let held = boot.cells.len() + self.past.cells.len();
        let mut sum = Cells::new(MAX_MERGED_CELLS);
        for cell in self.past.cells.drain(..).chain(boot.cells) {
            let place = sum.place(cell.key.clone());
            sum.get_mut(place).absorb(&CellSnapshot {
                gauges: Gauges::default(),
                ..cell
            });
        }
        let kept = sum.iter();
        self.past.cells = kept
            .map(|(key, cell)| cell.snapshot(key.clone(), true))
            .collect();
        self.past.boots += 1;
        self.past.heard.merge(Heard::of(&boot.losses));
        if self.past.boot_ids.len() >= MAX_PAST_BOOTS {
            self.past.boot_ids.remove(0);
        }
        self.past.boot_ids.push(boot.hello.boot_id);
        Ok(held)
    }

    /// Whether a boot's gauges are of now: it was heard of lately, and is either connected or the
    /// newest.
    fn is_current(&self, boot: &Boot, now_unix_ns: u64) -> bool {
        let age_ms = (now_unix_ns / 1_000_000).saturating_sub(boot.last_tick_ms);
        let newest = self
            .boots
            .last()
            .is_some_and(|newest| newest.hello.boot_id == boot.hello.boot_id);
        age_ms <= GAUGE_FRESH_MS && (boot.lanes.are_connected() || newest)
    }

    fn add_to(&self, merged: &mut Merge, now_unix_ns: u64) {
        for cell in &self.past.cells {
            merged.add(cell, false, self.past.heard);
        }
        for boot in &self.boots {
            let current = self.is_current(boot, now_unix_ns);
            let heard = Heard::of(&boot.losses);
            for cell in &boot.cells {
                merged.add(cell, current, heard);
            }
        }
    }

    /// None before the first boot.
    fn message(&self, now_unix_ns: u64) -> Option<v1::Host> {
        let newest = self.boots.last()?;
        let sum = |of: fn(&Boot) -> u64| self.boots.iter().map(of).sum();
        let lanes = &newest.lanes;
        let sessions_open = self
            .boots
            .iter()
            .filter(|boot| self.is_current(boot, now_unix_ns))
            .flat_map(|boot| &boot.cells)
            .map(|cell| cell.gauges.sessions_open)
            .fold(0, u64::saturating_add);
        Some(v1::Host {
            host: newest.hello.host.clone(),
            boot_id: newest.hello.boot_id.clone(),
            weir_version: newest.hello.weir_version.clone(),
            backend: newest.hello.backend,
            kernel_release: newest.hello.kernel_release.clone(),
            connected: self.boots.iter().any(|boot| boot.lanes.are_connected()),
            last_frame_unix_ns: newest.last_frame_unix_ns,
            last_seq: lanes.last_seq(),
            frames: sum(|boot| boot.lanes.frames().0),
            frames_lost: sum(|boot| boot.lanes.frames().1),
            frames_stale: sum(|boot| boot.lanes.frames().2),
            frames_refused: sum(|boot| boot.frames_refused),
            events: sum(|boot| boot.lanes.events().0),
            events_lost: sum(|boot| boot.lanes.events().1),
            deliveries: sum(|boot| boot.lanes.deliveries().0),
            deliveries_lost: sum(|boot| boot.lanes.deliveries().1),
            lanes: lanes.message(),
            vital: lanes.vital().cloned(),
            sessions_open,
            boots: self.past.boots + self.boots.len() as u64,
            clock_offset_ms: newest.clock_offset_ms,
            losses: Some(newest.losses),
            off: newest.off.clone(),
            budget: newest.budget.clone(),
        })
    }
}

/// Whose a merged cell is.
#[derive(Clone, Copy, Debug, Default)]
struct Whose {
    hosts: u32,
    /// The host that was added last.
    last: usize,
    /// Of all boots in it.
    heard: Heard,
}

/// A sum over hosts, and how many hosts are in each of its cells.
#[derive(Debug)]
struct Merge {
    cells: Cells,
    /// By cell.
    whose: HashMap<u32, Whose>,
    host: usize,
}

impl Default for Merge {
    fn default() -> Self {
        Self {
            cells: Cells::new(MAX_MERGED_CELLS),
            whose: HashMap::new(),
            host: 0,
        }
    }
}

impl Merge {
    fn next_host(&mut self) {
        self.host += 1;
    }

    fn add(&mut self, snapshot: &CellSnapshot, current: bool, heard: Heard) {
        let place = self.cells.place(snapshot.key.clone());
        let whose = self.whose.entry(place).or_default();
        if whose.last != self.host {
            whose.last = self.host;
            whose.hosts += 1;
        }
        whose.heard.merge(heard);
        let cell = self.cells.get_mut(place);
        let before = cell.gauges;
        cell.absorb(snapshot);
        if !current {
            cell.gauges = before;
        }
    }
}

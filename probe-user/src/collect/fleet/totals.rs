//! The sum of all cells of all boots of all hosts, kept as frames come in, so that asking costs the
//! same for one host and for ten thousand.

use crate::qoe::cell::{Cell, Cells};
use crate::qoe::{CellKey, CellSnapshot, Gauges};
use crate::query::filter::Filter;
use crate::wire::{self, Heard};
use weir_proto::v1;

/// Cells told of all hosts together; what finds no place is counted in the cell `other`.
pub(in crate::collect) const MAX_TOTALS: usize = 4096;

/// Whose a cell of the sum is.
#[derive(Clone, Copy, Debug, Default)]
struct Whose {
    hosts: u32,
    /// Of all boots in it.
    heard: Heard,
}

/// The sum.
#[derive(Debug)]
pub(super) struct Totals {
    cells: Cells,
    /// By cell.
    whose: Vec<Whose>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            cells: Cells::new(MAX_TOTALS),
            whose: Vec::new(),
        }
    }
}

impl Totals {
    /// The place of a key in the sum, which stays its own. `may_be_new`: it may take one.
    pub(super) fn place(&mut self, key: &CellKey, may_be_new: bool) -> u32 {
        let place = if may_be_new {
            self.cells.place(key.clone())
        } else {
            self.cells.place_of_known(key)
        };
        if self.whose.len() <= place as usize {
            self.whose.resize(place as usize + 1, Whose::default());
        }
        place
    }

    /// How often a cell found no place of its own.
    pub(super) fn overflowed(&self) -> u64 {
        self.cells.overflowed()
    }

    pub(super) fn key(&self, place: u32) -> &CellKey {
        self.cells.key(place)
    }

    /// The sum's cell at a place.
    pub(super) fn cell_mut(&mut self, place: u32) -> &mut Cell {
        self.cells.get_mut(place)
    }

    /// What a boot has heard of the kernel has changed.
    pub(super) fn heard(&mut self, place: u32, older: Heard, newer: Heard) {
        if let Some(whose) = self.whose.get_mut(place as usize) {
            let sum = &mut whose.heard;
            sum.seen = sum.seen.wrapping_sub(older.seen).wrapping_add(newer.seen);
            sum.lost = sum.lost.wrapping_sub(older.lost).wrapping_add(newer.lost);
        }
    }

    /// A host counts in a place for the first time.
    pub(super) fn another_host(&mut self, place: u32) {
        if let Some(whose) = self.whose.get_mut(place as usize) {
            whose.hosts += 1;
        }
    }

    /// Each cell of the sum that matches, with what is open now: `gauges` by place.
    pub(super) fn messages(
        &self,
        filter: &Filter,
        histograms: bool,
        gauges: &[Gauges],
    ) -> Vec<v1::Cell> {
        self.cells
            .iter_indexed()
            .filter(|(place, _, _)| self.hosts(*place) > 0)
            .filter(|(_, key, cell)| filter.matches_fleet_cell(key, &cell.counters))
            .map(|(place, key, cell)| {
                let mut snapshot = cell.snapshot(key.clone(), histograms);
                snapshot.gauges = gauges.get(place as usize).copied().unwrap_or_default();
                self.message(place, &snapshot)
            })
            .collect()
    }

    /// A cell that is to be told as one of the sum's.
    pub(super) fn message(&self, place: u32, snapshot: &CellSnapshot) -> v1::Cell {
        let whose = self.whose.get(place as usize).copied().unwrap_or_default();
        wire::cell(snapshot, whose.hosts, whose.heard)
    }

    /// Whether places are left for all but a crowd of new cells.
    pub(super) fn has_room(&self) -> bool {
        self.cells.room() > MAX_TOTALS / 8
    }

    /// Those in which anybody has counted, but for `other`.
    pub(super) fn own_places(&self) -> impl Iterator<Item = u32> {
        let places = self
            .cells
            .iter_indexed()
            .map(|(place, key, _)| (place, key));
        places
            .filter(|(place, key)| self.hosts(*place) > 0 && self.cells.is_own(*place, key))
            .map(|(place, _)| place)
    }

    /// Gives up a place; what is counted in it goes to the one that is returned.
    pub(super) fn give_up(&mut self, place: u32) -> u32 {
        let other = self.cells.give_up(place);
        let last = place.max(other) as usize;
        if self.whose.len() <= last {
            self.whose.resize(last + 1, Whose::default());
        }
        let whose = std::mem::take(&mut self.whose[place as usize]);
        self.heard(other, Heard::default(), whose.heard);
        other
    }

    fn hosts(&self, place: u32) -> u32 {
        self.whose
            .get(place as usize)
            .map_or(0, |whose| whose.hosts)
    }

    /// How many there are, whether or not anything is counted in them.
    pub(super) fn len(&self) -> usize {
        self.whose.len()
    }
}

/// What was counted in the second that is not over yet, by place.
pub(super) type Recent = hashbrown::HashMap<u32, Cell>;

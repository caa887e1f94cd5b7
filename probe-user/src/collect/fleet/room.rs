//! Room in the sum: cells in which nobody counts any more make place for those that come. And room for
//! cells of boots: those that rest give way to those that speak.

use hashbrown::HashMap;

use super::host::Host;
use super::{Error, Fleet};

/// Nobody has counted in a cell for so long: its hosts are silent, or call it something else.
const IDLE_MS: u64 = 900_000;

impl Fleet {
    /// Whether there is room for what was counted by boots that are silent: half of all.
    pub(super) fn may_rest(&self) -> bool {
        self.in_all.cells() <= self.limits.max_cells / 2
    }

    /// Room for so many more cells, if need be that of boots that rest.
    pub(super) fn room_for(&mut self, more: usize) -> Result<(), Error> {
        let is_full = |fleet: &Self| fleet.in_all.cells() + more > fleet.limits.max_cells;
        if is_full(self) {
            self.give_up_resting();
        }
        if is_full(self) {
            return Err(Error::TooManyCells(self.in_all.cells()));
        }
        Ok(())
    }

    /// If all fleets together have hardly any room left for cells, boots that rest here make some: one
    /// fleet must not keep for its silent ones what another needs.
    pub fn make_room_for_cells(&mut self) {
        if self.in_all.cells() > self.limits.max_cells / 4 * 3 {
            self.give_up_resting();
        }
    }

    fn give_up_resting(&mut self) {
        if std::mem::take(&mut self.has_resting) {
            for host in self.hosts.values_mut() {
                self.cells -= host.give_up_resting();
            }
            self.in_all.note(self.hosts.len(), self.cells);
        }
    }

    /// If the sum has hardly any room left, gives up what is idle: it is counted in `other` from now
    /// on, so that the sum of all stays what it was. Gives the places that went, and to where.
    pub fn make_room(&mut self, now_ms: u64) -> HashMap<u32, u32> {
        if self.totals.has_room() {
            return HashMap::new();
        }
        let mut latest_ms = vec![0; self.totals.len()];
        let boots = self.hosts.values().flat_map(Host::all);
        for boot in boots {
            for place in &boot.cells.places {
                let latest = &mut latest_ms[*place as usize];
                *latest = boot.last_tick_ms.max(*latest);
            }
        }
        let is_idle = |place: &u32| latest_ms[*place as usize] + IDLE_MS < now_ms;
        let idle: Vec<_> = self.totals.own_places().filter(is_idle).collect();
        let gone: HashMap<_, _> = idle
            .into_iter()
            .map(|place| (place, self.totals.give_up(place)))
            .collect();
        if gone.is_empty() {
            return gone;
        }
        for host in self.hosts.values_mut() {
            for (place, other) in &gone {
                if host.places.remove(place) && host.places.insert(*other) {
                    self.totals.another_host(*other);
                }
            }
            let places = host.all_mut().flat_map(|boot| &mut boot.cells.places);
            for place in places {
                *place = gone.get(place).copied().unwrap_or(*place);
            }
        }
        for (place, other) in &gone {
            if let Some(cell) = self.recent.remove(place) {
                let cell = cell.snapshot(self.totals.key(*other).clone(), true);
                self.recent.entry(*other).or_default().absorb(&cell);
            }
        }
        gone
    }
}

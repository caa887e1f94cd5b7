//! Room in the sum: cells in which nobody counts any more make place for those that come.

use hashbrown::HashMap;

use super::Fleet;

/// Nobody has counted in a cell for so long: its hosts are silent, or call it something else.
const IDLE_MS: u64 = 900_000;

impl Fleet {
    /// If the sum has hardly any room left, gives up what is idle: it is counted in `other` from now
    /// on, so that the sum of all stays what it was. Gives the places that went, and to where.
    pub fn make_room(&mut self, now_ms: u64) -> HashMap<u32, u32> {
        if self.totals.has_room() {
            return HashMap::new();
        }
        let mut latest_ms = vec![0; self.totals.len()];
        let boots = self.hosts.values().flat_map(|host| &host.boots);
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
            let boots = host.boots.iter_mut();
            for place in boots.flat_map(|boot| &mut boot.cells.places) {
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

//! What a fleet says when it is asked: its hosts, its sum, and a window of it.

use hashbrown::HashMap;
use weir_proto::v1;

use super::Fleet;
use crate::qoe::{Cell, Gauges};
use crate::query::filter::Filter;

impl Fleet {
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
            missing: Vec::new(),
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

    /// Cells of a window, by place, as cells of the sum, with what is open now.
    pub fn window(
        &self,
        cells: &HashMap<u32, Cell>,
        filter: &Filter,
        histograms: bool,
        now_unix_ns: u64,
    ) -> Vec<v1::Cell> {
        let gauges = self.gauges(now_unix_ns);
        let mut places: Vec<_> = (0..).take(self.totals.len()).collect();
        places.retain(|place: &u32| {
            cells.contains_key(place) || gauges[*place as usize] != Gauges::default()
        });
        let nothing = Cell::default();
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

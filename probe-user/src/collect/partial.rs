//! Puts together what several partitions, of one collector or of many, know: sums of sums, exactly.
//!
//! Pure. Each host is in one partition, so that nothing is in two parts.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use histogram::SparseHistogram;
use weir_proto::v1;

use super::decode::{self, Error};
use super::fleet::MAX_TOTALS;
use crate::qoe::{Cell, CellKey, CellSnapshot, Counters, Gauges, Metric};
use crate::query::filter::Filter;
use crate::wire::{self, Heard};

/// A cell of the sum.
#[derive(Debug)]
struct Sum {
    key: CellKey,
    cell: Cell,
    hosts: u32,
    heard: Heard,
}

/// Cells of several parts.
#[derive(Debug, Default)]
pub(super) struct Cells {
    sums: Vec<Sum>,
    by_key: HashMap<CellKey, usize>,
}

impl Cells {
    /// Adds a part.
    pub(super) fn add(&mut self, cells: &[v1::Cell]) -> Result<(), Error> {
        cells.iter().try_for_each(|cell| self.add_one(cell))
    }

    fn add_one(&mut self, cell: &v1::Cell) -> Result<(), Error> {
        let snapshot = snapshot(cell)?;
        let heard = Heard {
            seen: cell.records_seen,
            lost: cell.records_lost,
        };
        let sum = self.of(snapshot.key.clone());
        sum.cell.absorb(&snapshot);
        sum.hosts = sum.hosts.saturating_add(cell.hosts);
        sum.heard.merge(heard);
        Ok(())
    }

    /// The sum's cell of a key; what finds no place is counted in `other`.
    fn of(&mut self, key: CellKey) -> &mut Sum {
        let other = CellKey::other(key.backend);
        let is_known = self.by_key.contains_key(&key);
        let key = if is_known || self.sums.len() < MAX_TOTALS {
            key
        } else {
            other
        };
        let place = *self.by_key.entry(key.clone()).or_insert_with(|| {
            self.sums.push(Sum {
                key,
                cell: Cell::default(),
                hosts: 0,
                heard: Heard::default(),
            });
            self.sums.len() - 1
        });
        &mut self.sums[place]
    }

    /// Those of the sum that match.
    pub(super) fn into_messages(self, filter: &Filter, histograms: bool) -> Vec<v1::Cell> {
        let all = self.sums.into_iter();
        let found = all.filter(|sum| filter.matches_fleet_cell(&sum.key, &sum.cell.counters));
        found
            .map(|sum| {
                let snapshot = sum.cell.snapshot(sum.key, histograms);
                wire::cell(&snapshot, sum.hosts, sum.heard)
            })
            .collect()
    }
}

/// A cell as another collector of this version tells it.
fn snapshot(cell: &v1::Cell) -> Result<CellSnapshot, Error> {
    let key = cell.key.as_ref().ok_or(Error::Missing("cell.key"))?;
    let counters = Counters::from(&cell.counters.unwrap_or_default());
    let mut histograms = Vec::with_capacity(cell.histograms.len());
    for histogram in &cell.histograms {
        let mut all = Metric::ALL.into_iter();
        let metric = all.find(|known| wire::metric(*known) == histogram.metric());
        let metric = metric.ok_or_else(|| Error::Unknown {
            field: "histogram.metric",
            value: histogram.metric.to_string(),
        })?;
        let (bucket, count) = (histogram.bucket.clone(), histogram.count.clone());
        let sparse = SparseHistogram::from_parts(metric.buckets(), bucket, count);
        let sparse = sparse.map_err(|err| Error::Histogram {
            metric,
            why: err.to_string(),
        })?;
        histograms.push((metric, sparse));
    }
    Ok(CellSnapshot {
        key: decode::key(key)?,
        counters,
        gauges: Gauges {
            sessions_open: cell.sessions_open,
            deliveries_open: cell.deliveries_open,
            deliveries_open_late: cell.deliveries_open_late,
            viewers_active: cell.viewers_active,
            viewers_stalled: cell.viewers_stalled,
            viewers_at_risk: cell.viewers_at_risk,
        },
        sustain: decode::sustain(&cell.sustain)?,
        histograms,
    })
}

/// Hosts by name: what is merged of each, and what those know to whom they are connected.
pub(super) fn hosts(merged: Vec<v1::Host>, guests: Vec<v1::Host>) -> Vec<v1::Host> {
    let mut all: BTreeMap<String, v1::Host> = BTreeMap::new();
    for host in merged {
        all.insert(host.host.clone(), host);
    }
    for guest in guests {
        match all.get_mut(&guest.host) {
            Some(host) => add_guest(host, &guest),
            None => {
                all.insert(guest.host.clone(), guest);
            }
        }
    }
    all.into_values().collect()
}

fn add_guest(host: &mut v1::Host, guest: &v1::Host) {
    host.frames_refused += guest.frames_refused;
    host.last_heard_unix_ns = host.last_heard_unix_ns.max(guest.last_heard_unix_ns);
    if !guest.connected {
        return;
    }
    host.connected = true;
    host.collector.clone_from(&guest.collector);
    if host.boot_id != guest.boot_id {
        // The one that was connected before; its lanes are another's.
        return;
    }
    for lane in &guest.lanes {
        match host.lanes.iter_mut().find(|own| own.lane == lane.lane) {
            Some(own) => own.connected |= lane.connected,
            None => host.lanes.push(*lane),
        }
    }
    host.lanes.sort_by_key(|lane| lane.lane);
}

/// Windows that end together; how long the sum is, is how long the shortest is.
pub(super) fn window(
    parts: &[v1::Window],
    filter: &Filter,
    histograms: bool,
) -> Result<v1::Window, Error> {
    let mut cells = Cells::default();
    for part in parts {
        cells.add(&part.cells)?;
    }
    Ok(v1::Window {
        until_unix_ns: parts
            .iter()
            .map(|part| part.until_unix_ns)
            .max()
            .unwrap_or(0),
        seconds: parts.iter().map(|part| part.seconds).min().unwrap_or(0),
        cells: cells.into_messages(filter, histograms),
        hosts: parts.iter().map(|part| part.hosts).sum(),
        missing: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::BackendKind;
    use crate::labels::Service;
    use crate::qoe::Transport;
    use crate::qoe::viewer::Tier;

    fn key(service: &str) -> CellKey {
        CellKey {
            service: Service::Named(service.into()),
            content_class: "-".into(),
            network: "other".into(),
            transport: Transport::Tcp4,
            tier: Tier::Kernel,
            backend: BackendKind::Exact,
        }
    }

    fn counted(cell: &mut Cell, random: &mut fastrand::Rng) {
        cell.counters.deliveries += random.u64(0..1000);
        cell.counters.acked_bytes += random.u64(..1 << 40);
        cell.gauges.sessions_open += random.u64(0..9);
        for metric in [Metric::SrttUs, Metric::DeliveryLatencyUs] {
            for _ in 0..random.u32(0..50) {
                cell.record(metric, random.u64(..1 << 30));
            }
        }
    }

    #[test]
    fn the_sum_of_parts_is_what_one_would_have_counted() {
        let mut random = fastrand::Rng::with_seed(1);
        let services = ["a", "b", "c"];
        let mut whole: Vec<_> = services.map(|_| Cell::default()).into();
        let mut sum = Cells::default();
        for _ in 0..20 {
            let mut part = Vec::new();
            for (at, service) in services.iter().enumerate() {
                let mut cell = Cell::default();
                counted(&mut cell, &mut random);
                let snapshot = cell.snapshot(key(service), true);
                whole[at].absorb(&snapshot);
                part.push(wire::cell(&snapshot, 2, Heard { seen: 3, lost: 1 }));
            }
            sum.add(&part).unwrap();
        }
        let expected: Vec<_> = services
            .iter()
            .zip(&whole)
            .map(|(service, cell)| {
                let heard = Heard { seen: 60, lost: 20 };
                wire::cell(&cell.snapshot(key(service), true), 40, heard)
            })
            .collect();
        assert_eq!(sum.into_messages(&Filter::default(), true), expected);
    }

    #[test]
    fn what_finds_no_place_is_in_other_and_in_no_way_lost() {
        let mut sum = Cells::default();
        let many = MAX_TOTALS as u64 + 100;
        for n in 0..many {
            let mut cell = Cell::default();
            cell.counters.deliveries = 1;
            let snapshot = cell.snapshot(key(&format!("s{n}")), true);
            sum.add(&[wire::cell(&snapshot, 1, Heard::default())])
                .unwrap();
        }
        let cells = sum.into_messages(&Filter::default(), false);
        assert_eq!(cells.len(), MAX_TOTALS + 1);
        let counters = cells.iter().map(|cell| cell.counters.unwrap().deliveries);
        assert_eq!(counters.sum::<u64>(), many);
    }

    #[test]
    fn a_host_is_connected_if_anybody_says_so_and_is_told_once() {
        let lane = |lane: v1::Lane, connected| v1::HostLane {
            lane: lane.into(),
            connected,
            ..v1::HostLane::default()
        };
        let merged = v1::Host {
            host: "edge-1".into(),
            boot_id: "boot".into(),
            frames: 7,
            lanes: vec![lane(v1::Lane::Warm, false)],
            ..v1::Host::default()
        };
        let guest = |host: &str| v1::Host {
            host: host.into(),
            boot_id: "boot".into(),
            connected: true,
            collector: "two".into(),
            frames_refused: 1,
            lanes: vec![lane(v1::Lane::Warm, true), lane(v1::Lane::Hot, true)],
            ..v1::Host::default()
        };
        let all = hosts(vec![merged], vec![guest("edge-1"), guest("edge-2")]);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].frames, all[0].frames_refused), (7, 1));
        assert!(
            all.iter()
                .all(|host| host.connected && host.collector == "two")
        );
        let lanes: Vec<_> = all[0]
            .lanes
            .iter()
            .map(|lane| (lane.lane(), lane.connected))
            .collect();
        assert_eq!(lanes, [(v1::Lane::Hot, true), (v1::Lane::Warm, true)]);
    }
}

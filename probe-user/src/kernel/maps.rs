//! The maps that every set of programs has: the rings, the settings, the filter, the counters.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, LpmTrie, Map, MapData, PerCpuArray, RingBuf, lpm_trie::Key},
};
use probe_ebpf::settings::{self, Counter};

use super::{Filter, KernelCounts, Record, Ring, RingCounts, Settings, cgroup, decode, pod::Pod};

/// Takes a map out of a loaded object.
pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object holds no map {name}"))
}

/// Hands at most `max` records of a ring to `sink`, oldest first; returns how many.
pub fn drain(ring: &mut RingBuf<MapData>, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize {
    let mut taken = 0;
    while taken < max
        && let Some(item) = ring.next()
    {
        sink(decode::record(&item));
        taken += 1;
    }
    taken
}

pub(super) struct Maps {
    hot: RingBuf<MapData>,
    bulk: RingBuf<MapData>,
    settings: Array<MapData, Pod<settings::Settings>>,
    ports: Array<MapData, u64>,
    prefixes: LpmTrie<MapData, [u8; 16], u8>,
    counters: PerCpuArray<MapData, u64>,
    /// Those in force.
    applied: settings::Settings,
    installed_prefixes: Vec<Key<[u8; 16]>>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            hot: take(ebpf, "HOT")?.try_into()?,
            bulk: take(ebpf, "BULK")?.try_into()?,
            settings: take(ebpf, "SETTINGS")?.try_into()?,
            ports: take(ebpf, "PORTS")?.try_into()?,
            prefixes: take(ebpf, "PREFIXES")?.try_into()?,
            counters: take(ebpf, "COUNTERS")?.try_into()?,
            applied: settings::Settings {
                share: settings::WHOLE,
                ..settings::Settings::default()
            },
            installed_prefixes: Vec::new(),
        })
    }

    /// Puts settings in force; returns them as the programs have them. On an error the old ones
    /// stay.
    pub(super) fn apply(&mut self, settings: &Settings) -> Result<settings::Settings> {
        let filter = &settings.filter;
        let (cgroups, cgroup_count) = cgroup_ids(&filter.cgroups)?;
        let prefixes = prefix_keys(filter)?;
        for prefix in &prefixes {
            self.prefixes
                .insert(prefix, 1, 0)
                .context("writing the prefix filter")?;
        }
        let mut words = [0u64; 1024];
        for port in &filter.ports {
            words[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        for (index, word) in (0u32..).zip(words) {
            self.ports
                .set(index, word, 0)
                .context("writing the port filter")?;
        }
        let generation = self.applied.filter_generation.wrapping_add(1);
        let value = settings::Settings {
            deadline_ns: u64::from(settings.deadline_ms) * 1_000_000,
            quiet_gap_ns: u64::from(settings.quiet_gap_ms) * 1_000_000,
            progress_ns: u64::from(settings.progress_ms) * 1_000_000,
            filter_generation: generation,
            by_port: u32::from(!filter.ports.is_empty()),
            by_prefix: u32::from(!filter.prefixes.is_empty()),
            cgroup_count,
            cgroups,
            share: self.applied.share,
            sees_arrivals: self.applied.sees_arrivals,
        };
        self.settings
            .set(0, Pod(value), 0)
            .context("writing the settings")?;
        self.applied = value;
        for stale in std::mem::take(&mut self.installed_prefixes) {
            if !prefixes.iter().any(|key| same_key(key, &stale)) {
                // Gone already is as good.
                let _ = self.prefixes.remove(&stale);
            }
        }
        self.installed_prefixes = prefixes;
        Ok(value)
    }

    /// The settings in force, as the programs have them.
    pub(super) fn applied(&self) -> settings::Settings {
        self.applied
    }

    /// Puts a share of the sessions to be followed in force.
    /// `sees_arrivals`: a program tells when bytes of clients arrive.
    pub(super) fn set_share(&mut self, share: u32, sees_arrivals: bool) -> Result<()> {
        let value = settings::Settings {
            share,
            sees_arrivals: u32::from(sees_arrivals),
            ..self.applied
        };
        self.settings
            .set(0, Pod(value), 0)
            .context("writing the settings")?;
        self.applied = value;
        Ok(())
    }

    pub(super) fn ring_fd(&self, ring: Ring) -> BorrowedFd<'_> {
        match ring {
            Ring::Hot => self.hot.as_fd(),
            Ring::Bulk => self.bulk.as_fd(),
        }
    }

    pub(super) fn drain(
        &mut self,
        ring: Ring,
        max: usize,
        sink: &mut dyn FnMut(Record<'_>),
    ) -> usize {
        let ring = match ring {
            Ring::Hot => &mut self.hot,
            Ring::Bulk => &mut self.bulk,
        };
        drain(ring, max, sink)
    }

    /// Openings that the sweep could not be told of.
    pub(super) fn marks_refused(&self) -> Result<u64> {
        self.count(Counter::MarksRefused)
    }

    fn count(&self, counter: Counter) -> Result<u64> {
        let per_cpu = self
            .counters
            .get(&(counter as u32), 0)
            .context("reading the programs' counters")?;
        Ok(per_cpu.iter().sum())
    }

    /// The programs' own counts, as they stand.
    fn read_counts(&self) -> Result<KernelCounts> {
        let get = |counter| self.count(counter);
        Ok(KernelCounts {
            hot: RingCounts {
                seen: get(Counter::HotSeen)?,
                exported: get(Counter::HotExported)?,
                ring_full: get(Counter::HotFull)?,
            },
            bulk: RingCounts {
                seen: get(Counter::BulkSeen)?,
                exported: get(Counter::BulkExported)?,
                ring_full: get(Counter::BulkFull)?,
            },
            sessions_seen: get(Counter::SessionsSeen)?,
            sessions_tracked: get(Counter::SessionsTracked)?,
            sessions_filtered: get(Counter::SessionsFiltered)?,
            sessions_storage_refused: get(Counter::SessionsRefused)?,
            half_open_refused: get(Counter::HalfOpenRefused)?,
            sessions_left_out: get(Counter::SessionsLeftOut)?,
            ..KernelCounts::default()
        })
    }

    /// The programs' own counts, at a moment when none of them is between two counters, if there
    /// is one.
    pub(super) fn counts(&self) -> Result<KernelCounts> {
        const TRIES: usize = 1000;
        let mut counts = self.read_counts()?;
        for _ in 0..TRIES {
            if counts.reconcile() {
                break;
            }
            counts = self.read_counts()?;
        }
        Ok(counts)
    }
}

fn cgroup_ids(paths: &[std::path::PathBuf]) -> Result<([u64; settings::MAX_CGROUPS], u32)> {
    if paths.len() > settings::MAX_CGROUPS {
        bail!(
            "a filter can name {} cgroups, not {}",
            settings::MAX_CGROUPS,
            paths.len()
        );
    }
    let mut ids = [0; settings::MAX_CGROUPS];
    for (id, path) in ids.iter_mut().zip(paths) {
        *id = cgroup::id(path)?;
    }
    Ok((ids, u32::try_from(paths.len())?))
}

fn prefix_keys(filter: &Filter) -> Result<Vec<Key<[u8; 16]>>> {
    if filter.prefixes.len() > Filter::MAX_PREFIXES {
        bail!(
            "a filter can name {} prefixes, not {}",
            Filter::MAX_PREFIXES,
            filter.prefixes.len()
        );
    }
    Ok(filter
        .prefixes
        .iter()
        .map(|prefix| match prefix {
            ipnet::IpNet::V4(net) => Key::new(
                u32::from(net.prefix_len()) + 96,
                net.network().to_ipv6_mapped().octets(),
            ),
            ipnet::IpNet::V6(net) => Key::new(u32::from(net.prefix_len()), net.network().octets()),
        })
        .collect())
}

fn same_key(a: &Key<[u8; 16]>, b: &Key<[u8; 16]>) -> bool {
    a.prefix_len() == b.prefix_len() && a.data() == b.data()
}

//! The exact backend: tracing programs on the kernel's own tracepoints, loaded, attached,
//! steered and drained.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, RingBuf, lpm_trie::Key},
    programs::Iter,
};
use aya_log::EbpfLogger;
use probe_ebpf::settings::{self, Clock, Counter, ListenerKey};

use super::{
    Backend, BackendKind, Filter, HalfOpenGiveUp, IterLink, KernelCounts, Probe, Record, Ring,
    RingCounts, Settings, cgroup, decode, half_open::HalfOpenTable, namespaces, offsets::Offsets,
    pod::Pod, probes, sys,
};

/// The programs, compiled for the kernel by this crate's build script.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-ebpf"));

/// What cannot change once the programs are loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the hot ring; a power of two and a multiple of the page size.
    pub hot_ring_bytes: u32,
    /// Size of the bulk ring, likewise.
    pub bulk_ring_bytes: u32,
    /// How much the programs themselves log: 0 nothing, 1 errors ... 5 traces (aya-log's levels).
    pub program_log_level: u8,
}

/// Tracing programs at work. Dropping it takes them out of the kernel, and so does the death of
/// the process: every program, map and link is held by a descriptor alone.
pub struct Exact {
    // Holds the attached programs.
    ebpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    probes: Vec<Probe>,
    hot: RingBuf<MapData>,
    bulk: RingBuf<MapData>,
    settings: Array<MapData, Pod<settings::Settings>>,
    ports: Array<MapData, u64>,
    prefixes: LpmTrie<MapData, [u8; 16], u8>,
    counters: PerCpuArray<MapData, u64>,
    half_open: HalfOpenTable,
    listeners: HashMap<MapData, Pod<ListenerKey>, u8>,
    sweep: Option<IterLink>,
    adopt: Option<IterLink>,
    tick_hz: u32,
    generation: u32,
    installed_prefixes: Vec<Key<[u8; 16]>>,
}

impl std::fmt::Debug for Exact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exact")
            .field("probes", &self.probes)
            .field("tick_hz", &self.tick_hz)
            .finish_non_exhaustive()
    }
}

impl Exact {
    /// Loads the programs, attaches them, and puts `settings` in force. Sessions that are
    /// already there wait for [`Backend::adopt`].
    pub fn load(options: &Options, settings: &Settings) -> Result<Self> {
        let (mut ebpf, probes) = load_programs(options)?;
        if let Some(probe) = probes::missing_required(&probes) {
            bail!("{}: {}", probe.name, probe.reason);
        }
        let logger = (options.program_log_level > 0)
            .then(|| EbpfLogger::init(&mut ebpf))
            .transpose()
            .context("the programs' own log")?;
        let storage = take(&mut ebpf, "SESSIONS")?;
        let Map::SkStorage(storage) = storage else {
            bail!("the map SESSIONS is no socket storage");
        };
        let sweep = link(&ebpf, probes::SWEEP, Some(storage.fd().as_fd()))?;
        let adopt = link(&ebpf, probes::ADOPT, None)?;
        let clock: Array<MapData, Pod<Clock>> = take(&mut ebpf, "CLOCK")?.try_into()?;
        let tick_hz = match &sweep {
            Some(sweep) => measure_tick(sweep, &clock).context("measuring the tick rate")?,
            None => 0,
        };
        let mut backend = Self {
            logger,
            probes,
            hot: take(&mut ebpf, "HOT")?.try_into()?,
            bulk: take(&mut ebpf, "BULK")?.try_into()?,
            settings: take(&mut ebpf, "SETTINGS")?.try_into()?,
            ports: take(&mut ebpf, "PORTS")?.try_into()?,
            prefixes: take(&mut ebpf, "PREFIXES")?.try_into()?,
            counters: take(&mut ebpf, "COUNTERS")?.try_into()?,
            listeners: take(&mut ebpf, "LISTENERS")?.try_into()?,
            half_open: HalfOpenTable::new(take(&mut ebpf, "HALF_OPEN")?)?,
            ebpf,
            sweep,
            adopt,
            tick_hz,
            generation: 0,
            installed_prefixes: Vec::new(),
        };
        backend
            .apply(settings)
            .context("the configured filter cannot be put in force")?;
        sys::give_back_memory();
        Ok(backend)
    }

    fn programs_skipped(&self) -> Result<u64> {
        let mut skipped = 0;
        for (name, program) in self.ebpf.programs() {
            // Those that could not be loaded have no descriptor.
            if let Ok(fd) = program.fd() {
                skipped += sys::recursion_misses(fd.as_fd())
                    .with_context(|| format!("asking the kernel about {name}"))?;
            }
        }
        Ok(skipped)
    }

    fn read_counts(&self) -> Result<KernelCounts> {
        let get = |counter: Counter| -> Result<u64> {
            let per_cpu = self
                .counters
                .get(&(counter as u32), 0)
                .context("reading the programs' counters")?;
            Ok(per_cpu.iter().sum())
        };
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
            programs_skipped: self.programs_skipped()?,
        })
    }
}

/// What would be attached here: tries it, and takes it all out again.
pub(super) fn try_programs() -> (Vec<Probe>, bool) {
    let options = Options {
        hot_ring_bytes: 1 << 16,
        bulk_ring_bytes: 1 << 16,
        program_log_level: 0,
    };
    match load_programs(&options) {
        Ok((_ebpf, probes)) => {
            let works = probes::missing_required(&probes).is_none();
            (probes, works)
        }
        Err(error) => (probes::all_broken(&format!("{error:#}")), false),
    }
}

fn load_programs(options: &Options) -> Result<(Ebpf, Vec<Probe>)> {
    let offsets = Offsets::of_running_kernel()?;
    offsets.check()?;
    for spec in offsets.absent() {
        tracing::info!(
            "this kernel has no {}.{}: not measured: {}",
            spec.root,
            spec.path,
            spec.lost
        );
    }
    let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets.0[..], true)
        .override_global("AYA_LOG_LEVEL", &options.program_log_level, false)
        .map_max_entries("HOT", options.hot_ring_bytes)
        .map_max_entries("BULK", options.bulk_ring_bytes)
        .load(PROGRAMS)
        .context("making the maps; needs CAP_BPF and CAP_PERFMON, or root")?;
    let probes = probes::attach_all(&mut ebpf, &btf);
    Ok((ebpf, probes))
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object holds no map {name}"))
}

/// Links an iterator, if its program could be loaded.
fn link(ebpf: &Ebpf, name: &str, map: Option<BorrowedFd<'_>>) -> Result<Option<IterLink>> {
    let Some(program) = ebpf.program(name) else {
        return Ok(None);
    };
    let program: &Iter = program.try_into()?;
    let Ok(fd) = program.fd() else {
        return Ok(None);
    };
    let link = IterLink::new(fd.as_fd(), map).with_context(|| format!("linking {name}"))?;
    Ok(Some(link))
}

/// Kernel ticks per second, from two readings: one of the four rates that Linux can be built
/// with.
fn measure_tick(sweep: &IterLink, clock: &Array<MapData, Pod<Clock>>) -> Result<u32> {
    const RATES: [u32; 4] = [100, 250, 300, 1000];
    const APART: Duration = Duration::from_millis(100);
    sweep.run()?;
    let Pod(first) = clock.get(&0, 0)?;
    let begin = Instant::now();
    while begin.elapsed() < APART {
        thread::sleep(APART.saturating_sub(begin.elapsed()));
    }
    sweep.run()?;
    let Pod(second) = clock.get(&0, 0)?;
    let ns = second.ktime_ns.saturating_sub(first.ktime_ns).max(1);
    let ticks = second.jiffies.saturating_sub(first.jiffies);
    let rate = ticks * 1_000_000_000 / ns;
    Ok(RATES
        .into_iter()
        .min_by_key(|candidate| u64::from(*candidate).abs_diff(rate))
        .unwrap_or(250))
}

impl Backend for Exact {
    fn kind(&self) -> BackendKind {
        BackendKind::Exact
    }

    fn probes(&self) -> &[Probe] {
        &self.probes
    }

    fn tick_hz(&self) -> u32 {
        self.tick_hz
    }

    fn apply(&mut self, settings: &Settings) -> Result<()> {
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
        let generation = self.generation.wrapping_add(1);
        let value = settings::Settings {
            deadline_ns: u64::from(settings.deadline_ms) * 1_000_000,
            quiet_gap_ns: u64::from(settings.quiet_gap_ms) * 1_000_000,
            progress_ns: u64::from(settings.progress_ms) * 1_000_000,
            filter_generation: generation,
            by_port: u32::from(!filter.ports.is_empty()),
            by_prefix: u32::from(!filter.prefixes.is_empty()),
            cgroup_count,
            cgroups,
        };
        self.settings
            .set(0, Pod(value), 0)
            .context("writing the settings")?;
        self.generation = generation;
        for stale in std::mem::take(&mut self.installed_prefixes) {
            if !prefixes.iter().any(|key| same_key(key, &stale)) {
                // Gone already is as good.
                let _ = self.prefixes.remove(&stale);
            }
        }
        self.installed_prefixes = prefixes;
        Ok(())
    }

    fn ring_fd(&self, ring: Ring) -> BorrowedFd<'_> {
        match ring {
            Ring::Hot => self.hot.as_fd(),
            Ring::Bulk => self.bulk.as_fd(),
        }
    }

    fn drain(&mut self, ring: Ring, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize {
        let ring = match ring {
            Ring::Hot => &mut self.hot,
            Ring::Bulk => &mut self.bulk,
        };
        let mut taken = 0;
        while taken < max
            && let Some(item) = ring.next()
        {
            sink(decode::record(&item));
            taken += 1;
        }
        taken
    }

    fn sweep(&mut self) -> Result<()> {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        match &self.sweep {
            Some(sweep) => sweep.run().context("walking the sessions"),
            None => Ok(()),
        }
    }

    fn adopt(&mut self) -> Result<usize> {
        match &self.adopt {
            Some(adopt) => {
                forget(&mut self.listeners).context("forgetting earlier listeners")?;
                namespaces::in_each(|| Ok(adopt.run()?))
            }
            None => Ok(0),
        }
    }

    fn half_open_give_ups(&mut self) -> Result<Vec<HalfOpenGiveUp>> {
        self.half_open.give_ups()
    }

    fn counts(&mut self) -> Result<KernelCounts> {
        // A program may be between two counters at the moment of reading; it is past them at
        // one of the next.
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

/// Takes everything out of the listeners' map: what listened at the last walk may not any more.
fn forget(listeners: &mut HashMap<MapData, Pod<ListenerKey>, u8>) -> Result<()> {
    let keys: Vec<_> = listeners.keys().collect::<Result<_, _>>()?;
    for key in keys {
        listeners.remove(&key)?;
    }
    Ok(())
}

fn cgroup_ids(paths: &[PathBuf]) -> Result<([u64; settings::MAX_CGROUPS], u32)> {
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

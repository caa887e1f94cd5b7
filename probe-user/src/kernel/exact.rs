//! The exact backend: tracing programs on the kernel's own tracepoints, loaded, attached,
//! steered and drained.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData},
    programs::Iter,
};
use aya_log::EbpfLogger;
use probe_ebpf::{
    record::backend,
    settings::{Clock, ListenerKey, WHOLE},
};

use super::{
    Backend, BackendKind, Filter, HalfOpenGiveUp, IterLink, KernelCounts, Means, Options, Probe,
    Record, Ring, Settings,
    half_open::HalfOpenTable,
    maps::{Maps, take},
    namespaces,
    offsets::Offsets,
    pod::Pod,
    polled::sockdiag::make_cookies,
    probes::{self, Attached, Clocks},
    sys,
    table::Table,
    walks::Walks,
};

/// The programs, compiled for the kernel by this crate's build script.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-ebpf"));
/// The same for kernels without atomic instructions that return a value, or without socket storage
/// in tracing programs.
static KEYED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-ebpf-keyed"));

/// The first kernel that takes [`PROGRAMS`].
const LEAST_FOR_STORAGE: (u32, u32) = (5, 12);

/// Where the programs keep the sessions' state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// In the sockets' storage.
    Storage,
    /// In a table, by the sockets' addresses.
    Keyed,
}

impl Object {
    fn of_this_kernel() -> Self {
        if sys::kernel_version().is_some_and(|version| version < LEAST_FOR_STORAGE) {
            Self::Keyed
        } else {
            Self::Storage
        }
    }

    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Storage => PROGRAMS,
            Self::Keyed => KEYED,
        }
    }
}

/// Tracing programs at work. Dropping it takes them out of the kernel, and so does the death of
/// the process: every program, map and link is held by a descriptor alone.
pub struct Exact {
    // Holds the attached programs.
    ebpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    probes: Vec<Probe>,
    /// The programs that run for every segment and every write.
    clocks: Clocks,
    /// The program that runs when bytes of a client arrive; only while a share is followed.
    arrivals: Clocks,
    maps: Maps,
    /// Only where the programs cannot use socket storage.
    table: Option<Table>,
    half_open: HalfOpenTable,
    listeners: HashMap<MapData, Pod<ListenerKey>, u8>,
    walks: Option<Walks>,
    adopt: Option<IterLink>,
    tick_hz: u32,
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
        let object = Object::of_this_kernel();
        let Loaded {
            mut ebpf,
            probes,
            clocks,
            arrivals,
            maps,
        } = load_programs(object, options, settings)?;
        if let Some(probe) = probes::missing_required(&probes) {
            bail!("{}: {}", probe.name, probe.reason);
        }
        let logger = (options.program_log_level > 0)
            .then(|| EbpfLogger::init(&mut ebpf))
            .transpose()
            .context("the programs' own log")?;
        let adopt = link(&ebpf, probes::ADOPT, None)?;
        let (walks, table) = match take(&mut ebpf, "SESSIONS")? {
            Map::SkStorage(all) => {
                let Map::SkStorage(open) = take(&mut ebpf, "OPEN")? else {
                    bail!("the map OPEN holds no socket storage");
                };
                let open = link(&ebpf, probes::SWEEP, Some(open.fd().as_fd()))?;
                let all = link(&ebpf, probes::SWEEP, Some(all.fd().as_fd()))?;
                let walks = match open.zip(all) {
                    Some((open, all)) => Some(Walks::new(open, all)),
                    None => link(&ebpf, probes::SWEEP_SOCKETS, None)?.map(Walks::past_sockets),
                };
                (walks, None)
            }
            sessions => {
                let mut table = Table::new(sessions.try_into()?, backend::EXACT);
                table.apply(maps.applied(), &settings.filter);
                (None, Some(table))
            }
        };
        let clock: Array<MapData, Pod<Clock>> = take(&mut ebpf, "CLOCK")?.try_into()?;
        let shortest = walks.as_ref().map(Walks::shortest);
        let tick_hz = match shortest.or(adopt.as_ref()) {
            Some(walk) => measure_tick(walk, &clock).context("measuring the tick rate")?,
            None => 0,
        };
        sys::give_back_memory();
        Ok(Self {
            logger,
            probes,
            clocks,
            arrivals,
            maps,
            table,
            listeners: take(&mut ebpf, "LISTENERS")?.try_into()?,
            half_open: HalfOpenTable::new(take(&mut ebpf, "HALF_OPEN")?)?,
            ebpf,
            walks,
            adopt,
            tick_hz,
        })
    }
}

/// What would be attached here: tries it, and takes it all out again.
pub(super) fn try_programs() -> (Vec<Probe>, bool) {
    let options = Options::smallest();
    let object = Object::of_this_kernel();
    let no_session = Settings {
        deadline_ms: 0,
        quiet_gap_ms: 0,
        progress_ms: 0,
        filter: Filter {
            // None has this port.
            ports: vec![0],
            ..Filter::default()
        },
    };
    match load_programs(object, &options, &no_session) {
        Ok(Loaded { probes, .. }) => {
            let works = probes::missing_required(&probes).is_none();
            (probes, works)
        }
        Err(error) => (probes::all_broken(&format!("{error:#}")), false),
    }
}

/// Programs in the kernel, attached.
struct Loaded {
    ebpf: Ebpf,
    probes: Vec<Probe>,
    clocks: Clocks,
    arrivals: Clocks,
    maps: Maps,
}

fn load_programs(object: Object, options: &Options, settings: &Settings) -> Result<Loaded> {
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
    sys::lift_memory_lock_limit();
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets.0[..], true)
        .override_global("AYA_LOG_LEVEL", &options.program_log_level, false)
        .map_max_entries("HOT", options.hot_ring_bytes)
        .map_max_entries("BULK", options.bulk_ring_bytes);
    if object == Object::Keyed {
        loader.map_max_entries("SESSIONS", options.max_sessions);
    }
    let mut ebpf = loader
        .load(object.bytes())
        .context("making the maps; needs CAP_BPF and CAP_PERFMON, or root")?;
    // In force before the first program sees a session.
    let mut maps = Maps::take(&mut ebpf)?;
    maps.apply(settings)
        .context("the configured filter cannot be put in force")?;
    let Attached {
        probes,
        clocks,
        arrivals,
    } = probes::attach_all(object, &mut ebpf, &btf);
    Ok(Loaded {
        ebpf,
        probes,
        clocks,
        arrivals,
        maps,
    })
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
    if ticks == 0 {
        bail!("the kernel's ticks stand still, or its walk does not read them");
    }
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
        let applied = self.maps.apply(settings)?;
        if let Some(table) = &mut self.table {
            table.apply(applied, &settings.filter);
        }
        if let Some(walks) = &mut self.walks {
            walks.judge_all();
        }
        Ok(())
    }

    fn ring_fd(&self, ring: Ring) -> BorrowedFd<'_> {
        self.maps.ring_fd(ring)
    }

    fn drain(&mut self, ring: Ring, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize {
        drain(&mut self.maps, &mut self.table, ring, max, sink)
    }

    fn sweep(&mut self) -> Result<()> {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        if let Some(table) = &mut self.table {
            return table.sweep();
        }
        let Some(walks) = &mut self.walks else {
            return Ok(());
        };
        walks.sweep(self.maps.applied().is_thinned(), self.maps.marks_refused()?)
    }

    fn adopt(&mut self, sink: &mut dyn FnMut(Record<'_>)) -> Result<usize> {
        // Longer than taking out what is there, shorter than filling the ring.
        const PAUSE: Duration = Duration::from_millis(1);
        let Some(adopt) = &self.adopt else {
            return Ok(0);
        };
        forget(&mut self.listeners).context("forgetting earlier listeners")?;
        let needs_cookies = self.table.is_some();
        let (maps, table) = (&mut self.maps, &mut self.table);
        thread::scope(|scope| {
            let walk = scope.spawn(|| walk(adopt, needs_cookies));
            loop {
                let is_over = walk.is_finished();
                drain(maps, table, Ring::Bulk, usize::MAX, sink);
                if is_over {
                    break;
                }
                thread::sleep(PAUSE);
            }
            walk.join()
                .unwrap_or_else(|_| Err(anyhow!("the thread that walks the sockets panicked")))
        })
    }

    fn half_open_give_ups(&mut self) -> Result<Vec<HalfOpenGiveUp>> {
        self.half_open.give_ups()
    }

    fn means(&self) -> Means {
        // Something has to look at the sessions that are left out.
        if self.walks.is_some() {
            Means::Share
        } else if self.table.is_some() {
            Means::Nothing("before Linux 5.12 no session can be left out")
        } else {
            Means::Nothing("this kernel refuses the programs that would look at those left out")
        }
    }

    fn run_time(&self) -> Result<Duration> {
        probes::run_time(&self.ebpf)
    }

    fn follow(&mut self, share: u32) -> Result<()> {
        if share == WHOLE {
            // The callbacks of those that were followed end by themselves.
            self.clocks.start(&mut self.ebpf)?;
            self.maps.set_share(share, false)?;
            self.arrivals.stop();
            return Ok(());
        }
        if share == 0 {
            self.arrivals.stop();
        } else if let Err(err) = self.arrivals.start(&mut self.ebpf) {
            // Callbacks tell of requests then, and mark their times.
            tracing::warn!("no request is seen as it arrives: {err:#}");
        }
        self.maps.set_share(share, self.arrivals.is_attached())?;
        self.clocks.stop();
        // Sessions that are open have not asked for callbacks.
        let Some(adopt) = &self.adopt else {
            return Ok(());
        };
        forget(&mut self.listeners).context("forgetting earlier listeners")?;
        walk(adopt, self.table.is_some()).map(drop)
    }

    fn counts(&mut self) -> Result<KernelCounts> {
        let mut counts = self.maps.counts()?;
        if let Some(table) = &self.table {
            table.add_to(&mut counts);
        }
        counts.programs_skipped = probes::sum_of(&self.ebpf, |counts| counts.recursion_misses)?;
        Ok(counts)
    }
}

fn drain(
    maps: &mut Maps,
    table: &mut Option<Table>,
    ring: Ring,
    max: usize,
    sink: &mut dyn FnMut(Record<'_>),
) -> usize {
    match table {
        Some(table) => table.drain_with(maps, ring, max, sink),
        None => maps.drain(ring, max, sink),
    }
}

/// Meets every socket of every network namespace; returns how many of those could not be entered.
fn walk(adopt: &IterLink, needs_cookies: bool) -> Result<usize> {
    namespaces::in_each(|| {
        if needs_cookies {
            make_cookies().context("naming the sessions that are open already")?;
        }
        Ok(adopt.run()?)
    })
}

/// Takes everything out of the listeners' map: what listened at the last walk may not any more.
fn forget(listeners: &mut HashMap<MapData, Pod<ListenerKey>, u8>) -> Result<()> {
    let keys: Vec<_> = listeners.keys().collect::<Result<_, _>>()?;
    for key in keys {
        listeners.remove(&key)?;
    }
    Ok(())
}

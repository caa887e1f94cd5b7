//! The portable backend: a socket callback program, two that see packets, and no tracing. It needs
//! neither the kernel's BTF nor `CAP_PERFMON`, and sees what the kernel shows such programs.

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::HashMap,
    programs::{
        CgroupSkb, CgroupSkbAttachType, Program, ProgramError, SockOps, cgroup_skb::CgroupSkbLink,
        sock_ops::SockOpsLink,
    },
};
use probe_ebpf::record::backend;

use super::{
    Backend, BackendKind, Filter, HalfOpenGiveUp, KernelCounts, Means, Options, Probe, Record,
    Ring, Settings, Verdict, cgroup,
    maps::{Maps, take},
    probes::{self, gist},
    sys,
    table::Table,
};

/// The program, compiled for the kernel by this crate's build script.
static PROGRAM: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-ebpf-portable"));
/// The program for socket callbacks, and those for packets.
const CALLBACKS: &str = "portable";
const ARRIVALS: &str = "arrivals";
const DEPARTURES: &str = "departures";
const HOOK: &str = "cgroup/sock_ops, cgroup_skb/ingress, cgroup_skb/egress";
/// The first kernel with callbacks for the headers of segments.
const SINCE: &str = "5.10";

/// What the program does not tell, which the exact ones do.
const NOT_TOLD: [(&str, &str); 3] = [
    (
        "whether the application limited a rate",
        "the delivery rate, which tells of the path only where it did not",
    ),
    (
        "what is written and not yet sent",
        "the last write: the last segment's sending stands for it; time limited by receiver \
         window and send buffer",
    ),
    (
        "why a session ended",
        "resets and timeouts look like other ends; half-open sessions that were given up",
    ),
];

/// A socket callback program at work. Dropping it takes it out of the kernel, and so does the death
/// of the process.
pub struct Portable {
    ebpf: Ebpf,
    /// One each for the root of the hierarchy, or for each cgroup of the filter.
    links: Vec<Links>,
    attached_to: Vec<PathBuf>,
    probes: Vec<Probe>,
    maps: Maps,
    table: Table,
}

impl std::fmt::Debug for Portable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Portable")
            .field("probes", &self.probes)
            .finish_non_exhaustive()
    }
}

impl Portable {
    /// Loads the program, attaches it, and puts `settings` in force. Sessions that are there
    /// already are not measured.
    pub fn load(options: &Options, settings: &Settings) -> Result<Self> {
        let mut ebpf = load_program(options)?;
        let sessions: HashMap<_, _, _> = take(&mut ebpf, "SESSIONS")?.try_into()?;
        let mut backend = Self {
            maps: Maps::take(&mut ebpf)?,
            table: Table::new(sessions, backend::PORTABLE),
            ebpf,
            links: Vec::new(),
            attached_to: Vec::new(),
            probes: probes(&Ok(())),
        };
        backend.apply(settings)?;
        Ok(backend)
    }

    /// Attaches the program to these cgroups, and takes it off all others.
    fn attach(&mut self, to: Vec<PathBuf>) -> Result<()> {
        if to == self.attached_to {
            return Ok(());
        }
        let mut links = Vec::with_capacity(to.len());
        for path in &to {
            links.push(attach(&mut self.ebpf, path)?);
        }
        // The old ones end here: a session that both see for a moment is one to the program.
        self.links = links;
        self.attached_to = to;
        Ok(())
    }
}

/// Where the program has to be to see what the filter lets through.
fn cgroups(filter: &Filter) -> Result<Vec<PathBuf>> {
    if filter.cgroups.is_empty() {
        return Ok(vec![cgroup::mount_point()?]);
    }
    for path in &filter.cgroups {
        cgroup::id(path)?;
    }
    // Below one that is named already, the program would run twice.
    let mut paths: Vec<PathBuf> = filter.cgroups.clone();
    paths.sort();
    paths.dedup_by(|below, above| below.starts_with(above));
    Ok(paths)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object holds no program {name}"))?;
    Ok(program.try_into()?)
}

/// The programs at one cgroup.
type Links = (SockOpsLink, [CgroupSkbLink; 2]);

fn attach(ebpf: &mut Ebpf, path: &Path) -> Result<Links> {
    // What the packets tell is nothing without the sessions: those last.
    let arrivals = attach_to_packets(ebpf, ARRIVALS, CgroupSkbAttachType::Ingress, path)?;
    let departures = attach_to_packets(ebpf, DEPARTURES, CgroupSkbAttachType::Egress, path)?;
    let callbacks = cgroup::attach(program(ebpf, CALLBACKS)?, path)?;
    let callbacks = program::<SockOps>(ebpf, CALLBACKS)?.take_link(callbacks)?;
    Ok((callbacks, [arrivals, departures]))
}

fn attach_to_packets(
    ebpf: &mut Ebpf,
    name: &str,
    direction: CgroupSkbAttachType,
    path: &Path,
) -> Result<CgroupSkbLink> {
    let link = cgroup::attach_to_packets(program(ebpf, name)?, direction, path)?;
    Ok(program::<CgroupSkb>(ebpf, name)?.take_link(link)?)
}

fn load_program(options: &Options) -> Result<Ebpf> {
    sys::lift_memory_lock_limit();
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .map_max_entries("HOT", options.hot_ring_bytes)
        .map_max_entries("BULK", options.bulk_ring_bytes)
        .map_max_entries("SESSIONS", options.max_sessions)
        .load(PROGRAM)
        .context("making the maps; needs CAP_BPF and CAP_NET_ADMIN, or root")?;
    program::<SockOps>(&mut ebpf, CALLBACKS)?
        .load()
        .map_err(short)?;
    for packets in [ARRIVALS, DEPARTURES] {
        program::<CgroupSkb>(&mut ebpf, packets)?
            .load()
            .map_err(short)?;
    }
    Ok(ebpf)
}

/// An error without the verifier's whole log.
fn short(error: ProgramError) -> anyhow::Error {
    anyhow!(gist(&format!("{:#}", anyhow::Error::from(error))))
}

/// Whether the program can be loaded and attached here: tries it, and takes it out again.
pub(super) fn try_programs() -> (Vec<Probe>, bool) {
    let tried = load_program(&Options::smallest())
        .and_then(|mut ebpf| attach(&mut ebpf, &cgroup::mount_point()?).map(drop));
    (probes(&tried), tried.is_ok())
}

fn probes(tried: &Result<()>) -> Vec<Probe> {
    let program = match tried {
        Ok(()) => Probe {
            name: HOOK.to_owned(),
            verdict: Verdict::Ok,
            reason: "attached".to_owned(),
            lost: String::new(),
        },
        Err(error) => Probe {
            name: HOOK.to_owned(),
            verdict: Verdict::Broken,
            reason: format!("{error:#} (Linux {SINCE} and on can)"),
            lost: "everything".to_owned(),
        },
    };
    let not_told = NOT_TOLD.iter().map(|(what, lost)| Probe {
        name: (*what).to_owned(),
        verdict: Verdict::Unsupported,
        reason: "these programs are not shown it".to_owned(),
        lost: (*lost).to_owned(),
    });
    std::iter::once(program).chain(not_told).collect()
}

impl Backend for Portable {
    fn kind(&self) -> BackendKind {
        BackendKind::Portable
    }

    fn probes(&self) -> &[Probe] {
        &self.probes
    }

    fn tick_hz(&self) -> u32 {
        0
    }

    fn apply(&mut self, settings: &Settings) -> Result<()> {
        let to = cgroups(&settings.filter)?;
        // By attachment instead: the program cannot tell a socket's cgroup.
        let filter = Filter {
            cgroups: Vec::new(),
            ..settings.filter.clone()
        };
        let applied = self.maps.apply(&Settings {
            filter,
            ..settings.clone()
        })?;
        self.attach(to)?;
        self.table.apply(applied, &settings.filter);
        Ok(())
    }

    fn ring_fd(&self, ring: Ring) -> BorrowedFd<'_> {
        self.maps.ring_fd(ring)
    }

    fn drain(&mut self, ring: Ring, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize {
        self.table.drain_with(&mut self.maps, ring, max, sink)
    }

    fn sweep(&mut self) -> Result<()> {
        self.table.sweep()
    }

    /// Callbacks are asked for when a session is established: those that are there already are
    /// never met.
    fn adopt(&mut self, _sink: &mut dyn FnMut(Record<'_>)) -> Result<usize> {
        Ok(0)
    }

    fn half_open_give_ups(&mut self) -> Result<Vec<HalfOpenGiveUp>> {
        Ok(Vec::new())
    }

    fn means(&self) -> Means {
        Means::Nothing("what is late on a session that is left out could not be told in this way")
    }

    fn run_time(&self) -> Result<Duration> {
        probes::run_time(&self.ebpf)
    }

    fn counts(&mut self) -> Result<KernelCounts> {
        let mut counts = self.maps.counts()?;
        self.table.add_to(&mut counts);
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_attached_once_above_what_it_has_to_see() {
        let Ok(root) = cgroup::mount_point() else {
            // Nothing can be attached on a host without the hierarchy.
            return;
        };
        let filter = |cgroups: &[PathBuf]| Filter {
            cgroups: cgroups.to_vec(),
            ..Filter::default()
        };
        assert_eq!(cgroups(&filter(&[])).unwrap(), std::slice::from_ref(&root));
        assert_eq!(
            cgroups(&filter(&[root.clone(), root.clone()])).unwrap(),
            [root]
        );
        let elsewhere = cgroups(&filter(&[PathBuf::from("/proc")])).unwrap_err();
        assert!(format!("{elsewhere:#}").contains("/proc"), "{elsewhere:#}");
    }
}

//! The bench's own kernel programs at work: empty ones on weir's hooks, and producers of records.

#[path = "../../../probe-ebpf/src/bench/plan.rs"]
mod plan;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, RingBuf};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, SchedClassifier, SockOps, TestRun as _, TestRunOptions,
};
use aya::{Btf, Ebpf, EbpfLoader};
use weir::kernel::cgroup;

pub(crate) use plan::HOT_PORT;
use plan::{MAX_SLOTS, Made, Plan, Wish};

/// weir's programs, in the order in which it loads them: a name in the kernel is cut after 15
/// letters, and of two that then are the same the first is the one with the lower id.
pub(crate) const NAMES: [&str; 15] = [
    "tcp_probe",
    "inet_sock_set_state",
    "tcp_sendmsg_locked",
    "sendmsg_entry",
    "sock_send_length",
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "tcp_receive_reset",
    "tcp_send_reset",
    "sock_ops",
    "sk_data_ready",
    "readable_entry",
    "sweep",
    "sweep_sockets",
    "adopt",
];

/// Those that stand on a tracepoint of their name; of three that see writes weir takes the first
/// that the kernel has, and so does the bench.
const TRACEPOINTS: [&str; 8] = [
    "tcp_probe",
    "inet_sock_set_state",
    "tcp_sendmsg_locked",
    "sock_send_length",
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "tcp_receive_reset",
    "tcp_send_reset",
];

/// A layout of [`plan`] as a map's value.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Value<T>(T);

// SAFETY: structs of u64 without padding.
unsafe impl aya::Pod for Value<Plan> {}
// SAFETY: likewise.
unsafe impl aya::Pod for Value<Made> {}
// SAFETY: likewise.
unsafe impl aya::Pod for Value<Wish> {}

/// Programs that do nothing, where weir's would be. Gone when dropped.
pub(crate) struct Empty {
    ebpf: Ebpf,
    attached: Vec<&'static str>,
}

impl std::fmt::Debug for Empty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Empty").finish_non_exhaustive()
    }
}

impl Empty {
    /// Attaches them.
    pub(crate) fn attach(object: &Path) -> Result<Self> {
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let mut ebpf = load(object, &[])?;
        let mut attached = Vec::new();
        for name in TRACEPOINTS {
            if name == "sock_send_length" && attached.contains(&"tcp_sendmsg_locked") {
                continue;
            }
            let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
            // A tracepoint that this kernel lacks carries none of weir's programs either.
            if program.load(name, &btf).is_err() {
                continue;
            }
            program
                .attach()
                .with_context(|| format!("attaching an empty program to {name}"))?;
            attached.push(name);
        }
        let root = cgroup::mount_point()?;
        let root = File::open(&root).with_context(|| format!("opening {}", root.display()))?;
        let program: &mut SockOps = program(&mut ebpf, "sock_ops")?;
        program.load()?;
        program.attach(root, CgroupAttachMode::Single)?;
        attached.push("sock_ops");
        Ok(Self { ebpf, attached })
    }

    /// Each program's name and id.
    pub(crate) fn programs(&self) -> Result<Vec<(&'static str, u32)>> {
        self.attached
            .iter()
            .map(|name| {
                let program = self.ebpf.program(name).context("a program is gone")?;
                Ok((*name, program.info()?.id()))
            })
            .collect()
    }
}

/// One of the parts of weir's program at an acknowledgement, alone on its hook. Gone when dropped.
pub(crate) struct Part {
    _ebpf: Ebpf,
    name: &'static str,
    id: u32,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}

impl Part {
    /// Attaches it to `tcp_probe`.
    pub(crate) fn attach(object: &Path, name: &'static str) -> Result<Self> {
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let mut ebpf = load(object, &[])?;
        let program: &mut BtfTracePoint = program(&mut ebpf, name)?;
        program
            .load("tcp_probe", &btf)
            .with_context(|| format!("loading {name}"))?;
        program
            .attach()
            .with_context(|| format!("attaching {name} to tcp_probe"))?;
        let id = program.info()?.id();
        Ok(Self {
            _ebpf: ebpf,
            name,
            id,
        })
    }

    /// Its name and id.
    pub(crate) fn program(&self) -> (&'static str, u32) {
        (self.name, self.id)
    }
}

/// The order in which sessions speak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making {
    /// Open at the same time.
    pub(crate) sessions: u64,
    /// Of each, until it ends and another takes its place; 0: it does not end.
    pub(crate) deliveries: u64,
    /// In random order.
    pub(crate) random: bool,
    /// One in so many had segments sent again; see [`Plan::troubled`].
    pub(crate) troubled: u64,
    /// Time of the first record.
    pub(crate) begin_ns: u64,
    /// Time between two.
    pub(crate) step_ns: u64,
}

/// The producing programs, with their maps.
pub(crate) struct Producer {
    ebpf: Ebpf,
    made: Array<MapData, Value<Made>>,
    wish: Array<MapData, Value<Wish>>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

/// A packet for the runs: none is looked at, and none may be shorter.
const PACKET: [u8; 64] = [0; 64];

impl Producer {
    /// Loads them. `rings` are pinned ring buffers to write into instead of own ones.
    pub(crate) fn load(object: &Path, rings: &[(&str, PathBuf)], making: Making) -> Result<Self> {
        if making.sessions > u64::from(MAX_SLOTS) {
            bail!("at most {MAX_SLOTS} sessions can be made at once");
        }
        let mut ebpf = load(object, rings)?;
        for name in ["produce", "hot_event", "wished_event"] {
            let program: &mut SchedClassifier = program(&mut ebpf, name)?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        let mut plan: Array<MapData, Value<Plan>> = map(&mut ebpf, "PLAN")?.try_into()?;
        let plan_value = Plan {
            sessions: making.sessions,
            deliveries: making.deliveries,
            random: u64::from(making.random),
            troubled: making.troubled,
            begin_ns: making.begin_ns,
            step_ns: making.step_ns,
        };
        plan.set(0, Value(plan_value), 0)?;
        let made = map(&mut ebpf, "MADE")?.try_into()?;
        let wish = map(&mut ebpf, "WISH")?.try_into()?;
        Ok(Self { ebpf, made, wish })
    }

    /// The bulk ring, to be read; once.
    pub(crate) fn take_bulk(&mut self) -> Result<RingBuf<MapData>> {
        Ok(map(&mut self.ebpf, "BULK")?.try_into()?)
    }

    /// Makes records, at most `count`, until the ring is full; returns how many there were ever.
    pub(crate) fn produce(&mut self, count: u32) -> Result<u64> {
        self.run("produce", count)?;
        Ok(self.made.get(&0, 0)?.0.records)
    }

    /// Writes one event into the hot ring.
    pub(crate) fn hot_event(&mut self) -> Result<()> {
        if self.run("hot_event", 1)? != 0 {
            bail!("the hot ring is full");
        }
        Ok(())
    }

    /// Writes a delivery to `port` of the client 10.x.y.z, by the lower bytes of `client`, into the hot
    /// ring: one that has just become late, or one that was well. Returns the time in it, in nanoseconds
    /// of `CLOCK_MONOTONIC`.
    pub(crate) fn delivery(&mut self, port: u16, client: u32, is_late: bool) -> Result<u64> {
        let wish = Wish {
            port: port.into(),
            client: client.into(),
            late: is_late.into(),
            written_ns: 0,
        };
        self.wish.set(0, Value(wish), 0)?;
        if self.run("wished_event", 1)? != 0 {
            bail!("the hot ring is full");
        }
        Ok(self.wish.get(&0, 0)?.0.written_ns)
    }

    fn run(&mut self, name: &str, count: u32) -> Result<u32> {
        let program: &mut SchedClassifier = program(&mut self.ebpf, name)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&PACKET);
        options.repeat = count;
        let result = program
            .test_run(options)
            .with_context(|| format!("running {name}"))?;
        Ok(result.return_value)
    }
}

fn load(object: &Path, rings: &[(&str, PathBuf)]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, path) in rings {
        loader.map_pin_path(name, path.as_path());
    }
    loader
        .load_file(object)
        .with_context(|| format!("making the maps of {}", object.display()))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the bench's object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the bench's object has no map {name}"))
}

/// What the kernel has counted of one program, while its statistics were on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) calls: u64,
    pub(crate) ns: u64,
}

/// The runs of the programs with these ids.
pub(crate) fn runs(ids: &[u32]) -> Result<Vec<Run>> {
    let mut runs = vec![Run::default(); ids.len()];
    for info in aya::programs::loaded_programs() {
        // Another's program may go while the kernel is asked.
        let Ok(info) = info else { continue };
        if let Some(at) = ids.iter().position(|id| *id == info.id()) {
            runs[at] = Run {
                calls: info.run_count(),
                ns: u64::try_from(info.run_time().as_nanos())?,
            };
        }
    }
    Ok(runs)
}

/// Which of weir's programs these are.
pub(crate) fn names_of(ids: &[u32]) -> Result<Vec<(&'static str, u32)>> {
    let mut loaded = Vec::new();
    for info in aya::programs::loaded_programs() {
        let Ok(info) = info else { continue };
        if ids.contains(&info.id()) {
            loaded.push((info.id(), info.name_as_str().unwrap_or_default().to_owned()));
        }
    }
    loaded.sort();
    let mut named: Vec<(&'static str, u32)> = Vec::new();
    for (id, cut) in loaded {
        let name = NAMES
            .into_iter()
            .find(|name| name.starts_with(&cut) && named.iter().all(|(known, _)| known != name));
        // What looks whether the kernel can do this or that is gone a moment later.
        if let Some(name) = name.filter(|_| !cut.is_empty()) {
            named.push((name, id));
        }
    }
    if named.is_empty() {
        bail!("weir has loaded no programs");
    }
    Ok(named)
}

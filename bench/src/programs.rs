//! The bench's own kernel programs at work: empty ones on weir's hooks, and producers of records.

#[path = "../../probe-ebpf/src/bench/plan.rs"]
mod plan;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, RingBuf};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, ProgramInfo, SchedClassifier, SockOps, TestRun as _,
    TestRunOptions,
};
use aya::{Btf, Ebpf, EbpfLoader};
use weir::kernel::cgroup;

use plan::{MAX_SLOTS, Made, Plan};

/// The hooks that weir stands on where `tcp_sendmsg_locked` is a tracepoint, and the two that take
/// its place elsewhere.
const TRACEPOINTS: [&str; 7] = [
    "tcp_probe",
    "inet_sock_set_state",
    "tcp_sendmsg_locked",
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

    /// What the kernel knows of each.
    pub(crate) fn infos(&self) -> Result<Vec<(String, ProgramInfo)>> {
        self.attached
            .iter()
            .map(|name| {
                let program = self.ebpf.program(name).context("a program is gone")?;
                Ok(((*name).to_owned(), program.info()?))
            })
            .collect()
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
    /// Time of the first record.
    pub(crate) begin_ns: u64,
    /// Time between two.
    pub(crate) step_ns: u64,
}

/// The producing programs, with their maps.
pub(crate) struct Producer {
    ebpf: Ebpf,
    made: Array<MapData, Value<Made>>,
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
        for name in ["produce", "hot_event"] {
            let program: &mut SchedClassifier = program(&mut ebpf, name)?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        let mut plan: Array<MapData, Value<Plan>> = map(&mut ebpf, "PLAN")?.try_into()?;
        let plan_value = Plan {
            sessions: making.sessions,
            deliveries: making.deliveries,
            random: u64::from(making.random),
            begin_ns: making.begin_ns,
            step_ns: making.step_ns,
        };
        plan.set(0, Value(plan_value), 0)?;
        let made = map(&mut ebpf, "MADE")?.try_into()?;
        Ok(Self { ebpf, made })
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

/// Whether a descriptor is a program of the kernel's, and which.
pub(crate) fn program_info(id: u32) -> Result<ProgramInfo> {
    for info in aya::programs::loaded_programs() {
        let info = info?;
        if info.id() == id {
            // Keeps nothing alive; whoever loaded it does.
            let _ = info.fd()?.as_fd();
            return Ok(info);
        }
    }
    bail!("the kernel has no program {id}")
}

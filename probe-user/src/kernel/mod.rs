//! The kernel room: everything that touches eBPF, and nothing that knows what a metric is.
//!
//! What it gives stands behind one trait, [`Backend`], so that other ways of measuring (portable,
//! polled, a recording) can take its place.

pub mod cgroup;
pub mod decode;
pub mod diagnosis;
pub mod gate;

mod batch;
mod exact;
mod half_open;
mod maps;
mod namespaces;
pub mod offsets;
mod pod;
mod polled;
mod portable;
mod probes;
pub mod rungs;
mod sys;
mod table;
mod walks;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use ipnet::IpNet;
use probe_ebpf::record;

pub use batch::Batch;
pub use exact::Exact;
pub use maps::drain;
pub use polled::Polled;
pub use portable::Portable;
pub use probe_ebpf::settings::WHOLE;
pub use rungs::Choice;
use rungs::Rung;
use sys::IterLink;

/// How exactly a backend measures. Numbers of different kinds are never merged silently.
/// In the order of their worth, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendKind {
    /// Tracing programs on the kernel's own tracepoints.
    Exact,
    /// Socket callbacks alone: a stable interface, without the kernel's types.
    Portable,
    /// Looking at the sockets from user space, again and again: nothing is loaded.
    Polled,
}

impl BackendKind {
    /// Every kind, best first.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Portable, Self::Polled];

    /// As the configuration, the command line and the wire name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Portable => "portable",
            Self::Polled => "polled",
        }
    }

    /// Who wrote a record; a number that only a newer weir knows is `None`.
    pub fn of(header: &record::Header) -> Option<Self> {
        match header.backend {
            record::backend::EXACT => Some(Self::Exact),
            record::backend::PORTABLE => Some(Self::Portable),
            record::backend::POLLED => Some(Self::Polled),
            _ => None,
        }
    }
}

/// Tries everything that measuring here would need, in every way there is, takes it out of the
/// kernel again, and says of each part how it went. `wanted` is the way that a daemon here would be
/// told to take; `kill_switch` is the file that takes it off the host.
pub fn diagnose(wanted: Choice, kill_switch: &Path) -> diagnosis::Diagnosis {
    let tried = |kind, (probes, works)| Rung::tried(kind, probes, works);
    let rungs = vec![
        tried(BackendKind::Exact, exact::try_programs()),
        tried(BackendKind::Portable, portable::try_programs()),
        polled::try_sockets(),
    ];
    let gate = gate::try_programs();
    diagnosis::Diagnosis::of_this_host(wanted, kill_switch, rungs, gate)
}

/// The two ways out of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Late and aborted deliveries; wakes the daemon at once.
    Hot,
    /// Everything else; wakes the daemon seldom.
    Bulk,
}

/// One record, borrowed from the ring for as long as the sink looks at it.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A session was established or adopted.
    SessionStart(&'a record::SessionStart),
    /// A session is over.
    SessionEnd(&'a record::SessionEnd),
    /// A delivery is over, late, or under way; see its header's kind.
    Delivery(&'a record::Delivery),
    /// Bytes that are no record of this version.
    Malformed,
}

/// Whether a probe works on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is attached, or could be.
    Ok,
    /// This kernel does not have it.
    Unsupported,
    /// It should work and does not.
    Broken,
    /// It is not needed here.
    NotApplicable,
}

/// One probe's state: what `weir doctor` prints.
#[derive(Clone, Debug)]
pub struct Probe {
    /// E.g. `tp_btf/tcp_probe`.
    pub name: String,
    /// Whether it works.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// What is not measured without it; empty if it works.
    pub lost: String,
}

/// Which sessions are measured. Empty lists let everything through; all that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The server's ports.
    pub ports: Vec<u16>,
    /// The clients' prefixes.
    pub prefixes: Vec<IpNet>,
    /// cgroup v2 directories; sockets made in or under one of them match. At most
    /// [`Filter::MAX_CGROUPS`].
    pub cgroups: Vec<std::path::PathBuf>,
}

impl Filter {
    /// Most cgroups a filter can name.
    pub const MAX_CGROUPS: usize = 8;
    /// Most prefixes a filter can name.
    pub const MAX_PREFIXES: usize = 4096;
}

/// What can change while the programs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A delivery still open so long after its request is reported late. 0: never.
    pub deadline_ms: u32,
    /// Everything acknowledged and nothing written for so long: the delivery is over.
    pub quiet_gap_ms: u32,
    /// How often deliveries under way are reported. 0: never.
    pub progress_ms: u32,
    /// Which sessions.
    pub filter: Filter,
}

/// The programs' own counts, cumulative since they were loaded.
/// For each ring `seen == exported + ring_full`, at every reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounts {
    /// Records meant for the hot ring, written to it, and lost because it was full.
    pub hot: RingCounts,
    /// The same for the bulk ring.
    pub bulk: RingCounts,
    /// `sessions_seen == tracked + filtered + storage_refused`.
    pub sessions_seen: u64,
    /// Sessions with state.
    pub sessions_tracked: u64,
    /// Sessions that the filter left out.
    pub sessions_filtered: u64,
    /// Sessions for whose state the kernel had no memory.
    pub sessions_storage_refused: u64,
    /// Half-open sessions that found their table full.
    pub half_open_refused: u64,
    /// Times that the kernel skipped a program because it would have interrupted itself on the
    /// same CPU. What it would have seen is made good by what follows, with times that are bounds.
    pub programs_skipped: u64,
    /// Tracked sessions that were left out at any time, to keep within the budget.
    pub sessions_left_out: u64,
    /// Polled: sessions that ended without a last word, so that their totals are those of the last
    /// look.
    pub ends_unseen: u64,
    /// Polled: times that the kernel dropped last words, because they were not read in time;
    /// sessions shorter than the time between two looks may have been among them.
    pub end_overflows: u64,
    /// Polled: looks left out because looking takes long.
    pub looks_left_out: u64,
}

impl KernelCounts {
    /// The sum of two: of what a backend has counted, and one after it.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let ring = |a: &RingCounts, b: &RingCounts| RingCounts {
            seen: a.seen + b.seen,
            exported: a.exported + b.exported,
            ring_full: a.ring_full + b.ring_full,
        };
        Self {
            hot: ring(&self.hot, &other.hot),
            bulk: ring(&self.bulk, &other.bulk),
            sessions_seen: self.sessions_seen + other.sessions_seen,
            sessions_tracked: self.sessions_tracked + other.sessions_tracked,
            sessions_filtered: self.sessions_filtered + other.sessions_filtered,
            sessions_storage_refused: self.sessions_storage_refused
                + other.sessions_storage_refused,
            half_open_refused: self.half_open_refused + other.half_open_refused,
            programs_skipped: self.programs_skipped + other.programs_skipped,
            sessions_left_out: self.sessions_left_out + other.sessions_left_out,
            ends_unseen: self.ends_unseen + other.ends_unseen,
            end_overflows: self.end_overflows + other.end_overflows,
            looks_left_out: self.looks_left_out + other.looks_left_out,
        }
    }

    /// Whether every record and session is accounted for.
    pub fn reconcile(&self) -> bool {
        self.hot.seen == self.hot.exported + self.hot.ring_full
            && self.bulk.seen == self.bulk.exported + self.bulk.ring_full
            && self.sessions_seen
                == self.sessions_tracked + self.sessions_filtered + self.sessions_storage_refused
    }
}

/// Counts of one ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounts {
    /// Records meant for it.
    pub seen: u64,
    /// Records written to it.
    pub exported: u64,
    /// Records lost because it was full.
    pub ring_full: u64,
}

/// A client that never finished its handshake although the SYN-ACK was repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpenGiveUp {
    /// The client's address.
    pub remote: IpAddr,
    /// The client's port.
    pub remote_port: u16,
    /// The server's port.
    pub local_port: u16,
    /// SYN-ACKs sent again.
    pub synack_retransmits: u32,
}

/// What cannot change once the programs are loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the hot ring; a power of two and a multiple of the page size.
    pub hot_ring_bytes: u32,
    /// Size of the bulk ring, likewise.
    pub bulk_ring_bytes: u32,
    /// Most sessions whose state is kept, where it is kept in a table.
    pub max_sessions: u32,
    /// How much the programs themselves log: 0 nothing, 1 errors ... 5 traces (aya-log's levels).
    pub program_log_level: u8,
}

impl Options {
    /// Enough to find out whether the programs can be loaded.
    fn smallest() -> Self {
        Self {
            hot_ring_bytes: 1 << 16,
            bulk_ring_bytes: 1 << 16,
            max_sessions: 1024,
            program_log_level: 0,
        }
    }
}

/// By what a way of measuring can be kept within a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By following a share of the sessions ([`Backend::follow`]).
    Share,
    /// By looking less often; it does so itself ([`Backend::pace`]).
    Pace,
    /// By nothing, for the reason given; what it costs can be measured.
    Nothing(&'static str),
}

/// What every way of measuring gives.
pub trait Backend: Send {
    /// How exact it is.
    fn kind(&self) -> BackendKind;

    /// Every probe it knows, working or not.
    fn probes(&self) -> &[Probe];

    /// Kernel ticks per second, for the `*_ticks` fields of records.
    fn tick_hz(&self) -> u32;

    /// Puts settings in force without reloading anything. On an error the old ones stay.
    fn apply(&mut self, settings: &Settings) -> anyhow::Result<()>;

    /// A descriptor that polls readable when the ring wants draining.
    fn ring_fd(&self, ring: Ring) -> BorrowedFd<'_>;

    /// Hands at most `max` records to `sink`, oldest first, without allocating; returns how many.
    fn drain(&mut self, ring: Ring, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize;

    /// Looks at every session that may want it: settles quiet deliveries, reports silent late ones
    /// and those under way; after a changed filter, at every session. To be called every
    /// [`SWEEP_INTERVAL`](crate::kernel::SWEEP_INTERVAL).
    fn sweep(&mut self) -> anyhow::Result<()>;

    /// Meets the sessions that were established before the programs were attached. Returns how
    /// many network namespaces could not be entered. What the bulk ring is told meanwhile goes to
    /// `sink`: the starts of all sessions may be more than it holds.
    fn adopt(&mut self, sink: &mut dyn FnMut(Record<'_>)) -> anyhow::Result<usize>;

    /// Half-open sessions that were given up since the last call. To be called about once a
    /// second.
    fn half_open_give_ups(&mut self) -> anyhow::Result<Vec<HalfOpenGiveUp>>;

    /// By what its cost can be kept within a budget.
    fn means(&self) -> Means;

    /// How long it has run since it began: its programs, as long as statistics were kept
    /// ([`Statistics`]); where there are none ([`Means::Pace`]), what this thread did for it.
    fn run_time(&self) -> anyhow::Result<std::time::Duration>;

    /// Follows this many of [`WHOLE`] sessions, the others only so far that what is late or cut
    /// off is told. To be called only with [`Means::Share`].
    fn follow(&mut self, share: u32) -> anyhow::Result<()> {
        let _ = share;
        Ok(())
    }

    /// Keeps itself to so many thousandths of a core, 0 for no limit; does nothing but with
    /// [`Means::Pace`].
    fn pace(&mut self, limit_core_permille: u32) {
        let _ = limit_core_permille;
    }

    /// The programs' own counts.
    fn counts(&mut self) -> anyhow::Result<KernelCounts>;
}

/// Makes the kernel keep statistics of programs' run time until this is dropped.
#[derive(Debug)]
pub struct Statistics {
    _kept: std::os::fd::OwnedFd,
}

impl Statistics {
    /// Begins.
    pub fn keep() -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let kept = sys::keep_statistics()
            .context("keeping statistics of programs' run time; needs CAP_SYS_ADMIN")?;
        Ok(Self { _kept: kept })
    }
}

/// How often [`Backend::sweep`] is called.
pub const SWEEP_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

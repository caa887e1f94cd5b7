//! What user space tells the programs, and the counters they keep: the layouts of the small maps.

use bytemuck::{Pod, Zeroable};

/// Most cgroups a filter can name.
pub const MAX_CGROUPS: usize = 8;
/// Deepest cgroup that is told apart: sockets made deeper still match by their ancestors.
pub const MAX_CGROUP_DEPTH: u32 = 16;
/// Most prefixes a filter can name.
pub const MAX_PREFIXES: u32 = 4096;
/// Most sessions in the table of programs that cannot use socket storage.
pub const MAX_SESSIONS: u32 = 1 << 20;
/// Most half-open sessions remembered.
pub const MAX_HALF_OPEN: u32 = 16_384;

/// Element 0 of the map `SETTINGS`; replaced whole, at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// A delivery open for longer is late. 0: never.
    pub deadline_ns: u64,
    /// Everything acknowledged and nothing written for so long closes a delivery.
    pub quiet_gap_ns: u64,
    /// Deliveries under way are reported so often. 0: never.
    pub progress_ns: u64,
    /// Raised with every change of the filter; sessions are judged again.
    pub filter_generation: u32,
    /// Not 0: the server's port must be in the map `PORTS`.
    pub by_port: u32,
    /// Not 0: the client's address must be in the map `PREFIXES`.
    pub by_prefix: u32,
    /// How many of `cgroups` count; not 0: the socket must be in or under one of them.
    pub cgroup_count: u32,
    /// Their ids: the directories' inode numbers.
    pub cgroups: [u64; MAX_CGROUPS],
    /// Sessions that are followed, of [`WHOLE`]; with less than that, those that are not are only
    /// looked at by the sweep.
    pub share: u32,
    /// Not 0: where only a share is followed, a program runs whenever bytes of a client arrive.
    pub sees_arrivals: u32,
}

/// All sessions are followed: the value of [`Settings::share`] for that.
pub const WHOLE: u32 = 1024;

impl Settings {
    /// Whether only a share of the sessions is followed.
    #[inline(always)]
    pub fn is_thinned(&self) -> bool {
        self.share < WHOLE
    }

    /// Whether a session is followed; the same ones while the share is the same, and those of a
    /// smaller share are among those of a larger one.
    #[inline(always)]
    pub fn follows(&self, cookie: u64) -> bool {
        // Fibonacci hashing (Knuth, TAOCP 3, 6.4): cookies are handed out one after the other.
        let hash = cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        (hash as u32) < self.share
    }
}

/// Index of each counter in the per-CPU array `COUNTERS`.
/// For each ring `SEEN == EXPORTED + FULL`; `SESSIONS_SEEN` is the sum of the three after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Records meant for the hot ring.
    HotSeen = 0,
    /// Written to it.
    HotExported = 1,
    /// Lost: it was full.
    HotFull = 2,
    /// Records meant for the bulk ring.
    BulkSeen = 3,
    /// Written to it.
    BulkExported = 4,
    /// Lost: it was full.
    BulkFull = 5,
    /// Sessions established or adopted.
    SessionsSeen = 6,
    /// Of these, tracked.
    SessionsTracked = 7,
    /// Left out by the filter.
    SessionsFiltered = 8,
    /// Without memory for their state.
    SessionsRefused = 9,
    /// Half-open sessions that found their table full.
    HalfOpenRefused = 10,
    /// Tracked sessions that were left out at any time, to keep within the budget.
    SessionsLeftOut = 11,
    /// Openings that the sweep could not be told of, for want of memory; the daemon has it look at
    /// all sessions then.
    MarksRefused = 12,
}

/// How many counters there are.
pub const COUNTERS: u32 = 13;

/// Key of the map `HALF_OPEN`: a handshake whose SYN-ACK was sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct HalfOpenKey {
    /// The client's address, IPv4 as v4-mapped.
    pub remote_addr: [u8; 16],
    /// The client's port.
    pub remote_port: u16,
    /// The server's port.
    pub local_port: u16,
    /// Network namespace.
    pub netns: u32,
}

/// Value of the map `HALF_OPEN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct HalfOpen {
    /// The first SYN-ACK was sent.
    pub t_first_ns: u64,
    /// The latest was sent.
    pub t_last_ns: u64,
    /// Sent again so often.
    pub retransmits: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of the map `LISTENERS`: where sessions are accepted, so that adoption can tell them from
/// connections this host has made itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ListenerKey {
    /// Network namespace.
    pub netns: u32,
    /// Listening port.
    pub port: u32,
}

/// Element 0 of the map `CLOCK`: two readings of one moment, written by the sweep, from which
/// user space learns the kernel's tick rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Clock {
    /// `CLOCK_MONOTONIC`.
    pub ktime_ns: u64,
    /// `jiffies_64`.
    pub jiffies: u64,
}

//! What the bench tells its producing program, and what that has done: the layouts of two small
//! maps. One file for both sides, which `bench` takes in by `#[path]`.

/// Most sessions that can be in the making at once.
pub const MAX_SLOTS: u32 = 1 << 20;

/// Element 0 of the map `PLAN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Plan {
    /// Sessions that are open at the same time; at most [`MAX_SLOTS`].
    pub sessions: u64,
    /// Deliveries between a session's start and its end. 0: sessions never end.
    pub deliveries: u64,
    /// Not 0: the sessions speak in random order; else one after the other.
    pub random: u64,
    /// Time of the first record.
    pub begin_ns: u64,
    /// Time from one record to the next.
    pub step_ns: u64,
}

/// Element 0 of the map `MADE`; to be zeroed for a new plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Made {
    /// Records written.
    pub records: u64,
    /// Records that found the ring full; each is made again at the next run.
    pub refused: u64,
    /// State of the random numbers.
    pub random: u64,
}

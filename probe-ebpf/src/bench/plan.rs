//! What the bench tells its producing program, and what that has done: the layouts of two small
//! maps. One file for both sides, which `bench` takes in by `#[path]`.

/// Most sessions that can be in the making at once.
pub(crate) const MAX_SLOTS: u32 = 1 << 20;

/// The server's port in hot events, at which nobody serves (RFC 863).
pub(crate) const HOT_PORT: u16 = 9;

/// Element 0 of the map `PLAN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Plan {
    /// Sessions that are open at the same time; at most [`MAX_SLOTS`].
    pub(crate) sessions: u64,
    /// Deliveries between a session's start and its end. 0: sessions never end.
    pub(crate) deliveries: u64,
    /// Not 0: the sessions speak in random order; else one after the other.
    pub(crate) random: u64,
    /// Of so many deliveries one had segments sent again, and of 16 times as many one was cut off.
    /// 0: none.
    pub(crate) troubled: u64,
    /// Time of the first record.
    pub(crate) begin_ns: u64,
    /// Time from one record to the next.
    pub(crate) step_ns: u64,
}

/// Element 0 of the map `MADE`; to be zeroed for a new plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Made {
    /// Records written.
    pub(crate) records: u64,
    /// Records that found the ring full; each is made again at the next run.
    pub(crate) refused: u64,
    /// State of the random numbers.
    pub(crate) random: u64,
}

/// Element 0 of the map `WISH`: what is to be written into the hot ring next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Wish {
    /// The server's port.
    pub(crate) port: u64,
    /// The client is 10.x.y.z, by the lower three bytes of this.
    pub(crate) client: u64,
    /// Not 0: a delivery that has just become late, and is not over. 0: one that is over, and was well.
    pub(crate) late: u64,
    /// The program's answer: the time in the record.
    pub(crate) written_ns: u64,
}

//! The recording room: what the kernel said, as bytes, and a file that keeps it.
//!
//! [`Said`] is everything that the fold is made from, in the order in which it was taken in;
//! [`entry`] is how each is written ([`label`] one of them), [`tap`] how a daemon passes it on, [`write`](mod@write) and
//! [`read`] a file (docs/recording.md), [`chain`] several, [`history`] a row of them in a
//! [`directory`]. What is made of it is the intake's matter.

pub mod chain;
pub mod directory;
pub mod entry;
pub mod frame;
pub mod history;
pub mod label;
pub mod read;
pub mod tap;
pub mod write;

use std::sync::Arc;

use ipnet::IpNet;
use weir_proto::v1;

use crate::kernel::{HalfOpenGiveUp, KernelCounts, Record, Ring};
use crate::labels::Name;
use crate::labels::request::RequestLabel;

/// One thing that the kernel, the clock or the operator said. Times are `CLOCK_MONOTONIC`.
#[derive(Clone, Debug)]
pub enum Said<'a> {
    /// A ring is looked at; the records that follow were in it.
    Drain {
        /// Which.
        ring: Ring,
        /// When.
        now_ns: u64,
    },
    /// A record, taken out of a ring.
    Record {
        /// Which ring.
        ring: Ring,
        /// As it was written.
        record: Record<'a>,
    },
    /// The programs' counts.
    Counts {
        /// When they were read.
        now_ns: u64,
        /// All of them.
        counts: KernelCounts,
    },
    /// How the clocks stand to each other.
    Clock {
        /// When they were read.
        now_ns: u64,
        /// Unix time less monotonic time.
        unix_minus_monotonic_ns: i64,
    },
    /// A handshake was given up.
    GiveUp(HalfOpenGiveUp),
    /// So much time has passed: what is only kept for a while goes.
    Now {
        /// When.
        now_ns: u64,
    },
    /// Other settings are in force.
    Settings(Arc<v1::RecordedSettings>),
    /// The server's log or a tag names a request.
    Label(&'a RequestLabel),
    /// A database of networks names the client network `prefix`.
    ClientNetwork {
        /// Which.
        prefix: IpNet,
        /// Its name.
        name: Name,
    },
    /// Something is missing here, because the recorder was too slow.
    Missing {
        /// When what follows was said.
        now_ns: u64,
        /// So many records.
        records: u64,
    },
}

impl Said<'_> {
    /// When it was said, if it says so itself.
    pub fn now_ns(&self) -> Option<u64> {
        match self {
            Self::Drain { now_ns, .. }
            | Self::Counts { now_ns, .. }
            | Self::Clock { now_ns, .. }
            | Self::Now { now_ns }
            | Self::Missing { now_ns, .. } => Some(*now_ns),
            // A label was heard when it says so, and taken in later.
            Self::Record { .. }
            | Self::GiveUp(_)
            | Self::Settings(_)
            | Self::Label(_)
            | Self::ClientNetwork { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;

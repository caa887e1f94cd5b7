//! What moves traffic. Actuators are dumb: they take a whole [`Position`], hold it until its lease
//! ends, and are neutral otherwise - also when the daemon dies, which each must bring about without
//! the daemon's help.

mod child;
pub mod clock;
pub mod content;
mod file;
mod gate;
pub mod guard;
pub mod haproxy;
mod hook;
pub mod kernel;
pub mod notice;
pub mod settings;
mod told;
mod webhook;

pub use gate::Gate;
pub use guard::Guard;
pub use told::Told;

use std::future::Future;

use anyhow::Result;

use super::Position;

/// Until when a position holds unless renewed: nanoseconds of `CLOCK_BOOTTIME`, which goes on in
/// suspend and cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    pub until_boot_ns: u64,
}

/// One way of moving traffic.
///
/// All calls are idempotent, and none is made beside another of the same actuator.
pub trait Actuator: Send {
    /// As the journal and `weir steer status` name it.
    fn name(&self) -> &str;

    /// Turns the gate to `position` and holds it until the lease ends. Replaces what was held.
    ///
    /// # Errors
    /// The gate did not move, or not wholly; what was held before may stand until its lease ends.
    fn acquire(
        &mut self,
        position: &Position,
        lease: Lease,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Holds what was acquired until this lease's end.
    ///
    /// # Errors
    /// The old lease's end stands.
    fn renew(&mut self, lease: Lease) -> impl Future<Output = Result<()>> + Send;

    /// Back to neutral, now; also where nothing was acquired, because a process before this one may
    /// have left something.
    ///
    /// # Errors
    /// The gate may stand until its lease ends.
    fn release(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Of what was told before: what is told next is newer. Called once, before all else.
    fn begin_after(&mut self, _generation: u64) {}

    /// What was answered to the latest call, for the journal; bounded. None: nothing, or by nobody
    /// who answers in words.
    fn take_said(&mut self) -> Option<String> {
        None
    }
}

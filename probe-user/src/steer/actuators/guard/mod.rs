//! A small process that makes gates neutral when the one that turned them cannot any more.
//!
//! Some gates stay as they were turned when the process that turned them ends: a weight in a balancer,
//! what a command did. So before it turns one, the holder tells a process of its own kind how to undo
//! it. That process, the guard, does so when the holder is gone (its end of the channel closes, also
//! by SIGKILL) or when a lease ends that nobody renewed (the holder hangs). It has a session of its
//! own, so that what ends the holder's group does not end it, and it ends by itself.

mod channel;
mod handle;
mod plan;
mod process;

pub(in crate::steer::actuators) use channel::Running;
pub use handle::Guard;
pub(in crate::steer::actuators) use handle::{Guarded, Over};
pub use plan::Plan;
pub use process::{MAX_GATES, run};

#[cfg(test)]
mod tests;

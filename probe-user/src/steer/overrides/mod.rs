//! What humans and the centre order, and for how long: plain values and pure functions.
//!
//! Who may order what is in [`roles`]; what an order would bring about is told by
//! [`super::forecast`].

pub mod book;
pub mod deadline;
pub mod order;
pub mod roles;

pub use book::{Book, Held, Refusal, Say};
pub use deadline::{Deadline, Moment};
pub use order::{Action, Auth, Level, Order, Verb};

#[cfg(test)]
pub(crate) mod tests;

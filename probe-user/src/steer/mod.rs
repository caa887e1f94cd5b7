//! The gate: what is decided, who decided it, and what moves.
//!
//! `policy` decides and touches nothing; `actuators` move traffic and decide nothing. Between them
//! stands a [`Position`]: what every gate of this host shall be, whole.

pub mod actuators;
pub mod central;
pub mod forecast;
pub mod journal;
pub mod overrides;
pub mod pace;
pub mod policy;
pub mod position;
pub mod simulation;
pub mod validation;

pub use position::{Position, Scope, Setting};

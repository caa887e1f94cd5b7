//! HAProxy in front: by what it asks ([`agent`]), or at its runtime socket ([`socket`]).

pub mod agent;
mod runtime;
pub mod socket;

pub use agent::Agent;
pub use socket::Socket;

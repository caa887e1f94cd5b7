//! weir's daemon and command line, as a library: the rooms in the order the data flows.

pub mod cli;
pub mod collect;
pub mod config;
pub mod daemon;
pub mod intake;
pub mod kernel;
pub mod labels;
pub mod prefetch;
pub mod qoe;
pub mod query;
pub mod recording;
pub mod replay;
pub mod sim;
pub mod steer;
pub mod throttle;
pub mod tls;
pub mod ui;
pub mod uplink;
pub mod wire;

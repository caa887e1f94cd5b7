//! weir's daemon and command line, as a library: the rooms in the order the data flows.

pub mod cli;
pub mod kernel;
pub mod query;
pub mod ui;

//! What a collector tells other systems of metrics: one list of families, made anew each time, of
//! bounded size; `/metrics` and the sinks put it into their own words.

pub(super) mod distribution;
mod door;
pub(super) mod family;
mod gather;
mod hosts;
mod prometheus;
mod serve;

pub(super) use gather::Gatherer;
pub(super) use serve::serve;

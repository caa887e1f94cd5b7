//! The quality room: from kernel records and labels to sessions, deliveries and cells.
//!
//! Pure: no clock, no I/O, no task. Time enters with the records and as arguments, so the same
//! code serves the daemon, a recording and a test. What each number means: `docs/metrics.md`.

pub mod alarm;
pub mod alarms;
pub mod audience;
pub mod blame;
pub mod cell;
mod chunks;
mod count;
pub mod counters;
pub mod delivery;
pub mod fold;
mod index;
pub mod learn;
pub mod metric;
pub mod poll;
pub mod risk;
pub mod session;
pub mod share;
pub mod startup;
pub mod sustain;
pub mod table;
pub mod verdict;
pub mod viewer;

pub use cell::{Cell, CellKey, CellSnapshot, Gauges, Transport};
pub use counters::Counters;
pub use delivery::{Finished, Kind, Phase};
pub use fold::{Event, Fold, FoldLosses, Limits};
pub use metric::Metric;
pub use session::{Session, State};

#[cfg(test)]
mod tests;

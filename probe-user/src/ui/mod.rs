//! What people see: listings as tables or JSON, the doctor's findings, and the live view.
//!
//! It draws what the wire's messages say and measures nothing itself.

pub mod doctor;
pub mod figure;
pub mod listing;
pub mod losses;
pub mod out;
pub mod percentile;
pub mod table;
pub mod top;
pub mod units;

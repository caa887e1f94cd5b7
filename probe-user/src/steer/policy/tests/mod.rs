//! The policy's tests: its invariants over random histories, and what single stories tell.

mod history;
mod properties;
mod stories;

//! The kernel as all programs see it: maps, records, and which sessions are measured.

pub mod atomic;
pub mod callbacks;
pub mod emit;
pub mod filter;
pub mod maps;
#[cfg(any(feature = "keyed", feature = "portable"))]
pub mod table;

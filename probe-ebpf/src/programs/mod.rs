//! What the programs share: maps, reading a socket, deciding whether it is measured, giving it
//! state, and writing records.

pub mod atomic;
pub mod birth;
pub mod emit;
pub mod filter;
pub mod maps;
pub mod sock;

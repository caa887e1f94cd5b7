//! What the kernel programs and user space share: the records that cross the ring buffers, the
//! settings and maps they meet in, and the delivery tracker.
//!
//! `no_std`, no kernel types, no helper calls: everything here compiles for the BPF target and
//! for the host alike, so one definition serves the programs, the daemon and the tests.
#![no_std]

pub mod drive;
pub mod field;
pub mod gate;
pub mod record;
pub mod session;
pub mod settings;
pub mod tls;
pub mod tracker;

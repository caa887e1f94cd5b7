//! The kernel as the programs see it: maps, sockets and packets, what is measured, and records.

pub mod atomic;
pub mod birth;
pub mod emit;
pub mod filter;
pub mod maps;
pub mod sock;

use probe_ebpf::session::{Session, phase};
use sock::{Sock, TcpSock};

/// The measured session that a program runs on, with its socket.
#[inline(always)]
pub fn measured(sk: *const u8) -> Option<(&'static mut Session, TcpSock)> {
    let sk = Sock::new(sk)?;
    let s = maps::session(sk)?;
    if s.phase == phase::IGNORED {
        return None;
    }
    Some((s, sk.tcp()?))
}

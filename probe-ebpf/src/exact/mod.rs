//! The exact programs, by what they are hooked to, and the sockets as they see them: read at
//! offsets that the kernel's BTF tells. With the feature `keyed` they do without what came after
//! Linux 5.10: socket storage in tracing programs, atomic instructions that return a value.

mod adopt;
mod arrivals;
mod birth;
mod cgroup;
mod host;
mod life;
mod sock;
#[cfg_attr(feature = "keyed", path = "keyed.rs")]
mod storage;
#[cfg(not(feature = "keyed"))]
mod sweep;
#[cfg(not(feature = "keyed"))]
mod thin;
mod writes;

use probe_ebpf::session::{Session, phase};
use sock::{Sock, TcpSock};

/// The measured session that a program runs on, with its socket.
#[inline(always)]
fn measured(sk: *const u8) -> Option<(&'static mut Session, TcpSock)> {
    let sk = Sock::new(sk)?;
    let s = storage::session(sk)?;
    if s.phase == phase::IGNORED {
        return None;
    }
    Some((s, sk.tcp()?))
}

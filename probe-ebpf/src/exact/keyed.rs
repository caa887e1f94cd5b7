//! Sessions' state in a table, by their sockets' addresses: for kernels whose tracing programs may
//! not use socket storage (before Linux 5.11).

use probe_ebpf::session::Session;

use super::sock::Sock;
use crate::kernel::table;

/// A session's state, if it has any.
#[inline(always)]
pub fn session(sk: Sock) -> Option<&'static mut Session> {
    Some(&mut table::find(sk.as_ptr() as u64)?.session)
}

/// A session's state, zeroed but for its phase; `None` if there is no room for it.
#[inline(always)]
pub fn session_or_new(sk: Sock) -> Option<&'static mut Session> {
    Some(&mut table::make(sk.as_ptr() as u64)?.session)
}

/// The socket is closed.
#[inline(always)]
pub fn forget(sk: Sock) {
    table::remove(sk.as_ptr() as u64);
}

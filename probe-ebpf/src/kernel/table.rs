//! Sessions' state in a table, for programs that may not use socket storage, or whose daemon
//! must look through it: an entry is made when a session begins and removed when it is closed.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap},
};
use probe_ebpf::{
    session::{Kept, phase},
    settings::MAX_SESSIONS,
};

/// Per-session state, by what the programs know a session by: its cookie, or its socket's
/// address.
#[map]
static SESSIONS: HashMap<u64, Kept> = HashMap::with_max_entries(MAX_SESSIONS, BPF_F_NO_PREALLOC);
/// One element: the state of a session that has not begun.
#[map]
static BLANK: Array<Kept> = Array::with_max_entries(1, 0);

/// A session's state, if it has any.
#[inline(always)]
pub fn find(key: u64) -> Option<&'static mut Kept> {
    let found = SESSIONS.get_ptr_mut(&key)?;
    // SAFETY: a value of the map, which lives until this program ends (RCU). Programs on one
    // socket exclude each other by its lock; the daemon copies plain integers.
    unsafe { found.as_mut() }
}

/// A new session's state, zeroed but for its phase: ignored, until it is told otherwise. `None`
/// if the table is full, or the kernel has no memory.
#[inline(always)]
pub fn make(key: u64) -> Option<&'static mut Kept> {
    let blank = BLANK.get_ptr_mut(0)?;
    // SAFETY: the map's one element, to which nothing else is ever written.
    let blank = unsafe {
        (*blank).session.phase = phase::IGNORED;
        &*blank
    };
    SESSIONS.insert(&key, blank, 0).ok()?;
    find(key)
}

/// Removes a session's state.
#[inline(always)]
pub fn remove(key: u64) {
    // It may have none.
    let _ = SESSIONS.remove(&key);
}

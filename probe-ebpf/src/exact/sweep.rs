//! The walk over every measured session.

use core::{ffi::c_void, ptr::read_volatile};

use probe_ebpf::{
    drive,
    session::{Session, phase},
    settings::Counter,
};

use super::{cgroup, sock::Sock};
use crate::kernel::{
    emit,
    maps::{count, read_clocks, settings},
};

/// Looks at one session (`bpf_iter` over socket storage, Linux 5.9): settles it if it is quiet,
/// reports it if it is late or under way. Runs beside the other programs, without the lock.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn sweep(ctx: *mut c_void) -> i32 {
    // SAFETY: `struct bpf_iter__bpf_sk_storage_map`: meta, map, sk, value; 8 bytes each.
    let (sk, value) = unsafe {
        let fields = ctx.cast::<u64>();
        (
            read_volatile(fields.add(2)) as *const u8,
            read_volatile(fields.add(3)) as *mut Session,
        )
    };
    let now = emit::now_ns();
    // SAFETY: the map's values are `Session`; the kernel passes the whole one.
    let s = unsafe { value.as_mut() };
    let (Some(sk), Some(s)) = (Sock::new(sk), s) else {
        // The end of the walk.
        read_clocks(now);
        return 0;
    };
    let Some(settings) = settings() else {
        return 0;
    };
    if s.phase == phase::IGNORED {
        return 0;
    }
    let Some(mut tcp) = sk.tcp() else {
        return 0;
    };
    if s.filter_generation != settings.filter_generation {
        if !cgroup::admits(settings, sk, &s.endpoints) {
            drive::untracked(&mut tcp, s, now);
            return 0;
        }
        s.filter_generation = settings.filter_generation;
    }
    // SAFETY: an aligned u64 of the session.
    let epoch = unsafe { read_volatile(&raw const s.epoch) };
    // Where callbacks cannot be asked for on behalf of an open session (before Linux 6.12), it is
    // left out too.
    if settings.is_thinned() && !(settings.follows(s.cookie) && s.is_called != 0) {
        if drive::watched(&mut tcp, s, settings, now, epoch) {
            count(Counter::SessionsLeftOut);
        }
        return 0;
    }
    drive::swept(&mut tcp, s, settings, now, epoch);
    0
}

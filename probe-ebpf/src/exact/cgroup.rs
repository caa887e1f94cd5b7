//! Which cgroups' sessions are measured.

use probe_ebpf::{
    record::Endpoints,
    settings::{MAX_CGROUP_DEPTH, MAX_CGROUPS, Settings},
};

use super::sock::Sock;
use crate::kernel::filter;

/// Whether the filter lets a session through, its socket's cgroup included.
#[inline(always)]
pub fn admits(settings: &Settings, sk: Sock, endpoints: &Endpoints) -> bool {
    filter::admits(settings, endpoints)
        && (settings.cgroup_count == 0 || admits_cgroup(settings, sk))
}

#[inline(always)]
fn admits_cgroup(settings: &Settings, sk: Sock) -> bool {
    let mut level = 0;
    while level < MAX_CGROUP_DEPTH {
        let ancestor = sk.cgroup_ancestor(level);
        if ancestor == 0 {
            return false;
        }
        let mut i = 0;
        while i < MAX_CGROUPS {
            if settings.cgroups[i] == ancestor {
                return true;
            }
            i += 1;
        }
        level += 1;
    }
    false
}

//! Which sessions are measured.

use aya_ebpf::maps::lpm_trie::Key;
use probe_ebpf::{
    record::Endpoints,
    settings::{MAX_CGROUP_DEPTH, MAX_CGROUPS, Settings},
};

use super::{maps, sock::Sock};

/// Whether the filter lets a session through: all of its conditions that are set must hold.
#[inline(always)]
pub fn admits(settings: &Settings, sk: Sock, endpoints: &Endpoints) -> bool {
    (settings.by_port == 0 || admits_port(endpoints.local_port))
        && (settings.by_prefix == 0
            || maps::PREFIXES
                .get(Key::new(128, endpoints.remote_addr))
                .is_some())
        && (settings.cgroup_count == 0 || admits_cgroup(settings, sk))
}

/// Whether a port is in the map.
#[inline(always)]
pub fn admits_port(port: u16) -> bool {
    maps::PORTS
        .get(u32::from(port >> 6))
        .is_some_and(|word| word >> (port & 63) & 1 != 0)
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

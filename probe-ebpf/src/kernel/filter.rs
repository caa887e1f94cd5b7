//! Which sessions are measured.

use aya_ebpf::maps::lpm_trie::Key;
use probe_ebpf::{record::Endpoints, settings::Settings};

use super::maps;

/// Whether the filter lets a session through by its port and its client's address.
#[inline(always)]
pub fn admits(settings: &Settings, endpoints: &Endpoints) -> bool {
    (settings.by_port == 0 || admits_port(endpoints.local_port))
        && (settings.by_prefix == 0
            || maps::PREFIXES
                .get(Key::new(128, endpoints.remote_addr))
                .is_some())
}

/// Whether a port is in the map.
#[inline(always)]
pub fn admits_port(port: u16) -> bool {
    maps::PORTS
        .get(u32::from(port >> 6))
        .is_some_and(|word| word >> (port & 63) & 1 != 0)
}

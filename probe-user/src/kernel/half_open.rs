//! Handshakes that were never finished: the kernel says when it repeats a SYN-ACK, and says
//! nothing when it gives up. Silence past the next repetition's time tells.

use std::net::Ipv6Addr;

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use nix::time::{ClockId, clock_gettime};
use probe_ebpf::settings::{HalfOpen, HalfOpenKey};

use super::{HalfOpenGiveUp, pod::Pod};

/// Entries looked at in one call; the rest have their turn in the next.
const MAX_PER_CALL: usize = 4096;
/// Timers of the kernel run late by so much at the most.
const SLACK_NS: u64 = 1_000_000_000;

/// The programs' map of half-open sessions.
pub(super) struct HalfOpenTable {
    map: HashMap<MapData, Pod<HalfOpenKey>, Pod<HalfOpen>>,
}

impl HalfOpenTable {
    pub(super) fn new(map: HashMap<MapData, Pod<HalfOpenKey>, Pod<HalfOpen>>) -> Self {
        Self { map }
    }

    /// Takes out and returns those that the kernel must have given up.
    pub(super) fn give_ups(&mut self) -> Result<Vec<HalfOpenGiveUp>> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now_ns = u64::try_from(std::time::Duration::from(now).as_nanos())?;
        let over: Vec<(Pod<HalfOpenKey>, HalfOpen)> = self
            .map
            .iter()
            .take(MAX_PER_CALL)
            .filter_map(Result::ok)
            .filter(|(_, Pod(half_open))| is_over(half_open, now_ns))
            .map(|(key, Pod(half_open))| (key, half_open))
            .collect();
        let mut give_ups = Vec::with_capacity(over.len());
        for (key, half_open) in over {
            // Established at this very moment: then the program has taken it out.
            if self.map.remove(&key).is_ok() {
                let Pod(key) = key;
                give_ups.push(HalfOpenGiveUp {
                    remote: Ipv6Addr::from(key.remote_addr).to_canonical(),
                    remote_port: key.remote_port,
                    local_port: key.local_port,
                    synack_retransmits: half_open.retransmits,
                });
            }
        }
        Ok(give_ups)
    }
}

/// The wait doubles with each repetition, from one second (RFC 6298, 2.1) to 120 (`TCP_RTO_MAX`).
fn is_over(half_open: &HalfOpen, now_ns: u64) -> bool {
    const SECOND_NS: u64 = 1_000_000_000;
    let next = (1 << half_open.retransmits.min(7)).min(120) * SECOND_NS;
    now_ns.saturating_sub(half_open.t_last_ns) > next + SLACK_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_past_the_next_repetition_is_giving_up() {
        let half_open = HalfOpen {
            t_last_ns: 10_000_000_000,
            retransmits: 2,
            ..HalfOpen::default()
        };
        assert!(!is_over(&half_open, 14_900_000_000));
        assert!(is_over(&half_open, 15_100_000_000));
    }
}

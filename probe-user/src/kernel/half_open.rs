//! Handshakes that were never finished: the kernel says when it repeats a SYN-ACK, and says
//! nothing when it gives up. Silence past the next repetition's time tells.

use std::net::Ipv6Addr;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use bytemuck::Zeroable as _;
use nix::time::{ClockId, clock_gettime};
use probe_ebpf::settings::{HalfOpen, HalfOpenKey};

use super::{HalfOpenGiveUp, pod::Pod, sys};

/// Entries looked at in one call; the rest have their turn in the next. More than a bucket of the
/// kernel's table ever holds.
const MAX_PER_CALL: usize = 4096;
/// Timers of the kernel run late by so much at the most.
const SLACK_NS: u64 = 1_000_000_000;

/// The programs' map of half-open sessions.
pub(super) struct HalfOpenTable {
    map: HashMap<MapData, Pod<HalfOpenKey>, Pod<HalfOpen>>,
    fd: OwnedFd,
    /// Where the last call stopped: a place in the kernel's table and no key, so that entries that
    /// come or go meanwhile neither make it begin anew nor hide others. None: at the end.
    position: Option<u32>,
    keys: Vec<HalfOpenKey>,
    values: Vec<HalfOpen>,
}

impl HalfOpenTable {
    pub(super) fn new(map: Map) -> Result<Self> {
        let Map::HashMap(data) = &map else {
            bail!("the map of half-open sessions is no hash map");
        };
        let fd = data.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            fd: fd.context("cannot keep a map's descriptor")?,
            map: HashMap::try_from(map)?,
            position: None,
            keys: vec![HalfOpenKey::zeroed(); MAX_PER_CALL],
            values: vec![HalfOpen::zeroed(); MAX_PER_CALL],
        })
    }

    /// Takes out and returns those that the kernel must have given up.
    pub(super) fn give_ups(&mut self) -> Result<Vec<HalfOpenGiveUp>> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now_ns = u64::try_from(std::time::Duration::from(now).as_nanos())?;
        let (keys, values) = (&mut self.keys, &mut self.values);
        let (count, more) = sys::lookup_batch(self.fd.as_fd(), &mut self.position, keys, values)
            .context("cannot read the map of half-open sessions")?;
        if !more {
            self.position = None;
        }
        let mut give_ups = Vec::new();
        for (key, half_open) in self.keys.iter().zip(&self.values).take(count) {
            // Established at this very moment: then the program has taken it out.
            if is_over(half_open, now_ns) && self.map.remove(&Pod(*key)).is_ok() {
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

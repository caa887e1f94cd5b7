//! Clients that asked for a session and never got one that works: handshakes, of TCP or TLS, that were
//! given up. Where nothing else is known of a client, that is a failed start like any other, whose
//! viewer has no name.

use std::collections::HashSet;
use std::net::IpAddr;

use probe_ebpf::record::{SessionEnd, flag};

use super::super::cell::Cells;
use super::super::viewer::Tier;
use super::entry::Origin;
use super::{Audience, ENDED_KEPT_NS, Key, address};
use crate::labels::family::Family;

/// Given-up handshakes that wait to be judged; of more it is only counted that they were given up.
/// Whoever floods a server with SYNs makes no more failed starts than this in a second.
const MOST_UNREACHED: usize = 64;
/// They are judged together: all sessions are looked at for it.
const JUDGED_EVERY_NS: u64 = 1_000_000_000;

/// Given-up handshakes that were not judged yet.
#[derive(Debug, Default)]
pub(super) struct Unreached {
    waiting: Vec<GivenUp>,
    t_judged_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct GivenUp {
    client: IpAddr,
    port: u16,
    /// Where its sessions would be counted.
    cell: u32,
}

/// The server's part of a TLS handshake, certificates and all, is smaller.
const MOST_HANDSHAKE_BYTES: u64 = 8 << 10;
/// After so many timeouts in a row, four seconds at the least, the path is dead.
const DEAD_AFTER_TIMEOUTS: u32 = 3;

/// Whether a session ended in the middle of its TLS handshake, because nothing came through any more.
pub(super) fn died_in_handshake(record: &SessionEnd) -> bool {
    record.flags & (flag::ADOPTED | flag::LEFT_OUT) == 0
        && record.flags & flag::TLS != 0
        && record.acked_bytes < MOST_HANDSHAKE_BYTES
        && record.retrans_rto >= DEAD_AFTER_TIMEOUTS
}

impl Audience {
    /// A client's handshake at a port was given up.
    pub fn half_open_give_up(&mut self, client: IpAddr, port: u16, cell: u32) {
        if !self.is_idle() && self.unreached.waiting.len() < MOST_UNREACHED {
            self.unreached.waiting.push(GivenUp { client, port, cell });
        }
    }

    /// Says of the clients that nothing else is known of that they failed to start. One that has a
    /// session got through, and one that was a viewer lately has a name.
    pub(super) fn judge_unreached(&mut self, now_ns: u64, cells: &mut Cells) {
        let is_time = now_ns >= self.unreached.t_judged_ns.saturating_add(JUDGED_EVERY_NS);
        if self.unreached.waiting.is_empty() || !is_time {
            return;
        }
        self.unreached.t_judged_ns = now_ns;
        let waiting = std::mem::take(&mut self.unreached.waiting);
        let mut unknown: HashSet<_> = waiting.iter().map(|one| (one.client, one.port)).collect();
        for side in self.sides.values() {
            unknown.remove(&(address(side.ends.remote_addr), side.ends.local_port));
        }
        let lately_ns = now_ns.saturating_sub(ENDED_KEPT_NS);
        for (_, entry) in self.viewers.iter_from(0) {
            if !entry.is_ended() || entry.t_ended_ns >= lately_ns {
                unknown.remove(&(entry.client, entry.port));
            }
        }
        for GivenUp { client, port, cell } in waiting {
            let has_viewers = self.is_named(port, now_ns) || self.infers(port, now_ns);
            if !unknown.remove(&(client, port)) || !has_viewers {
                continue;
            }
            let origin = Origin {
                key: Key::of_address(client, port),
                name: None,
                client,
                port,
                family: Family::default(),
                tier: Tier::Kernel,
                cell: cells.of_viewers(cell, Tier::Kernel),
                t_attempt_ns: now_ns,
                is_joined: false,
            };
            if let Some(place) = self.make(&origin, cells) {
                self.tell(place, now_ns, cells, |model, _, out| {
                    model.never_came(now_ns, out);
                });
            }
        }
    }
}

//! Handshakes whose SYN-ACK was sent again, and those of them that came to nothing.

use std::net::Ipv6Addr;

use hashbrown::HashMap;
use probe_ebpf::settings::MAX_HALF_OPEN;

use super::sockdiag::Seen;
use crate::kernel::HalfOpenGiveUp;

#[derive(Debug)]
struct HalfOpen {
    give_up: HalfOpenGiveUp,
    round: u32,
    is_missing: bool,
}

/// Those of one network namespace, by the cookie that the session will have.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    known: HashMap<u64, HalfOpen>,
    /// Without room in this round, and in the one before.
    without_room: u64,
    without_room_before: u64,
}

impl Handshakes {
    /// One was found under way.
    pub(super) fn saw(&mut self, seen: &Seen, round: u32) {
        if seen.retransmits == 0 {
            return;
        }
        if self.known.len() >= MAX_HALF_OPEN as usize && !self.known.contains_key(&seen.cookie) {
            self.without_room += 1;
            return;
        }
        let half_open = HalfOpen {
            give_up: HalfOpenGiveUp {
                remote: Ipv6Addr::from(seen.endpoints.remote_addr).to_canonical(),
                remote_port: seen.endpoints.remote_port,
                local_port: seen.endpoints.local_port,
                synack_retransmits: seen.retransmits.into(),
            },
            round,
            is_missing: false,
        };
        self.known.insert(seen.cookie, half_open);
    }

    /// One has become a session, which may be over already. Returns how many SYN-ACKs were seen
    /// sent again.
    pub(super) fn established(&mut self, cookie: u64) -> u32 {
        let known = self.known.remove(&cookie);
        known.map_or(0, |known| known.give_up.synack_retransmits)
    }

    /// A round is over: those that two rounds have not found were given up. Returns how many more
    /// than in the round before found no room.
    pub(super) fn round_over(&mut self, round: u32, given_up: &mut Vec<HalfOpenGiveUp>) -> u64 {
        self.known.retain(|_, known| {
            if known.round == round {
                return true;
            }
            if known.is_missing {
                given_up.push(known.give_up);
                return false;
            }
            known.is_missing = true;
            true
        });
        let more = self.without_room.saturating_sub(self.without_room_before);
        self.without_room_before = std::mem::take(&mut self.without_room);
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(cookie: u64, retransmits: u8) -> Seen {
        Seen {
            cookie,
            retransmits,
            ..Seen::default()
        }
    }

    #[test]
    fn a_handshake_that_goes_away_without_a_session_was_given_up() {
        let mut handshakes = Handshakes::default();
        let mut given_up = Vec::new();
        handshakes.saw(&seen(1, 2), 1);
        handshakes.saw(&seen(2, 1), 1);
        handshakes.saw(&seen(3, 0), 1);
        assert_eq!(handshakes.round_over(1, &mut given_up), 0);
        assert_eq!(handshakes.established(2), 1);
        for round in 2..4 {
            assert_eq!(given_up, []);
            handshakes.round_over(round, &mut given_up);
        }
        assert_eq!(given_up.len(), 1);
        assert_eq!(given_up[0].synack_retransmits, 2);
    }

    #[test]
    fn a_flood_is_bounded_and_counted_once() {
        let mut handshakes = Handshakes::default();
        let mut given_up = Vec::new();
        let many = u64::from(MAX_HALF_OPEN) + 5;
        for round in 1..4 {
            for cookie in 0..many {
                handshakes.saw(&seen(cookie, 1), round);
            }
            let refused = handshakes.round_over(round, &mut given_up);
            assert_eq!(refused, if round == 1 { 5 } else { 0 });
        }
        assert_eq!(given_up, []);
    }
}

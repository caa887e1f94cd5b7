//! Who has a say in an alarm: of each client network one trial in each round, and none of the first
//! bad ones, so that neither a viewer that tries again and again, nor a broken device, nor whoever
//! means ill from one network raises an alarm alone.

use std::net::IpAddr;

/// Client networks that must fare badly in a round before any of them counts as bad, less one: the
/// first ones are left out, whatever befell them.
pub const LEFT_OUT: u32 = 2;
/// A site's: of IPv4 what is routed by itself, of IPv6 what a site is given at most (RFC 6177).
const IPV4_BITS: u32 = 24;
const IPV6_BITS: u32 = 48;
/// Networks that are told apart in a round. Two that fall on one place have one say between them,
/// which costs evidence and never invents any.
const PLACES: u64 = 8192;
const WORDS: usize = (PLACES / 64) as usize;

/// The network of a client, as far as alarms go: a number, equal for equal ones.
pub fn network_of(client: IpAddr) -> u64 {
    use std::hash::{Hash as _, Hasher as _};

    let (bits, family) = match client.to_canonical() {
        IpAddr::V4(address) => (u64::from(u32::from(address) >> (32 - IPV4_BITS)), 4_u8),
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> (128 - IPV6_BITS);
            (u64::try_from(bits).unwrap_or(u64::MAX), 6)
        }
    };
    // The same in a replay: no random state.
    let mut hasher = std::hash::DefaultHasher::new();
    (family, bits).hash(&mut hasher);
    hasher.finish()
}

/// The trials of one rate of one cell, of which each client network has one in a round.
#[derive(Clone, Debug, Default)]
pub struct Poll {
    /// Made with the first trial: 1 KiB.
    heard: Option<Box<[u64; WORDS]>>,
    round: u64,
    left_out: u32,
    trials: u64,
    bad: u64,
}

impl Poll {
    /// Takes in what became of something of a client in `network`. Rounds are `round_ns` long.
    pub fn saw(&mut self, network: u64, is_bad: bool, now_ns: u64, round_ns: u64) {
        let round = now_ns / round_ns.max(1) + 1;
        let heard = self.heard.get_or_insert_with(|| Box::new([0; WORDS]));
        if round > self.round {
            self.round = round;
            self.left_out = 0;
            heard.fill(0);
        }
        let place = network % PLACES;
        let bit = 1 << (place % 64);
        let Some(word) = usize::try_from(place / 64)
            .ok()
            .and_then(|at| heard.get_mut(at))
        else {
            return;
        };
        if *word & bit != 0 {
            return;
        }
        *word |= bit;
        if is_bad && self.left_out < LEFT_OUT {
            self.left_out += 1;
            return;
        }
        self.trials += 1;
        self.bad += u64::from(is_bad);
    }

    /// Trials that had a say, and of these the bad ones; cumulative.
    pub fn counted(&self) -> (u64, u64) {
        (self.trials, self.bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_NS: u64 = 1_000_000_000;

    fn network(text: &str) -> u64 {
        network_of(text.parse().unwrap())
    }

    #[test]
    fn a_network_is_a_sites_and_not_an_address() {
        assert_eq!(network("192.0.2.1"), network("192.0.2.200"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.9"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:ffff::2"));
        assert_ne!(network("2001:db8:1::1"), network("2001:db8:2::1"));
    }

    #[test]
    fn one_or_two_networks_are_never_bad_however_often_they_fail() {
        let mut poll = Poll::default();
        for n in 0..100_000 {
            poll.saw(1 + n % 2, true, n * ROUND_NS / 10, ROUND_NS);
        }
        assert_eq!(poll.counted(), (0, 0));
    }

    #[test]
    fn each_network_has_one_say_in_a_round() {
        let mut poll = Poll::default();
        for _ in 0..50 {
            for network in 0..10 {
                poll.saw(network, network < 5, ROUND_NS, ROUND_NS);
            }
        }
        // Five failed, of which the first two are left out.
        assert_eq!(poll.counted(), (8, 3));
        poll.saw(9, false, 2 * ROUND_NS, ROUND_NS);
        assert_eq!(poll.counted(), (9, 3));
    }

    #[test]
    fn a_record_of_the_past_opens_no_round_anew() {
        let mut poll = Poll::default();
        poll.saw(1, false, 5 * ROUND_NS, ROUND_NS);
        poll.saw(1, false, ROUND_NS, ROUND_NS);
        assert_eq!(poll.counted(), (1, 0));
    }
}

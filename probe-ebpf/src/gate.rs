//! What user space tells the programs of the gate, what these count, and which clients a share
//! turns away: the layouts of the gate's maps, and one pure function.

use bytemuck::{Pod, Zeroable};

/// Most rules of one position.
pub const MAX_RULES: u32 = 1024;
/// Bytes of a key of the map `RULES`.
pub const KEY_BYTES: usize = 20;
/// Bits of a key that stand before the client's address: all of them must match.
pub const PORT_BITS: u32 = 32;
/// Longest name of a congestion control, its zero included (`TCP_CA_NAME_MAX`).
pub const CONGESTION_CONTROL_BYTES: usize = 16;

/// Element 0 of the map `CONTROL`, which user space has mapped: every word is stored and
/// loaded whole.
///
/// A position has one of two slots. The other is filled while this one is in force; then one store
/// of `epoch` puts it in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Control {
    /// Raised with every position; its lowest bit is the slot in force.
    pub epoch: u64,
    /// Until when each slot's position holds, nanoseconds of `CLOCK_BOOTTIME`. 0: it is neutral.
    pub until_boot_ns: [u64; 2],
    /// With what clients are dealt out.
    pub hash_key: [u64; 2],
    /// Not 0: each connection is dealt out by itself; else all of a client go one way.
    pub by_connection: u64,
}

/// Value of the map `RULES`; never changed while its slot is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Rule {
    /// Its place in the map `COUNTS`.
    pub counts: u32,
    /// Thousandths of the clients that are turned to the other listener.
    pub turned_permille: u32,
    /// New sessions are sent no faster, bytes a second. 0: no cap.
    pub pace_bytes_per_s: u32,
    /// Zero.
    pub reserved: u32,
    /// New sessions have this congestion control, by name and padded with zeros. Empty: as it is.
    pub congestion_control: [u8; CONGESTION_CONTROL_BYTES],
}

/// Element of the per-CPU array `COUNTS`. Of the first connection requests that a rule is
/// about `seen == turned + passed by the share + could_not + left_to_others`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Counts {
    /// Connection requests that the rule was about while it held. One that is sent again counts
    /// again, and so does a segment whose connection is gone: the kernel looks for a listener too.
    pub seen: u64,
    /// Of these, sent to the other listener.
    pub turned: u64,
    /// Should have been, and the other listener was not there or did not fit: passed.
    pub could_not: u64,
    /// Should have been, and another's program had chosen a listener already: left as it was.
    pub left_to_others: u64,
    /// Came after the position's end: passed.
    pub expired: u64,
    /// New sessions that were given a cap or a congestion control.
    pub capped: u64,
    /// The kernel refused one of these.
    pub could_not_cap: u64,
}

/// Key of the map `RULES`: slot, server's port, client's address (IPv4 as v4-mapped).
#[inline(always)]
pub fn key_data(slot: u8, port: u16, client: &[u8; 16]) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0] = slot;
    let port = port.to_be_bytes();
    key[2] = port[0];
    key[3] = port[1];
    let mut i = 0;
    while i < 16 {
        key[4 + i] = client[i];
        i += 1;
    }
    key
}

/// Whether a share of so many thousandths takes in this hash. What a share takes in, a larger one
/// does too.
#[inline(always)]
pub fn is_turned(hash: u64, permille: u32) -> bool {
    ((hash >> 32) * 1000) >> 32 < u64::from(permille)
}

/// Deals out clients: `SipHash`-1-3 (Aumasson and Bernstein 2012) of a client's address and port,
/// keyed, so that nobody can choose an address by its side of the share.
#[inline(always)]
pub fn hash(key: [u64; 2], client: &[u8; 16], port: u16) -> u64 {
    let mut v = Sip([
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ]);
    let words: [u64; 2] = bytemuck::must_cast(*client);
    v.compress(u64::from_le(words[0]));
    v.compress(u64::from_le(words[1]));
    v.compress(u64::from(port));
    // The message's length, in the last word's highest byte.
    v.compress(24 << 56);
    v.finish()
}

struct Sip([u64; 4]);

impl Sip {
    #[inline(always)]
    fn compress(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    fn client(n: u32) -> [u8; 16] {
        core::net::Ipv4Addr::from(n).to_ipv6_mapped().octets()
    }

    #[test]
    fn a_share_of_neighbouring_clients_is_as_large_as_it_was_ordered() {
        const CLIENTS: u32 = 100_000;
        for permille in [0, 1, 10, 100, 300, 500, 999, 1000] {
            let turned = (0..CLIENTS)
                .filter(|n| is_turned(hash(KEY, &client(0x0a00_0000 + n), 0), permille))
                .count();
            let share = turned as f64 * 1000.0 / f64::from(CLIENTS);
            // Five standard deviations at the most.
            assert!(
                (share - f64::from(permille)).abs() <= 8.0,
                "{share} of {permille}"
            );
            if permille % 1000 == 0 {
                assert_eq!(turned, CLIENTS as usize * permille as usize / 1000);
            }
        }
    }

    #[test]
    fn what_a_share_takes_in_a_larger_one_does_too() {
        for n in 0..10_000 {
            let hash = hash(KEY, &client(n), 443);
            let least = (0..=1000).find(|share| is_turned(hash, *share)).unwrap();
            assert!(least > 0);
            assert!((least..=1000).all(|share| is_turned(hash, share)), "{n}");
        }
    }

    #[test]
    fn ports_and_keys_deal_clients_out_anew() {
        let differs = |a: &dyn Fn(u32) -> u64, b: &dyn Fn(u32) -> u64| {
            (0..10_000)
                .filter(|n| is_turned(a(*n), 500) != is_turned(b(*n), 500))
                .count()
        };
        let plain = |n| hash(KEY, &client(n), 0);
        let by_port = |n| hash(KEY, &client(n), 40_000);
        let by_key = |n| hash([KEY[0] ^ 1, KEY[1]], &client(n), 0);
        for other in [&by_port as &dyn Fn(u32) -> u64, &by_key] {
            let moved = differs(&plain, other);
            assert!((4_700..5_300).contains(&moved), "{moved}");
        }
    }

    #[test]
    fn keys_tell_slot_port_and_client_apart() {
        let key = key_data(1, 0x1f90, &client(0x0a00_0001));
        assert_eq!(key[..4], [1, 0, 0x1f, 0x90]);
        assert_eq!(key[4..], client(0x0a00_0001));
    }
}

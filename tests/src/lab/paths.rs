//! One direction of a link with a path of its own for each client that was given one: whose packet
//! it is, and what that client's [`Shaper`] does to it. Pure, like the shapers.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::shaper::{Counts, Shape, Shaper};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Server to client.
    Down,
    /// Client to server.
    Up,
}

/// The shapers of one direction.
#[derive(Debug)]
pub struct Paths {
    direction: Direction,
    /// For all without a path of their own.
    rest: Shaper,
    own: HashMap<Ipv4Addr, Shaper>,
}

impl Paths {
    /// A direction that treats all clients as `rest` does.
    pub fn new(direction: Direction, rest: Shaper) -> Self {
        Self {
            direction,
            rest,
            own: HashMap::new(),
        }
    }

    /// Changes the path of all that have none of their own.
    pub fn set(&mut self, shape: Shape) {
        self.rest.set(shape);
    }

    /// Changes a client's own path, which begins with the first call; its random losses follow
    /// from the `seed` of that call.
    pub fn set_client(&mut self, client: Ipv4Addr, shape: Shape, seed: u64) {
        self.own
            .entry(client)
            .or_insert_with(|| Shaper::new(shape, seed))
            .set(shape);
    }

    /// When this packet, which enters at `now_ns`, comes out, or `None` if it is lost.
    pub fn admit(&mut self, now_ns: u64, packet: &[u8]) -> Option<u64> {
        self.of(packet).admit(now_ns, packet.len())
    }

    /// Notes that a packet has come out.
    pub fn delivered(&mut self, packet: &[u8]) {
        self.of(packet).delivered(packet.len());
    }

    /// What has happened to packets on no path of their own.
    pub fn counts(&self) -> Counts {
        self.rest.counts()
    }

    fn of(&mut self, packet: &[u8]) -> &mut Shaper {
        client(self.direction, packet)
            .and_then(|client| self.own.get_mut(&client))
            .unwrap_or(&mut self.rest)
    }
}

/// The client's address in an IPv4 packet; other packets have none.
fn client(direction: Direction, packet: &[u8]) -> Option<Ipv4Addr> {
    if packet.first()? >> 4 != 4 {
        return None;
    }
    let at = match direction {
        Direction::Down => 16,
        Direction::Up => 12,
    };
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);

    fn packet(to: Ipv4Addr) -> Vec<u8> {
        let mut packet = vec![0; 1500];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&to.octets());
        packet
    }

    #[test]
    fn a_client_with_a_path_of_its_own_slows_nobody_else() {
        let mut paths = Paths::new(Direction::Down, Shaper::new(Shape::default(), 1));
        let slow = Shape {
            rate_bps: 12_000,
            queue_bytes: 10_000,
            ..Shape::default()
        };
        paths.set_client(SLOW, slow, 1);
        assert_eq!(paths.admit(0, &packet(SLOW)), Some(1_000_000_000));
        assert_eq!(paths.admit(0, &packet(OTHER)), Some(0));
        assert_eq!(paths.counts().packets, 1);
        paths.set_client(SLOW, Shape::default(), 1);
        assert_eq!(
            paths.admit(2_000_000_000, &packet(SLOW)),
            Some(2_000_000_000)
        );
    }

    #[test]
    fn what_is_no_ipv4_goes_with_the_rest() {
        let mut paths = Paths::new(Direction::Up, Shaper::new(Shape::default(), 1));
        for odd in [&[][..], &[0x60; 40], &[0x45; 8]] {
            assert_eq!(paths.admit(7, odd), Some(7));
        }
    }
}

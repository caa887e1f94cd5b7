//! A viewer's way to the server: addresses of its own at both ends, so that its connections, its
//! link and what is said of it are told apart by address.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::narrow::{GATEWAY, NARROW, NARROW_DEVICE};
use super::scenario::{Door, Session};
use super::trace::{GOOD_BPS, Step};
use crate::lab::link::Lab;
use crate::lab::netns::Netns;
use crate::lab::relay::{DEVICE, Direction};
use crate::lab::shaper::Shape;

/// All clients' addresses.
pub const CLIENTS: &str = "10.78.0.0/16";
/// How many paths there can be.
const MOST: usize = 250 * 200;

/// Makes the paths of all sessions, in their order; of those that want it, from `narrow`. They are there before the browser is: a change of
/// addresses would make it drop what it is loading.
///
/// # Errors
/// `ip` fails, or there are too many.
pub fn make(lab: &Lab, narrow: Option<&Netns>, sessions: &[Session]) -> Result<Vec<Path>> {
    sessions
        .iter()
        .enumerate()
        .map(|(n, session)| Path::new(lab, narrow.filter(|_| session.narrow), n, session))
        .collect()
}

/// A viewer's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// What the viewer calls.
    pub server: Ipv4Addr,
    /// From where it calls.
    pub client: Ipv4Addr,
    door: Door,
    seed: u64,
}

impl Path {
    /// Makes the `n`-th path of a run, as the session wants it.
    fn new(lab: &Lab, narrow: Option<&Netns>, n: usize, session: &Session) -> Result<Self> {
        ensure!(n < MOST, "more than {MOST} viewers in one run");
        let (high, low) = (u8::try_from(n / 250)?, u8::try_from(n % 250 + 1)?);
        let path = Self {
            server: Ipv4Addr::new(10, 77, high + 1, low),
            client: Ipv4Addr::new(10, 78, high + 1, low),
            door: session.door,
            seed: session.seed.wrapping_mul(0x9e37_79b9) ^ n as u64,
        };
        let Self { server, client, .. } = path;
        lab.server
            .ip(&format!("addr add {server}/32 dev {DEVICE}"))?;
        lab.server.ip(&format!(
            "route replace {client}/32 dev {DEVICE} src {server} congctl {}",
            session.congestion
        ))?;
        if let Some(narrow) = narrow {
            narrow.ip(&format!("addr add {client}/32 dev {NARROW_DEVICE}"))?;
            narrow.ip(&format!(
                "route replace {server}/32 via {GATEWAY} dev {NARROW_DEVICE} src {client}"
            ))?;
            lab.client.ip(&format!(
                "route replace {client}/32 via {NARROW} dev {NARROW_DEVICE}"
            ))?;
        } else {
            lab.client
                .ip(&format!("addr add {client}/32 dev {DEVICE}"))?;
            lab.client.ip(&format!(
                "route replace {server}/32 dev {DEVICE} src {client}"
            ))?;
        }
        path.shape(
            lab,
            session.link.first().copied().unwrap_or(Step::new(0, 0, 0)),
        );
        Ok(path)
    }

    /// Changes the link in both directions.
    pub fn shape(&self, lab: &Lab, step: Step) {
        let mut down = step.down();
        if self.door == Door::BlackHole {
            // The server hears, and is not heard.
            down = Shape {
                loss_ppm: 1_000_000,
                ..down
            };
        }
        let relay = lab.relay();
        relay.set_client(Direction::Down, self.client, down, self.seed);
        relay.set_client(Direction::Up, self.client, step.up(), !self.seed);
    }

    /// The viewer has left: what its connections still have to say gets through, unless it never
    /// did.
    pub fn leave(&self, lab: &Lab) {
        if self.door != Door::BlackHole {
            self.shape(lab, Step::new(0, GOOD_BPS, 1));
        }
    }
}

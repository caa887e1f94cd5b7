//! A server's and a client's namespace with a link between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cleanup::{self, Deferred};
use super::netns::Netns;
use super::process::output;
use super::relay::{DEVICE, Direction, Relay};
use super::shaper::Shape;

/// The server's addresses.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// See [`SERVER_V4`].
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// The client's addresses.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// See [`CLIENT_V4`].
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// Two namespaces, one link, one directory for files. Everything is gone after the drop.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: the link before its ends.
    relay: Option<Relay>,
    /// Where servers and weir run.
    pub server: Netns,
    /// Where clients run.
    pub client: Netns,
    dir: PathBuf,
    _remove_dir: Deferred,
}

impl Lab {
    /// A lab whose link is a relay, shaped alike in both directions.
    ///
    /// # Errors
    /// The lab cannot work here; see [`cleanup::start`].
    pub fn with_relay(shape: Shape, seed: u64) -> Result<Self> {
        let mut lab = Self::unlinked()?;
        let relay = Relay::new(&lab.server, &lab.client, shape, seed)?;
        for netns in [&lab.server, &lab.client] {
            // The relay reads promptly; what it cannot read at once must wait, not be lost
            // where the relay's counters do not see it.
            netns.ip(&format!("link set {DEVICE} txqueuelen 20000"))?;
        }
        lab.relay = Some(relay);
        lab.bring_up()?;
        Ok(lab)
    }

    /// A lab whose link is a veth pair: nothing in the way, for load.
    ///
    /// # Errors
    /// As [`Lab::with_relay`].
    pub fn with_veth() -> Result<Self> {
        let lab = Self::unlinked()?;
        output(
            "ip",
            &[
                "link",
                "add",
                DEVICE,
                "netns",
                lab.server.name(),
                "type",
                "veth",
                "peer",
                "name",
                DEVICE,
                "netns",
                lab.client.name(),
            ],
        )?;
        lab.bring_up()?;
        Ok(lab)
    }

    fn unlinked() -> Result<Self> {
        cleanup::start()?;
        let name = cleanup::next_name();
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let remove_dir = {
            let dir = dir.clone();
            cleanup::defer(move || {
                if std::env::var_os("WEIR_LAB_KEEP").is_none() {
                    let _ = std::fs::remove_dir_all(dir);
                }
            })
        };
        let server = Netns::new(&format!("{name}-srv"))?;
        let client = Netns::new(&format!("{name}-cli"))?;
        Ok(Self {
            relay: None,
            server,
            client,
            dir,
            _remove_dir: remove_dir,
        })
    }

    fn bring_up(&self) -> Result<()> {
        for (netns, v4, v6) in [
            (&self.server, SERVER_V4, SERVER_V6),
            (&self.client, CLIENT_V4, CLIENT_V6),
        ] {
            netns.ip(&format!("addr add {v4}/16 dev {DEVICE}"))?;
            netns.ip(&format!("addr add {v6}/64 dev {DEVICE} nodad"))?;
            netns.ip(&format!("link set {DEVICE} up"))?;
        }
        Ok(())
    }

    /// A directory of the lab's own.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The relay.
    ///
    /// # Panics
    /// The lab was made without one.
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("a lab made with a relay")
    }

    /// Changes both directions of the link.
    pub fn shape(&self, shape: Shape) {
        self.relay().set(Direction::Down, shape);
        self.relay().set(Direction::Up, shape);
    }

    /// Sets the congestion control of the server's connections from now on.
    ///
    /// By route, because a namespace's own default may only be what the host allows to all
    /// (`tcp_allowed_congestion_control`), and that is not the lab's to change.
    ///
    /// # Errors
    /// The kernel has no such algorithm.
    pub fn set_congestion_control(&self, algorithm: &str) -> Result<()> {
        let net4 = format!("{}/16", Ipv4Addr::new(10, 77, 0, 0));
        let net6 = format!("{}/64", Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0));
        for (route, more) in [
            (net4, format!("scope link src {SERVER_V4}")),
            (net6, "metric 1".into()),
        ] {
            self.server.ip(&format!(
                "route replace {route} dev {DEVICE} {more} congctl {algorithm}"
            ))?;
        }
        Ok(())
    }

    /// Gives the server a further address that the client reaches from an address of its own, so
    /// that clients are told apart by what they call. Returns (server's, client's).
    ///
    /// # Errors
    /// `ip` fails.
    pub fn add_path(&self, n: u8, client: Ipv4Addr) -> Result<Ipv4Addr> {
        let server = Ipv4Addr::new(10, 77, 1, n);
        self.server
            .ip(&format!("addr add {server}/32 dev {DEVICE}"))?;
        self.server
            .ip(&format!("route replace {client}/32 dev {DEVICE}"))?;
        self.client
            .ip(&format!("addr add {client}/32 dev {DEVICE}"))?;
        self.client.ip(&format!(
            "route replace {server}/32 dev {DEVICE} src {client}"
        ))?;
        Ok(server)
    }
}

/// Which Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The server's address of this family.
    pub fn server(self) -> IpAddr {
        match self {
            Self::V4 => SERVER_V4.into(),
            Self::V6 => SERVER_V6.into(),
        }
    }
}

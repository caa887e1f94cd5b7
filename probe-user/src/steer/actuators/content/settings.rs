//! What the configuration tells content steering.

use std::net::SocketAddr;

use ipnet::IpNet;

/// How players are told where to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentGate {
    /// Where the server's proxy, or players themselves, ask.
    pub listen: SocketAddr,
    /// This host's pathway: `PATHWAY-ID` in HLS, `serviceLocation` in DASH.
    pub home: String,
    /// Of the players that ask here, so many have this host first when nothing is turned away.
    pub home_share_permille: u32,
    /// Until a player asks again, on average. What was issued cannot be recalled.
    pub ttl_s: u32,
    /// Connections at a time; more are told to come again.
    pub max_connections: u32,
    /// Who is believed when it says for whom it asks (`X-Forwarded-For`).
    pub proxies: Vec<IpNet>,
    /// Where else they can fetch.
    pub pathways: Vec<Pathway>,
}

/// One `[[steer.gate.pathway]]`: another host, or a CDN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pathway {
    pub name: String,
    /// Its share of those that are turned away, relative to the others. 0: nobody is sent there, it
    /// is only what a player falls back to.
    pub weight: u32,
    /// For a pathway that playlists do not have: of which one it is a copy.
    pub clone_of: Option<String>,
    /// The copy's host, in place of the other's.
    pub host: Option<String>,
    /// What is added to the copy's URLs: `NAME=VALUE`.
    pub params: Vec<String>,
}

impl Default for ContentGate {
    fn default() -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"];
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9780)),
            home: String::new(),
            home_share_permille: 1000,
            ttl_s: 10,
            max_connections: 512,
            proxies: loopback.into_iter().flat_map(str::parse).collect(),
            pathways: Vec::new(),
        }
    }
}

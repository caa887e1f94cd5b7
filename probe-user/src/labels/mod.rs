//! Who and what a session is: names for its service and its client's network, and what the server
//! and the client themselves say of each request.

pub mod access_log;
pub mod cmcd;
#[cfg(test)]
mod documented;
pub mod family;
pub mod geo;
pub mod inlet;
pub mod naming;
pub mod network;
pub mod pseudonym;
pub mod request;
pub mod rules;
pub mod tag;
mod url;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use probe_ebpf::record::Endpoints;

use crate::config::{self, Config};
use network::Networks;

/// A name that many sessions share.
pub type Name = Arc<str>;

/// What a session delivers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// As the configuration calls it.
    Named(Name),
    /// It has no name, so its port stands for it.
    Port(u16),
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Port(port) => port.fmt(f),
        }
    }
}

/// What is known about a session besides what the kernel measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What it delivers.
    pub service: Service,
    /// What kind of object; `-` while nothing says.
    pub content_class: Name,
    /// Where its client is.
    pub network: Name,
}

/// The names in force.
#[derive(Clone, Debug)]
pub struct Labels {
    services: HashMap<u16, Name>,
    networks: Networks,
    unknown_class: Name,
}

impl Labels {
    /// The names that a configuration gives.
    pub fn new(config: &Config) -> Self {
        Self::of(&config.services, &config.networks)
    }

    /// The names of these services and networks.
    pub fn of(services: &[config::Service], networks: &[config::Network]) -> Self {
        let services = services
            .iter()
            .flat_map(|service| {
                let name: Name = service.name.as_str().into();
                service.ports.iter().map(move |port| (*port, name.clone()))
            })
            .collect();
        Self {
            services,
            networks: Networks::new(networks),
            unknown_class: "-".into(),
        }
    }

    /// What a session between `endpoints` is called.
    pub fn label(&self, endpoints: &Endpoints) -> Label {
        self.label_of(endpoints.local_port, address(endpoints.remote_addr))
    }

    /// What a client at `remote` that talks to `local_port` is called.
    pub fn label_of(&self, local_port: u16, remote: IpAddr) -> Label {
        Label {
            service: self.service(local_port),
            content_class: self.unknown_class.clone(),
            network: self.networks.name(remote),
        }
    }

    /// A database of networks names this prefix.
    pub fn learn_network(&mut self, prefix: IpNet, name: &Name) {
        self.networks.learn(prefix, name);
    }

    /// Forgets what databases named.
    pub fn forget_networks(&mut self) {
        self.networks.forget();
    }

    /// Whether the network that `address` is in has a name.
    pub fn knows_network(&self, address: IpAddr) -> bool {
        self.networks.is_known(address)
    }

    /// What `port` is called.
    pub fn service(&self, port: u16) -> Service {
        match self.services.get(&port) {
            Some(name) => Service::Named(name.clone()),
            None => Service::Port(port),
        }
    }
}

/// An address as records carry it: 16 bytes, IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2).
pub fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::from(bytes).to_canonical()
}

/// How often what clients can write is tried: more where somebody asks for it.
#[cfg(test)]
fn fuzz_cases() -> u32 {
    let cases = std::env::var("WEIR_FUZZ_CASES").ok();
    cases.and_then(|cases| cases.parse().ok()).unwrap_or(512)
}

//! What the configuration tells the kernel gate.

use std::net::SocketAddr;

/// A `[[steer.gate]]` of the kind `kernel`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelGate {
    /// The services whose connections are turned, by name, or ports that no service names. Empty:
    /// all services of the configuration.
    pub services: Vec<String>,
    /// Where they are turned to: local listeners, for clients of IPv4 and of IPv6.
    pub others: Vec<SocketAddr>,
    pub by: Dealing,
    /// What capped sessions have; none: what they would have.
    pub congestion_control: Option<String>,
}

/// How traffic is dealt out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dealing {
    /// All of a client's connections go one way.
    #[default]
    Client,
    /// Each connection by itself.
    Connection,
}

impl Dealing {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Client, Self::Connection];

    /// As the configuration names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Connection => "connection",
        }
    }
}

/// A service that a gate turns: its name, and the server's ports that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub name: String,
    pub ports: Vec<u16>,
}

impl KernelGate {
    /// The services that it turns, among all of the configuration.
    pub fn served(&self, all: &[Served]) -> Vec<Served> {
        if self.services.is_empty() {
            return all.to_vec();
        }
        let named = self.services.iter().filter_map(|name| {
            let service = all.iter().find(|service| service.name == *name);
            // As cells call the sessions of a port that no service names.
            let of_port = || {
                let ports = vec![name.parse().ok().filter(|port| *port > 0)?];
                let name = name.clone();
                Some(Served { name, ports })
            };
            service.cloned().or_else(of_port)
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_serves_what_it_names_and_all_if_it_names_none() {
        let all = [("hls", 8080), ("dash", 8081)].map(|(name, port)| Served {
            name: name.into(),
            ports: vec![port],
        });
        let served = |names: &[&str]| -> Vec<_> {
            let gate = KernelGate {
                services: names.iter().map(|name| (*name).to_owned()).collect(),
                ..KernelGate::default()
            };
            let served = gate.served(&all);
            served.into_iter().flat_map(|one| one.ports).collect()
        };
        assert_eq!(served(&[]), [8080, 8081]);
        assert_eq!(served(&["dash"]), [8081]);
        assert_eq!(served(&["dash", "9000", "0", "nobody"]), [8081, 9000]);
    }
}

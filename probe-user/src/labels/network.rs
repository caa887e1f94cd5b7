//! From a client's address to the name of its network, by longest prefix.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::Name;
use crate::config::Network;

/// What networks without a name are called.
pub const OTHER: &str = "other";

/// The prefixes in force.
#[derive(Clone, Debug)]
pub struct Networks {
    v4: PrefixMap<Ipv4Net, Name>,
    v6: PrefixMap<Ipv6Net, Name>,
    other: Name,
}

impl Networks {
    /// The prefixes that a configuration names.
    pub fn new(networks: &[Network]) -> Self {
        let mut v4 = PrefixMap::new();
        let mut v6 = PrefixMap::new();
        for network in networks {
            let name: Name = network.name.as_str().into();
            for prefix in &network.prefixes {
                match prefix {
                    IpNet::V4(prefix) => v4.insert(prefix.trunc(), name.clone()),
                    IpNet::V6(prefix) => v6.insert(prefix.trunc(), name.clone()),
                };
            }
        }
        Self {
            v4,
            v6,
            other: OTHER.into(),
        }
    }

    /// The name of the network that `address` is in. A v4-mapped address is an IPv4 address.
    pub fn name(&self, address: IpAddr) -> Name {
        let found = match address.to_canonical() {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, name)| name),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, name)| name),
        };
        found.unwrap_or(&self.other).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(named: &[(&str, &[&str])]) -> Networks {
        let named: Vec<_> = named
            .iter()
            .map(|(name, prefixes)| Network {
                name: (*name).to_owned(),
                prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
            })
            .collect();
        Networks::new(&named)
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let networks = networks(&[
            ("site", &["10.1.2.0/24"]),
            ("all", &["10.0.0.0/8", "2001:db8::/32"]),
            ("host", &["10.1.2.3/32"]),
        ]);
        for (address, name) in [
            ("10.1.2.3", "host"),
            ("10.1.2.4", "site"),
            ("10.9.9.9", "all"),
            ("2001:db8:1::1", "all"),
            ("192.0.2.1", OTHER),
            ("2001:db9::1", OTHER),
        ] {
            assert_eq!(&*networks.name(address.parse().unwrap()), name, "{address}");
        }
    }

    #[test]
    fn a_v4_mapped_client_is_an_ipv4_client() {
        let networks = networks(&[("v4", &["192.0.2.0/24"]), ("v6", &["::/0"])]);
        assert_eq!(&*networks.name("::ffff:192.0.2.7".parse().unwrap()), "v4");
        assert_eq!(&*networks.name("2001:db8::1".parse().unwrap()), "v6");
    }

    #[test]
    fn a_prefix_with_host_bits_is_its_network() {
        let networks = networks(&[("site", &["10.1.2.99/24"])]);
        assert_eq!(&*networks.name("10.1.2.1".parse().unwrap()), "site");
    }
}

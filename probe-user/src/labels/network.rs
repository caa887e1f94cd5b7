//! From a client's address to the name of its network, by longest prefix: of those that the
//! configuration names, else of those that a database was found to name.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::Name;
use crate::config::Network;

/// What networks without a name are called.
pub const OTHER: &str = "other";

/// Prefixes remembered of those that a database names. When there are more, all are forgotten, and
/// told again as they are needed.
pub const MOST_LEARNED: usize = 65_536;
/// Bytes of a database's name for a network.
const MOST_NAME_BYTES: usize = 64;

/// The name of a network as a database has it, made fit for the name of a cell. None: it has none.
pub fn database_name(name: &str) -> Option<Name> {
    let fit = |c: char| {
        if c.is_ascii_graphic() && c != '/' {
            c
        } else {
            '_'
        }
    };
    let name: String = name.trim().chars().take(MOST_NAME_BYTES).map(fit).collect();
    (!name.is_empty() && name != OTHER && name != "-").then(|| name.into())
}

/// Names by prefix.
#[derive(Clone, Debug, Default)]
struct Prefixes {
    v4: PrefixMap<Ipv4Net, Name>,
    v6: PrefixMap<Ipv6Net, Name>,
}

impl Prefixes {
    fn insert(&mut self, prefix: IpNet, name: Name) {
        match prefix {
            IpNet::V4(prefix) => self.v4.insert(prefix.trunc(), name),
            IpNet::V6(prefix) => self.v6.insert(prefix.trunc(), name),
        };
    }

    /// Of a canonical address.
    fn name(&self, address: IpAddr) -> Option<&Name> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, name)| name),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, name)| name),
        }
    }

    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}

/// The prefixes in force.
#[derive(Clone, Debug)]
pub struct Networks {
    configured: Prefixes,
    learned: Prefixes,
    learned_names: HashSet<Name>,
    other: Name,
}

impl Networks {
    /// The prefixes that a configuration names.
    pub fn new(networks: &[Network]) -> Self {
        let mut configured = Prefixes::default();
        for network in networks {
            let name: Name = network.name.as_str().into();
            for prefix in &network.prefixes {
                configured.insert(*prefix, name.clone());
            }
        }
        Self {
            configured,
            learned: Prefixes::default(),
            learned_names: HashSet::new(),
            other: OTHER.into(),
        }
    }

    /// A database names this prefix.
    pub fn learn(&mut self, prefix: IpNet, name: &Name) {
        if self.learned.len() >= MOST_LEARNED {
            self.forget();
        }
        // One for all networks of a name.
        self.learned_names.insert(name.clone());
        let name = self.learned_names.get(name).unwrap_or(name);
        self.learned.insert(prefix, name.clone());
    }

    /// Forgets what databases named.
    pub fn forget(&mut self) {
        self.learned = Prefixes::default();
        self.learned_names.clear();
    }

    /// Whether there is a name for the network that `address` is in.
    pub fn is_known(&self, address: IpAddr) -> bool {
        self.found(address).is_some()
    }

    /// The name of the network that `address` is in. A v4-mapped address is an IPv4 address.
    pub fn name(&self, address: IpAddr) -> Name {
        self.found(address).unwrap_or(&self.other).clone()
    }

    fn found(&self, address: IpAddr) -> Option<&Name> {
        let address = address.to_canonical();
        let configured = self.configured.name(address);
        configured.or_else(|| self.learned.name(address))
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

    #[test]
    fn what_a_database_names_stands_behind_the_configuration() {
        let mut networks = networks(&[("site", &["10.1.0.0/16"])]);
        let isp = database_name("AS64500 Exämple/ISP ").unwrap();
        assert_eq!(&*isp, "AS64500_Ex_mple_ISP");
        let address = |text: &str| text.parse().unwrap();
        assert!(!networks.is_known(address("10.2.0.1")));
        networks.learn("10.0.0.0/8".parse().unwrap(), &isp);
        networks.learn("10.1.2.0/24".parse().unwrap(), &isp);
        assert!(networks.is_known(address("10.2.0.1")));
        assert_eq!(networks.name(address("::ffff:10.2.0.1")), isp);
        assert_eq!(&*networks.name(address("10.1.2.3")), "site");
        for reserved in ["", "other", "-", "  "] {
            assert_eq!(database_name(reserved), None);
        }
    }

    #[test]
    fn what_is_learned_is_bounded() {
        let mut networks = networks(&[]);
        let name: Name = "isp".into();
        for n in 0..2 * u32::try_from(MOST_LEARNED).unwrap() + 10 {
            let address = std::net::Ipv4Addr::from(n << 8);
            networks.learn(Ipv4Net::new(address, 24).unwrap().into(), &name);
            assert!(networks.learned.len() <= MOST_LEARNED);
        }
        assert_eq!(networks.learned.len(), 10);
    }
}

//! From a position to the kernel's rules. Pure.
//!
//! The kernel knows a connection's port and its client's address when it chooses the listener; of
//! what will be asked for it knows nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::settings::Served;
use crate::kernel::gate::Rule;
use crate::steer::position::NEUTRAL_PERMILLE;
use crate::steer::{Position, Scope, Setting};

/// A setting that the kernel cannot follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub scope: Scope,
    pub why: &'static str,
}

/// What holds for some clients of some port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    weight_permille: u16,
    cap_bps: Option<u64>,
}

const NEUTRAL: Share = Share {
    weight_permille: NEUTRAL_PERMILLE,
    cap_bps: None,
};

impl Share {
    fn of(setting: &Setting) -> Self {
        Self {
            weight_permille: setting.weight_permille.min(NEUTRAL_PERMILLE),
            cap_bps: setting.cap_bps,
        }
    }

    /// Where two hold and neither is within the other: what turns away more, and caps lower.
    fn and(self, other: Self) -> Self {
        let caps = [self.cap_bps, other.cap_bps];
        Self {
            weight_permille: self.weight_permille.min(other.weight_permille),
            cap_bps: caps.into_iter().flatten().min(),
        }
    }
}

/// Settings by scope; of two of one scope both hold.
#[derive(Default)]
struct Shares<'p> {
    host: Option<Share>,
    services: BTreeMap<&'p str, Share>,
    prefixes: BTreeMap<IpNet, Share>,
}

impl<'p> Shares<'p> {
    fn of(position: &'p Position) -> Self {
        let mut shares = Self::default();
        let both = |held: Option<Share>, new: Share| held.map_or(new, |held| held.and(new));
        for setting in &position.settings {
            let new = Share::of(setting);
            match &setting.scope {
                Scope::Host => shares.host = Some(both(shares.host, new)),
                Scope::Service(name) => {
                    let held = shares.services.get(name.as_str()).copied();
                    shares.services.insert(name, both(held, new));
                }
                Scope::Prefix(net) => {
                    let net = unmapped(*net);
                    let held = shares.prefixes.get(&net).copied();
                    shares.prefixes.insert(net, both(held, new));
                }
                Scope::Cell(_) => {}
            }
        }
        shares
    }

    /// What holds for a service's clients that are in no prefix.
    fn wide(&self, service: &str) -> Share {
        let own = self.services.get(service).copied();
        own.or(self.host).unwrap_or(NEUTRAL)
    }

    /// What holds for a prefix's clients of a service. A prefix is within the host; a service and a
    /// prefix are neither within the other.
    fn narrow(&self, service: &str, prefix: Share) -> Share {
        let own = self.services.get(service);
        own.map_or(prefix, |service| service.and(prefix))
    }
}

/// What of a position the kernel cannot follow: cells, unless they are as their service is anyway.
pub fn refusals(position: &Position) -> Vec<Refusal> {
    let shares = Shares::of(position);
    let refused = position.settings.iter().filter(|setting| {
        let Scope::Cell(name) = &setting.scope else {
            return false;
        };
        let service = name.split('/').next().unwrap_or_default();
        Share::of(setting) != shares.wide(service)
    });
    refused
        .map(|setting| Refusal {
            scope: setting.scope.clone(),
            why: "which cell a session is of is known when it has asked for something, and the \
                  listener is chosen before: set the service, a prefix or the host",
        })
        .collect()
}

/// The rules of a position for these services; its cells are left out. No rule: it is neutral for
/// all of them.
pub(super) fn rules(position: &Position, services: &[Served]) -> Vec<Rule> {
    let shares = Shares::of(position);
    let mut by_key = BTreeMap::new();
    for service in services {
        let wide = shares.wide(&service.name);
        let mut of_port = BTreeMap::new();
        of_port.insert(None, wide);
        for (prefix, share) in &shares.prefixes {
            of_port.insert(Some(*prefix), shares.narrow(&service.name, *share));
        }
        // Prefixes are those of mapped addresses: a wide one of IPv6 would take in all of IPv4.
        let has_wide = shares.prefixes.keys().any(|net| takes_in_mapped(*net));
        let all_v4 = IpNet::V4(ipnet::Ipv4Net::default());
        if has_wide && !shares.prefixes.contains_key(&all_v4) {
            of_port.insert(Some(all_v4), wide);
        }
        if of_port.values().all(|share| *share == NEUTRAL) {
            continue;
        }
        for port in &service.ports {
            for (prefix, share) in &of_port {
                by_key.insert((*port, *prefix), *share);
            }
        }
    }
    let rules = by_key.into_iter().map(|((port, prefix), share)| Rule {
        port,
        prefix,
        turned_permille: NEUTRAL_PERMILLE - share.weight_permille,
        pace_bytes_per_s: share.cap_bps.and_then(pace),
    });
    rules.collect()
}

/// Bytes a second. The kernel's word for it has 32 bits, of which the largest is no limit: what is
/// above some 34 Gbit/s is none either.
fn pace(cap_bps: u64) -> Option<u32> {
    let bytes = (cap_bps / 8).max(1);
    u32::try_from(bytes).ok().filter(|rate| *rate < u32::MAX)
}

/// A prefix of IPv4, also where it is written as one of mapped addresses.
fn unmapped(net: IpNet) -> IpNet {
    let net = net.trunc();
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.network().to_ipv4_mapped().map(IpAddr::V4);
    let within = v6.prefix_len().checked_sub(96);
    v4.zip(within)
        .and_then(|(address, bits)| IpNet::new(address, bits).ok())
        .unwrap_or(net)
}

fn takes_in_mapped(net: IpNet) -> bool {
    let mapped: Ipv6Addr = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    matches!(net, IpNet::V6(net) if net.prefix_len() <= 96 && Ipv6Net::contains(&net, &mapped))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(settings: &[(Scope, u16, Option<u64>)]) -> Position {
        let settings = settings.iter().cloned();
        Position {
            settings: settings
                .map(|(scope, weight_permille, cap_bps)| Setting {
                    scope,
                    weight_permille,
                    cap_bps,
                })
                .collect(),
            ..Position::default()
        }
    }

    fn services() -> Vec<Served> {
        let served = |name: &str, ports: &[u16]| Served {
            name: name.into(),
            ports: ports.to_vec(),
        };
        vec![served("hls", &[80, 8080]), served("dash", &[90])]
    }

    fn prefix(text: &str) -> Scope {
        Scope::Prefix(text.parse().unwrap())
    }

    fn told(settings: &[(Scope, u16, Option<u64>)]) -> Vec<String> {
        let rules = rules(&position(settings), &services());
        rules
            .iter()
            .map(|rule| {
                let net = rule.prefix.map_or("all".to_owned(), |net| net.to_string());
                let pace = rule.pace_bytes_per_s.map(|pace| format!(" {pace}"));
                format!(
                    "{} {net} {}{}",
                    rule.port,
                    rule.turned_permille,
                    pace.unwrap_or_default()
                )
            })
            .collect()
    }

    #[test]
    fn what_is_neutral_has_no_rules() {
        assert!(told(&[]).is_empty());
        assert!(
            told(&[
                (Scope::Host, 1000, None),
                (prefix("10.0.0.0/8"), 1000, None)
            ])
            .is_empty()
        );
        assert!(told(&[(Scope::Service("other".into()), 0, None)]).is_empty());
    }

    #[test]
    fn the_host_is_all_ports_and_a_service_its_own() {
        assert_eq!(
            told(&[(Scope::Host, 700, None)]),
            ["80 all 300", "90 all 300", "8080 all 300"]
        );
        assert_eq!(
            told(&[
                (Scope::Host, 700, Some(8_000_000)),
                (Scope::Service("dash".into()), 1000, None)
            ]),
            ["80 all 300 1000000", "8080 all 300 1000000"]
        );
        assert_eq!(
            told(&[(Scope::Service("dash".into()), 0, None)]),
            ["90 all 1000"]
        );
    }

    #[test]
    fn a_prefix_decides_within_the_host_also_where_it_is_spared() {
        assert_eq!(
            told(&[(Scope::Host, 500, None), (prefix("10.1.2.3/8"), 1000, None)])[..2],
            ["80 all 500", "80 10.0.0.0/8 0"]
        );
    }

    #[test]
    fn where_a_service_and_a_prefix_both_hold_more_is_turned_and_the_cap_is_lower() {
        assert_eq!(
            told(&[
                (Scope::Service("dash".into()), 800, Some(8_000)),
                (prefix("10.0.0.0/8"), 900, Some(800)),
                (prefix("10.9.0.0/16"), 500, None),
            ]),
            [
                "80 all 0",
                "80 10.0.0.0/8 100 100",
                "80 10.9.0.0/16 500",
                "90 all 200 1000",
                "90 10.0.0.0/8 200 100",
                "90 10.9.0.0/16 500 1000",
                "8080 all 0",
                "8080 10.0.0.0/8 100 100",
                "8080 10.9.0.0/16 500",
            ]
        );
    }

    #[test]
    fn a_wide_prefix_of_ipv6_leaves_ipv4_alone() {
        assert_eq!(
            told(&[
                (prefix("::/0"), 0, None),
                (Scope::Service("hls".into()), 1000, None)
            ])[..3],
            ["80 all 0", "80 0.0.0.0/0 0", "80 ::/0 1000"]
        );
        assert_eq!(
            told(&[(prefix("2000::/3"), 0, None)])[..2],
            ["80 all 0", "80 2000::/3 1000"]
        );
    }

    #[test]
    fn a_prefix_of_mapped_addresses_is_one_of_ipv4() {
        assert_eq!(
            told(&[(prefix("::ffff:10.0.0.0/104"), 0, None)]),
            told(&[(prefix("10.0.0.0/8"), 0, None)])
        );
    }

    #[test]
    fn caps_beyond_the_kernels_word_are_none_and_none_is_nothing() {
        assert_eq!(pace(0), Some(1));
        assert_eq!(pace(80), Some(10));
        assert_eq!(pace(8 * u64::from(u32::MAX)), None);
        assert_eq!(pace(u64::MAX), None);
    }

    #[test]
    fn cells_are_refused_unless_they_are_as_their_service() {
        let cell = || Scope::Cell("hls/segment/x/tcp/kernel".into());
        let refused = |settings: &[_]| refusals(&position(settings)).len();
        assert_eq!(refused(&[(cell(), 500, None)]), 1);
        assert_eq!(refused(&[(cell(), 1000, None)]), 0);
        assert_eq!(
            refused(&[(Scope::Host, 500, None), (cell(), 1000, None)]),
            1
        );
        let service = (Scope::Service("hls".into()), 500, None);
        assert_eq!(refused(&[service, (cell(), 500, None)]), 0);
    }
}

//! What the gates of a host shall be: plain values between policy and actuators.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// All of the traffic that would come by itself.
pub const NEUTRAL_PERMILLE: u16 = 1_000;

/// Of a service's or a cell's name in an order.
const MAX_NAME_BYTES: usize = 256;

/// Which traffic a setting is about. The narrowest that holds a client decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Host,
    /// A service of the configuration, by name.
    Service(String),
    /// A cell, by the name under which `weir cells` lists it.
    Cell(String),
    /// Clients of a network.
    Prefix(IpNet),
}

impl Scope {
    /// Whether all that is in `other` is in this one too. A network's clients and a service are
    /// neither in the other.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host, _) => true,
            (Self::Service(service), Self::Cell(cell)) => cell
                .strip_prefix(service.as_str())
                .is_some_and(|rest| rest.starts_with('/')),
            (Self::Prefix(own), Self::Prefix(other)) => own.contains(other),
            (own, other) => own == other,
        }
    }
}

/// As an operator writes it: `host`, `service=NAME`, `cell=NAME` or `prefix=CIDR`.
impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |name: &str| {
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
                return Err(format!(
                    "{text:?} names nothing that there can be: 1 to {MAX_NAME_BYTES} bytes"
                ));
            }
            Ok(name.to_owned())
        };
        match text.split_once('=') {
            None if text == "host" => Ok(Self::Host),
            Some(("service", name)) => named(name).map(Self::Service),
            Some(("cell", name)) => named(name).map(Self::Cell),
            Some(("prefix", prefix)) => prefix
                .parse::<IpNet>()
                .or_else(|_| prefix.parse::<std::net::IpAddr>().map(IpNet::from))
                .map(|prefix| Self::Prefix(prefix.trunc()))
                .map_err(|_| format!("{prefix:?} is no prefix; write one as 192.0.2.0/24")),
            _ => Err(format!(
                "{text:?} is no scope; write host, service=NAME, cell=NAME or prefix=CIDR"
            )),
        }
    }
}

impl Scope {
    /// The same the other way.
    pub fn key(&self) -> String {
        match self {
            Self::Host => "host".to_owned(),
            Self::Service(name) => format!("service={name}"),
            Self::Cell(name) => format!("cell={name}"),
            Self::Prefix(prefix) => format!("prefix={prefix}"),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Cell(name) => write!(f, "cell {name}"),
            Self::Prefix(prefix) => write!(f, "prefix {prefix}"),
        }
    }
}

/// One scope's share of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub scope: Scope,
    /// Thousandths of the traffic that would come by itself; the rest is turned away. 1000 is
    /// neutral, 0 drained. Never more than 1000.
    pub weight_permille: u16,
    /// The highest media bitrate or pace a session may have, bits a second. None: no cap.
    pub cap_bps: Option<u64>,
}

impl Setting {
    pub fn is_neutral(&self) -> bool {
        self.weight_permille >= NEUTRAL_PERMILLE && self.cap_bps.is_none()
    }
}

/// Every gate of this host, whole: what no setting names is neutral. The empty position is neutral.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Grows with each change; an actuator refuses an older one.
    pub generation: u64,
    /// The newest decision behind it, as the journal names it.
    pub decision: String,
    pub settings: Vec<Setting>,
}

impl Position {
    pub fn is_neutral(&self) -> bool {
        self.settings.iter().all(Setting::is_neutral)
    }
}

/// What settings say of a scope: its own, or that of the narrowest around it.
pub fn holds(settings: &[Setting], scope: &Scope) -> (u16, Option<u64>) {
    let found = settings
        .iter()
        .filter(|setting| setting.scope.covers(scope))
        .max_by_key(|setting| match &setting.scope {
            own if own == scope => u16::MAX,
            Scope::Host => 0,
            Scope::Service(_) => 1,
            Scope::Cell(_) => 2,
            Scope::Prefix(prefix) => 3 + u16::from(prefix.prefix_len()),
        });
    found.map_or((NEUTRAL_PERMILLE, None), |setting| {
        (setting.weight_permille, setting.cap_bps)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_written_and_anything_else_is_refused_in_words() {
        for text in [
            "host",
            "service=live",
            "cell=live/segment/isp/tcp4",
            "prefix=192.0.2.0/24",
            "prefix=2001:db8::/32",
        ] {
            assert_eq!(text.parse::<Scope>().unwrap().key(), text);
        }
        let one: Scope = "prefix=192.0.2.7".parse().unwrap();
        assert_eq!(one.key(), "prefix=192.0.2.7/32");
        let within: Scope = "prefix=192.0.2.7/24".parse().unwrap();
        assert_eq!(within.key(), "prefix=192.0.2.0/24");
        for text in ["", "hosts", "service=", "cell=a\nb", "prefix=ten", "pool=x"] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
        assert!(
            format!("service={}", "x".repeat(257))
                .parse::<Scope>()
                .is_err()
        );
    }
}

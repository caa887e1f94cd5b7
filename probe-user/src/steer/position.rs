//! What the gates of a host shall be: plain values between policy and actuators.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// All of the traffic that would come by itself.
pub const NEUTRAL_PERMILLE: u16 = 1_000;

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

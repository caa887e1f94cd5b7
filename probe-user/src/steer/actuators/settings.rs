//! What each kind of gate is told by the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use super::content::settings::ContentGate;
pub use super::kernel::{KernelGate, Served};
use crate::steer::Scope;
use crate::steer::position::{NEUTRAL_PERMILLE, Position};

/// One `[[steer.gate]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSettings {
    pub name: String,
    pub serves: Serves,
    /// How long a position holds without being renewed.
    pub lease_s: u32,
    pub way: Way,
}

/// Which traffic goes through a gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    #[default]
    Host,
    /// A service of the configuration, by name.
    Service(String),
}

impl Serves {
    /// The share that a position leaves to it. A balancer cannot tell cells and clients apart, so
    /// settings narrower than a service are none of its business.
    pub fn weight_permille(&self, position: &Position) -> u16 {
        let of = |scope: &Scope| {
            let mut settings = position.settings.iter();
            settings.find(|setting| setting.scope == *scope)
        };
        let own = match self {
            Self::Host => None,
            Self::Service(name) => of(&Scope::Service(name.clone())),
        };
        own.or_else(|| of(&Scope::Host))
            .map_or(NEUTRAL_PERMILLE, |setting| {
                setting.weight_permille.min(NEUTRAL_PERMILLE)
            })
    }

    /// As a setting names it.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Host => Scope::Host,
            Self::Service(name) => Scope::Service(name.clone()),
        }
    }
}

/// By what means traffic is moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    HaproxyAgent(HaproxyAgent),
    HaproxySocket(HaproxySocket),
    Hook(Hook),
    Webhook(Webhook),
    File(File),
    Content(ContentGate),
    Kernel(KernelGate),
}

/// As the configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    HaproxyAgent,
    HaproxySocket,
    Hook,
    Webhook,
    File,
    ContentSteering,
    Kernel,
}

impl GateKind {
    pub const ALL: [Self; 7] = [
        Self::HaproxyAgent,
        Self::HaproxySocket,
        Self::Hook,
        Self::Webhook,
        Self::File,
        Self::ContentSteering,
        Self::Kernel,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::HaproxyAgent => "haproxy-agent",
            Self::HaproxySocket => "haproxy-socket",
            Self::Hook => "hook",
            Self::Webhook => "webhook",
            Self::File => "file",
            Self::ContentSteering => "content-steering",
            Self::Kernel => "kernel",
        }
    }
}

impl Way {
    pub fn kind(&self) -> GateKind {
        match self {
            Self::HaproxyAgent(_) => GateKind::HaproxyAgent,
            Self::HaproxySocket(_) => GateKind::HaproxySocket,
            Self::Hook(_) => GateKind::Hook,
            Self::Webhook(_) => GateKind::Webhook,
            Self::File(_) => GateKind::File,
            Self::Content(_) => GateKind::ContentSteering,
            Self::Kernel(_) => GateKind::Kernel,
        }
    }
}

/// Answers HAProxy's agent checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaproxyAgent {
    pub listen: SocketAddr,
    /// How long neutral is still answered after the end, so that every check hears it.
    pub linger_s: u32,
    /// The balancing algorithm is a static one, which knows nothing between 0 and 100 %.
    pub all_or_nothing: bool,
}

/// Sets weights at HAProxy's runtime socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaproxySocket {
    pub socket: PathBuf,
    /// `backend/server`.
    pub servers: Vec<String>,
    /// As for the agent.
    pub all_or_nothing: bool,
}

/// Runs a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    pub timeout_s: u32,
    /// Whether it is also run when a lease is renewed.
    pub tell_renewals: bool,
}

/// Posts to a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub url: String,
    /// What the body is signed with.
    pub secret_file: PathBuf,
    /// The authority whose certificates are believed; none: the system's.
    pub ca_file: Option<PathBuf>,
    pub timeout_s: u32,
    pub attempts: u32,
    /// Whether it is also called when a lease is renewed.
    pub tell_renewals: bool,
}

/// Keeps a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub file: PathBuf,
}

/// Thousandths as percent, towards neutral: never more is turned away than was asked for.
pub(super) fn percent(weight_permille: u16, all_or_nothing: bool) -> u32 {
    match weight_permille.min(NEUTRAL_PERMILLE) {
        0 => 0,
        _ if all_or_nothing => 100,
        some => u32::from(some.div_ceil(10)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::Setting;

    fn setting(scope: Scope, weight_permille: u16) -> Setting {
        Setting {
            scope,
            weight_permille,
            cap_bps: None,
        }
    }

    #[test]
    fn the_narrowest_setting_that_a_balancer_can_tell_decides() {
        let position = Position {
            settings: vec![
                setting(Scope::Host, 800),
                setting(Scope::Service("live".to_owned()), 300),
                setting(Scope::Cell("vod/x".to_owned()), 0),
            ],
            ..Position::default()
        };
        let service = |name: &str| Serves::Service(name.to_owned());
        assert_eq!(Serves::Host.weight_permille(&position), 800);
        assert_eq!(service("live").weight_permille(&position), 300);
        assert_eq!(service("vod").weight_permille(&position), 800);
        assert_eq!(Serves::Host.weight_permille(&Position::default()), 1000);
    }

    #[test]
    fn percent_never_turns_away_more_than_was_asked_for() {
        for permille in 0..=1000 {
            assert!(percent(permille, false) * 10 >= u32::from(permille));
            assert!(percent(permille, true) * 10 >= u32::from(permille));
        }
        assert_eq!((percent(1, false), percent(700, false)), (1, 70));
        assert_eq!((percent(0, true), percent(1, true)), (0, 100));
        assert_eq!(percent(0, false), 0);
    }
}

//! Who may order what: pure, from who speaks to yes or why not.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::order::{Auth, Order, Verb};
use crate::steer::Scope;

/// How far an order reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    Prefix,
    Cell,
    Service,
    Host,
    /// Hosts of one region together; only the centre can.
    Region,
    /// All hosts together; only the centre can.
    Fleet,
}

impl Reach {
    pub const ALL: [Self; 6] = [
        Self::Prefix,
        Self::Cell,
        Self::Service,
        Self::Host,
        Self::Region,
        Self::Fleet,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Cell => "cell",
            Self::Service => "service",
            Self::Host => "host",
            Self::Region => "region",
            Self::Fleet => "fleet",
        }
    }
}

impl From<&Scope> for Reach {
    fn from(scope: &Scope) -> Self {
        match scope {
            Scope::Host => Self::Host,
            Scope::Service(_) => Self::Service,
            Scope::Cell(_) => Self::Cell,
            Scope::Prefix(net) if is_wide(*net) => Self::Host,
            Scope::Prefix(_) => Self::Prefix,
        }
    }
}

/// One `[[steer.role]]`: who has it, and what it allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub name: String,
    /// By number, as the kernel says it of the socket's peer.
    pub uids: Vec<u32>,
    /// Names in certificates.
    pub certificates: Vec<String>,
    pub verbs: Vec<Verb>,
    /// The farthest.
    pub reach: Reach,
    /// Only these services; empty: all.
    pub services: Vec<String>,
    /// At most so much of a scope may be turned away by one order.
    pub max_turned_permille: u16,
    pub may_break_glass: bool,
}

/// Every role, and what needs two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    pub roles: Vec<Role>,
    /// More than this turned away of a service, a host or farther needs two people: a service may be all
    /// that a host has. 1000: never.
    pub two_person_above_permille: u16,
    /// Users with every right on the host: root and the daemon's own.
    pub always: Vec<u32>,
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("{who} has no role here; [[steer.role]] gives one")]
    Nobody { who: String },
    #[error("no role of {who} allows {verb} of a {reach}{of}")]
    NotAllowed {
        who: String,
        verb: &'static str,
        reach: &'static str,
        of: String,
    },
    #[error("{who} may turn away at most {most} permille by one order; {wanted} were asked for")]
    TooMuch { who: String, most: u16, wanted: u16 },
    #[error("{who} may not break the glass")]
    BreakGlass { who: String },
    #[error("turning away {wanted} permille of a {reach} needs a second person (above {above})")]
    SecondNeeded {
        wanted: u16,
        above: u16,
        reach: &'static str,
    },
    #[error("the second person must be another one than the first")]
    SamePerson,
}

/// Whether a prefix holds so many clients that what is done to it is done to the host: a few such are
/// all of them.
fn is_wide(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < 8,
        IpNet::V6(net) => net.prefix_len() < 16,
    }
}

fn who(auth: &Auth) -> String {
    match auth {
        Auth::Uid { uid, .. } => format!("user {uid}"),
        Auth::Certificate { name } => format!("the certificate {name:?}"),
        Auth::Policy { name, .. } => format!("the policy {name:?}"),
    }
}

/// Whether both are the same human, as far as can be known.
fn is_same(a: &Auth, b: &Auth) -> bool {
    match (a, b) {
        (Auth::Uid { uid: a, .. }, Auth::Uid { uid: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

impl Role {
    fn is_of(&self, auth: &Auth) -> bool {
        match auth {
            Auth::Uid { uid, .. } => self.uids.contains(uid),
            Auth::Certificate { name } => self.certificates.contains(name),
            // Automation is bound by rules, not by roles.
            Auth::Policy { .. } => false,
        }
    }

    fn allows(&self, verb: Verb, reach: Reach, scope: &Scope) -> bool {
        let is_its_service = |service: &str| self.services.iter().any(|own| own == service);
        let is_within = self.services.is_empty()
            || match scope {
                Scope::Service(name) => is_its_service(name),
                Scope::Cell(name) => name.split('/').next().is_some_and(is_its_service),
                Scope::Host | Scope::Prefix(_) => false,
            };
        self.verbs.contains(&verb) && reach <= self.reach && is_within
    }
}

impl Roles {
    /// Whether `order` may be given by whom it names as its author; `reach` is farther than the
    /// order's scope where the centre gives it to many hosts.
    ///
    /// # Errors
    /// What is missing.
    pub fn authorise(&self, order: &Order, reach: Reach) -> Result<(), Denied> {
        let reach = reach.max(Reach::from(&order.scope));
        self.allow(&order.auth, order, reach)?;
        let wanted = order.action.turned_permille();
        if wanted <= self.two_person_above_permille || reach < Reach::Service {
            return Ok(());
        }
        let Some(second) = &order.second else {
            return Err(Denied::SecondNeeded {
                wanted,
                above: self.two_person_above_permille,
                reach: reach.as_str(),
            });
        };
        if is_same(&order.auth, second) {
            return Err(Denied::SamePerson);
        }
        self.allow(second, order, reach)
    }

    fn allow(&self, auth: &Auth, order: &Order, reach: Reach) -> Result<(), Denied> {
        if let Auth::Uid { uid, .. } = auth
            && self.always.contains(uid)
            && reach <= Reach::Host
        {
            return Ok(());
        }
        let who = who(auth);
        let own: Vec<_> = self.roles.iter().filter(|role| role.is_of(auth)).collect();
        if own.is_empty() {
            return Err(Denied::Nobody { who });
        }
        let verb = order.action.verb();
        let allowing = || {
            let allows = |role: &&&Role| role.allows(verb, reach, &order.scope);
            own.iter().filter(allows)
        };
        let wanted = order.action.turned_permille();
        let Some(most) = allowing().map(|role| role.max_turned_permille).max() else {
            let of = match &order.scope {
                Scope::Service(name) | Scope::Cell(name) => format!(" ({name})"),
                Scope::Host | Scope::Prefix(_) => String::new(),
            };
            return Err(Denied::NotAllowed {
                who,
                verb: verb.as_str(),
                reach: reach.as_str(),
                of,
            });
        };
        if wanted > most {
            return Err(Denied::TooMuch { who, most, wanted });
        }
        let may_break = |role: &&Role| role.may_break_glass && role.max_turned_permille >= wanted;
        if order.is_break_glass && !allowing().copied().any(|role| may_break(&role)) {
            return Err(Denied::BreakGlass { who });
        }
        Ok(())
    }
}

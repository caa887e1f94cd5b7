//! What the gate is held at, until when, and what that is for one player.

use std::net::IpAddr;

use anyhow::{Result, bail};

use crate::steer::actuators::Lease;
use crate::steer::position::NEUTRAL_PERMILLE;
use crate::steer::{Position, Scope, Setting};

/// A position and its lease. Nothing is held at first.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// This gate's service; none: whatever is asked for here.
    service: Option<String>,
    settings: Vec<Setting>,
    /// The newest seen; older ones come too late.
    generation: u64,
    until_boot_ns: Option<u64>,
}

/// Which weight a player is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) permille: u16,
    /// Something was held, and its lease is over.
    pub(super) is_lapsed: bool,
}

impl Held {
    pub(super) fn new(service: Option<&str>) -> Self {
        Self {
            service: service.map(str::to_owned),
            ..Self::default()
        }
    }

    /// Holds `position`, as far as it is about players of this gate.
    ///
    /// # Errors
    /// It is older than what was held; then nothing changed. Or it has scopes of which this gate
    /// cannot tell who is in them; then the others are held.
    pub(super) fn acquire(&mut self, position: &Position, lease: Lease) -> Result<()> {
        if position.generation < self.generation {
            bail!(
                "generation {} is older than {}, which is held",
                position.generation,
                self.generation
            );
        }
        let mut untold = Vec::new();
        self.settings.clear();
        for setting in &position.settings {
            match self.concern(&setting.scope) {
                Concern::Players => self.settings.push(setting.clone()),
                Concern::Nobody => {}
                Concern::Untold if setting.weight_permille >= NEUTRAL_PERMILLE => {}
                Concern::Untold => untold.push(setting.scope.to_string()),
            }
        }
        self.generation = position.generation;
        self.until_boot_ns = Some(lease.until_boot_ns);
        if !untold.is_empty() {
            bail!(
                "players do not say whether they are in {}: not turned; order it for the host, a \
                 prefix, or the service that the gate names",
                untold.join(", ")
            );
        }
        Ok(())
    }

    /// # Errors
    /// Nothing is held any more.
    pub(super) fn renew(&mut self, lease: Lease, now_boot_ns: u64) -> Result<()> {
        if self.until_boot_ns.is_none_or(|until| now_boot_ns >= until) {
            bail!("nothing is held that could be renewed: acquire it again");
        }
        self.until_boot_ns = Some(lease.until_boot_ns);
        Ok(())
    }

    pub(super) fn release(&mut self) {
        self.settings.clear();
        self.until_boot_ns = None;
    }

    /// What counts for the player at `client`: the narrowest scope that it is in.
    pub(super) fn weight(&self, client: IpAddr, now_boot_ns: u64) -> Weight {
        let is_lapsed = self
            .until_boot_ns
            .is_some_and(|until_boot_ns| now_boot_ns >= until_boot_ns);
        if is_lapsed || self.until_boot_ns.is_none() {
            return Weight {
                permille: NEUTRAL_PERMILLE,
                is_lapsed,
            };
        }
        let holding = self
            .settings
            .iter()
            .filter_map(|setting| Some((narrowness(&setting.scope, client)?, setting)));
        let narrowest = holding.max_by_key(|(narrowness, _)| *narrowness);
        Weight {
            permille: narrowest.map_or(NEUTRAL_PERMILLE, |(_, setting)| setting.weight_permille),
            is_lapsed,
        }
    }

    fn concern(&self, scope: &Scope) -> Concern {
        match scope {
            Scope::Host | Scope::Prefix(_) => Concern::Players,
            Scope::Service(name) => match &self.service {
                Some(own) if own == name => Concern::Players,
                Some(_) => Concern::Nobody,
                None => Concern::Untold,
            },
            Scope::Cell(_) => match &self.service {
                Some(own) if !Scope::Service(own.clone()).covers(scope) => Concern::Nobody,
                _ => Concern::Untold,
            },
        }
    }
}

/// Whom a scope is about.
enum Concern {
    /// Players who ask here, of whom it can be told.
    Players,
    /// Nobody who asks here.
    Nobody,
    /// It cannot be told.
    Untold,
}

/// How narrow a scope is that holds the client; None: it does not hold it. Scopes that are not
/// this gate's were left out before.
fn narrowness(scope: &Scope, client: IpAddr) -> Option<u16> {
    match scope {
        Scope::Host => Some(0),
        Scope::Service(_) => Some(1),
        Scope::Prefix(prefix) => prefix
            .contains(&client)
            .then(|| 2 + u16::from(prefix.prefix_len())),
        Scope::Cell(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOR_EVER: Lease = Lease {
        until_boot_ns: u64::MAX,
    };

    fn position(generation: u64, settings: &[(Scope, u16)]) -> Position {
        let setting = |(scope, weight): &(Scope, u16)| Setting {
            scope: scope.clone(),
            weight_permille: *weight,
            cap_bps: None,
        };
        Position {
            generation,
            decision: "d".to_owned(),
            settings: settings.iter().map(setting).collect(),
        }
    }

    fn prefix(text: &str) -> Scope {
        Scope::Prefix(text.parse().unwrap())
    }

    fn service(name: &str) -> Scope {
        Scope::Service(name.to_owned())
    }

    fn of(held: &Held, client: &str, now_boot_ns: u64) -> u16 {
        held.weight(client.parse().unwrap(), now_boot_ns).permille
    }

    #[test]
    fn the_narrowest_scope_that_holds_a_player_decides() {
        let mut held = Held::new(Some("live"));
        let settings = [
            (prefix("192.0.2.0/24"), 300),
            (Scope::Host, 900),
            (prefix("192.0.2.128/25"), 200),
            (service("live"), 500),
            (service("vod"), 100),
            (prefix("2001:db8::/32"), 0),
        ];
        held.acquire(&position(1, &settings), FOR_EVER).unwrap();
        assert_eq!(of(&held, "198.51.100.1", 0), 500);
        assert_eq!(of(&held, "192.0.2.1", 0), 300);
        assert_eq!(of(&held, "192.0.2.129", 0), 200);
        assert_eq!(of(&held, "2001:db8::1", 0), 0);
        let host = position(2, &[(Scope::Host, 900)]);
        held.acquire(&host, FOR_EVER).unwrap();
        assert_eq!(of(&held, "192.0.2.129", 0), 900);
        held.acquire(&position(3, &[]), FOR_EVER).unwrap();
        assert_eq!(of(&held, "192.0.2.129", 0), 1000);
    }

    #[test]
    fn what_is_held_ends_with_its_lease_and_does_not_rise_again() {
        let mut held = Held::new(None);
        let lease = |until_boot_ns| Lease { until_boot_ns };
        assert!(
            held.renew(lease(500), 1).is_err(),
            "nothing was ever acquired"
        );
        let drained = position(1, &[(Scope::Host, 0)]);
        held.acquire(&drained, lease(100)).unwrap();
        assert_eq!((of(&held, "::1", 99), of(&held, "::1", 100)), (0, 1000));
        assert!(
            held.weight("::1".parse().unwrap(), 100).is_lapsed,
            "it is counted"
        );
        held.renew(lease(200), 99).unwrap();
        assert_eq!((of(&held, "::1", 199), of(&held, "::1", 200)), (0, 1000));
        assert!(held.renew(lease(300), 200).is_err());
        assert_eq!(of(&held, "::1", 250), 1000);
        held.acquire(&drained, lease(300)).unwrap();
        assert_eq!(of(&held, "::1", 250), 0);
        held.release();
        assert_eq!(of(&held, "::1", 250), 1000);
        assert!(held.renew(lease(300), 250).is_err());
    }

    #[test]
    fn an_older_position_changes_nothing() {
        let mut held = Held::new(None);
        let newer = position(7, &[(Scope::Host, 400)]);
        held.acquire(&newer, FOR_EVER).unwrap();
        let older = position(6, &[(Scope::Host, 0)]);
        let told = held.acquire(&older, FOR_EVER).unwrap_err().to_string();
        assert!(told.contains("older than 7"), "{told}");
        assert_eq!(of(&held, "::1", 0), 400);
        held.acquire(&newer, FOR_EVER).unwrap();
        held.release();
        assert!(held.acquire(&older, FOR_EVER).is_err());
    }

    #[test]
    fn of_whom_it_cannot_be_told_is_said_and_the_others_are_held() {
        let mut held = Held::new(Some("live"));
        let cell = |name: &str| Scope::Cell(name.to_owned());
        let settings = [
            (cell("live/segment/campus/tcp4"), 0),
            (cell("vod/segment/campus/tcp4"), 0),
            (Scope::Host, 600),
        ];
        let told = held
            .acquire(&position(1, &settings), FOR_EVER)
            .unwrap_err()
            .to_string();
        assert!(told.contains("cell live/segment/campus/tcp4"), "{told}");
        assert!(
            !told.contains("vod"),
            "another gate's is not this one's: {told}"
        );
        assert_eq!(of(&held, "::1", 0), 600);
        let neutral = [(cell("live/segment/campus/tcp4"), 1000)];
        held.acquire(&position(2, &neutral), FOR_EVER).unwrap();
        let mut any = Held::new(None);
        let told = any.acquire(&position(1, &[(service("live"), 0)]), FOR_EVER);
        assert!(told.is_err(), "which service players want is not known");
    }
}

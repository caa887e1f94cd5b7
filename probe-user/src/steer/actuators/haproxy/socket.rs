//! Sets servers' weights at HAProxy's runtime socket.
//!
//! They stay as they are set, so the guard knows what was there before. What somebody else set
//! meanwhile is theirs: it is neither changed nor undone.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::runtime::{self, Weight};
use crate::steer::Position;
use crate::steer::actuators::guard::{Guard, Guarded, Over, Plan};
use crate::steer::actuators::settings::{HaproxySocket, Serves};
use crate::steer::actuators::{Actuator, Lease, clock};
use crate::steer::position::NEUTRAL_PERMILLE;

/// A share that is farther from what was asked for than this is told.
const COARSE_PERMILLE: u32 = 50;

/// What was there before, and what weir made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    socket: PathBuf,
    servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Server {
    name: String,
    before: u32,
    /// Weights that may be weir's own: the one that is being set last.
    own: Vec<u32>,
}

impl Before {
    /// Gives back each weight that is still weir's.
    pub(in crate::steer::actuators) async fn restore(&self) -> Result<()> {
        for server in &self.servers {
            let Weight { now, .. } = runtime::weight(&self.socket, &server.name).await?;
            if now != server.before && server.own.contains(&now) {
                runtime::set_weight(&self.socket, &server.name, server.before).await?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Held {
    before: Before,
    weight_permille: u16,
    until_boot_ns: u64,
    /// The HAProxy that was told.
    pid: u32,
}

/// The actuator.
#[derive(Debug)]
pub struct Socket {
    settings: HaproxySocket,
    serves: Serves,
    guarded: Guarded,
    held: Option<Held>,
    /// Servers whose weight somebody else set, left alone until the gate is released.
    aside: BTreeSet<String>,
}

impl Socket {
    pub fn open(settings: HaproxySocket, name: &str, serves: Serves, guard: &Guard) -> Self {
        Self {
            settings,
            serves,
            guarded: guard.of_gate(name),
            held: None,
            aside: BTreeSet::new(),
        }
    }

    /// What each server's weight shall be, from what it is now.
    fn plan(&mut self, pid: u32, weights: &[(String, Weight)], weight_permille: u16) -> Before {
        let mut servers = Vec::new();
        for (name, Weight { now, .. }) in weights {
            if self.aside.contains(name) {
                continue;
            }
            let held = self.held.as_ref();
            let own =
                held.and_then(|held| held.before.servers.iter().find(|own| own.name == *name));
            let (before, mut own) = match own {
                Some(own) if own.own.contains(now) => (own.before, own.own.clone()),
                // Another HAProxy, as its configuration has it.
                Some(_) if held.is_none_or(|held| held.pid != pid) => (*now, Vec::new()),
                Some(_) => {
                    self.aside.insert(name.clone());
                    continue;
                }
                None => (*now, Vec::new()),
            };
            // What may be there, and what will be.
            own.retain(|own| own == now);
            own.push(share(before, weight_permille, self.settings.all_or_nothing));
            servers.push(Server {
                name: name.clone(),
                before,
                own,
            });
        }
        Before {
            socket: self.settings.socket.clone(),
            servers,
        }
    }

    async fn turn(&mut self, weight_permille: u16, lease: Lease, is_renewal: bool) -> Result<()> {
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.until_boot_ns <= clock::boot_ns())
        {
            self.held = None;
        }
        let socket = self.settings.socket.clone();
        let pid = runtime::pid(&socket).await?;
        let mut weights = Vec::new();
        for name in &self.settings.servers {
            weights.push((name.clone(), runtime::weight(&socket, name).await?));
        }
        let before = self.plan(pid, &weights, weight_permille);
        let plan = Plan::HaproxySocket(before.clone());
        if is_renewal {
            let renewed = self.guarded.renew(lease, plan, None).await;
            if renewed.as_ref().is_err_and(anyhow::Error::is::<Over>) {
                self.held = None;
            }
            renewed?;
        } else {
            self.guarded.hold(lease, plan, None).await?;
        }
        self.held = Some(Held {
            before: before.clone(),
            weight_permille,
            until_boot_ns: lease.until_boot_ns,
            pid,
        });
        let set = set(&before, &weights).await;
        // Asked also where it failed: it may have been heard all the same, and after the guard.
        if let Err(err) = self.guarded.confirm().await {
            self.held = None;
            before.restore().await?;
            return Err(err);
        }
        set?;
        if is_renewal {
            return Ok(());
        }
        self.complain(&before, weight_permille)
    }

    /// Says what could not be done, when all else has been.
    fn complain(&self, done: &Before, weight_permille: u16) -> Result<()> {
        if let Some(name) = self.aside.iter().next() {
            bail!(
                "somebody else has set the weight of {name} at HAProxy's runtime socket; it is left \
                 alone until this gate is released"
            );
        }
        if self.settings.all_or_nothing {
            return Ok(());
        }
        let is_coarse = |server: &&Server| {
            let is = server.own.last().copied().unwrap_or(0) * 1000;
            let wanted = server.before * u32::from(weight_permille);
            is.abs_diff(wanted) > COARSE_PERMILLE * server.before
        };
        if let Some(server) = done.servers.iter().find(is_coarse) {
            bail!(
                "the weight {} of {} cannot be divided so finely; give the server `weight 100` in \
                 HAProxy's configuration",
                server.before,
                server.name
            );
        }
        Ok(())
    }
}

/// Sets what is not yet as it shall be.
async fn set(wanted: &Before, weights: &[(String, Weight)]) -> Result<()> {
    for server in &wanted.servers {
        let now = weights.iter().find(|(name, _)| *name == server.name);
        let own = server.own.last().copied().unwrap_or(server.before);
        if now.is_none_or(|(_, weight)| weight.now != own) {
            runtime::set_weight(&wanted.socket, &server.name, own).await?;
        }
    }
    Ok(())
}

/// Towards neutral, so that a server with a small weight is not emptied by rounding.
fn share(before: u32, weight_permille: u16, all_or_nothing: bool) -> u32 {
    match weight_permille {
        0 => 0,
        _ if all_or_nothing => before,
        some => (before * u32::from(some)).div_ceil(1000),
    }
}

impl Actuator for Socket {
    fn name(&self) -> &str {
        self.guarded.gate()
    }

    async fn acquire(&mut self, position: &Position, lease: Lease) -> Result<()> {
        let weight_permille = self.serves.weight_permille(position);
        if weight_permille >= NEUTRAL_PERMILLE {
            return self.release().await;
        }
        self.turn(weight_permille, lease, false).await
    }

    async fn renew(&mut self, lease: Lease) -> Result<()> {
        match &self.held {
            // After HAProxy was started anew this also turns it anew.
            Some(held) => self.turn(held.weight_permille, lease, true).await,
            None => Ok(()),
        }
    }

    async fn release(&mut self) -> Result<()> {
        if let Some(held) = &self.held {
            held.before.restore().await?;
            self.held = None;
        }
        self.aside.clear();
        self.guarded.free().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Socket {
        let settings = HaproxySocket {
            socket: "/run/h.sock".into(),
            servers: vec!["live/e1".to_owned()],
            all_or_nothing: false,
        };
        Socket::open(settings, "g", Serves::Host, &Guard::in_process())
    }

    fn weights(now: u32) -> Vec<(String, Weight)> {
        vec![("live/e1".to_owned(), Weight { now, initial: 100 })]
    }

    fn hold(socket: &mut Socket, pid: u32, before: &Before) {
        socket.held = Some(Held {
            before: before.clone(),
            weight_permille: 300,
            until_boot_ns: u64::MAX,
            pid,
        });
    }

    #[test]
    fn a_share_is_of_what_the_operator_had_set_and_never_empties_by_rounding() {
        assert_eq!(share(100, 300, false), 30);
        assert_eq!(share(50, 300, false), 15);
        assert_eq!(share(1, 300, false), 1);
        assert_eq!((share(7, 0, false), share(7, 0, true)), (0, 0));
        assert_eq!(share(7, 1, true), 7);
    }

    #[test]
    fn a_second_turn_remembers_what_was_before_the_first() {
        let mut socket = socket();
        let first = socket.plan(1, &weights(50), 300);
        assert_eq!(first.servers[0].own, [15]);
        hold(&mut socket, 1, &first);
        let second = socket.plan(1, &weights(15), 600);
        assert_eq!(
            (second.servers[0].before, &*second.servers[0].own),
            (50, &[15, 30][..])
        );
    }

    #[test]
    fn what_an_operator_sets_meanwhile_is_left_alone_until_the_gate_is_released() {
        let mut socket = socket();
        let first = socket.plan(1, &weights(100), 300);
        hold(&mut socket, 1, &first);
        assert_eq!(socket.plan(1, &weights(80), 300).servers, []);
        assert_eq!(socket.plan(1, &weights(30), 300).servers, []);
        let told = socket.complain(&first, 300).unwrap_err().to_string();
        assert!(told.contains("live/e1"), "{told}");
    }

    #[test]
    fn another_haproxy_is_turned_anew_from_its_own_configuration() {
        let mut socket = socket();
        let first = socket.plan(1, &weights(100), 300);
        hold(&mut socket, 1, &first);
        let anew = socket.plan(2, &weights(200), 300);
        assert_eq!(
            (anew.servers[0].before, &*anew.servers[0].own),
            (200, &[60][..])
        );
        // One that took its state from a file has weir's weight, and not the one before.
        let kept = socket.plan(2, &weights(30), 300);
        assert_eq!(kept.servers[0].before, 100);
    }

    #[test]
    fn a_weight_that_cannot_be_divided_is_told() {
        let mut socket = socket();
        let coarse = socket.plan(1, &weights(1), 300);
        let told = socket.complain(&coarse, 300).unwrap_err().to_string();
        assert!(told.contains("`weight 100`"), "{told}");
        let fine = socket.plan(1, &weights(100), 305);
        socket.complain(&fine, 305).unwrap();
    }
}

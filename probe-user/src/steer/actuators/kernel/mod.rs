//! The gate in this host's kernel: a share of the new connections goes to another local listener,
//! new sessions are capped. What is established stays where it is.
//!
//! That it is neutral once the lease is over is the programs' own doing; that it is when the daemon
//! is gone, the kernel's.

mod plan;
mod settings;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::{Actuator, Lease};
use crate::kernel::gate::{Counted, Counts, Family, Gate, Options, listener, now_boot_ns};
use crate::steer::Position;

pub use plan::{Refusal, refusals};
pub use settings::{Dealing, KernelGate, Served};

/// The kernel gate follows the position but for this, which it cannot.
#[derive(Debug, thiserror::Error)]
#[error("the kernel gate cannot follow {}", told(.0))]
pub struct Refused(pub Vec<Refusal>);

fn told(refusals: &[Refusal]) -> String {
    let told = refusals
        .iter()
        .map(|one| format!("{}: {}", one.scope, one.why));
    told.collect::<Vec<_>>().join("; ")
}

/// A listener that connections are turned to.
#[derive(Debug)]
struct Other {
    address: SocketAddr,
    /// What the kernel calls the socket that the programs have.
    given: Option<u64>,
    /// Why they have none.
    missing: Option<String>,
}

/// The kernel gate.
#[derive(Debug)]
pub struct Kernel {
    name: String,
    gate: Gate,
    services: Vec<Served>,
    others: Vec<Other>,
    newest_generation: u64,
}

impl Kernel {
    /// Puts the programs into the kernel, in this network namespace, and looks for the other
    /// listeners; neutral until told otherwise.
    ///
    /// # Errors
    /// This kernel, or want of a privilege, does not allow it. A listener that is not there is
    /// none: it may come.
    pub async fn open(name: &str, settings: &KernelGate, services: &[Served]) -> Result<Self> {
        let gate = Gate::load(&Options {
            by_connection: settings.by == Dealing::Connection,
            hash_key: hash_key(),
            congestion_control: settings.congestion_control.clone(),
        })
        .with_context(|| format!("the gate {name}"))?;
        let others = settings.others.iter().map(|address| Other {
            address: *address,
            given: None,
            missing: None,
        });
        let mut kernel = Self {
            name: name.to_owned(),
            gate,
            services: settings.served(services),
            others: others.collect(),
            newest_generation: 0,
        };
        kernel.look().await;
        Ok(kernel)
    }

    /// What it has counted, by port and prefix; and what rules counted that are not told apart any
    /// more.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn counts(&self) -> Result<(Vec<Counted>, Counts)> {
        self.gate.counts()
    }

    /// Which of the other listeners are not there, and why. Their clients pass.
    pub fn missing(&self) -> impl Iterator<Item = (SocketAddr, &str)> {
        let others = self.others.iter();
        others.filter_map(|other| Some((other.address, other.missing.as_deref()?)))
    }

    /// Why sessions cannot be capped here; none: they can.
    pub fn uncapped(&self) -> Option<&str> {
        self.gate.uncapped()
    }

    /// The programs.
    pub fn programs(&self) -> &Gate {
        &self.gate
    }

    /// Looks whether the other listeners are still those that the programs have, and gives them the
    /// new ones: a server that was restarted has another.
    async fn look(&mut self) {
        let known: Vec<_> = self
            .others
            .iter()
            .map(|other| (other.address, other.given))
            .collect();
        // On a host with many processes it takes a while.
        let seen = tokio::task::spawn_blocking(move || look_for(&known)).await;
        // It does not panic, and if it did: nothing has become known.
        let seen = seen.unwrap_or_default();
        for (other, seen) in self.others.iter_mut().zip(seen) {
            let family = Family::of(other.address);
            let outcome = match seen {
                Seen::Same => continue,
                Seen::New(cookie, socket) => self
                    .gate
                    .set_other(family, Some(&socket))
                    .map(|()| cookie)
                    .map_err(|err| format!("{err:#}")),
                Seen::Missing(why) => Err(why),
            };
            match outcome {
                Ok(cookie) => {
                    tracing::info!(gate = self.name, other = %other.address, "connections can be turned");
                    other.given = Some(cookie);
                    other.missing = None;
                }
                Err(why) => {
                    if other.missing.as_ref() != Some(&why) {
                        tracing::warn!(gate = self.name, "clients pass the gate: {why}");
                    }
                    // What is left of it may be another's by now.
                    let _ = self.gate.set_other(family, None);
                    other.given = None;
                    other.missing = Some(why);
                }
            }
        }
    }
}

/// What became of a listener.
#[derive(Debug)]
enum Seen {
    Same,
    New(u64, OwnedFd),
    Missing(String),
}

fn look_for(known: &[(SocketAddr, Option<u64>)]) -> Vec<Seen> {
    let listeners = match listener::all() {
        Ok(listeners) => listeners,
        // Nothing is known of them: the programs find out by themselves what is gone.
        Err(err) => {
            tracing::warn!("the other listeners cannot be looked for: {err:#}");
            return known.iter().map(|_| Seen::Same).collect();
        }
    };
    let look = |(address, given): &(SocketAddr, Option<u64>)| {
        let Some(found) = listener::best(&listeners, *address, *given) else {
            return Seen::Missing(format!(
                "nothing listens at {address} in this network namespace"
            ));
        };
        if Some(found.cookie) == *given {
            return Seen::Same;
        }
        match listener::borrow(&found, *address) {
            Ok(socket) => Seen::New(found.cookie, socket),
            Err(err) => Seen::Missing(format!("{err:#}")),
        }
    };
    known.iter().map(look).collect()
}

/// The same clients are turned after a restart of the daemon, others after one of the host: nobody is
/// always the first to go.
fn hash_key() -> [u64; 2] {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digest = Sha256::digest(format!("weir kernel gate {}", boot.trim()));
    let mut words = digest.chunks_exact(8).map(|chunk| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    [words.next().unwrap_or(0), words.next().unwrap_or(0)]
}

impl Actuator for Kernel {
    fn name(&self) -> &str {
        &self.name
    }

    async fn acquire(&mut self, position: &Position, lease: Lease) -> Result<()> {
        if position.generation < self.newest_generation {
            bail!(
                "position {} is older than {}, which the gate has heard of",
                position.generation,
                self.newest_generation
            );
        }
        if lease.until_boot_ns <= now_boot_ns() {
            bail!("the lease is over before it began");
        }
        let rules = plan::rules(position, &self.services);
        if rules.iter().any(|rule| rule.turned_permille > 0) {
            if self.others.iter().any(|other| other.given.is_none()) {
                self.look().await;
            }
            if self.others.iter().all(|other| other.given.is_none()) {
                let why: Vec<_> = self.missing().map(|(_, why)| why).collect();
                bail!("nobody can be turned anywhere: {}", why.join("; "));
            }
        }
        self.gate.turn(&rules, lease.until_boot_ns)?;
        self.newest_generation = position.generation;
        // What can be followed is: who may set a cell takes nothing from what the host has.
        let refused = plan::refusals(position);
        if !refused.is_empty() {
            return Err(Refused(refused).into());
        }
        Ok(())
    }

    async fn renew(&mut self, lease: Lease) -> Result<()> {
        self.gate.hold(lease.until_boot_ns)?;
        self.look().await;
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        self.gate.open();
        Ok(())
    }
}

//! Content steering: players ask every few seconds which host they shall fetch from, and the answer
//! sends so many of them elsewhere as the position says.
//!
//! The server in front of weir answers with a neutral manifest of its own when weir does not
//! (docs/gates-content.md): what a player was told last, it keeps, and weir cannot take it back when
//! it is dead.

mod answer;
mod choice;
mod held;
mod manifest;
mod request;
mod server;
pub mod settings;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use anyhow::{Context as _, Result, bail};

use self::answer::Steered;
use self::held::Held;
use self::server::Server;
use self::settings::ContentGate;
use super::{Actuator, Lease, clock};
use crate::steer::Position;

pub use self::answer::Counts;

/// The gate, and the server behind which it stands.
#[derive(Debug)]
pub struct ContentSteering {
    name: String,
    steered: Arc<Steered>,
    server: Server,
}

impl ContentSteering {
    /// Listens where the settings say, and answers from now on, neutrally. `service`: of which it is
    /// the gate, if not of all.
    ///
    /// # Errors
    /// The address is taken, or not this host's.
    pub fn start(name: &str, service: Option<&str>, settings: ContentGate) -> Result<Self> {
        let listener = TcpListener::bind(settings.listen).with_context(|| {
            format!(
                "cannot listen on {} (steer.gate.listen of {name})",
                settings.listen
            )
        })?;
        Self::behind(listener, name, service, settings)
    }

    /// As [`Self::start`], with a socket that listens already, in whichever namespace.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn behind(
        listener: TcpListener,
        name: &str,
        service: Option<&str>,
        settings: ContentGate,
    ) -> Result<Self> {
        let steered = Arc::new(Steered::new(settings, Held::new(service)));
        let server = Server::start(listener, Arc::clone(&steered), server::Patience::default())
            .with_context(|| format!("cannot start the gate {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            steered,
            server,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What it has answered since its start.
    pub fn counts(&self) -> Counts {
        self.steered.counts()
    }

    fn held(&self) -> Result<RwLockWriteGuard<'_, Held>> {
        if self.server.is_over() {
            bail!(
                "{}: nobody answers at {} any more; restart weir",
                self.name,
                self.address()
            );
        }
        let held = self.steered.held.write();
        Ok(held.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Actuator for ContentSteering {
    fn name(&self) -> &str {
        &self.name
    }

    async fn acquire(&mut self, position: &Position, lease: Lease) -> Result<()> {
        let held = self.held()?.acquire(position, lease);
        held.with_context(|| self.name.clone())
    }

    async fn renew(&mut self, lease: Lease) -> Result<()> {
        let held = self.held()?.renew(lease, clock::boot_ns());
        held.with_context(|| self.name.clone())
    }

    async fn release(&mut self) -> Result<()> {
        self.held()?.release();
        Ok(())
    }
}

#[cfg(test)]
mod tests;

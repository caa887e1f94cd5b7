//! One gate of whatever kind, and making it from its settings.

use anyhow::{Result, ensure};

use super::content::ContentSteering;
use super::guard::Guard;
use super::kernel::Kernel;
use super::settings::{self, GateSettings, Served, Serves, Way};
use super::told::Told;
use super::{Actuator, Lease, haproxy};
use crate::steer::Position;

/// A gate.
#[derive(Debug)]
pub enum Gate {
    HaproxyAgent(haproxy::Agent),
    HaproxySocket(haproxy::Socket),
    Hook(Told<settings::Hook>),
    Webhook(Told<settings::Webhook>),
    File(Told<settings::File>),
    Content(ContentSteering),
    Kernel(Box<Kernel>),
}

impl Gate {
    /// Makes one that holds nothing yet; to be called within a runtime. `generation` is the newest
    /// that this host has told before: what is told next to commands, URLs and files is newer.
    /// `services`: all of the configuration.
    ///
    /// # Errors
    /// An address is taken, or this kernel or want of a privilege does not allow it.
    pub async fn open(
        settings: &GateSettings,
        guard: &Guard,
        generation: u64,
        services: &[Served],
    ) -> Result<Self> {
        let (name, serves) = (settings.name.as_str(), settings.serves.clone());
        Ok(match settings.way.clone() {
            Way::HaproxyAgent(way) => {
                Self::HaproxyAgent(haproxy::Agent::open(way, name, serves, guard))
            }
            Way::HaproxySocket(way) => {
                Self::HaproxySocket(haproxy::Socket::open(way, name, serves, guard))
            }
            Way::Hook(way) => Self::Hook(Told::open(way, name, serves, guard, generation)),
            Way::Webhook(way) => Self::Webhook(Told::open(way, name, serves, guard, generation)),
            Way::File(way) => Self::File(Told::open(way, name, serves, guard, generation)),
            Way::Content(way) => {
                let service = match &serves {
                    Serves::Host => None,
                    Serves::Service(name) => Some(name.as_str()),
                };
                Self::Content(ContentSteering::start(name, service, way)?)
            }
            Way::Kernel(way) => {
                let served = way.served(services);
                ensure!(!served.is_empty(), "the gate {name} has no service to turn");
                Self::Kernel(Box::new(Kernel::open(name, &way, &served).await?))
            }
        })
    }
}

/// The same call of whichever it is.
macro_rules! of_each {
    ($gate:expr, $own:ident => $call:expr) => {
        match $gate {
            Gate::HaproxyAgent($own) => $call,
            Gate::HaproxySocket($own) => $call,
            Gate::Hook($own) => $call,
            Gate::Webhook($own) => $call,
            Gate::File($own) => $call,
            Gate::Content($own) => $call,
            Gate::Kernel($own) => $call,
        }
    };
}

impl Actuator for Gate {
    fn name(&self) -> &str {
        of_each!(self, own => own.name())
    }

    async fn acquire(&mut self, position: &Position, lease: Lease) -> Result<()> {
        of_each!(self, own => own.acquire(position, lease).await)
    }

    async fn renew(&mut self, lease: Lease) -> Result<()> {
        of_each!(self, own => own.renew(lease).await)
    }

    async fn release(&mut self) -> Result<()> {
        of_each!(self, own => own.release().await)
    }

    fn take_said(&mut self) -> Option<String> {
        of_each!(self, own => own.take_said())
    }
}

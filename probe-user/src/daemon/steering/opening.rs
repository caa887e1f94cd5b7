//! The configured gates. Each is opened when it is first called, and again if that failed: an address
//! that is taken or a kernel that refuses costs this gate, and neither the others nor the measuring.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use super::gates::Gate;
use crate::config::Config;
use crate::daemon::measuring::KillSwitch;
use crate::steer::Position;
use crate::steer::actuators::settings::{GateSettings, Served};
use crate::steer::actuators::{self, Actuator, Guard, Lease};

/// The gates that `config` names, behind one guard.
pub fn open_gates(config: &Config) -> Vec<Gate> {
    let guard = Guard::default();
    let services: Arc<[Served]> = config.served().into();
    let gates = config.steer.gates.iter().map(|settings| {
        let lease = Duration::from_secs(settings.lease_s.into());
        let opening = Opening {
            settings: settings.clone(),
            guard: guard.clone(),
            services: Arc::clone(&services),
            switch: KillSwitch::new(&config.kill_switch),
            generation: 0,
            gate: None,
        };
        Gate::new(opening, lease)
    });
    gates.collect()
}

/// A gate that is opened when it has to be.
#[derive(Debug)]
struct Opening {
    settings: GateSettings,
    guard: Guard,
    services: Arc<[Served]>,
    switch: KillSwitch,
    generation: u64,
    gate: Option<actuators::Gate>,
}

impl Opening {
    async fn opened(&mut self) -> Result<&mut actuators::Gate> {
        let gate = if let Some(gate) = self.gate.take() {
            gate
        } else {
            let (settings, services) = (&self.settings, &self.services);
            actuators::Gate::open(settings, &self.guard, self.generation, services).await?
        };
        Ok(self.gate.insert(gate))
    }
}

impl Actuator for Opening {
    fn name(&self) -> &str {
        &self.settings.name
    }

    async fn acquire(&mut self, position: &Position, lease: Lease) -> Result<()> {
        self.opened().await?.acquire(position, lease).await
    }

    async fn renew(&mut self, lease: Lease) -> Result<()> {
        match &mut self.gate {
            Some(gate) => gate.renew(lease).await,
            None => bail!("it holds nothing that could be renewed"),
        }
    }

    async fn release(&mut self) -> Result<()> {
        let is_off = self.switch.is_on();
        if is_off && self.gate.is_none() {
            return Ok(());
        }
        self.opened().await?.release().await?;
        if is_off {
            // Off this host, with all that it put there.
            self.gate = None;
        }
        Ok(())
    }

    fn begin_after(&mut self, generation: u64) {
        self.generation = generation;
    }

    fn take_said(&mut self) -> Option<String> {
        self.gate.as_mut().and_then(Actuator::take_said)
    }
}

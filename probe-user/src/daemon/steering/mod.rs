//! The decider: the one task that owns what is decided and ordered, its journal and the gates.
//!
//! It has a thread of its own, so that neither measuring nor whoever asks waits for it. What it does
//! is written down first, by a thread that may wait for the disk; the gates have tasks of their own.

mod centre;
mod clock;
mod decider;
mod gates;
mod keeper;
mod numbers;
mod opening;
mod orders;
mod resume;
mod status;
mod verdicts;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_proto::v1;

pub(super) use self::centre::obey;
use self::clock::Clock;
use self::decider::{Decider, WrittenFirst};
pub use self::gates::Gate;
use self::gates::{Gates, SILENCE};
use self::keeper::Keeper;
pub use self::opening::open_gates;
use super::measuring::KillSwitch;
use crate::config::{Config, Steer};
use crate::query::Query;
use crate::query::steering::Ask;
pub use crate::query::steering::Orders;
use crate::steer::journal::Bound;
use crate::steer::overrides::roles::Roles;
use crate::steer::policy::Rules;
use crate::uplink::{HotEvent, Queue};

/// Makes the gates that a configuration names.
pub type MakeGates = Box<dyn Fn(&Config) -> anyhow::Result<Vec<Gate>> + Send + Sync>;

/// What a changed configuration says of steering.
#[derive(Debug)]
pub(super) struct NewRules {
    rules: Rules,
    roles: Roles,
    bound: Bound,
}

impl NewRules {
    /// # Errors
    /// This host does not have a user that a role names.
    pub(super) fn of(steer: &Steer) -> anyhow::Result<Self> {
        Ok(Self {
            rules: steer.rules.clone(),
            roles: steer.roles()?,
            bound: steer.journal_bound(),
        })
    }
}

/// What reaches the decider, and whom it asks and tells.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) asks: mpsc::Receiver<Ask>,
    /// An alarm was raised, or has cleared.
    pub(super) alarmed: Arc<Notify>,
    pub(super) core: mpsc::Sender<Query>,
    /// None without a collector.
    pub(super) events: Option<Arc<Queue<HotEvent>>>,
    /// Where the centre hears how the gate stands.
    pub(super) gate: watch::Sender<Option<v1::GateWord>>,
    pub(super) stop: CancellationToken,
}

/// The running decider.
#[derive(Debug)]
pub(super) struct Steering {
    pub(super) task: JoinHandle<anyhow::Result<()>>,
    pub(super) rules: mpsc::Sender<NewRules>,
    /// The task's end was heard of.
    pub(super) is_over: bool,
}

impl Steering {
    /// Waits until every gate was let go.
    pub(super) async fn ended(self) {
        if !self.is_over
            && let Err(err) = self.task.await
        {
            tracing::error!("the decider failed: {err}");
        }
    }
}

/// Takes up the orders that still hold, gives each gate its task, and decides until it is stopped;
/// then every gate is let go.
///
/// # Errors
/// There is no thread or no clock to be had, or a role names nobody.
pub(super) fn start(
    config: &Config,
    gates: Vec<Gate>,
    switch: KillSwitch,
    ends: Ends,
) -> anyhow::Result<Steering> {
    let steer = config.steer.clone();
    let rules = NewRules::of(&steer)?;
    let clock = Clock::new()?;
    warn_of_what_is_missing(&steer, gates.len());
    let keeper = Keeper::start(steer.journal_file.as_deref(), steer.journal_bound())?;
    let (rules_to, new_rules) = mpsc::channel(1);
    // Gates may do what they like with the daemon's own threads, and not hold up this one.
    let for_gates = Handle::current();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the decider")?;
    let (ended_to, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("weir-steer".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let now = clock.now();
                let file: Option<PathBuf> = keeper.has_journal().then(|| keeper.file().into());
                let resumed = resume::resume(file.as_deref(), &now);
                let generation = resumed.state.position.generation;
                let gates = Gates::start(gates, generation, SILENCE, &for_gates);
                let decider = Decider::new(rules, clock, keeper, gates, switch, ends);
                decider.run(resumed, new_rules).await;
            });
            // Fails only if nobody waits any more.
            let _ = ended_to.send(());
        })
        .context("cannot start the decider's thread")?;
    let task = tokio::spawn(async move {
        ended.await.context("the decider's thread panicked")?;
        Ok(())
    });
    Ok(Steering {
        task,
        rules: rules_to,
        is_over: false,
    })
}

fn warn_of_what_is_missing(steer: &Steer, gates: usize) {
    let rules = &steer.rules;
    let armed = rules.policies.iter().filter(|own| own.is_armed).count();
    if !rules.policies.is_empty() {
        tracing::info!(
            armed = rules.is_armed,
            policies = rules.policies.len(),
            armed_policies = armed,
            gates,
            "steering: {}",
            if rules.is_armed && armed > 0 {
                "armed policies move the gates"
            } else {
                "advice only"
            }
        );
    }
    if rules.is_armed && gates == 0 {
        tracing::warn!(
            "steering is armed and there is no gate: what is decided is written down and moves \
             nothing"
        );
    }
}

#[cfg(test)]
mod tests;

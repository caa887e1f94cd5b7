//! Gates that are told the whole position, by whatever means: a command, a URL, a file. What they have
//! in common: notices in order, the guard told first how to undo them, the end written into each.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::guard::{Guard, Guarded, Over, Plan};
use super::notice::{Cause, Notice};
use super::settings::Serves;
use super::{Actuator, Lease};
use crate::steer::Position;

/// How a notice gets there.
pub(super) trait Means: Clone + Send + Sync {
    /// Tells it, and gives back what was answered, if anything can be. `guarded` is there where the
    /// gate's holder tells and not its guard.
    fn tell(
        &self,
        notice: &Notice,
        guarded: Option<&mut Guarded>,
    ) -> impl Future<Output = Result<Option<String>>> + Send;

    /// Whether it is also told that a position holds for longer.
    fn tells_renewals(&self) -> bool;

    fn plan(end: Undo<Self>) -> Plan;
}

/// What ends a generation; the guard's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo<M> {
    means: M,
    gate: String,
    generation: u64,
    decision: String,
}

#[expect(private_bounds, reason = "the means are those of this room")]
impl<M: Means> Undo<M> {
    pub(super) async fn tell(&self, cause: Cause) -> Result<()> {
        let notice = Notice::neutral(&self.gate, self.generation, &self.decision, cause);
        self.means.tell(&notice, None).await.map(drop)
    }
}

#[derive(Debug)]
struct Held {
    position: Position,
    /// Of the latest notice.
    sequence: u32,
}

/// The actuator.
#[derive(Debug)]
pub struct Told<M> {
    means: M,
    serves: Serves,
    guarded: Guarded,
    held: Option<Held>,
    /// The newest generation that was told, also by a process before this one.
    generation: u64,
    decision: String,
    said: Option<String>,
}

impl<M> Told<M> {
    /// `generation`: the newest that this host has told before.
    pub fn open(means: M, name: &str, serves: Serves, guard: &Guard, generation: u64) -> Self {
        Self {
            means,
            serves,
            guarded: guard.of_gate(name),
            held: None,
            generation,
            decision: String::new(),
            said: None,
        }
    }
}

#[expect(private_bounds, reason = "the means are those of this room")]
impl<M: Means> Told<M> {
    fn undo(&self) -> Undo<M> {
        Undo {
            means: self.means.clone(),
            gate: self.guarded.gate().to_owned(),
            generation: self.generation,
            decision: self.decision.clone(),
        }
    }

    fn note(&mut self, position: &Position) {
        self.generation = position.generation;
        self.decision.clone_from(&position.decision);
    }

    async fn turn(&mut self, position: &Position, lease: Lease, sequence: u32) -> Result<()> {
        let cause = match sequence {
            0 => Cause::Turned,
            _ => Cause::Renewed,
        };
        let gate = self.guarded.gate().to_owned();
        let notice = Notice::of(&gate, &self.serves, position, lease, cause, sequence);
        self.held = Some(Held {
            position: position.clone(),
            sequence,
        });
        let told = self.means.tell(&notice, Some(&mut self.guarded)).await;
        // Asked also where it failed: it may have been heard all the same, and after the guard.
        if let Err(err) = self.guarded.confirm().await {
            self.held = None;
            self.undo().tell(Cause::LeaseOver).await?;
            return Err(err);
        }
        self.said = told?;
        Ok(())
    }
}

impl<M: Means> Actuator for Told<M> {
    fn name(&self) -> &str {
        self.guarded.gate()
    }

    async fn acquire(&mut self, position: &Position, lease: Lease) -> Result<()> {
        self.note(position);
        if position.is_neutral() {
            return self.release().await;
        }
        let plan = M::plan(self.undo());
        self.guarded.hold(lease, plan, None).await?;
        self.turn(position, lease, 0).await
    }

    async fn renew(&mut self, lease: Lease) -> Result<()> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        let (position, sequence) = (held.position.clone(), held.sequence + 1);
        let plan = M::plan(self.undo());
        let renewed = self.guarded.renew(lease, plan, None).await;
        if renewed.as_ref().is_err_and(anyhow::Error::is::<Over>) {
            self.held = None;
        }
        renewed?;
        if self.means.tells_renewals() {
            return self.turn(&position, lease, sequence).await;
        }
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        let gate = self.guarded.gate().to_owned();
        let notice = Notice::neutral(&gate, self.generation, &self.decision, Cause::Released);
        self.said = self.means.tell(&notice, Some(&mut self.guarded)).await?;
        self.held = None;
        self.guarded.free().await
    }

    fn take_said(&mut self) -> Option<String> {
        self.said.take()
    }
}

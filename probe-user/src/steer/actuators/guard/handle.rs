//! The holder's side: starting a guard, and telling it what to undo.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Plan;
use super::channel::{Answer, Ask, Channel, Numbered, Running, pair};
use crate::steer::actuators::Lease;
use crate::steer::actuators::child::with_nothing_of_ours;

/// What starts a guard: the hidden command of this same program.
const COMMAND: &str = "gate-guard";
/// The guard is on this host and does nothing else.
const PATIENCE: Duration = Duration::from_secs(5);

/// One guard for all gates of this process; started when the first is turned. Clones are the same.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Mutex<State>>);

/// Starts a guard with its end of the channel.
type Start = fn(OwnedFd) -> io::Result<()>;

#[derive(Debug)]
struct State {
    start: Start,
    channel: Option<Channel>,
    /// Counts the guards that were started: one that replaces another knows of nothing.
    incarnation: u64,
    number: u64,
}

impl Default for Guard {
    fn default() -> Self {
        Self::started_by(start_process)
    }
}

/// The program that is running, also where its file has been replaced meanwhile.
fn start_process(theirs: OwnedFd) -> io::Result<()> {
    // Never waited for: it outlives this process, or becomes init's business when it ends first. A
    // guard that has ended stays a zombie until then, which is one process table entry.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("weir").arg(COMMAND);
    command.stdin(Stdio::from(theirs)).stdout(Stdio::null());
    with_nothing_of_ours(command.current_dir("/"))
        .spawn()
        .map(drop)
}

impl Guard {
    pub(super) fn started_by(start: Start) -> Self {
        Self(Arc::new(Mutex::new(State {
            start,
            channel: None,
            incarnation: 0,
            number: 0,
        })))
    }

    /// What one gate says to it.
    pub(in crate::steer::actuators) fn of_gate(&self, gate: &str) -> Guarded {
        Guarded {
            guard: self.clone(),
            gate: gate.to_owned(),
            incarnation: 0,
        }
    }
}

#[cfg(test)]
impl Guard {
    /// One that is a task of this process: nothing of it is another but who makes it neutral when this
    /// process ends.
    pub(in crate::steer::actuators) fn in_process() -> Self {
        Self::started_by(|theirs| {
            tokio::spawn(super::process::serve(theirs));
            Ok(())
        })
    }
}

impl State {
    /// Asks, and starts a guard if there is none and `or_start`. None: there is none.
    async fn ask(
        &mut self,
        ask: Ask,
        fd: Option<BorrowedFd<'_>>,
        or_start: bool,
    ) -> Result<Option<Answer>> {
        if self.channel.is_none() {
            if !or_start {
                return Ok(None);
            }
            self.start().await?;
        }
        let Some(channel) = &self.channel else {
            return Ok(None);
        };
        // A number of its own, so that who stopped waiting for an answer leaves it to nobody else.
        self.number += 1;
        let number = self.number;
        let asked = async {
            let ask = Numbered {
                number,
                message: ask,
            };
            channel.send(&ask, fd).await?;
            answer(channel, number).await
        };
        let answer = timeout(PATIENCE, asked).await;
        let answer = answer.map_err(|_| anyhow!("it has not answered within {PATIENCE:?}"));
        let answer = answer.and_then(|answer| answer);
        if answer.is_err() {
            // Closed, so that a guard that is there still makes everything neutral.
            self.channel = None;
        }
        answer
            .map(Some)
            .context("the guard of the gates is gone, and they are neutral")
    }

    async fn start(&mut self) -> Result<()> {
        let (ours, theirs) = pair().context("cannot make a channel to a guard")?;
        (self.start)(theirs).context("cannot start a guard, without which no gate is turned")?;
        let channel = Channel::new(ours)?;
        let ready = timeout(PATIENCE, answer(&channel, 0)).await;
        let ready = ready.map_err(|_| anyhow!("it has said nothing within {PATIENCE:?}"));
        match ready.and_then(|ready| ready).context("no guard came up")? {
            Answer::Ready => {}
            other => bail!("the guard began with {other:?}"),
        }
        self.channel = Some(channel);
        self.incarnation += 1;
        Ok(())
    }
}

/// The answer to `number`; those to what nobody waits for any more are passed over.
async fn answer(channel: &Channel, number: u64) -> Result<Answer> {
    loop {
        let Some((answer, _)) = channel.receive::<Answer>().await? else {
            bail!("it has ended");
        };
        if answer.number == number {
            return Ok(answer.message);
        }
    }
}

/// The lease was over before it was renewed, or its guard was replaced: the gate is neutral.
#[derive(Debug, thiserror::Error)]
#[error("the gate went back to neutral before it was renewed or wholly turned; turn it anew")]
pub(in crate::steer::actuators) struct Over;

/// What one gate says to the guard.
#[derive(Clone, Debug)]
pub(in crate::steer::actuators) struct Guarded {
    guard: Guard,
    gate: String,
    /// Of the guard that was told of it.
    incarnation: u64,
}

impl Guarded {
    pub(in crate::steer::actuators) fn gate(&self) -> &str {
        &self.gate
    }

    /// To be called before the gate is turned. `fd` goes with the plan that needs one.
    pub(in crate::steer::actuators) async fn hold(
        &mut self,
        lease: Lease,
        plan: Plan,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let ask = self.to_hold(lease, plan, false);
        let mut state = self.guard.0.lock().await;
        let answer = state.ask(ask, fd, true).await?;
        self.incarnation = state.incarnation;
        done(answer)
    }

    /// The same plan until another end.
    pub(in crate::steer::actuators) async fn renew(
        &mut self,
        lease: Lease,
        plan: Plan,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let ask = self.to_hold(lease, plan, true);
        self.tell(ask, fd).await
    }

    fn to_hold(&self, lease: Lease, plan: Plan, is_renewal: bool) -> Ask {
        Ask::Hold {
            gate: self.gate.clone(),
            until_boot_ns: lease.until_boot_ns,
            plan,
            is_renewal,
        }
    }

    /// To be called when the gate has been turned: if the guard undid it in the middle, whoever turned
    /// it has to undo the rest.
    pub(in crate::steer::actuators) async fn confirm(&mut self) -> Result<()> {
        let gate = self.gate.clone();
        self.tell(Ask::Confirm { gate }, None).await
    }

    /// To be called when the gate is neutral again.
    pub(in crate::steer::actuators) async fn free(&mut self) -> Result<()> {
        let gate = self.gate.clone();
        self.tell_if_there(Ask::Free { gate }).await
    }

    /// The guard is to make the gate neutral.
    pub(in crate::steer::actuators) async fn restore(&mut self) -> Result<()> {
        let gate = self.gate.clone();
        self.tell_if_there(Ask::Restore { gate }).await
    }

    /// Which command turns the gate just now, so that it does not go on after the gate was made
    /// neutral.
    pub(in crate::steer::actuators) async fn running(
        &mut self,
        child: Option<Running>,
    ) -> Result<()> {
        let gate = self.gate.clone();
        self.tell_if_there(Ask::Running { gate, child }).await
    }

    async fn tell(&mut self, ask: Ask, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut state = self.guard.0.lock().await;
        if state.incarnation != self.incarnation {
            return Err(Over.into());
        }
        done(state.ask(ask, fd, false).await?)
    }

    /// Without a guard nothing is held, and there is nothing to say.
    async fn tell_if_there(&mut self, ask: Ask) -> Result<()> {
        match self.tell(ask, None).await {
            Err(err) if err.is::<Over>() => Ok(()),
            other => other,
        }
    }
}

fn done(answer: Option<Answer>) -> Result<()> {
    match answer {
        Some(Answer::Done | Answer::Ready) => Ok(()),
        Some(Answer::Over) | None => Err(Over.into()),
        Some(Answer::Refused(why)) => bail!("the guard refuses: {why}"),
    }
}

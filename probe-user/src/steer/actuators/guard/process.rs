//! The guard's side: what is held until when, and making it neutral.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::{getsid, setsid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::Plan;
use super::channel::{Answer, Ask, Channel, Numbered, Running};
use crate::steer::actuators::clock;
use crate::steer::actuators::hook;
use crate::steer::actuators::notice::Cause;

/// Gates of one host.
pub const MAX_GATES: usize = 64;
/// The clock that leases run by goes on in suspend and timers do not: look so often.
const LOOK: Duration = Duration::from_millis(250);

/// The process: from its start, with the channel as standard input, to its end.
pub fn run() -> Result<()> {
    // What ends the holder's group or terminal is not to end this one, whose work begins then. A
    // session leader's own start is no error.
    setsid()
        .or_else(|_| getsid(None))
        .context("cannot have a session of its own")?;
    // It is named after a link, and would be called `exe`.
    let _ = nix::sys::prctl::set_name(c"weir-gate-guard");
    let channel = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("no channel")?;
    drop_stdin()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the guard")?;
    runtime.block_on(async {
        // Heard and not obeyed. (Ignored, they would be so for the commands that it runs.)
        let _kept = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ]
        .map(signal);
        serve(channel).await
    })
}

/// Nobody but the channel's one owner may keep the holder's end from being seen.
fn drop_stdin() -> Result<()> {
    let null = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
    nix::unistd::dup2_stdin(null).context("cannot close the standard input")?;
    Ok(())
}

#[derive(Debug)]
enum Phase {
    Held,
    Restoring(AbortHandle),
    Neutral,
}

#[derive(Debug)]
struct Gate {
    until_boot_ns: u64,
    plan: Plan,
    fd: Option<OwnedFd>,
    running: Option<Running>,
    phase: Phase,
}

#[derive(Debug, Default)]
struct Gates {
    gates: HashMap<String, Gate>,
    tasks: JoinSet<(String, Result<()>)>,
}

/// Serves one holder, until it is gone and all that it held is neutral.
pub(super) async fn serve(channel: OwnedFd) -> Result<()> {
    let channel = Channel::new(channel).context("standard input is no channel of a guard")?;
    let mut gates = Gates::default();
    reply(&channel, 0, Answer::Ready).await?;
    loop {
        let (has_held, until_next) = (gates.has_held(), gates.until_next());
        tokio::select! {
            biased;
            received = channel.receive::<Ask>() => match received {
                Ok(Some((ask, fd))) => {
                    let answer = gates.answer(ask.message, fd);
                    if reply(&channel, ask.number, answer).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(err) => {
                    say(format_args!("cannot understand the holder: {err}"));
                    break;
                }
            },
            Some(done) = gates.tasks.join_next_with_id() => gates.finish(done),
            () = tokio::time::sleep(until_next), if has_held => gates.end_leases(),
        }
    }
    drop(channel);
    gates.end_all();
    while let Some(done) = gates.tasks.join_next_with_id().await {
        gates.finish(done);
    }
    Ok(())
}

async fn reply(channel: &Channel, number: u64, message: Answer) -> io::Result<()> {
    channel.send(&Numbered { number, message }, None).await
}

/// Standard error may be closed by now, which is no reason to fail.
fn say(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "weir: guard of the gates: {what}");
}

impl Gates {
    fn answer(&mut self, ask: Ask, fd: Option<OwnedFd>) -> Answer {
        match ask {
            Ask::Hold {
                gate,
                until_boot_ns,
                plan,
                is_renewal,
            } => self.hold(gate, until_boot_ns, plan, is_renewal, fd),
            Ask::Confirm { gate } => match self.gates.get(&gate) {
                Some(Gate {
                    phase: Phase::Held, ..
                }) => Answer::Done,
                _ => Answer::Over,
            },
            Ask::Free { gate } => {
                if let Some(gone) = self.gates.remove(&gate)
                    && let Phase::Restoring(task) = gone.phase
                {
                    task.abort();
                }
                Answer::Done
            }
            Ask::Restore { gate } => {
                self.restore(&gate, Cause::Released);
                Answer::Done
            }
            Ask::Running { gate, child } => {
                if let Some(gate) = self.gates.get_mut(&gate) {
                    gate.running = child;
                }
                Answer::Done
            }
        }
    }

    fn hold(
        &mut self,
        name: String,
        until_boot_ns: u64,
        plan: Plan,
        is_renewal: bool,
        fd: Option<OwnedFd>,
    ) -> Answer {
        if until_boot_ns <= clock::boot_ns() {
            return Answer::Over;
        }
        let before = self.gates.get(&name);
        if before.is_none() && self.gates.len() >= MAX_GATES {
            return Answer::Refused(format!("it guards {MAX_GATES} gates already"));
        }
        match before.map(|before| &before.phase) {
            Some(Phase::Held) => {}
            _ if is_renewal => return Answer::Over,
            Some(Phase::Restoring(task)) => {
                if !plan.can_be_stopped() {
                    let why = "the gate is still being made neutral; try again";
                    return Answer::Refused(why.to_owned());
                }
                task.abort();
            }
            Some(Phase::Neutral) | None => {}
        }
        let running = before.and_then(|before| before.running);
        let gate = Gate {
            until_boot_ns,
            plan,
            fd,
            running,
            phase: Phase::Held,
        };
        self.gates.insert(name, gate);
        Answer::Done
    }

    fn has_held(&self) -> bool {
        self.gates
            .values()
            .any(|gate| matches!(gate.phase, Phase::Held))
    }

    fn until_next(&self) -> Duration {
        let held = self
            .gates
            .values()
            .filter(|gate| matches!(gate.phase, Phase::Held));
        let next = held.map(|gate| gate.until_boot_ns).min();
        let left = next.unwrap_or(u64::MAX).saturating_sub(clock::boot_ns());
        // A millisecond more, because a timer may be early by the rounding of two clocks.
        (Duration::from_nanos(left) + Duration::from_millis(1)).min(LOOK)
    }

    fn end_leases(&mut self) {
        let now = clock::boot_ns();
        self.end(Cause::LeaseOver, |gate| gate.until_boot_ns <= now);
    }

    fn end_all(&mut self) {
        self.end(Cause::HolderGone, |_| true);
    }

    fn end(&mut self, cause: Cause, is_over: impl Fn(&Gate) -> bool) {
        let over: Vec<_> = self
            .gates
            .iter()
            .filter(|(_, gate)| matches!(gate.phase, Phase::Held) && is_over(gate))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            match cause {
                Cause::HolderGone => say(format_args!(
                    "who held {name} has ended; it is made neutral"
                )),
                _ => say(format_args!(
                    "the lease of {name} has ended; it is made neutral"
                )),
            }
            self.restore(&name, cause);
        }
    }

    fn restore(&mut self, name: &str, cause: Cause) {
        let Some(gate) = self.gates.get_mut(name) else {
            return;
        };
        if !matches!(gate.phase, Phase::Held) {
            return;
        }
        if let Some(running) = gate.running.take() {
            hook::kill(running);
        }
        let (plan, fd, name) = (gate.plan.clone(), gate.fd.take(), name.to_owned());
        let task = self.tasks.spawn(async move {
            let done = plan.restore(cause, fd).await;
            (name, done)
        });
        gate.phase = Phase::Restoring(task);
    }

    fn finish(&mut self, done: Result<(Id, (String, Result<()>)), JoinError>) {
        // One that was stopped has given way to what came after it.
        let Ok((id, (name, done))) = done else { return };
        if let Err(err) = done {
            say(format_args!("cannot make {name} neutral: {err:#}"));
        }
        if let Some(gate) = self.gates.get_mut(&name)
            && matches!(&gate.phase, Phase::Restoring(task) if task.id() == id)
        {
            gate.phase = Phase::Neutral;
        }
    }
}

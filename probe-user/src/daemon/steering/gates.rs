//! The gates: one task each, which takes whole positions, holds the newest by a lease that it renews
//! while the decider lives, and says what became of it.
//!
//! A gate that is slow, hangs or fails holds up neither the decider nor another gate.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::clock::boot_ns;
use crate::steer::Position;
use crate::steer::actuators::{Actuator, Lease};

/// An actuator has so long for one call; most take milliseconds. A longer one has failed, and what
/// it held ends by its lease.
const CALL: Duration = Duration::from_secs(5);
/// The decider says so often that it lives; after so long without, nothing is renewed.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// Reports that wait for the decider.
const REPORTS: usize = 256;
/// At the end every gate has so long to become neutral.
pub(super) const FAREWELL: Duration = Duration::from_secs(3);

type Called<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

/// [`Actuator`] as one type for all of them.
trait Turning: Send {
    fn name(&self) -> &str;
    fn acquire<'a>(&'a mut self, position: &'a Position, lease: Lease) -> Called<'a>;
    fn renew(&mut self, lease: Lease) -> Called<'_>;
    fn release(&mut self) -> Called<'_>;
    fn begin_after(&mut self, generation: u64);
    fn take_said(&mut self) -> Option<String>;
}

impl<T: Actuator> Turning for T {
    fn name(&self) -> &str {
        Actuator::name(self)
    }

    fn acquire<'a>(&'a mut self, position: &'a Position, lease: Lease) -> Called<'a> {
        Box::pin(Actuator::acquire(self, position, lease))
    }

    fn renew(&mut self, lease: Lease) -> Called<'_> {
        Box::pin(Actuator::renew(self, lease))
    }

    fn release(&mut self) -> Called<'_> {
        Box::pin(Actuator::release(self))
    }

    fn begin_after(&mut self, generation: u64) {
        Actuator::begin_after(self, generation);
    }

    fn take_said(&mut self) -> Option<String> {
        Actuator::take_said(self)
    }
}

/// One gate, and for how long it holds what it is told unless told so again.
pub struct Gate {
    actuator: Box<dyn Turning>,
    lease: Duration,
}

impl Gate {
    pub fn new(actuator: impl Actuator + 'static, lease: Duration) -> Self {
        Self {
            actuator: Box::new(actuator),
            lease,
        }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("name", &self.actuator.name())
            .field("lease", &self.lease)
            .finish()
    }
}

/// What the gates are to hold, and when the decider said so last.
#[derive(Clone, Debug)]
struct Told {
    position: Arc<Position>,
    since: Instant,
    alive_boot_ns: u64,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) gate: usize,
    pub(super) generation: u64,
    /// Until when it holds by itself; none: it holds nothing.
    pub(super) until_boot_ns: Option<u64>,
    /// From being told to holding it.
    pub(super) took: Duration,
    /// None: it holds it.
    pub(super) error: Option<String>,
    /// What was answered, where somebody answers in words.
    pub(super) said: Option<String>,
    /// Whether it is news: a lease that was renewed is none.
    pub(super) is_news: bool,
}

/// All gates of the host.
#[derive(Debug)]
pub(super) struct Gates {
    names: Vec<String>,
    told: watch::Sender<Told>,
    reports: mpsc::Receiver<Report>,
    tasks: Vec<JoinHandle<()>>,
}

impl Gates {
    /// Gives each its task, on `runtime`. All begin neutral, at `generation`. Of a decider that was
    /// silent for `silence` no lease is renewed.
    pub(super) fn start(
        gates: Vec<Gate>,
        generation: u64,
        silence: Duration,
        runtime: &Handle,
    ) -> Self {
        let position = Position {
            generation,
            ..Position::default()
        };
        let (told_to, told) = watch::channel(Told {
            position: Arc::new(position),
            since: Instant::now(),
            alive_boot_ns: boot_ns(),
        });
        let (reports_to, reports) = mpsc::channel(REPORTS);
        let names = gates.iter().map(|gate| gate.actuator.name().to_owned());
        let names = names.collect();
        let tasks = gates.into_iter().enumerate().map(|(at, mut gate)| {
            gate.actuator.begin_after(generation);
            let holder = Holder {
                at,
                gate,
                told: told.clone(),
                reports: reports_to.clone(),
                held: None,
                silence,
            };
            runtime.spawn(holder.run())
        });
        Self {
            names,
            told: told_to,
            tasks: tasks.collect(),
            reports,
        }
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Tells every gate what to hold from now on.
    pub(super) fn tell(&self, position: &Position) {
        self.told.send_replace(Told {
            position: Arc::new(position.clone()),
            since: Instant::now(),
            alive_boot_ns: boot_ns(),
        });
    }

    /// Leases may be renewed.
    pub(super) fn live(&self) {
        self.told.send_if_modified(|told| {
            told.alive_boot_ns = boot_ns();
            false
        });
    }

    /// What becomes of what was told; without gates, for ever nothing.
    pub(super) async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }

    /// What was reported and not yet heard.
    pub(super) fn reported(&mut self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// Lets go of all of them: each releases what it holds, within [`FAREWELL`].
    pub(super) async fn end(&mut self) -> Vec<Report> {
        // Whoever follows it hears that there will be no more.
        let (over, _) = watch::channel(self.told.borrow().clone());
        drop(std::mem::replace(&mut self.told, over));
        let all = async {
            for task in self.tasks.drain(..) {
                // One that panicked holds nothing any more but its lease.
                let _ = task.await;
            }
        };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("a gate did not let go in time; its lease ends by itself");
        }
        let mut last = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            last.push(report);
        }
        last
    }
}

/// One gate's task.
struct Holder {
    at: usize,
    gate: Gate,
    told: watch::Receiver<Told>,
    reports: mpsc::Sender<Report>,
    /// The generation that it holds, and until when. None: it holds nothing.
    held: Option<(u64, u64)>,
    silence: Duration,
}

impl Holder {
    async fn run(mut self) {
        // What a daemon before this one left does not outlive it.
        let told = self.told.borrow_and_update().clone();
        let mut retry = !self.follow(&told).await;
        loop {
            let third = self.gate.lease / 3;
            let wait = if self.held.is_some() || retry {
                third.max(Duration::from_millis(10))
            } else {
                Duration::MAX
            };
            let told = tokio::select! {
                changed = self.told.changed() => {
                    if changed.is_err() {
                        self.let_go().await;
                        return;
                    }
                    self.told.borrow_and_update().clone()
                }
                () = pause(wait) => self.told.borrow().clone(),
            };
            retry = !self.follow(&told).await;
        }
    }

    /// Whether it holds what it should.
    async fn follow(&mut self, told: &Told) -> bool {
        let generation = told.position.generation;
        if told.position.is_neutral() {
            let was_held = self.held.is_some();
            let done = call(self.gate.actuator.release()).await;
            let is_done = done.is_ok();
            if is_done {
                self.held = None;
            }
            self.say(told, done, was_held || !is_done);
            return is_done;
        }
        // A decider that hangs cannot say that it still wants it so.
        let silent_ns = boot_ns().saturating_sub(told.alive_boot_ns);
        if Duration::from_nanos(silent_ns) > self.silence {
            self.say(
                told,
                Err(anyhow::anyhow!(
                    "the decider is silent: the lease is not renewed"
                )),
                true,
            );
            return false;
        }
        let lease = self.lease();
        let is_renewal = self.held.is_some_and(|(held, _)| held == generation);
        let done = if is_renewal {
            call(self.gate.actuator.renew(lease)).await
        } else {
            call(self.gate.actuator.acquire(&told.position, lease)).await
        };
        let is_done = done.is_ok();
        if is_done {
            self.held = Some((generation, lease.until_boot_ns));
        } else if is_renewal {
            // What it holds now is not known: it is told all of it again.
            self.held = None;
        }
        self.say(told, done, !is_renewal || !is_done);
        is_done
    }

    fn lease(&self) -> Lease {
        let ns = u64::try_from(self.gate.lease.as_nanos()).unwrap_or(u64::MAX);
        Lease {
            until_boot_ns: boot_ns().saturating_add(ns),
        }
    }

    async fn let_go(&mut self) {
        let told = self.told.borrow().clone();
        let was_held = self.held.take().is_some();
        let done = call(self.gate.actuator.release()).await;
        let is_news = was_held || done.is_err();
        let neutral = Told {
            position: Arc::new(Position {
                generation: told.position.generation,
                ..Position::default()
            }),
            since: Instant::now(),
            ..told
        };
        self.say(&neutral, done, is_news);
    }

    /// A decider that does not listen is told less, and not waited for.
    fn say(&mut self, told: &Told, done: anyhow::Result<()>, is_news: bool) {
        let report = Report {
            gate: self.at,
            generation: told.position.generation,
            until_boot_ns: self.held.map(|(_, until)| until),
            took: told.since.elapsed(),
            error: done.err().map(|err| bounded(&format!("{err:#}"))),
            said: self.gate.actuator.take_said(),
            is_news,
        };
        let _ = self.reports.try_send(report);
    }
}

async fn pause(time: Duration) {
    if time == Duration::MAX {
        std::future::pending::<()>().await;
    } else {
        tokio::time::sleep(time).await;
    }
}

async fn call(called: Called<'_>) -> anyhow::Result<()> {
    match tokio::time::timeout(CALL, called).await {
        Ok(done) => done,
        Err(_) => anyhow::bail!("it did not answer within {} s", CALL.as_secs()),
    }
}

/// What a gate says goes into the journal.
fn bounded(text: &str) -> String {
    const MOST: usize = 1024;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests;

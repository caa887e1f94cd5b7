//! What a collector asks for: a closer look for a leased time, and the ring's content.
//!
//! How many looks there are, how often, how much each tells and what the core may spend on them is
//! bounded here, whatever is asked. Answers go by a connection of their own, which is there while
//! somebody looks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::{self, Lane};

use super::lane::{Common, Made, Room, Source};
use super::link::Link;
use super::queue::Queue;
use super::ring::disk;
use super::{Commanded, HotEvent, Private};
use crate::query::selector::Selector;
use crate::query::{Drilled, Query};
use crate::tls::Connector;

/// Looks at the same time.
const MAX_SUBSCRIPTIONS: usize = 8;
const INTERVAL_MS: std::ops::RangeInclusive<u32> = 250..=10_000;
const DEFAULT_INTERVAL_MS: u32 = 1000;
const LEASE_MS: std::ops::RangeInclusive<u32> = 1000..=600_000;
const DEFAULT_LEASE_MS: u32 = 60_000;
/// Viewers, and sessions, in one answer.
const MOST: usize = 100;
const MOST_EVENTS: usize = 1000;
/// Of the core's time, looks may take one part in so many; beyond, they come less often.
const CORE_SHARE: u32 = 20;
/// Wishes, and events, that wait.
const WAITING: usize = 1024;
/// Answers that wait for the connection.
const ANSWERS: usize = 64;
/// What looks may send, in bytes per second.
const BYTES_PER_S: u32 = 512 << 10;
/// Frames in one piece of the ring.
const FRAMES_PER_PART: usize = 16;
/// How often it is seen whether there is room for the next.
const ROOM_INTERVAL: Duration = Duration::from_millis(20);

/// What the hot lane has of it.
#[derive(Debug)]
pub(super) struct Ends {
    wishes: mpsc::Sender<Down>,
    events: mpsc::Sender<HotEvent>,
    is_looked_at: Arc<AtomicBool>,
    /// To be sent on the hot lane.
    pub(super) answers: Arc<Queue<Up>>,
}

impl Ends {
    /// Passes on what the collector wants. One that wants more than can wait hears nothing of it,
    /// and asks again.
    pub(super) fn wish(&self, wish: Down) {
        let _ = self.wishes.try_send(wish);
    }

    /// Passes on events while somebody looks at them.
    pub(super) fn tap(&self, events: &[(HotEvent, std::time::Instant)]) {
        if self.is_looked_at.load(Ordering::Relaxed) {
            for (event, _) in events {
                let _ = self.events.try_send(event.clone());
            }
        }
    }
}

#[derive(Debug)]
struct Subscription {
    selector: Arc<Selector>,
    interval: Duration,
    until: Instant,
    next: Instant,
    told: Instant,
    seq: u64,
    events: Vec<v1::HotEvent>,
    left_out: u64,
}

/// All looks.
#[derive(Debug)]
pub(super) struct Drills {
    core: Option<mpsc::Sender<Query>>,
    ring: Option<PathBuf>,
    /// Who obeys the centre; none: nobody.
    commands: Option<mpsc::Sender<Commanded>>,
    common: Common,
    private: Private,
    wishes: mpsc::Receiver<Down>,
    events: mpsc::Receiver<HotEvent>,
    is_looked_at: Arc<AtomicBool>,
    answers: Arc<Queue<Up>>,
    out: Arc<Queue<Up>>,
    subscriptions: HashMap<String, Subscription>,
}

/// Both ends.
pub(super) fn new(
    core: Option<mpsc::Sender<Query>>,
    ring: Option<PathBuf>,
    commands: Option<mpsc::Sender<Commanded>>,
    common: Common,
    private: Private,
) -> (Ends, Drills) {
    let (wishes_to, wishes) = mpsc::channel(WAITING);
    let (events_to, events) = mpsc::channel(WAITING);
    let answers = Arc::new(Queue::new(ANSWERS));
    let is_looked_at = Arc::new(AtomicBool::new(false));
    let drills = Drills {
        core,
        ring,
        commands,
        common,
        private,
        wishes,
        events,
        is_looked_at: is_looked_at.clone(),
        answers: answers.clone(),
        out: Arc::new(Queue::new(ANSWERS)),
        subscriptions: HashMap::new(),
    };
    let ends = Ends {
        wishes: wishes_to,
        events: events_to,
        is_looked_at,
        answers,
    };
    (ends, drills)
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn done(task: &mut Option<Task>) {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

impl Drills {
    /// Until the core has made its last tick.
    pub(super) async fn run(mut self, connector: &Connector, finish: CancellationToken) {
        let mut link: Option<Task> = None;
        let mut link_finish = CancellationToken::new();
        let mut fetch: Option<Task> = None;
        loop {
            let is_used = !self.subscriptions.is_empty() || fetch.is_some();
            if (is_used || !self.out.is_empty()) && link.is_none() {
                link_finish = CancellationToken::new();
                let source = Looks(self.out.clone());
                let budget = Some(BYTES_PER_S);
                let common = self.common.clone();
                let one = Link::new(source, common, connector, budget, link_finish.clone());
                link = Some(Box::pin(one.keep()));
            }
            if !is_used {
                link_finish.cancel();
            }
            let next = self
                .subscriptions
                .values()
                .map(|one| one.next.min(one.until));
            let next = next.min();
            tokio::select! {
                Some(wish) = self.wishes.recv() => self.obey(wish, &mut fetch),
                Some(event) = self.events.recv() => self.take(&event),
                () = wait_until(next) => self.answer_all().await,
                () = done(&mut link) => link = None,
                () = done(&mut fetch) => fetch = None,
                () = finish.cancelled() => break,
                else => break,
            }
        }
        for id in self.subscriptions.keys().cloned().collect::<Vec<_>>() {
            self.end(&id);
        }
        link_finish.cancel();
        if let Some(link) = link {
            link.await;
        }
    }

    fn obey(&mut self, wish: Down, fetch: &mut Option<Task>) {
        match wish {
            Down::Subscribe(wish) => {
                let mut answer = v1::SubscribeAnswer {
                    id: wish.id.clone(),
                    ..v1::SubscribeAnswer::default()
                };
                match self.subscribe(wish) {
                    Ok((interval_ms, lease_ms)) => {
                        answer.interval_ms = interval_ms;
                        answer.lease_ms = lease_ms;
                    }
                    Err(why) => {
                        let refused = &self.common.counts.subscriptions.1;
                        refused.fetch_add(1, Ordering::Relaxed);
                        answer.refused = why;
                    }
                }
                self.answers.push(Up::SubscribeAnswer(answer));
            }
            Down::Unsubscribe(wish) => {
                self.subscriptions.remove(&wish.id);
                self.count();
            }
            Down::FetchRing(wish) => self.fetch(wish, fetch),
            Down::Command(command) => self.command(command),
            // Not a wish.
            Down::Welcome(_) | Down::Ack(_) | Down::Taken(_) => {}
        }
    }

    /// Hands over to who obeys. What there is no room for is said again.
    fn command(&self, command: v1::Command) {
        let refuse = |command: &v1::Command, outcome: v1::CommandOutcome, why: &str| {
            self.answers.push(Up::CommandResult(v1::CommandResult {
                id: command.id.clone(),
                number: command.number,
                outcome: outcome.into(),
                reason: why.to_owned(),
                ..v1::CommandResult::default()
            }));
        };
        let Some(commands) = &self.commands else {
            return refuse(
                &command,
                v1::CommandOutcome::Refused,
                "this host takes nothing from the centre",
            );
        };
        let answers = self.answers.clone();
        if let Err(err) = commands.try_send(Commanded { command, answers }) {
            let commanded = err.into_inner();
            refuse(
                &commanded.command,
                v1::CommandOutcome::Busy,
                "it has more to do than it can",
            );
        }
    }

    /// Returns the interval and the lease that are in force, in milliseconds.
    fn subscribe(&mut self, wish: v1::Subscribe) -> Result<(u32, u32), String> {
        let id = wish.id;
        if id.is_empty() || id.len() > 64 {
            return Err("an id has 1 to 64 bytes".to_owned());
        }
        let within = |name, value, range: std::ops::RangeInclusive<u32>, default| match value {
            0 => Ok(default),
            value if range.contains(&value) => Ok(value),
            value => Err(format!(
                "{name} = {value} is out of range: {} to {}",
                range.start(),
                range.end()
            )),
        };
        let interval_ms = within(
            "interval_ms",
            wish.interval_ms,
            INTERVAL_MS,
            DEFAULT_INTERVAL_MS,
        )?;
        let lease_ms = within("lease_ms", wish.lease_ms, LEASE_MS, DEFAULT_LEASE_MS)?;
        let now = Instant::now();
        let until = now + Duration::from_millis(lease_ms.into());
        if let Some(known) = self.subscriptions.get_mut(&id) {
            known.until = until;
            return Ok((interval_ms, lease_ms));
        }
        let selector = Selector::new(wish.selector.unwrap_or_default())?;
        if self.core.is_none() {
            return Err("this host answers no closer looks".to_owned());
        }
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(format!(
                "{MAX_SUBSCRIPTIONS} closer looks go on here already"
            ));
        }
        let subscription = Subscription {
            selector: Arc::new(selector),
            interval: Duration::from_millis(interval_ms.into()),
            until,
            next: now,
            told: now,
            seq: 0,
            events: Vec::new(),
            left_out: 0,
        };
        self.subscriptions.insert(id, subscription);
        self.count();
        Ok((interval_ms, lease_ms))
    }

    fn count(&self) {
        let count = u32::try_from(self.subscriptions.len()).unwrap_or(u32::MAX);
        let counts = &self.common.counts.subscriptions;
        counts.0.store(count, Ordering::Relaxed);
        self.is_looked_at.store(count > 0, Ordering::Relaxed);
    }

    fn take(&mut self, event: &HotEvent) {
        let message = Private::in_full(event);
        for one in self.subscriptions.values_mut() {
            if !one.selector.matches(&message) {
                continue;
            }
            if one.events.len() < MOST_EVENTS {
                one.events.push(message.clone());
            } else {
                one.left_out += 1;
            }
        }
    }

    /// Those that are due.
    async fn answer_all(&mut self) {
        let now = Instant::now();
        let due = |one: &Subscription| one.next.min(one.until) <= now;
        let ids = self.subscriptions.iter().filter(|(_, one)| due(one));
        for id in ids.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let Some(one) = self.subscriptions.get(&id) else {
                continue;
            };
            if one.until <= now {
                self.end(&id);
                continue;
            }
            let begun = Instant::now();
            let drilled = self.look(one.selector.clone()).await;
            let cost = begun.elapsed();
            if let Some(one) = self.subscriptions.get_mut(&id) {
                one.next = now + one.interval.max(cost * CORE_SHARE);
                let drill = one.drill(drilled);
                self.send(id, drill);
            }
        }
    }

    async fn look(&self, selector: Arc<Selector>) -> Drilled {
        let Some(core) = &self.core else {
            return Drilled::default();
        };
        let (reply, answer) = oneshot::channel();
        let query = Query::Drill {
            selector,
            most: MOST,
            reply,
        };
        // The core ends: then all of this does.
        if core.send(query).await.is_err() {
            return Drilled::default();
        }
        answer.await.unwrap_or_default()
    }

    fn end(&mut self, id: &str) {
        if let Some(mut one) = self.subscriptions.remove(id) {
            let mut drill = one.drill(Drilled::default());
            drill.is_last = true;
            self.send(id.to_owned(), drill);
        }
        self.count();
    }

    fn send(&self, id: String, drill: v1::Drill) {
        let hello = &self.common.hello;
        let mut drill = v1::Drill {
            id,
            host: hello.host.clone(),
            boot_id: hello.boot_id.clone(),
            ..drill
        };
        self.private.drill(&mut drill);
        self.out.push(Up::Drill(drill));
        let queue = self.out.counts();
        self.common.counts.count(Lane::Drill, |counts| {
            counts.items_made = queue.made;
            counts.items_shed = queue.shed;
        });
    }

    fn fetch(&self, wish: v1::FetchRing, fetch: &mut Option<Task>) {
        let refuse = |why: &str| {
            self.out.push(Up::RingPart(v1::RingPart {
                id: wish.id.clone(),
                host: self.common.hello.host.clone(),
                is_last: true,
                refused: why.to_owned(),
                ..v1::RingPart::default()
            }));
        };
        match &self.ring {
            _ if fetch.is_some() => refuse("the ring is being fetched already"),
            None => refuse("this host keeps no ring (collector.ring_directory)"),
            Some(directory) => {
                let host = self.common.hello.host.clone();
                let out = self.out.clone();
                *fetch = Some(Box::pin(send_ring(directory.clone(), host, wish, out)));
            }
        }
    }
}

impl Subscription {
    fn drill(&mut self, drilled: Drilled) -> v1::Drill {
        self.seq += 1;
        let now = Instant::now();
        let interval = now - std::mem::replace(&mut self.told, now);
        v1::Drill {
            seq: self.seq,
            unix_ns: drilled.unix_ns,
            interval_ms: u32::try_from(interval.as_millis()).unwrap_or(u32::MAX),
            viewers: drilled.viewers,
            sessions: drilled.sessions,
            cells: drilled.cells,
            events: std::mem::take(&mut self.events),
            left_out: self.left_out,
            ..v1::Drill::default()
        }
    }
}

/// Waits for room, so that none of it pushes out another.
async fn send_ring(directory: PathBuf, host: String, wish: v1::FetchRing, out: Arc<Queue<Up>>) {
    let until_unix_ns = match wish.until_unix_ns {
        0 => u64::MAX,
        until => until,
    };
    let part = |frames, damaged| v1::RingPart {
        id: wish.id.clone(),
        host: host.clone(),
        frames,
        damaged,
        ..v1::RingPart::default()
    };
    let mut last = v1::RingPart {
        is_last: true,
        ..part(Vec::new(), 0)
    };
    match disk::files(&directory) {
        Ok(files) => {
            for (number, _) in files {
                let directory = directory.clone();
                let read = tokio::task::spawn_blocking(move || {
                    disk::frames(&directory, number, wish.from_unix_ns, until_unix_ns)
                });
                let Ok(Ok((frames, damaged))) = read.await else {
                    last.damaged += 1;
                    continue;
                };
                last.damaged += damaged;
                for frames in frames.chunks(FRAMES_PER_PART) {
                    while out.len() > ANSWERS / 2 {
                        tokio::time::sleep(ROOM_INTERVAL).await;
                    }
                    out.push(Up::RingPart(part(frames.to_vec(), 0)));
                }
            }
        }
        Err(err) => last.refused = format!("the ring cannot be read: {err}"),
    }
    while out.len() > ANSWERS / 2 {
        tokio::time::sleep(ROOM_INTERVAL).await;
    }
    out.push(Up::RingPart(last));
}

async fn wait_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// What is sent of it.
#[derive(Debug)]
struct Looks(Arc<Queue<Up>>);

impl Source for Looks {
    const LANE: Lane = Lane::Drill;
    const TICKS_ARE_BUDGETED: bool = false;

    fn has_next(&self, room: Room) -> bool {
        room.budgeted && !self.0.is_empty()
    }

    fn next(&mut self, room: Room) -> Option<Made> {
        if !room.budgeted {
            return None;
        }
        let (mut message, since) = self.0.take(1).pop()?;
        if let Up::Drill(drill) = &mut message {
            drill.delay_us = super::hot::age_us(since);
        }
        Some(Made { message, since })
    }

    async fn hear(&mut self) {
        if self.0.is_empty() {
            self.0.ready().await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn begin(&mut self, _last_seq: u64) {}

    fn finish(&mut self) {}
}

//! Several collectors behind one engine: who lives, who holds what, and what one asks of another.
//!
//! Each partition is merged by one of them. Who comes takes in what the engine has of its partitions
//! before the one that had them lets go, so that there is always one that can be asked; what belonged
//! to one that is gone is taken up by others from what the engine has.

mod members;
mod owners;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use futures::stream::SelectAll;
use prost::Message as _;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use weir_proto::v1;

use super::engine::{Following, Nats};
use super::holding::Holding;
use super::local::Local;
use members::Members;
pub(super) use members::{Member, Plan};
use words::Heard;
pub(super) use words::{Error, Words};

/// Between two times that a collector says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// So long one that comes waits to hear of those that are there.
const ACQUAINTANCE: Duration = Duration::from_millis(400);
/// A server that is there is met within this; without one, a collector begins alone.
const FIRST_MEETING: Duration = Duration::from_secs(2);
/// What the engine has of a partition is waited for so long; then what hosts say is merged at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions that are answered at the same time.
const ANSWERED_AT_ONCE: usize = 32;

/// Those that work together with this one.
#[derive(Debug)]
pub(super) struct Peers {
    nats: Arc<Nats>,
    words: Words,
    members: Mutex<Members>,
    holding: Arc<Holding>,
    /// Something has changed that others should know.
    changed: Notify,
    /// All that this one is to hold is taken in.
    settled: watch::Sender<bool>,
}

impl Peers {
    pub(super) fn new(nats: Arc<Nats>, words: Words, name: &str, holding: Arc<Holding>) -> Self {
        let members = Members::new(nats.id().to_owned(), name.to_owned(), holding.partitions());
        Self {
            nats,
            words,
            members: Mutex::new(members),
            holding,
            changed: Notify::new(),
            settled: watch::Sender::new(false),
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of all that live.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .members()
            .live()
            .into_iter()
            .map(|one| one.name)
            .collect();
        names.sort();
        names
    }

    /// Whom to ask of which partitions.
    pub(super) fn plan(&self) -> Plan {
        self.members().plan(&self.whole())
    }

    /// Whose a partition is.
    pub(super) fn owner(&self, partition: u32) -> Option<Member> {
        self.plan()
            .into_iter()
            .find(|(_, partitions)| partitions.contains(&partition))
            .map(|(member, _)| member)
    }

    pub(super) fn is_own(&self, id: &str) -> bool {
        self.nats.id() == id
    }

    /// Whether the server can be reached.
    pub(super) fn is_connected(&self) -> bool {
        self.nats.is_connected()
    }

    /// Asks another, if there is a way to it.
    pub(super) async fn ask(
        &self,
        of: &str,
        partitions: Vec<u32>,
        what: v1::ask::What,
    ) -> Result<v1::Answer, Error> {
        if !self.nats.is_connected() {
            return Err(Error::Unreachable);
        }
        let answer = self.words.ask(of, partitions, what).await;
        if answer == Err(Error::Gone) && self.members().remove(of) {
            self.changed.notify_one();
        }
        answer
    }

    /// Waits until all that this one is to hold is taken in; false: not within `patience`.
    pub(super) async fn settled(&self, patience: Duration) -> bool {
        let mut settled = self.settled.subscribe();
        let wait = settled.wait_for(|is_settled| *is_settled);
        tokio::time::timeout(patience, wait).await.is_ok()
    }

    /// What is taken in whole here.
    fn whole(&self) -> Vec<u32> {
        let all = self.holding.all().into_iter();
        all.filter(|held| held.is_whole() && held.is_followed())
            .map(|held| held.partition)
            .collect()
    }

    fn alive(&self, is_new: bool, is_leaving: bool) -> v1::Alive {
        let own = self.members().live().swap_remove(0);
        v1::Alive {
            id: own.id,
            name: own.name,
            weir_version: env!("CARGO_PKG_VERSION").to_owned(),
            partitions: self.holding.partitions(),
            whole: self.whole(),
            is_leaving,
            is_new,
        }
    }

    /// Until `stop`: says that this one lives, hears of others, takes up and lets go.
    pub(super) async fn run(self: Arc<Self>, local: Arc<Local>, stop: CancellationToken) {
        let mut following = BTreeMap::new();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(ACQUAINTANCE / 4);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut met = self.nats.met();
        let begun = Instant::now();
        let mut acquainted: Option<Instant> = None;
        let mut said = Vec::new();
        let room = Arc::new(Semaphore::new(ANSWERED_AT_ONCE));
        let mut heard = self.listen().await;
        loop {
            let mut is_due = false;
            tokio::select! {
                Some(message) = heard.next() => {
                    is_due = self.hear(&message, &local, &room);
                }
                _ = look.tick() => is_due = true,
                _ = beat.tick() => {
                    self.announce(false);
                    let others = self.members().live();
                    for other in others.iter().filter(|other| !self.is_own(&other.id)) {
                        self.words.ping(&other.id);
                    }
                }
                _ = met.changed() => {
                    acquainted.get_or_insert_with(Instant::now);
                    self.announce(true);
                }
                () = self.changed.notified() => is_due = true,
                () = stop.cancelled() => break,
            }
            let may_begin = match acquainted {
                Some(at) => at.elapsed() >= ACQUAINTANCE,
                None => begun.elapsed() >= FIRST_MEETING,
            };
            if is_due && may_begin {
                self.balance(&mut following);
                let whole = self.whole();
                if whole != said {
                    said = whole;
                    self.announce(false);
                }
            }
        }
        drop(following);
        if self.nats.is_connected() {
            self.words.announce(&self.alive(false, true));
        }
    }

    fn announce(&self, is_new: bool) {
        // What cannot be sent now would be old when it can.
        if self.nats.is_connected() {
            self.words.announce(&self.alive(is_new, false));
        }
    }

    /// The server remembers who listens over its own absence: the client says it again.
    async fn listen(&self) -> SelectAll<Subscriber> {
        let mut all = SelectAll::new();
        for subject in self.words.own_subjects() {
            match self.nats.client().subscribe(subject).await {
                Ok(subscriber) => all.push(subscriber),
                Err(err) => tracing::warn!("cannot listen to other collectors: {err}"),
            }
        }
        all
    }

    /// Takes a message. Says whether it may change who holds what.
    fn hear(&self, message: &Message, local: &Arc<Local>, room: &Arc<Semaphore>) -> bool {
        if message.subject.ends_with(".alive") {
            let Ok(alive) = v1::Alive::decode(message.payload.clone()) else {
                return false;
            };
            let is_stranger = !self.is_own(&alive.id);
            if is_stranger && alive.is_new {
                self.announce(false);
            }
            return self.members().hear(alive, Instant::now());
        }
        match self.words.hear(message) {
            Some(Heard::Ask { from, ask, reply }) => {
                let Ok(place) = Arc::clone(room).try_acquire_owned() else {
                    // Who asked will name this one as silent.
                    tracing::warn!("more questions of other collectors than can be answered");
                    return false;
                };
                let (local, words) = (Arc::clone(local), self.words.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let id = ask.id;
                    let answer = local.answer(&from, *ask).await;
                    words.answer(&reply, id, &answer).await;
                });
                false
            }
            Some(Heard::Said(said)) => {
                local.hear(*said);
                false
            }
            Some(Heard::Gone(id)) => self.members().remove(&id),
            None => false,
        }
    }

    /// Takes up what is this one's, and lets go what another has taken in.
    fn balance(&self, following: &mut BTreeMap<u32, (Instant, Following)>) {
        let is_connected = self.nats.is_connected();
        let owners = {
            let mut members = self.members();
            members.expire(Instant::now());
            self.nats.say_of_others(members.complaint().as_deref());
            members.owners()
        };
        let mut is_settled = true;
        for (partition, owner) in (0..).zip(&owners) {
            let held = self.holding.at(partition);
            if self.is_own(&owner.id) {
                let held = held.unwrap_or_else(|| {
                    let held = self.holding.take_up(partition, is_connected);
                    let follows = self.nats.follow(&held);
                    following.insert(partition, (Instant::now(), follows));
                    held
                });
                is_settled &= held.is_whole() && held.is_followed();
            } else if let Some(held) = held {
                // Others have it whole, or are nearer to it.
                let is_theirs = self.members().is_whole_at(&owner.id, partition);
                if is_theirs || !held.is_whole() {
                    following.remove(&partition);
                    self.holding.let_go(partition);
                    continue;
                }
            }
            let Some(held) = self.holding.at(partition) else {
                continue;
            };
            let is_late = following
                .get(&partition)
                .is_none_or(|(since, _)| since.elapsed() > PATIENCE);
            if !is_connected {
                held.lost_the_engine();
            } else if held.reads_history() && is_late {
                tracing::warn!(
                    partition,
                    "the engine has not told all within {PATIENCE:?}; totals grow until it has"
                );
                held.stop_reading_history();
            }
        }
        self.nats.set_rebuilt(is_settled);
        self.settled.send_if_modified(|settled| {
            let is_news = *settled != is_settled;
            *settled = is_settled;
            is_news
        });
    }
}

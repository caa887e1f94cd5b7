//! Closer looks: what operators ask of hosts goes down their hot lanes, and what these answer goes to
//! who asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;

use super::peers::Words;

/// Wishes on their way to a host that does not read.
const WISHES: usize = 64;
/// Answers on their way to an operator who does not read.
const ANSWERS: usize = 64;
/// Those who wait at other collectors, and for how long after they last asked.
const MAX_ELSEWHERE: usize = 1024;
const ELSEWHERE: Duration = Duration::from_secs(60);

/// Who is connected, and who waits for what.
#[derive(Debug, Default)]
pub(super) struct Drills {
    state: Mutex<State>,
    /// The way to other collectors; none: there are none.
    words: Option<Words>,
}

#[derive(Debug, Default)]
struct State {
    hosts: HashMap<String, (u64, mpsc::Sender<Down>)>,
    connections: u64,
    routes: HashMap<String, Route>,
    elsewhere: HashMap<String, Elsewhere>,
}

/// Somebody who waits here.
#[derive(Clone, Debug)]
struct Route {
    to: mpsc::Sender<(String, Answer)>,
    missed: Arc<AtomicU64>,
}

/// Somebody who waits at another collector.
#[derive(Clone, Debug)]
struct Elsewhere {
    collector: String,
    until: Instant,
    missed: Arc<AtomicU64>,
}

/// What comes of a wish.
#[derive(Debug)]
pub(super) enum Answer {
    /// The host said so.
    Said(Box<Up>),
    /// It is not connected any more.
    Gone,
}

/// A host's hot lane; what it is asked comes out here.
#[derive(Debug)]
pub(super) struct Enrolled {
    drills: Arc<Drills>,
    host: String,
    connection: u64,
    wishes: mpsc::Receiver<Down>,
}

impl Enrolled {
    /// The next thing that somebody wants of it.
    pub(super) async fn wish(&mut self) -> Option<Down> {
        self.wishes.recv().await
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let mut state = self.drills.state();
        let is_latest = |(connection, _): &(u64, _)| *connection == self.connection;
        if state.hosts.get(&self.host).is_some_and(is_latest) {
            state.hosts.remove(&self.host);
            for route in state.routes.values() {
                route.send(self.host.clone(), Answer::Gone);
            }
            for (id, elsewhere) in &state.elsewhere {
                let gone = v1::Said {
                    id: id.clone(),
                    host: self.host.clone(),
                    is_gone: true,
                    ..v1::Said::default()
                };
                self.drills.pass_on(elsewhere, gone);
            }
        }
    }
}

/// Somebody who waits for answers.
#[derive(Debug)]
pub(super) struct Waiting {
    drills: Arc<Drills>,
    /// By which hosts know it.
    pub(super) id: String,
    answers: mpsc::Receiver<(String, Answer)>,
    missed: Arc<AtomicU64>,
}

impl Waiting {
    /// The next answer, and whose it is.
    pub(super) async fn answer(&mut self) -> Option<(String, Answer)> {
        self.answers.recv().await
    }

    /// Answers that there was no room for since this was last asked.
    pub(super) fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.drills.state().routes.remove(&self.id);
    }
}

impl Route {
    fn send(&self, host: String, answer: Answer) {
        if self.to.try_send((host, answer)).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drills {
    /// With others that can be reached by `words`.
    pub(super) fn beside(words: Words) -> Self {
        Self {
            state: Mutex::default(),
            words: Some(words),
        }
    }

    /// Somebody waits at another collector for what hosts here answer. False: as many do as may.
    pub(super) fn route(&self, id: &str, collector: &str) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let until = now + ELSEWHERE;
        if let Some(known) = state.elsewhere.get_mut(id) {
            known.until = until;
            return true;
        }
        state.elsewhere.retain(|_, known| known.until > now);
        if state.elsewhere.len() >= MAX_ELSEWHERE {
            return false;
        }
        let elsewhere = Elsewhere {
            collector: collector.to_owned(),
            until,
            missed: Arc::default(),
        };
        state.elsewhere.insert(id.to_owned(), elsewhere);
        true
    }

    fn pass_on(&self, elsewhere: &Elsewhere, said: v1::Said) {
        let Some(words) = &self.words else {
            return;
        };
        let said = v1::Said {
            missed_before: elsewhere.missed.swap(0, Ordering::Relaxed),
            ..said
        };
        let missed_before = said.missed_before;
        if !words.said(&elsewhere.collector, &said) {
            let missed = &elsewhere.missed;
            missed.fetch_add(missed_before + 1, Ordering::Relaxed);
        }
    }

    /// A host that is connected elsewhere has said something to who asked here.
    pub(super) fn heard(&self, said: v1::Said) {
        let route = self.state().routes.get(&said.id).cloned();
        let Some(route) = route else {
            return;
        };
        route
            .missed
            .fetch_add(said.missed_before, Ordering::Relaxed);
        let answer = match said.message.and_then(|message| message.message) {
            Some(message) => Answer::Said(Box::new(message)),
            None if said.is_gone => Answer::Gone,
            None => return,
        };
        route.send(said.host, answer);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host's hot lane has connected; the latest one is asked.
    pub(super) fn enroll(self: &Arc<Self>, host: &str) -> Enrolled {
        let (to, wishes) = mpsc::channel(WISHES);
        let mut state = self.state();
        state.connections += 1;
        let connection = state.connections;
        state.hosts.insert(host.to_owned(), (connection, to));
        Enrolled {
            drills: self.clone(),
            host: host.to_owned(),
            connection,
            wishes,
        }
    }

    /// Whether a host is connected here.
    pub(super) fn has(&self, host: &str) -> bool {
        self.state().hosts.contains_key(host)
    }

    /// Somebody will wait for answers.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        let id = uuid::Uuid::new_v4().to_string();
        let (to, answers) = mpsc::channel(ANSWERS);
        let missed = Arc::new(AtomicU64::new(0));
        let route = Route {
            to,
            missed: missed.clone(),
        };
        self.state().routes.insert(id.clone(), route);
        Waiting {
            drills: self.clone(),
            id,
            answers,
            missed,
        }
    }

    /// Asks these hosts, or if there are none named all that are connected; returns those that were
    /// asked. One that does not read is not.
    pub(super) fn ask(&self, hosts: &[String], wish: &Down) -> Vec<String> {
        let state = self.state();
        let named = |host: &&String| hosts.is_empty() || hosts.contains(*host);
        let connected = state.hosts.keys().filter(named);
        connected
            .filter(|host| {
                let to = state.hosts.get(*host);
                to.is_some_and(|(_, to)| to.try_send(wish.clone()).is_ok())
            })
            .cloned()
            .collect()
    }

    /// A host has said something that is nobody's but who asked for it.
    pub(super) fn said(&self, host: &str, answer: Up) {
        let id = match &answer {
            Up::SubscribeAnswer(answer) => &answer.id,
            Up::Drill(drill) => &drill.id,
            Up::RingPart(part) => &part.id,
            Up::CommandResult(result) => &result.id,
            Up::Hello(_) | Up::Frame(_) => return,
        };
        let id = id.clone();
        let (route, elsewhere) = {
            let mut state = self.state();
            if let Some(elsewhere) = state.elsewhere.get_mut(&id) {
                // What takes long, e.g. a ring, goes on.
                elsewhere.until = Instant::now() + ELSEWHERE;
            }
            let elsewhere = state.elsewhere.get(&id).cloned();
            (state.routes.get(&id).cloned(), elsewhere)
        };
        if let Some(elsewhere) = elsewhere {
            let said = v1::Said {
                id,
                host: host.to_owned(),
                message: Some(v1::EdgeMessage {
                    message: Some(answer),
                }),
                ..v1::Said::default()
            };
            self.pass_on(&elsewhere, said);
        } else if let Some(route) = route {
            route.send(host.to_owned(), Answer::Said(Box::new(answer)));
        }
    }
}

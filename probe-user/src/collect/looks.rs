//! Answers operators who look closer: subscriptions, and a host's ring.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::fleet_subscribe_message::Message;

use super::drills::{Answer, Drills, Waiting};
use super::gather::{Gather, Reach};
use crate::ui::units::timestamp;

/// Hosts forget a look so long after the collector that asked for it is gone.
const LEASE: Duration = Duration::from_secs(15);
/// Hosts that connect meanwhile are asked then, too.
const RENEW: Duration = Duration::from_secs(5);
/// A host that says nothing of its ring for so long will not.
const RING_PATIENCE: Duration = Duration::from_secs(30);
const MAX_HOSTS_NAMED: usize = 1024;

/// What an operator is told.
type Told = Result<v1::FleetSubscribeMessage, Status>;

/// Passes on what hosts say until the operator goes, or time is up.
pub(super) async fn subscribe(
    (gather, drills): (Arc<Gather>, Arc<Drills>),
    request: v1::FleetSubscribeRequest,
    to: mpsc::Sender<Told>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    let mut waiting = drills.wait();
    let wish = Down::Subscribe(v1::Subscribe {
        id: waiting.id.clone(),
        selector: request.selector,
        interval_ms: request.interval_ms,
        lease_ms: u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX),
    });
    let end = match request.duration_ms {
        0 => None,
        ms => Instant::now().checked_add(Duration::from_millis(ms)),
    };
    let asker = Asker {
        gather,
        id: waiting.id.clone(),
        hosts: request.hosts,
    };
    let mut renew = interval(RENEW);
    // What comes of asking does not hold up what hosts say meanwhile.
    let mut asking = JoinSet::new();
    let mut looking = Looking::default();
    loop {
        let messages = tokio::select! {
            _ = renew.tick() => {
                if asking.is_empty() {
                    asking.spawn(asker.clone().ask(wish.clone()));
                }
                continue;
            }
            Some(reach) = asking.join_next() => match reach {
                Ok(reach) => looking.reached(reach),
                Err(_) => continue,
            },
            Some((host, answer)) = waiting.answer() => {
                let missed_before = waiting.missed();
                let message = looking.told(&host, answer);
                let of = |message| v1::FleetSubscribeMessage {
                    host,
                    missed_before,
                    message: Some(message),
                };
                message.map(of).into_iter().collect()
            }
            () = to.closed() => break,
            () = stop.cancelled() => break,
            () = wait_until(end) => break,
        };
        for message in messages {
            if to.send(Ok(message)).await.is_err() {
                break;
            }
        }
    }
    // That it was asked before, must not come after.
    while asking.join_next().await.is_some() {}
    let id = waiting.id.clone();
    let unsubscribe = Down::Unsubscribe(v1::Unsubscribe { id });
    asker.ask(unsubscribe).await;
}

/// Asks hosts again and again.
#[derive(Clone, Debug)]
struct Asker {
    gather: Arc<Gather>,
    id: String,
    hosts: Vec<String>,
}

impl Asker {
    async fn ask(self, wish: Down) -> Reach {
        self.gather.wish(&self.id, &self.hosts, &wish).await
    }
}

/// What an operator knows of the hosts that he looks at.
#[derive(Debug, Default)]
struct Looking {
    answered: HashSet<String>,
    /// Those that he was told of as connected nowhere.
    absent: HashSet<String>,
    silent: HashSet<String>,
}

impl Looking {
    /// Hosts were asked again. Those that were there and are nowhere now are gone, unless they may be
    /// where nobody answers.
    fn reached(&mut self, reach: Reach) -> Vec<v1::FleetSubscribeMessage> {
        let mut news = Vec::new();
        let mut tell = |host: &str, message| {
            news.push(v1::FleetSubscribeMessage {
                host: host.to_owned(),
                missed_before: 0,
                message: Some(message),
            });
        };
        let reached: HashSet<_> = reach.hosts.into_iter().collect();
        let silent: HashSet<_> = reach.silent.iter().map(|(name, _)| name.clone()).collect();
        for (name, why) in &reach.silent {
            if !self.silent.contains(name) {
                let why = format!("{name}: {why}");
                tell("", Message::SilentCollector(why));
            }
        }
        if silent.is_empty() {
            let gone = self.answered.difference(&reached).cloned();
            for host in gone.collect::<Vec<_>>() {
                self.answered.remove(&host);
                tell(&host, Message::Gone(true));
            }
            for seen in reach.not_connected {
                if self.absent.insert(seen.host.clone()) {
                    tell(&seen.host.clone(), Message::NotConnected(seen));
                }
            }
        }
        self.silent = silent;
        self.absent.retain(|host| !reached.contains(host));
        news
    }

    /// What the operator hears of an answer: renewals are nothing new.
    fn told(&mut self, host: &str, answer: Answer) -> Option<Message> {
        match answer {
            Answer::Gone => self.answered.remove(host).then_some(Message::Gone(true)),
            Answer::Said(said) => match *said {
                Up::SubscribeAnswer(answer) => {
                    let is_new = self.answered.insert(host.to_owned());
                    (is_new || !answer.refused.is_empty()).then_some(Message::Answer(answer))
                }
                Up::Drill(drill) => Some(Message::Drill(drill)),
                _ => None,
            },
        }
    }
}

/// Checks what is asked of every host alike.
pub(super) fn check(request: &v1::FleetSubscribeRequest) -> Result<(), Status> {
    if request.hosts.len() > MAX_HOSTS_NAMED {
        let why = format!("at most {MAX_HOSTS_NAMED} hosts can be named");
        return Err(Status::invalid_argument(why));
    }
    let selector = request.selector.clone().unwrap_or_default();
    crate::query::selector::Selector::new(selector).map_err(Status::invalid_argument)?;
    Ok(())
}

/// Fetches a host's ring.
pub(super) async fn fetch_ring(
    (gather, drills): (Arc<Gather>, Arc<Drills>),
    request: v1::FleetFetchRingRequest,
    to: mpsc::Sender<Result<v1::RingPart, Status>>,
    _permit: OwnedSemaphorePermit,
) {
    let mut waiting = drills.wait();
    let wish = Down::FetchRing(v1::FetchRing {
        id: waiting.id.clone(),
        from_unix_ns: request.from_unix_ns,
        until_unix_ns: request.until_unix_ns,
    });
    let host = request.host;
    let named = std::slice::from_ref(&host);
    let reach = gather.wish(&waiting.id, named, &wish).await;
    if reach.hosts.is_empty() {
        let _ = to.send(Err(not_reached(&host, &reach))).await;
        return;
    }
    loop {
        let part = tokio::select! {
            part = part(&mut waiting, &host) => part,
            () = tokio::time::sleep(RING_PATIENCE) => {
                Err(Status::deadline_exceeded("the host says nothing any more"))
            }
            () = to.closed() => return,
        };
        let is_over = part.as_ref().map_or(true, |part| part.is_last);
        if to.send(part).await.is_err() || is_over {
            return;
        }
    }
}

/// Why a host could not be told something, and where it was last.
pub(super) fn not_reached(host: &str, reach: &Reach) -> Status {
    if !reach.silent.is_empty() {
        let silent = reach
            .silent
            .iter()
            .map(|(name, why)| format!("{name}: {why}"));
        let silent = silent.collect::<Vec<_>>().join("; ");
        let why = format!(
            "the host {host:?} is not connected to a collector that answers, and not all do: {silent}"
        );
        return Status::unavailable(why);
    }
    let seen = reach.not_connected.iter().find(|seen| seen.host == host);
    let seen = seen.filter(|seen| seen.last_heard_unix_ns > 0);
    let last = match seen {
        Some(seen) => format!(
            "it was last heard of {}, as {} knows",
            timestamp(seen.last_heard_unix_ns),
            seen.collector
        ),
        None => "nobody has heard of it".to_owned(),
    };
    let why = format!("the host {host:?} is not connected to any collector; {last}");
    Status::not_found(why)
}

/// The next piece; one that is missing makes the rest of no use.
async fn part(waiting: &mut Waiting, host: &str) -> Result<v1::RingPart, Status> {
    loop {
        let answer = waiting.answer().await;
        if waiting.missed() > 0 {
            return Err(Status::data_loss(
                "the reader is too slow; pieces are missing",
            ));
        }
        match answer {
            Some((from, Answer::Said(said))) if from == host => match *said {
                Up::RingPart(part) if part.refused.is_empty() => return Ok(part),
                Up::RingPart(part) => return Err(Status::failed_precondition(part.refused)),
                _ => {}
            },
            Some((from, Answer::Gone)) if from == host => {
                return Err(Status::unavailable("the host has disconnected"));
            }
            Some(_) => {}
            None => return Err(Status::internal("nobody answers any more")),
        }
    }
}

async fn wait_until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

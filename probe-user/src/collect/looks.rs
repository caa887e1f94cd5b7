//! Answers operators who look closer: subscriptions, and a host's ring.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::fleet_subscribe_message::Message;

use super::drills::{Answer, Drills, Waiting};

/// Hosts forget a look so long after the collector that asked for it is gone.
const LEASE: Duration = Duration::from_secs(15);
/// Hosts that connect meanwhile are asked then, too.
const RENEW: Duration = Duration::from_secs(5);
/// A host that says nothing of its ring for so long will not.
const RING_PATIENCE: Duration = Duration::from_secs(30);
const MAX_HOSTS_NAMED: usize = 1024;

/// Passes on what hosts say until the operator goes, or time is up.
pub(super) async fn subscribe(
    drills: Arc<Drills>,
    request: v1::FleetSubscribeRequest,
    to: mpsc::Sender<Result<v1::FleetSubscribeMessage, Status>>,
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
    let mut renew = interval(RENEW);
    let mut answered: Vec<String> = Vec::new();
    loop {
        tokio::select! {
            _ = renew.tick() => {
                drills.ask(&request.hosts, &wish);
            }
            Some((host, answer)) = waiting.answer() => {
                let Some(message) = told(&host, answer, &mut answered) else {
                    continue;
                };
                let message = v1::FleetSubscribeMessage {
                    host,
                    missed_before: waiting.missed(),
                    message: Some(message),
                };
                if to.send(Ok(message)).await.is_err() {
                    break;
                }
            }
            () = to.closed() => break,
            () = stop.cancelled() => break,
            () = wait_until(end) => break,
        }
    }
    let id = waiting.id.clone();
    let unsubscribe = Down::Unsubscribe(v1::Unsubscribe { id });
    drills.ask(&request.hosts, &unsubscribe);
}

/// What the operator hears of it: renewals are nothing new.
fn told(host: &str, answer: Answer, answered: &mut Vec<String>) -> Option<Message> {
    match answer {
        Answer::Gone => {
            let place = answered.iter().position(|known| known == host)?;
            answered.swap_remove(place);
            Some(Message::Gone(true))
        }
        Answer::Said(said) => match *said {
            Up::SubscribeAnswer(answer) => {
                let is_new = !answered.iter().any(|known| known == host);
                if is_new {
                    answered.push(host.to_owned());
                }
                (is_new || !answer.refused.is_empty()).then_some(Message::Answer(answer))
            }
            Up::Drill(drill) => Some(Message::Drill(drill)),
            _ => None,
        },
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
    drills: Arc<Drills>,
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
    if drills.ask(std::slice::from_ref(&host), &wish).is_empty() {
        let why = format!("the host {host:?} is not connected to this collector");
        let _ = to.send(Err(Status::not_found(why))).await;
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

//! One lane of one host, from its hello to its end: each frame is merged, handed over, and
//! acknowledged when it is safe.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;

use super::MAX_MESSAGE_BYTES;
use super::decode;
use super::drills::Enrolled;
use super::engine::{Error as EngineError, Receipt};
use super::fleet::{Merged, Way};
use super::holding::Held;
use super::known::{Coming, unix_ns};
use super::refusals::Reason;
use super::service::Shared;
use super::sinks::Origin;
use super::waiting::{News, Waiting};
use crate::wire::WIRE_VERSION;

/// A host is not silent for longer: every lane speaks more often.
const SILENCE: Duration = Duration::from_secs(200);
/// On the hot lane: thirty-two events take some ten kilobytes.
const HOT_MESSAGE_BYTES: usize = 256 << 10;

/// One host's connection; its end is known to the fleet when it is dropped.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    hello: v1::Hello,
    partition: u32,
    last_seq: u64,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.holding.disconnect(&self.hello);
        tracing::info!(
            host = self.hello.host,
            boot_id = self.hello.boot_id,
            "disconnected"
        );
    }
}

impl Link {
    /// Of a host that has connected.
    pub(super) fn new(shared: Arc<Shared>, hello: v1::Hello) -> Self {
        Self {
            partition: shared.holding.partition(&hello.host),
            shared,
            hello,
            last_seq: 0,
        }
    }

    /// `last_seq`: the newest of this lane and boot that came before.
    pub(super) fn begin_after(&mut self, last_seq: u64) {
        self.last_seq = last_seq;
    }

    /// Whether its frames are merged here.
    pub(super) fn is_merged_here(&self) -> bool {
        self.shared.holding.at(self.partition).is_some()
    }

    /// How long its messages may be. What must be known at once is short.
    pub(super) fn most_bytes(&self) -> usize {
        match self.hello.lane() {
            v1::Lane::Hot => HOT_MESSAGE_BYTES,
            _ => MAX_MESSAGE_BYTES,
        }
    }

    /// Merges a frame if that is done here, and hands it over to the engine, or says why not. A frame that
    /// was merged before is acknowledged again: that is what was asked.
    fn take(&self, frame: &v1::Frame) -> Result<Taken, Status> {
        let Shared {
            holding, engine, ..
        } = &*self.shared;
        let heard_unix_ns = unix_ns();
        let held = holding.at(self.partition);
        let held = held.filter(|held| !held.reads_history());
        let merged = match &held {
            Some(held) => self.merge(held, frame, heard_unix_ns),
            // Whoever merges it looks into its cells.
            None => decode::envelope(frame, &self.hello)
                .map(|()| Merged::New)
                .map_err(|err| Status::invalid_argument(err.to_string())),
        };
        let taken = merged.and_then(|merged| {
            let is_repeated =
                holding.guests(|guests| guests.is_repeated(&self.hello, frame.seq, heard_unix_ns));
            if merged != Merged::Repeated && !is_repeated {
                if let Some(steering) = &self.shared.steering {
                    steering.journaled(&self.hello.host, &frame.events);
                }
                self.pass_on(frame, heard_unix_ns);
            }
            let merged_in = held.as_ref().map(|held| held.generation);
            match engine.hand_over(&self.hello, frame, heard_unix_ns, merged_in) {
                Ok(None) => Ok(Taken::Here),
                Ok(Some(receipt)) => Ok(Taken::Waits(receipt)),
                // It is counted there; the host sends a newer one.
                Err(EngineError::Full) => Ok(Taken::Unbuffered),
                Err(err) => Err(Status::unavailable(err.to_string())),
            }
        });
        if let Err(status) = &taken {
            self.refuse(frame.seq, status);
        }
        taken
    }

    fn merge(&self, held: &Held, frame: &v1::Frame, heard_unix_ns: u64) -> Result<Merged, Status> {
        let before = held.known.latest(&self.hello);
        let cells = decode::frame(frame, &self.hello, &before)
            .map_err(|err| Status::invalid_argument(err.to_string()))?;
        let coming = Coming {
            hello: &self.hello,
            frame,
            way: Way::Link,
            heard_unix_ns,
            deliveries: frame.deliveries.len() as u64,
        };
        let merged = held.known.merge(coming, cells);
        merged.map_err(|err| Status::resource_exhausted(err.to_string()))
    }

    /// What happened goes to the sinks that take it.
    fn pass_on(&self, frame: &v1::Frame, heard_unix_ns: u64) {
        let shared = &self.shared;
        let Some(files) = &shared.sinks.files else {
            return;
        };
        let origin = Origin {
            host: self.hello.host.clone(),
            boot_id: self.hello.boot_id.clone(),
            lane: self.hello.lane().word(),
            seq: frame.seq,
            place: 0,
            collector: shared.name.clone(),
            heard_unix_ns,
        };
        files.take(&origin, frame);
    }

    fn refuse(&self, seq: u64, status: &Status) {
        self.shared.holding.refuse(&self.hello);
        let why = status.message();
        tracing::warn!(host = self.hello.host, seq, "frame refused: {why}");
    }

    /// Until the host goes, sends what cannot be used, or the collector ends.
    pub(super) async fn run(
        self,
        mut from: Streaming<v1::EdgeMessage>,
        to: mpsc::Sender<Result<v1::CollectorMessage, Status>>,
    ) {
        let welcome = Down::Welcome(v1::Welcome {
            wire_version: WIRE_VERSION,
            collector: self.shared.name.clone(),
            last_seq: self.last_seq,
        });
        let drills = &self.shared.drills;
        let is_hot = self.hello.lane() == v1::Lane::Hot;
        let mut enrolled = is_hot.then(|| drills.enroll(&self.hello.host));
        if let (true, Some(steering)) = (is_hot, &self.shared.steering) {
            steering.connected(&self.hello.host);
        }
        let mut waiting = Waiting::default();
        let mut answer = Some(Ok(welcome));
        loop {
            if let Some(answer) = answer {
                let failed = answer.is_err();
                let answer = answer.map(|message| v1::CollectorMessage {
                    message: Some(message),
                });
                if to.send(answer).await.is_err() || failed {
                    return;
                }
            }
            let message = tokio::select! {
                news = waiting.next() => {
                    answer = Some(self.tell(news));
                    continue;
                }
                wish = wish(enrolled.as_mut()) => {
                    answer = wish.map(Ok);
                    continue;
                }
                message = from.message() => message,
                () = tokio::time::sleep(SILENCE) => {
                    let why = "nothing was said for too long";
                    let refusals = &self.shared.refusals;
                    refusals.count(Reason::Silent, &self.hello.host, &why);
                    let _ = to.send(Err(Status::deadline_exceeded(why))).await;
                    return;
                }
                () = self.shared.stop.cancelled() => {
                    let status = Status::unavailable("the collector is shutting down");
                    let _ = to.send(Err(status)).await;
                    return;
                }
            };
            answer = match message {
                Ok(Some(message)) => match message.message {
                    Some(Up::Frame(frame)) => self.frame(&frame, &mut waiting).transpose(),
                    Some(Up::Hello(_)) => Some(Err(Status::invalid_argument(
                        "a second hello on one connection",
                    ))),
                    Some(said) => {
                        drills.said(&self.hello.host, said);
                        None
                    }
                    None => Some(Err(Status::invalid_argument(
                        "a message of an unknown kind",
                    ))),
                },
                Err(status) if is_refusal(&status) => {
                    self.refuse(0, &status);
                    Some(Err(status))
                }
                Ok(None) | Err(_) => return,
            };
        }
    }

    /// Takes a frame, and gives what is to be acknowledged by now.
    fn frame(&self, frame: &v1::Frame, waiting: &mut Waiting) -> Result<Option<Down>, Status> {
        let seq = frame.seq;
        if waiting.has(seq) {
            // Sent again before it was safe; it is on its way there.
            waiting.tell(seq);
            return Ok(None);
        }
        let is_only_tick = frame.tick && frame.events.is_empty() && frame.deliveries.is_empty();
        let safe = match self.take(frame)? {
            Taken::Here => Some(seq),
            Taken::Waits(receipt) => waiting.add(seq, is_only_tick, Some(receipt)),
            Taken::Unbuffered => waiting.add(seq, is_only_tick, None),
        };
        Ok(safe.map(|seq| Down::Ack(v1::Ack { seq })))
    }

    /// The engine has a frame, or never will, or takes its time.
    fn tell(&self, news: News) -> Result<Down, Status> {
        let (seq, settled) = match news {
            News::Taken(seqs) => return Ok(Down::Taken(v1::Taken { seqs })),
            News::Settled(settled) => settled,
        };
        match settled {
            Ok(()) => Ok(Down::Ack(v1::Ack { seq })),
            Err(err @ EngineError::TooLarge { .. }) => {
                let status = Status::resource_exhausted(err.to_string());
                self.refuse(seq, &status);
                Err(status)
            }
            Err(err) => Err(Status::unavailable(err.to_string())),
        }
    }
}

/// Whether a message could not be read for what it is: too large, too slow, or none. What the connection says
/// of itself has a cause.
fn is_refusal(status: &Status) -> bool {
    let is_of_message = matches!(
        status.code(),
        Code::OutOfRange | Code::ResourceExhausted | Code::Internal | Code::DeadlineExceeded
    );
    is_of_message && status.source().is_none()
}

/// What somebody wants of a host, on its hot lane.
async fn wish(enrolled: Option<&mut Enrolled>) -> Option<Down> {
    match enrolled {
        Some(enrolled) => enrolled.wish().await,
        None => std::future::pending().await,
    }
}

/// What became of a frame.
enum Taken {
    /// It is merged, and that is all.
    Here,
    /// It is acknowledged when the engine has it.
    Waits(Receipt),
    /// It is merged, and the engine's buffer is full: it is not acknowledged.
    Unbuffered,
}

//! The collector's two services: what hosts report, and what operators ask.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;

use super::decode;
use super::door::Guest;
use super::fleet::Fleet;
use super::refusals::{Reason, Refusals};
use crate::query::filter::Filter;
use crate::wire::WIRE_VERSION;

/// A host has so long to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Acknowledgements on their way to a host that does not read.
const ACKS: usize = 64;
/// Operators who watch at the same time.
const MAX_WATCHERS: usize = 64;
const WATCH_INTERVAL_MS: RangeInclusive<u32> = 250..=10_000;
const DEFAULT_WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Who may ask.
#[derive(Debug, Default)]
pub(super) struct Operators {
    names: Vec<String>,
}

impl Operators {
    pub(super) fn new(names: &[String]) -> Self {
        Self {
            names: names.to_vec(),
        }
    }

    /// Or why not. Plain text comes from this host, whose users are the operator's.
    fn admit(&self, guest: &Guest) -> Result<(), String> {
        if guest.names.is_none() || self.names.iter().any(|name| guest.is_called(name)) {
            return Ok(());
        }
        Err(format!(
            "the certificate is for {}, which is not among the collector's operators (--operator)",
            guest.told()
        ))
    }
}

fn guest<T>(request: &Request<T>) -> Result<Guest, Status> {
    let guest = request.extensions().get::<Guest>().cloned();
    guest.ok_or_else(|| Status::internal("the connection has no peer"))
}

/// Both services; clones share all they know.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    fleet: Mutex<Fleet>,
    operators: Operators,
    refusals: Arc<Refusals>,
    watchers: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Collector {
    pub(super) fn new(
        name: String,
        fleet: Fleet,
        operators: Operators,
        refusals: Arc<Refusals>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                fleet: Mutex::new(fleet),
                operators,
                refusals,
                watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
                stop,
            }),
        }
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.shared
            .fleet
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets operators ask, and nobody else.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let guest = guest(request)?;
        let Err(why) = self.shared.operators.admit(&guest) else {
            return Ok(());
        };
        self.shared
            .refusals
            .count(Reason::Operator, &guest.address, &why);
        Err(Status::permission_denied(why))
    }

    fn hosts(&self) -> v1::ListHostsResponse {
        let hosts = self.fleet().hosts(unix_ns());
        v1::ListHostsResponse {
            connections_refused: self.shared.refusals.total(),
            refusals: self.shared.refusals.message(),
            ..hosts
        }
    }

    /// Meets a host.
    async fn greet(
        &self,
        guest: &Guest,
        from: &mut Streaming<v1::EdgeMessage>,
    ) -> Result<Link, (Reason, Status)> {
        let first = timeout(HELLO_TIMEOUT, from.message()).await.map_err(|_| {
            (
                Reason::Silent,
                Status::deadline_exceeded("no hello came in time"),
            )
        })?;
        let unusable = |why: String| (Reason::Hello, Status::invalid_argument(why));
        let first = first.map_err(|status| (Reason::Hello, status))?;
        let Some(Up::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(unusable("the first message must be a hello".to_owned()));
        };
        decode::hello(&hello).map_err(|err| unusable(err.to_string()))?;
        if !guest.is_called(&hello.host) {
            let why = format!(
                "the certificate is for {}, not for the host {}: collector.host must be one of its \
                 DNS names",
                guest.told(),
                hello.host
            );
            return Err((Reason::Identity, Status::permission_denied(why)));
        }
        let last_seq = self
            .fleet()
            .connect(&hello)
            .map_err(|err| (Reason::Full, Status::resource_exhausted(err.to_string())))?;
        tracing::info!(
            host = hello.host,
            boot_id = hello.boot_id,
            last_seq,
            "connected"
        );
        Ok(Link {
            collector: self.clone(),
            hello,
            last_seq,
        })
    }
}

/// One host's connection; its end is known to the fleet when it is dropped.
#[derive(Debug)]
struct Link {
    collector: Collector,
    hello: v1::Hello,
    last_seq: u64,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.collector.fleet().disconnect(&self.hello);
        tracing::info!(
            host = self.hello.host,
            boot_id = self.hello.boot_id,
            "disconnected"
        );
    }
}

impl Link {
    /// Merges a frame, or says why not.
    fn merge(&self, frame: &v1::Frame) -> Result<v1::Ack, Status> {
        let seq = frame.seq;
        let mut fleet = self.collector.fleet();
        let merged = match decode::frame(frame, &self.hello) {
            Ok(cells) => fleet
                .merge(&self.hello, frame, cells, unix_ns())
                .map_err(|err| Status::resource_exhausted(err.to_string())),
            Err(err) => Err(Status::invalid_argument(err.to_string())),
        };
        match merged {
            // A frame that was merged before is acknowledged again: that is what was asked.
            Ok(_) => Ok(v1::Ack { seq }),
            Err(status) => {
                fleet.refused(&self.hello);
                let why = status.message();
                tracing::warn!(host = self.hello.host, seq, "frame refused: {why}");
                Err(status)
            }
        }
    }

    /// Until the host goes, sends what cannot be used, or the collector ends.
    async fn run(
        self,
        mut from: Streaming<v1::EdgeMessage>,
        to: mpsc::Sender<Result<v1::CollectorMessage, Status>>,
    ) {
        let welcome = Down::Welcome(v1::Welcome {
            wire_version: WIRE_VERSION,
            collector: self.collector.shared.name.clone(),
            last_seq: self.last_seq,
        });
        let mut answer = Ok(welcome);
        loop {
            let failed = answer.is_err();
            let answer_message = answer.map(|message| v1::CollectorMessage {
                message: Some(message),
            });
            if to.send(answer_message).await.is_err() || failed {
                return;
            }
            let message = tokio::select! {
                message = from.message() => message,
                () = self.collector.shared.stop.cancelled() => {
                    let status = Status::unavailable("the collector is shutting down");
                    let _ = to.send(Err(status)).await;
                    return;
                }
            };
            answer = match message {
                Ok(Some(message)) => match message.message {
                    Some(Up::Frame(frame)) => self.merge(&frame).map(Down::Ack),
                    Some(Up::Hello(_)) => {
                        Err(Status::invalid_argument("a second hello on one connection"))
                    }
                    _ => Err(Status::invalid_argument("a message of an unknown kind")),
                },
                Ok(None) | Err(_) => return,
            };
        }
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[tonic::async_trait]
impl v1::uplink_server::Uplink for Collector {
    type ReportStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::EdgeMessage>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let guest = guest(&request)?;
        let mut from = request.into_inner();
        let (to, stream) = mpsc::channel(ACKS);
        let collector = self.clone();
        // The answer begins at once: a client may wait for it before it says hello.
        tokio::spawn(async move {
            match collector.greet(&guest, &mut from).await {
                Ok(link) => link.run(from, to).await,
                Err((reason, status)) => {
                    let refusals = &collector.shared.refusals;
                    refusals.count(reason, &guest.address, &status.message());
                    let _ = to.send(Err(status)).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for Collector {
    type WatchStream = ReceiverStream<Result<v1::FleetSnapshot, Status>>;

    async fn list_hosts(
        &self,
        request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.hosts()))
    }

    async fn list_cells(
        &self,
        request: Request<v1::ListCellsRequest>,
    ) -> Result<Response<v1::ListCellsResponse>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter)
            .and_then(Filter::for_fleet)
            .map_err(|err| Status::invalid_argument(err.to_string()))?;
        let cells = self.fleet().cells(&filter, request.histograms, unix_ns());
        Ok(Response::new(cells))
    }

    async fn watch(
        &self,
        request: Request<v1::FleetWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter)
            .and_then(Filter::for_fleet)
            .map_err(|err| Status::invalid_argument(err.to_string()))?;
        let interval = match request.interval_ms {
            0 => DEFAULT_WATCH_INTERVAL,
            ms if WATCH_INTERVAL_MS.contains(&ms) => Duration::from_millis(ms.into()),
            ms => {
                return Err(Status::invalid_argument(format!(
                    "interval_ms = {ms} is out of range: {} to {}",
                    WATCH_INTERVAL_MS.start(),
                    WATCH_INTERVAL_MS.end()
                )));
            }
        };
        let permit = self.shared.watchers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| {
            Status::resource_exhausted(format!("{MAX_WATCHERS} clients watch already"))
        })?;
        let (to, stream) = mpsc::channel(1);
        let collector = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = to.closed() => return,
                    () = collector.shared.stop.cancelled() => return,
                }
                let snapshot = v1::FleetSnapshot {
                    unix_ns: unix_ns(),
                    hosts: Some(collector.hosts()),
                    cells: Some(
                        collector
                            .fleet()
                            .cells(&filter, request.histograms, unix_ns()),
                    ),
                };
                if to.send(Ok(snapshot)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

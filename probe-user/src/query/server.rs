//! The `Local` service on the Unix socket. It asks the core and turns answers into messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use weir_proto::v1;
use weir_proto::v1::local_server::{Local, LocalServer};
use weir_proto::v1::record_message::Message;

use super::access::Access;
use super::connection::{Caller, accept, refuse_strangers};
use super::filter::Filter;
use super::steering::Orders;
use super::{Followed, Query, order};
use crate::wire;

/// Messages on their way to a client that does not read.
const STREAM_BUFFER: usize = 64;
/// Largest request; all are a few hundred bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
const WATCH_INTERVAL_MS: std::ops::RangeInclusive<u32> = 100..=10_000;
const DEFAULT_WATCH_INTERVAL_MS: u32 = 1000;
const DEFAULT_WATCH_SESSIONS: u32 = 50;
const MAX_WATCH_SESSIONS: u32 = 1000;

/// What the server counts.
#[derive(Debug, Default)]
pub struct QueryCounts {
    /// Deliveries that slow followers missed.
    pub followers_dropped: AtomicU64,
    /// Records that a slow recorder missed.
    pub recorder_dropped: Arc<AtomicU64>,
    /// Connections turned away.
    pub refused: AtomicU64,
}

/// The service.
#[derive(Debug)]
pub struct Service {
    /// The core.
    pub core: mpsc::Sender<Query>,
    /// Clients that watch, follow or record.
    pub followers: Arc<Semaphore>,
    /// The way to the gate; none: there is none.
    pub orders: Option<Orders>,
    /// What is counted.
    pub counts: Arc<QueryCounts>,
    /// When everything ends.
    pub stop: CancellationToken,
}

impl Service {
    /// Serves `listener` until everything ends.
    pub async fn serve(
        self,
        listener: UnixListener,
        access: watch::Receiver<Arc<Access>>,
    ) -> Result<(), tonic::transport::Error> {
        let stop = self.stop.clone();
        let counts = self.counts.clone();
        let incoming = accept(listener, access, counts, self.orders.clone(), stop.clone());
        let service = LocalServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES);
        let service =
            tonic::service::interceptor::InterceptedService::new(service, refuse_strangers);
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Status> {
        ask(&self.core, query).await
    }

    fn follower(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.followers.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(
                "as many clients watch, follow or record already as limits.followers allows",
            )
        })
    }
}

/// Asks the core, and waits for its answer.
pub(super) async fn ask<T>(
    core: &mpsc::Sender<Query>,
    query: impl FnOnce(oneshot::Sender<T>) -> Query,
) -> Result<T, Status> {
    let stopping = || Status::unavailable("the daemon is shutting down");
    let (reply, answer) = oneshot::channel();
    core.send(query(reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

fn invalid(err: impl std::fmt::Display) -> Status {
    Status::invalid_argument(err.to_string())
}

/// What tonic's generated code wants a function to return.
type Sent<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Local for Service {
    type ListSessionsStream = Sent<v1::Session>;
    type ListDeliveriesStream = Sent<v1::Delivery>;
    type ListViewersStream = Sent<v1::ViewerMessage>;
    type WatchStream = Sent<v1::Snapshot>;
    type RecordStream = Sent<v1::RecordMessage>;

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::Status>, Status> {
        self.ask(Query::Status).await.map(Response::new)
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<Self::ListSessionsStream>, Status> {
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter).map_err(invalid)?;
        let mut left = match request.limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let core = self.core.clone();
        let (to, stream) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            let mut next = Some(0);
            while let Some(from) = next {
                let filter = filter.clone();
                let query = |reply| Query::Sessions {
                    filter,
                    from,
                    reply,
                };
                let page = match ask(&core, query).await {
                    Ok(page) => page,
                    Err(status) => {
                        let _ = to.send(Err(status)).await;
                        return;
                    }
                };
                next = page.next;
                for (session, cell) in page.sessions {
                    let message = wire::session(&session, &cell, &page.context);
                    if left == 0 || to.send(Ok(message)).await.is_err() {
                        return;
                    }
                    left -= 1;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<Self::ListDeliveriesStream>, Status> {
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter)
            .and_then(Filter::for_deliveries)
            .map_err(invalid)?;
        let permit = request.follow.then(|| self.follower()).transpose()?;
        let handshakes = request.handshakes;
        let page = self
            .ask(|reply| Query::Deliveries {
                filter: filter.clone(),
                limit: match request.limit {
                    0 => usize::MAX,
                    limit => limit as usize,
                },
                handshakes,
                reply,
            })
            .await?;
        let (to, stream) = mpsc::channel(STREAM_BUFFER);
        let follow = Follow {
            filter,
            handshakes,
            counts: self.counts.clone(),
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            for (finished, cell) in page.deliveries {
                let message = wire::delivery(&finished.record, &cell, &page.context);
                if to.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            if permit.is_some() {
                tokio::select! {
                    () = follow.run(page.follow, &to) => {}
                    () = to.closed() => {}
                    () = stop.cancelled() => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_viewers(
        &self,
        request: Request<v1::ListViewersRequest>,
    ) -> Result<Response<Self::ListViewersStream>, Status> {
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter)
            .and_then(Filter::for_viewers)
            .map_err(invalid)?;
        let permit = request.follow.then(|| self.follower()).transpose()?;
        let viewers = super::viewers::Viewers {
            core: self.core.clone(),
            filter,
            limit: match request.limit {
                0 => usize::MAX,
                limit => limit as usize,
            },
            counts: self.counts.clone(),
            stop: self.stop.clone(),
        };
        let (to, stream) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(viewers.send(permit, to));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_cells(
        &self,
        request: Request<v1::ListCellsRequest>,
    ) -> Result<Response<v1::ListCellsResponse>, Status> {
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter)
            .and_then(Filter::for_cells)
            .map_err(invalid)?;
        let histograms = request.histograms;
        self.ask(|reply| Query::Cells {
            filter,
            histograms,
            reply,
        })
        .await
        .map(Response::new)
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter).map_err(invalid)?;
        let interval_ms = match request.interval_ms {
            0 => DEFAULT_WATCH_INTERVAL_MS,
            ms if WATCH_INTERVAL_MS.contains(&ms) => ms,
            ms => {
                return Err(Status::invalid_argument(format!(
                    "interval_ms = {ms} is out of range: {} to {}",
                    WATCH_INTERVAL_MS.start(),
                    WATCH_INTERVAL_MS.end()
                )));
            }
        };
        let sessions = match request.sessions {
            0 => DEFAULT_WATCH_SESSIONS,
            n if n <= MAX_WATCH_SESSIONS => n,
            n => {
                return Err(Status::invalid_argument(format!(
                    "sessions = {n} is out of range: 1 to {MAX_WATCH_SESSIONS}"
                )));
            }
        };
        let permit = self.follower()?;
        let core = self.core.clone();
        let orders = self.orders.clone();
        let stop = self.stop.clone();
        // A slow reader gets fewer snapshots, not older ones.
        let (to, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let _permit = permit;
            let mut tick = tokio::time::interval(Duration::from_millis(interval_ms.into()));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                let place = tokio::select! {
                    () = stop.cancelled() => return,
                    () = to.closed() => return,
                    place = async { tick.tick().await; to.reserve().await } => place,
                };
                let Ok(place) = place else { return };
                let filter = filter.clone();
                let mut snapshot = ask(&core, |reply| Query::Snapshot {
                    filter,
                    sessions: sessions as usize,
                    reply,
                })
                .await;
                if let (Ok(snapshot), Some(orders)) = (&mut snapshot, &orders) {
                    snapshot.steering = orders.status().await;
                }
                let ended = snapshot.is_err();
                place.send(snapshot);
                if ended {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn order(
        &self,
        request: Request<v1::OrderRequest>,
    ) -> Result<Response<v1::OrderResponse>, Status> {
        let caller = request.extensions().get::<Caller>().copied();
        let caller =
            caller.ok_or_else(|| Status::permission_denied("who is calling is unknown"))?;
        order::obey(self.orders.as_ref(), caller.peer(), request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_steering(
        &self,
        _: Request<v1::GetSteeringRequest>,
    ) -> Result<Response<v1::Steering>, Status> {
        let none = || Status::unimplemented("this daemon has no gate");
        let orders = self.orders.as_ref().ok_or_else(none)?;
        let late = || Status::deadline_exceeded("the gate does not answer");
        orders.status().await.map(Response::new).ok_or_else(late)
    }

    async fn record(
        &self,
        _: Request<v1::RecordRequest>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        let permit = self.follower()?;
        let recording = self.ask(Query::Record).await?;
        let recording = recording.map_err(|err| Status::resource_exhausted(err.to_string()))?;
        // What waits for the recorder waits in the recording's own queue.
        let (to, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let _permit = permit;
            let mut blocks = recording.blocks;
            let mut next = Some(Message::Header(recording.header));
            while next.is_some() {
                let message = v1::RecordMessage { message: next };
                if to.send(Ok(message)).await.is_err() {
                    return;
                }
                // Ends when the core has, with its last block.
                next = tokio::select! {
                    block = blocks.recv() => block.map(|block| Message::Block(block.said)),
                    () = to.closed() => return,
                };
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One who follows deliveries as they end.
struct Follow {
    filter: Filter,
    handshakes: bool,
    counts: Arc<QueryCounts>,
}

impl Follow {
    /// Until the client goes or the core ends.
    async fn run(
        &self,
        mut from: broadcast::Receiver<Followed>,
        to: &mpsc::Sender<Result<v1::Delivery, Status>>,
    ) {
        let mut missed_before = 0;
        loop {
            match from.recv().await {
                Ok(followed) => {
                    if !self.wants(&followed) {
                        continue;
                    }
                    let message = v1::Delivery {
                        missed_before,
                        ..wire::delivery(&followed.record, &followed.cell, &followed.context)
                    };
                    missed_before = 0;
                    if to.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    missed_before += missed;
                    self.counts
                        .followers_dropped
                        .fetch_add(missed, Ordering::Relaxed);
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn wants(&self, followed: &Followed) -> bool {
        let handshake = probe_ebpf::record::flag::HANDSHAKE;
        (self.handshakes || followed.record.flags & handshake == 0)
            && self.filter.matches_delivery(&followed.record)
            && self.filter.matches_key(&followed.cell)
    }
}

//! Connections to the query socket: who makes each, and how many there may be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::access::{Access, Peer};
use super::server::QueryCounts;
use super::steering::Orders;
use crate::throttle::Throttle;

/// Connections at a time of those who may ask, and of those who are told that they may not.
const MAX_CONNECTIONS: usize = 64;
const MAX_REFUSED: usize = 4;

/// Whether the peer may ask, found out when it connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    peer: Peer,
    allowed: bool,
}

impl Caller {
    pub(super) fn peer(self) -> Peer {
        self.peer
    }
}

pub(super) fn refuse_strangers(request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.allowed => Ok(request),
        Some(Caller { peer, .. }) => Err(Status::permission_denied(format!(
            "user {} may not ask this daemon; its operator can allow that with query.allow_users \
             or query.allow_groups",
            peer.uid
        ))),
        None => Err(Status::permission_denied("who is calling is unknown")),
    }
}

/// A connection with the one who made it. Its permit bounds how many there are.
pub(super) struct PeerStream {
    stream: UnixStream,
    caller: Caller,
    _permit: OwnedSemaphorePermit,
}

impl Connected for PeerStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts, asks the kernel who is calling, and bounds how many are connected.
pub(super) fn accept(
    listener: UnixListener,
    access: watch::Receiver<Arc<Access>>,
    counts: Arc<QueryCounts>,
    orders: Option<Orders>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<PeerStream>> {
    let (to, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let allowed = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let refused = Arc::new(Semaphore::new(MAX_REFUSED));
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let mut refuse = |peer: Peer, why: &str| {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(withheld) = throttle.pass(Instant::now()) {
                tracing::warn!(uid = %peer.uid, gid = %peer.gid, withheld, "query refused: {why}");
            }
        };
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(err) => {
                    tracing::warn!("cannot accept a connection to the query socket: {err}");
                    // Out of descriptors, most likely: trying again at once would not help.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(peer) = Peer::of(&stream) else {
                continue;
            };
            let rules = access.borrow().clone();
            // Membership is looked up in the host's user database, which may be slow.
            let may_ask = tokio::task::spawn_blocking(move || rules.allows(peer))
                .await
                .unwrap_or(false);
            let room = if may_ask { &allowed } else { &refused };
            if !may_ask {
                refuse(peer, "not allowed");
                if let Some(orders) = &orders {
                    orders.stranger(peer.uid.as_raw());
                }
            }
            let Ok(permit) = room.clone().try_acquire_owned() else {
                if may_ask {
                    refuse(peer, "too many connections");
                }
                continue;
            };
            let stream = PeerStream {
                stream,
                caller: Caller {
                    peer,
                    allowed: may_ask,
                },
                _permit: permit,
            };
            if to.send(Ok(stream)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(stream)
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tonic::Code;
    use tonic::transport::{Channel, Endpoint, Uri};
    use weir_proto::v1;
    use weir_proto::v1::local_client::LocalClient;

    use super::super::server::Service;
    use super::*;
    use crate::config::Config;

    async fn connect(socket: std::path::PathBuf) -> LocalClient<Channel> {
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://unused");
        LocalClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    #[tokio::test]
    async fn a_stranger_is_told_so_and_counted_until_the_rules_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weir.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (access_to, access) = watch::channel(Arc::new(Access::nobody()));
        // The core has gone: one who is let in hears of that.
        let (core, _) = mpsc::channel(1);
        let counts = Arc::new(QueryCounts::default());
        let stop = CancellationToken::new();
        let service = Service {
            core,
            followers: Arc::new(Semaphore::new(1)),
            orders: None,
            counts: counts.clone(),
            stop: stop.clone(),
        };
        let server = tokio::spawn(service.serve(listener, access));
        let ask = async || {
            let mut client = connect(path.clone()).await;
            client
                .get_status(v1::GetStatusRequest {})
                .await
                .unwrap_err()
        };
        let refused = ask().await;
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("query.allow_users"), "{refused}");
        assert_eq!(counts.refused.load(Ordering::Relaxed), 1);

        let rules = Access::new(&Config::default().query).unwrap();
        access_to.send_replace(Arc::new(rules));
        assert_eq!(ask().await.code(), Code::Unavailable);
        assert_eq!(counts.refused.load(Ordering::Relaxed), 1);
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}

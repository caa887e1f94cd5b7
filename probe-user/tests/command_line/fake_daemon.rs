//! A daemon that answers `Local` over a Unix socket from values that a test gives it, and
//! remembers what it was asked.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt, stream};
use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tonic::{Request, Response, Status};
use weir_proto::v1::local_server::{Local, LocalServer};
use weir_proto::v1::{self as wire, Filter};

/// A question's filter, limit and whether it wants to follow.
pub(crate) type Asked = (Filter, u32, bool);

/// What it says.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) status: wire::Status,
    pub(crate) sessions: Vec<wire::Session>,
    pub(crate) deliveries: Vec<wire::Delivery>,
    pub(crate) cells: Vec<wire::Cell>,
    pub(crate) viewers: Vec<wire::ViewerMessage>,
    /// Refuses everything with these words, as for a wrong peer.
    pub(crate) refusal: Option<String>,
}

#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    asked: watch::Sender<Option<Asked>>,
    snapshots: broadcast::Sender<wire::Snapshot>,
    followed: broadcast::Sender<wire::Delivery>,
}

/// A running daemon; dropped, it is gone with its socket.
pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
    /// The latest question.
    pub(crate) asked: watch::Receiver<Option<Asked>>,
    /// Goes to everyone who watches.
    pub(crate) snapshots: broadcast::Sender<wire::Snapshot>,
    /// Goes to everyone who follows deliveries.
    pub(crate) followed: broadcast::Sender<wire::Delivery>,
    connections: Option<tokio::runtime::Runtime>,
}

impl Daemon {
    /// Starts one at `dir/weir.sock`.
    pub(crate) fn start(dir: &Path, script: Script) -> Self {
        let fake = Fake {
            script: Arc::new(Mutex::new(script)),
            asked: watch::channel(None).0,
            snapshots: broadcast::channel(16).0,
            followed: broadcast::channel(16).0,
        };
        let socket = dir.join("weir.sock");
        let _ = std::fs::remove_file(&socket);
        // A runtime of its own: dropping it breaks every connection, as a death does.
        let connections = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _inside = connections.enter();
            UnixListener::bind(&socket).unwrap()
        };
        let service = LocalServer::new(fake.clone());
        connections.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            socket,
            asked: fake.asked.subscribe(),
            snapshots: fake.snapshots,
            followed: fake.followed,
            connections: Some(connections),
        }
    }

    /// What it was asked last.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.borrow().clone().expect("nothing was asked")
    }
}

impl Drop for Daemon {
    /// Dies at once, as by SIGKILL, but for the socket.
    fn drop(&mut self) {
        if let Some(connections) = self.connections.take() {
            connections.shutdown_background();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Fake {
    fn asked(&self, filter: Option<Filter>, limit: u32, follow: bool) -> Result<(), Status> {
        let asked = (filter.unwrap_or_default(), limit, follow);
        self.asked.send_replace(Some(asked));
        match &self.script.lock().unwrap().refusal {
            Some(words) => Err(Status::permission_denied(words.clone())),
            None => Ok(()),
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn all<T: Send + 'static>(items: Vec<T>) -> Answers<T> {
    Box::pin(stream::iter(items.into_iter().map(Ok)))
}

fn live<T: Clone + Send + 'static>(sender: &broadcast::Sender<T>) -> Answers<T> {
    let items = BroadcastStream::new(sender.subscribe());
    Box::pin(items.map(|item| item.map_err(|lag| Status::data_loss(lag.to_string()))))
}

#[tonic::async_trait]
impl Local for Fake {
    type ListSessionsStream = Answers<wire::Session>;
    type ListDeliveriesStream = Answers<wire::Delivery>;
    type ListViewersStream = Answers<wire::ViewerMessage>;
    type WatchStream = Answers<wire::Snapshot>;
    type RecordStream = Answers<wire::RecordMessage>;

    async fn get_status(
        &self,
        _: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::Status>, Status> {
        self.asked(None, 0, false)?;
        Ok(Response::new(self.script.lock().unwrap().status.clone()))
    }

    async fn list_sessions(
        &self,
        request: Request<wire::ListSessionsRequest>,
    ) -> Result<Response<Self::ListSessionsStream>, Status> {
        let request = request.into_inner();
        self.asked(request.filter, request.limit, false)?;
        let sessions = self.script.lock().unwrap().sessions.clone();
        Ok(Response::new(all(sessions)))
    }

    async fn list_deliveries(
        &self,
        request: Request<wire::ListDeliveriesRequest>,
    ) -> Result<Response<Self::ListDeliveriesStream>, Status> {
        let request = request.into_inner();
        self.asked(request.filter, request.limit, request.follow)?;
        let kept = all(self.script.lock().unwrap().deliveries.clone());
        Ok(Response::new(if request.follow {
            Box::pin(kept.chain(live(&self.followed)))
        } else {
            kept
        }))
    }

    async fn list_viewers(
        &self,
        request: Request<wire::ListViewersRequest>,
    ) -> Result<Response<Self::ListViewersStream>, Status> {
        let request = request.into_inner();
        self.asked(request.filter, request.limit, request.follow)?;
        Ok(Response::new(all(self
            .script
            .lock()
            .unwrap()
            .viewers
            .clone())))
    }

    async fn list_cells(
        &self,
        request: Request<wire::ListCellsRequest>,
    ) -> Result<Response<wire::ListCellsResponse>, Status> {
        self.asked(request.into_inner().filter, 0, false)?;
        Ok(Response::new(wire::ListCellsResponse {
            cells: self.script.lock().unwrap().cells.clone(),
            unix_ns: 1,
            hosts: 1,
            missing: Vec::new(),
        }))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let watching = live(&self.snapshots);
        self.asked(request.filter, request.sessions, true)?;
        Ok(Response::new(watching))
    }

    async fn order(
        &self,
        _: Request<wire::OrderRequest>,
    ) -> Result<Response<wire::OrderResponse>, Status> {
        Err(Status::unimplemented("it has no gate"))
    }

    async fn get_steering(
        &self,
        _: Request<wire::GetSteeringRequest>,
    ) -> Result<Response<wire::Steering>, Status> {
        Err(Status::unimplemented("it has no gate"))
    }

    async fn record(
        &self,
        _: Request<wire::RecordRequest>,
    ) -> Result<Response<Self::RecordStream>, Status> {
        self.asked(None, 0, true)?;
        Ok(Response::new(all(Vec::new())))
    }
}

//! A daemon that answers `Local` over a Unix socket from values that a test gives it, and
//! remembers what it was asked.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt, stream};
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tonic::{Request, Response, Status};
use weir_proto::v1::local_server::{Local, LocalServer};
use weir_proto::v1::{self as wire, Filter};

/// What it says, and what it was asked.
#[derive(Debug, Default)]
pub struct Script {
    pub status: wire::Status,
    pub sessions: Vec<wire::Session>,
    pub deliveries: Vec<wire::Delivery>,
    pub cells: Vec<wire::Cell>,
    /// Refuses everything with these words, as for a wrong peer.
    pub refusal: Option<String>,
    /// The filter, limit and follow of the latest question.
    pub asked: Option<(Filter, u32, bool)>,
}

#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    snapshots: broadcast::Sender<wire::Snapshot>,
    followed: broadcast::Sender<wire::Delivery>,
}

/// A running daemon; dropped, it is gone with its socket.
pub struct Daemon {
    pub socket: PathBuf,
    pub script: Arc<Mutex<Script>>,
    /// Goes to everyone who watches.
    pub snapshots: broadcast::Sender<wire::Snapshot>,
    /// Goes to everyone who follows deliveries.
    pub followed: broadcast::Sender<wire::Delivery>,
    server: tokio::task::JoinHandle<()>,
    connections: tokio::runtime::Runtime,
}

impl Daemon {
    /// Starts one at `dir/weir.sock`.
    pub fn start(dir: &Path, script: Script) -> Self {
        let fake = Fake {
            script: Arc::new(Mutex::new(script)),
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
        let server = connections.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            socket,
            script: fake.script,
            snapshots: fake.snapshots,
            followed: fake.followed,
            server,
            connections,
        }
    }

    /// What it was asked last.
    pub fn asked(&self) -> (Filter, u32, bool) {
        self.script.lock().unwrap().asked.clone().expect("nothing was asked")
    }

    /// Dies at once.
    pub fn kill(self) {
        self.server.abort();
        self.connections.shutdown_background();
        std::fs::remove_file(&self.socket).unwrap();
    }
}

impl Fake {
    fn asked(&self, filter: Option<Filter>, limit: u32, follow: bool) -> Result<(), Status> {
        let mut script = self.script.lock().unwrap();
        script.asked = Some((filter.unwrap_or_default(), limit, follow));
        match &script.refusal {
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
    type WatchStream = Answers<wire::Snapshot>;

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

    async fn list_cells(
        &self,
        request: Request<wire::ListCellsRequest>,
    ) -> Result<Response<wire::ListCellsResponse>, Status> {
        self.asked(request.into_inner().filter, 0, false)?;
        Ok(Response::new(wire::ListCellsResponse {
            cells: self.script.lock().unwrap().cells.clone(),
            unix_ns: 1,
            hosts: 1,
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
}

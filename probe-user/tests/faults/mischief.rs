//! Somebody between an edge and its collector who repeats messages and holds them back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::v1;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::uplink_client::UplinkClient;
use weir_proto::v1::uplink_server::{Uplink, UplinkServer};

/// Nothing is held back for longer.
const HOLD: Duration = Duration::from_millis(60);

#[derive(Debug)]
struct State {
    url: Mutex<String>,
    random: Mutex<fastrand::Rng>,
    /// Of a hundred frames.
    repeat: AtomicU32,
    hold: AtomicU32,
    repeated: AtomicU64,
    held: AtomicU64,
    cut: Mutex<CancellationToken>,
}

#[derive(Clone, Debug)]
struct Service(Arc<State>);

#[derive(Debug)]
pub(crate) struct Mischief {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

impl Mischief {
    pub(crate) async fn start(url: String, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            url: Mutex::new(url),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            repeat: AtomicU32::new(0),
            hold: AtomicU32::new(0),
            repeated: AtomicU64::new(0),
            held: AtomicU64::new(0),
            cut: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let service = UplinkServer::new(Service(state.clone()))
            .max_decoding_message_size(16 << 20)
            .accept_compressed(CompressionEncoding::Zstd);
        let serve = Server::builder().add_service(service);
        let serve = serve.serve_with_incoming(TcpListenerStream::new(listener));
        let guard = stop.clone().drop_guard();
        tokio::spawn(stop.run_until_cancelled_owned(serve));
        Self {
            address,
            state,
            _stop: guard,
        }
    }

    /// All calls end now.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.state.cut.lock().unwrap()).cancel();
    }

    /// Later calls go there.
    pub(crate) fn redirect(&self, url: String) {
        *self.state.url.lock().unwrap() = url;
    }

    pub(crate) fn repeat(&self, percent: u32) {
        self.state.repeat.store(percent, Ordering::Relaxed);
    }

    pub(crate) fn hold(&self, percent: u32) {
        self.state.hold.store(percent, Ordering::Relaxed);
    }

    /// How many frames were repeated and held back.
    pub(crate) fn done(&self) -> (u64, u64) {
        let State { repeated, held, .. } = &*self.state;
        (
            repeated.load(Ordering::Relaxed),
            held.load(Ordering::Relaxed),
        )
    }
}

impl Drop for Mischief {
    fn drop(&mut self) {
        self.cut();
    }
}

impl State {
    fn falls(&self, percent: &AtomicU32, count: &AtomicU64) -> bool {
        let percent = percent.load(Ordering::Relaxed);
        let falls = percent > 0 && self.random.lock().unwrap().u32(0..100) < percent;
        count.fetch_add(u64::from(falls), Ordering::Relaxed);
        falls
    }

    async fn forward(
        &self,
        mut from: Streaming<v1::EdgeMessage>,
        to: mpsc::Sender<v1::EdgeMessage>,
    ) {
        let mut held = Vec::new();
        loop {
            let release = tokio::time::sleep(HOLD);
            tokio::select! {
                message = from.message() => {
                    let Ok(Some(message)) = message else { return };
                    let is_frame = matches!(message.message, Some(Up::Frame(_)));
                    if is_frame && self.falls(&self.hold, &self.held) {
                        held.push(message);
                        continue;
                    }
                    let is_repeated = is_frame && self.falls(&self.repeat, &self.repeated);
                    if is_repeated {
                        // Once now, and once out of order.
                        held.push(message.clone());
                    }
                    if to.send(message).await.is_err() {
                        return;
                    }
                    if held.len() < 3 {
                        continue;
                    }
                }
                () = release, if !held.is_empty() => {}
            }
            self.random.lock().unwrap().shuffle(&mut held);
            for message in held.drain(..) {
                if to.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Uplink for Service {
    type ReportStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::EdgeMessage>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let state = self.0.clone();
        let cut = state.cut.lock().unwrap().clone();
        let url = state.url.lock().unwrap().clone();
        let from = request.into_inner();
        let (answers_to, answers) = mpsc::channel(64);
        let (to, stream) = mpsc::channel(4);
        tokio::spawn(cut.run_until_cancelled_owned(async move {
            let there = async {
                let mut client = UplinkClient::connect(url)
                    .await
                    .map_err(|err| Status::unavailable(err.to_string()))?;
                client.report(ReceiverStream::new(stream)).await
            };
            tokio::select! {
                () = state.forward(from, to) => {}
                () = async {
                    let mut back = match there.await {
                        Ok(back) => back.into_inner(),
                        Err(status) => {
                            let _ = answers_to.send(Err(status)).await;
                            return;
                        }
                    };
                    while let Some(answer) = back.message().await.transpose() {
                        let is_over = answer.is_err();
                        if answers_to.send(answer).await.is_err() || is_over {
                            return;
                        }
                    }
                } => {}
            }
        }));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

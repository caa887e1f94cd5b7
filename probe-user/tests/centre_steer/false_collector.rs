//! A collector that says what a real one never would.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use weir::steer::Scope;
use weir::steer::overrides::order::OnFail;
use weir::steer::overrides::{Action, Auth, Level, Order};
use weir::tls::Acceptor;
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::command::What;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::uplink_server::{Uplink, UplinkServer};

use crate::common::authority::Authority;

type Line = mpsc::Sender<Result<v1::CollectorMessage, Status>>;

/// What its connections share.
#[derive(Clone)]
struct Lines {
    hot: Arc<Mutex<Option<Line>>>,
    results: mpsc::Sender<v1::CommandResult>,
}

/// As a test has it.
pub(crate) struct FalseCollector {
    pub(crate) url: String,
    hot: Arc<Mutex<Option<Line>>>,
    results: mpsc::Receiver<v1::CommandResult>,
    numbers: u64,
}

#[tonic::async_trait]
impl Uplink for Lines {
    type ReportStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::EdgeMessage>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut from = request.into_inner();
        let (to, stream) = mpsc::channel(16);
        let lines = self.clone();
        tokio::spawn(async move {
            let say = |message| {
                Ok(v1::CollectorMessage {
                    message: Some(message),
                })
            };
            while let Ok(Some(message)) = from.message().await {
                match message.message {
                    Some(Up::Hello(hello)) => {
                        let welcome = v1::Welcome {
                            wire_version: weir::wire::WIRE_VERSION,
                            collector: "false".to_owned(),
                            last_seq: 0,
                        };
                        let _ = to.send(say(Down::Welcome(welcome))).await;
                        if hello.lane() == v1::Lane::Hot {
                            *lines.hot.lock().await = Some(to.clone());
                        }
                    }
                    Some(Up::Frame(frame)) => {
                        let ack = v1::Ack { seq: frame.seq };
                        let _ = to.send(say(Down::Ack(ack))).await;
                    }
                    Some(Up::CommandResult(result)) => {
                        let _ = lines.results.send(result).await;
                    }
                    _ => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn serve() -> (u16, FalseCollector) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let hot = Arc::new(Mutex::new(None));
    let (results_to, results) = mpsc::channel(64);
    let lines = Lines {
        hot: hot.clone(),
        results: results_to,
    };
    let service =
        UplinkServer::new(lines).accept_compressed(tonic::codec::CompressionEncoding::Zstd);
    let serve = Server::builder().add_service(service);
    tokio::spawn(serve.serve_with_incoming(TcpListenerStream::new(listener)));
    let collector = FalseCollector {
        url: format!("http://127.0.0.1:{port}"),
        hot,
        results,
        numbers: 0,
    };
    (port, collector)
}

pub(crate) async fn start_in_plain_text() -> FalseCollector {
    serve().await.1
}

/// With a certificate: what comes over TLS goes on in plain text within this process.
pub(crate) async fn start(authority: &Authority, directory: &Path) -> FalseCollector {
    let (port, collector) = serve().await;
    let files = authority.issue(&directory.join("false"), &["localhost"]);
    let acceptor = Arc::new(Acceptor::new(files).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let (mut socket, _) = acceptor.accept(stream).await.unwrap();
                let mut within = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut within).await;
            });
        }
    });
    FalseCollector { url, ..collector }
}

/// A weight of 70 %, in the name of `noc`.
pub(crate) fn order(id: &str, generation: u64, created_unix_ns: u64) -> Order {
    Order {
        id: id.to_owned(),
        generation,
        scope: Scope::Host,
        action: Action::Weight { permille: 700 },
        level: Level::CentralHuman,
        actor: "noc".to_owned(),
        auth: Auth::Certificate {
            name: "noc".to_owned(),
        },
        second: None,
        reason: "a test wants it".to_owned(),
        created_unix_ns,
        ttl_s: 600,
        ramp_s: 0,
        expect: None,
        on_fail: OnFail::Revert,
        is_break_glass: false,
        prev_hash: None,
    }
}

impl FalseCollector {
    /// Until a host's hot lane is there.
    pub(crate) async fn connected(&self) {
        crate::common::until("the host's hot lane", || async {
            self.hot.lock().await.as_ref().map(|_| ())
        })
        .await;
    }

    /// Sends an order, and gives what the host says to it.
    pub(crate) async fn command(&mut self, order: &Order) -> v1::CommandResult {
        self.numbers += 1;
        let command = v1::Command {
            id: "false".to_owned(),
            issued_unix_ns: weir::ui::units::now_unix_ns(),
            number: self.numbers,
            what: Some(What::Order(v1::CentralOrder {
                json: serde_json::to_string(order).unwrap(),
                reach: "host".to_owned(),
            })),
        };
        let line = self.hot.lock().await.clone().unwrap();
        let message = Some(Down::Command(command));
        line.send(Ok(v1::CollectorMessage { message }))
            .await
            .unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(30), self.results.recv()).await;
        let result = answer.unwrap().unwrap();
        assert_eq!(result.number, self.numbers);
        result
    }
}

//! The collector's door: takes connections, asks who comes, and turns away whom it does not know,
//! who says nothing, and who is too many.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::refusals::{Reason, Refusals};
use super::shares::{CONNECTIONS_OF_A_NAME, Of, Share, Shares};
use crate::tls::{self, Acceptor, Socket};

/// Connections at the same time; a host has one for each lane.
const MAX_CONNECTIONS: usize = 49_152;
/// Of these, those that have not yet shown that they speak HTTP/2 (and who they are).
const MAX_UNPROVEN: usize = 4096;
/// They have so long to do so.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections beyond a certificate's share that hear why they are turned away, at the same time; of more,
/// each is closed without a word. None lasts longer than [`PROOF_TIMEOUT`].
const MAX_SURPLUS: usize = 64;
/// Reports at the same time on one connection: a lane makes one.
const REPORTS: usize = 2;
/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
/// Connections that wait for the server to take them.
const WAITING: usize = 64;
/// When there are no descriptors left, others must end first.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// Where from.
    pub(super) address: SocketAddr,
    /// The names in its certificate; none: plain text, which comes from this host only.
    pub(super) names: Option<Arc<[String]>>,
    /// What it may take.
    pub(super) share: Arc<Share>,
    /// Of its connection.
    pub(super) reports: Arc<Semaphore>,
    /// Why nothing that it asks is done; none: it may ask.
    pub(super) surplus: Option<Arc<str>>,
}

impl Guest {
    /// Whether it may speak as `name`.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let Some(names) = &self.names else {
            return true;
        };
        names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// What its certificate says, in words.
    pub(super) fn told(&self) -> String {
        self.names
            .as_ref()
            .map_or_else(|| "nobody".to_owned(), |names| names.join(", "))
    }
}

/// Those that were let in.
pub(super) type Connections = ReceiverStream<io::Result<Connection>>;

/// Takes connections until `stop`.
pub(super) fn open(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    refusals: Arc<Refusals>,
    shares: Arc<Shares>,
    stop: CancellationToken,
) -> Connections {
    let (to, connections) = mpsc::channel(WAITING);
    let door = Arc::new(Door {
        acceptor,
        refusals,
        shares,
        to,
        room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        unproven: Arc::new(Semaphore::new(MAX_UNPROVEN)),
        surplus: Arc::new(Semaphore::new(MAX_SURPLUS)),
    });
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = door.to.closed() => return,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => door.clone().meet(stream, address),
                Err(err) => {
                    tracing::warn!("cannot take a connection: {err}");
                    sleep(PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(connections)
}

struct Door {
    acceptor: Option<Acceptor>,
    refusals: Arc<Refusals>,
    shares: Arc<Shares>,
    to: mpsc::Sender<io::Result<Connection>>,
    room: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    surplus: Arc<Semaphore>,
}

impl Door {
    fn meet(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let room = self.room.clone().try_acquire_owned();
        let unproven = self.unproven.clone().try_acquire_owned();
        let (Ok(room), Ok(unproven)) = (room, unproven) else {
            let why = "as many connections as there may be";
            return self.refusals.count(Reason::TooMany, &address, &why);
        };
        let from = self.shares.of(Of::address(address.ip()));
        let Ok(of_address) = from.unproven.clone().try_acquire_owned() else {
            let why = "as many connections that have not spoken yet as an address may have";
            return self.refusals.count(Reason::TooMany, &address, &why);
        };
        tokio::spawn(async move {
            let mut deadline = Box::pin(sleep(PROOF_TIMEOUT));
            let shaken = tokio::select! {
                shaken = self.shake(stream) => shaken,
                () = &mut deadline => {
                    let why = format!("no TLS handshake within {PROOF_TIMEOUT:?}");
                    return self.refusals.count(Reason::Silent, &address, &why);
                }
            };
            let (socket, names) = match shaken {
                Ok(shaken) => shaken,
                Err(err) => {
                    let reason = if tls::is_of_certificate(&err) {
                        Reason::Certificate
                    } else {
                        Reason::Handshake
                    };
                    let why = tls::in_words(err.to_string());
                    return self.refusals.count(reason, &address, &why);
                }
            };
            let share = match &names {
                Some(names) => self.shares.of(Of::Names(names.clone())),
                None => from.clone(),
            };
            let mut guest = Guest {
                address,
                names,
                share,
                reports: Arc::new(Semaphore::new(REPORTS)),
                surplus: None,
            };
            let of_guest = guest.share.connections.clone().try_acquire_owned();
            let of_guest = if let Ok(of_guest) = of_guest {
                of_guest
            } else {
                let why = format!(
                    "the certificate of {} has as many connections as it may: \
                     {CONNECTIONS_OF_A_NAME} for each of its names",
                    guest.told()
                );
                self.refusals.count(Reason::TooMany, &address, &why);
                let Ok(surplus) = self.surplus.clone().try_acquire_owned() else {
                    return;
                };
                guest.surplus = Some(why.into());
                surplus
            };
            let connection = Connection {
                socket,
                guest,
                proof: Some(Proof {
                    seen: 0,
                    deadline,
                    refusals: self.refusals.clone(),
                    _unproven: [unproven, of_address],
                    _from: from,
                }),
                _room: [room, of_guest],
            };
            let _ = self.to.send(Ok(connection)).await;
        });
    }

    async fn shake(&self, stream: TcpStream) -> io::Result<(Socket, Option<Arc<[String]>>)> {
        stream.set_nodelay(true)?;
        match &self.acceptor {
            Some(acceptor) => {
                let (socket, names) = acceptor.accept(stream).await?;
                Ok((socket, Some(names.into())))
            }
            None => Ok((Socket::Plain(stream), None)),
        }
    }
}

/// What is still owed by who has said nothing, or is there only to hear why it is turned away.
#[derive(Debug)]
struct Proof {
    seen: usize,
    deadline: Pin<Box<Sleep>>,
    refusals: Arc<Refusals>,
    _unproven: [OwnedSemaphorePermit; 2],
    _from: Arc<Share>,
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    guest: Guest,
    proof: Option<Proof>,
    _room: [OwnedSemaphorePermit; 2],
}

impl Connected for Connection {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buf);
        let Some(proof) = &mut this.proof else {
            return read;
        };
        let is_surplus = this.guest.surplus.is_some();
        let may_be_late = read.is_pending() || is_surplus;
        if may_be_late && proof.deadline.as_mut().poll(cx).is_ready() {
            let why = if is_surplus {
                "it has heard that it is turned away".to_owned()
            } else {
                let why = format!("it did not speak HTTP/2 within {PROOF_TIMEOUT:?}");
                let address = this.guest.address;
                proof.refusals.count(Reason::Silent, &address, &why);
                this.proof = None;
                why
            };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        ready!(read)?;
        proof.seen += buf.filled().len() - before;
        if proof.seen >= PREFACE_BYTES && !is_surplus {
            this.proof = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

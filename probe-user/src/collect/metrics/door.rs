//! The door of `/metrics`: so many connections at most, and none for who begins a request and does not
//! finish it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Connections at the same time; who comes then waits until another ends.
const MAX_CONNECTIONS: usize = 256;
/// From its first byte, or from the connection's beginning, a request is whole and its answer begins
/// within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two requests of one connection: longer than scrapes are apart.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);
/// When there are no descriptors left, others must end first.
const PAUSE: Duration = Duration::from_millis(100);

/// Where it is.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // It is never closed.
            let Ok(place) = Arc::clone(&self.room).acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => return (Connection::new(stream, place), address),
                Err(err) => {
                    tracing::warn!("/metrics cannot take a connection: {err}");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One who asks.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// A request has begun, and no answer to it.
    is_asking: bool,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            deadline: Box::pin(sleep_until(Instant::now() + REQUEST_TIMEOUT)),
            is_asking: true,
            _place: place,
        }
    }

    /// Whether its time is over; if not, it is woken then.
    fn is_late(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        let why = "nothing was finished in time";
        let late = self.deadline.as_mut().poll(cx).is_ready();
        late.then(|| io::Error::new(io::ErrorKind::TimedOut, why))
    }

    fn allow(&mut self, time: Duration) {
        self.deadline.as_mut().reset(Instant::now() + time);
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
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before && !this.is_asking {
            this.is_asking = true;
            this.allow(REQUEST_TIMEOUT);
        }
        // Also of one that sends a little again and again.
        match this.is_late(cx) {
            Some(late) => Poll::Ready(Err(late)),
            None => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        match written {
            // An answer: the request was whole.
            Poll::Ready(Ok(_)) => {
                this.is_asking = false;
                this.allow(IDLE_TIMEOUT);
            }
            Poll::Pending => {
                if let Some(late) = this.is_late(cx) {
                    return Poll::Ready(Err(late));
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

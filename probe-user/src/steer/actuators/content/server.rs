//! The HTTP server that players ask, mostly through the proxy in front of it. It has a thread and a
//! runtime of its own: what the daemon does meanwhile, or that it hangs, holds no answer up.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::Steered;

/// Of one connection. A request's head may be so long; longer ones are answered 431.
const MOST_BUFFER_BYTES: usize = 16 << 10;
/// What the kernel may hold for one connection of answers that are not read: hundreds.
const UNREAD_BYTES: usize = 64 << 10;
/// After an accept that failed: whatever is short does not come back at once.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// For those whom there is no room for. Players keep to where they are, and ask again.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nAccess-Control-Allow-Origin: *\r\n\
                      Content-Length: 0\r\nConnection: close\r\n\r\n";

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a request's head, from the connection's begin or the last answer's end.
    pub(super) request: Duration,
    /// For all of a connection; then it ends with the answer that is under way.
    pub(super) connection: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            connection: Duration::from_secs(60),
        }
    }
}

/// The running server; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(
        listener: std::net::TcpListener,
        steered: Arc<Steered>,
        patience: Patience,
    ) -> Result<Self> {
        let address = listener.local_addr().context("cannot tell the address")?;
        listener
            .set_nonblocking(true)
            .context("cannot prepare the listening socket")?;
        // Accepted sockets take it over.
        setsockopt(&listener, sockopt::SndBuf, &UNREAD_BYTES)
            .context("cannot bound what is sent and not read")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a runtime")?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).context("cannot watch the listening socket")?
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("weir-content".to_owned())
            .spawn(move || {
                let accepting = accept(&listener, &steered, patience);
                runtime.block_on(stopped.run_until_cancelled(accepting));
                // Connections end with the runtime.
            })
            .context("cannot start a thread")?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it ended by itself, which it should not.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // The address is free afterwards; a panic was told when it happened.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: &TcpListener, steered: &Arc<Steered>, patience: Patience) {
    let most = usize::try_from(steered.settings.max_connections).unwrap_or(usize::MAX);
    let room = Arc::new(Semaphore::new(most));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(err) => {
                steered.counters().not_accepted.fetch_add(1, Relaxed);
                tracing::debug!("a connection was not accepted: {err}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            steered.counters().turned_off.fetch_add(1, Relaxed);
            // What the socket does not take at once is not waited for.
            let _ = stream.try_write(FULL);
            continue;
        };
        let steered = Arc::clone(steered);
        tokio::spawn(serve(stream, peer.ip(), steered, patience, place));
    }
}

/// One connection, to its end.
async fn serve(
    stream: TcpStream,
    peer: IpAddr,
    steered: Arc<Steered>,
    patience: Patience,
    _place: OwnedSemaphorePermit,
) {
    let answered = AtomicU64::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        answered.fetch_add(1, Relaxed);
        let response = steered.answer(&request, peer);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.request)
        .max_buf_size(MOST_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = if let Ok(ended) = timeout(patience.connection, connection.as_mut()).await {
        Some(ended)
    } else {
        connection.as_mut().graceful_shutdown();
        timeout(patience.request, connection).await.ok()
    };
    // After an answer, silence is no fault: the player has its manifest.
    let is_slow = match ended {
        Some(Ok(())) => false,
        Some(Err(err)) => err.is_timeout() && answered.load(Relaxed) == 0,
        None => true,
    };
    if is_slow {
        steered.counters().slow.fetch_add(1, Relaxed);
    }
}

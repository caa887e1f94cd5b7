//! A wire that can be cut, blocked, slowed down and torn in the middle of a message.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Debug, Default)]
struct State {
    blocked: AtomicBool,
    tears: AtomicBool,
    /// Bytes each ten milliseconds; 0: all.
    slow: AtomicUsize,
    cut: Mutex<CancellationToken>,
}

#[derive(Debug)]
pub(crate) struct Wire {
    address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

impl Wire {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        tokio::spawn({
            let state = state.clone();
            stop.run_until_cancelled_owned(async move {
                while let Ok((near, _)) = listener.accept().await {
                    tokio::spawn(join(near, target, state.clone()));
                }
            })
        });
        Self {
            address,
            state,
            _stop: guard,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All connections end now.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.state.cut.lock().unwrap()).cancel();
    }

    /// Nothing gets through, and nobody is told.
    pub(crate) fn block(&self, is_blocked: bool) {
        self.state.blocked.store(is_blocked, Ordering::Relaxed);
    }

    /// The next bytes arrive by half, and then the connection ends.
    pub(crate) fn tear(&self) {
        self.state.tears.store(true, Ordering::Relaxed);
    }

    pub(crate) fn slow(&self, bytes_per_10_ms: usize) {
        self.state.slow.store(bytes_per_10_ms, Ordering::Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn join(near: TcpStream, target: SocketAddr, state: Arc<State>) {
    let cut = state.cut.lock().unwrap().clone();
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    cut.run_until_cancelled(async {
        tokio::select! {
            () = Box::pin(pump(near_read, far_write, &state)) => {}
            () = Box::pin(pump(far_read, near_write, &state)) => {}
        }
    })
    .await;
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 4096];
    loop {
        let slow = state.slow.load(Ordering::Relaxed);
        let most = if slow == 0 {
            buffer.len()
        } else {
            slow.min(buffer.len())
        };
        let Ok(read) = from.read(&mut buffer[..most]).await else {
            return;
        };
        if read == 0 {
            return;
        }
        if slow > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while state.blocked.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let is_torn = read > 1 && state.tears.swap(false, Ordering::Relaxed);
        let sent = if is_torn { read / 2 } else { read };
        if to.write_all(&buffer[..sent]).await.is_err() || is_torn {
            return;
        }
    }
}

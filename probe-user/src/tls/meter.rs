//! Counts what goes out, and keeps why TLS ended what comes in.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Socket;

/// Bytes that were handed to the kernel, or to TLS; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    written: Arc<AtomicU64>,
    /// What TLS said last; HTTP/2 tells those who ask no more than that the connection is over.
    refusal: Arc<Mutex<Option<String>>>,
}

impl Meter {
    /// Those since this was last asked.
    pub fn moved(&self) -> u64 {
        self.written.swap(0, Ordering::Relaxed)
    }

    /// Why TLS ended a connection since this was last asked.
    pub fn refusal(&self) -> Option<String> {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.take()
    }
}

/// A socket whose output is counted.
#[derive(Debug)]
pub(super) struct Metered {
    pub(super) socket: Socket,
    pub(super) meter: Meter,
}

impl Metered {
    fn counted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let written = ready!(written)?;
        self.meter
            .written
            .fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.socket).poll_read(cx, buf);
        if let Poll::Ready(Err(err)) = &read
            && err.kind() == io::ErrorKind::InvalidData
        {
            let refusal = &this.meter.refusal;
            let mut refusal = refusal.lock().unwrap_or_else(PoisonError::into_inner);
            *refusal = Some(err.to_string());
        }
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write(cx, buf);
        this.counted(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write_vectored(cx, bufs);
        this.counted(written)
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

//! The side that listens.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::files::Watch;
use super::{Error, Files, Socket, names};

/// Who is refused has so long to hear why, and may say so much meanwhile.
const LAST_WORD: Duration = Duration::from_secs(1);
const LAST_BYTES: u64 = 64 << 10;

/// Takes TLS connections of those who have a certificate of the authority's.
#[derive(Debug)]
pub struct Acceptor {
    state: Mutex<(Watch, Arc<ServerConfig>)>,
}

impl Acceptor {
    /// Reads the files.
    pub fn new(files: Files) -> Result<Self, Error> {
        let watch = Watch::new(files);
        let config = watch.files().server()?;
        Ok(Self {
            state: Mutex::new((watch, config)),
        })
    }

    /// As the files are now. Files that cannot be used leave those in force that were.
    fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (watch, config) = &mut *state;
        if watch.have_changed(Instant::now()) {
            match watch.files().server() {
                Ok(read) => {
                    *config = read;
                    tracing::info!("the certificates have changed; read again");
                }
                Err(err) => tracing::error!(
                    "the certificates have changed and cannot be used; those before stay in force: \
                     {err}"
                ),
            }
        }
        config.clone()
    }

    /// Shakes hands. Returns the connection with the names in the client's certificate.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(Socket, Vec<String>)> {
        let shaken = TlsAcceptor::from(self.current()).accept(stream);
        let stream = match shaken.into_fallible().await {
            Ok(stream) => stream,
            Err((err, stream)) => {
                part(stream).await;
                return Err(err);
            }
        };
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let names = certificate.map(names).unwrap_or_default();
        Ok((Socket::Tls(Box::new(TlsStream::Server(stream))), names))
    }
}

/// Ends a connection on which an alert was said so that the other side hears it: with TLS 1.3 a client
/// speaks before it is refused, and where something is left unread the kernel resets the connection,
/// and the alert is lost.
async fn part(mut stream: TcpStream) {
    let heard = async {
        stream.shutdown().await?;
        let mut rest = stream.take(LAST_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // It is over in any case.
    let _ = timeout(LAST_WORD, heard).await;
}

//! The side that connects.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};
use tonic::codegen::http::uri::{PathAndQuery, Scheme};
use tonic::transport::{Channel, Endpoint, Uri};

use super::files::Watch;
use super::meter::Metered;
use super::{Error, Files, Meter, Socket};
use crate::query::client::innermost;

/// For the connection and the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to one collector; clones share their files.
#[derive(Clone, Debug)]
pub struct Connector {
    uri: Uri,
    /// None: plain text.
    tls: Option<Arc<Mutex<State>>>,
    meter: Meter,
    /// With which files the latest connection was made.
    used: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    watch: Watch,
    /// Counts how often they were read again.
    generation: u64,
    /// None: they could not be used yet.
    config: Option<Arc<ClientConfig>>,
}

impl Connector {
    /// The files are read when they are needed. Without them the connection is in plain text.
    pub fn new(uri: Uri, files: Option<Files>) -> Self {
        let tls = files.map(|files| {
            Arc::new(Mutex::new(State {
                watch: Watch::new(files),
                generation: 0,
                config: None,
            }))
        });
        Self {
            uri,
            tls,
            meter: Meter::default(),
            used: Arc::default(),
        }
    }

    /// The same, with files read and renewed by both; `meter` counts what its connections send.
    #[must_use]
    pub fn metered(&self, meter: Meter) -> Self {
        Self {
            meter,
            used: Arc::default(),
            ..self.clone()
        }
    }

    /// Whom it connects to.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether the connection that was made last was made with files that have changed since, and
    /// those that are there now can be used: then it should be made anew. Files that cannot be used
    /// leave those in force that were.
    pub fn renew(&self) -> bool {
        let Some(tls) = &self.tls else {
            return false;
        };
        let mut tls = tls.lock().unwrap_or_else(PoisonError::into_inner);
        if tls.watch.have_changed(Instant::now()) {
            match tls.watch.files().client() {
                Ok(read) => {
                    tls.config = Some(read);
                    tls.generation += 1;
                    tracing::info!("the certificates have changed; read again");
                }
                Err(err) => tracing::error!(
                    "the certificates have changed and cannot be used; those before stay in \
                     force: {err}"
                ),
            }
        }
        tls.generation != self.used.load(Ordering::Relaxed)
    }

    fn config(&self) -> Result<Option<Arc<ClientConfig>>, Error> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let mut tls = tls.lock().unwrap_or_else(PoisonError::into_inner);
        if tls.config.is_none() {
            tls.config = Some(tls.watch.files().client()?);
        }
        self.used.store(tls.generation, Ordering::Relaxed);
        Ok(tls.config.clone())
    }

    /// Connects; `settings` changes what the connection does on top of TCP.
    pub async fn connect(
        &self,
        settings: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, ConnectError> {
        self.renew();
        let config = self.config()?;
        let (uri, meter) = (self.uri.clone(), self.meter.clone());
        let channel = settings(Endpoint::from(self.authority()))
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let (uri, config, meter) = (uri.clone(), config.clone(), meter.clone());
                async move {
                    let socket = dial(&uri, config).await?;
                    Ok::<_, io::Error>(TokioIo::new(Metered { socket, meter }))
                }
            }))
            .await?;
        Ok(channel)
    }

    /// TLS is this room's work and no business of tonic's, for which the scheme is always the same.
    fn authority(&self) -> Uri {
        let mut parts = self.uri.clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Uri::from_parts(parts).unwrap_or_else(|_| self.uri.clone())
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// This side's own files.
    #[error(transparent)]
    Files(#[from] Error),
    /// The way there, or the other side.
    #[error("cannot connect: {}", innermost(.0))]
    Transport(#[from] tonic::transport::Error),
}

/// Connects, and shakes hands if there is a configuration to do so by.
pub(crate) async fn dial(uri: &Uri, config: Option<Arc<ClientConfig>>) -> io::Result<Socket> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time");
    timeout(CONNECT_TIMEOUT, shake(uri, config))
        .await
        .map_err(late)?
}

async fn shake(uri: &Uri, config: Option<Arc<ClientConfig>>) -> io::Result<Socket> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let default_port = if config.is_some() { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(default_port);
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(config) = config else {
        return Ok(Socket::Plain(stream));
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|err| io::Error::new(io::ErrorKind::InvalidInput, err))?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Socket::Tls(Box::new(TlsStream::Client(stream))))
}

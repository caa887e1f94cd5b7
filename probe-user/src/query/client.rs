//! The asking side: connections to a daemon's Unix socket and to a collector, and what can go
//! wrong there, said so that the operator knows what to do next.

use std::error::Error as StdError;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group, Uid, User};
use tokio::net::UnixStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;
use weir_proto::v1::fleet_client::FleetClient;
use weir_proto::v1::local_client::LocalClient;

use crate::config::is_loopback;
use crate::tls;

/// Largest answer taken from a peer: a watch snapshot of every cell with its histograms is a few
/// megabytes at most.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Why an answer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Nothing listens at the socket.
    #[error(
        "no weir daemon at {}: {why}\nStart one with `weir run`, or name its socket with --socket.",
        socket.display()
    )]
    NoDaemon {
        /// The socket tried.
        socket: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// The socket's permissions keep this user out.
    #[error(
        "user {user} may not open {}: {allowed}\nRun this as one of those, e.g. with `sudo`.",
        socket.display()
    )]
    SocketForbidden {
        /// The socket tried.
        socket: PathBuf,
        /// Who asked.
        user: String,
        /// Whom the socket lets in.
        allowed: String,
    },
    /// The daemon looked at this user's credentials and refused.
    #[error("the daemon at {} refused user {user}: {allowed}", socket.display())]
    PeerRefused {
        /// The socket tried.
        socket: PathBuf,
        /// Who asked.
        user: String,
        /// The daemon's own words: whom it allows.
        allowed: String,
    },
    /// The files with which to show who asks.
    #[error(transparent)]
    Certificate(tls::Error),
    /// The collector's address cannot be used.
    #[error(
        "\"{url}\" is no collector address: {why}\nGive one as https://HOST:PORT, or as \
         http://127.0.0.1:PORT on this host."
    )]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The collector did not take the connection.
    #[error(
        "cannot reach the collector at {url}: {why}\nIs `weir collect` running there, and the port open?"
    )]
    CollectorUnreachable {
        /// As given.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// It was there and went away while answering.
    #[error("lost the connection to {peer}: {why}")]
    Lost {
        /// The socket or URL.
        peer: String,
        /// What was seen of it.
        why: String,
    },
    /// It refused the question itself, e.g. a prefix that is none.
    #[error("{peer} refused the request: {why}")]
    Refused {
        /// The socket or URL.
        peer: String,
        /// In its words.
        why: String,
    },
}

/// Whom a client talks to: turns a failed call into a [`QueryError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A daemon, by its socket.
    Daemon(PathBuf),
    /// A collector, by its URL.
    Collector(String),
}

impl Peer {
    /// It stopped answering in order, e.g. because it was shut down.
    pub fn ended(&self) -> QueryError {
        QueryError::Lost {
            peer: self.to_string(),
            why: "it has ended".to_owned(),
        }
    }

    /// What a call's failure means for the operator.
    pub fn error(&self, status: &Status) -> QueryError {
        let why = status.message().to_owned();
        match (self, status.code()) {
            (Self::Daemon(socket), Code::PermissionDenied | Code::Unauthenticated) => {
                QueryError::PeerRefused {
                    socket: socket.clone(),
                    user: user_name(Uid::effective()),
                    allowed: why,
                }
            }
            // A connection that broke shows itself as either, depending on who noticed first.
            (_, Code::Unavailable | Code::Unknown | Code::Cancelled) => QueryError::Lost {
                peer: self.to_string(),
                why: status.source().map_or(why, innermost),
            },
            _ => QueryError::Refused {
                peer: self.to_string(),
                why,
            },
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Daemon(socket) => write!(f, "the daemon at {}", socket.display()),
            Self::Collector(url) => write!(f, "the collector at {url}"),
        }
    }
}

/// Connects to the daemon whose query socket is `socket`.
pub async fn local(socket: &Path) -> Result<LocalClient<Channel>, QueryError> {
    let path = socket.to_owned();
    // The URI is never resolved: the connector below goes to the socket.
    let channel = Endpoint::from_static("http://weir.local")
        .connect_with_connector(service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error| socket_error(socket, &error))?;
    Ok(LocalClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// Connects to the collector at `url`: `https://HOST:PORT` with the files of a certificate, or
/// `http://HOST:PORT` on this host.
pub async fn fleet(
    url: &str,
    files: Option<tls::Files>,
) -> Result<FleetClient<Channel>, QueryError> {
    let bad = |why: &str| QueryError::BadUrl {
        url: url.to_owned(),
        why: why.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|error| bad(&format!("{error}")))?;
    match (uri.scheme_str(), &files) {
        (Some("https"), Some(_)) => {}
        (Some("https"), None) => {
            return Err(bad("https:// needs a certificate: --ca, --cert and --key"));
        }
        (Some("http"), None) if uri.host().is_some_and(is_loopback) => {}
        (Some("http"), None) => {
            return Err(bad("plain text goes to this host only; use https://"));
        }
        (Some("http"), Some(_)) => {
            return Err(bad("certificates are of no use to http://; use https://"));
        }
        _ => return Err(bad("it must begin with https:// or http://")),
    }
    if uri.port().is_none() {
        return Err(bad("it names no port"));
    }
    let connector = tls::Connector::new(uri, files);
    let channel = connector.connect(|endpoint| endpoint).await;
    let channel = channel.map_err(|error| match error {
        tls::ConnectError::Files(error) => QueryError::Certificate(error),
        tls::ConnectError::Transport(error) => QueryError::CollectorUnreachable {
            url: url.to_owned(),
            why: innermost(&error),
        },
    })?;
    Ok(FleetClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Zstd))
}

fn socket_error(socket: &Path, error: &(dyn StdError + 'static)) -> QueryError {
    let kind = chain(error)
        .find_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::PermissionDenied) => QueryError::SocketForbidden {
            socket: socket.to_owned(),
            user: user_name(Uid::effective()),
            allowed: who_may_open(socket),
        },
        Some(io::ErrorKind::NotFound) => QueryError::NoDaemon {
            socket: socket.to_owned(),
            why: "there is no such socket".to_owned(),
        },
        Some(io::ErrorKind::ConnectionRefused) => QueryError::NoDaemon {
            socket: socket.to_owned(),
            why: "the socket is there, but nothing listens on it".to_owned(),
        },
        _ => QueryError::NoDaemon {
            socket: socket.to_owned(),
            why: innermost(error),
        },
    }
}

/// Says in words whom the socket's owner, group and mode let in.
fn who_may_open(socket: &Path) -> String {
    let Ok(meta) = std::fs::metadata(socket) else {
        return "its directory is closed to this user, and it allows whom that lets in".to_owned();
    };
    let owner = user_name(Uid::from_raw(meta.uid()));
    let group = Group::from_gid(Gid::from_raw(meta.gid()))
        .ok()
        .flatten()
        .map_or_else(|| meta.gid().to_string(), |group| group.name);
    // Connecting asks for write permission (unix(7)).
    let mode = meta.permissions().mode();
    if mode & 0o002 != 0 {
        "it allows everyone, but a directory above it does not".to_owned()
    } else if mode & 0o020 != 0 {
        format!("it allows root, user {owner} and group {group}")
    } else if owner == "root" {
        "it allows root only".to_owned()
    } else {
        format!("it allows root and user {owner}")
    }
}

fn user_name(uid: Uid) -> String {
    User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// The innermost cause, without the wrappers' "transport error", and in words if it is a certificate's.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let cause = chain(error).last();
    tls::in_words(cause.map_or_else(|| error.to_string(), ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_socket_is_named_and_says_what_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("weir.sock");
        let error = local(&socket).await.unwrap_err();
        assert!(matches!(error, QueryError::NoDaemon { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(socket.to_str().unwrap()), "{text}");
        assert!(text.contains("`weir run`"), "{text}");
    }

    #[tokio::test]
    async fn a_socket_nobody_listens_on_is_told_from_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("weir.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let text = local(&socket).await.unwrap_err().to_string();
        assert!(text.contains("nothing listens on it"), "{text}");
    }

    #[test]
    fn a_closed_socket_says_whom_it_lets_in() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("weir.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o660)).unwrap();
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let text = socket_error(&socket, &denied).to_string();
        let group = Group::from_gid(Gid::effective()).unwrap().unwrap().name;
        assert!(text.contains(&format!("group {group}")), "{text}");
        assert!(text.contains("may not open"), "{text}");

        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = socket_error(&socket, &denied).to_string();
        assert!(!text.contains("group"), "{text}");
    }

    #[test]
    fn a_refusal_by_credentials_passes_on_whom_the_daemon_allows() {
        let peer = Peer::Daemon("/run/weir/weir.sock".into());
        let error = peer.error(&Status::permission_denied(
            "only root and group weir may ask",
        ));
        assert!(
            error
                .to_string()
                .contains("only root and group weir may ask")
        );
    }

    #[tokio::test]
    async fn an_unreachable_collector_is_named() {
        // Bound and dropped: a port of loopback on which nothing listens.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let url = format!("http://127.0.0.1:{port}");
        let text = fleet(&url, None).await.unwrap_err().to_string();
        assert!(text.contains(&url), "{text}");
        assert!(text.contains("refused"), "{text}");
    }

    #[tokio::test]
    async fn an_address_that_is_no_url_is_refused_with_the_form_wanted() {
        for url in ["collector", "https://c:1", "http://collector", "http://a b"] {
            let text = fleet(url, None).await.unwrap_err().to_string();
            assert!(text.contains("https://HOST:PORT"), "{url}: {text}");
        }
    }
}

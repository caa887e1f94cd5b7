//! The three files of each side, and when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig, client::Resumption, version::TLS13,
};

use super::{ALPN, provider};

/// Between two looks at whether the files have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One cannot be read.
    #[error("cannot read the {what} {}: {why}", path.display())]
    Unreadable {
        /// Which of them.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system or the PEM reader said.
        why: String,
    },
    /// One has nothing in it.
    #[error("{} holds no {what}; it must be PEM", path.display())]
    Empty {
        /// What it should hold.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// They do not fit one another.
    #[error("{} and {} cannot be used: {why}", cert.display(), key.display())]
    Unfit {
        /// The certificate.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
        /// What rustls said.
        why: String,
    },
}

/// Who this side is, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The authority's certificates, PEM: who has none of theirs is refused.
    pub ca: PathBuf,
    /// This side's certificate, and those between it and the authority's.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn roots(ca: &Path) -> Result<Arc<RootCertStore>, Error> {
    let what = "authority's certificate";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, what)? {
        roots.add(certificate).map_err(|err| Error::Unreadable {
            what,
            path: ca.to_owned(),
            why: err.to_string(),
        })?;
    }
    Ok(Arc::new(roots))
}

/// For asking a server over HTTP that this side shows no certificate: it is believed by those of `ca`,
/// or by the system's.
pub(crate) fn one_sided(ca: Option<&Path>) -> Result<Arc<ClientConfig>, Error> {
    let roots = if let Some(ca) = ca {
        roots(ca)?
    } else {
        let mut roots = RootCertStore::empty();
        // What of the system's cannot be used is no reason to believe less of the rest.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    let unusable = |why: &dyn std::fmt::Display| Error::Unreadable {
        what: "authorities' certificates",
        path: ca.unwrap_or(Path::new("/etc/ssl/certs")).to_owned(),
        why: why.to_string(),
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|err| unusable(&err))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|err| unusable(&err))?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl Files {
    fn roots(&self) -> Result<Arc<RootCertStore>, Error> {
        roots(&self.ca)
    }

    fn identity(&self) -> Result<Identity, Error> {
        let chain = certificates(&self.cert, "certificate")?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|err| unreadable(&self.key, "private key", &err))?;
        Ok((chain, key))
    }

    fn unfit(&self, why: &impl ToString) -> Error {
        Error::Unfit {
            cert: self.cert.clone(),
            key: self.key.clone(),
            why: why.to_string(),
        }
    }

    /// Reads them, for the side that listens.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let (chain, key) = self.identity()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(|err| self.unfit(&err))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|err| self.unfit(&err))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|err| self.unfit(&err))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Reads them, for the side that connects.
    pub fn client(&self) -> Result<Arc<ClientConfig>, Error> {
        let (chain, key) = self.identity()?;
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots()?, provider())
            .build()
            .map_err(|err| self.unfit(&err))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|err| self.unfit(&err))?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain, key)
            .map_err(|err| self.unfit(&err))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

fn unreadable(path: &Path, what: &'static str, err: &rustls::pki_types::pem::Error) -> Error {
    match err {
        rustls::pki_types::pem::Error::NoItemsFound => Error::Empty {
            what,
            path: path.to_owned(),
        },
        err => Error::Unreadable {
            what,
            path: path.to_owned(),
            why: err.to_string(),
        },
    }
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|err| unreadable(path, what, &err))?
        .collect();
    let read = read.map_err(|err| unreadable(path, what, &err))?;
    if read.is_empty() {
        return Err(Error::Empty {
            what,
            path: path.to_owned(),
        });
    }
    Ok(read)
}

/// What tells one content of the files from another: time, length and inode of each.
type Stamp = [Option<(SystemTime, u64, u64)>; 3];

/// Looks now and then whether the files have changed.
#[derive(Debug)]
pub(super) struct Watch {
    files: Files,
    stamp: Stamp,
    looked: Instant,
}

impl Watch {
    /// To be made before the files are read.
    pub(super) fn new(files: Files) -> Self {
        Self {
            stamp: stamp(&files),
            files,
            looked: Instant::now(),
        }
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Whether they have changed since this was last said.
    pub(super) fn have_changed(&mut self, now: Instant) -> bool {
        if now.duration_since(self.looked) < LOOK_INTERVAL {
            return false;
        }
        self.looked = now;
        let stamp = stamp(&self.files);
        std::mem::replace(&mut self.stamp, stamp) != stamp
    }
}

fn stamp(files: &Files) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    [&files.ca, &files.cert, &files.key].map(|path| {
        let metadata = path.metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    })
}

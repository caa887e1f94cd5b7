//! Mutual TLS between edges, collectors and operators: who may speak, by certificates of one
//! authority.
//!
//! The files are read again when they change, so that a certificate is renewed without a restart.
//! TLS 1.3 only, without resumption: every connection shows its certificate anew. What a name is
//! allowed to do is decided where it is asked for, not here.

mod client;
mod files;
mod meter;
mod server;
mod socket;
mod words;

pub(crate) use client::dial;
pub use client::{ConnectError, Connector};
pub(crate) use files::one_sided;
pub use files::{Error, Files};
pub use meter::Meter;
pub use server::Acceptor;
pub use socket::Socket;
pub(crate) use words::{in_words, is_of_certificate};

use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// What gRPC is called in a TLS handshake (RFC 7301, RFC 9113).
const ALPN: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The DNS names that a certificate was issued for, in lower case. Wildcards are left out: they name
/// nobody.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    parsed
        .valid_dns_names()
        .filter(|name| !name.contains('*'))
        .map(str::to_ascii_lowercase)
        .collect()
}

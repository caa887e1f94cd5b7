//! Certificates of the bench's own: the centre commands nobody without.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use weir::tls::Files;

/// An authority that lives as long as what it has certified.
#[derive(Debug)]
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Writes the files of one who is called so into a directory of that name.
    pub(super) fn issue(&self, directory: &Path, name: &str) -> Result<Files> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let own = directory.join(name);
        fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
        let write = |file: &str, text: &str| {
            let path = own.join(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(path)
        };
        Ok(Files {
            ca: write("ca.pem", &self.pem)?,
            cert: write("cert.pem", &certificate.pem())?,
            key: write("key.pem", &key.serialize_pem())?,
        })
    }
}

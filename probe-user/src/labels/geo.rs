//! A database of networks (MMDB): which network an address is in, and what it is called.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use ipnet::IpNet;
use maxminddb::{PathElement, Reader};
use serde::de::DeserializeOwned;

use super::Name;
use super::network::database_name;
use crate::config::MmdbField;

/// A larger file is none that is meant: the largest there is has some 500 MB.
const MOST_BYTES: u64 = 2 << 30;

/// A database, in memory.
#[derive(Debug)]
pub struct Geo {
    reader: Reader<Vec<u8>>,
    field: MmdbField,
}

impl Geo {
    /// Reads a database, of which `field` names a network.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn open(path: &Path, field: MmdbField) -> anyhow::Result<Self> {
        let doing = || format!("cannot use {} (labels.mmdb)", path.display());
        let len = std::fs::metadata(path).with_context(doing)?.len();
        anyhow::ensure!(len <= MOST_BYTES, "{}: it is too large", doing());
        let reader = Reader::open_readfile(path).with_context(doing)?;
        let kind = &reader.metadata().database_type;
        tracing::info!(path = %path.display(), kind, "naming client networks by a database");
        Ok(Self { reader, field })
    }

    /// The network that `address` is in, if it has a name. What is broken in the database has none.
    pub fn network(&self, address: IpAddr) -> Option<(IpNet, Name)> {
        let address = address.to_canonical();
        let found = self.reader.lookup(address).ok()?;
        let name = match self.field {
            MmdbField::AsNumber => {
                let number: u32 = Self::value(&found, &["autonomous_system_number"])?;
                format!("AS{number}")
            }
            MmdbField::AsOrganization => Self::value(&found, &["autonomous_system_organization"])?,
            // Where it is; where it is registered, if that is all that is known.
            MmdbField::Country => Self::value(&found, &["country", "iso_code"])
                .or_else(|| Self::value(&found, &["registered_country", "iso_code"]))?,
            MmdbField::City => Self::value(&found, &["city", "names", "en"])?,
        };
        let network = found.network().ok()?;
        let prefix = IpNet::new(network.ip(), network.prefix()).ok()?;
        // An IPv4 address in a tree of IPv6 is told as it was asked for.
        let same_family = prefix.addr().is_ipv4() == address.is_ipv4();
        let prefix = if same_family { prefix } else { address.into() };
        Some((prefix, database_name(&name)?))
    }

    fn value<T: DeserializeOwned>(
        found: &maxminddb::LookupResult<'_, Vec<u8>>,
        path: &[&str],
    ) -> Option<T> {
        let path: Vec<_> = path.iter().map(|key| PathElement::Key(key)).collect();
        found.decode_path(&path).ok()?
    }
}

#[cfg(test)]
pub(crate) mod tests;

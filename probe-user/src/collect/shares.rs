//! What one guest may take of the collector, so that none takes what others need: a certificate of
//! connections and of memory, an address of connections that have not said who they are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// For each name in a certificate: a host has five lanes, and those before may not be known to be
/// gone.
pub(super) const CONNECTIONS_OF_A_NAME: usize = 32;
/// Of an address, connections that have not shown yet who they are.
const UNPROVEN_OF_AN_ADDRESS: usize = 1024;
/// Of all messages that are on their way in, in units.
const UNITS: usize = (256 << 20) / UNIT_BYTES;
/// Of these, for each name in a certificate.
const UNITS_OF_A_NAME: usize = (16 << 20) / UNIT_BYTES;
/// And for plain text, which comes from this host only.
const UNITS_IN_PLAIN_TEXT: usize = (64 << 20) / UNIT_BYTES;
/// Messages are counted in units of so many bytes.
pub(super) const UNIT_BYTES: usize = 1024;

/// Whose share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of {
    /// A certificate's, by the names in it.
    Names(Arc<[String]>),
    /// An address's, before it is known whose; of IPv6 a network's, in which one machine has all.
    Address(IpAddr),
}

impl Of {
    /// The share of an address.
    pub(super) fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(network.into())
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// A share; who has it holds it while he is there.
#[derive(Debug)]
pub(super) struct Share {
    of: Of,
    all: Weak<Shares>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) unproven: Arc<Semaphore>,
    pub(super) units: Arc<Semaphore>,
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade() {
            let mut shares = all.shares.lock().unwrap_or_else(PoisonError::into_inner);
            // There may be a new one already.
            let is_gone = |share: &Weak<Self>| share.strong_count() == 0;
            if shares.get(&self.of).is_some_and(is_gone) {
                shares.remove(&self.of);
            }
        }
    }
}

/// Those of all who are there.
#[derive(Debug)]
pub(super) struct Shares {
    shares: Mutex<HashMap<Of, Weak<Share>>>,
    /// What all have together of messages on their way in.
    pub(super) units: Arc<Semaphore>,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            shares: Mutex::default(),
            units: Arc::new(Semaphore::new(UNITS)),
        }
    }
}

impl Shares {
    pub(super) fn of(self: &Arc<Self>, of: Of) -> Arc<Share> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&of).and_then(Weak::upgrade) {
            return share;
        }
        let (connections, units) = match &of {
            Of::Names(names) => {
                let names = names.len().max(1);
                (
                    names.saturating_mul(CONNECTIONS_OF_A_NAME),
                    names.saturating_mul(UNITS_OF_A_NAME).min(UNITS / 2),
                )
            }
            // All that come in plain text come from here; how many there may be is the door's.
            Of::Address(_) => (Semaphore::MAX_PERMITS, UNITS_IN_PLAIN_TEXT),
        };
        let share = Arc::new(Share {
            of: of.clone(),
            all: Arc::downgrade(self),
            connections: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            unproven: Arc::new(Semaphore::new(UNPROVEN_OF_AN_ADDRESS)),
            units: Arc::new(Semaphore::new(units)),
        });
        shares.insert(of, Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_one_while_somebody_has_it_and_nothing_is_kept_afterwards() {
        let shares = Arc::new(Shares::default());
        let names = || Of::Names(Arc::from(["edge-1".to_owned()]));
        let (one, same) = (shares.of(names()), shares.of(names()));
        assert!(Arc::ptr_eq(&one, &same));
        assert_eq!(one.connections.available_permits(), CONNECTIONS_OF_A_NAME);
        let other = shares.of(Of::address("192.0.2.1".parse().unwrap()));
        assert!(!Arc::ptr_eq(&one, &other));
        assert_eq!(shares.shares.lock().unwrap().len(), 2);
        drop((one, same, other));
        assert!(shares.shares.lock().unwrap().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let of = |address: &str| Of::address(address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}

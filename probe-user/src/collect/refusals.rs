//! Who was turned away, by why.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_proto::v1;

use crate::throttle::Throttle;

const WARNING_INTERVAL: Duration = Duration::from_secs(5);

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// There are as many connections as there may be.
    TooMany,
    /// The TLS handshake failed.
    Handshake,
    /// It failed because of the certificate, or because there is none.
    Certificate,
    /// Nothing was said in time.
    Silent,
    /// The hello cannot be used.
    Hello,
    /// The certificate is another's.
    Identity,
    /// There is no room for another host.
    Full,
    /// Asked what only operators may.
    Operator,
}

impl Reason {
    const ALL: [Self; 8] = [
        Self::TooMany,
        Self::Handshake,
        Self::Certificate,
        Self::Silent,
        Self::Hello,
        Self::Identity,
        Self::Full,
        Self::Operator,
    ];

    /// As the wire and the log say it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::Handshake => "handshake",
            Self::Certificate => "certificate",
            Self::Silent => "silent",
            Self::Hello => "hello",
            Self::Identity => "identity",
            Self::Full => "full",
            Self::Operator => "operator",
        }
    }
}

/// Counts them, and says so in the log now and then.
#[derive(Debug)]
pub(super) struct Refusals {
    counts: [AtomicU64; Reason::ALL.len()],
    told: Mutex<Throttle>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            told: Mutex::new(Throttle::new(WARNING_INTERVAL)),
        }
    }
}

impl Refusals {
    /// Counts one. `who` is an address.
    pub(super) fn count(
        &self,
        reason: Reason,
        who: &dyn std::fmt::Debug,
        why: &dyn std::fmt::Display,
    ) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(withheld) = told.pass(Instant::now()) {
            let reason = reason.as_str();
            tracing::warn!(?who, reason, withheld, "refused: {why}");
        }
    }

    /// All reasons there are.
    pub(super) fn reasons() -> impl Iterator<Item = &'static str> {
        Reason::ALL.into_iter().map(Reason::as_str)
    }

    /// Of all reasons together.
    pub(super) fn total(&self) -> u64 {
        let counts = self.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Those that there were.
    pub(super) fn message(&self) -> Vec<v1::Refusals> {
        Reason::ALL
            .into_iter()
            .map(|reason| v1::Refusals {
                reason: reason.as_str().to_owned(),
                count: self.counts[reason as usize].load(Ordering::Relaxed),
            })
            .filter(|refusals| refusals.count > 0)
            .collect()
    }
}

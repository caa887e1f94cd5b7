//! An account of a viewer by someone who is not the player: weir, or a baseline. What is judged.

use std::net::Ipv4Addr;

use serde::Serialize;

use super::scenario::{Blame, Failure, Tier};

/// A stall that was told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stall {
    /// When playback stopped, by the estimate.
    pub begin_unix_ns: u64,
    /// The same as it was first told, before anything better was known.
    pub first_begin_unix_ns: u64,
    /// When it went on; 0: it was not seen to.
    pub end_unix_ns: u64,
    /// When this was first said.
    pub told_unix_ns: u64,
    /// Who is blamed.
    pub cause: Option<Blame>,
}

/// A warning that the object under way will miss its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// When it was said.
    pub told_unix_ns: u64,
    /// When it was taken back, or came true; 0: never.
    pub until_unix_ns: u64,
}

/// An estimate between its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "as on the wire")]
pub struct Estimate {
    pub low: u64,
    pub point: u64,
    pub high: u64,
}

/// What is said of one viewer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ViewerSaid {
    /// How the teller names it.
    pub key: String,
    /// Its session id, where that is known.
    pub sid: String,
    /// The client's address.
    pub client: Option<Ipv4Addr>,
    /// By what evidence.
    pub tier: Option<Tier>,
    /// When its first request came.
    pub attempt_unix_ns: u64,
    /// When it began to play; 0: it did not.
    pub started_unix_ns: u64,
    /// First request to first frame.
    pub startup_us: u64,
    /// Why it never began, if that is what is said.
    pub failed: Option<Failure>,
    /// Its stalls, without those that were taken back.
    pub stalls: Vec<Stall>,
    /// Told, and taken back later.
    pub retracted: Vec<Stall>,
    /// Whether no more will be said of it.
    pub is_over: bool,
    /// Several viewers were found behind it, and it is in no number.
    pub is_excluded: bool,
    /// Warnings.
    pub warnings: Vec<Warning>,
    /// Wall clock from the first request to the end, without pauses.
    pub watched_us: u64,
    /// Of it, stalled.
    pub stalled_us: Estimate,
    /// Who is blamed for all its deliveries.
    pub blame: Option<Blame>,
    /// The same for a human.
    pub verdict: String,
    /// The buffer over time: Unix nanoseconds and microseconds of media.
    #[serde(skip)]
    pub buffer: Vec<(u64, u64)>,
}

impl ViewerSaid {
    /// The same without what began later, in Unix milliseconds.
    #[must_use]
    pub fn until(&self, t_ms: u64) -> Self {
        let t_ns = t_ms.saturating_mul(1_000_000);
        let mut said = self.clone();
        said.stalls.retain(|stall| stall.begin_unix_ns <= t_ns);
        said.retracted.retain(|stall| stall.begin_unix_ns <= t_ns);
        said.warnings.retain(|warning| warning.told_unix_ns <= t_ns);
        said
    }

    /// Its stalls as they were first told, those that were taken back included.
    pub fn as_told(&self) -> Vec<Stall> {
        let all = self.stalls.iter().chain(&self.retracted);
        all.map(|stall| Stall {
            begin_unix_ns: stall.first_begin_unix_ns,
            ..*stall
        })
        .collect()
    }

    /// Stalled time per watched time.
    pub fn rebuffer_ratio(&self) -> Option<f64> {
        (self.watched_us > 0).then(|| self.stalled_us.point as f64 / self.watched_us as f64)
    }
}

//! What stands behind a collector: nothing (it works alone, all in memory), or a distributed
//! engine that every frame is handed to before it is acknowledged, so that collectors are
//! interchangeable.
//!
//! Never in front of the operator: a collector merges what its hosts send at once, whatever the
//! engine does.

mod carried;
mod follow;
mod nats;
mod publish;
mod streams;
mod tally;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use weir_proto::v1;

pub(super) use nats::{Following, Nats, Tasks};

/// Why a frame is not in the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// As much waits for the engine as may.
    #[error("the engine takes nothing and its buffer is full")]
    Full,
    /// The engine would never take it.
    #[error("a frame of {bytes} bytes is more than the NATS server takes (max_payload)")]
    TooLarge {
        /// Its size there.
        bytes: usize,
    },
    /// The collector is ending.
    #[error("the collector is shutting down")]
    Ended,
}

/// Becomes known when the engine has acknowledged a frame, or never will.
pub(super) type Receipt = oneshot::Receiver<Result<(), Error>>;

/// What is behind the collector.
#[derive(Debug)]
pub(super) enum Engine {
    /// Nothing: what is merged here is all there is.
    Embedded,
    /// The streams of a NATS server.
    Nats(Arc<Nats>),
}

impl Engine {
    /// Hands a frame over. None: there is nothing to wait for. `merged_in`: the holding of its partition
    /// in which it is merged already.
    pub(super) fn hand_over(
        &self,
        hello: &v1::Hello,
        frame: &v1::Frame,
        heard_unix_ns: u64,
        merged_in: Option<u64>,
    ) -> Result<Option<Receipt>, Error> {
        match self {
            Self::Embedded => Ok(None),
            Self::Nats(nats) => nats
                .hand_over(hello, frame, heard_unix_ns, merged_in)
                .map(Some),
        }
    }

    /// How it is; none: there is none.
    pub(super) fn status(&self) -> Option<v1::EngineStatus> {
        match self {
            Self::Embedded => None,
            Self::Nats(nats) => Some(nats.counts().status()),
        }
    }
}

/// What became of frames on their way through the engine; cumulative.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// The server can be reached.
    pub(super) is_connected: AtomicBool,
    /// Frames that it has acknowledged.
    pub(super) acknowledged: AtomicU64,
    /// Frames that it had already, by another collector or another attempt.
    pub(super) repeated: AtomicU64,
    /// Times that a frame had to be sent again.
    pub(super) retried: AtomicU64,
    /// Frames that found the buffer full.
    pub(super) unbuffered: AtomicU64,
    /// Frames that were too large.
    pub(super) too_large: AtomicU64,
    /// Bytes that wait.
    pub(super) waiting_bytes: AtomicU64,
    /// Other collectors' frames, and those from before this one's start.
    pub(super) followed: AtomicU64,
    /// Of these, what could not be used.
    pub(super) unusable: AtomicU64,
    /// All that was there at the start has been taken in.
    pub(super) is_rebuilt: AtomicBool,
    errors: Mutex<[String; Part::COUNT]>,
}

/// What may fail by itself.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// The connection, and the publishing of hot and warm frames.
    Frames,
    /// The publishing of cold frames, which have a stream of their own.
    Cold,
    /// Taking in what others published.
    Follow,
    /// Making streams.
    Streams,
    /// Working together with other collectors.
    Others,
}

impl Part {
    const COUNT: usize = Self::Others as usize + 1;

    /// What does not work if it fails.
    fn so(self) -> &'static str {
        match self {
            Self::Frames => "frames wait, and hosts are not acknowledged",
            Self::Cold => "finished deliveries wait, and are not acknowledged",
            Self::Follow => "what other collectors take of the partitions of this one is not told",
            Self::Streams => "it is tried again, and all else goes on",
            Self::Others => "answers say what is missing in them",
        }
    }
}

impl Counts {
    fn status(&self) -> v1::EngineStatus {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        v1::EngineStatus {
            connected: self.is_connected.load(Ordering::Relaxed),
            error: self.error(),
            rebuilt: self.is_rebuilt.load(Ordering::Relaxed),
            frames_acknowledged: count(&self.acknowledged),
            frames_repeated: count(&self.repeated),
            frames_retried: count(&self.retried),
            frames_unbuffered: count(&self.unbuffered),
            frames_too_large: count(&self.too_large),
            waiting_bytes: count(&self.waiting_bytes),
            frames_followed: count(&self.followed),
            frames_unusable: count(&self.unusable),
        }
    }

    /// All that is wrong; empty: nothing.
    fn error(&self) -> String {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let said = errors.iter().filter(|error| !error.is_empty());
        said.map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// Says once what is wrong with a part, until it is something else.
    fn fail(&self, part: Part, why: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let error = &mut errors[part as usize];
        if *error == why {
            tracing::debug!("the engine: {why}");
        } else {
            tracing::warn!("the engine: {why}; {}", part.so());
            why.clone_into(error);
        }
    }

    fn works(&self, part: Part) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let error = &mut errors[part as usize];
        if !error.is_empty() {
            tracing::info!("the engine works again: no more \"{error}\"");
            error.clear();
        }
    }

    fn add(&self, count: impl FnOnce(&Self) -> &AtomicU64) {
        count(self).fetch_add(1, Ordering::Relaxed);
    }
}

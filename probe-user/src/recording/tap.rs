//! The daemon's end of a recording: gathers what is said into blocks and hands them to whoever
//! records, without ever waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use weir_proto::v1;

use super::{Said, entry};

/// A block is handed on when it is so long, or a second old.
const BLOCK_BYTES: usize = 64 * 1024;
/// The longest entry of fixed length fits behind that.
const BLOCK_ROOM: usize = BLOCK_BYTES + 1024;
/// Blocks that wait for the recorder: 16 MiB, more than both rings hold unless they are configured
/// larger, since one sweep may take out all that is in them.
pub const BLOCKS_WAITING: usize = 256;

/// What is handed on at a time.
#[derive(Clone, Debug)]
pub struct Block {
    /// What was said.
    pub said: v1::RecordBlock,
    /// Records that found no room before it; it says so itself.
    pub missing: u64,
    /// What was in force when it began.
    pub state: State,
}

/// What a recording that begins here must know of what was said before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// All that was counted.
    pub losses: v1::Losses,
    /// Unix time less monotonic time.
    pub unix_minus_monotonic_ns: i64,
    /// The settings and names.
    pub settings: Arc<v1::RecordedSettings>,
}

/// Passes on what is said.
#[derive(Debug)]
pub struct Tap {
    to: mpsc::Sender<Block>,
    state: State,
    entries: Vec<u8>,
    first_ns: u64,
    last_ns: u64,
    records: u64,
    /// Records of blocks that found no room since the last one that did; none: all found it.
    missing: Option<u64>,
    /// The latest change of settings: said again after a gap, which may have swallowed it.
    settings: Option<Arc<v1::RecordedSettings>>,
    dropped: Arc<AtomicU64>,
}

impl Tap {
    /// A tap and the end where blocks come out. `dropped` counts the records that find no room;
    /// `now_ns` is the time at which it begins.
    pub fn new(dropped: Arc<AtomicU64>, now_ns: u64) -> (Self, mpsc::Receiver<Block>) {
        let (to, blocks) = mpsc::channel(BLOCKS_WAITING);
        let tap = Self {
            to,
            state: State::default(),
            entries: Vec::with_capacity(BLOCK_ROOM),
            first_ns: now_ns,
            last_ns: now_ns,
            records: 0,
            missing: None,
            settings: None,
            dropped,
        };
        (tap, blocks)
    }

    /// Whether nobody records any more.
    pub fn is_closed(&self) -> bool {
        self.to.is_closed()
    }

    /// Whether what is said next begins a block, which must [know](Self::begin_block) what is in
    /// force.
    pub fn is_between_blocks(&self) -> bool {
        self.entries.is_empty()
    }

    /// Tells what is in force before a block begins.
    pub fn begin_block(&mut self, state: State) {
        self.state = state;
    }

    /// Takes down one thing that was said.
    pub fn hear(&mut self, said: &Said<'_>) {
        if let Some(now_ns) = said.now_ns() {
            self.last_ns = now_ns;
        }
        if self.entries.is_empty() {
            self.first_ns = self.last_ns;
            self.say_what_is_missing();
        }
        if let Said::Settings(settings) = said {
            self.settings = Some(settings.clone());
        }
        entry::append(&mut self.entries, said);
        self.records += u64::from(matches!(said, Said::Record { .. }));
        if self.entries.len() >= BLOCK_BYTES {
            self.flush();
        }
    }

    fn say_what_is_missing(&mut self) {
        let Some(records) = self.missing else { return };
        let now_ns = self.last_ns;
        entry::append(&mut self.entries, &Said::Missing { now_ns, records });
        if let Some(settings) = &self.settings {
            entry::append(&mut self.entries, &Said::Settings(settings.clone()));
        }
    }

    /// Hands on what there is.
    pub fn flush(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        match self.to.try_reserve() {
            Ok(place) => {
                let entries = std::mem::replace(&mut self.entries, Vec::with_capacity(BLOCK_ROOM));
                place.send(Block {
                    said: v1::RecordBlock {
                        entries: entries.into(),
                        first_monotonic_ns: self.first_ns,
                        last_monotonic_ns: self.last_ns,
                        records: self.records,
                    },
                    missing: self.missing.take().unwrap_or(0),
                    state: std::mem::take(&mut self.state),
                });
            }
            Err(mpsc::error::TrySendError::Full(())) => {
                self.entries.clear();
                self.missing = Some(self.missing.unwrap_or(0) + self.records);
                self.dropped.fetch_add(self.records, Ordering::Relaxed);
            }
            // The recorder has all that it wants.
            Err(mpsc::error::TrySendError::Closed(())) => self.entries.clear(),
        }
        self.records = 0;
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.flush();
    }
}

//! One line of the journal, and the chain that binds each to the one before.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::steer::Position;
use crate::steer::central::Central;
use crate::steer::overrides::order::hex;
use crate::steer::overrides::{Book, Moment, Order};
use crate::steer::policy::Decision;
use crate::steer::validation::Report;

/// What the first line of all is chained to.
pub const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Bytes of a line; longer ones are refused when written and are damage when read.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// What is written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A file's first line: where the chain stands, so that each file can be verified by itself.
    Opened {
        /// Of the last line of the file before.
        prev_file_hash: String,
        version: String,
    },
    /// An order was taken.
    Order(Order),
    /// Somebody wanted what they may not, or what cannot be done.
    Refused {
        who: String,
        what: String,
        why: String,
    },
    Decision(Decision),
    /// What the actuators are about to hold.
    Position(Position),
    /// What an actuator answered.
    Actuated {
        actuator: String,
        generation: u64,
        /// None: it did.
        error: Option<String>,
        /// What was answered, where somebody answers in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        said: Option<String>,
    },
    /// A validation window ended.
    Verdict(Report),
    /// What must be known after a restart.
    Checkpoint(Checkpoint),
    /// The end of a file was torn and was cut off.
    Repaired {
        cut_bytes: u64,
    },
    /// What a collector has ordered, and how far it is.
    Central(Box<Central>),
    /// Anything else worth keeping.
    Note(String),
}

/// What must be known after a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub book: Book,
    pub generation: u64,
    pub decisions: u64,
    /// When it was kept.
    pub kept: Moment,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Grows by one with each line, over all files.
    pub seq: u64,
    pub unix_ns: u64,
    pub boot_ns: u64,
    pub body: Body,
    /// Of the line before.
    pub prev_hash: String,
}

const BEFORE_HASH: &str = "{\"hash\":\"";
const BEFORE_ENTRY: &str = "\",\"entry\":";
const AFTER_ENTRY: &str = "}\n";

/// The hash of an entry's text.
pub(super) fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// A line as it stands in the file, with its end. The text is hashed as it is written, so that
/// nothing has to be written the same twice.
pub(super) fn line(text: &str) -> String {
    let hash = hash(text);
    format!("{BEFORE_HASH}{hash}{BEFORE_ENTRY}{text}{AFTER_ENTRY}")
}

/// The hash that a line says, and its entry's text. None: it is not as weir writes it.
pub(super) fn parts(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix(BEFORE_HASH)?;
    let (hash, rest) = rest.split_at_checked(BEGINNING.len())?;
    let text = rest.strip_prefix(BEFORE_ENTRY)?.strip_suffix(AFTER_ENTRY)?;
    Some((hash, text))
}

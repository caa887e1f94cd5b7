//! The journal read and verified, offline: nothing of it needs a daemon.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::entry::{BEGINNING, Body, Checkpoint, Entry, MAX_LINE_BYTES, hash, parts};

/// What is wrong with a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the line is no entry: {0}")]
    NoEntry(String),
    #[error("the entry was changed: its hash is {found} and the line says {said}")]
    Changed { found: String, said: String },
    #[error(
        "a line is missing or out of order here: it follows {said} and the one before is {found}"
    )]
    Broken { found: String, said: String },
    #[error("entry {found} stands where {expected} should")]
    Number { found: u64, expected: u64 },
    #[error("the first line of a file must say where the chain stands")]
    NotOpened,
    #[error(
        "the file ends in the middle of a line ({bytes} bytes): it was torn by a crash, or cut"
    )]
    Torn { bytes: u64 },
    #[error("the oldest files are gone: it begins with entry {first}")]
    BeginsLate { first: u64 },
}

/// Where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub file: PathBuf,
    /// From 1.
    pub line: u64,
    pub damage: Damage,
}

impl Finding {
    /// Whether it is what bounding the journal brings with it, and a crash, and no tampering.
    pub fn is_expected(&self) -> bool {
        matches!(self.damage, Damage::BeginsLate { .. } | Damage::Torn { .. })
    }
}

/// What a journal was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub files: usize,
    pub entries: u64,
    /// Of the last good line: whoever has noted it elsewhere knows whether the end was cut off.
    pub last_hash: Option<String>,
    pub last_seq: Option<u64>,
    pub findings: Vec<Finding>,
}

impl Verified {
    /// Whether nothing was changed, removed, put in or put elsewhere.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(Finding::is_expected)
    }
}

/// One file's place in the chain.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub(super) next_seq: u64,
    pub(super) last_hash: String,
    /// Of what is whole.
    pub(super) good_bytes: u64,
    pub(super) torn_bytes: u64,
}

/// The files of a journal, oldest first: `steer.journal.3`, `steer.journal.2`, `steer.journal`.
///
/// # Errors
/// The directory cannot be read.
pub fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut numbered = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let own = entry.file_name();
        let number = own.to_str().and_then(|own| {
            own.strip_prefix(name.as_ref())?
                .strip_prefix('.')?
                .parse()
                .ok()
        });
        if let Some(number) = number {
            numbered.push((std::cmp::Reverse::<u64>(number), entry.path()));
        }
    }
    numbered.sort();
    let mut files: Vec<_> = numbered.into_iter().map(|(_, path)| path).collect();
    if path.exists() {
        files.push(path.to_owned());
    }
    Ok(files)
}

/// Reads all files and shows each good entry; tells all that is wrong.
///
/// # Errors
/// A file cannot be read.
pub fn read(path: &Path, mut show: impl FnMut(&Entry)) -> std::io::Result<Verified> {
    let mut verified = Verified::default();
    let mut before = None;
    let all = files(path)?;
    if all.is_empty() {
        let why = format!("there is no journal {}", path.display());
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, why));
    }
    for (n, file) in all.iter().enumerate() {
        let is_last = n + 1 == all.len();
        let tail = read_file(file, before.take(), is_last, &mut verified, &mut show)?;
        before = Some(tail);
        verified.files += 1;
    }
    Ok(verified)
}

/// Only whether it is sound.
///
/// # Errors
/// A file cannot be read.
pub fn verify(path: &Path) -> std::io::Result<Verified> {
    read(path, |_| {})
}

/// The latest checkpoint, from the newest file that has one.
///
/// # Errors
/// A file cannot be read.
pub fn last_checkpoint(path: &Path) -> std::io::Result<Option<Checkpoint>> {
    let mut latest = None;
    read(path, |entry| {
        if let Body::Checkpoint(checkpoint) = &entry.body {
            latest = Some(checkpoint.clone());
        }
    })?;
    Ok(latest)
}

/// Reads one file. What follows damage is still read: each line says what it follows.
pub(super) fn read_file(
    file: &Path,
    before: Option<Tail>,
    is_last: bool,
    verified: &mut Verified,
    show: &mut impl FnMut(&Entry),
) -> std::io::Result<Tail> {
    let is_first = before.is_none();
    let mut tail = before.unwrap_or_else(|| Tail {
        next_seq: 1,
        last_hash: BEGINNING.to_owned(),
        good_bytes: 0,
        torn_bytes: 0,
    });
    tail.good_bytes = 0;
    let mut reader = BufReader::new(File::open(file)?);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            break;
        }
        let mut find = |damage| {
            verified.findings.push(Finding {
                file: file.to_owned(),
                line: number,
                damage,
            });
        };
        if bytes.last() != Some(&b'\n') && read <= MAX_LINE_BYTES {
            let torn = read as u64;
            tail.torn_bytes = torn;
            // In the middle of the journal a crash tore nothing: what follows was written later.
            find(if is_last {
                Damage::Torn { bytes: torn }
            } else {
                Damage::NoEntry(format!("{torn} bytes without an end"))
            });
            break;
        }
        let (entry, own_hash) = match parse(&bytes) {
            Ok(parsed) => parsed,
            Err(damage) => {
                find(damage);
                continue;
            }
        };
        if is_first && number == 1 && entry.prev_hash != BEGINNING {
            // Rotation let the oldest go: from here on the chain is whole.
            find(Damage::BeginsLate { first: entry.seq });
        } else if entry.prev_hash != tail.last_hash {
            find(Damage::Broken {
                found: tail.last_hash.clone(),
                said: entry.prev_hash.clone(),
            });
        } else if entry.seq != tail.next_seq {
            find(Damage::Number {
                found: entry.seq,
                expected: tail.next_seq,
            });
        }
        if number == 1 && !matches!(entry.body, Body::Opened { .. }) {
            find(Damage::NotOpened);
        }
        tail.next_seq = entry.seq.saturating_add(1);
        tail.last_hash.clone_from(&own_hash);
        tail.good_bytes += read as u64;
        verified.entries += 1;
        verified.last_seq = Some(entry.seq);
        verified.last_hash = Some(own_hash);
        show(&entry);
    }
    Ok(tail)
}

fn parse(bytes: &[u8]) -> Result<(Entry, String), Damage> {
    let no_entry = |why: &dyn std::fmt::Display| Damage::NoEntry(why.to_string());
    let line = std::str::from_utf8(bytes).map_err(|err| no_entry(&err))?;
    let (said, text) = parts(line).ok_or_else(|| no_entry(&"it is not as weir writes it"))?;
    let found = hash(text);
    if found != said {
        let said = said.to_owned();
        return Err(Damage::Changed { found, said });
    }
    let entry = serde_json::from_str(text).map_err(|err| no_entry(&err))?;
    Ok((entry, found))
}

//! What was decided and ordered, by whom and why, so that it can be shown afterwards that it was so.
//!
//! Lines of JSON, each with its hash (SHA-256) and that of the line before; on the disk before
//! anything moves. A line that was changed, removed, put in or put elsewhere is found by [`verify`]
//! without a daemon. That the end was cut off cannot be seen from the file alone: the daemon tells
//! the centre the latest hash, and `weir journal verify` prints it.

mod entry;
mod permit;
mod read;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

pub use entry::{BEGINNING, Body, Checkpoint, Entry, MAX_LINE_BYTES};
pub use permit::Permit;
pub use read::{Damage, Finding, Verified, files, last_checkpoint, read, verify};

use read::{Tail, read_file};

/// What a journal may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Of one file; a full one gets a number, and a new one goes on with the chain.
    pub max_file_bytes: u64,
    /// Files, the one being written included; beyond, the oldest goes.
    pub max_files: u32,
}

impl Default for Bound {
    fn default() -> Self {
        Self {
            max_file_bytes: 16 << 20,
            max_files: 8,
        }
    }
}

/// What is to be written, and when it was so: the disk may take it later.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub body: Body,
    pub unix_ns: u64,
    pub boot_ns: u64,
}

/// An entry that is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub seq: u64,
    /// Its line's; the next one is chained to it.
    pub hash: String,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// E.g. the disk is full. Until a line can be written, nothing may move away from neutral.
    #[error("cannot write the journal {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("an entry of {bytes} bytes is too long for the journal (at most {MAX_LINE_BYTES})")]
    TooLong { bytes: usize },
    #[error("the journal {} is damaged at line {line} of {}: {damage}; put it aside to begin a new one", path.display(), file.display())]
    Damaged {
        path: PathBuf,
        file: PathBuf,
        line: u64,
        damage: Box<Damage>,
    },
    #[error("another weir writes the journal {}", path.display())]
    Locked { path: PathBuf },
}

/// The journal, being written. One at a time, by a lock on its file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    bound: Bound,
    file: nix::fcntl::Flock<File>,
    bytes: u64,
    next_seq: u64,
    last_hash: String,
    /// A write failed: what of it is on the disk is not known.
    is_torn: bool,
}

impl Journal {
    /// Opens or begins it. A torn end is cut off, and that it was is the next entry.
    ///
    /// # Errors
    /// The file cannot be read or written, is another process's, or is damaged otherwise than a
    /// crash does.
    pub fn open(path: &Path, bound: Bound, unix_ns: u64, boot_ns: u64) -> Result<Self, Error> {
        let file = lock(path)?;
        // The newest file alone: older ones are whole since they were closed.
        let mut verified = Verified::default();
        let before = previous(path).map_err(|source| failed(path, source))?;
        let at = read_file(path, before, true, &mut verified, &mut |_| {})
            .map_err(|source| failed(path, source))?;
        if let Some(finding) = verified
            .findings
            .iter()
            .find(|finding| !finding.is_expected())
        {
            return Err(Error::Damaged {
                path: path.to_owned(),
                file: finding.file.clone(),
                line: finding.line,
                damage: Box::new(finding.damage.clone()),
            });
        }
        let mut journal = Self {
            path: path.to_owned(),
            bound,
            file,
            bytes: at.good_bytes,
            next_seq: at.next_seq,
            last_hash: at.last_hash,
            is_torn: false,
        };
        if at.torn_bytes > 0 {
            journal.cut().map_err(|source| failed(path, source))?;
        }
        if journal.bytes == 0 {
            journal.begin(unix_ns, boot_ns)?;
        }
        if at.torn_bytes > 0 {
            let cut_bytes = at.torn_bytes;
            journal.append(Body::Repaired { cut_bytes }, unix_ns, boot_ns)?;
        }
        Ok(journal)
    }

    /// Writes one entry; when this returns it is on the disk. Gives back its hash.
    ///
    /// # Errors
    /// It is not on the disk, and nothing that depends on it may be done. What was written before
    /// is untouched.
    pub fn append(&mut self, body: Body, unix_ns: u64, boot_ns: u64) -> Result<String, Error> {
        let draft = Draft {
            body,
            unix_ns,
            boot_ns,
        };
        self.append_all(&[draft])?;
        Ok(self.last_hash.clone())
    }

    /// Writes several, with one wait for the disk: all of them or none.
    ///
    /// # Errors
    /// As with [`Self::append`], of all of them.
    pub fn append_all(&mut self, drafts: &[Draft]) -> Result<Vec<Written>, Error> {
        if self.bytes >= self.bound.max_file_bytes
            && let Some(first) = drafts.first()
        {
            self.rotate(first.unix_ns, first.boot_ns)?;
        }
        self.write(drafts)
    }

    /// Of the last entry.
    pub fn last_hash(&self) -> &str {
        &self.last_hash
    }

    /// What it may take from now on.
    pub fn set_bound(&mut self, bound: Bound) {
        self.bound = bound;
    }

    /// Its number.
    pub fn last_seq(&self) -> u64 {
        self.next_seq.saturating_sub(1)
    }

    /// What may be done now.
    pub fn permit(&self) -> Permit {
        if self.is_torn {
            Permit::TowardsNeutral
        } else {
            Permit::Any
        }
    }

    fn write(&mut self, drafts: &[Draft]) -> Result<Vec<Written>, Error> {
        if self.is_torn {
            self.cut().map_err(|source| failed(&self.path, source))?;
        }
        let mut lines = String::new();
        let mut written: Vec<Written> = Vec::with_capacity(drafts.len());
        for (seq, draft) in (self.next_seq..).zip(drafts) {
            let before = written.last().map_or(&self.last_hash, |last| &last.hash);
            let entry = Entry {
                seq,
                unix_ns: draft.unix_ns,
                boot_ns: draft.boot_ns,
                body: draft.body.clone(),
                prev_hash: before.clone(),
            };
            let text = serde_json::to_string(&entry)
                .map_err(|err| failed(&self.path, io::Error::from(err)))?;
            let line = entry::line(&text);
            if line.len() > MAX_LINE_BYTES {
                return Err(Error::TooLong { bytes: line.len() });
            }
            lines.push_str(&line);
            let hash = entry::hash(&text);
            written.push(Written { seq, hash });
        }
        let Some(last) = written.last() else {
            return Ok(written);
        };
        // Until both are done nobody knows what is there.
        self.is_torn = true;
        let mut to: &File = &self.file;
        to.write_all(lines.as_bytes())
            .and_then(|()| to.sync_data())
            .map_err(|source| failed(&self.path, source))?;
        self.is_torn = false;
        self.bytes += lines.len() as u64;
        self.next_seq = last.seq + 1;
        self.last_hash.clone_from(&last.hash);
        Ok(written)
    }

    /// Cuts off what was not written whole.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.sync_data()?;
        self.is_torn = false;
        Ok(())
    }

    fn begin(&mut self, unix_ns: u64, boot_ns: u64) -> Result<(), Error> {
        let opened = Body::Opened {
            prev_file_hash: self.last_hash.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.write(&[Draft {
            body: opened,
            unix_ns,
            boot_ns,
        }])?;
        sync_directory(&self.path).map_err(|source| failed(&self.path, source))
    }

    /// The full file gets the number 1, the others one more each; the oldest goes. A crash in the
    /// midst leaves a gap in the numbers and no file under two names.
    fn rotate(&mut self, unix_ns: u64, boot_ns: u64) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |source| failed(&path, source);
        if self.is_torn {
            self.cut().map_err(failed)?;
        }
        let numbered = |n: u32| {
            let mut name = path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let most = self.bound.max_files.max(2) - 1;
        // A full disk must be able to get rid of the oldest.
        remove_if_there(&numbered(most)).map_err(failed)?;
        for n in (1..most).rev() {
            if numbered(n).exists() {
                fs::rename(numbered(n), numbered(n + 1)).map_err(failed)?;
            }
        }
        fs::rename(&path, numbered(1)).map_err(failed)?;
        self.file = lock(&path)?;
        self.bytes = 0;
        self.begin(unix_ns, boot_ns)
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}

/// Opens for appending; only its owner may read who ordered what.
fn lock(path: &Path) -> Result<nix::fcntl::Flock<File>, Error> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| failed(path, source))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(
        |(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::Locked {
                path: path.to_owned(),
            },
            errno => failed(path, errno.into()),
        },
    )
}

/// Where the file before the newest ends, if there is one.
fn previous(path: &Path) -> io::Result<Option<Tail>> {
    let older = files(path)?.into_iter().rfind(|file| file != path);
    let Some(older) = older else { return Ok(None) };
    let mut ignored = Verified::default();
    let tail = read_file(&older, None, false, &mut ignored, &mut |_| {})?;
    Ok(Some(Tail {
        torn_bytes: 0,
        ..tail
    }))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// A new name is on the disk only when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests;

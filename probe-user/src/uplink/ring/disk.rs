//! Where the ring's files are: numbered, the newest being written.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use weir_proto::v1;

use super::entry::{Entries, Entry};

const PREFIX: &str = "ring.";

/// What the ring wants of a disk; a test has one that fails.
pub trait Disk: Send + std::fmt::Debug {
    /// What it is called in what is said to people.
    fn name(&self) -> String;
    /// The files that are there, oldest first, with their lengths.
    fn list(&mut self) -> io::Result<Vec<(u64, u64)>>;
    /// All that is in a file.
    fn read(&mut self, number: u64) -> io::Result<Vec<u8>>;
    /// Begins a file.
    fn create(&mut self, number: u64) -> io::Result<()>;
    /// Adds to the file that was begun last.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Takes back what was added to it beyond `len`.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, number: u64) -> io::Result<()>;
}

/// A directory of the host's.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    file: Option<File>,
    /// Nobody else writes here while it is held.
    _lock: File,
}

impl Directory {
    /// Makes it if it is absent; only its owner may read what is in it.
    ///
    /// # Errors
    /// If it cannot be made, or another daemon writes there.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let mut options = OpenOptions::new();
        let lock = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another weir daemon keeps its ring there",
                ));
            }
            Err(TryLockError::Error(err)) => return Err(err),
        }
        Ok(Self {
            path: path.to_owned(),
            file: None,
            _lock: lock,
        })
    }
}

fn file(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{number:012}"))
}

/// The ring's files in a directory, oldest first, with their lengths.
///
/// # Errors
/// If it cannot be read.
pub fn files(directory: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            match entry.metadata() {
                Ok(about) => files.push((number, about.len())),
                // The daemon that writes there has just removed it.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// All that is in one of them; nothing if it is not there any more.
///
/// # Errors
/// If it cannot be read.
pub fn content(directory: &Path, number: u64) -> io::Result<Vec<u8>> {
    match std::fs::read(file(directory, number)) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// Frames of a file between two times, oldest first, and at how many places it is damaged.
///
/// # Errors
/// If it cannot be read.
pub fn frames(
    directory: &Path,
    number: u64,
    from_unix_ns: u64,
    until_unix_ns: u64,
) -> io::Result<(Vec<v1::Frame>, u64)> {
    let content = content(directory, number)?;
    let mut entries = Entries::new(&content);
    let mut frames = Vec::new();
    for entry in entries.by_ref() {
        if let Entry::Frame(frame) = entry
            && (from_unix_ns..=until_unix_ns).contains(&frame.unix_ns)
        {
            frames.push(*frame);
        }
    }
    Ok((frames, entries.damaged))
}

impl Disk for Directory {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn list(&mut self) -> io::Result<Vec<(u64, u64)>> {
        files(&self.path)
    }

    fn read(&mut self, number: u64) -> io::Result<Vec<u8>> {
        content(&self.path, number)
    }

    fn create(&mut self, number: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let path = file(&self.path, number);
        let file = options.append(true).create_new(true).mode(0o600);
        self.file = Some(file.open(path)?);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut();
        file.ok_or(io::ErrorKind::NotFound)?.write_all(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let file = self.file.as_ref();
        file.ok_or(io::ErrorKind::NotFound)?.set_len(len)
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        std::fs::remove_file(file(&self.path, number))
    }
}

//! The directory that a daemon's own recording is kept in, as far as it is asked for.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::write::Storage;

/// Where files are made, found and removed. Paths are absolute.
pub trait Directory {
    /// What one is written to.
    type File: Storage;
    /// Makes a file and locks it; only its owner may read it.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Whether somebody writes it.
    fn is_being_written(&self, path: &Path) -> io::Result<bool>;
    /// Whether `path` is the name of `file` still: it may have been moved or removed.
    fn names(&self, path: &Path, file: &Self::File) -> io::Result<bool>;
    /// The files in the directory of `path`, with their sizes.
    fn list(&self, path: &Path) -> io::Result<Vec<(PathBuf, u64)>>;
    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// What the file system of `path` has left for this process.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The host's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Directory for Disk {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        // Lets go of it by closing it.
        file.try_lock()?;
        Ok(file)
    }

    fn is_being_written(&self, path: &Path) -> io::Result<bool> {
        match File::open(path)?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(err)) => Err(err),
        }
    }

    fn names(&self, path: &Path, file: &File) -> io::Result<bool> {
        let named = match path.symlink_metadata() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            named => named?,
        };
        let open = file.metadata()?;
        Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory_of(path))? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_file() {
                files.push((entry.path(), about.len()));
            }
        }
        Ok(files)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let about = statvfs(directory_of(path))?;
        Ok(about
            .blocks_available()
            .saturating_mul(about.fragment_size()))
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

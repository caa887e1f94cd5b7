//! The daemon's own recording: a row of files of which the oldest go, bounded by their size and by
//! what the disk has left.
//!
//! `a.weir` is being written. When it is full it is called `a.000001.weir`, and so on; each can be
//! replayed by itself. What the disk does not take is counted, and told where writing goes on.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_proto::v1;
use weir_proto::v1::RecordingEndCause;

use super::directory::Directory;
use super::tap::{Block, State};
use super::write::{Kept, Writer};
use super::{Said, entry};
use crate::throttle::Throttle;

const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Digits of a file's number, so that names sort by age.
const DIGITS: usize = 6;

/// What a recording may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of each file.
    pub max_bytes: u64,
    /// Files, the one being written included.
    pub max_files: u32,
    /// To be left free on the file system, for others.
    pub min_free_bytes: u64,
}

/// What the daemon and the thread that writes tell each other.
#[derive(Debug)]
pub struct Shared {
    /// Records that could not be written.
    pub unwritten: AtomicU64,
    bounds: Mutex<Bounds>,
    cut: AtomicBool,
    status: Mutex<v1::RecordingStatus>,
}

impl Shared {
    /// With these bounds in force.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            unwritten: AtomicU64::new(0),
            bounds: Mutex::new(bounds),
            cut: AtomicBool::new(false),
            status: Mutex::default(),
        }
    }

    /// Puts other bounds in force, and ends the file that is being written: it can be taken away.
    pub fn reload(&self, bounds: Bounds) {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = bounds;
        self.cut.store(true, Ordering::Relaxed);
    }

    /// How it is.
    pub fn status(&self) -> v1::RecordingStatus {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }

    fn bounds(&self) -> Bounds {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A recording under way.
#[derive(Debug)]
pub struct History<D: Directory> {
    directory: D,
    file: PathBuf,
    /// As it was when the recording began.
    origin: v1::RecordingHeader,
    shared: Arc<Shared>,
    writer: Option<Writer<D::File>>,
    /// Oldest first, with their sizes.
    older: VecDeque<(PathBuf, u64)>,
    next_number: u64,
    part: u32,
    /// Records said so far, written or not.
    said: u64,
    written: u64,
    /// Records that the file lacks since its last block; none: nothing is missing.
    gap: Option<u64>,
    warnings: Throttle,
    error: String,
}

impl<D: Directory> History<D> {
    /// Begins a recording at `file`; `origin` is its header. What is there already becomes a part
    /// of what is kept.
    ///
    /// # Errors
    /// No file can be made there, for another reason than a full disk, which is waited for.
    pub fn begin(
        directory: D,
        file: PathBuf,
        origin: v1::RecordingHeader,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let mut older = Vec::new();
        for (path, bytes) in directory.list(&file)? {
            if path == file && directory.is_being_written(&file)? {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another weir is writing it",
                ));
            }
            if let Some(number) = number_of(&file, &path) {
                older.push((number, path, bytes));
            }
        }
        older.sort_unstable();
        let next_number = older.last().map_or(1, |(number, ..)| number + 1);
        let mut history = Self {
            directory,
            file,
            origin,
            shared,
            writer: None,
            older: older
                .into_iter()
                .map(|(_, path, bytes)| (path, bytes))
                .collect(),
            next_number,
            part: 0,
            said: 0,
            written: 0,
            gap: None,
            warnings: Throttle::new(WARNING_INTERVAL),
            error: String::new(),
        };
        let begun = history.make_room().and_then(|()| history.begin_file(None));
        match begun {
            Err(err) if !is_full(&err) => return Err(err),
            Err(err) => history.fail(&err),
            Ok(()) => {}
        }
        history.tell();
        Ok(history)
    }

    /// Keeps a block, or counts what is missing without it.
    pub fn block(&mut self, block: &Block) {
        if self.shared.cut.swap(false, Ordering::Relaxed) {
            self.end_file(RecordingEndCause::Continued);
        } else if self.was_taken_away() {
            tracing::info!(
                file = %self.file.display(),
                "the recording was moved or removed: it goes on in a new file"
            );
            self.end_file(RecordingEndCause::Continued);
        }
        match self.write(block) {
            Ok(()) => {
                self.written += block.said.records;
                if !self.error.is_empty() {
                    self.error.clear();
                    tracing::info!(
                        file = %self.file.display(),
                        missing = self.shared.unwritten.load(Ordering::Relaxed),
                        "recording again"
                    );
                }
            }
            Err(err) => {
                self.miss(block.said.records);
                self.fail(&err);
            }
        }
        self.said += block.missing + block.said.records;
        self.tell();
    }

    /// Whether the file that is being written has no longer its name: another would never be seen.
    fn was_taken_away(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| {
            // Of a directory that cannot be looked at nothing is known.
            matches!(
                self.directory.names(&self.file, writer.storage()),
                Ok(false)
            )
        })
    }

    /// Ends the recording.
    pub fn end(mut self, cause: RecordingEndCause) {
        self.end_file(cause);
        self.tell();
    }

    fn write(&mut self, block: &Block) -> io::Result<()> {
        self.make_room()?;
        if self.writer.is_some() {
            if self.append(block)? == Kept::Yes {
                return Ok(());
            }
            self.end_file(RecordingEndCause::Continued);
        }
        self.begin_file(Some(block))?;
        match self.append(block)? {
            Kept::Yes => Ok(()),
            Kept::Full => Err(io::Error::other(
                "what was said at once is larger than recording.max_bytes",
            )),
        }
    }

    fn append(&mut self, block: &Block) -> io::Result<Kept> {
        let Some(writer) = &mut self.writer else {
            return Ok(Kept::Full);
        };
        let records = block.said.records;
        let kept = if let Some(missing) = self.gap {
            let mut entries = Vec::with_capacity(block.said.entries.len() + 1024);
            let now_ns = block.said.first_monotonic_ns;
            let gap = Said::Missing {
                now_ns,
                records: missing,
            };
            entry::append(&mut entries, &gap);
            // Whatever changed them may be among what is missing.
            entry::append(&mut entries, &Said::Settings(block.state.settings.clone()));
            entries.extend_from_slice(&block.said.entries);
            writer.entries(&entries, records)
        } else {
            writer.entries(&block.said.entries, records)
        };
        if writer.is_torn() {
            self.writer = None;
        }
        if let Ok(Kept::Yes) = kept {
            self.gap = None;
        }
        kept
    }

    /// Makes the next file; `block` is the first that goes into it.
    fn begin_file(&mut self, block: Option<&Block>) -> io::Result<()> {
        self.number_the_last()?;
        let most = self.shared.bounds().max_files as usize;
        while self.older.len() >= most.max(1) && self.remove_oldest() {}
        let header = self.header(block);
        let file = self.directory.create(&self.file)?;
        match Writer::begin(file, &header, self.shared.bounds().max_bytes) {
            Ok(writer) => self.writer = Some(writer),
            Err(err) => {
                if let Err(err) = self.directory.remove(&self.file) {
                    tracing::debug!("cannot remove an empty recording: {err}");
                }
                return Err(err);
            }
        }
        self.part += 1;
        self.gap = None;
        Ok(())
    }

    /// A file that is there, from before or as the last part, gets its number.
    fn number_the_last(&mut self) -> io::Result<()> {
        let present = self.directory.list(&self.file)?;
        let Some((_, bytes)) = present.into_iter().find(|(path, _)| *path == self.file) else {
            return Ok(());
        };
        let numbered = numbered(&self.file, self.next_number);
        self.directory.rename(&self.file, &numbered)?;
        self.next_number += 1;
        self.older.push_back((numbered, bytes));
        Ok(())
    }

    fn header(&self, block: Option<&Block>) -> v1::RecordingHeader {
        let part = self.part + 1;
        let Some(block) = block.filter(|_| self.said > 0 || self.gap.is_some() || part > 1) else {
            return v1::RecordingHeader {
                part,
                ..self.origin.clone()
            };
        };
        let begin_ns = block.said.first_monotonic_ns;
        let State {
            losses,
            unix_minus_monotonic_ns,
            settings,
        } = &block.state;
        v1::RecordingHeader {
            begin_monotonic_ns: begin_ns,
            begin_unix_ns: begin_ns.saturating_add_signed(*unix_minus_monotonic_ns),
            whole: false,
            losses: Some(*losses),
            settings: Some((**settings).clone()),
            part,
            records_before: self.said,
            ..self.origin.clone()
        }
    }

    fn end_file(&mut self, cause: RecordingEndCause) {
        let Some(writer) = self.writer.take() else {
            return;
        };
        if let Err(err) = writer.end(cause) {
            // It is whole without: a reader says that it was not ended.
            tracing::debug!("cannot end {} in order: {err}", self.file.display());
        }
    }

    /// Sees to it that others keep what they are to be left: by a file of the recording's own, if
    /// there is one.
    fn make_room(&mut self) -> io::Result<()> {
        let least = self.shared.bounds().min_free_bytes;
        // A file system that does not tell is written to until it is full.
        let free = self.directory.free_bytes(&self.file).unwrap_or(u64::MAX);
        if free >= least || self.remove_oldest() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "the file system has {free} bytes left, and recording.min_free_bytes keeps {least} \
                 for others"
            ),
        ))
    }

    /// Whether there was one.
    fn remove_oldest(&mut self) -> bool {
        let Some((path, _)) = self.older.pop_front() else {
            return false;
        };
        match self.directory.remove(&path) {
            Ok(()) => tracing::debug!(file = %path.display(), "removed the oldest recording"),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => tracing::warn!("cannot remove the recording {}: {err}", path.display()),
        }
        true
    }

    fn miss(&mut self, records: u64) {
        self.gap = Some(self.gap.unwrap_or(0) + records);
        self.shared.unwritten.fetch_add(records, Ordering::Relaxed);
        if let Some(writer) = &mut self.writer {
            writer.missed(records);
        }
    }

    fn fail(&mut self, err: &io::Error) {
        self.error = err.to_string();
        if let Some(withheld) = self.warnings.pass(Instant::now()) {
            tracing::warn!(
                file = %self.file.display(),
                missing = self.shared.unwritten.load(Ordering::Relaxed),
                withheld,
                "cannot record; measuring goes on: {err}"
            );
        }
    }

    fn tell(&self) {
        let writing = self.writer.as_ref().map(Writer::bytes);
        let older: u64 = self.older.iter().map(|(_, bytes)| bytes).sum();
        let status = v1::RecordingStatus {
            file: self.file.display().to_string(),
            files: self.older.len() as u64 + u64::from(writing.is_some()),
            bytes: older + writing.unwrap_or(0),
            records: self.written,
            records_unwritten: self.shared.unwritten.load(Ordering::Relaxed),
            error: self.error.clone(),
        };
        *self
            .shared
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = status;
    }
}

fn is_full(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// `a.weir` and 7: `a.000007.weir`.
fn numbered(file: &Path, number: u64) -> PathBuf {
    let mut name = file.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{number:0DIGITS$}"));
    if let Some(extension) = file.extension() {
        name.push(".");
        name.push(extension);
    }
    file.with_file_name(name)
}

/// The other way round; none: it is another file.
fn number_of(file: &Path, path: &Path) -> Option<u64> {
    let stem = path.file_stem()?;
    let digits = if file.extension().is_some() {
        Path::new(stem).extension()?
    } else {
        path.extension()?
    };
    let number = digits.to_str()?.parse().ok()?;
    (numbered(file, number) == path).then_some(number)
}

#[cfg(test)]
mod tests;

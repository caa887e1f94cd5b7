//! Which file is written, when it is finished, and what is kept.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nix::sys::statvfs::statvfs;

use super::super::Counts;
use super::super::record::Record;
use super::format::{Format, Lines, Parquet};
use crate::config::collect::{self as config, Format as Which};

/// While nothing comes, the clock is looked at so often.
const LOOK: Duration = Duration::from_millis(500);
/// What could not be written is not tried again before.
const PAUSE: Duration = Duration::from_secs(1);
/// Free space is looked at again after so many records.
const RECORDS_A_LOOK: u32 = 1_000;
const PART: &str = "part";

struct Open {
    part: PathBuf,
    name: PathBuf,
    format: Box<dyn Format>,
    since: Instant,
    records: u64,
}

/// Writes one file after the other.
pub(super) struct Writer {
    config: config::Files,
    prefix: String,
    counts: Arc<Counts>,
    open: Option<Open>,
    number: u64,
    /// When it may be tried again.
    not_before: Option<Instant>,
    until_look: u32,
}

impl Writer {
    /// Makes the directory, and finishes what an earlier process has left there.
    pub(super) fn open(
        config: &config::Files,
        collector: &str,
        counts: Arc<Counts>,
    ) -> Result<Self> {
        let directory = &config.directory;
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make files.directory {}", directory.display()))?;
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let writer = Self {
            prefix: format!("weir-{}", collector.chars().map(safe).collect::<String>()),
            config: config.clone(),
            counts,
            open: None,
            number: 0,
            not_before: None,
            until_look: 0,
        };
        for part in writer.files(PART)? {
            Self::recover(&part)?;
        }
        Ok(writer)
    }

    /// Until nobody hands over any more.
    pub(super) fn run(mut self, from: &Receiver<Box<Record>>) {
        loop {
            match from.recv_timeout(LOOK) {
                Ok(record) => self.take(&record),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(open) = &mut self.open
                        && let Err(err) = open.format.flush()
                    {
                        self.give_up(&err.into());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.finish_if_due();
        }
        self.finish();
    }

    fn take(&mut self, record: &Record) {
        if self.not_before.is_some_and(|when| Instant::now() < when) {
            return self.counts.lose(1);
        }
        match self.write(record) {
            Ok(()) => {
                self.not_before = None;
                self.counts.pass(1);
            }
            Err(err) => {
                self.counts.lose(1);
                self.give_up(&err);
            }
        }
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        if self.until_look == 0 {
            self.look_at_space()?;
            self.until_look = RECORDS_A_LOOK;
        }
        self.until_look -= 1;
        if self.open.is_none() {
            self.open = Some(self.begin()?);
        }
        let Some(open) = &mut self.open else {
            bail!("no file is open");
        };
        let written = open.format.write(record);
        written.with_context(|| format!("cannot write {}", open.part.display()))?;
        open.records += 1;
        Ok(())
    }

    fn look_at_space(&self) -> Result<()> {
        let directory = &self.config.directory;
        let space = statvfs(directory)
            .with_context(|| format!("cannot tell the space at {}", directory.display()))?;
        let free = space.blocks_available() * space.fragment_size();
        if free < self.config.min_free_bytes {
            bail!(
                "{free} bytes are free at {}, less than files.min_free_bytes",
                directory.display()
            );
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<Open> {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.number += 1;
        let (millis, number) = (since.as_millis(), self.number);
        let stem = format!("{}-{millis:013}-{number:06}", self.prefix);
        let name = self
            .config
            .directory
            .join(format!("{stem}.{}", self.extension()));
        let part = part_of(&name);
        let file = OpenOptions::new().write(true).create_new(true).open(&part);
        let file = file.with_context(|| format!("cannot make {}", part.display()))?;
        let format: Box<dyn Format> = match self.config.format {
            Which::Ndjson => Box::new(Lines::new(file)),
            Which::Parquet => Box::new(Parquet::new(file)?),
        };
        Ok(Open {
            part,
            name,
            format,
            since: Instant::now(),
            records: 0,
        })
    }

    fn extension(&self) -> &'static str {
        match self.config.format {
            Which::Ndjson => "ndjson",
            Which::Parquet => "parquet",
        }
    }

    fn finish_if_due(&mut self) {
        let max_age = Duration::from_secs(self.config.max_s.into());
        let is_due = |open: &Open| {
            open.format.bytes() >= self.config.max_bytes || open.since.elapsed() >= max_age
        };
        if self.open.as_ref().is_some_and(is_due) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        let Some(open) = self.open.take() else { return };
        let records = open.records;
        let part = open.part.clone();
        if let Err(err) = finish(open) {
            // As many as were thought to be passed on.
            self.counts.lose(records);
            self.counts.passed.fetch_sub(records, Ordering::Relaxed);
            self.give_up(&err.context(format!("cannot finish {}", part.display())));
        } else if let Err(err) = self.drop_oldest() {
            self.counts.fail(&format!("{err:#}"));
        }
    }

    /// What is there of the open file is kept as far as it can be read.
    fn give_up(&mut self, err: &anyhow::Error) {
        self.counts.fail(&format!("{err:#}"));
        self.not_before = Some(Instant::now() + PAUSE);
        self.until_look = 0;
        if let Some(open) = self.open.take() {
            drop(open.format);
            if let Err(err) = Self::recover(&open.part) {
                tracing::debug!("{}: {err:#}", open.part.display());
            }
        }
    }

    /// Makes a file whole that was not finished: lines up to the last that is. A Parquet file that
    /// was not finished cannot be read, and goes.
    fn recover(part: &Path) -> Result<()> {
        let name = part.with_extension("");
        if name.extension().is_some_and(|format| format == "ndjson") {
            let mut file = OpenOptions::new().read(true).write(true).open(part)?;
            let whole = whole_lines(&mut file)?;
            if whole > 0 {
                file.set_len(whole)?;
                file.sync_all()?;
                fs::rename(part, &name)?;
                tracing::info!("{}: finished what was begun", name.display());
                return Ok(());
            }
        } else {
            tracing::warn!("{}: was not finished, and cannot be read", part.display());
        }
        fs::remove_file(part).with_context(|| format!("cannot remove {}", part.display()))
    }

    /// This collector's files that end so, oldest first.
    fn files(&self, extension: &str) -> Result<Vec<PathBuf>> {
        let directory = &self.config.directory;
        let entries = fs::read_dir(directory)
            .with_context(|| format!("cannot list {}", directory.display()))?;
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_ours = name
                .strip_prefix(&self.prefix)
                .is_some_and(|rest| rest.starts_with('-'));
            if is_ours && path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    fn drop_oldest(&self) -> Result<()> {
        let keep = usize::try_from(self.config.max_files)?;
        if keep == 0 {
            return Ok(());
        }
        let files = self.files(self.extension())?;
        for file in &files[..files.len().saturating_sub(keep)] {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        Ok(())
    }
}

fn part_of(name: &Path) -> PathBuf {
    let mut part = name.as_os_str().to_owned();
    part.push(".");
    part.push(PART);
    part.into()
}

/// On the disk first, then under its name.
fn finish(open: Open) -> Result<()> {
    let file = open.format.finish()?;
    file.sync_all()?;
    fs::rename(&open.part, &open.name)?;
    let directory = open.name.parent().context("a file is in a directory")?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

/// How many bytes the lines take that are whole.
fn whole_lines(file: &mut File) -> Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; 64 << 10];
    while end > 0 {
        let len = end.min(block.len() as u64);
        file.seek(SeekFrom::Start(end - len))?;
        let read = &mut block[..usize::try_from(len)?];
        file.read_exact(read)?;
        if let Some(last) = read.iter().rposition(|byte| *byte == b'\n') {
            return Ok(end - len + last as u64 + 1);
        }
        end -= len;
    }
    Ok(0)
}

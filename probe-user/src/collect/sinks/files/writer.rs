//! Which file is written, when it is finished, and what is kept.

use std::fs::{self, File, OpenOptions};
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
use super::recover;
use crate::config::collect::{self as config, Format as Which};

/// While nothing comes, the clock is looked at so often.
const LOOK: Duration = Duration::from_millis(500);
/// What could not be written is not tried again before.
const PAUSE: Duration = Duration::from_secs(1);
/// Free space is looked at again after so many records.
const RECORDS_A_LOOK: u32 = 1_000;
const PART: &str = "part";
const JOURNAL: &str = "journal";

struct Open {
    part: PathBuf,
    /// What can be read of it while it is not finished.
    kept: PathBuf,
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
    looked: Instant,
    /// There may be what was begun and could not be finished yet.
    has_left: bool,
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
        let mut writer = Self {
            prefix: format!("weir-{}", collector.chars().map(safe).collect::<String>()),
            config: config.clone(),
            counts,
            open: None,
            number: 0,
            not_before: None,
            until_look: 0,
            looked: Instant::now(),
            has_left: true,
        };
        writer.recover_left();
        Ok(writer)
    }

    /// Until nobody hands over any more.
    pub(super) fn run(mut self, from: &Receiver<Box<Record>>) {
        loop {
            let record = from.try_recv().or_else(|_| {
                // Whoever ends this process now takes nothing of what came.
                self.flush();
                from.recv_timeout(LOOK)
            });
            match record {
                Ok(record) => self.take(&record),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.finish_if_due();
        }
        self.finish();
    }

    fn flush(&mut self) {
        if let Some(open) = &mut self.open
            && let Err(err) = open.format.flush()
        {
            self.give_up(&err.into());
        }
    }

    /// Finishes what was begun and is not open. If there is no room for that, it stays until there
    /// is.
    fn recover_left(&mut self) {
        if self.has_left {
            match self.recover_all() {
                Ok(()) => self.has_left = false,
                Err(err) => {
                    let why = err.context("what was begun cannot be finished yet");
                    self.counts.fail(&format!("{why:#}"));
                }
            }
        }
    }

    fn recover_all(&self) -> Result<()> {
        for journal in self.files(JOURNAL)? {
            recover::journal(&journal)?;
        }
        for part in self.files(PART)? {
            recover::part(&part)?;
        }
        Ok(())
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
        if self.until_look == 0 || self.looked.elapsed() >= LOOK {
            self.look_at_space()?;
            self.until_look = RECORDS_A_LOOK;
            self.looked = Instant::now();
        }
        self.until_look -= 1;
        if self.open.is_none() {
            self.recover_left();
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
        let (part, journal) = (beside(&name, PART), beside(&name, JOURNAL));
        let make = |path: &Path| {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            file.with_context(|| format!("cannot make {}", path.display()))
        };
        let file = make(&part)?;
        let (kept, format): (_, Box<dyn Format>) = match self.config.format {
            Which::Ndjson => (part.clone(), Box::new(Lines::new(file))),
            Which::Parquet => {
                let format = make(&journal).and_then(|made| Ok(Parquet::new(file, made)?));
                if format.is_err() {
                    self.has_left = true;
                }
                (journal, Box::new(format?))
            }
        };
        Ok(Open {
            part,
            kept,
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
        let (records, part, kept) = (open.records, open.part.clone(), open.kept.clone());
        if let Err(err) = finish(open) {
            let err = err.context(format!("cannot finish {}", part.display()));
            self.salvage(&err, &kept, records);
        } else if let Err(err) = self.drop_oldest() {
            self.counts.fail(&format!("{err:#}"));
        }
    }

    /// What is there of the open file is kept as far as it can be read.
    fn give_up(&mut self, err: &anyhow::Error) {
        match self.open.take() {
            Some(open) => {
                let (records, kept) = (open.records, open.kept.clone());
                drop(open);
                self.salvage(err, &kept, records);
            }
            None => self.pause(err),
        }
    }

    /// Of `records` that were thought to be passed on, those that are not in `kept` are lost.
    fn salvage(&mut self, err: &anyhow::Error, kept: &Path, records: u64) {
        let lost = records.saturating_sub(recover::whole(kept));
        self.counts.lose(lost);
        self.counts.passed.fetch_sub(lost, Ordering::Relaxed);
        self.has_left = true;
        self.pause(err);
        self.recover_left();
    }

    fn pause(&mut self, err: &anyhow::Error) {
        self.counts.fail(&format!("{err:#}"));
        self.not_before = Some(Instant::now() + PAUSE);
        self.until_look = 0;
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

fn beside(name: &Path, extension: &str) -> PathBuf {
    let mut beside = name.as_os_str().to_owned();
    beside.push(".");
    beside.push(extension);
    beside.into()
}

/// On the disk first, then under its name.
fn finish(open: Open) -> Result<()> {
    let file = open.format.finish()?;
    file.sync_all()?;
    fs::rename(&open.part, &open.name)?;
    let directory = open.name.parent().context("a file is in a directory")?;
    File::open(directory)?.sync_all()?;
    if open.kept != open.part {
        fs::remove_file(&open.kept)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use weir_proto::v1;

    use super::super::super::record::{Origin, What};
    use super::*;

    fn record(seq: u64) -> Record {
        Record {
            origin: Origin {
                host: "edge-1".into(),
                boot_id: "boot".into(),
                lane: "cold".into(),
                seq,
                place: 0,
                collector: "centre".into(),
                heard_unix_ns: 1,
            },
            unix_ns: 1,
            what: What::Delivery(v1::Delivery::default()),
        }
    }

    fn writer(directory: &Path) -> Writer {
        let config = config::Files {
            format: Which::Parquet,
            min_free_bytes: 0,
            ..config::Files::within(directory.to_owned())
        };
        Writer::open(&config, "centre", Counts::new("files")).unwrap()
    }

    /// What is in finished files, of which there are so many and no other files.
    fn rows(directory: &Path, files: usize) -> u64 {
        let found: Vec<_> = fs::read_dir(directory).unwrap().collect();
        assert_eq!(found.len(), files, "{found:?}");
        let rows = found.into_iter().map(|entry| {
            let file = File::open(entry.unwrap().path()).unwrap();
            let reader = SerializedFileReader::new(file).unwrap();
            reader.metadata().file_metadata().num_rows().unsigned_abs()
        });
        rows.sum()
    }

    #[test]
    fn what_was_written_of_a_parquet_file_outlives_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = writer(directory.path());
        for seq in 1..=100 {
            first.take(&record(seq));
        }
        first.flush();
        // As SIGKILL leaves it: nothing is dropped, nothing finished.
        std::mem::forget(first);
        let second = writer(directory.path());
        assert_eq!(rows(directory.path(), 1), 100);
        drop(second);
        drop(writer(directory.path()));
        assert_eq!(rows(directory.path(), 1), 100);
    }

    #[test]
    fn a_disk_that_fails_costs_what_it_did_not_take_and_all_of_that_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        for seq in 1..=100 {
            writer.take(&record(seq));
        }
        writer.flush();
        let kept = writer.open.as_ref().unwrap().kept.clone();
        let len = fs::metadata(&kept).unwrap().len();
        let file = OpenOptions::new().write(true).open(&kept).unwrap();
        file.set_len(len / 2 + 1).unwrap();
        writer.give_up(&anyhow::anyhow!("no space left"));
        let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
        let (passed, lost) = (count(&writer.counts.passed), count(&writer.counts.lost));
        assert_eq!((passed, lost), (50, 50));
        assert_eq!(rows(directory.path(), 1), passed);
        // What comes before it may be tried again is lost, too.
        writer.take(&record(101));
        assert_eq!(count(&writer.counts.lost), 51);
        writer.not_before = None;
        writer.take(&record(102));
        writer.finish();
        assert_eq!(rows(directory.path(), 2), 51);
    }
}

//! The ring: the last minutes of this host, second by second, on its own disk.
//!
//! What happened is still there when the network was not, and what a daemon that was killed had not
//! sent yet is sent by the next one. It is bounded in time and in bytes, survives a crash at any point
//! (each entry can be checked alone), and a disk that takes nothing costs a count. Nothing is synced:
//! what the host had not written back when it lost its power is missing.

pub mod disk;
pub mod entry;
mod keeper;
pub(super) mod recovery;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use weir_proto::v1;

use disk::{Directory, Disk};
use entry::{Entries, Entry};
pub(super) use keeper::keep;

/// Seconds that are kept: fifteen minutes.
pub const SECONDS: u64 = 900;
/// Files that a full ring has; the oldest goes as a whole.
const FILES: u64 = 10;

/// What there is of the boots before this one.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Of each boot, oldest first: who it was, and the last that it kept.
    pub last: Vec<(v1::Hello, v1::Frame)>,
    /// Places at which files are damaged.
    pub damaged: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    entries: u64,
    bytes: u64,
    oldest_unix_ns: u64,
}

/// Where the ring is kept, and how much of it.
pub struct Options {
    /// Where it can be read meanwhile; none: nowhere.
    pub directory: Option<PathBuf>,
    /// Called where it may wait for the disk.
    pub open: Box<dyn FnOnce() -> io::Result<Box<dyn Disk>> + Send>,
    /// Of all files together.
    pub max_bytes: u64,
    /// Between two entries at least.
    pub every: Duration,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("max_bytes", &self.max_bytes)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// In a directory, a second at a time.
    pub fn within(directory: PathBuf, max_bytes: u64) -> Self {
        Self {
            directory: Some(directory.clone()),
            open: Box::new(move || Ok(Box::new(Directory::open(&directory)?))),
            max_bytes,
            every: Duration::from_secs(1),
        }
    }
}

/// Writes to it.
#[derive(Debug)]
pub struct Ring {
    disk: Box<dyn Disk>,
    hello: v1::Hello,
    max_bytes: u64,
    /// Oldest first; the last is being written, if this boot has begun one.
    segments: VecDeque<Segment>,
    has_begun: bool,
    newest_unix_ns: u64,
}

impl Ring {
    /// Looks at what is there.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub fn open(
        mut disk: Box<dyn Disk>,
        hello: v1::Hello,
        max_bytes: u64,
    ) -> io::Result<(Self, Found)> {
        let mut found = Found::default();
        let mut segments = VecDeque::new();
        for (number, bytes) in disk.list()? {
            let content = disk.read(number)?;
            let mut read = Entries::new(&content);
            let mut segment = Segment {
                number,
                entries: 0,
                bytes,
                oldest_unix_ns: 0,
            };
            let mut owner: Option<v1::Hello> = None;
            for entry in read.by_ref() {
                match entry {
                    Entry::Hello(hello) => owner = Some(hello),
                    Entry::Frame(frame) => {
                        segment.entries += 1;
                        if segment.oldest_unix_ns == 0 {
                            segment.oldest_unix_ns = frame.unix_ns;
                        }
                        found.note(owner.as_ref(), *frame);
                    }
                }
            }
            found.damaged += read.damaged;
            segments.push_back(segment);
        }
        let ring = Self {
            disk,
            hello,
            max_bytes,
            segments,
            has_begun: false,
            newest_unix_ns: 0,
        };
        Ok((ring, found))
    }

    /// Keeps a second.
    ///
    /// # Errors
    /// If the disk does not take it; then it is as if it had not been tried.
    pub fn write(&mut self, frame: &v1::Frame) -> io::Result<()> {
        let unix_ns = frame.unix_ns;
        let bytes = entry::frame(frame)?;
        let is_full = |segment: &Segment| {
            segment.entries >= SECONDS / FILES
                || segment.bytes + bytes.len() as u64 > self.max_bytes / FILES
        };
        if !self.has_begun || self.segments.back().is_none_or(is_full) {
            self.begin()?;
        }
        self.make_room(bytes.len() as u64)?;
        self.append(&bytes)?;
        if let Some(segment) = self.segments.back_mut() {
            segment.entries += 1;
            if segment.oldest_unix_ns == 0 {
                segment.oldest_unix_ns = unix_ns;
            }
        }
        self.newest_unix_ns = unix_ns;
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        self.disk.create(number)?;
        self.has_begun = true;
        self.segments.push_back(Segment {
            number,
            entries: 0,
            bytes: 0,
            oldest_unix_ns: 0,
        });
        let hello = entry::hello(&self.hello)?;
        let written = self.append(&hello);
        if written.is_err() {
            // Without knowing whose they are, frames are of no use.
            self.has_begun = false;
        }
        written
    }

    /// All of it, or nothing.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(segment) = self.segments.back_mut() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        match self.disk.append(bytes) {
            Ok(()) => {
                segment.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(err) => {
                // A piece of it may be there. If it cannot be taken back it is skipped in reading,
                // but nothing must be written into the middle of what is said to be its length.
                if self.disk.truncate(segment.bytes).is_err() {
                    self.has_begun = false;
                }
                Err(err)
            }
        }
    }

    /// Removes the oldest files, as long as there are more seconds or bytes than may be.
    fn make_room(&mut self, more: u64) -> io::Result<()> {
        while self.segments.len() > 1 {
            let sum = |of: fn(&Segment) -> u64| self.segments.iter().map(of).sum::<u64>();
            let is_too_long = sum(|one| one.entries) - self.segments[0].entries >= SECONDS;
            if !is_too_long && sum(|one| one.bytes) + more <= self.max_bytes {
                break;
            }
            match self.disk.remove(self.segments[0].number) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => self.segments.pop_front(),
            };
        }
        Ok(())
    }

    /// How it is.
    pub fn status(&self, error: String) -> v1::RingStatus {
        let oldest = self.segments.iter().map(|one| one.oldest_unix_ns);
        v1::RingStatus {
            file: self.disk.name(),
            bytes: self.segments.iter().map(|one| one.bytes).sum(),
            entries: self.segments.iter().map(|one| one.entries).sum(),
            oldest_unix_ns: oldest.into_iter().find(|at| *at != 0).unwrap_or(0),
            newest_unix_ns: self.newest_unix_ns,
            error,
        }
    }
}

impl Found {
    fn note(&mut self, owner: Option<&v1::Hello>, frame: v1::Frame) {
        let Some(owner) = owner.filter(|owner| owner.boot_id == frame.boot_id) else {
            self.damaged += 1;
            return;
        };
        let known = self
            .last
            .iter_mut()
            .find(|(hello, _)| hello.boot_id == owner.boot_id);
        match known {
            Some((_, last)) if last.seq < frame.seq => *last = frame,
            Some(_) => {}
            None => self.last.push((owner.clone(), frame)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(boot: &str) -> v1::Hello {
        v1::Hello {
            boot_id: boot.into(),
            ..v1::Hello::default()
        }
    }

    fn frame(boot: &str, seq: u64) -> v1::Frame {
        v1::Frame {
            boot_id: boot.into(),
            seq,
            unix_ns: seq,
            // Does not compress.
            off: noise(seq),
            ..v1::Frame::default()
        }
    }

    fn noise(seed: u64) -> String {
        let mut random = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| random.alphanumeric())
            .take(400)
            .collect()
    }

    fn open(path: &std::path::Path, boot: &str, max_bytes: u64) -> (Ring, Found) {
        let disk = Directory::open(path).unwrap();
        Ring::open(Box::new(disk), hello(boot), max_bytes).unwrap()
    }

    #[test]
    fn each_boots_last_second_is_found_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        for (boot, seconds) in [("a", 5), ("b", 250), ("c", 1)] {
            let (mut ring, _) = open(directory.path(), boot, 1 << 20);
            for seq in 1..=seconds {
                ring.write(&frame(boot, seq)).unwrap();
            }
            let busy = Directory::open(directory.path()).unwrap_err();
            assert!(busy.to_string().contains("another"), "{busy}");
        }
        let (_, found) = open(directory.path(), "d", 1 << 20);
        let last: Vec<_> = found
            .last
            .iter()
            .map(|(hello, frame)| (hello.boot_id.as_str(), frame.seq))
            .collect();
        assert_eq!(last, [("a", 5), ("b", 250), ("c", 1)]);
        assert_eq!(found.damaged, 0);
    }

    #[test]
    fn fifteen_minutes_are_kept_and_never_more_bytes_than_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ring, _) = open(directory.path(), "a", 64 << 20);
        for seq in 1..=3000 {
            ring.write(&frame("a", seq)).unwrap();
        }
        let status = ring.status(String::new());
        assert!(
            (SECONDS..=SECONDS + SECONDS / FILES).contains(&status.entries),
            "{status:?}"
        );
        assert_eq!(status.newest_unix_ns, 3000);
        assert!(status.oldest_unix_ns <= 3000 - SECONDS, "{status:?}");
        drop(ring);

        let (mut ring, _) = open(directory.path(), "b", 100_000);
        for seq in 1..=3000 {
            ring.write(&frame("b", seq)).unwrap();
            let files = disk::files(directory.path()).unwrap();
            let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
            assert!(bytes <= 100_000, "{bytes}");
        }
    }

    /// A disk that is full from some byte on, or loses a piece of what it was given.
    #[derive(Debug)]
    struct Full {
        inner: Directory,
        left: std::sync::Arc<std::sync::Mutex<usize>>,
    }

    impl Disk for Full {
        fn name(&self) -> String {
            self.inner.name()
        }
        fn list(&mut self) -> io::Result<Vec<(u64, u64)>> {
            self.inner.list()
        }
        fn read(&mut self, number: u64) -> io::Result<Vec<u8>> {
            self.inner.read(number)
        }
        fn create(&mut self, number: u64) -> io::Result<()> {
            self.inner.create(number)
        }
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut left = self.left.lock().unwrap();
            let fits = bytes.len().min(*left);
            *left -= fits;
            self.inner.append(&bytes[..fits])?;
            if fits < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
        fn truncate(&mut self, len: u64) -> io::Result<()> {
            self.inner.truncate(len)
        }
        fn remove(&mut self, number: u64) -> io::Result<()> {
            self.inner.remove(number)
        }
    }

    #[test]
    fn a_full_disk_costs_the_second_and_nothing_else() {
        for room in (0..4000).step_by(37) {
            let directory = tempfile::tempdir().unwrap();
            let left = std::sync::Arc::new(std::sync::Mutex::new(room));
            let disk = Full {
                inner: Directory::open(directory.path()).unwrap(),
                left: left.clone(),
            };
            let (mut ring, _) = Ring::open(Box::new(disk), hello("a"), 1 << 20).unwrap();
            let mut kept = Vec::new();
            for seq in 1..=12 {
                if seq == 10 {
                    *left.lock().unwrap() = usize::MAX;
                }
                match ring.write(&frame("a", seq)) {
                    Ok(()) => kept.push(seq),
                    Err(err) => assert_eq!(err.kind(), io::ErrorKind::StorageFull),
                }
            }
            drop(ring);
            assert!(kept.ends_with(&[10, 11, 12]), "{room}: {kept:?}");
            let mut read = Vec::new();
            for (number, _) in disk::files(directory.path()).unwrap() {
                let content = disk::content(directory.path(), number).unwrap();
                let mut entries = Entries::new(&content);
                for entry in entries.by_ref() {
                    if let Entry::Frame(frame) = entry {
                        read.push(frame.seq);
                    }
                }
                assert_eq!(entries.damaged, 0, "{room}");
            }
            assert_eq!(read, kept, "{room}");
        }
    }
}

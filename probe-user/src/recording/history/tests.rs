//! A row of files on a disk that fills up, fails and is shared: what is not in it is counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;

use probe_ebpf::record::Delivery;
use proptest::prelude::*;

use super::*;
use crate::kernel::{Record, Ring};
use crate::recording::directory::Disk;
use crate::recording::read::{Ending, Reader};
use crate::recording::write::Storage;

const FILE: &str = "/r/a.weir";
const MAX_BYTES: u64 = 4096;

/// A disk in memory. Files stay readable as they are, as after a crash.
#[derive(Clone, Debug, Default)]
struct Memory(Rc<RefCell<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Of all files together.
    room: Option<usize>,
    /// What others take of it.
    taken: usize,
    /// Half a write is done and cannot be taken back.
    tears: bool,
    written_by_another: bool,
}

impl Inside {
    fn left(&self) -> usize {
        let used: usize = self.files.values().map(Vec::len).sum();
        self.room
            .map_or(1 << 40, |room| room.saturating_sub(used + self.taken))
    }
}

#[derive(Debug)]
struct OpenFile {
    disk: Memory,
    bytes: usize,
    path: PathBuf,
}

impl Write for OpenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inside = self.disk.0.borrow_mut();
        let taken = bytes.len().min(inside.left());
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let Some(file) = inside.files.get_mut(&self.path) else {
            // It was removed: what is written is nowhere.
            return Ok(taken);
        };
        file.extend_from_slice(&bytes[..taken]);
        self.bytes += taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Storage for OpenFile {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        let mut inside = self.disk.0.borrow_mut();
        if inside.tears {
            return Err(io::Error::other("torn"));
        }
        let file = inside.files.get_mut(&self.path).unwrap();
        file.truncate(usize::try_from(len).unwrap());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Directory for Memory {
    type File = OpenFile;

    fn create(&self, path: &Path) -> io::Result<OpenFile> {
        let made = self
            .0
            .borrow_mut()
            .files
            .insert(path.to_owned(), Vec::new());
        assert!(made.is_none(), "{path:?} was written over");
        Ok(OpenFile {
            disk: self.clone(),
            bytes: 0,
            path: path.to_owned(),
        })
    }

    fn is_being_written(&self, _: &Path) -> io::Result<bool> {
        Ok(self.0.borrow().written_by_another)
    }

    fn names(&self, path: &Path, _: &OpenFile) -> io::Result<bool> {
        Ok(self.0.borrow().files.contains_key(path))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let inside = self.0.borrow();
        let files = inside.files.iter();
        Ok(files
            .map(|(path, bytes)| (path.clone(), bytes.len() as u64))
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inside = self.0.borrow_mut();
        let bytes = inside.files.remove(from).unwrap();
        assert!(inside.files.insert(to.to_owned(), bytes).is_none());
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let gone = self.0.borrow_mut().files.remove(path);
        gone.map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.borrow().left() as u64)
    }
}

impl Memory {
    fn names(&self) -> Vec<String> {
        let inside = self.0.borrow();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        inside.files.keys().map(name).collect()
    }

    /// Each part in order: what it says was said before it, and how much it has or misses.
    fn parts(&self) -> Vec<Part> {
        let inside = self.0.borrow();
        // The one without a number is the latest, and sorts last.
        let parts = inside.files.values().map(|bytes| {
            let mut reader = Reader::open(&bytes[..]).expect("each file is readable");
            let header = reader.header().clone();
            let (mut records, mut missing) = (0, 0);
            let ending = reader
                .each(|said| match said {
                    Said::Record { .. } => records += 1,
                    Said::Missing { records, .. } => missing += records,
                    _ => {}
                })
                .unwrap();
            Part {
                header,
                records,
                missing,
                ending,
            }
        });
        parts.collect()
    }
}

#[derive(Debug)]
struct Part {
    header: v1::RecordingHeader,
    records: u64,
    missing: u64,
    ending: Ending,
}

fn bounds() -> Bounds {
    Bounds {
        max_bytes: MAX_BYTES,
        max_files: 4,
        min_free_bytes: 0,
    }
}

fn begin(disk: &Memory, bounds: Bounds) -> History<Memory> {
    begin_life(disk, bounds, 0)
}

fn begin_life(disk: &Memory, bounds: Bounds, life: u32) -> History<Memory> {
    let origin = v1::RecordingHeader {
        boot_id: life.to_string(),
        whole: true,
        ..v1::RecordingHeader::default()
    };
    let shared = Arc::new(Shared::new(bounds));
    History::begin(disk.clone(), FILE.into(), origin, shared).unwrap()
}

/// So many records that do not compress, in one block.
fn block(records: u64, at_ns: u64) -> Block {
    let mut entries = Vec::new();
    let now_ns = at_ns;
    entry::append(&mut entries, &Said::Now { now_ns });
    for n in 0..records {
        let random = fastrand::Rng::with_seed(at_ns * 1000 + n).u64(..);
        let delivery = Delivery {
            cookie: random,
            t_request_ns: random.rotate_left(13) ^ n,
            ..Delivery::default()
        };
        let record = Record::Delivery(&delivery);
        let ring = Ring::Bulk;
        entry::append(&mut entries, &Said::Record { ring, record });
    }
    Block {
        said: v1::RecordBlock {
            entries: entries.into(),
            first_monotonic_ns: at_ns,
            last_monotonic_ns: at_ns,
            records,
        },
        missing: 0,
        state: State::default(),
    }
}

#[test]
fn full_files_are_followed_by_others_and_the_oldest_go() {
    let disk = Memory::default();
    let mut history = begin(&disk, bounds());
    for at_ns in 1..=100 {
        history.block(&block(10, at_ns));
        assert!(disk.names().len() <= 4, "{:?}", disk.names());
    }
    let status = history.shared.status();
    history.end(RecordingEndCause::DaemonEnded);
    let parts = disk.parts();
    assert_eq!(parts.len(), 4);
    assert!(parts[0].header.part > 1, "none has gone: {parts:?}");
    assert!(
        disk.0
            .borrow()
            .files
            .values()
            .all(|file| file.len() as u64 <= MAX_BYTES)
    );
    for pair in parts.windows(2) {
        let [one, next] = pair else { unreachable!() };
        assert_eq!(next.header.part, one.header.part + 1);
        assert_eq!(
            next.header.records_before,
            one.header.records_before + one.records
        );
        assert!(
            matches!(&one.ending, Ending::Ended(end) if end.cause() == RecordingEndCause::Continued),
            "{:?}",
            one.ending
        );
        assert!(!next.header.whole);
    }
    let last = parts.last().unwrap();
    assert_eq!(last.header.records_before + last.records, 1000);
    assert_eq!((status.records, status.records_unwritten), (1000, 0));
    assert_eq!((status.files, status.error.as_str()), (4, ""));
}

#[test]
fn the_first_file_is_the_daemons_whole_life() {
    let disk = Memory::default();
    let mut history = begin(&disk, bounds());
    history.block(&block(1, 1));
    // As after a crash.
    drop(history);
    assert_eq!(disk.names(), ["a.weir"]);
    let [part] = &disk.parts()[..] else { panic!() };
    assert!(part.header.whole);
    assert_eq!((part.header.part, part.records), (1, 1));
    assert_eq!(part.ending, Ending::Open);
}

#[test]
fn what_a_former_daemon_left_is_kept_as_older_files() {
    let disk = Memory::default();
    let mut history = begin(&disk, bounds());
    history.block(&block(3, 1));
    drop(history);
    let mut history = begin(&disk, bounds());
    history.block(&block(5, 1));
    history.end(RecordingEndCause::DaemonEnded);
    assert_eq!(disk.names(), ["a.000001.weir", "a.weir"]);
    let records: Vec<_> = disk.parts().iter().map(|part| part.records).collect();
    assert_eq!(records, [3, 5]);
    // Others' files are none of its own.
    for other in ["/r/b.weir", "/r/a.12.weir", "/r/a.000002.weir.gz"] {
        disk.0
            .borrow_mut()
            .files
            .insert(other.into(), b"precious".to_vec());
    }
    let narrow = Bounds {
        max_files: 2,
        ..bounds()
    };
    drop(begin(&disk, narrow));
    let left = [
        "a.000002.weir",
        "a.000002.weir.gz",
        "a.12.weir",
        "a.weir",
        "b.weir",
    ];
    assert_eq!(disk.names(), left);
}

#[test]
fn a_file_that_is_taken_away_is_ended_and_another_begun() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.weir");
    let shared = Arc::new(Shared::new(bounds()));
    let origin = v1::RecordingHeader::default();
    let mut history = History::begin(Disk, file.clone(), origin, shared).unwrap();
    history.block(&block(3, 1));
    let moved = dir.path().join("kept");
    std::fs::rename(&file, &moved).unwrap();
    history.block(&block(5, 2));
    std::fs::remove_file(&file).unwrap();
    history.block(&block(7, 3));
    assert_eq!(history.shared.status().files, 1);
    history.end(RecordingEndCause::DaemonEnded);

    let read = |path: &Path| {
        let mut reader = Reader::open(std::fs::File::open(path).unwrap()).unwrap();
        let header = reader.header().clone();
        let mut records = 0;
        let ending = reader
            .each(|said| records += u64::from(matches!(said, Said::Record { .. })))
            .unwrap();
        let cause = match ending {
            Ending::Ended(end) => end.cause(),
            other => panic!("{path:?} is not ended: {other:?}"),
        };
        (header.part, header.records_before, records, cause)
    };
    assert_eq!(read(&moved), (1, 0, 3, RecordingEndCause::Continued));
    assert_eq!(read(&file), (3, 8, 7, RecordingEndCause::DaemonEnded));
}

#[test]
fn a_file_that_another_weir_writes_is_left_alone() {
    let disk = Memory::default();
    drop(begin(&disk, bounds()));
    disk.0.borrow_mut().written_by_another = true;
    let shared = Arc::new(Shared::new(bounds()));
    let origin = v1::RecordingHeader::default();
    let refused = History::begin(disk.clone(), FILE.into(), origin, shared).unwrap_err();
    assert!(refused.to_string().contains("another weir"), "{refused}");
    assert_eq!(disk.names(), ["a.weir"]);
}

#[test]
fn a_full_disk_is_waited_for_and_what_is_missing_is_told_where_it_is_missing() {
    let disk = Memory::default();
    let mut history = begin(&disk, bounds());
    history.block(&block(2, 1));
    let used = disk.0.borrow().files.values().map(Vec::len).sum::<usize>();
    disk.0.borrow_mut().room = Some(used + 10);
    history.block(&block(3, 2));
    history.block(&block(4, 3));
    let status = history.shared.status();
    assert_eq!((status.records, status.records_unwritten), (2, 7));
    assert!(!status.error.is_empty());
    disk.0.borrow_mut().room = None;
    history.block(&block(5, 4));
    let status = history.shared.status();
    assert_eq!((status.records, status.records_unwritten), (7, 7));
    assert_eq!(status.error, "");
    history.end(RecordingEndCause::DaemonEnded);
    let [part] = &disk.parts()[..] else { panic!() };
    assert_eq!((part.records, part.missing), (7, 7));
    assert!(
        matches!(&part.ending, Ending::Ended(end) if end.records_unwritten == 7),
        "{part:?}"
    );
}

#[test]
fn a_disk_that_is_full_at_the_start_is_waited_for() {
    let disk = Memory::default();
    disk.0.borrow_mut().room = Some(0);
    let mut history = begin(&disk, bounds());
    history.block(&block(2, 1));
    assert!(disk.names().is_empty());
    disk.0.borrow_mut().room = None;
    history.block(&block(3, 2));
    drop(history);
    let [part] = &disk.parts()[..] else { panic!() };
    assert_eq!(
        (part.header.records_before, part.records, part.header.whole),
        (2, 3, false)
    );
}

#[test]
fn what_is_to_be_left_free_is_made_free_by_the_oldest_files_and_then_left() {
    let disk = Memory::default();
    disk.0.borrow_mut().room = Some(100_000);
    let mut history = begin(
        &disk,
        Bounds {
            min_free_bytes: 50_000,
            ..bounds()
        },
    );
    for at_ns in 1..=60 {
        history.block(&block(10, at_ns));
    }
    assert_eq!(disk.names().len(), 4);
    disk.0.borrow_mut().taken = 49_000;
    let mut at_ns = 60;
    while history.shared.status().error.is_empty() {
        at_ns += 1;
        history.block(&block(1, at_ns));
        assert!(at_ns < 1000, "it goes on for ever");
    }
    assert_eq!(disk.names(), ["a.weir"]);
    disk.0.borrow_mut().taken = 0;
    history.block(&block(1, at_ns + 1));
    assert_eq!(history.shared.status().error, "");
    assert_eq!(history.shared.status().records_unwritten, 1);
}

#[test]
fn a_reload_ends_the_file_and_puts_new_bounds_in_force() {
    let disk = Memory::default();
    let mut history = begin(&disk, bounds());
    history.block(&block(1, 1));
    history.shared.reload(Bounds {
        max_files: 2,
        ..bounds()
    });
    history.block(&block(1, 2));
    assert_eq!(disk.names(), ["a.000001.weir", "a.weir"]);
    history.shared.reload(Bounds {
        max_files: 2,
        ..bounds()
    });
    history.block(&block(1, 3));
    assert_eq!(disk.names(), ["a.000002.weir", "a.weir"]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Block { records: u64, missing: u64 },
    Room(Option<usize>),
    Taken(usize),
    Tears(bool),
    Cut,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let block = (0_u64..20, prop_oneof![4 => Just(0_u64), 1 => 1_u64..9]);
    let room = proptest::option::of(0_usize..30_000);
    prop_oneof![
        8 => block.prop_map(|(records, missing)| Step::Block { records, missing }),
        1 => room.prop_map(Step::Room),
        1 => (0_usize..20_000).prop_map(Step::Taken),
        1 => any::<bool>().prop_map(Step::Tears),
        1 => Just(Step::Cut),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_the_disk_does_every_record_is_in_a_file_or_accounted_for(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let disk = Memory::default();
        let few = Bounds { min_free_bytes: 5_000, ..bounds() };
        let mut history = begin(&disk, few);
        let (mut life, mut said, mut told) = (0, 0, 0);
        for (at_ns, step) in steps.into_iter().enumerate() {
            match step {
                Step::Block { records, missing } => {
                    let mut block = block(records, at_ns as u64 + 1);
                    let gap = Said::Missing { now_ns: at_ns as u64 + 1, records: missing };
                    if missing > 0 {
                        // As a tap does it.
                        let mut entries = Vec::new();
                        entry::append(&mut entries, &gap);
                        entries.extend_from_slice(&block.said.entries);
                        block.said.entries = entries.into();
                        block.missing = missing;
                    }
                    history.block(&block);
                    said += records + missing;
                    told += records;
                }
                Step::Room(room) => disk.0.borrow_mut().room = room,
                Step::Taken(taken) => disk.0.borrow_mut().taken = taken,
                Step::Tears(tears) => disk.0.borrow_mut().tears = tears,
                Step::Cut => history.shared.reload(few),
                Step::Restart => {
                    drop(history);
                    life += 1;
                    history = begin_life(&disk, few, life);
                    (said, told) = (0, 0);
                }
            }
            let status = history.shared.status();
            prop_assert_eq!(status.records + status.records_unwritten, told);
            prop_assert!(disk.names().len() <= few.max_files as usize);
        }
        drop(history);
        let parts = disk.parts();
        for pair in parts.windows(2) {
            let [one, next] = pair else { unreachable!() };
            if next.header.boot_id == one.header.boot_id {
                prop_assert_eq!(next.header.part, one.header.part + 1);
                prop_assert!(
                    next.header.records_before
                        >= one.header.records_before + one.records + one.missing
                );
            }
        }
        if let Some(last) = parts.last().filter(|last| last.header.boot_id == life.to_string()) {
            prop_assert!(last.header.records_before + last.records + last.missing <= said);
        }
    }
}

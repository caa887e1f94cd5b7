//! Recordings as the bench's input: what real sessions and real viewers cost to fold, beside what
//! it costs to read them alone. A recording is the same in every run, so that two versions of weir
//! can be compared on the same traffic. Those of the tests are short; what a daemon records of the
//! bench's own load is not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use weir::intake::{Intake, Told};
use weir::recording::chain::{Chain, Piece};
use weir::recording::entry;
use weir::replay::{self, Options};
use weir_tests::truth::keep::Files;

use crate::daemon::{Daemon, WITHOUT_BUDGET};
use crate::machine::thread_time;
use crate::measure::Plan;
use crate::observer::Tools;
use crate::report::{Report, Samples, Table, Unit};
use crate::scene::{Pace, Scene, Work};

/// Recordings that are measured together.
struct Group {
    name: String,
    /// Each a recording of its own.
    files: Vec<PathBuf>,
    read: Vec<f64>,
    replayed: Vec<f64>,
    records: u64,
}

impl Group {
    fn new(name: impl Into<String>, files: Vec<PathBuf>) -> Self {
        Self {
            name: name.into(),
            files,
            read: Vec::new(),
            replayed: Vec::new(),
            records: 0,
        }
    }
}

/// Measures, and adds to the report. Without recordings of the user's those of the tests are taken,
/// and one of the bench's own load.
pub(crate) fn measure(
    plan: &Plan,
    tools: &Tools,
    recordings: &[PathBuf],
    report: &mut Report,
) -> Result<()> {
    // Holds the recording of the load.
    let scene = recordings.is_empty().then(Scene::new).transpose()?;
    let mut groups = if let Some(scene) = &scene {
        let mut groups = kept()?;
        let load = recorded(plan, tools, scene)?;
        groups.push(Group::new("the bench's own load", vec![load]));
        groups
    } else {
        let one = |file: &PathBuf| Group::new(name(file), vec![file.clone()]);
        recordings.iter().map(one).collect()
    };
    for round in 0..plan.replay_rounds {
        for group in &mut groups {
            round_of(plan, group, round % 2 == 0)?;
        }
        eprintln!("  replay, round {} of {}", round + 1, plan.replay_rounds);
    }
    let mut table = Table::new(
        "replay",
        "Recordings: one record, read and folded",
        "recording",
        &[
            ("records", Unit::Count),
            ("read alone", Unit::Nanoseconds),
            ("and folded", Unit::Nanoseconds),
            ("of read alone", Unit::Ratio),
        ],
    )
    .note(
        "Processor time of the thread that replays. Reading is decompression, checksums and \
         decoding. Folding includes what a record brings with it: the passing of time, labels, the \
         model of each viewer; and the making of the tables, which is most of it where a recording is short. \
         The bench's own load is many short sessions and then few long ones, at full speed.",
    );
    for group in groups {
        let (read, replayed) = (Samples(group.read), Samples(group.replayed));
        let ratio = replayed.over(&read);
        let records = Samples(vec![group.records as f64]);
        table.row(group.name, vec![records, read, replayed, ratio]);
    }
    report.tables.push(table);
    Ok(())
}

/// What a daemon records of both kinds of load.
fn recorded(plan: &Plan, tools: &Tools, scene: &Scene) -> Result<PathBuf> {
    let recording = scene.lab.dir().join("load.weir");
    let path = recording.display();
    let config = format!("{WITHOUT_BUDGET}[recording]\nfile = \"{path}\"\nmin_free_bytes = 0\n");
    let daemon = Daemon::start(&tools.weir, scene.lab.dir(), Some(&scene.observer), &config)?;
    for work in Work::ALL {
        scene.load(work, Pace::Full, plan.host_span, &mut |_| Ok(()))?;
    }
    daemon.stop()?;
    Ok(recording)
}

/// The recordings of the repository's tests.
fn kept() -> Result<Vec<Group>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recordings");
    let recordings = |directory: &Path| -> Result<Vec<PathBuf>> {
        let all = Files::all(directory)?;
        Ok(all.into_iter().map(|files| files.recording).collect())
    };
    let truth = recordings(&directory)?;
    let viewers = recordings(&directory.join("viewers"))?;
    let mut groups = vec![Group::new(format!("{} truth runs", truth.len()), truth)];
    groups.extend(
        viewers
            .into_iter()
            .map(|file| Group::new(name(&file), vec![file])),
    );
    Ok(groups)
}

fn name(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or(file.as_os_str());
    stem.to_string_lossy().into_owned()
}

/// Reads and replays by turns until enough records have been seen.
fn round_of(plan: &Plan, group: &mut Group, read_first: bool) -> Result<()> {
    let (mut read_time, mut replayed_time) = (Duration::ZERO, Duration::ZERO);
    let mut records = 0;
    while records < plan.replay_records {
        let before = records;
        for file in &group.files {
            if read_first {
                read_time += timed(|| read(file))?.1;
            }
            let (of_file, took) = timed(|| fold(file))?;
            records += of_file;
            replayed_time += took;
            if !read_first {
                read_time += timed(|| read(file))?.1;
            }
        }
        if records == before {
            bail!("there are no records in {}", group.name);
        }
        group.records = records - before;
    }
    let per_record = |time: Duration| time.as_nanos() as f64 / records as f64;
    group.read.push(per_record(read_time));
    group.replayed.push(per_record(replayed_time));
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begin = thread_time()?;
    let done = work()?;
    Ok((done, thread_time()?.saturating_sub(begin)))
}

/// Reads a recording and does nothing with it; entries in it.
fn read(file: &Path) -> Result<u64> {
    let mut chain = Chain::open(&[file.to_owned()])?;
    let mut entries = 0;
    while let Some(piece) = chain.next_piece()? {
        if let Piece::Block(block) = piece {
            entry::read(&block, |said| {
                std::hint::black_box(&said);
                entries += 1;
            })
            .with_context(|| format!("reading {}", file.display()))?;
        }
    }
    Ok(entries)
}

/// Replays a recording; records in it.
fn fold(file: &Path) -> Result<u64> {
    let chain = Chain::open(&[file.to_owned()])?;
    let mut nobody = |_: &Intake, _: Told<'_>| Ok(());
    let replayed = replay::replay(chain, Options::default(), &mut nobody)?;
    Ok(replayed.records)
}

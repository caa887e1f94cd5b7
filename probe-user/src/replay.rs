//! Replay: puts a recording through the same intake as the daemon's, as fast as it can or paced, in
//! one go or [step by step](Steps).

mod steps;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use weir_proto::v1;

use crate::intake::{Intake, Told};
use crate::qoe::CellSnapshot;
use crate::qoe::audience::Happening;
use crate::recording::Said;
use crate::recording::chain::{Chain, ChainError, Piece};
use crate::recording::entry::{self, BadEntry};
use crate::recording::read::Ending;
use crate::wire;
pub use steps::Steps;

/// A pace so slow that it is not lived to see.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// How fast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Speed {
    /// As fast as it can.
    #[default]
    Max,
    /// So many times as fast as it was.
    Times(f64),
}

/// A moment of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after its beginning.
    After(Duration),
    /// By the host's clock, Unix time.
    Unix {
        /// In nanoseconds.
        ns: u64,
    },
}

impl Moment {
    /// By the clock of the records.
    fn monotonic_ns(self, header: &v1::RecordingHeader) -> u64 {
        let since_begin = match self {
            Self::After(since) => u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            Self::Unix { ns } => ns.saturating_sub(header.begin_unix_ns),
        };
        header.begin_monotonic_ns.saturating_add(since_begin)
    }
}

/// What of a recording, and how fast.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How fast. What comes before `from` is not waited for.
    pub speed: Speed,
    /// What is before is folded and not told.
    pub from: Option<Moment>,
    /// What is after is left out.
    pub until: Option<Moment>,
}

impl Options {
    /// Nothing later than this is told.
    pub fn until_ns(&self, header: &v1::RecordingHeader) -> u64 {
        self.until
            .map_or(u64::MAX, |until| until.monotonic_ns(header))
    }
}

/// What is told while a recording is replayed.
pub trait Listener {
    /// A record of a delivery was folded.
    fn delivery(&mut self, intake: &Intake, told: Told<'_>) -> std::io::Result<()>;

    /// Something happened to a viewer.
    fn viewer(&mut self, _: &Intake, _: &Happening) -> std::io::Result<()> {
        Ok(())
    }

    /// So much is done; called often.
    fn progress(&mut self, _: Progress) {}
}

impl<F: FnMut(&Intake, Told<'_>) -> std::io::Result<()>> Listener for F {
    fn delivery(&mut self, intake: &Intake, told: Told<'_>) -> std::io::Result<()> {
        self(intake, told)
    }
}

/// How far a replay is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes of the files.
    pub bytes: u64,
    /// Of these, read.
    pub bytes_read: u64,
    /// Records folded.
    pub records: u64,
}

/// A recording, put through the intake.
#[derive(Debug)]
pub struct Replayed {
    /// All that is known at its end.
    pub intake: Intake,
    /// What the recording says of itself.
    pub header: v1::RecordingHeader,
    /// How each of its files ends, as far as they were read.
    pub endings: Vec<(PathBuf, Ending)>,
    /// Files in it.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Records that are missing in it.
    pub missing: u64,
    /// Gaps that they left.
    pub gaps: u64,
    /// Time of the last thing said.
    pub end_monotonic_ns: u64,
    /// The cells at the moment that was asked for as the beginning; none if it was not.
    pub cells_before: Option<Vec<CellSnapshot>>,
    /// It ends before the moment that was asked for as the beginning.
    pub is_before_from: bool,
    /// How long the replay took.
    pub took: Duration,
}

impl Replayed {
    /// Whether nothing is known to be missing, as far as it was read. One that lacks its end, and
    /// nothing else, may still be being written.
    pub fn is_complete(&self) -> bool {
        let is_whole = |ending: &Ending| match ending {
            Ending::Ended(end) => end.records_unwritten == 0,
            Ending::Open => true,
            Ending::Torn { .. } | Ending::Damaged { .. } => false,
        };
        self.missing == 0 && self.endings.iter().all(|(_, ending)| is_whole(ending))
    }

    /// From its beginning to the last thing said.
    pub fn span(&self) -> Duration {
        let begin_ns = self.header.begin_monotonic_ns;
        Duration::from_nanos(self.end_monotonic_ns.saturating_sub(begin_ns))
    }

    /// Records read and folded in each second of the replay.
    pub fn records_per_s(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The cells: of the whole recording, or since the moment that was asked for.
    pub fn cells(&self) -> Vec<CellSnapshot> {
        let mut cells = self.intake.cells();
        for before in self.cells_before.iter().flatten() {
            if let Some(cell) = cells.iter_mut().find(|cell| cell.key == before.key) {
                *cell = cell.since(before);
            }
        }
        cells
    }
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ChainError),
    /// It is whole and not understood.
    #[error("cannot read {}: {bad}", path.display())]
    Entry {
        /// Where.
        path: PathBuf,
        /// What.
        bad: BadEntry,
    },
    /// It can be read, and not folded.
    #[error("cannot replay {}: {why:#}", path.display())]
    Header {
        /// Its first file.
        path: PathBuf,
        /// Why not.
        why: anyhow::Error,
    },
    /// What is told cannot be passed on.
    #[error(transparent)]
    Told(std::io::Error),
}

/// Replays all of it, or what `options` asks for.
pub fn replay(
    mut chain: Chain,
    options: Options,
    listener: &mut impl Listener,
) -> Result<Replayed, Error> {
    let begin = Instant::now();
    let mut player = Player::new(chain.header(), options).map_err(|why| Error::Header {
        path: chain.path().to_owned(),
        why,
    })?;
    while let Some(piece) = chain.next_piece()? {
        match piece {
            Piece::Block(block) => {
                let read = player.block(&block, listener);
                read.map_err(|bad| Error::Entry {
                    path: chain.path().to_owned(),
                    bad,
                })?;
            }
            Piece::Part(header) => player.part(&header),
        }
        std::mem::replace(&mut player.told, Ok(())).map_err(Error::Told)?;
        if player.over {
            break;
        }
        listener.progress(Progress {
            bytes: chain.bytes(),
            bytes_read: chain.bytes_read(),
            records: player.records,
        });
    }
    let is_before_from = player.from_ns.is_some() && player.cells_before.is_none();
    if is_before_from {
        // Nothing was counted since.
        player.cells_before = Some(player.intake.cells());
    }
    Ok(Replayed {
        endings: chain
            .endings()
            .map(|(path, ending)| (path.to_owned(), ending.clone()))
            .collect(),
        files: chain.files(),
        bytes: chain.bytes(),
        header: chain.header().clone(),
        intake: player.intake,
        records: player.records,
        missing: player.missing,
        gaps: player.gaps,
        end_monotonic_ns: player.end_monotonic_ns,
        cells_before: player.cells_before,
        is_before_from,
        took: begin.elapsed(),
    })
}

/// Takes in what a recording says.
#[derive(Debug)]
struct Player {
    intake: Intake,
    pace: Pace,
    /// Records said before the first file.
    records_before: u64,
    from_ns: Option<u64>,
    until_ns: u64,
    records: u64,
    missing: u64,
    gaps: u64,
    end_monotonic_ns: u64,
    cells_before: Option<Vec<CellSnapshot>>,
    told: std::io::Result<()>,
    over: bool,
}

impl Player {
    fn new(header: &v1::RecordingHeader, options: Options) -> anyhow::Result<Self> {
        let from_ns = options.from.map(|from| from.monotonic_ns(header));
        let until_ns = options.until_ns(header);
        if from_ns.is_some_and(|from_ns| from_ns >= until_ns) {
            anyhow::bail!("the beginning that is asked for is not before the end");
        }
        Ok(Self {
            intake: Intake::at_beginning_of(header)?,
            pace: Pace::new(header, options),
            records_before: header.records_before,
            from_ns,
            until_ns,
            records: 0,
            missing: 0,
            gaps: 0,
            end_monotonic_ns: header.begin_monotonic_ns,
            cells_before: None,
            told: Ok(()),
            over: false,
        })
    }

    fn block(&mut self, block: &[u8], listener: &mut impl Listener) -> Result<(), BadEntry> {
        entry::read(block, |said| self.take(&said, listener))
    }

    fn take(&mut self, said: &Said<'_>, listener: &mut impl Listener) {
        if let Some(now_ns) = said.now_ns() {
            self.over |= now_ns > self.until_ns;
            if !self.over {
                self.end_monotonic_ns = self.end_monotonic_ns.max(now_ns);
                self.reach(now_ns);
            }
        }
        if self.over || self.told.is_err() {
            return;
        }
        match said {
            Said::Record { .. } => self.records += 1,
            Said::Missing { records, .. } => {
                self.missing = self.missing.saturating_add(*records);
                self.gaps += 1;
            }
            _ => {}
        }
        let is_told = self.from_ns.is_none() || self.cells_before.is_some();
        if let Some(delivery) = self.intake.take(said)
            && is_told
        {
            self.told = listener.delivery(&self.intake, delivery);
        }
        while let Some(happening) = self.intake.next_happening() {
            if is_told && self.told.is_ok() {
                self.told = listener.viewer(&self.intake, &happening);
            }
        }
    }

    /// Time has come to this.
    fn reach(&mut self, now_ns: u64) {
        if self.cells_before.is_none() && self.from_ns.is_some_and(|from_ns| now_ns >= from_ns) {
            self.cells_before = Some(self.intake.cells());
        }
        if let Some(due) = self.pace.due(now_ns) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    /// Another file begins.
    fn part(&mut self, header: &v1::RecordingHeader) {
        let known = self.records_before.saturating_add(self.records);
        let known = known.saturating_add(self.missing);
        let gap = gap(header, known, self.intake.settings());
        for said in gap.into_iter().flatten() {
            self.take(&said, &mut |_: &Intake, _: Told<'_>| Ok(()));
        }
    }
}

/// What must be told where a file begins that does not go on where the one before it, up to which
/// so many records are known, ended; none: it does.
pub fn gap(
    header: &v1::RecordingHeader,
    known: u64,
    in_force: &v1::RecordedSettings,
) -> Option<[Said<'static>; 3]> {
    let records = header.records_before.saturating_sub(known);
    let settings = header.settings.clone().unwrap_or_default();
    let now_ns = header.begin_monotonic_ns;
    let counts = wire::kernel_counts(&header.losses.unwrap_or_default());
    (records > 0 || settings != *in_force).then(|| {
        [
            Said::Missing { now_ns, records },
            Said::Settings(settings.into()),
            Said::Counts { now_ns, counts },
        ]
    })
}

/// When what was said is told again.
#[derive(Debug)]
pub struct Pace {
    speed: Speed,
    /// When what is waited for began; none: it has not yet.
    begin: Option<Instant>,
    from_ns: u64,
}

impl Pace {
    /// Of a recording with this header.
    pub fn new(header: &v1::RecordingHeader, options: Options) -> Self {
        let from_ns = options.from.map(|from| from.monotonic_ns(header));
        Self {
            speed: options.speed,
            begin: None,
            from_ns: from_ns.unwrap_or(header.begin_monotonic_ns),
        }
    }

    /// When what was said at `now_ns` is due; none: at once.
    pub fn due(&mut self, now_ns: u64) -> Option<Instant> {
        let Speed::Times(times) = self.speed else {
            return None;
        };
        let since = Duration::from_nanos(now_ns.checked_sub(self.from_ns)?);
        let begin = *self.begin.get_or_insert_with(Instant::now);
        // Beyond what a Duration can hold there is no difference to waiting for ever.
        let since =
            Duration::try_from_secs_f64(since.as_secs_f64() / times).unwrap_or(Duration::MAX);
        Some(begin.checked_add(since).unwrap_or(begin + FOR_EVER))
    }
}

//! Recordings that an edge plays one after the other, through the daemon's own fold: at each tick it
//! knows what the daemon knew at that moment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use weir_proto::v1::{self, Lane};

use super::load::Mark;
use super::totals::Totals;
use crate::intake::{Intake, Told};
use crate::recording::chain::Chain;
use crate::recording::read::Ending;
use crate::replay::{self, Steps, replay};
use crate::uplink::{Encoded, Tick, vital_frame};
use crate::wire::{self, DaemonCounts, Heard};

/// What edges play, and how.
#[derive(Clone, Debug)]
pub struct Playing {
    /// Each edge plays all of them. At least one.
    pub recordings: Arc<[Recording]>,
    /// How many times as fast as it was; greater than 0.
    pub speed: f64,
    /// After the last the first comes again.
    pub repeat: bool,
}

/// One history of one daemon, in a file or several.
#[derive(Clone, Debug)]
pub struct Recording {
    files: Vec<PathBuf>,
    span: Duration,
    /// At its end.
    cells: u32,
}

impl Recording {
    /// What is in these files: those of one daemon's own recording are one, any other is its own.
    /// Each is read to its end.
    ///
    /// # Errors
    /// One of them is no recording, or damaged, or there is none.
    pub fn all(files: &[PathBuf]) -> Result<Vec<Self>> {
        let mut histories: Vec<(Option<String>, Vec<PathBuf>)> = Vec::new();
        for file in files {
            let chain = Chain::open(std::slice::from_ref(file))?;
            let header = chain.header();
            // What `weir record` makes stands alone, and has no part.
            let daemon = (header.part > 0).then(|| header.boot_id.clone());
            let same = |history: &&mut (Option<String>, _)| daemon.is_some() && history.0 == daemon;
            match histories.iter_mut().find(same) {
                Some((_, parts)) => parts.push(file.clone()),
                None => histories.push((daemon, vec![file.clone()])),
            }
        }
        if histories.is_empty() {
            bail!("no recording is given");
        }
        let files = histories.into_iter().map(|(_, files)| files);
        files.map(Self::read).collect()
    }

    fn read(files: Vec<PathBuf>) -> Result<Self> {
        let chain = Chain::open(&files)?;
        let options = replay::Options::default();
        let replayed = replay(chain, options, &mut |_: &Intake, _: Told<'_>| Ok(()))?;
        for (file, ending) in &replayed.endings {
            if matches!(ending, Ending::Torn { .. } | Ending::Damaged { .. }) {
                bail!("cannot play {}: it is {ending}", file.display());
            }
        }
        Ok(Self {
            span: replayed.span(),
            cells: u32::try_from(replayed.intake.fold().cells().len()).unwrap_or(u32::MAX),
            files,
        })
    }

    /// From its beginning to the last thing said.
    pub fn span(&self) -> Duration {
        self.span
    }

    /// How many there are at its end.
    pub fn cells(&self) -> u32 {
        self.cells
    }

    fn steps(&self) -> Result<Steps> {
        Ok(Steps::new(Chain::open(&self.files)?)?)
    }
}

/// What one edge plays.
#[derive(Debug)]
pub(super) struct Play {
    playing: Playing,
    /// Which of the recordings it is in.
    at: usize,
    /// How many are over.
    over: usize,
    /// So much of this one lay before its first tick.
    skipped: Duration,
    /// When that was.
    began: Option<Instant>,
    /// None: this one is over.
    steps: Option<Steps>,
    backend: v1::Backend,
    /// The latest.
    tick: Tick,
}

impl Play {
    /// Of the edge with the number `n`: edges begin with different recordings, and those that begin with
    /// the same one each at another place in it, as a daemon that has run for so long. Waits for the disk.
    pub(super) fn begin(playing: Playing, n: u32, edges: u32) -> Result<Self> {
        let recordings = u32::try_from(playing.recordings.len()).unwrap_or(u32::MAX);
        let at = n.checked_rem(recordings).context("no recording is given")?;
        let alike = edges.div_ceil(recordings);
        let place = f64::from(n / recordings) / f64::from(alike.max(1));
        let at = at as usize;
        let steps = playing.recordings[at].steps()?;
        let mut play = Self {
            skipped: playing.recordings[at].span.mul_f64(place),
            playing,
            at,
            over: 0,
            began: None,
            backend: backend(&steps),
            steps: Some(steps),
            tick: nothing(),
        };
        play.reach(play.skipped)?;
        Ok(play)
    }

    /// The same recording from its beginning.
    pub(super) fn begin_anew(&mut self) -> Result<()> {
        let steps = self.playing.recordings[self.at].steps()?;
        self.backend = backend(&steps);
        self.steps = Some(steps);
        self.skipped = Duration::ZERO;
        self.began = None;
        self.tick = nothing();
        Ok(())
    }

    /// Whether this recording is over, and another one follows.
    pub(super) fn is_followed(&self) -> bool {
        let is_last = self.over + 1 >= self.playing.recordings.len();
        self.steps.is_none() && (self.playing.repeat || !is_last)
    }

    /// That one begins.
    pub(super) fn follow(&mut self) -> Result<()> {
        self.over += 1;
        self.at = (self.at + 1) % self.playing.recordings.len();
        self.begin_anew()
    }

    pub(super) fn backend(&self) -> v1::Backend {
        self.backend
    }

    /// Time for a tick. Where the recording is over, it is the same as the last one.
    pub(super) fn advance(&mut self, mark: Mark) -> Result<()> {
        let began = *self.began.get_or_insert_with(Instant::now);
        let played = began.elapsed().as_secs_f64() * self.playing.speed;
        // Beyond what a Duration can hold is the end of every recording.
        let played = Duration::try_from_secs_f64(played).unwrap_or(Duration::MAX);
        self.reach(self.skipped.saturating_add(played))?;
        let Mark {
            seq,
            unix_ns,
            interval_ms,
        } = mark;
        self.tick.seq = seq;
        self.tick.unix_ns = unix_ns;
        self.tick.interval_ms = interval_ms;
        Ok(())
    }

    fn reach(&mut self, since_begin: Duration) -> Result<()> {
        let Some(steps) = &mut self.steps else {
            return Ok(());
        };
        let is_over = !steps.reach(since_begin)?;
        let intake = steps.intake();
        self.tick = Tick {
            config_generation: intake.settings().config_generation,
            losses: intake.losses(&DaemonCounts::default()),
            cells: intake.cells(),
            ..nothing()
        };
        if is_over {
            self.steps = None;
        }
        Ok(())
    }

    /// The lane's frame of the latest tick, from one that says who sends it and when.
    pub(super) fn frame(&self, head: v1::Frame) -> v1::Frame {
        if head.lane() == Lane::Hot {
            return vital_frame(&self.tick, head, Vec::new());
        }
        v1::Frame {
            config_generation: self.tick.config_generation,
            losses: Some(self.tick.losses),
            cells: self.tick.encoded().to_vec(),
            ..head
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let heard = Heard::of(&self.tick.losses);
        let cells = self.tick.cells.iter();
        let cells: Vec<_> = cells.map(|cell| wire::cell(cell, 1, heard)).collect();
        Totals::of(&cells)
    }
}

fn backend(steps: &Steps) -> v1::Backend {
    wire::backend(steps.intake().context().backend)
}

/// A tick of a daemon that knows nothing yet.
fn nothing() -> Tick {
    Tick {
        seq: 0,
        unix_ns: 0,
        made: Instant::now(),
        interval_ms: 0,
        config_generation: 0,
        losses: v1::Losses::default(),
        cells: Vec::new(),
        encoded: Encoded::default(),
        off: String::new(),
        budget: None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::intake::settings_of;
    use crate::recording::directory::Disk;
    use crate::recording::history::{Bounds, History, Shared};
    use crate::recording::tap::{Block, State};
    use crate::recording::{Said, entry};

    const SECOND_NS: u64 = 1_000_000_000;

    /// A daemon's own recording that begins at 1 s, with a moment for each of these seconds; after each
    /// but the last comes another file.
    fn record(path: &Path, boot_id: &str, seconds: &[u64]) {
        let bounds = Bounds {
            max_bytes: 1 << 20,
            max_files: 8,
            min_free_bytes: 0,
        };
        let header = v1::RecordingHeader {
            boot_id: boot_id.into(),
            backend: v1::Backend::Exact.into(),
            tick_hz: 1000,
            begin_monotonic_ns: SECOND_NS,
            limits: Some(v1::FoldLimits {
                max_sessions: 1000,
                max_viewers: 100,
                max_cells: 16,
                max_deliveries_kept: 10,
            }),
            settings: Some(settings_of(&Config::default(), 1)),
            ..v1::RecordingHeader::default()
        };
        let shared = Arc::new(Shared::new(bounds));
        let mut history =
            History::begin(Disk, path.to_owned(), header, Arc::clone(&shared)).unwrap();
        for (n, second) in seconds.iter().enumerate() {
            let now_ns = second * SECOND_NS;
            let mut entries = Vec::new();
            entry::append(&mut entries, &Said::Now { now_ns });
            if n > 0 {
                shared.reload(bounds);
            }
            history.block(&Block {
                said: v1::RecordBlock {
                    entries: entries.into(),
                    first_monotonic_ns: now_ns,
                    last_monotonic_ns: now_ns,
                    records: 0,
                },
                missing: 0,
                state: State::default(),
            });
        }
        history.end(v1::RecordingEndCause::DaemonEnded);
    }

    #[test]
    fn the_files_of_one_daemon_are_one_recording_and_others_are_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        record(&path("a.weir"), "a", &[2, 5]);
        record(&path("b.weir"), "b", &[9]);
        let files = ["a.weir", "b.weir", "a.000001.weir"].map(path);
        let spans: Vec<_> = Recording::all(&files)
            .unwrap()
            .iter()
            .map(|recording| recording.span().as_secs())
            .collect();
        assert_eq!(spans, [4, 8]);
        // Where the middle is missing, what is there is played all the same.
        assert_eq!(Recording::all(&files[..2]).unwrap().len(), 2);
    }

    #[test]
    fn edges_begin_with_different_recordings_and_at_different_places() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["a.weir", "b.weir"].map(|name| directory.path().join(name));
        record(&files[0], "a", &[5]);
        record(&files[1], "b", &[9]);
        let playing = Playing {
            recordings: Recording::all(&files).unwrap().into(),
            speed: 1.0,
            repeat: false,
        };
        let begins: Vec<_> = (0..5)
            .map(|n| Play::begin(playing.clone(), n, 5).unwrap())
            .map(|play| (play.at, play.skipped.as_millis()))
            .collect();
        // Five edges: three begin with the first, two with the second.
        let expected = [(0, 0), (1, 0), (0, 1333), (1, 2666), (0, 2666)];
        assert_eq!(begins, expected);
    }

    #[test]
    fn what_is_over_stands_still_or_is_followed_by_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["a.weir", "b.weir"].map(|name| directory.path().join(name));
        record(&files[0], "a", &[2]);
        record(&files[1], "b", &[2]);
        let mark = Mark {
            seq: 1,
            unix_ns: 1,
            interval_ms: 1000,
        };
        for repeat in [false, true] {
            let playing = Playing {
                recordings: Recording::all(&files).unwrap().into(),
                speed: 1e12,
                repeat,
            };
            let mut play = Play::begin(playing, 0, 1).unwrap();
            let mut order = vec![play.at];
            for _ in 0..3 {
                while play.steps.is_some() {
                    play.advance(mark).unwrap();
                }
                if play.is_followed() {
                    play.follow().unwrap();
                    order.push(play.at);
                }
            }
            let expected: &[usize] = if repeat { &[0, 1, 0, 1] } else { &[0, 1] };
            assert_eq!(order, expected);
            assert!(!play.is_followed());
        }
    }
}

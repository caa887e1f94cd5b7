//! Replay: puts a recording through the same intake as the daemon's, as fast as it can or paced.

use std::io::Read;
use std::time::{Duration, Instant};

use weir_proto::v1;

use crate::intake::{Intake, Told};
use crate::recording::Said;
use crate::recording::read::{Ending, ReadError, Reader};

/// How fast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Speed {
    /// As fast as it can.
    #[default]
    Max,
    /// So many times as fast as it was.
    Times(f64),
}

/// A recording, put through the intake.
#[derive(Debug)]
pub struct Replayed {
    /// All that is known at its end.
    pub intake: Intake,
    /// What the recording says of itself.
    pub header: v1::RecordingHeader,
    /// How it ends.
    pub ending: Ending,
    /// Records in it.
    pub records: u64,
    /// Records that the recorder was too slow for.
    pub missing: u64,
    /// Gaps that they left.
    pub gaps: u64,
    /// Time of the last thing said.
    pub end_monotonic_ns: u64,
}

impl Replayed {
    /// From its beginning to the last thing said.
    pub fn span(&self) -> Duration {
        let begin_ns = self.header.begin_monotonic_ns;
        Duration::from_nanos(self.end_monotonic_ns.saturating_sub(begin_ns))
    }
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It can be read, and not folded.
    #[error("{0:#}")]
    Header(anyhow::Error),
    /// What is told cannot be passed on.
    #[error(transparent)]
    Told(std::io::Error),
}

/// Replays all of it. `each` hears of every record of a delivery, as it is folded.
pub fn replay(
    mut reader: Reader<impl Read>,
    speed: Speed,
    mut each: impl FnMut(&Intake, Told<'_>) -> std::io::Result<()>,
) -> Result<Replayed, Error> {
    let header = reader.header().clone();
    let mut intake = Intake::at_beginning_of(&header).map_err(Error::Header)?;
    let pace = Pace {
        speed,
        begin: Instant::now(),
        begin_ns: header.begin_monotonic_ns,
    };
    let (mut records, mut missing, mut gaps) = (0, 0, 0);
    let mut end_monotonic_ns = header.begin_monotonic_ns;
    let mut told = Ok(());
    while told.is_ok()
        && let Some(block) = reader.next_block()?
    {
        let take = |said: Said<'_>| {
            if let Some(now_ns) = said.now_ns() {
                end_monotonic_ns = end_monotonic_ns.max(now_ns);
                pace.wait_until(now_ns);
            }
            match said {
                Said::Record { .. } => records += 1,
                Said::Missing { records, .. } => {
                    missing += records;
                    gaps += 1;
                }
                _ => {}
            }
            if let Some(delivery) = intake.take(&said)
                && told.is_ok()
            {
                told = each(&intake, delivery);
            }
        };
        crate::recording::entry::read(&block, take).map_err(ReadError::from)?;
    }
    told.map_err(Error::Told)?;
    Ok(Replayed {
        intake,
        header,
        ending: reader.ending(),
        records,
        missing,
        gaps,
        end_monotonic_ns,
    })
}

#[derive(Debug)]
struct Pace {
    speed: Speed,
    begin: Instant,
    begin_ns: u64,
}

impl Pace {
    fn wait_until(&self, now_ns: u64) {
        let Speed::Times(times) = self.speed else {
            return;
        };
        let since = Duration::from_nanos(now_ns.saturating_sub(self.begin_ns));
        // Beyond what a Duration can hold there is no difference to waiting for ever.
        let since =
            Duration::try_from_secs_f64(since.as_secs_f64() / times).unwrap_or(Duration::MAX);
        std::thread::sleep(since.saturating_sub(self.begin.elapsed()));
    }
}

//! What an edge says that it has measured: made up, or played from recordings.

use anyhow::{Context as _, Result};
use prost::Message as _;
use weir_proto::v1::{self, Lane};

use super::Options;
use super::made_up::MadeUp;
use super::play::Play;
use super::totals::Totals;
use crate::uplink::VITAL_FRAME_BYTES;

/// When a tick is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// Since the daemon's start, from 1.
    pub(super) seq: u64,
    /// By the edge's clock.
    pub(super) unix_ns: u64,
    pub(super) interval_ms: u32,
}

/// Of one start of a daemon.
#[derive(Debug)]
pub(super) enum Load {
    MadeUp(MadeUp),
    Played(Box<Play>),
}

impl Load {
    /// Of the first start of the edge with the number `n`. What it has played before that is read now.
    pub(super) async fn begin(options: &Options, n: u32, random: fastrand::Rng) -> Result<Self> {
        let Some(playing) = options.playing.clone() else {
            return Ok(Self::made_up(options, random));
        };
        let edges = options.edges;
        let begun = tokio::task::spawn_blocking(move || Play::begin(playing, n, edges));
        let play = begun.await.context("reading a recording failed")??;
        Ok(Self::Played(Box::new(play)))
    }

    fn made_up(options: &Options, random: fastrand::Rng) -> Self {
        Self::MadeUp(MadeUp::new(options.cells, options.busy_cells, random))
    }

    /// The daemon was killed, and another starts.
    pub(super) fn begin_anew(&mut self, options: &Options, random: fastrand::Rng) -> Result<()> {
        match self {
            Self::MadeUp(_) => *self = Self::made_up(options, random),
            Self::Played(play) => play.begin_anew()?,
        }
        Ok(())
    }

    /// Whether this start is over, and another one follows by itself.
    pub(super) fn is_followed(&self) -> bool {
        match self {
            Self::MadeUp(_) => false,
            Self::Played(play) => play.is_followed(),
        }
    }

    /// That one begins.
    pub(super) fn follow(&mut self) -> Result<()> {
        match self {
            Self::MadeUp(_) => Ok(()),
            Self::Played(play) => play.follow(),
        }
    }

    /// Time for a tick.
    pub(super) fn advance(&mut self, mark: Mark) -> Result<()> {
        match self {
            Self::MadeUp(made_up) => made_up.grow(),
            Self::Played(play) => play.advance(mark)?,
        }
        Ok(())
    }

    /// How it was measured, as a hello says it.
    pub(super) fn backend(&self) -> v1::Backend {
        match self {
            Self::MadeUp(_) => v1::Backend::Exact,
            Self::Played(play) => play.backend(),
        }
    }

    /// The lane's frame that says all this, from one that says the rest.
    pub(super) fn frame(&self, mut head: v1::Frame) -> v1::Frame {
        match self {
            Self::MadeUp(made_up) if head.lane() == Lane::Hot => {
                head.vital = Some(made_up.vital());
                let padding = VITAL_FRAME_BYTES.saturating_sub(head.encoded_len() + 3);
                head.padding = vec![0; padding].into();
                head
            }
            Self::MadeUp(made_up) => {
                head.cells.clone_from(&made_up.encoded);
                head
            }
            Self::Played(play) => play.frame(head),
        }
    }

    /// What the centre must know of it.
    pub(super) fn totals(&self) -> Totals {
        match self {
            Self::MadeUp(made_up) => Totals::of(&made_up.cells),
            Self::Played(play) => play.totals(),
        }
    }
}

//! What a viewer's model says: changes as they happen, sums that only grow, and a view of now.

use super::super::startup::FailureClass;
use super::input::Tier;

/// Why a viewer stalls, as far as the buffer's model can tell; the rest is blame's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A media request is outstanding: server or network.
    Delivery,
    /// Live, and the player finds no newer segment in the playlist.
    Origin,
}

/// How a viewing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The viewer asked for no more.
    Left,
    /// With a request outstanding and the buffer dry, or about to be.
    UnderStress,
    /// The player began anew.
    Restarted,
    /// Forgotten: the table was full, or the daemon stopped following.
    Forgotten,
}

/// Something that must be known at once. Times are monotonic nanoseconds of the event itself,
/// which may be earlier than when it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Playback began.
    Started {
        /// First frame, estimated.
        t_ns: u64,
        /// First request to first frame.
        startup_us: u32,
    },
    /// Playback never began.
    Failed {
        /// When the last sign of it was.
        t_ns: u64,
        /// Whose fault it looks like.
        class: FailureClass,
    },
    /// The buffer ran dry.
    StallBegan {
        /// When.
        t_ns: u64,
        /// Why.
        cause: Cause,
    },
    /// Playback went on.
    StallEnded {
        /// When it had begun, by what is known now.
        t_began_ns: u64,
        /// When it went on.
        t_ns: u64,
        /// Why it had stopped.
        cause: Cause,
    },
    /// What was called a stall was none: the media had been there in time.
    StallRetracted {
        /// When it was said to have begun.
        t_began_ns: u64,
    },
    /// The object under way will miss its buffer.
    AtRisk {
        /// Since when.
        t_ns: u64,
        /// Until the buffer is dry.
        left_us: u32,
    },
    /// It will not, or has arrived.
    Safe {
        /// Since when.
        t_ns: u64,
    },
    /// The viewing is over.
    Ended {
        /// When the last sign of it was.
        t_ns: u64,
        /// How.
        how: Ending,
    },
    /// Several viewers stand behind what was taken for one; no more is said of it.
    Shared {
        /// When this was found.
        t_ns: u64,
    },
}

/// An estimate with its bounds: the model run with three sets of thresholds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounded {
    /// Least.
    pub lo: u64,
    /// Most likely.
    pub point: u64,
    /// Most.
    pub hi: u64,
}

/// What is final about a viewer. Each only grows, so that differences can be added to a cell's
/// counters: a stall is in them once nothing can take it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Time played; media time over playback rate.
    pub played_us: u64,
    /// Time stalled.
    pub stalled_us: Bounded,
    /// Stalls.
    pub stalls: u32,
    /// Time from first request to first frame; 0 before there is one.
    pub startup_us: u64,
    /// Changes to a lower rendition.
    pub switches_down: u32,
    /// Changes to a higher one.
    pub switches_up: u32,
    /// Jumps to another place of the stream.
    pub seeks: u32,
    /// Times the model held the buffer dry while the player asked for nothing: it was wrong.
    pub idle_errors: u32,
    /// What came too late to be taken in at its own time.
    pub came_late: u32,
}

impl Sums {
    /// Time watched: start-up, playing and stalled; pauses are no part of it.
    pub fn watched_us(&self) -> u64 {
        self.startup_us
            .saturating_add(self.played_us)
            .saturating_add(self.stalled_us.point)
    }

    /// What was added since `older`.
    #[must_use]
    pub fn since(&self, older: &Self) -> Self {
        let bounded = |now: Bounded, then: Bounded| Bounded {
            lo: now.lo.saturating_sub(then.lo),
            point: now.point.saturating_sub(then.point),
            hi: now.hi.saturating_sub(then.hi),
        };
        Self {
            played_us: self.played_us.saturating_sub(older.played_us),
            stalled_us: bounded(self.stalled_us, older.stalled_us),
            stalls: self.stalls.saturating_sub(older.stalls),
            startup_us: self.startup_us.saturating_sub(older.startup_us),
            switches_down: self.switches_down.saturating_sub(older.switches_down),
            switches_up: self.switches_up.saturating_sub(older.switches_up),
            seeks: self.seeks.saturating_sub(older.seeks),
            idle_errors: self.idle_errors.saturating_sub(older.idle_errors),
            came_late: self.came_late.saturating_sub(older.came_late),
        }
    }
}

/// What a viewer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Has asked, sees nothing yet.
    Starting,
    /// Sees the picture move.
    Playing,
    /// Waits for data that was asked for.
    Stalled,
    /// Jumped, and waits for the new place.
    Seeking,
    /// Asks for nothing and should have run dry: paused, or the model is wrong.
    Idle,
    /// Is gone.
    Ended,
}

/// A viewer at one moment, by what is known then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// What it does.
    pub phase: Phase,
    /// How much is known of it.
    pub tier: Tier,
    /// Media ahead of the playhead.
    pub ahead_us: Bounded,
    /// When the stall that goes on began; 0: none does.
    pub t_stalled_ns: u64,
    /// The object under way will miss its buffer.
    pub is_at_risk: bool,
    /// Several viewers stand behind it, so that nothing is said of its buffer.
    pub is_shared: bool,
    /// The rendition last fetched.
    pub bitrate_kbps: u32,
    /// Sums with what is not final yet.
    pub sums: Sums,
}

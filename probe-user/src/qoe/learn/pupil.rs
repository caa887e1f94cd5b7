//! One player that declares its state, followed to learn from.

/// So many objects are remembered of a player.
const OBJECTS: usize = 8;
/// What a player says is rounded to a tenth of a second, and its clock is its own.
const ROUNDING_US: u64 = 150_000;
/// A wait that is longer tells of the path, not of the player.
const MOST_BEGIN_US: u64 = 5_000_000;

/// What one start or one stall taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// Playback began with `with_us` of media there; with `without_us` it had not.
    Start {
        /// Not enough.
        without_us: u32,
        /// Enough.
        with_us: u32,
        /// From then to the first frame.
        begin_us: u32,
    },
    /// Playback went on after a stall, likewise.
    Resume {
        /// Not enough.
        without_us: u32,
        /// Enough.
        with_us: u32,
    },
}

/// One player that declares its state. Only what carries the picture is told: objects as they
/// arrive, claims as they were made, both in the order of their times.
#[derive(Clone, Debug, Default)]
pub struct Pupil {
    /// When each of the latest objects arrived, and all media fetched with it.
    arrived: [(u64, u64); OBJECTS],
    objects: u32,
    fetched_us: u64,
    waits: Option<Wait>,
    /// All media fetched at the latest claim.
    fetched_at_claim_us: u64,
    is_known: bool,
}

/// A player that waits for media.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// Played before.
    played_us: u64,
    is_start: bool,
}

impl Pupil {
    /// A player that has just asked for the first time.
    pub fn new() -> Self {
        Self {
            waits: Some(Wait {
                played_us: 0,
                is_start: true,
            }),
            ..Self::default()
        }
    }

    /// An object arrived at the client.
    pub fn arrived(&mut self, t_ns: u64, duration_us: u32) {
        self.fetched_us = self.fetched_us.saturating_add(duration_us.into());
        self.arrived[self.objects as usize % OBJECTS] = (t_ns, self.fetched_us);
        self.objects = self.objects.wrapping_add(1);
    }

    /// It jumped: what was fetched is not what is played.
    pub fn jumped(&mut self) {
        *self = Self::default();
    }

    /// It said with a request at `t_ns` what was ahead of its playhead, whether its buffer had run
    /// dry since its last request, and whether it waits.
    pub fn claimed(
        &mut self,
        t_ns: u64,
        ahead_us: u64,
        starved: bool,
        starting: bool,
    ) -> Option<Lesson> {
        let played_us = self.fetched_us.saturating_sub(ahead_us);
        if starved && self.is_known {
            // It played all that it had: what was there when it last asked. What came since is
            // what it waited for.
            self.waits = Some(Wait {
                played_us: self.fetched_at_claim_us,
                is_start: false,
            });
        }
        self.fetched_at_claim_us = self.fetched_us;
        self.is_known = true;
        if starting {
            return None;
        }
        let wait = self.waits.take()?;
        let since_us = played_us.checked_sub(wait.played_us)?;
        let t_play_ns = t_ns.checked_sub(since_us.saturating_mul(1000))?;
        self.lesson(&wait, t_play_ns)
    }

    /// What was there when it began to play.
    fn lesson(&self, wait: &Wait, t_play_ns: u64) -> Option<Lesson> {
        let latest_ns = t_play_ns.saturating_add(ROUNDING_US * 1000);
        let first = self.objects.saturating_sub(u32::try_from(OBJECTS).ok()?);
        let mut without_us = None;
        let mut with = None;
        for n in first..self.objects {
            let (t_ns, fetched_us) = self.arrived[n as usize % OBJECTS];
            if t_ns > latest_ns {
                break;
            }
            without_us = with.map(|(_, before_us)| before_us);
            with = Some((t_ns, fetched_us));
        }
        let (t_there_ns, fetched_us) = with?;
        let without_us = match without_us {
            Some(us) => us,
            // The first object that ever came: before it there was nothing.
            None if first == 0 => 0,
            None => return None,
        };
        let over = |us: u64| u32::try_from(us.saturating_sub(wait.played_us)).ok();
        let (without_us, with_us) = (over(without_us)?, over(fetched_us)?);
        let begin_us = t_play_ns.saturating_sub(t_there_ns) / 1000;
        if with_us == 0 || begin_us > MOST_BEGIN_US {
            return None;
        }
        Some(if wait.is_start {
            Lesson::Start {
                without_us,
                with_us,
                begin_us: u32::try_from(begin_us).ok()?,
            }
        } else {
            Lesson::Resume {
                without_us,
                with_us,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const SEGMENT_US: u32 = 2_000_000;

    /// A player that wants two segments to begin, fetched one a second.
    fn start() -> Option<Lesson> {
        let mut pupil = Pupil::new();
        assert_eq!(pupil.claimed(SECOND_NS, 0, false, true), None);
        pupil.arrived(2 * SECOND_NS, SEGMENT_US);
        assert_eq!(pupil.claimed(2 * SECOND_NS, 2_000_000, false, true), None);
        pupil.arrived(3 * SECOND_NS, SEGMENT_US);
        assert_eq!(pupil.claimed(3 * SECOND_NS, 4_000_000, false, true), None);
        pupil.arrived(4 * SECOND_NS, SEGMENT_US);
        // It began 0.2 s after the second: 0.8 s are played.
        pupil.claimed(4 * SECOND_NS, 5_200_000, false, false)
    }

    #[test]
    fn a_start_shows_how_much_was_enough_and_how_long_the_first_frame_took() {
        let lesson = Lesson::Start {
            without_us: 2_000_000,
            with_us: 4_000_000,
            begin_us: 200_000,
        };
        assert_eq!(start(), Some(lesson));
    }

    #[test]
    fn a_stall_shows_how_much_is_needed_to_go_on() {
        let mut pupil = Pupil::new();
        pupil.arrived(SECOND_NS, SEGMENT_US);
        pupil.claimed(SECOND_NS, 2_000_000, false, false);
        // Dry at 3 s; the next comes at 5 s and is enough, which the request after it tells.
        pupil.arrived(5 * SECOND_NS, SEGMENT_US);
        assert_eq!(pupil.claimed(5 * SECOND_NS, 2_000_000, true, true), None);
        pupil.arrived(6 * SECOND_NS, SEGMENT_US);
        let lesson = pupil.claimed(6 * SECOND_NS, 3_000_000, false, false);
        let resume = Lesson::Resume {
            without_us: 0,
            with_us: SEGMENT_US,
        };
        assert_eq!(lesson, Some(resume));
    }
}

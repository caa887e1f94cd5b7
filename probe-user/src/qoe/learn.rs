//! What player families do with their buffers, learned from players that declare their state
//! (CMCD): how much media they want to begin and to go on, and how long the first frame takes.
//!
//! A [`Pupil`] follows one such player and yields [`Lesson`]s; [`Families`] keeps the latest of each
//! family, bounded, and makes the model's thresholds of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::viewer::thresholds::{RUNS, Thresholds};

/// So many objects are remembered of a player.
const OBJECTS: usize = 8;
/// Of each threshold, so many of the latest values.
const SAMPLES: usize = 256;
/// So many families.
const FAMILIES: usize = 64;
/// Fewer lessons than these change nothing.
const LEAST: u64 = 20;
/// Below so many playbacks no value is corrected for the model's bias.
pub const LEAST_TO_CORRECT: u64 = 200;
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

/// The latest values of something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Samples {
    latest: Vec<u32>,
    n: u64,
}

impl Samples {
    fn push(&mut self, value: u32) {
        // A stored state of unknown origin may be anything.
        self.latest.truncate(SAMPLES);
        if self.latest.len() < SAMPLES {
            self.latest.push(value);
        } else {
            let place = usize::try_from(self.n % SAMPLES as u64).unwrap_or(0);
            self.latest[place] = value;
        }
        self.n = self.n.saturating_add(1);
    }

    fn quantile(&self, percent: usize) -> Option<u32> {
        let mut sorted = self.latest.clone();
        sorted.sort_unstable();
        let at = sorted.len().checked_sub(1)? * percent.min(100) / 100;
        sorted.get(at).copied()
    }
}

/// How much was enough, and how much was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Enough {
    without_us: Samples,
    with_us: Samples,
}

impl Enough {
    fn push(&mut self, without_us: u32, with_us: u32) {
        self.without_us.push(without_us);
        self.with_us.push(with_us);
    }

    /// The threshold's least, likely and largest value, after enough lessons. It lies above what was
    /// not enough and up to what was; segments are as fine as one can see.
    fn bounds_us(&self) -> Option<[u32; 3]> {
        if self.with_us.n < LEAST {
            return None;
        }
        // A few lessons are spoilt by rounding, so that the extremes say little.
        let above = self.without_us.quantile(90)?;
        let up_to = self.with_us.quantile(10)?;
        let (least, most) = (above.min(up_to), above.max(up_to));
        // Within the bracket a low value is likelier: most players want some fixed little.
        Some([least + 1000, least + (most - least) / 4 + 1000, most])
    }
}

/// How the model's stalled time compares with the players' own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bias {
    /// Playbacks that were compared.
    pub playbacks: u64,
    /// Stalled time by the model that was not told what the player said.
    pub modelled_us: u64,
    /// By the model that was.
    pub declared_us: u64,
}

impl Bias {
    /// Compares one playback.
    pub fn add(&mut self, modelled_us: u64, declared_us: u64) {
        self.playbacks = self.playbacks.saturating_add(1);
        self.modelled_us = self.modelled_us.saturating_add(modelled_us);
        self.declared_us = self.declared_us.saturating_add(declared_us);
    }

    /// A stalled time with the bias taken out; none below [`LEAST_TO_CORRECT`] playbacks, or where
    /// nothing stalled.
    pub fn corrected_us(&self, raw_us: u64) -> Option<u64> {
        if self.playbacks < LEAST_TO_CORRECT || self.modelled_us == 0 {
            return None;
        }
        let scaled =
            u128::from(raw_us) * u128::from(self.declared_us) / u128::from(self.modelled_us);
        Some(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

/// What is known of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Family {
    start: Enough,
    resume: Enough,
    begin_us: Samples,
    /// See [`Bias`].
    pub bias: Bias,
}

impl Family {
    /// Takes in what was learned.
    pub fn learn(&mut self, lesson: &Lesson) {
        match *lesson {
            Lesson::Start {
                without_us,
                with_us,
                begin_us,
            } => {
                self.start.push(without_us, with_us);
                self.begin_us.push(begin_us);
            }
            Lesson::Resume {
                without_us,
                with_us,
            } => self.resume.push(without_us, with_us),
        }
    }

    /// Starts that were learned from.
    pub fn starts(&self) -> u64 {
        self.start.with_us.n
    }

    /// Stalls that were learned from.
    pub fn resumes(&self) -> u64 {
        self.resume.with_us.n
    }

    /// The model's thresholds; what has too few lessons is as `otherwise` has it. Going on is held
    /// to take what beginning does until it has lessons of its own.
    pub fn thresholds(&self, otherwise: &Thresholds) -> Thresholds {
        let mut found = *otherwise;
        let start = self.start.bounds_us();
        if let Some([least, likely, most]) = start {
            // Who begins later has more ahead, and stalls less.
            found.start_us = [most, likely, least];
        }
        if let Some([least, likely, most]) = self.resume.bounds_us().or(start) {
            found.resume_us = [least, likely, most];
        }
        if self.begin_us.n >= LEAST
            && let Some(us) = self.begin_us.quantile(50)
        {
            found.begin_us = us;
        }
        found.bounded()
    }
}

const _: () = assert!(RUNS == 3);

/// All families, by the name that labels give them; serialisable, so that what was learned
/// survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Families {
    families: BTreeMap<String, Family>,
    /// Lessons of families that found no place.
    pub left_out: u64,
}

impl Families {
    /// A family to learn about; none if there are too many, which is counted.
    pub fn of(&mut self, name: &str) -> Option<&mut Family> {
        if !self.families.contains_key(name) {
            if self.families.len() >= FAMILIES {
                self.left_out += 1;
                return None;
            }
            self.families.insert(name.to_owned(), Family::default());
        }
        self.families.get_mut(name)
    }

    /// The thresholds of a family.
    pub fn thresholds(&self, name: &str, otherwise: &Thresholds) -> Thresholds {
        match self.families.get(name) {
            Some(family) => family.thresholds(otherwise),
            None => *otherwise,
        }
    }

    /// All that is known, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Family)> {
        self.families
            .iter()
            .map(|(name, family)| (name.as_str(), family))
    }

    /// What was stored, brought within bounds.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        while self.families.len() > FAMILIES {
            self.families.pop_last();
            self.left_out += 1;
        }
        for family in self.families.values_mut() {
            for samples in [
                &mut family.start.without_us,
                &mut family.start.with_us,
                &mut family.resume.without_us,
                &mut family.resume.with_us,
                &mut family.begin_us,
            ] {
                samples.latest.truncate(SAMPLES);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn few_lessons_change_nothing_and_many_bracket_the_threshold() {
        let mut families = Families::default();
        let otherwise = Thresholds::default();
        let lesson = start().unwrap();
        for n in 1..=LEAST {
            assert_eq!(families.thresholds("shaka", &otherwise), otherwise);
            families.of("shaka").unwrap().learn(&lesson);
            assert_eq!(families.of("shaka").unwrap().starts(), n);
        }
        let learned = families.thresholds("shaka", &otherwise);
        for us in learned.start_us {
            assert!((2_000_001..=4_000_000).contains(&us), "{us}");
        }
        assert!(learned.start_us[0] > learned.start_us[2]);
        assert_eq!(learned.resume_us[0], learned.start_us[2]);
        assert_eq!(learned.begin_us, 200_000);
        assert_eq!(families.thresholds("hls.js", &otherwise), otherwise);
    }

    #[test]
    fn what_was_learned_survives_a_restart() {
        let mut families = Families::default();
        for _ in 0..SAMPLES + 10 {
            families.of("a").unwrap().learn(&start().unwrap());
        }
        let stored = serde_json::to_string(&families).unwrap();
        let read: Families = serde_json::from_str(&stored).unwrap();
        assert_eq!(read.bounded(), families);
    }

    #[test]
    fn families_are_bounded_and_those_left_out_are_counted() {
        let mut families = Families::default();
        for n in 0..FAMILIES + 3 {
            families.of(&n.to_string());
        }
        assert_eq!(families.iter().count(), FAMILIES);
        assert_eq!(families.left_out, 3);
    }

    #[test]
    fn few_playbacks_are_not_corrected() {
        let mut bias = Bias::default();
        for n in 0..LEAST_TO_CORRECT {
            assert_eq!(bias.corrected_us(100), None, "after {n}");
            bias.add(120, 100);
        }
        assert_eq!(bias.corrected_us(1_200_000), Some(1_000_000));
    }

    proptest! {
        #[test]
        fn no_player_can_teach_nonsense(
            story in proptest::collection::vec(
                (any::<u64>(), any::<u32>(), any::<u64>(), any::<bool>(), any::<bool>(), 0..3_u8),
                0..200,
            ),
        ) {
            let mut pupil = Pupil::new();
            let mut family = Family::default();
            for (t_ns, duration_us, ahead_us, starved, starting, what) in story {
                match what {
                    0 => pupil.arrived(t_ns, duration_us),
                    1 if duration_us % 50 == 0 => pupil.jumped(),
                    _ => {
                        if let Some(lesson) = pupil.claimed(t_ns, ahead_us, starved, starting) {
                            family.learn(&lesson);
                        }
                    }
                }
            }
            let found = family.thresholds(&Thresholds::default());
            prop_assert_eq!(found, found.bounded());
        }
    }
}

//! What player families do with their buffers, learned from players that declare their state
//! (CMCD): how much media they want to begin and to go on, and how long the first frame takes.
//!
//! A [`Pupil`] follows one such player and yields [`Lesson`]s; [`Families`] keeps the latest of each
//! family, bounded, and makes the model's thresholds of them.

mod pupil;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::viewer::thresholds::{RUNS, Thresholds};
pub use pupil::{Lesson, Pupil};

/// Of each threshold, so many of the latest values.
const SAMPLES: usize = 256;
/// So many families.
const FAMILIES: usize = 64;
/// Fewer lessons than these change nothing.
const LEAST: u64 = 20;
/// Below so many playbacks no value is corrected for the model's bias.
pub const LEAST_TO_CORRECT: u64 = 200;

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

    /// Media that it wants before it begins: least, likely, most; none: too few lessons.
    pub fn start_us(&self) -> Option<[u32; 3]> {
        self.start.bounds_us()
    }

    /// The same before it goes on after a stall.
    pub fn resume_us(&self) -> Option<[u32; 3]> {
        self.resume.bounds_us()
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

    const START: Lesson = Lesson::Start {
        without_us: 2_000_000,
        with_us: 4_000_000,
        begin_us: 200_000,
    };

    #[test]
    fn few_lessons_change_nothing_and_many_bracket_the_threshold() {
        let mut families = Families::default();
        let otherwise = Thresholds::default();
        for n in 1..=LEAST {
            assert_eq!(families.thresholds("shaka", &otherwise), otherwise);
            families.of("shaka").unwrap().learn(&START);
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
            families.of("a").unwrap().learn(&START);
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

//! What a player family does with its buffer, in three sets: least stalled, likely, most stalled.

use serde::{Deserialize, Serialize};

/// The three runs of the model, in the order of their results.
pub const RUNS: usize = 3;
/// The run whose result is the point estimate.
pub const POINT: usize = 1;

/// Thresholds of a player family. Each array has the value of the run that stalls least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Media needed to begin.
    pub start_us: [u32; RUNS],
    /// Media needed to go on after a stall.
    pub resume_us: [u32; RUNS],
    /// Share of the least round trip that lies between arrival and the acknowledgement's, in
    /// thousandths.
    pub one_way_permille: [u16; RUNS],
    /// The player's own time from enough media to the first frame.
    pub begin_us: u32,
    /// Media that cannot be played out: a player stops with so much left.
    pub dry_us: u32,
    /// What a player wants after it first ran dry, where it wants twice as much each further time
    /// (up to [`MOST_GROWN_US`]); 0: always the same.
    #[serde(default)]
    pub grow_us: u32,
}

/// What a player that wants more each time wants at most.
const MOST_GROWN_US: u32 = 3_000_000;

/// Browsers that are Chromium, as families are named.
const CHROMIUM: [&str; 4] = ["chrom", "edge", "opera", "samsung"];

impl Default for Thresholds {
    /// Before anything is learned: any segment starts and resumes playback, as hls.js does by
    /// default; the runs around it bracket players that want two seconds (Shaka's rebuffering
    /// goal).
    fn default() -> Self {
        Self {
            start_us: [2_000_000, 500_000, 100_000],
            resume_us: [100_000, 500_000, 2_000_000],
            one_way_permille: [600, 500, 400],
            begin_us: 100_000,
            dry_us: 0,
            grow_us: 0,
        }
    }
}

impl Thresholds {
    /// What a family's players want by their own defaults, before anything is learned of them: so
    /// much media to begin and to go on. Whoever embeds a player may want something else, which the
    /// runs around it allow for.
    pub fn of_family(family: &str) -> Self {
        let family = family.to_ascii_lowercase();
        let is = |name: &str| family.contains(name);
        let (start_us, resume_us) = if is("exo") || is("media3") || is("bitmovin") {
            // DefaultLoadControl: 2.5 s and 5 s, in later versions 1 s and 2 s.
            (
                [2_500_000, 2_500_000, 1_000_000],
                [2_000_000, 5_000_000, 5_000_000],
            )
        } else if is("shaka") {
            // streaming.rebufferingGoal: 2 s, for both.
            (
                [2_000_000, 2_000_000, 500_000],
                [500_000, 2_000_000, 2_000_000],
            )
        } else if CHROMIUM.iter().any(|name| is(name)) {
            // The audio renderer wants 200 ms, and twice as much after each time that it ran dry.
            return Self {
                grow_us: 400_000,
                ..Self::default()
            };
        } else {
            return Self::default();
        };
        Self {
            start_us,
            resume_us,
            ..Self::default()
        }
    }

    /// Media that a run's player needs to go on when it has run dry for the `times`th time since it
    /// began or jumped. The run that stalls least is left without growth: what plays no sound does
    /// not want more.
    pub(super) fn resume_us(&self, run: usize, times: u8) -> u32 {
        let grown_us = match (run, times) {
            (0, _) | (_, 0) => 0,
            (_, times) => self
                .grow_us
                .saturating_mul(1 << (times - 1).min(16))
                .min(MOST_GROWN_US),
        };
        self.resume_us[run].max(grown_us)
    }

    /// Of nonsense nothing comes: arrays of a stored or learned set brought within what a player
    /// can be.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        const MOST_US: u32 = 60_000_000;
        for value in self.start_us.iter_mut().chain(&mut self.resume_us) {
            *value = (*value).clamp(1_000, MOST_US);
        }
        for value in &mut self.one_way_permille {
            *value = (*value).min(1000);
        }
        self.begin_us = self.begin_us.min(MOST_US);
        self.dry_us = self.dry_us.min(1_000_000);
        self.grow_us = self.grow_us.min(MOST_GROWN_US);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_within_bounds_and_in_the_order_of_its_runs() {
        for family in ["", "hls.js", "Shaka Player", "ExoPlayer", "androidx.media3"] {
            let with = Thresholds::of_family(family);
            assert_eq!(with, with.bounded());
            // Who wants more to begin stalls less, who wants more to go on stalls longer.
            assert!(with.start_us.is_sorted_by(|a, b| a >= b), "{family}");
            assert!(with.resume_us.is_sorted(), "{family}");
        }
        assert_ne!(Thresholds::of_family("shaka"), Thresholds::default());
    }
}

//! What a player that ran dry does meanwhile, and what it needs to go on.

use super::super::around::Around;
use super::{AUDIO, Doing, LEAST_STALL_US, Playback, Sound};

/// A browser lets the sound go on so long while there is no picture (Chromium's renderer defers the
/// underflow of the picture by 3 s).
const RUN_ON_US: u32 = 3_000_000;

const A_FRAME_US: u32 = 40_000;

impl Playback {
    /// The picture stands still for want of media, and the sound goes on for a while: what of the
    /// picture arrives late has been passed by.
    pub(super) fn run_on(&mut self, n: usize, dt_us: u32, around: &Around) {
        let run = &self.runs[n];
        if run.sound != Sound::Plays {
            return;
        }
        if !around.runs_on {
            self.runs[n].sound = Sound::Dry;
            return;
        }
        let of_sound_us = self.fetched_us[AUDIO].saturating_sub(run.playhead_us);
        let of_time_us = self.media_us(RUN_ON_US.saturating_sub(run.recent_us));
        let left_us = of_sound_us.min(of_time_us);
        let media_us = self.media_us(dt_us);
        let run = &mut self.runs[n];
        run.playhead_us = run.playhead_us.saturating_add(media_us.min(left_us));
        if media_us >= left_us {
            run.sound = if of_sound_us <= of_time_us {
                Sound::Dry
            } else {
                Sound::HeldBack
            };
        }
    }

    /// Sound came. If that was while the sound before it was played to its end, it goes on.
    pub(super) fn sound_comes(&mut self, n: usize) {
        let run = &mut self.runs[n];
        let is_in_time = run.doing == Doing::Stall && run.recent_us < LEAST_STALL_US;
        if is_in_time && run.sound == Sound::Dry {
            run.sound = Sound::Plays;
        }
    }

    /// Media that a stalled run needs to go on.
    pub(super) fn needs_us(&self, n: usize, around: &Around) -> u32 {
        let with = around.with;
        let times = self.stops.saturating_add(1);
        let resume_us = match self.runs[n].sound {
            Sound::Dry => with.resume_us(n, times),
            Sound::HeldBack => with.resume_us[n],
            // The clock goes on, so that any picture is shown.
            Sound::Plays => A_FRAME_US,
        };
        resume_us.saturating_add(with.dry_us)
    }

    /// Media that a run needed to go on after its latest stall, over or not.
    pub(super) fn needed_us(&self, n: usize, around: &Around) -> u32 {
        let unsettled = u8::from(self.runs[n].recent_us > 0);
        let times = self.stops.saturating_add(unsettled);
        around
            .with
            .resume_us(n, times)
            .saturating_add(around.with.dry_us)
    }
}

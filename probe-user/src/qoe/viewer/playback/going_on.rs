//! What a player that ran dry does meanwhile, and what it needs to go on.

use super::super::around::Around;
use super::{AUDIO, Playback, VIDEO};

/// A browser lets the sound go on so long while there is no picture (Chromium's renderer defers the
/// underflow of the picture by 3 s).
const RUN_ON_US: u32 = 3_000_000;

impl Playback {
    /// The picture stands still for want of media, and the sound goes on for a while: what of the
    /// picture arrives late has been passed by.
    pub(super) fn run_on(&mut self, n: usize, dt_us: u32, around: &Around) {
        let video_us = self.fetched_us[VIDEO];
        let until_us = self.fetched_us[AUDIO].min(video_us.saturating_add(RUN_ON_US));
        let run = &mut self.runs[n];
        run.has_stopped |= !around.runs_on;
        if run.has_stopped {
            return;
        }
        let media = u64::from(dt_us) * u64::from(self.rate_percent) / 100;
        let media_us = u32::try_from(media).unwrap_or(u32::MAX);
        let left_us = until_us.saturating_sub(run.playhead_us);
        run.playhead_us = run.playhead_us.saturating_add(media_us.min(left_us));
        run.has_stopped = media_us >= left_us;
    }

    /// Media that a stalled run needs to go on.
    pub(super) fn needs_us(&self, n: usize, around: &Around) -> u32 {
        let with = around.with;
        let times = self.stops.saturating_add(1);
        let resume_us = if self.runs[n].has_stopped {
            with.resume_us(n, times)
        } else {
            with.resume_us[n]
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

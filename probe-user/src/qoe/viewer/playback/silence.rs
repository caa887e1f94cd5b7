//! A buffer that ran dry with nothing asked for. Either the viewer paused, and the player had enough
//! all the while; or the path was dead, no request came through, and the viewer stood still. Which it
//! was shows when requests come again.

use super::super::around::Around;
use super::super::thresholds::{POINT, RUNS};
use super::{Doing, Playback, Sound, us};

/// A player that had enough fetches no more than it has played since, and a segment or two.
const MOST_CATCHING_UP_SEGMENTS_X2: u32 = 5;
/// So long after it asked again a player has filled its buffer, if it was empty.
const FILLED_US: u32 = 10_000_000;
/// What is missing of the buffer that was taken for granted, for it to have been none.
const MISSING_PERCENT: u32 = 60;

/// The latest such time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    /// When the buffer was dry; 0: there was none, or it is known what it was.
    t_dry_ns: u64,
    /// Until the next request; 0: there is none yet.
    asked_us: u32,
    /// Until media came; 0: none yet.
    back_us: u32,
    /// Up to where there was everything.
    whole_us: u32,
    /// What the player was then taken to have ahead.
    granted_us: u32,
}

impl Playback {
    /// The buffer is dry, and nothing is asked for.
    pub(super) fn falls_silent(&mut self, t_dry_ns: u64) {
        self.silence = Silence {
            t_dry_ns,
            whole_us: self.whole_us(),
            ..Silence::default()
        };
    }

    /// A request ends the silence, and the player is taken to have `granted_us` ahead.
    pub(super) fn speaks_again(&mut self, granted_us: u32) {
        if self.silence.t_dry_ns != 0 && self.silence.asked_us == 0 {
            self.silence.asked_us = self.silent_us().max(1);
            self.silence.granted_us = granted_us;
        }
    }

    /// The request that ended a silence has brought nothing yet.
    pub(super) fn has_just_spoken(&self) -> bool {
        self.silence.asked_us != 0 && self.silence.back_us == 0
    }

    /// It asks so soon that there was no silence.
    pub(super) fn was_not_silent(&mut self) {
        if self.silence.asked_us == 0 {
            self.silence = Silence::default();
        }
    }

    fn silent_us(&self) -> u32 {
        us(self.t_ns.saturating_sub(self.silence.t_dry_ns))
    }

    /// Media has come. A player that fetches much more than it has played since it asked again is
    /// filling an empty buffer.
    pub(super) fn fills_up(&mut self, around: &Around) {
        let silence = self.silence;
        if silence.asked_us == 0 {
            return;
        }
        let fetched_us = self.whole_us().saturating_sub(silence.whole_us);
        let since_us = self.silent_us().saturating_sub(silence.asked_us);
        if since_us > FILLED_US {
            self.silence = Silence::default();
            return;
        }
        if fetched_us > 0 && silence.back_us == 0 {
            self.silence.back_us = self.silent_us();
        }
        let most_us = (around.segment_us / 2).saturating_mul(MOST_CATCHING_UP_SEGMENTS_X2);
        if self.is_declared || around.is_live || most_us == 0 {
            return;
        }
        if fetched_us >= since_us.saturating_add(most_us) {
            let played_us = self.silent_us().saturating_sub(self.silence.back_us);
            self.stood_still(silence.whole_us.saturating_add(played_us));
            self.settle();
        }
    }

    /// By its own word, the player's playhead is at `playhead_us`. Whether that is so far on that it
    /// cannot have had what it was taken to have; it stood still then.
    pub(super) fn lacks_what_was_granted(&mut self, playhead_us: u32) -> bool {
        let missing_us = playhead_us.saturating_sub(self.runs[POINT].playhead_us);
        let granted_us = u64::from(self.silence.granted_us);
        let is_missing = self.silence.asked_us != 0
            && granted_us > 0
            && u64::from(missing_us) * 100 >= granted_us * u64::from(MISSING_PERCENT);
        if is_missing {
            self.stood_still(playhead_us);
        }
        is_missing
    }

    /// The silence was a stall, until media came, or until now.
    fn stood_still(&mut self, playhead_us: u32) {
        let until_us = match self.silence.back_us {
            0 => self.silent_us(),
            back_us => back_us,
        };
        let silence = std::mem::take(&mut self.silence);
        self.settle_stall();
        // Since the request it was held to play; what of that is settled stays.
        let over_us = until_us.saturating_sub(silence.asked_us);
        self.fresh_us = self.fresh_us.saturating_sub(over_us);
        self.t_stall_ns = silence.t_dry_ns;
        self.is_origin = false;
        // The run that stalls least holds it to have been a pause.
        for run in &mut self.runs[POINT..RUNS] {
            run.playhead_us = playhead_us;
            run.recent_us = until_us;
            run.sound = Sound::Dry;
            if run.doing == Doing::Idle {
                run.doing = Doing::Play;
            }
        }
    }
}

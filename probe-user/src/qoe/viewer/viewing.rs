//! What is known of a viewer at any moment, and the part of it that is final.

use super::input::Tier;
use super::output::{Bounded, Phase, Sums, View};
use super::playback::{Doing, LEAST_STALL_US, Playback};
use super::thresholds::{POINT, Thresholds};
use super::{LAST_NS, Viewer};

impl Viewer {
    /// First request to first frame: as the player measured it, else as the model has it; 0 before
    /// there is one. Where nothing is labelled the model begins only once it knows what an object is
    /// worth, so that it is the first answer's time.
    pub(super) fn startup_us(&self, play: &Playback) -> u32 {
        match (self.told.declared_us, self.tier) {
            _ if !play.has_started() => 0,
            (0, Tier::Kernel) => self.first_answer_us().clamp(1, play.startup_us),
            (0, _) => play.startup_us,
            (declared_us, _) => declared_us,
        }
    }

    /// The attempt's begin to the end of the first answer that is as large as media, else of the first; 0:
    /// there was none.
    pub(super) fn first_answer_us(&self) -> u32 {
        match self.first_media_us {
            0 => self.first_us,
            us => us,
        }
    }

    /// What is final. The same at any time until something is told or time passes.
    pub fn sums(&self) -> Sums {
        self.sums_of(&self.play, false)
    }

    fn sums_of(&self, play: &Playback, with_recent: bool) -> Sums {
        let [a, point, b] = play.stalled_us(with_recent);
        // No one can have waited longer than since the first request.
        let wall_us = self.now_ns.saturating_sub(self.t_first_ns) / 1000;
        let startup_us = match self.told.startup_us {
            0 if with_recent => self.startup_us(play),
            told_us => told_us,
        };
        Sums {
            played_us: if with_recent {
                play.played_with_fresh_us()
            } else {
                play.played_us
            },
            stalled_us: Bounded {
                lo: a.min(point).min(b),
                point,
                hi: a.max(b).min(wall_us).max(point),
            },
            stalls: play.stalls,
            startup_us: self.startups_us + u64::from(startup_us),
            switches_down: self.switches_down.into(),
            switches_up: self.switches_up.into(),
            seeks: self.seeks.into(),
            idle_errors: play.idle_errors,
            came_late: self.came_late,
        }
    }

    /// What it is doing now.
    pub fn view(&self, now_ns: u64, with: &Thresholds) -> View {
        let now_ns = now_ns.min(LAST_NS);
        // What was left in the buffer when it ended is not played, and of several nothing is known.
        let play = if self.told.is_ended || self.told.is_shared {
            self.play
        } else {
            self.at_now(now_ns, with)
        };
        let [a, point, b] = [0, POINT, 2].map(|run| u64::from(play.ahead_us(run)));
        let phase = match play.doing() {
            _ if self.told.is_ended => Phase::Ended,
            Doing::Start => Phase::Starting,
            Doing::Play => Phase::Playing,
            // A gap too short to be called one is not shown.
            Doing::Stall if play.recent_us() < LEAST_STALL_US => Phase::Playing,
            Doing::Stall => Phase::Stalled,
            Doing::Seek => Phase::Seeking,
            Doing::Idle => Phase::Idle,
        };
        View {
            phase,
            tier: self.tier,
            ahead_us: Bounded {
                lo: a.min(point).min(b),
                point,
                hi: a.max(point).max(b),
            },
            t_stalled_ns: if phase == Phase::Stalled {
                play.t_stall_ns
            } else {
                0
            },
            is_at_risk: self.told.is_at_risk,
            is_shared: self.told.is_shared,
            bitrate_kbps: self.bitrate_kbps,
            sums: self.sums_of(&play, true),
        }
    }
}

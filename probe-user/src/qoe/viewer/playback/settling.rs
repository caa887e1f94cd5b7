//! What was played and stalled, once it is final; and what is begun anew.

use super::super::thresholds::{POINT, RUNS};
use super::{AUDIO, LEAST_STALL_US, Past, Playback, Sound};

/// What the length of a stall is not known to, whatever the thresholds: when the player took in
/// what had arrived, when it noticed, and the rounding of what it says.
const NOISE_US: u64 = 300_000;

impl Playback {
    /// Another playback of the same viewer, from `t_ns` on; the sums go on.
    pub(in super::super) fn anew(&self, t_ns: u64) -> Self {
        let mut was = *self;
        was.settle();
        Self {
            played_us: was.played_us,
            stalled_us: was.stalled_us,
            stalls: was.stalls,
            idle_errors: was.idle_errors,
            is_declared: was.is_declared,
            ..Self::new(t_ns.max(was.t_ns))
        }
    }

    /// The only segment that arrived was a trial of the path and is not played. False if it was not
    /// the only one.
    pub(in super::super) fn undo_start(&mut self) -> bool {
        if self.objects() != 1 || self.objects[AUDIO] != 0 || self.has_played {
            return false;
        }
        let start = Self::new(self.t_ns);
        self.fetched_us = start.fetched_us;
        self.runs = start.runs;
        self.objects = start.objects;
        self.fresh_us = 0;
        self.startup_us = 0;
        self.t_stall_ns = 0;
        true
    }

    /// Stalled time of each run, with what is not settled.
    pub(in super::super) fn stalled_us(&self, with_recent: bool) -> [u64; RUNS] {
        let mut sums = self.stalled_us;
        if with_recent {
            for (sum, run) in sums.iter_mut().zip(&self.runs) {
                *sum += u64::from(run.recent_us);
            }
        }
        sums
    }

    /// Played time with what is not settled.
    pub(in super::super) fn played_with_fresh_us(&self) -> u64 {
        self.played_us + u64::from(self.fresh_us)
    }

    /// Makes final what was played and stalled.
    pub(in super::super) fn settle(&mut self) {
        self.played_us += u64::from(self.fresh_us);
        self.fresh_us = 0;
        self.settle_stall();
    }

    pub(super) fn settle_stall(&mut self) {
        for (n, (sum, run)) in self.stalled_us.iter_mut().zip(&self.runs).enumerate() {
            let recent_us = u64::from(run.recent_us);
            *sum += match n {
                0 => recent_us.saturating_sub(NOISE_US),
                2 if recent_us > 0 => recent_us + NOISE_US,
                _ => recent_us,
            };
        }
        if self.t_stall_ns != 0 && self.runs[POINT].recent_us >= LEAST_STALL_US {
            self.stalls += 1;
            let is_dry = self.runs[POINT].sound == Sound::Dry;
            self.stops = self.stops.saturating_add(u8::from(is_dry));
            self.past = Past {
                t_began_ns: self.t_stall_ns,
                stalled_us: self.runs[POINT].recent_us,
                is_origin: self.is_origin,
            };
        }
        self.t_stall_ns = 0;
        for run in &mut self.runs {
            run.recent_us = 0;
        }
    }
}

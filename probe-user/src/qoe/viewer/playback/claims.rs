//! The player's own word, against what the model made of the time before it.

use super::super::thresholds::{POINT, RUNS};
use super::super::timeline::Said;
use super::{AUDIO, Around, Doing, LEAST_STALL_US, ORIGIN_US, Playback, Sound, VIDEO, clip, us};

/// A player's word that differs by more from the model means a pause or a jump, not a stall.
const FAR_US: i64 = 30_000_000;

/// What is ahead is said to 100 ms; what is less is nothing.
const LEAST_AHEAD_MS: u32 = 100;

/// A player that plays on may say what was ahead when it decided to fetch: before the handshake, or
/// before the initialisation segment of another rendition. It has less ahead then, not more.
const STALE_US: i64 = 1_000_000;

/// A playhead so far from its origin has moved, however what is ahead was rounded.
const LEAST_MOVED_US: u32 = 300_000;

/// Corrections are remembered up to this.
const MOST_LEAD_US: i64 = 10_000_000;

fn lead_of(us: i64) -> i32 {
    i32::try_from(us.clamp(-MOST_LEAD_US, MOST_LEAD_US)).unwrap_or(0)
}

impl Playback {
    /// Takes the player's word: where its playhead is, whether it starved since its last word, and
    /// whether it plays.
    pub(super) fn hear(&mut self, said: &Said, around: &Around) -> Option<u64> {
        self.is_declared = true;
        if let Some(rate) = said.rate_percent {
            self.rate_percent = rate;
        }
        let mut late_us = [0; RUNS];
        let says_waits = said.starved || said.starting == Some(true);
        let waits = says_waits || self.is_waiting;
        let plays = self.has_played && !waits;
        if let Some(ahead_ms) = said.ahead_ms {
            let playhead_us = self.fetched_us[VIDEO].saturating_sub(ahead_ms.saturating_mul(1000));
            if !said.is_late && says_waits && self.lacks_what_was_granted(playhead_us) {
                if ahead_ms < LEAST_AHEAD_MS {
                    self.stalls_on();
                }
                return None;
            }
            for (run, late_us) in self.runs.iter_mut().zip(&mut late_us) {
                let is_past = run.playhead_us > self.fetched_us[VIDEO];
                if is_past && (ahead_ms == 0 || said.is_late) {
                    // The sound went on without a picture: nothing is ahead wherever it is.
                    continue;
                }
                let behind_us = i64::from(run.playhead_us) - i64::from(playhead_us);
                let is_stale = run.doing == Doing::Play && plays && behind_us <= STALE_US;
                if behind_us > 0 && is_stale {
                    continue;
                }
                *late_us = behind_us;
                run.playhead_us = playhead_us;
            }
        }
        if said.is_late {
            // It is about a time that is final; only where the playhead is has come to light.
            return None;
        }
        let is_dry = said.ahead_ms.is_some_and(|ms| ms < LEAST_AHEAD_MS);
        if is_dry && (self.doing() == Doing::Stall || self.has_just_gone_on() && says_waits) {
            // Its buffer is empty, so the stall goes on, whatever else it says or leaves out; and
            // what has just arrived was of no use.
            self.stalls_on();
            return None;
        }
        // With enough it went on in a moment, unless it says otherwise now.
        let says_still = self.says_starting && said.starting.is_some();
        let was_waiting = (says_still || self.is_waiting) && self.has_started();
        let needs_us: [u32; RUNS] = std::array::from_fn(|n| self.needed_us(n, around));
        let retracted = self.reconcile(said, was_waiting, &late_us);
        // Version 1 never says that it plays; it leaves out that it begins.
        let says_plays = said.starting == Some(false)
            || said.starting.is_none() && self.says_starting && !is_dry;
        self.begin_as_said(said, says_plays, around);
        self.says_starting = said.starting == Some(true);
        self.is_rest = false;
        for (n, needs_us) in needs_us.into_iter().enumerate() {
            let ahead_us = self.ahead_us(n);
            let run = &mut self.runs[n];
            match (run.doing, said.starting) {
                (Doing::Idle | Doing::Stall, Some(false)) | (Doing::Idle, None) => {
                    run.doing = Doing::Play;
                }
                (Doing::Play | Doing::Idle, Some(true)) if self.has_played => {
                    // It has not gone on yet; with enough it will in a moment.
                    if ahead_us < needs_us {
                        run.doing = Doing::Stall;
                        run.sound = Sound::Dry;
                        self.is_rest |= n == POINT;
                    } else {
                        run.playhead_us = run.playhead_us.saturating_sub(around.with.begin_us);
                        run.doing = Doing::Play;
                    }
                }
                _ => {}
            }
        }
        if self.doing() == Doing::Stall && self.t_stall_ns == 0 {
            self.t_stall_ns = self.t_ns;
            self.is_origin = false;
        }
        self.is_waiting = self.says_starting && self.doing() != Doing::Play;
        retracted
    }

    /// Takes what it says of the sound while it waits. That is no more than what was delivered of it,
    /// and what came of a silence.
    pub(super) fn hear_of_sound(&mut self, ahead_ms: u32) {
        let ahead_us = ahead_ms.saturating_mul(1000);
        self.lacks_what_was_granted(self.fetched_us[AUDIO].saturating_sub(ahead_us));
    }

    fn stalls_on(&mut self) {
        for run in &mut self.runs {
            if run.doing != Doing::Stall {
                run.sound = Sound::Dry;
            }
            run.doing = Doing::Stall;
        }
        self.is_waiting = true;
    }

    /// Media arrived and ended a stall, so lately that the player may not have known of it when it
    /// spoke.
    fn has_just_gone_on(&self) -> bool {
        self.doing() == Doing::Play
            && self.runs[POINT].recent_us >= LEAST_STALL_US
            && i64::from(self.since_append_us) <= STALE_US
    }

    /// Takes the player's word on its start: when the first frame was follows from how much was
    /// played when it first says that it plays.
    fn begin_as_said(&mut self, said: &Said, says_plays: bool, around: &Around) {
        if self.has_played {
            return;
        }
        let waited_us = us(self.t_ns.saturating_sub(around.t_begin_ns));
        // Some say after the start, too, that they begin: while they wait. Less is ahead then than came.
        let most_before_us = if around.is_live {
            around.segment_us
        } else {
            LEAST_MOVED_US
        };
        let moved_us = self.runs[POINT].playhead_us.saturating_sub(ORIGIN_US);
        let has_moved = said.ahead_ms.is_some() && moved_us > most_before_us;
        match said.starting {
            Some(true) if self.has_started() && !has_moved => {
                // It had not begun when the model held that it had.
                self.startup_us = self.startup_us.max(waited_us);
            }
            _ if says_plays => {
                self.has_played = true;
                for n in 0..RUNS {
                    if matches!(self.runs[n].doing, Doing::Start | Doing::Seek) {
                        self.go_after(n, 0, around);
                    }
                }
                // Live, it may begin in the middle of a segment.
                if said.ahead_ms.is_some() && self.stalls == 0 && !around.is_live {
                    let played_us = self.runs[POINT].playhead_us.saturating_sub(ORIGIN_US);
                    self.startup_us = waited_us.saturating_sub(played_us).max(1);
                }
            }
            _ => {}
        }
    }

    /// Whether what it has ahead says that it stood still, though it does not say so itself: had it
    /// played on, it had as much less. `late`: by how much the playhead was thought too far.
    fn has_stood(&self, said: &Said, late: i64) -> bool {
        let had = i64::from(self.runs[POINT].recent_us);
        let stood = had + late;
        said.ahead_ms.is_some()
            && stood >= STALE_US.max(had / 2)
            // Else the playhead was elsewhere from the beginning.
            && late <= i64::from(self.fresh_us + LEAST_STALL_US)
    }

    /// Makes the time since the player's last word what the player says it was, and settles it.
    /// `late_us`: by how much each playhead was thought too far.
    fn reconcile(&mut self, said: &Said, was_waiting: bool, late_us: &[i64; RUNS]) -> Option<u64> {
        let mut retracted = None;
        let stalls_still = self.runs[POINT].doing == Doing::Stall;
        let had_us = self.runs[POINT].recent_us;
        let late = late_us[POINT];
        let starved = if had_us > 0 {
            // It is urgent after a start, a jump and a stall; some players say no more than that. One
            // that has not moved since it last said so waits still.
            let has_moved = i64::from(self.fresh_us) - late >= i64::from(LEAST_STALL_US);
            let is_urgent = self.has_played
                && said.starting == Some(true)
                && (has_moved || !self.says_starting);
            let has_stood = !was_waiting && self.has_stood(said, late);
            said.starved || is_urgent || has_stood || self.is_waiting && !self.is_rest
        } else {
            // Some say it of a buffer that was empty while they began, or long before: the time that
            // was not played tells. Who speaks after a silence and has as much as it had then, paused.
            let was_short = said.ahead_ms.is_none() || late >= i64::from(LEAST_STALL_US);
            said.starved && was_short && !self.has_just_spoken()
        };
        // What only takes back an earlier correction was neither a pause nor a jump: segments that
        // come out of order or are replaced move what is ahead to and fro.
        let had = i64::from(had_us);
        let lead = i64::from(self.lead_us);
        let (late, least) = if starved || was_waiting {
            (late, -had)
        } else if late > 0 {
            self.lead_us = lead_of(lead - late);
            (late - late.min(lead.max(0)), -had)
        } else {
            let beyond = (-late - had).max(0);
            self.lead_us = lead_of(lead + beyond);
            (late, -had - beyond.min((-lead).max(0)))
        };
        // What was not played was waited for, if the player says that it waited; else it paused.
        let fresh = i64::from(self.fresh_us) - late.clamp(least, FAR_US);
        let moved_us = self.fresh_us.min(clip(late));
        self.fresh_us = clip(fresh);
        if starved || was_waiting {
            for (run, late) in self.runs.iter_mut().zip(late_us) {
                // No more can have been waited for than was thought to be played.
                let is = i64::from(run.recent_us) + (*late).min(i64::from(moved_us));
                run.recent_us = clip(is);
            }
        }
        if starved {
            let run = &mut self.runs[POINT];
            // However short, the player noticed it.
            let least_us = LEAST_STALL_US
                .saturating_sub(run.recent_us)
                .min(self.fresh_us);
            run.recent_us += least_us;
            self.fresh_us -= least_us;
            // One that was missed was over, or nearly, when the player asked again; and none is
            // over later than that.
            let latest_ns = self.t_ns - u64::from(run.recent_us) * 1000;
            self.is_origin &= had_us > 0;
            self.t_stall_ns = if had_us == 0 {
                latest_ns
            } else {
                self.t_stall_ns.min(latest_ns)
            };
        } else if was_waiting {
            // The stall before had not been over: this is its rest, and no other.
            if had_us > 0 {
                retracted = Some(self.t_stall_ns);
            }
            self.t_stall_ns = 0;
        } else if had_us > 0 {
            retracted = Some(self.t_stall_ns);
            for run in &mut self.runs {
                run.recent_us = 0;
                if run.doing == Doing::Stall {
                    run.doing = Doing::Play;
                }
            }
            self.t_stall_ns = 0;
        }
        if !stalls_still || retracted.is_some() {
            self.settle();
        }
        retracted
    }
}

//! The virtual buffer: what was fetched, a playhead that moves when it may, and the time it could
//! not. Three runs with three sets of thresholds bracket what is not known of the player.

mod claims;
mod going_on;
mod settling;
mod silence;

use super::around::{Around, overdue_us};
use super::input::Media;
use super::thresholds::{POINT, RUNS};
use super::timeline::What;
use silence::Silence;

/// Playheads begin here, so that there is room before them, and are brought back to it.
const ORIGIN_US: u32 = 1 << 30;
/// A stalled player that asks for nothing so long does not wait for data.
const SILENT_STALL_US: u32 = 2_000_000;
/// The least gap without a request that says that the player had enough.
const IDLE_GAP_US: u32 = 250_000;
/// A kind of media that is not there after so many objects of the other does not exist.
const ALONE: u8 = 3;
/// A shorter pause is no stall: players and clocks are not that exact.
pub(super) const LEAST_STALL_US: u32 = 100_000;
const VIDEO: usize = 0;
const AUDIO: usize = 1;

/// What a run holds the player to be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Start,
    Play,
    Stall,
    Seek,
    Idle,
}

/// What became of the sound while there is no picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sound {
    /// It goes on.
    Plays,
    /// It was stopped, and has media still.
    HeldBack,
    /// It stopped for want of media.
    Dry,
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    playhead_us: u32,
    /// Stalled since the last settlement.
    recent_us: u32,
    doing: Doing,
    sound: Sound,
}

/// A stall that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// 0: there was none.
    pub t_began_ns: u64,
    pub stalled_us: u32,
    pub is_origin: bool,
}

impl Past {
    pub(super) fn t_ended_ns(&self) -> u64 {
        self.t_began_ns + u64::from(self.stalled_us) * 1000
    }
}

/// The state at one moment.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Playback {
    pub t_ns: u64,
    /// When the latest stall of the point run that is not settled began; 0: there is none.
    pub t_stall_ns: u64,
    /// The latest that is settled.
    pub past: Past,
    pub played_us: u64,
    stalled_us: [u64; RUNS],
    /// Time of the first frame after the first request; 0: none yet.
    pub startup_us: u32,
    pub stalls: u32,
    fetched_us: [u32; 2],
    runs: [Run; RUNS],
    /// Played since the last settlement.
    fresh_us: u32,
    /// Running median of what was ahead when a request followed a gap; 0: none did.
    pub usual_us: u32,
    /// By how much the player, by its own words, was ahead of the model and has not come back;
    /// negative: behind.
    lead_us: i32,
    /// Without a request for media so long.
    quiet_us: u32,
    /// Since media last arrived.
    since_append_us: u32,
    pub idle_errors: u32,
    objects: [u8; 2],
    /// Settled stalls in which the sound stopped, since it began or jumped.
    stops: u8,
    is_split: bool,
    /// Which slots are outstanding.
    pub open: u8,
    rate_percent: u8,
    /// The stall under way or not settled is the origin's.
    pub is_origin: bool,
    /// The player declares its state, so that its next word settles what the model holds.
    pub is_declared: bool,
    /// The player has said that it plays.
    has_played: bool,
    /// It said last that it waits for data, and had not enough to go on.
    is_waiting: bool,
    /// It said last that it begins or waits.
    says_starting: bool,
    /// The latest time that the buffer was dry and nothing was asked for.
    silence: Silence,
    /// The stall under way is the rest of one that was held to be over.
    is_rest: bool,
}

/// A time that is none if negative.
fn clip(us: i64) -> u32 {
    u32::try_from(us.max(0)).unwrap_or(u32::MAX)
}

fn us(ns: u64) -> u32 {
    u32::try_from(ns / 1000).unwrap_or(u32::MAX)
}

impl Playback {
    pub(super) fn new(t_ns: u64) -> Self {
        Self {
            t_ns,
            t_stall_ns: 0,
            past: Past::default(),
            played_us: 0,
            stalled_us: [0; RUNS],
            startup_us: 0,
            stalls: 0,
            fetched_us: [ORIGIN_US; 2],
            runs: [Run {
                playhead_us: ORIGIN_US,
                recent_us: 0,
                doing: Doing::Start,
                sound: Sound::Plays,
            }; RUNS],
            fresh_us: 0,
            usual_us: 0,
            lead_us: 0,
            quiet_us: 0,
            since_append_us: 0,
            idle_errors: 0,
            objects: [0; 2],
            stops: 0,
            is_split: false,
            open: 0,
            rate_percent: 100,
            is_origin: false,
            is_declared: false,
            has_played: false,
            is_waiting: false,
            says_starting: false,
            silence: Silence::default(),
            is_rest: false,
        }
    }

    pub(super) fn doing(&self) -> Doing {
        self.runs[POINT].doing
    }

    pub(super) fn has_started(&self) -> bool {
        self.startup_us != 0
    }

    /// The player has said that it plays.
    pub(super) fn has_played(&self) -> bool {
        self.has_played
    }

    /// Objects that arrived, at most 255.
    pub(super) fn objects(&self) -> u8 {
        self.objects[VIDEO].max(self.objects[AUDIO])
    }

    /// Objects of the sound that arrived, at most 255.
    pub(super) fn sounds(&self) -> usize {
        self.objects[AUDIO].into()
    }

    /// Stalled since the last settlement, in the point run.
    pub(super) fn recent_us(&self) -> u32 {
        self.runs[POINT].recent_us
    }

    /// Up to where there is everything.
    fn whole_us(&self) -> u32 {
        if !self.is_split {
            return self.fetched_us[VIDEO];
        }
        match self.objects {
            [video, 0] if video >= ALONE => self.fetched_us[VIDEO],
            [0, audio] if audio >= ALONE => self.fetched_us[AUDIO],
            _ => self.fetched_us[VIDEO].min(self.fetched_us[AUDIO]),
        }
    }

    /// Media ahead of a run's playhead.
    pub(super) fn ahead_us(&self, run: usize) -> u32 {
        self.whole_us().saturating_sub(self.runs[run].playhead_us)
    }

    /// Media of one kind ahead of the point run's playhead.
    pub(super) fn ahead_of_us(&self, media: Media) -> u32 {
        let kind = usize::from(media == Media::Audio);
        self.fetched_us[kind].saturating_sub(self.runs[POINT].playhead_us)
    }

    /// Wall time until a run is dry.
    pub(super) fn left_us(&self, run: usize, dry_us: u32) -> u32 {
        let media = u64::from(self.ahead_us(run).saturating_sub(dry_us));
        u32::try_from(media * 100 / u64::from(self.rate_percent.max(1))).unwrap_or(u32::MAX)
    }

    /// Media that so much wall time plays.
    fn media_us(&self, wall_us: u32) -> u32 {
        let media = u64::from(wall_us) * u64::from(self.rate_percent) / 100;
        u32::try_from(media).unwrap_or(u32::MAX)
    }

    /// Whether a buffer that runs dry at the end of `since_append_us` starves.
    fn is_wanting(&self, since_append_us: u32, t_ns: u64, around: &Around) -> bool {
        self.open != 0 || around.is_overdue(since_append_us, t_ns)
    }

    /// Lets the buffer drain until `t_ns`.
    pub(super) fn drain(&mut self, t_ns: u64, around: &Around) {
        let dt_us = us(t_ns.saturating_sub(self.t_ns));
        if dt_us == 0 {
            return;
        }
        for n in 0..RUNS {
            match self.runs[n].doing {
                Doing::Start | Doing::Seek => {}
                Doing::Idle => self.idle(n, dt_us, around),
                Doing::Play => self.play(n, dt_us, around),
                Doing::Stall => self.stall(n, dt_us, around),
            }
        }
        self.quiet_us = if self.open == 0 {
            self.quiet_us.saturating_add(dt_us)
        } else {
            0
        };
        self.since_append_us = self.since_append_us.saturating_add(dt_us);
        self.t_ns += u64::from(dt_us) * 1000;
    }

    fn play(&mut self, n: usize, dt_us: u32, around: &Around) {
        let left_us = self.left_us(n, around.with.dry_us);
        let played_us = dt_us.min(left_us);
        let media_us = self.media_us(played_us);
        let run = &mut self.runs[n];
        run.playhead_us = run.playhead_us.saturating_add(media_us);
        if n == POINT {
            self.fresh_us = self.fresh_us.saturating_add(played_us);
        }
        if dt_us <= left_us {
            return;
        }
        let t_dry_ns = self.t_ns + u64::from(left_us) * 1000;
        let since_append_us = self.since_append_us.saturating_add(left_us);
        if self.is_wanting(since_append_us, t_dry_ns, around) {
            if n == POINT {
                // One that was not settled is now: only the latest can be taken back.
                self.settle_stall();
                self.t_stall_ns = t_dry_ns;
                self.is_origin = self.open == 0;
            }
            self.runs[n].doing = Doing::Stall;
            self.runs[n].sound = Sound::Plays;
            self.stall(n, dt_us - left_us, around);
        } else {
            self.runs[n].doing = Doing::Idle;
            if n == POINT {
                self.falls_silent(t_dry_ns);
            }
        }
    }

    /// A dry live player that looks for the next segment waits from when that is overdue.
    fn idle(&mut self, n: usize, dt_us: u32, around: &Around) {
        let t_ns = self.t_ns + u64::from(dt_us) * 1000;
        let since_append_us = self.since_append_us.saturating_add(dt_us);
        if !around.is_overdue(since_append_us, t_ns) {
            return;
        }
        let over_us = since_append_us - overdue_us(around.segment_us);
        let waited_us = over_us.min(dt_us);
        if n == POINT {
            self.settle_stall();
            self.t_stall_ns = t_ns - u64::from(waited_us) * 1000;
            self.is_origin = true;
        }
        let run = &mut self.runs[n];
        run.doing = Doing::Stall;
        run.sound = Sound::Dry;
        run.recent_us = run.recent_us.saturating_add(waited_us);
    }

    fn stall(&mut self, n: usize, dt_us: u32, around: &Around) {
        let t_ns = self.t_ns + u64::from(dt_us) * 1000;
        let since_append_us = self.since_append_us.saturating_add(dt_us);
        self.run_on(n, dt_us, around);
        let run = &mut self.runs[n];
        if self.open != 0 {
            run.recent_us = run.recent_us.saturating_add(dt_us);
            return;
        }
        // It may ask again in a moment; if it does not, it does not wait.
        let patience_us = SILENT_STALL_US.saturating_sub(self.quiet_us);
        run.recent_us = run.recent_us.saturating_add(dt_us.min(patience_us));
        if dt_us > patience_us {
            let overdue = around.is_overdue(since_append_us, t_ns);
            let run = &mut self.runs[n];
            if overdue {
                run.recent_us = run.recent_us.saturating_add(dt_us - patience_us);
            } else {
                if !around.is_live {
                    // It has not waited since it asked last.
                    run.recent_us = run.recent_us.saturating_sub(SILENT_STALL_US);
                }
                run.doing = Doing::Idle;
            }
        }
    }

    /// Takes in what happened at the moment that it stands at. Returns the begin of a stall that
    /// was none.
    pub(super) fn apply(&mut self, what: What, around: &Around) -> Option<u64> {
        match what {
            What::Begin { slot } => self.begin(slot, around),
            What::Void { slot } => self.open &= !(1 << slot),
            What::Append {
                slot,
                media,
                duration_us,
            } => {
                self.open &= !(1 << slot);
                self.append(media, duration_us, around);
            }
            What::Drop { media, duration_us } => {
                let kind = usize::from(media == Media::Audio);
                // What is behind the playhead was played, and is of no use when it comes again.
                self.fetched_us[kind] = self.fetched_us[kind].saturating_sub(duration_us);
            }
            What::Seek => self.seek(around),
            What::Say(said) => return self.hear(&said, around),
            What::Waits { sound_ms } => self.hear_of_sound(sound_ms),
        }
        None
    }

    fn begin(&mut self, slot: u8, around: &Around) {
        let after_gap = self.open == 0 && self.quiet_us > IDLE_GAP_US;
        self.open |= 1 << slot;
        if after_gap {
            let was = self.runs[POINT].doing;
            let had_us = self.ahead_us(POINT);
            if was == Doing::Play {
                self.learn_usual(self.ahead_us(POINT));
            }
            for n in 0..RUNS {
                let run = self.runs[n];
                if !matches!(run.doing, Doing::Play | Doing::Idle) {
                    continue;
                }
                // A live player waits for what is not there yet, not because it has enough.
                let enough_us = match (self.usual_us, run.doing) {
                    // One that declares its state says how much that is.
                    (_, Doing::Play) if around.is_live || self.is_declared => 0,
                    (0, Doing::Idle) => around.segment_us,
                    (usual_us, _) => usual_us,
                };
                let ahead_us = self.ahead_us(n).max(enough_us);
                let playhead_us = self.whole_us().saturating_sub(ahead_us);
                if n == POINT {
                    let back_us = run.playhead_us.saturating_sub(playhead_us);
                    self.fresh_us = self.fresh_us.saturating_sub(back_us);
                }
                self.runs[n].playhead_us = playhead_us;
                self.runs[n].doing = Doing::Play;
            }
            if was == Doing::Idle {
                self.idle_errors += 1;
            }
            self.speaks_again(self.ahead_us(POINT).saturating_sub(had_us));
        } else {
            self.was_not_silent();
        }
        if !self.is_declared && self.runs[POINT].doing != Doing::Stall {
            self.settle();
        }
    }

    /// A running median: half of what comes moves it up, half down.
    fn learn_usual(&mut self, ahead_us: u32) {
        let step_us = (self.usual_us / 16).max(20_000);
        self.usual_us = if self.usual_us == 0 {
            ahead_us
        } else if ahead_us > self.usual_us {
            self.usual_us.saturating_add(step_us).min(ahead_us)
        } else {
            self.usual_us.saturating_sub(step_us).max(ahead_us)
        }
        .max(1);
    }

    fn append(&mut self, media: Media, duration_us: u32, around: &Around) {
        let kind = usize::from(media == Media::Audio);
        self.is_split |= media != Media::Muxed;
        self.objects[kind] = self.objects[kind].saturating_add(1);
        self.fetched_us[kind] = self.fetched_us[kind].saturating_add(duration_us);
        if !self.is_split {
            self.fetched_us[AUDIO] = self.fetched_us[VIDEO];
        }
        self.since_append_us = 0;
        for n in 0..RUNS {
            if media == Media::Audio {
                self.sound_comes(n);
            }
            let ahead_us = self.ahead_us(n);
            match self.runs[n].doing {
                Doing::Start | Doing::Seek if ahead_us >= around.with.start_us[n] => {
                    self.go(n, around);
                }
                Doing::Stall if ahead_us >= self.needs_us(n, around) => {
                    self.runs[n].doing = Doing::Play;
                }
                Doing::Idle if ahead_us > 0 => self.runs[n].doing = Doing::Play,
                _ => {}
            }
        }
        self.fills_up(around);
        self.rebase();
    }

    /// Begins to play in one run; the first frame takes the player some time.
    fn go(&mut self, n: usize, around: &Around) {
        // Who begins later has more ahead.
        let begin_us = match n {
            0 => around.with.begin_us.saturating_mul(2),
            2 => around.with.begin_us / 4,
            _ => around.with.begin_us,
        };
        self.go_after(n, begin_us, around);
    }

    fn go_after(&mut self, n: usize, begin_us: u32, around: &Around) {
        let run = &mut self.runs[n];
        run.playhead_us = run.playhead_us.saturating_sub(begin_us);
        run.doing = Doing::Play;
        if n == POINT && self.startup_us == 0 {
            let waited_us = us(self.t_ns.saturating_sub(around.t_begin_ns));
            self.startup_us = waited_us.saturating_add(begin_us).max(1);
            if around.t_unknown_ns > 0 {
                let unknown_us = us(self.t_ns.saturating_sub(around.t_unknown_ns));
                self.fresh_us = self.fresh_us.saturating_add(unknown_us.min(waited_us));
            }
        }
    }

    fn seek(&mut self, around: &Around) {
        let place = self.runs.iter().map(|run| run.playhead_us).max();
        let place = place.unwrap_or(ORIGIN_US);
        let stalls_on = around.is_live
            && self.doing() == Doing::Stall
            && self.runs[POINT].recent_us >= LEAST_STALL_US;
        self.stops = 0;
        self.silence = Silence::default();
        self.lead_us = 0;
        self.fetched_us = [place; 2];
        for run in &mut self.runs {
            run.playhead_us = place;
            if run.doing == Doing::Stall && stalls_on {
                // It skips what it waited for, to be live again; the viewer still waits.
                run.sound = Sound::Dry;
            } else if run.doing != Doing::Start {
                run.doing = Doing::Seek;
            }
        }
        if !stalls_on {
            self.settle();
        }
    }

    /// Keeps positions within their range, however long the viewing.
    fn rebase(&mut self) {
        let least = self.runs.iter().map(|run| run.playhead_us).min();
        let least = least.unwrap_or(ORIGIN_US);
        if least > 2 * ORIGIN_US {
            for run in &mut self.runs {
                run.playhead_us -= ORIGIN_US;
            }
            for fetched in &mut self.fetched_us {
                *fetched = fetched.saturating_sub(ORIGIN_US).max(ORIGIN_US);
            }
            self.silence = Silence::default();
        }
    }
}

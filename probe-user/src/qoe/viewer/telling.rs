//! What a viewer's model tells, and when it is sure enough to tell it.

use super::super::risk;
use super::super::startup::{self, Signs};
use super::flight::{Slot, Stage};
use super::input::Tier;
use super::output::{Cause, Change, Ending};
use super::playback::{Doing, LEAST_STALL_US, Past, Playback};
use super::thresholds::{POINT, Thresholds};
use super::timeline::{Timeline, What};
use super::{FINAL_NS, LAST_NS, STALE_MS, Viewer, flight};

/// A buffer is dry so long before it is called a stall: clocks and thresholds are not that exact.
const SURE_NS: u64 = 150_000_000;
/// Longer where nothing says whether the answer is whole.
const UNSURE_NS: u64 = 400_000_000;
/// How often one looks at what cannot be decided yet.
const LOOK_NS: u64 = 100_000_000;
/// A failing start whose last session is over waits so long for another.
const RETRY_NS: u64 = 3_000_000_000;
/// A start that nothing confirms is told as it seems after so long.
const LATEST_START_NS: u64 = 10_000_000_000;
/// Who has begun to play and keeps a session open is not gone before it was silent so long: the time
/// for which servers keep a session that is not used.
const OPEN_GAP_NS: u64 = 60_000_000_000;
/// An answer of unknown size that was acknowledged as far as it was written is whole, or its record
/// would have been followed by another.
const WHOLE_MS: u32 = 1_500;

/// What was told, so that it is told once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// The stall that goes on, as told; 0: none.
    t_stall_ns: u64,
    /// The latest that was told to be over: its begin and its end.
    t_past_ns: u64,
    t_past_end_ns: u64,
    /// A stall that the player's word took back; 0: none.
    t_retracted_ns: u64,
    /// Start-up time as the player measured it; 0: it did not say.
    pub declared_us: u32,
    /// As told; 0: it has not.
    pub startup_us: u32,
    pub is_at_risk: bool,
    pub is_ended: bool,
    pub is_shared: bool,
}

impl Told {
    pub(super) fn retract(&mut self, t_began_ns: u64) {
        self.t_retracted_ns = t_began_ns;
    }

    pub(super) fn declare(&mut self, startup_ms: Option<u32>) {
        if let Some(ms) = startup_ms.filter(|ms| *ms > 0) {
            self.declared_us = ms.saturating_mul(1000);
        }
    }

    fn over(&mut self, past: &Past, out: &mut Vec<Change>) {
        self.t_stall_ns = 0;
        self.t_past_ns = past.t_began_ns;
        self.t_past_end_ns = past.t_ended_ns();
        out.push(Change::StallEnded {
            t_began_ns: past.t_began_ns,
            t_ns: past.t_ended_ns(),
            cause: cause(past.is_origin),
        });
    }
}

fn cause(is_origin: bool) -> Cause {
    if is_origin {
        Cause::Origin
    } else {
        Cause::Delivery
    }
}

/// The stall of a state that is not settled, if there is one worth the name.
fn recent(play: &Playback) -> Option<Past> {
    let is_stall = play.t_stall_ns != 0 && play.recent_us() > 0;
    is_stall.then(|| Past {
        t_began_ns: play.t_stall_ns,
        stalled_us: play.recent_us(),
        is_origin: play.is_origin,
    })
}

impl Viewer {
    /// Tells what has changed by `now_ns`, and when to look again.
    pub(super) fn look(&mut self, now_ns: u64, with: &Thresholds, out: &mut Vec<Change>) {
        if self.told.is_shared {
            self.wake_ns = u64::MAX;
            return;
        }
        self.drop_stale(now_ns, with);
        self.commit(now_ns, with);
        let now = self.at_now(now_ns, with);
        self.tell_start(now_ns, out);
        self.tell_stall(&now, now_ns, out);
        self.tell_risk(&now, now_ns, with, out);
        if self.tell_end(&now, now_ns, with, out) {
            self.wake_ns = u64::MAX;
            return;
        }
        self.wake_ns = self.next_look(&now, now_ns, with);
    }

    /// Requests that nothing is heard of any more are not under way.
    fn drop_stale(&mut self, now_ns: u64, with: &Thresholds) {
        let at_ms = self.ms(now_ns);
        for slot in 0..flight::SLOTS {
            let place = u8::try_from(slot).unwrap_or(0);
            let here = self.flight.at(place);
            if here.stage == Stage::Open && at_ms.saturating_sub(here.t_seen_ms) > STALE_MS {
                here.stage = Stage::Free;
                let t_ns = self.t_begin_ns + u64::from(here.t_seen_ms) * 1_000_000;
                self.at(t_ns, What::Void { slot: place }, with);
            }
        }
    }

    /// Good news can wait until nothing can take it back: a first segment may have been a trial of the
    /// path, and a player that declares its state has yet to say that it plays.
    fn tell_start(&mut self, now_ns: u64, out: &mut Vec<Change>) {
        if self.told.startup_us != 0 || !self.play.has_started() {
            return;
        }
        let t_ns = self.t_begin_ns + u64::from(self.play.startup_us) * 1000;
        let is_sure = match self.tier {
            Tier::Declared => self.play.has_played() || self.told.declared_us != 0,
            Tier::Joined => self.play.objects() > 1,
            Tier::Kernel => true,
        };
        if is_sure || now_ns > t_ns.saturating_add(LATEST_START_NS) {
            self.say_start(out);
        }
    }

    fn say_start(&mut self, out: &mut Vec<Change>) {
        self.told.startup_us = self.startup_us(&self.play);
        out.push(Change::Started {
            t_ns: self.t_begin_ns + u64::from(self.told.startup_us) * 1000,
            startup_us: self.told.startup_us,
        });
    }

    fn tell_stall(&mut self, now: &Playback, now_ns: u64, out: &mut Vec<Change>) {
        if self.told.t_retracted_ns != 0 {
            let t_began_ns = std::mem::take(&mut self.told.t_retracted_ns);
            if self.told.t_past_ns != 0 && t_began_ns < self.told.t_past_end_ns {
                out.push(Change::StallRetracted {
                    t_began_ns: self.told.t_past_ns,
                });
                self.told.t_past_ns = 0;
            }
        }
        let goes_on = recent(now).filter(|_| now.doing() == Doing::Stall);
        let just_over = recent(now).filter(|_| now.doing() != Doing::Stall);
        let settled = Some(now.past).filter(|past| past.t_began_ns != 0);
        if self.told.t_stall_ns != 0 {
            let told_ns = self.told.t_stall_ns;
            let past_end_ns = self.told.t_past_end_ns;
            let was_told = |past: &Past| {
                // Not the one before, however soon the told one followed.
                let is_before = past.t_began_ns < past_end_ns
                    && past.t_ended_ns() <= past_end_ns.saturating_add(SURE_NS);
                !is_before && past.t_ended_ns() > told_ns.saturating_sub(SURE_NS)
            };
            // One that is over and lies about where one was told is that one.
            let over = settled
                .filter(was_told)
                .or_else(|| just_over.filter(was_told));
            if let Some(past) = over {
                self.told.over(&past, out);
            } else if goes_on.is_none() {
                self.told.t_stall_ns = 0;
                out.push(Change::StallRetracted {
                    t_began_ns: told_ns,
                });
            }
        }
        if self.told.t_stall_ns != 0 {
            return;
        }
        // What is over and was not told, because it was short, is told as a whole.
        let is_new = |past: &Past| {
            past.stalled_us >= LEAST_STALL_US && past.t_began_ns >= self.told.t_past_end_ns
        };
        if let Some(past) = settled.filter(is_new).or_else(|| just_over.filter(is_new)) {
            out.push(Change::StallBegan {
                t_ns: past.t_began_ns,
                cause: cause(past.is_origin),
            });
            self.told.over(&past, out);
        }
        if let Some(stall) = goes_on
            && stall.t_began_ns >= self.told.t_past_end_ns
            && (self.play.has_started() || self.timeline.appends() != 1)
            && self.is_sure(&stall, now_ns)
        {
            self.told.t_stall_ns = stall.t_began_ns;
            out.push(Change::StallBegan {
                t_ns: stall.t_began_ns,
                cause: cause(stall.is_origin),
            });
        }
    }

    /// Whether a dry buffer is a stall: the answer was seen incomplete after it ran dry, or cannot
    /// have become complete before.
    fn is_sure(&self, stall: &Past, now_ns: u64) -> bool {
        let waited_ns = now_ns.saturating_sub(stall.t_began_ns);
        if stall.is_origin {
            return waited_ns >= SURE_NS;
        }
        let is_joined = self.tier >= Tier::Joined;
        let patience_ns = if is_joined { SURE_NS } else { UNSURE_NS };
        if waited_ns < patience_ns {
            return false;
        }
        let dry_ms = self.ms(stall.t_began_ns);
        let at_ms = self.ms(now_ns);
        let mut any = false;
        let sure = self.flight.open().all(|(_, slot)| {
            any = true;
            self.is_incomplete(slot, is_joined, dry_ms, at_ms)
        });
        any && sure
    }

    fn is_incomplete(&self, slot: &Slot, is_joined: bool, dry_ms: u32, at_ms: u32) -> bool {
        if !slot.is_written && is_joined {
            // The server's log would have told that it has written all of it.
            return true;
        }
        if slot.may_be_whole {
            // A server that pauses in the middle, if no end is told for long.
            return at_ms.saturating_sub(slot.t_seen_ms) > WHOLE_MS;
        }
        if slot.t_seen_ms >= dry_ms {
            return true;
        }
        let left = u64::from(slot.whole_bytes.saturating_sub(slot.acked_bytes));
        let needs_ms = self.rate.time_us(left) / 1000;
        self.rate.is_known() && needs_ms > u64::from(at_ms.saturating_sub(slot.t_seen_ms))
    }

    fn tell_risk(&mut self, now: &Playback, now_ns: u64, with: &Thresholds, out: &mut Vec<Change>) {
        let was = self.told.is_at_risk;
        let left_us = now.left_us(POINT, with.dry_us);
        let is = match now.doing() {
            Doing::Play if now.has_started() => {
                let at_ms = self.ms(now_ns);
                let needs = |slot: &Slot| self.needs_us(slot, at_ms);
                let needs_us = self.flight.open().map(|(_, slot)| needs(slot)).max();
                needs_us.is_some_and(|us| risk::is_at_risk(us, left_us.into(), was))
            }
            Doing::Stall => was,
            _ => false,
        };
        if is == was {
            return;
        }
        self.told.is_at_risk = is;
        out.push(if is {
            Change::AtRisk {
                t_ns: now_ns,
                left_us,
            }
        } else {
            Change::Safe { t_ns: now_ns }
        });
    }

    /// How long what is under way still takes, as far as can be said.
    fn needs_us(&self, slot: &Slot, at_ms: u32) -> u64 {
        if !self.rate.is_known() || slot.may_be_whole {
            return 0;
        }
        let left = u64::from(slot.whole_bytes.saturating_sub(slot.acked_bytes));
        let since_us = u64::from(at_ms.saturating_sub(slot.t_seen_ms)) * 1000;
        self.rate.time_us(left).saturating_sub(since_us)
    }

    /// Tells the end, if this is it.
    fn tell_end(
        &mut self,
        now: &Playback,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) -> bool {
        if now_ns < self.t_over_ns(now, with) {
            return false;
        }
        // Without labels one does not know whether what was fetched was a film.
        let is_unknown = self.tier == Tier::Kernel && self.first_us > 0;
        if now.has_started() || is_unknown {
            let how = if self.t_stress_ns >= self.t_sign_ns.saturating_sub(FINAL_NS)
                && self.t_stress_ns != 0
            {
                Ending::UnderStress
            } else {
                Ending::Left
            };
            self.end(now_ns, how, with, out);
        } else {
            self.told.is_ended = true;
            out.push(Change::Failed {
                t_ns: self.t_sign_ns,
                class: startup::class_of(self.signs),
            });
        }
        true
    }

    /// When it is over if nothing more is heard.
    fn t_over_ns(&self, now: &Playback, with: &Thresholds) -> u64 {
        let t_sign_ns = self.t_sign_ns.max(self.t_poll_ns);
        if !now.has_started() {
            return if self.is_alone {
                t_sign_ns.saturating_add(RETRY_NS)
            } else {
                t_sign_ns.saturating_add(startup::GAP_NS)
            };
        }
        if self.flight.open().next().is_some() {
            return u64::MAX;
        }
        let left_ns = u64::from(self.play.left_us(POINT, with.dry_us)) * 1000;
        let t_dry_ns = self.play.t_ns.saturating_add(left_ns);
        // One that has closed nothing may stand still behind a dead path.
        let gap_ns = if self.is_alone {
            startup::GAP_NS
        } else {
            OPEN_GAP_NS
        };
        t_sign_ns.max(t_dry_ns).saturating_add(gap_ns)
    }

    fn next_look(&self, now: &Playback, now_ns: u64, with: &Thresholds) -> u64 {
        let mut next_ns = self.t_over_ns(now, with);
        if let Some((after_us, what)) = self.timeline.first() {
            let is_held = matches!(what, What::Begin { slot }
                if self.tier == Tier::Declared
                    && self.flight.get(slot).stage == Stage::Open
                    && self.timeline.begins_of(slot) == 1);
            if !is_held {
                let at_ns = self.play.t_ns.saturating_add(u64::from(after_us) * 1000);
                next_ns = next_ns.min(at_ns.saturating_add(FINAL_NS + 1_000_000));
            }
        }
        if self.told.startup_us == 0 && self.play.has_started() {
            let t_ns = self.t_begin_ns + u64::from(self.play.startup_us) * 1000;
            next_ns = next_ns.min(t_ns.saturating_add(LATEST_START_NS + 1_000_000));
        }
        let sure_ns = if self.tier >= Tier::Joined {
            SURE_NS
        } else {
            UNSURE_NS
        };
        let is_waiting = self.flight.open().next().is_some() || self.is_live;
        match now.doing() {
            Doing::Play if is_waiting => {
                let left_ns = u64::from(now.left_us(POINT, with.dry_us)) * 1000;
                next_ns = next_ns.min(now_ns.saturating_add(left_ns + sure_ns));
            }
            Doing::Stall if self.told.t_stall_ns == 0 => {
                next_ns = next_ns.min(now_ns.saturating_add(LOOK_NS));
            }
            Doing::Idle if self.is_live => {
                next_ns = next_ns.min(now_ns.saturating_add(2 * LOOK_NS));
            }
            _ => {}
        }
        for (_, slot) in self.flight.open() {
            let seen_ns = self.t_begin_ns + u64::from(slot.t_seen_ms) * 1_000_000;
            let stale_ns = seen_ns.saturating_add((u64::from(STALE_MS) + 1) * 1_000_000);
            next_ns = next_ns.min(stale_ns);
        }
        next_ns.max(now_ns.saturating_add(1_000_000))
    }

    /// Ends it from outside; what is not final becomes so.
    pub fn end(&mut self, now_ns: u64, how: Ending, with: &Thresholds, out: &mut Vec<Change>) {
        if self.told.is_ended {
            return;
        }
        let now_ns = now_ns.min(LAST_NS).max(self.now_ns);
        self.now_ns = now_ns;
        while self.timeline.first().is_some() {
            self.commit_first(with);
        }
        let around = self.around(with);
        // Nobody knows how much of the buffer was watched after the last request; until the client
        // closed its session, it was.
        let t_sign_ns = self.t_sign_ns.max(self.t_left_ns);
        let t_last_ns = t_sign_ns.max(self.play.t_ns).min(now_ns);
        self.play.drain(t_last_ns, &around);
        self.play.settle();
        let now = self.play;
        if self.told.startup_us == 0 && self.play.has_started() {
            self.say_start(out);
        }
        self.tell_stall(&now, now_ns, out);
        self.told.is_ended = true;
        self.wake_ns = u64::MAX;
        out.push(Change::Ended {
            t_ns: if how == Ending::UnderStress {
                self.t_stress_ns
            } else {
                t_last_ns
            },
            how,
        });
    }

    /// It could not even open a session.
    pub fn never_came(&mut self, now_ns: u64, out: &mut Vec<Change>) {
        if self.begin_at(now_ns).is_none() {
            return;
        }
        self.signs.add(Signs::PATH_DEAD);
        self.told.is_ended = true;
        self.wake_ns = u64::MAX;
        out.push(Change::Failed {
            t_ns: self.t_begin_ns,
            class: startup::class_of(self.signs),
        });
    }

    /// The player began anew under the same name: what was is over, its sums stay.
    pub(super) fn restart(&mut self, t_ns: u64, with: &Thresholds, out: &mut Vec<Change>) {
        while self.timeline.first().is_some() {
            self.commit_first(with);
        }
        self.play.settle();
        let now = self.play;
        self.tell_stall(&now, self.now_ns, out);
        out.push(Change::Ended {
            t_ns: self.t_sign_ns.min(t_ns),
            how: Ending::Restarted,
        });
        if self.told.startup_us == 0 && self.play.has_started() {
            self.say_start(out);
        }
        self.startups_us += u64::from(self.told.startup_us);
        self.play = self.play.anew(t_ns);
        self.timeline = Timeline::new();
        self.t_begin_ns = t_ns;
        self.t_stress_ns = 0;
        self.signs = startup::Signs::default();
        self.told.restart();
        self.is_reloaded = false;
    }
}

impl Told {
    /// Forgets what concerned the playback before.
    fn restart(&mut self) {
        self.startup_us = 0;
        self.declared_us = 0;
        self.t_stall_ns = 0;
        self.t_past_ns = 0;
        self.t_past_end_ns = 0;
    }
}

//! A viewer's course of events: what was told put in its place in time, made final when nothing
//! earlier can come any more, and played on to any moment.

use super::around::Around;
use super::flight::{self, Place, Stage};
use super::input::{Claim, Labelled, Media, RequestId, Tier, UnderWay};
use super::playback::Playback;
use super::thresholds::Thresholds;
use super::timeline::{Said, What};
use super::{FINAL_NS, TRIAL_NS, Viewer};

impl Viewer {
    pub(super) fn around<'a>(&self, with: &'a Thresholds) -> Around<'a> {
        Around {
            with,
            t_begin_ns: self.t_begin_ns,
            t_unknown_ns: match self.first_answer_us() {
                us @ 1.. if self.tier == Tier::Kernel => self.t_begin_ns + u64::from(us) * 1000,
                _ => 0,
            },
            t_poll_ns: self.t_poll_ns,
            segment_us: self.orders[0].duration_us.max(self.orders[1].duration_us),
            is_live: self.is_live,
            runs_on: self.manifests == 1,
        }
    }

    /// Puts an event in its place in time; what is older than what is final happens at once.
    pub(super) fn at(&mut self, t_ns: u64, what: What, with: &Thresholds) {
        if self.timeline.is_full() {
            self.commit_first(with);
        }
        let base_ns = self.play.t_ns;
        let t_ns = t_ns.min(self.now_ns);
        if t_ns < base_ns {
            self.came_late = self.came_late.saturating_add(1);
        }
        let after_us = t_ns.saturating_sub(base_ns) / 1000;
        self.timeline
            .insert(u32::try_from(after_us).unwrap_or(u32::MAX), what);
    }

    /// Puts down what the player said with a request. What it says of the sound's buffer is left, but
    /// for what it says of a silence: it is known what was delivered of it, and one playhead serves
    /// both.
    pub(super) fn say(
        &mut self,
        claim: &Claim,
        told: &Labelled,
        thought_ms: Option<u32>,
        with: &Thresholds,
    ) {
        if told.object.media == Media::Audio {
            if let (true, None, Some(sound_ms)) = (claim.starved, thought_ms, claim.ahead_ms) {
                self.at(told.t_request_ns, What::Waits { sound_ms }, with);
            }
            return;
        }
        // Final already: by how much the model was wrong then is how much it is wrong now.
        let ahead_ms = match (claim.ahead_ms, thought_ms) {
            (Some(said), Some(thought)) => {
                let now_ms = self.play.ahead_of_us(Media::Video) / 1000;
                Some(now_ms.saturating_add(said).saturating_sub(thought))
            }
            (said, _) => said,
        };
        let said = Said {
            ahead_ms,
            starved: claim.starved,
            starting: claim.starting,
            // Zero is a pause, in which nothing drains; the idle clamp sees to it.
            rate_percent: claim
                .rate_percent
                .map(|rate| u8::try_from(rate.clamp(25, 200)).unwrap_or(100)),
            is_late: thought_ms.is_some(),
        };
        let t_ns = if said.is_late {
            self.play.t_ns
        } else {
            told.t_request_ns
        };
        self.at(t_ns, What::Say(said), with);
    }

    /// Makes the oldest event final.
    pub(super) fn commit_first(&mut self, with: &Thresholds) {
        let Some((after_us, what)) = self.timeline.shift() else {
            return;
        };
        let around = self.around(with);
        let t_ns = self.play.t_ns.saturating_add(u64::from(after_us) * 1000);
        self.play.drain(t_ns, &around);
        if let What::Begin { slot } = what
            && self.timeline.begins_of(slot) == 0
        {
            let ahead_ms = self.play.ahead_of_us(Media::Video) / 1000;
            self.flight.at(slot).set_ahead_ms(ahead_ms);
        }
        if let Some(t_began_ns) = self.play.apply(what, &around) {
            self.told.retract(t_began_ns);
        }
    }

    /// Makes final what is old enough, unless the player's own word on it is still to come: it comes
    /// with the label of a request that is under way, and tells of the time of that request.
    pub(super) fn commit(&mut self, now_ns: u64, with: &Thresholds) {
        let final_ns = now_ns.saturating_sub(FINAL_NS);
        while let Some((after_us, what)) = self.timeline.first() {
            if self.play.t_ns.saturating_add(u64::from(after_us) * 1000) > final_ns {
                return;
            }
            // A first segment may be a trial of the path; what is fetched next shows it.
            let is_first = !self.play.has_started() && matches!(what, What::Append { .. });
            if is_first && self.may_be_trial(after_us, now_ns) {
                return;
            }
            if let What::Begin { slot } = what
                && self.tier == Tier::Declared
                && self.timeline.begins_of(slot) == 1
            {
                let slot = self.flight.get(slot);
                if slot.stage == Stage::Open && !slot.is_claimed {
                    return;
                }
            }
            self.commit_first(with);
        }
    }

    /// Whether the segment that arrived so long after what is final is the only one, and the next is
    /// under way, but not for too long.
    pub(super) fn may_be_trial(&self, after_us: u32, now_ns: u64) -> bool {
        let t_ns = self.play.t_ns.saturating_add(u64::from(after_us) * 1000);
        self.tier > Tier::Kernel
            && now_ns < t_ns.saturating_add(TRIAL_NS)
            && self.timeline.appends() == 1
            && self.flight.open().next().is_some()
    }

    /// The state at `now_ns`, by all that is known.
    pub(super) fn at_now(&self, now_ns: u64, with: &Thresholds) -> Playback {
        let around = self.around(with);
        let mut play = self.play;
        for (after_us, what) in self.timeline.iter() {
            let t_ns = self.play.t_ns.saturating_add(u64::from(after_us) * 1000);
            if t_ns > now_ns {
                break;
            }
            play.drain(t_ns, &around);
            play.apply(what, &around);
        }
        play.drain(now_ns, &around);
        play
    }

    /// The slot of a request that is under way, with its begin put down if it is new; none if it
    /// is over or not for media.
    pub(super) fn open(
        &mut self,
        id: RequestId,
        t_request_ns: u64,
        with: &Thresholds,
    ) -> Option<u8> {
        self.sign(t_request_ns);
        if self.flight.find(id).is_none() {
            let place = self.flight.victim();
            let slot = self.flight.get(place);
            if slot.stage == Stage::Open {
                let t_ns = self.t_begin_ns + u64::from(slot.t_seen_ms) * 1_000_000;
                self.at(t_ns, What::Void { slot: place }, with);
            }
        }
        let t_ms = self.ms(t_request_ns);
        match self.flight.place(id, t_ms) {
            Place::Known(place) => (self.flight.get(place).stage == Stage::Open).then_some(place),
            Place::New(place) => {
                // Who had the slot before may have ended later than this began.
                let after_us = t_request_ns.saturating_sub(self.play.t_ns) / 1000;
                let after_us = u32::try_from(after_us).unwrap_or(u32::MAX);
                if self.timeline.forget_void_after(place, after_us) {
                    self.at(t_request_ns, What::Void { slot: place }, with);
                }
                self.at(t_request_ns, What::Begin { slot: place }, with);
                Some(place)
            }
        }
    }

    /// What a session asked for before its present request is over, though nobody said so.
    pub(super) fn supersede(&mut self, told: &UnderWay, with: &Thresholds) {
        for slot in 0..flight::SLOTS {
            let place = u8::try_from(slot).unwrap_or(0);
            let here = self.flight.at(place);
            let is_earlier = here.id.session == told.id.session && here.id.number < told.id.number;
            if is_earlier && here.stage == Stage::Open {
                here.stage = Stage::Free;
                self.at(told.t_request_ns, What::Void { slot: place }, with);
            }
        }
    }
}

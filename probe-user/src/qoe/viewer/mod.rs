//! One viewer's playback buffer, played virtually from what the server delivered.
//!
//! Pure and lazy: between two events the buffer drains on its own, so that nothing is computed until
//! something is told or [`Viewer::wake_ns`] has come. What is told may be of the past: the latest
//! events are kept in a timeline and played again. Sessions, joining and cells are the fold's.

pub mod cadence;
mod flight;
pub mod input;
mod order;
pub mod output;
mod pace;
mod playback;
mod telling;
pub mod thresholds;
mod timeline;

#[cfg(test)]
mod tests;

pub use input::{
    Claim, Class, End, Finished, Labelled, Media, Object, RequestId, SessionOver, Tier, UnderWay,
};
pub use output::{Bounded, Cause, Change, Ending, Phase, Sums, View};
pub use thresholds::Thresholds;

use super::risk::Rate;
use super::startup::{self, Signs};
use flight::{Flight, Place, Stage};
use order::{Order, Step};
use pace::Pace;
use playback::{Around, Playback};
use telling::Told;
use timeline::{Said, Timeline, What};

/// What is older is final: records and labels come sooner.
const FINAL_NS: u64 = 2_500_000_000;
/// So long after the first segment arrived it is taken for one that is played, although none has
/// followed.
const TRIAL_NS: u64 = 4_000_000_000;
/// A request under way of which nothing was heard so long is not under way any more.
const STALE_MS: u32 = 30_000;
/// Written, and not acknowledged any further for so long: the path is dead.
const DEAD_MS: u32 = 3_000;

/// One playback and what is known of its buffer.
#[derive(Clone, Debug)]
pub struct Viewer {
    play: Playback,
    timeline: Timeline,
    flight: Flight,
    orders: [Order; 2],
    told: Told,
    /// First request of this attempt.
    t_begin_ns: u64,
    /// Latest request, or acknowledgement of new bytes.
    t_sign_ns: u64,
    /// Latest request for a live playlist; 0: none.
    t_poll_ns: u64,
    wake_ns: u64,
    /// The latest time that was told; nothing happened after it.
    now_ns: u64,
    /// The client cut a delivery off, or left, while the buffer was dry; 0: it did not.
    t_stress_ns: u64,
    /// Of earlier attempts.
    startups_us: u64,
    rate: Rate,
    pace: Pace,
    /// Size of the latest object of the picture.
    usual_bytes: u32,
    bitrate_kbps: u32,
    /// First request to the end of the first answer; 0: there was none.
    first_us: u32,
    came_late: u32,
    seeks: u16,
    switches_up: u16,
    switches_down: u16,
    signs: Signs,
    tier: Tier,
    is_live: bool,
    /// The manifest of a recording was fetched after playback had begun.
    is_reloaded: bool,
    /// No session is open any more.
    is_alone: bool,
}

// What one viewer costs. Most of it is what is not final: the timeline and the requests in flight.
const _: () = assert!(size_of::<Viewer>() <= 616);

impl Viewer {
    /// A viewer whose first request, of whatever class, came at `t_request_ns`.
    pub fn new(t_request_ns: u64) -> Self {
        Self {
            play: Playback::new(t_request_ns),
            timeline: Timeline::new(),
            flight: Flight::new(),
            orders: [Order::default(); 2],
            told: Told::default(),
            t_begin_ns: t_request_ns,
            t_sign_ns: t_request_ns,
            t_poll_ns: 0,
            wake_ns: t_request_ns.saturating_add(startup::GAP_NS),
            now_ns: t_request_ns,
            t_stress_ns: 0,
            startups_us: 0,
            rate: Rate::default(),
            pace: Pace::default(),
            usual_bytes: 0,
            bitrate_kbps: 0,
            first_us: 0,
            came_late: 0,
            seeks: 0,
            switches_up: 0,
            switches_down: 0,
            signs: Signs::default(),
            tier: Tier::Kernel,
            is_live: false,
            is_reloaded: false,
            is_alone: false,
        }
    }

    /// A request is being answered.
    pub fn under_way(
        &mut self,
        told: &UnderWay,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        if !self.begin_at(now_ns) {
            return;
        }
        let t_ns = told.t_ns.max(told.t_request_ns).min(now_ns);
        if told.is_sole {
            self.supersede(told, with);
        }
        let Some(place) = self.open(told.id, told.t_request_ns, with) else {
            self.look(now_ns, with, out);
            return;
        };
        let seen_ms = self.ms(t_ns);
        let (was_acked, was_seen_ms) = {
            let slot = self.flight.get(place);
            (slot.acked_bytes, slot.t_seen_ms)
        };
        let acked = clip(told.acked_bytes).max(was_acked);
        let is_whole_so_far = told.written_bytes > 0 && told.acked_bytes >= told.written_bytes;
        if !is_whole_so_far || acked > was_acked {
            // The first bytes took a round trip that says nothing of the rate.
            let way_ms = if was_acked == 0 {
                told.srtt_us / 1000
            } else {
                0
            };
            let sent_ms = seen_ms.saturating_sub(was_seen_ms).saturating_sub(way_ms);
            let dt_ns = u64::from(sent_ms) * 1_000_000;
            let more = u64::from(acked - was_acked);
            // While nothing is written the path has nothing to show.
            let is_app_limited = told.is_app_limited || told.written_bytes == 0 || is_whole_so_far;
            self.rate.saw(more, dt_ns, is_app_limited);
        }
        self.rate.hint(told.delivery_rate_bytes_per_s);
        let usual_bytes = self.usual_bytes;
        let slot = self.flight.at(place);
        slot.acked_bytes = acked;
        slot.may_be_whole = is_whole_so_far;
        let known = clip(told.expected_bytes.max(told.written_bytes));
        if !slot.is_written {
            slot.whole_bytes = known.max(if told.expected_bytes == 0 {
                usual_bytes
            } else {
                0
            });
        }
        if !is_whole_so_far || acked > was_acked {
            slot.t_seen_ms = slot.t_seen_ms.max(seen_ms);
        }
        if acked > was_acked {
            self.sign(t_ns);
        } else if told.written_bytes > told.acked_bytes && self.silent_ms(t_ns) > DEAD_MS {
            self.signs.add(Signs::PATH_DEAD);
        }
        if told.written_bytes == 0 && t_ns.saturating_sub(told.t_request_ns) > startup::THINK_NS {
            self.signs.add(Signs::ORIGIN_SLOW);
        }
        self.look(now_ns, with, out);
    }

    /// A label came.
    pub fn labelled(
        &mut self,
        told: &Labelled,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        if !self.begin_at(now_ns) {
            return;
        }
        self.tier = self.tier.max(Tier::Joined);
        self.is_live |= told.object.is_live;
        if let Some(claim) = &told.claim {
            self.tier = Tier::Declared;
            if claim.failed {
                self.signs.add(Signs::DECLARED);
            }
        }
        if !self.play.has_started() {
            self.signs.add(startup::signs_of_status(told.status));
        }
        self.sign(told.t_request_ns);
        let class = told.object.class;
        if class == Class::Manifest {
            if told.object.is_live {
                self.t_poll_ns = self.t_poll_ns.max(told.t_request_ns.min(now_ns));
            } else {
                self.is_reloaded |= self.play.has_started();
            }
        }
        let fills = matches!(class, Class::Segment | Class::Part) && told.status < 400;
        if !fills {
            if let Some(place) = self.flight.find(told.id)
                && self.flight.get(place).stage == Stage::Open
            {
                self.flight.at(place).stage = Stage::Ignored;
                let t_ns = if told.status < 400 {
                    told.t_request_ns
                } else {
                    now_ns
                };
                self.at(t_ns, What::Void { slot: place }, with);
            }
            self.look(now_ns, with, out);
            return;
        }
        // A delivery that is over has its slot still, so its claim finds its place.
        let place = match self.flight.find(told.id) {
            Some(place) => Some(place),
            None => self.open(told.id, told.t_request_ns, with),
        };
        if let Some(place) = place {
            let slot = self.flight.at(place);
            slot.media = told.object.media;
            slot.is_written |= told.is_written;
            if told.expected_bytes > 0 {
                slot.whole_bytes = clip(told.expected_bytes);
            }
            if let Some(claim) = &told.claim
                && !slot.is_claimed
            {
                slot.is_claimed = true;
                if self.timeline.is_full() {
                    self.commit_first(with);
                }
                let thought_ms = self.flight.get(place).ahead_ms();
                self.say(claim, told, thought_ms, with);
                self.told.declare(claim.startup_ms);
            }
        }
        self.look(now_ns, with, out);
    }

    /// A delivery is over.
    pub fn finished(
        &mut self,
        told: &Finished,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        if !self.begin_at(now_ns) {
            return;
        }
        if !told.is_inferred && told.object.is_some() {
            self.tier = self.tier.max(Tier::Joined);
        }
        self.note_signs(told);
        let Some(place) = self.open(told.id, told.t_request_ns, with) else {
            // Told before, or known not to be for media.
            self.look(now_ns, with, out);
            return;
        };
        self.note_rate(place, told);
        self.flight.at(place).stage = Stage::Done;
        let t_end_ns = match told.t_last_acked_ns {
            0 => told.t_ns,
            t_ns => t_ns,
        }
        .max(told.t_request_ns);
        self.sign(told.t_last_acked_ns.max(told.t_request_ns));
        if self.first_us == 0 && told.end == End::Complete && told.status < 400 {
            self.first_us = clip(t_end_ns.saturating_sub(self.t_begin_ns) / 1000).max(1);
        }
        let object = told.object.or_else(|| self.unlabelled(told));
        let step = match &object {
            Some(object) if told.end == End::Complete && told.status < 400 => {
                self.is_live |= object.is_live;
                let mut order = self.orders[order::kind(object.media)];
                let was = order.rung();
                let step = order.judge(object, told.acked_bytes, || {
                    self.at_now(self.now_ns, with).ahead_of_us(object.media)
                });
                self.orders[order::kind(object.media)] = order;
                let is_other = was != 0 && order.rung() != 0 && was != order.rung();
                self.note_rendition(object, told.acked_bytes, is_other);
                step
            }
            _ => Step::Nothing,
        };
        if told.end == End::ClientAbort {
            self.note_abort(told.t_ns.min(now_ns), with);
        }
        let rtt_us = match told.min_rtt_us {
            0 => told.srtt_us,
            us => us,
        };
        let one_way_us = u64::from(rtt_us) * u64::from(with.one_way_permille[1]) / 1000;
        let t_there_ns = t_end_ns
            .saturating_sub(one_way_us * 1000)
            .max(told.t_request_ns);
        let media = object.map_or(Media::Muxed, |object| object.media);
        self.fill(step, place, media, told, t_there_ns, with, out);
        self.look(now_ns, with, out);
    }

    /// A session is over.
    pub fn session_over(
        &mut self,
        told: &SessionOver,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        if !self.begin_at(now_ns) {
            return;
        }
        let mut was_open = false;
        for slot in 0..flight::SLOTS {
            let place = u8::try_from(slot).unwrap_or(0);
            let here = self.flight.at(place);
            if here.id.session != told.session || here.stage != Stage::Open {
                continue;
            }
            // Its record may still come, and is as good as one of a request unheard of.
            here.stage = Stage::Free;
            was_open = true;
            if told.by_client {
                self.note_abort(told.t_ns.min(now_ns), with);
            }
            self.at(told.t_ns, What::Void { slot: place }, with);
        }
        if told.by_client && was_open {
            self.signs.add(Signs::CLIENT_ABORT);
        }
        self.is_alone |= told.is_last;
        self.look(now_ns, with, out);
    }

    /// Lets time pass.
    pub fn advance(&mut self, now_ns: u64, with: &Thresholds, out: &mut Vec<Change>) {
        if self.begin_at(now_ns) {
            self.look(now_ns, with, out);
        }
    }

    /// When to call [`Self::advance`] next; `u64::MAX`: not before something is told.
    pub fn wake_ns(&self) -> u64 {
        self.wake_ns
    }

    /// Notes what time it is. False if there is nothing more to say: the viewing is over, or is no
    /// single one's.
    fn begin_at(&mut self, now_ns: u64) -> bool {
        self.now_ns = self.now_ns.max(now_ns);
        !self.told.is_ended && !self.told.is_shared
    }

    /// Whether the viewing is over; it says nothing more then.
    pub fn is_ended(&self) -> bool {
        self.told.is_ended
    }

    /// Whether several viewers were found behind it.
    pub fn is_shared(&self) -> bool {
        self.told.is_shared
    }

    /// How much is known of it.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Milliseconds after the first request.
    fn ms(&self, t_ns: u64) -> u32 {
        let ms = t_ns.saturating_sub(self.t_begin_ns) / 1_000_000;
        u32::try_from(ms).unwrap_or(u32::MAX)
    }

    fn silent_ms(&self, t_ns: u64) -> u32 {
        let ms = t_ns.saturating_sub(self.t_sign_ns) / 1_000_000;
        u32::try_from(ms).unwrap_or(u32::MAX)
    }

    fn sign(&mut self, t_ns: u64) {
        let t_ns = t_ns.min(self.now_ns);
        if t_ns > self.t_sign_ns {
            self.t_sign_ns = t_ns;
            self.is_alone = false;
        }
    }

    fn around<'a>(&self, with: &'a Thresholds) -> Around<'a> {
        Around {
            with,
            t_begin_ns: self.t_begin_ns,
            t_unknown_ns: if self.tier == Tier::Kernel && self.first_us > 0 {
                self.t_begin_ns + u64::from(self.first_us) * 1000
            } else {
                0
            },
            t_poll_ns: self.t_poll_ns,
            segment_us: self.orders[0].duration_us.max(self.orders[1].duration_us),
            is_live: self.is_live,
        }
    }

    /// Puts an event in its place in time; what is older than what is final happens at once.
    fn at(&mut self, t_ns: u64, what: What, with: &Thresholds) {
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

    /// Puts down what the player said with a request. What it says of the sound's buffer is left: it
    /// is known what was delivered of it, and one playhead serves both.
    fn say(&mut self, claim: &Claim, told: &Labelled, thought_ms: Option<u32>, with: &Thresholds) {
        if told.object.media == Media::Audio {
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
    fn commit_first(&mut self, with: &Thresholds) {
        let Some((after_us, what)) = self.timeline.shift() else {
            return;
        };
        let around = self.around(with);
        let t_ns = self.play.t_ns.saturating_add(u64::from(after_us) * 1000);
        self.play.drain(t_ns, &around);
        if let What::Begin { slot } = what {
            let ahead_ms = self.play.ahead_of_us(Media::Video) / 1000;
            self.flight.at(slot).set_ahead_ms(ahead_ms);
        }
        if let Some(t_began_ns) = self.play.apply(what, &around) {
            self.told.retract(t_began_ns);
        }
    }

    /// Makes final what is old enough, unless the player's own word on it is still to come: it comes
    /// with the label of a request that is under way, and tells of the time of that request.
    fn commit(&mut self, now_ns: u64, with: &Thresholds) {
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
    fn may_be_trial(&self, after_us: u32, now_ns: u64) -> bool {
        let t_ns = self.play.t_ns.saturating_add(u64::from(after_us) * 1000);
        self.tier > Tier::Kernel
            && now_ns < t_ns.saturating_add(TRIAL_NS)
            && self.timeline.appends() == 1
            && self.flight.open().next().is_some()
    }

    /// The state at `now_ns`, by all that is known.
    fn at_now(&self, now_ns: u64, with: &Thresholds) -> Playback {
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
    fn open(&mut self, id: RequestId, t_request_ns: u64, with: &Thresholds) -> Option<u8> {
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
                self.at(t_request_ns, What::Begin { slot: place }, with);
                Some(place)
            }
        }
    }

    /// What a session asked for before its present request is over, though nobody said so.
    fn supersede(&mut self, told: &UnderWay, with: &Thresholds) {
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

    /// Puts down what a finished delivery did to the buffer.
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, which has them at hand"
    )]
    fn fill(
        &mut self,
        step: Step,
        slot: u8,
        media: Media,
        told: &Finished,
        t_there_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        let duration_us = match step {
            Step::Nothing => {
                let t_ns = told.t_last_acked_ns.max(told.t_request_ns);
                let t_ns = if told.end == End::Complete {
                    t_ns
                } else {
                    told.t_ns.max(t_ns)
                };
                return self.at(t_ns, What::Void { slot }, with);
            }
            Step::Again { duration_us } => {
                let is_undone = if self.play.has_started() {
                    self.timeline.appends() == 0 && self.play.undo_start()
                } else {
                    self.timeline.void_latest(media)
                };
                if !is_undone {
                    return self.at(t_there_ns, What::Void { slot }, with);
                }
                duration_us
            }
            Step::Append { duration_us } => duration_us,
            Step::Replace {
                drop_us,
                duration_us,
            } => {
                let dropped = What::Drop {
                    media,
                    duration_us: drop_us,
                };
                self.at(t_there_ns, dropped, with);
                duration_us
            }
            Step::Jump { duration_us } => {
                self.jump(told.t_request_ns, with, out);
                duration_us
            }
        };
        let append = What::Append {
            slot,
            media,
            duration_us,
        };
        self.at(t_there_ns, append, with);
        let is_steady = self.play.usual_us > 0;
        let t_ms = self.ms(t_there_ns);
        if media != Media::Audio && self.pace.fetched(t_ms, duration_us, is_steady) {
            self.told.is_shared = true;
            out.push(Change::Shared { t_ns: t_there_ns });
        }
    }

    /// What is left of a delivery after its last report says how fast the path is now.
    fn note_rate(&mut self, place: u8, told: &Finished) {
        let slot = self.flight.get(place);
        let more = told.acked_bytes.saturating_sub(slot.acked_bytes.into());
        let seen_ns = self.t_begin_ns + u64::from(slot.t_seen_ms) * 1_000_000;
        let from_ns = seen_ns.max(told.t_first_write_ns);
        let took_ns = told.t_last_acked_ns.saturating_sub(from_ns);
        self.rate.saw(more, took_ns, more == 0);
    }

    /// The player went elsewhere, or began anew.
    fn jump(&mut self, t_ns: u64, with: &Thresholds, out: &mut Vec<Change>) {
        if !self.at_now(self.now_ns, with).has_started() {
            return;
        }
        self.pace.jumped();
        if self.is_reloaded {
            self.restart(t_ns, with, out);
        } else {
            self.seeks = self.seeks.saturating_add(1);
            self.at(t_ns, What::Seek, with);
        }
    }

    /// What an answer is whose label was lost: about as large as the segment before it, so the next.
    fn unlabelled(&self, told: &Finished) -> Option<Object> {
        let like_usual = told.acked_bytes.saturating_mul(4) >= self.usual_bytes.into();
        let is_split = self.orders[1].duration_us > 0;
        let media = if is_split { Media::Video } else { Media::Muxed };
        (self.usual_bytes > 0 && like_usual).then(|| self.orders[0].next(media))
    }

    fn note_rendition(&mut self, object: &Object, acked_bytes: u64, is_other: bool) {
        if object.media == Media::Audio {
            return;
        }
        if matches!(object.class, Class::Segment | Class::Part) {
            self.usual_bytes = clip(acked_bytes);
        }
        let was_kbps = self.bitrate_kbps;
        let kbps = match (object.bitrate_bps, object.duration_us) {
            (0, 0) => was_kbps,
            (0, us) => clip(acked_bytes.saturating_mul(8000) / u64::from(us)),
            (bps, _) => clip(bps / 1000),
        };
        self.bitrate_kbps = kbps;
        if is_other && was_kbps != 0 {
            let switches = if kbps < was_kbps {
                &mut self.switches_down
            } else {
                &mut self.switches_up
            };
            *switches = switches.saturating_add(1);
        }
    }

    /// What a delivery during start-up says of a start that fails.
    fn note_signs(&mut self, told: &Finished) {
        if self.play.has_started() {
            return;
        }
        self.signs.add(startup::signs_of_status(told.status));
        let think_ns = match told.t_first_write_ns {
            0 => told.t_ns,
            t_ns => t_ns,
        }
        .saturating_sub(told.t_request_ns);
        if think_ns > startup::THINK_NS {
            self.signs.add(Signs::ORIGIN_SLOW);
        }
        let is_cut = told.end != End::Complete;
        if told.had_timeouts || is_cut && told.t_first_write_ns != 0 && told.acked_bytes == 0 {
            self.signs.add(Signs::PATH_DEAD);
        }
        if told.end == End::ClientAbort {
            self.signs.add(Signs::CLIENT_ABORT);
        }
    }

    /// The client cut a delivery off; if its buffer was dry, that may be why.
    fn note_abort(&mut self, t_ns: u64, with: &Thresholds) {
        let then = self.at_now(t_ns, with);
        if then.has_started() && then.left_us(1, with.dry_us) == 0 && then.recent_us() > 0 {
            self.t_stress_ns = t_ns;
        }
    }
}

/// As much of a number as is kept.
fn clip(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

//! One viewer's playback buffer, played virtually from what the server delivered.
//!
//! Pure and lazy: between two events the buffer drains on its own, so that nothing is computed until
//! something is told or [`Viewer::wake_ns`] has come. What is told may be of the past: the latest
//! events are kept in a timeline and played again. Sessions, joining and cells are the fold's.

mod around;
pub mod cadence;
mod course;
mod filling;
mod flight;
pub mod input;
mod order;
pub mod output;
mod pace;
mod playback;
mod telling;
pub mod thresholds;
mod timeline;
mod viewing;

#[cfg(test)]
mod tests;

pub use input::{
    Claim, Class, End, Finished, Labelled, Media, Object, Range, RequestId, SessionOver, Tier,
    UnderWay,
};
pub use output::{Bounded, Cause, Change, Ending, Phase, Sums, View};
pub use thresholds::Thresholds;

use super::risk::Rate;
use super::startup::{self, Signs};
use flight::{Flight, Stage};
use order::{Order, Step};
use pace::Pace;
use playback::Playback;
use telling::Told;
use timeline::{Timeline, What};

/// What is older is final: records and labels come sooner.
const FINAL_NS: u64 = 2_500_000_000;
/// So long after the first segment arrived it is taken for one that is played, although none has
/// followed.
const TRIAL_NS: u64 = 4_000_000_000;
/// No time is later: what a recording of unknown origin says may be anything.
const LAST_NS: u64 = u64::MAX / 4;
/// A request under way of which nothing was heard so long is not under way any more.
const STALE_MS: u32 = 30_000;
/// An answer that is as large is taken for media where nothing says what it is: a second of a picture at
/// 400 kbit/s.
const MEDIA_BYTES: u64 = 50_000;
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
    /// First request ever.
    t_first_ns: u64,
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
    /// The client closed a session; 0: it did not.
    t_left_ns: u64,
    /// Of earlier attempts.
    startups_us: u64,
    rate: Rate,
    pace: Pace,
    /// Size of the latest object of the picture.
    usual_bytes: u32,
    bitrate_kbps: u32,
    /// The attempt's begin to the end of the first answer; 0: there was none.
    first_us: u32,
    /// The same of the first that is as large as media.
    first_media_us: u32,
    came_late: u32,
    seeks: u16,
    switches_up: u16,
    switches_down: u16,
    signs: Signs,
    /// Playlists and manifests fetched before the first segment, at most 255.
    manifests: u8,
    tier: Tier,
    is_live: bool,
    /// The manifest of a recording was fetched after playback had begun.
    is_reloaded: bool,
    /// No session is open any more.
    is_alone: bool,
}

// What a viewer costs. The buffer itself is a quarter of it; the rest is what lets records and labels
// come late: the events that are not final, and the requests in flight.
const _: () = assert!(size_of::<Playback>() <= 192 && size_of::<Viewer>() <= 752);

impl Viewer {
    /// A viewer whose first request, of whatever class, came at `t_request_ns`.
    pub fn new(t_request_ns: u64) -> Self {
        let t_request_ns = t_request_ns.min(LAST_NS);
        Self {
            play: Playback::new(t_request_ns),
            timeline: Timeline::new(),
            flight: Flight::new(),
            orders: [Order::default(); 2],
            told: Told::default(),
            t_first_ns: t_request_ns,
            t_begin_ns: t_request_ns,
            t_sign_ns: t_request_ns,
            t_poll_ns: 0,
            wake_ns: t_request_ns.saturating_add(startup::GAP_NS),
            now_ns: t_request_ns,
            t_stress_ns: 0,
            t_left_ns: 0,
            startups_us: 0,
            rate: Rate::default(),
            pace: Pace::default(),
            usual_bytes: 0,
            bitrate_kbps: 0,
            first_us: 0,
            first_media_us: 0,
            came_late: 0,
            seeks: 0,
            switches_up: 0,
            switches_down: 0,
            signs: Signs::default(),
            manifests: 0,
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
        let Some(now_ns) = self.begin_at(now_ns) else {
            return;
        };
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
        let Some(now_ns) = self.begin_at(now_ns) else {
            return;
        };
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
            if told.status < 400 && self.orders.iter().all(Order::is_empty) {
                self.manifests = self.manifests.saturating_add(1);
            }
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
                // A playlist's request was never one for media; that of what was not found was.
                if told.status >= 400 {
                    self.at(now_ns, What::Void { slot: place }, with);
                } else if !self.timeline.forget_begin(place) {
                    self.at(told.t_request_ns, What::Void { slot: place }, with);
                }
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
            if let (Class::Segment, Some(number)) = (class, told.object.number) {
                slot.is_for(number);
            }
            slot.is_written |= told.is_written;
            if told.expected_bytes > 0 {
                slot.whole_bytes = clip(told.expected_bytes);
            }
            if let Some(claim) = &told.claim
                && !slot.is_claimed
            {
                slot.is_claimed = true;
                slot.has_ahead = claim.ahead_ms.is_some_and(|ms| ms > 0);
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
        let Some(now_ns) = self.begin_at(now_ns) else {
            return;
        };
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
        if told.end == End::Complete && told.status < 400 {
            let took_us = clip(t_end_ns.saturating_sub(self.t_begin_ns) / 1000).max(1);
            if self.first_us == 0 {
                self.first_us = took_us;
            }
            if self.first_media_us == 0 && told.acked_bytes >= MEDIA_BYTES {
                self.first_media_us = took_us;
            }
        }
        let object = told.object.or_else(|| self.unlabelled(told));
        let step = match &object {
            Some(object) if told.end == End::Complete && told.status < 400 => {
                self.is_live |= object.is_live;
                let mut order = self.orders[order::kind(object.media)];
                let was = order.rung();
                let asked_ms = self.ms(told.t_request_ns);
                let step = order.judge(
                    object,
                    told.acked_bytes,
                    asked_ms,
                    |number| self.flight.is_under_way(object.media, number),
                    || self.at_now(self.now_ns, with).ahead_of_us(object.media),
                );
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
        if self.orders.iter().any(Order::is_torn) && !self.told.is_shared {
            self.told.is_shared = true;
            out.push(Change::Shared { t_ns: t_there_ns });
        }
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
        let Some(now_ns) = self.begin_at(now_ns) else {
            return;
        };
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
        if told.by_client {
            self.t_left_ns = self.t_left_ns.max(told.t_ns.min(now_ns));
        }
        if told.by_client && was_open {
            self.signs.add(Signs::CLIENT_ABORT);
        }
        self.is_alone |= told.is_last;
        self.look(now_ns, with, out);
    }

    /// Lets time pass.
    pub fn advance(&mut self, now_ns: u64, with: &Thresholds, out: &mut Vec<Change>) {
        if let Some(now_ns) = self.begin_at(now_ns) {
            self.look(now_ns, with, out);
        }
    }

    /// When to call [`Self::advance`] next; `u64::MAX`: not before something is told.
    pub fn wake_ns(&self) -> u64 {
        self.wake_ns
    }

    /// Notes what time it is, and returns it. None if there is nothing more to say: the viewing is
    /// over, or is no single one's.
    fn begin_at(&mut self, now_ns: u64) -> Option<u64> {
        self.now_ns = self.now_ns.max(now_ns.min(LAST_NS));
        (!self.told.is_ended && !self.told.is_shared).then_some(self.now_ns)
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
}

/// As much of a number as is kept.
fn clip(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

//! What a delivery that is over did to the buffer, and what it says of path, rendition and start.

use super::super::startup::{self, Signs};
use super::input::{Class, End, Finished, Media, Object};
use super::order::Step;
use super::output::Change;
use super::thresholds::{POINT, Thresholds};
use super::timeline::What;
use super::{DEAD_MS, Viewer, clip};

impl Viewer {
    /// Puts down what a finished delivery did to the buffer.
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, which has them at hand"
    )]
    pub(super) fn fill(
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
                let is_undone = if self.is_played(slot, media) {
                    false
                } else if self.play.has_started() {
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

    /// Whether the segment before one that is fetched again, now in `slot`, is played and no trial:
    /// the player has media, or goes on with the sound.
    fn is_played(&self, slot: u8, media: Media) -> bool {
        let sounds = self.timeline.appends_of(Media::Audio) + self.play.sounds();
        self.flight.get(slot).has_ahead || media == Media::Video && sounds > 1
    }

    /// What is left of a delivery after its last report says how fast the path is now.
    pub(super) fn note_rate(&mut self, place: u8, told: &Finished) {
        let slot = self.flight.get(place);
        let more = told.acked_bytes.saturating_sub(slot.acked_bytes.into());
        let seen_ns = self.t_begin_ns + u64::from(slot.t_seen_ms) * 1_000_000;
        let from_ns = seen_ns.max(told.t_first_write_ns);
        let took_ns = told.t_last_acked_ns.saturating_sub(from_ns);
        self.rate.saw(more, took_ns, more == 0);
    }

    /// The player went elsewhere, or began anew.
    pub(super) fn jump(&mut self, t_ns: u64, with: &Thresholds, out: &mut Vec<Change>) {
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
    pub(super) fn unlabelled(&self, told: &Finished) -> Option<Object> {
        let like_usual = told.acked_bytes.saturating_mul(4) >= self.usual_bytes.into();
        let is_split = self.orders[1].duration_us > 0;
        let media = if is_split { Media::Video } else { Media::Muxed };
        (self.usual_bytes > 0 && like_usual).then(|| self.orders[0].next(media))
    }

    pub(super) fn note_rendition(&mut self, object: &Object, acked_bytes: u64, is_other: bool) {
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
    pub(super) fn note_signs(&mut self, told: &Finished) {
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
        let unheard_ns = match (told.t_first_write_ns, told.acked_bytes) {
            (0, _) | (_, 1..) => 0,
            (t_ns, 0) => told.t_ns.saturating_sub(t_ns),
        };
        // Who leaves before a first acknowledgement can have come says nothing of the path.
        let is_dead = is_cut && unheard_ns > u64::from(DEAD_MS) * 1_000_000;
        if told.had_timeouts || is_dead {
            self.signs.add(Signs::PATH_DEAD);
        }
        if told.end == End::ClientAbort {
            self.signs.add(Signs::CLIENT_ABORT);
        }
    }

    /// The client cut a delivery off; if its buffer was dry, or would have been, that may be why.
    pub(super) fn note_abort(&mut self, t_ns: u64, with: &Thresholds) {
        let then = self.at_now(t_ns, with);
        let is_dry = then.left_us(POINT, with.dry_us) == 0 && then.recent_us() > 0;
        if then.has_started() && (is_dry || self.told.is_at_risk) {
            self.t_stress_ns = t_ns;
        }
    }
}

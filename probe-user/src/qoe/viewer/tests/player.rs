//! A player with a buffer, thresholds and a choice of renditions of its own: the truth that the
//! model is held to.

use fastrand::Rng;

use super::super::*;
use super::link::Link;
use super::network::{Input, Measuring, Said, Transfer, ns};

/// The player's and the network's step.
const STEP_MS: u32 = 10;
const LADDER_BPS: [u64; 3] = [400_000, 1_200_000, 3_000_000];
const AUDIO_BPS: u64 = 96_000;

/// How a player behaves.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub(super) struct Habits {
    pub segment_ms: u32,
    pub start_ms: u32,
    pub resume_ms: u32,
    /// From enough media to the first frame, give or take a half.
    pub begin_ms: u32,
    pub goal_ms: u32,
    pub is_live: bool,
    pub is_split: bool,
    pub has_claims: bool,
    pub has_labels: bool,
    pub duration_ms: u32,
    pub measuring: Measuring,
}

/// What truly happened. Times in nanoseconds of the model's clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    pub stalls: Vec<(u64, u64)>,
    pub startup_ns: u64,
    pub played_ns: u64,
    pub end_ns: u64,
}

/// One kind of media, fetched over a session of its own.
#[derive(Debug)]
struct Stream {
    media: Media,
    session: u32,
    segment: u32,
    fetched_ms: u32,
    under_way: Option<Transfer>,
    /// Arrived, and in the buffer from then on.
    arriving_ms: Option<u32>,
    /// Over and not yet told, and when it will be if nothing is asked before.
    untold: Option<(u32, Finished)>,
    rate_bps: u64,
}

impl Stream {
    fn new(media: Media, session: u32) -> Self {
        Self {
            media,
            session,
            segment: 0,
            fetched_ms: 0,
            under_way: None,
            arriving_ms: None,
            untold: None,
            rate_bps: 0,
        }
    }

    /// Its share of the network's step, and what is said of it.
    fn step(
        &mut self,
        t_ms: u32,
        habits: &Habits,
        link: &Link,
        share_bps: u64,
        rng: &mut Rng,
        said: &mut Said,
    ) {
        if let Some(transfer) = &mut self.under_way {
            let was_there = transfer.t_arrived_ms.is_some();
            transfer.step(t_ms, STEP_MS, link, share_bps);
            transfer.report(t_ms, STEP_MS, link, &habits.measuring, rng, said);
            if transfer.t_arrived_ms.is_some() && !was_there {
                let took_ms = u64::from(t_ms + link.rtt_ms / 2 - transfer.t_request_ms).max(1);
                let rate_bps = transfer.bytes * 8000 / took_ms;
                self.rate_bps = match self.rate_bps {
                    0 => rate_bps,
                    was => (6 * was + 4 * rate_bps) / 10,
                };
                // What it takes to put it into the buffer.
                self.arriving_ms = Some(t_ms + rng.u32(0..4) * STEP_MS);
            }
            if let Some(finished) = transfer.finished(t_ms, link, rng) {
                let told_ms = (t_ms + habits.measuring.quiet_gap_ms).next_multiple_of(250);
                self.untold = Some((told_ms, finished));
            }
        }
        if self.arriving_ms.is_some_and(|at_ms| t_ms >= at_ms) {
            self.arriving_ms = None;
            self.fetched_ms += habits.segment_ms;
        }
        if self.untold.is_some() {
            self.under_way = None;
        }
        if let Some((_, finished)) = self.untold.take_if(|(at_ms, _)| t_ms >= *at_ms) {
            said.push((t_ms, Input::Finished(finished)));
        }
    }

    /// Whether it would ask for its next segment.
    fn wants(&self, t_ms: u32, ahead_ms: u32, habits: &Habits) -> bool {
        let edge = t_ms / habits.segment_ms + 3;
        let is_there = !habits.is_live || self.segment < edge;
        self.under_way.is_none()
            && self.arriving_ms.is_none()
            && is_there
            && ahead_ms + habits.segment_ms <= habits.goal_ms
    }

    /// Asks for its next segment; the request reaches the server at `t_request_ms`.
    fn ask(
        &mut self,
        t_request_ms: u32,
        ahead_ms: u32,
        habits: &Habits,
        claim: Option<Claim>,
        rng: &mut Rng,
        said: &mut Said,
    ) {
        let id = RequestId {
            session: self.session,
            number: self.segment,
        };
        // What was just delivered is told by the next request, if that comes first; and that there
        // is a next request is told with it.
        if let Some((_, finished)) = self.untold.take() {
            said.push((t_request_ms, Input::Finished(finished)));
            let next = UnderWay {
                id,
                t_request_ns: ns(t_request_ms),
                is_sole: true,
                ..UnderWay::default()
            };
            said.push((t_request_ms, Input::UnderWay(next)));
        }
        let (rendition, bps) = if self.media == Media::Audio {
            (0, AUDIO_BPS)
        } else {
            pick(self.rate_bps, ahead_ms)
        };
        let object = Object {
            media: self.media,
            duration_us: habits.segment_ms * 1000,
            bitrate_bps: bps,
            rung: rendition + 1,
            number: Some(self.segment.into()),
            is_live: habits.is_live,
            ..Object::default()
        };
        let bytes = bps * u64::from(habits.segment_ms) / 8000 * rng.u64(75..125) / 100;
        self.under_way = Some(Transfer::new(id, object, bytes, claim, t_request_ms, rng));
        self.segment += 1;
    }
}

fn pick(rate_bps: u64, ahead_ms: u32) -> (u32, u64) {
    let usable_bps = rate_bps * if ahead_ms > 4000 { 9 } else { 7 } / 10;
    (0..)
        .zip(LADDER_BPS)
        .take_while(|(_, bps)| *bps == LADDER_BPS[0] || *bps < usable_bps)
        .last()
        .unwrap_or((0, LADDER_BPS[0]))
}

/// The player's screen.
#[derive(Debug, Default)]
struct Screen {
    playhead_ms: u32,
    is_playing: bool,
    has_played: bool,
    begins_ms: Option<u32>,
    t_stall_ms: Option<u32>,
    /// Since it last said so.
    has_starved: bool,
}

impl Screen {
    fn step(
        &mut self,
        t_ms: u32,
        whole_ms: u32,
        habits: &Habits,
        rng: &mut Rng,
        truth: &mut Truth,
    ) {
        let ahead_ms = whole_ms - self.playhead_ms;
        let has = |enough_ms: u32| ahead_ms >= enough_ms.max(STEP_MS);
        if self.is_playing {
            if has(STEP_MS) {
                self.playhead_ms += STEP_MS;
                truth.played_ns += u64::from(STEP_MS) * 1_000_000;
            } else {
                self.is_playing = false;
                self.has_starved = true;
                self.t_stall_ms = Some(t_ms);
            }
        } else if self.has_played {
            if has(habits.resume_ms) {
                self.is_playing = true;
                if let Some(began_ms) = self.t_stall_ms.take() {
                    truth.stalls.push((ns(began_ms), ns(t_ms)));
                }
            }
        } else if let Some(at_ms) = self.begins_ms {
            if t_ms >= at_ms {
                self.is_playing = true;
                self.has_played = true;
                truth.startup_ns = u64::from(t_ms) * 1_000_000;
            }
        } else if has(habits.start_ms) {
            let wobble = rng.u32(50..150);
            self.begins_ms = Some(t_ms + habits.begin_ms * wobble / 100);
        }
    }
}

/// Plays, and returns what was said when, and the truth.
pub(super) fn play(habits: &Habits, link: &Link, rng: &mut Rng) -> (Said, Truth) {
    let mut said = Said::new();
    let mut truth = Truth::default();
    let mut screen = Screen::default();
    let mut streams = if habits.is_split {
        vec![Stream::new(Media::Video, 0), Stream::new(Media::Audio, 1)]
    } else {
        vec![Stream::new(Media::Muxed, 0)]
    };
    let mut t_ms = 0;
    while t_ms < habits.duration_ms {
        t_ms += STEP_MS;
        let is_carried = |s: &&Stream| {
            let transfer = s.under_way.as_ref();
            transfer.is_some_and(|transfer| transfer.is_carried(t_ms, link))
        };
        let carried = streams.iter().filter(is_carried).count() as u64;
        let share_bps = link.rate_bps(t_ms) / carried.max(1);
        for stream in &mut streams {
            stream.step(t_ms, habits, link, share_bps, rng, &mut said);
        }
        let whole_ms = streams.iter().map(|s| s.fetched_ms).min().unwrap_or(0);
        screen.step(t_ms, whole_ms, habits, rng, &mut truth);
        for stream in &mut streams {
            let ahead_ms = stream.fetched_ms - screen.playhead_ms;
            if !stream.wants(t_ms, ahead_ms, habits) {
                continue;
            }
            let is_picture = stream.media != Media::Audio;
            let claim = habits.has_claims.then(|| Claim {
                ahead_ms: Some((ahead_ms + 50) / 100 * 100),
                starved: is_picture && screen.has_starved,
                starting: Some(!screen.is_playing),
                ..Claim::default()
            });
            screen.has_starved &= !is_picture;
            let t_request_ms = t_ms + link.rtt_ms / 2;
            stream.ask(t_request_ms, ahead_ms, habits, claim, rng, &mut said);
        }
    }
    if let Some(began_ms) = screen.t_stall_ms {
        truth.stalls.push((ns(began_ms), ns(t_ms)));
    }
    truth.end_ns = ns(t_ms);
    said.sort_by_key(|(t_ms, _)| *t_ms);
    (said, truth)
}

//! A player with a buffer of its own over a link, and what the server's kernel and log say of it:
//! the truth on one side, the model's inputs, as late as they come, on the other.

use std::collections::VecDeque;

use fastrand::Rng;

use super::super::*;
use super::link::Link;

const MS: u64 = 1_000_000;
/// The player's and the network's step.
const STEP_MS: u32 = 10;
/// What the server's socket holds.
const SNDBUF_BYTES: u64 = 400_000;
const LADDER_BPS: [u64; 3] = [400_000, 1_200_000, 3_000_000];
const AUDIO_BPS: u64 = 96_000;
/// The clock's origin, so that nothing is at 0.
pub(super) const EPOCH_NS: u64 = 1_000_000_000_000;

/// How a player behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    pub segment_ms: u32,
    pub start_ms: u32,
    pub resume_ms: u32,
    pub begin_ms: u32,
    pub goal_ms: u32,
    pub is_live: bool,
    pub is_split: bool,
    pub has_claims: bool,
    pub duration_ms: u32,
    pub quiet_gap_ms: u32,
    pub progress_ms: u32,
}

/// What is said to the model.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    UnderWay(UnderWay),
    Labelled(Labelled),
    Finished(Finished),
}

/// What truly happened. Times in nanoseconds of the model's clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    pub stalls: Vec<(u64, u64)>,
    pub startup_ns: u64,
    pub played_ns: u64,
    pub end_ns: u64,
}

#[derive(Debug)]
struct Transfer {
    number: u32,
    segment: u64,
    rung: usize,
    bytes: u64,
    t_request_ms: u32,
    t_first_write_ms: u32,
    arrived: f64,
    /// Arrived at each step since the request.
    history: Vec<f64>,
    is_written: bool,
    is_arrived_ms: Option<u32>,
    claim: Option<Claim>,
}

/// One kind of media, fetched over a session of its own.
#[derive(Debug)]
struct Stream {
    media: Media,
    session: u32,
    next_segment: u64,
    requests: u32,
    fetched_ms: f64,
    under_way: Option<Transfer>,
    /// Delivered and not yet told, and when it will be if nothing is asked before.
    untold: Option<(u32, Finished)>,
    rate_bps: f64,
}

/// Plays, and returns what was said when (in milliseconds), and the truth.
pub(super) fn play(habits: &Habits, link: &Link, rng: &mut Rng) -> (Vec<(u32, Input)>, Truth) {
    let mut said: Vec<(u32, Input)> = Vec::new();
    let mut truth = Truth::default();
    let mut streams = vec![stream(
        if habits.is_split {
            Media::Video
        } else {
            Media::Muxed
        },
        0,
    )];
    if habits.is_split {
        streams.push(stream(Media::Audio, 1));
    }
    let half_ms = link.rtt_ms / 2;
    let (mut playhead_ms, mut is_playing, mut has_played) = (0.0, false, false);
    let mut begins_ms = None;
    let mut t_stall: Option<u32> = None;
    let mut starved = false;
    let mut later: VecDeque<(u32, Input)> = VecDeque::new();
    let mut t_ms = 0;
    while t_ms < habits.duration_ms {
        t_ms += STEP_MS;
        // The network.
        let active = streams
            .iter()
            .filter(|s| s.under_way.as_ref().is_some_and(|u| u.arrived < bytes(u)))
            .count();
        let share = link.rate_bps(t_ms) as f64 / active.max(1) as f64;
        for stream in &mut streams {
            let Some(transfer) = &mut stream.under_way else {
                continue;
            };
            if t_ms >= transfer.t_first_write_ms + half_ms && transfer.arrived < bytes(transfer) {
                let more = share * f64::from(STEP_MS) / 8000.0;
                transfer.arrived = (transfer.arrived + more).min(bytes(transfer));
            }
            transfer.history.push(transfer.arrived);
            if transfer.arrived >= bytes(transfer) && transfer.is_arrived_ms.is_none() {
                transfer.is_arrived_ms = Some(t_ms);
                stream.fetched_ms += f64::from(habits.segment_ms);
                let took_ms = f64::from(t_ms + half_ms - transfer.t_request_ms).max(1.0);
                let rate = bytes(transfer) * 8000.0 / took_ms;
                stream.rate_bps = if stream.rate_bps == 0.0 {
                    rate
                } else {
                    0.6 * stream.rate_bps + 0.4 * rate
                };
            }
            observe(
                transfer,
                stream.session,
                stream.media,
                habits,
                t_ms,
                half_ms,
                &mut said,
                &mut later,
            );
            // Acknowledged at the server: what it was goes to be told.
            if let Some(arrived_ms) = transfer.is_arrived_ms
                && t_ms >= arrived_ms + half_ms + 10
                && transfer.is_written
            {
                let end = finished(
                    transfer,
                    stream.session,
                    stream.media,
                    habits,
                    arrived_ms + half_ms,
                    link,
                    rng,
                );
                let told_ms = (arrived_ms + half_ms + habits.quiet_gap_ms).next_multiple_of(250);
                stream.untold = Some((told_ms, end));
                stream.under_way = None;
            }
        }
        for stream in &mut streams {
            if let Some((told_ms, end)) = stream.untold
                && t_ms >= told_ms
            {
                said.push((t_ms, Input::Finished(end)));
                stream.untold = None;
            }
        }
        while later.front().is_some_and(|(at_ms, _)| *at_ms <= t_ms) {
            said.extend(later.pop_front());
        }
        // The player.
        let whole_ms = streams
            .iter()
            .map(|s| s.fetched_ms)
            .fold(f64::INFINITY, f64::min);
        let ahead_ms = whole_ms - playhead_ms;
        if is_playing {
            if ahead_ms <= 0.0 {
                is_playing = false;
                starved = true;
                t_stall = Some(t_ms);
            } else {
                playhead_ms += f64::from(STEP_MS);
                truth.played_ns += u64::from(STEP_MS) * MS;
            }
        } else if has_played {
            if ahead_ms >= f64::from(habits.resume_ms) && ahead_ms > 0.0 {
                is_playing = true;
                if let Some(began_ms) = t_stall.take() {
                    truth.stalls.push((ns(began_ms), ns(t_ms)));
                }
            }
        } else if let Some(at_ms) = begins_ms {
            if t_ms >= at_ms {
                is_playing = true;
                has_played = true;
                truth.startup_ns = u64::from(t_ms) * MS;
            }
        } else if ahead_ms >= f64::from(habits.start_ms) && ahead_ms > 0.0 {
            begins_ms = Some(t_ms + habits.begin_ms);
        }
        for stream in &mut streams {
            let edge = u64::from(t_ms / habits.segment_ms) + 3;
            let is_there = !habits.is_live || stream.next_segment < edge;
            let own_ms = stream.fetched_ms - playhead_ms;
            if stream.under_way.is_some()
                || !is_there
                || own_ms + f64::from(habits.segment_ms) > f64::from(habits.goal_ms)
            {
                continue;
            }
            // What was just delivered is told by the next request, if that comes first.
            let t_request_ms = t_ms + half_ms;
            if let Some((_, end)) = stream.untold.take() {
                said.push((t_request_ms.max(t_ms), Input::Finished(end)));
            }
            let rung = match stream.media {
                Media::Audio => 0,
                _ => pick(stream.rate_bps, own_ms),
            };
            let bps = if stream.media == Media::Audio {
                AUDIO_BPS
            } else {
                LADDER_BPS[rung]
            };
            let claim = habits.has_claims.then(|| Claim {
                ahead_ms: Some((own_ms.max(0.0) / 100.0).round() as u32 * 100),
                starved: starved && stream.media != Media::Audio,
                starting: Some(!is_playing),
                ..Claim::default()
            });
            if stream.media != Media::Audio {
                starved = false;
            }
            let think_ms = rng.u32(1..20);
            stream.under_way = Some(Transfer {
                number: stream.requests,
                segment: stream.next_segment,
                rung,
                bytes: bps * u64::from(habits.segment_ms) / 8000 * rng.u64(75..125) / 100,
                t_request_ms,
                t_first_write_ms: t_request_ms + think_ms,
                arrived: 0.0,
                history: Vec::new(),
                is_written: false,
                is_arrived_ms: None,
                claim,
            });
            let id = RequestId {
                session: stream.session,
                number: stream.requests,
            };
            // Only where it ended another delivery is a request heard of at once; else by progress.
            if stream.requests > 0 && rng.bool() {
                later.push_back((
                    t_request_ms + 5,
                    Input::UnderWay(UnderWay {
                        id,
                        t_request_ns: ns(t_request_ms),
                        is_sole: true,
                        ..UnderWay::default()
                    }),
                ));
            }
            stream.requests += 1;
            stream.next_segment += 1;
        }
    }
    if let Some(began_ms) = t_stall {
        truth.stalls.push((ns(began_ms), ns(t_ms)));
    }
    truth.end_ns = ns(t_ms);
    said.extend(later);
    said.sort_by_key(|(t_ms, _)| *t_ms);
    (said, truth)
}

fn stream(media: Media, session: u32) -> Stream {
    Stream {
        media,
        session,
        next_segment: 0,
        requests: 0,
        fetched_ms: 0.0,
        under_way: None,
        untold: None,
        rate_bps: 0.0,
    }
}

pub(super) fn ns(t_ms: u32) -> u64 {
    EPOCH_NS + u64::from(t_ms) * MS
}

fn bytes(transfer: &Transfer) -> f64 {
    transfer.bytes as f64
}

fn pick(rate_bps: f64, ahead_ms: f64) -> usize {
    let usable = rate_bps * if ahead_ms > 4000.0 { 0.9 } else { 0.7 };
    LADDER_BPS
        .iter()
        .rposition(|bps| (*bps as f64) < usable)
        .unwrap_or(0)
}

fn object(transfer: &Transfer, media: Media, habits: &Habits) -> Object {
    Object {
        media,
        duration_us: habits.segment_ms * 1000,
        bitrate_bps: LADDER_BPS[transfer.rung],
        rung: transfer.rung as u32 + 1,
        number: Some(transfer.segment),
        is_live: habits.is_live,
        ..Object::default()
    }
}

/// Progress records by the sweep's clock, and the log's line when the last byte is written.
#[expect(clippy::too_many_arguments, reason = "a simulation's step")]
fn observe(
    transfer: &mut Transfer,
    session: u32,
    media: Media,
    habits: &Habits,
    t_ms: u32,
    half_ms: u32,
    said: &mut Vec<(u32, Input)>,
    later: &mut VecDeque<(u32, Input)>,
) {
    if t_ms < transfer.t_request_ms {
        return;
    }
    let back = (half_ms / STEP_MS) as usize;
    let acked = match transfer.history.len().checked_sub(1 + back) {
        Some(at) => transfer.history[at] as u64,
        None => 0,
    };
    let written = if t_ms < transfer.t_first_write_ms {
        0
    } else {
        transfer.bytes.min(acked + SNDBUF_BYTES)
    };
    let id = RequestId {
        session,
        number: transfer.number,
    };
    let age_ms = t_ms - transfer.t_request_ms;
    if t_ms % 250 == 0 && age_ms >= habits.progress_ms && age_ms % habits.progress_ms < 250 {
        said.push((
            t_ms,
            Input::UnderWay(UnderWay {
                id,
                t_request_ns: ns(transfer.t_request_ms),
                t_ns: ns(t_ms),
                is_sole: true,
                acked_bytes: acked,
                written_bytes: written,
                srtt_us: half_ms * 2000,
                ..UnderWay::default()
            }),
        ));
    }
    if written == transfer.bytes && !transfer.is_written {
        transfer.is_written = true;
        later.push_back((
            t_ms + 20,
            Input::Labelled(Labelled {
                id,
                t_request_ns: ns(transfer.t_request_ms),
                object: object(transfer, media, habits),
                status: 200,
                is_written: true,
                expected_bytes: transfer.bytes,
                claim: transfer.claim,
            }),
        ));
    }
}

fn finished(
    transfer: &Transfer,
    session: u32,
    media: Media,
    habits: &Habits,
    t_acked_ms: u32,
    link: &Link,
    rng: &mut Rng,
) -> Finished {
    Finished {
        id: RequestId {
            session,
            number: transfer.number,
        },
        t_request_ns: ns(transfer.t_request_ms),
        t_first_write_ns: ns(transfer.t_first_write_ms),
        t_last_acked_ns: ns(t_acked_ms),
        t_ns: ns(t_acked_ms),
        acked_bytes: transfer.bytes,
        srtt_us: link.rtt_ms * 1000 * rng.u32(90..130) / 100,
        status: 200,
        object: Some(object(transfer, media, habits)),
        ..Finished::default()
    }
}

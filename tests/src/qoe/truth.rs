//! What really happened to a viewer, by its own player's reports. Pure.

use serde::Serialize;

use super::players::{Event, Fragment, Report};

/// Stalls shorter than this are not judged, neither as found nor as missed: a browser's own
/// hiccups are of that size.
pub const SHORTEST_STALL_MS: u64 = 100;

/// Stalls that are no further apart are one: nobody has seen the picture move between them.
pub const APART_MS: u64 = 300;

/// From when to when, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// From.
    pub begin_ms: u64,
    /// To.
    pub end_ms: u64,
}

impl Span {
    /// How long.
    pub fn lasts_ms(self) -> u64 {
        self.end_ms.saturating_sub(self.begin_ms)
    }
}

/// A moment of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Unix milliseconds.
    pub t_ms: u64,
    /// Media ahead of the playhead.
    pub ahead_s: f64,
    /// Where the playhead is.
    pub position_s: f64,
}

/// An error that the player reported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failing {
    /// Unix milliseconds.
    pub t_ms: u64,
    /// Whether the player gave up.
    pub fatal: bool,
    /// In its words.
    pub words: String,
    /// The status of the answer, if that was it.
    pub code: u16,
}

/// A viewer's own account.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Truth {
    /// When the player was given its URL, Unix milliseconds; 0: it never was.
    pub load_ms: u64,
    /// When the first frame moved, for the first time.
    pub started_ms: Option<u64>,
    /// While the page had thrown its player away and the next had not begun to play: no stalls, but
    /// starts.
    pub restarts: Vec<Span>,
    /// When it was over.
    pub left_ms: u64,
    /// Stalls, of whatever length: from when the player waits, the picture stands still for want of
    /// media, or the player jumps by itself (to be live again, say), until none of it is so.
    pub stalls: Vec<Span>,
    /// How often the player itself said that it waits.
    pub waits: usize,
    /// While the viewer held on.
    pub pauses: Vec<Span>,
    /// While the player went where its viewer wanted.
    pub seeks: Vec<Span>,
    /// While another page stood before the player's.
    pub hidden: Vec<Span>,
    /// Whether the programme came to its end.
    pub ended: bool,
    /// Bit rates that were switched to.
    pub levels_bps: Vec<f64>,
    /// Frames that were to be shown, and were not.
    pub frames: u64,
    /// See `frames`.
    pub dropped_frames: u64,
    /// Whether the browser's own element broke; the player may go on fetching, and nobody watches.
    pub is_broken: bool,
    /// What went wrong.
    pub errors: Vec<Failing>,
    /// The buffer, every 250 ms.
    #[serde(skip)]
    pub buffer: Vec<Sample>,
    /// What was loaded, and when.
    #[serde(skip)]
    pub fragments: Vec<Fragment>,
}

impl Truth {
    /// Puts a session's reports together, in the order they came.
    pub fn of(reports: &[Report]) -> Self {
        let mut truth = Self::default();
        let mut open = Open::default();
        for Report { t, event, .. } in reports {
            truth.take(*t, event, &mut open);
        }
        let left = truth.left_ms;
        open.stall.close(left, &mut truth.stalls);
        truth.stalls.dedup_by(|next, one| {
            let same = next.begin_ms <= one.end_ms + APART_MS;
            if same {
                one.end_ms = next.end_ms;
            }
            same
        });
        open.pause.close(left, &mut truth.pauses);
        open.seek.close(left, &mut truth.seeks);
        open.hidden.close(left, &mut truth.hidden);
        truth
    }

    fn take(&mut self, t: u64, event: &Event, open: &mut Open) {
        if self.left_ms != 0 {
            return;
        }
        match event {
            Event::Load if self.load_ms != 0 => {
                open.stall.close(t, &mut self.stalls);
                open.pause.close(t, &mut self.pauses);
                open.seek.close(t, &mut self.seeks);
                let hidden = std::mem::take(&mut open.hidden);
                *open = Open {
                    hidden,
                    restart: Since(Some(t)),
                    ..Open::default()
                };
            }
            Event::Load => self.load_ms = t,
            Event::Started => {
                self.started_ms = self.started_ms.or(Some(t));
                open.restart.close(t, &mut self.restarts);
            }
            Event::Stall { .. } => {
                self.waits += 1;
                open.waiting = true;
                open.stall.begin(t);
            }
            Event::Frozen => {
                open.frozen = true;
                open.stall.begin(t);
            }
            Event::Resumed => {
                open.waiting = false;
                open.plays_on(t, &mut self.stalls);
            }
            Event::Moving => {
                open.frozen = false;
                open.plays_on(t, &mut self.stalls);
            }
            Event::Seeking { of_viewer, .. } => {
                if *of_viewer {
                    open.seek.begin(t);
                } else {
                    open.jumping = true;
                    open.stall.begin(t);
                }
            }
            Event::Seeked => {
                open.jumping = false;
                open.seek.close(t, &mut self.seeks);
                open.plays_on(t, &mut self.stalls);
            }
            Event::Paused => open.pause.begin(t),
            Event::Unpaused => open.pause.close(t, &mut self.pauses),
            Event::Hidden => open.hidden.begin(t),
            Event::Shown => open.hidden.close(t, &mut self.hidden),
            Event::Buffer {
                ahead,
                position,
                frames,
                dropped,
            } => {
                self.buffer.push(Sample {
                    t_ms: t,
                    ahead_s: *ahead,
                    position_s: *position,
                });
                (self.frames, self.dropped_frames) = (*frames, *dropped);
            }
            Event::Level { bitrate } => self.levels_bps.push(*bitrate),
            Event::Fragment(fragment) => self.fragments.push(fragment.clone()),
            Event::Error {
                fatal,
                kind,
                details,
                code,
            } => {
                self.errors.push(Failing {
                    t_ms: t,
                    fatal: *fatal,
                    words: format!("{kind} {details}"),
                    code: *code,
                });
                // The element is broken: nothing is watched any more, and no server's fault it is.
                if kind == "element" {
                    self.left_ms = t;
                    self.is_broken = true;
                }
            }
            // What comes after the programme's end is no stall.
            Event::Ended => {
                self.ended = true;
                self.left_ms = t;
            }
            Event::Leaving { .. } | Event::Closed => self.left_ms = t,
            Event::Ready { .. } | Event::Manifest => {}
        }
    }

    /// From the URL to the first moving frame; of a player that was begun anew, from then.
    pub fn startup_ms(&self) -> Option<u64> {
        let first = self.started_ms?.saturating_sub(self.load_ms);
        Some(self.restarts.last().map_or(first, |last| last.lasts_ms()))
    }

    /// Wall clock from the URL to the end, without pauses; of a player that was begun anew, from then.
    pub fn watched_ms(&self) -> u64 {
        let begin = self.begin_ms();
        let paused: u64 = self
            .pauses
            .iter()
            .filter(|pause| pause.begin_ms >= begin)
            .map(|pause| pause.lasts_ms())
            .sum();
        self.left_ms.saturating_sub(begin).saturating_sub(paused)
    }

    /// When the playback that was the last began.
    fn begin_ms(&self) -> u64 {
        self.restarts
            .last()
            .map_or(self.load_ms, |last| last.begin_ms)
    }

    /// Stalled time per watched time; `None` if it never started.
    pub fn rebuffer_ratio(&self) -> Option<f64> {
        self.ratio_of(0)
    }

    /// The same without the stalls that are too short to be judged.
    pub fn judged_ratio(&self) -> Option<f64> {
        self.ratio_of(SHORTEST_STALL_MS)
    }

    fn ratio_of(&self, shortest_ms: u64) -> Option<f64> {
        self.started_ms?;
        let begin = self.begin_ms();
        let stalled: u64 = self
            .stalls
            .iter()
            .filter(|stall| stall.begin_ms >= begin)
            .map(|stall| stall.lasts_ms())
            .filter(|lasts_ms| *lasts_ms >= shortest_ms)
            .sum();
        let watched = self.watched_ms();
        (watched > 0).then(|| stalled as f64 / watched as f64)
    }

    /// Whether the page failed rather than the stream: such a session says nothing of weir.
    pub fn is_void(&self) -> bool {
        self.load_ms == 0 || self.left_ms == 0
    }
}

/// A span that may have begun.
#[derive(Debug, Default)]
struct Since(Option<u64>);

impl Since {
    /// What is told later may have begun earlier.
    fn begin(&mut self, t: u64) {
        self.0 = Some(self.0.map_or(t, |known| known.min(t)));
    }

    fn close(&mut self, t: u64, into: &mut Vec<Span>) {
        if let Some(begin_ms) = self.0.take() {
            into.push(Span {
                begin_ms,
                end_ms: t.max(begin_ms),
            });
        }
    }
}

#[derive(Debug, Default)]
struct Open {
    waiting: bool,
    frozen: bool,
    /// The player goes elsewhere by itself.
    jumping: bool,
    stall: Since,
    pause: Since,
    seek: Since,
    hidden: Since,
    restart: Since,
}

impl Open {
    fn plays_on(&mut self, t: u64, into: &mut Vec<Span>) {
        if !self.waiting && !self.frozen && !self.jumping {
            self.stall.close(t, into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(events: Vec<(u64, Event)>) -> Truth {
        let reports: Vec<_> = events
            .into_iter()
            .map(|(t, event)| Report {
                id: "a".into(),
                t,
                event,
            })
            .collect();
        Truth::of(&reports)
    }

    fn buffer(position: f64) -> Event {
        Event::Buffer {
            ahead: 1.0,
            position,
            frames: 1,
            dropped: 0,
        }
    }

    #[test]
    fn a_stall_lasts_until_the_player_plays_again_or_the_viewer_leaves() {
        let truth = truth(vec![
            (1_000, Event::Load),
            (1_400, Event::Started),
            (5_000, Event::Stall { ahead: 0.0 }),
            (7_000, Event::Resumed),
            (9_000, Event::Stall { ahead: 0.0 }),
            (11_000, Event::Leaving { how: "left".into() }),
            (11_050, Event::Closed),
        ]);
        assert_eq!(truth.startup_ms(), Some(400));
        let lasts: Vec<_> = truth.stalls.iter().map(|stall| stall.lasts_ms()).collect();
        assert_eq!(lasts, [2_000, 2_000]);
        assert_eq!(truth.rebuffer_ratio(), Some(0.4));
        assert!(!truth.is_void());
    }

    #[test]
    fn a_stall_begins_with_the_last_picture_though_the_player_waits_later_or_never() {
        let truth = truth(vec![
            (0, Event::Load),
            (500, Event::Started),
            (4_000, Event::Frozen),
            (6_000, Event::Stall { ahead: 0.0 }),
            (7_000, Event::Resumed),
            (7_040, Event::Moving),
            (9_000, Event::Frozen),
            (9_800, Event::Moving),
            (20_000, Event::Closed),
        ]);
        let spans = [(4_000, 7_040), (9_000, 9_800)];
        assert_eq!(
            truth.stalls,
            spans.map(|(begin_ms, end_ms)| Span { begin_ms, end_ms })
        );
        assert_eq!(truth.waits, 1);
    }

    #[test]
    fn a_picture_that_moves_for_a_moment_does_not_make_two_stalls_of_one() {
        let moments = [(4_000, 5_000), (5_040, 7_000), (7_301, 8_000)];
        let mut events = vec![(0, Event::Load), (500, Event::Started)];
        for (begin, end) in moments {
            events.push((begin, Event::Stall { ahead: 0.0 }));
            events.push((end, Event::Resumed));
        }
        events.push((20_000, Event::Closed));
        let spans: Vec<_> = truth(events)
            .stalls
            .iter()
            .map(|stall| (stall.begin_ms, stall.end_ms))
            .collect();
        assert_eq!(spans, [(4_000, 7_000), (7_301, 8_000)]);
    }

    #[test]
    fn a_pause_is_not_watched_and_ends_when_its_viewer_wants_to_go_on() {
        let truth = truth(vec![
            (0, Event::Load),
            (500, Event::Started),
            (4_000, buffer(3.5)),
            (4_100, Event::Paused),
            // The position at the pause is further than the last look's: nothing has moved since.
            (4_250, buffer(3.6)),
            (8_000, buffer(3.6)),
            (8_200, Event::Unpaused),
            // What it does not have it must wait for.
            (8_200, Event::Stall { ahead: 0.0 }),
            (9_000, Event::Resumed),
            (10_000, Event::Ended),
            (10_500, Event::Stall { ahead: 0.0 }),
            (11_000, Event::Closed),
        ]);
        let span = |begin_ms, end_ms| Span { begin_ms, end_ms };
        assert_eq!(truth.pauses, [span(4_100, 8_200)]);
        assert_eq!(truth.watched_ms(), 5_900);
        assert_eq!(truth.stalls, [span(8_200, 9_000)]);
        assert!(truth.ended);
    }

    #[test]
    fn a_player_that_is_begun_anew_starts_again_and_does_not_stall() {
        let truth = truth(vec![
            (1_000, Event::Load),
            (1_500, Event::Started),
            (4_000, Event::Hidden),
            (5_000, Event::Stall { ahead: 0.0 }),
            (6_000, Event::Load),
            (6_700, Event::Started),
            (7_000, Event::Shown),
            (9_000, Event::Closed),
        ]);
        let span = |begin_ms, end_ms| Span { begin_ms, end_ms };
        assert_eq!(truth.restarts, [span(6_000, 6_700)]);
        assert_eq!(truth.stalls, [span(5_000, 6_000)]);
        assert_eq!(truth.hidden, [span(4_000, 7_000)]);
        assert_eq!(
            (truth.started_ms, truth.startup_ms()),
            (Some(1_500), Some(700))
        );
        // Of the last playback, as what is said of it.
        assert_eq!(truth.watched_ms(), 3_000);
        assert_eq!(truth.rebuffer_ratio(), Some(0.0));
    }

    #[test]
    fn a_player_that_jumps_by_itself_lets_its_viewer_wait_and_one_that_is_told_to_does_not() {
        let jump = |of_viewer| Event::Seeking { of_viewer };
        let truth = truth(vec![
            (0, Event::Load),
            (500, Event::Started),
            (4_000, jump(true)),
            (5_000, Event::Seeked),
            (7_000, Event::Stall { ahead: 0.0 }),
            (7_500, jump(false)),
            (8_000, Event::Resumed),
            (9_000, Event::Seeked),
            (20_000, Event::Closed),
        ]);
        let span = |begin_ms, end_ms| Span { begin_ms, end_ms };
        assert_eq!(truth.seeks, [span(4_000, 5_000)]);
        assert_eq!(truth.stalls, [span(7_000, 9_000)]);
    }

    #[test]
    fn what_is_too_short_to_be_judged_is_in_the_ratio_and_not_in_the_judged_one() {
        let truth = truth(vec![
            (1, Event::Load),
            (501, Event::Started),
            (4_000, Event::Stall { ahead: 0.0 }),
            (4_050, Event::Resumed),
            (5_000, Event::Stall { ahead: 0.0 }),
            (6_000, Event::Resumed),
            (10_001, Event::Closed),
        ]);
        assert_eq!(truth.rebuffer_ratio(), Some(0.105));
        assert_eq!(truth.judged_ratio(), Some(0.1));
    }

    #[test]
    fn a_viewer_that_never_saw_a_frame_has_no_ratio() {
        let truth = truth(vec![(0, Event::Load), (700, Event::Closed)]);
        assert_eq!((truth.startup_ms(), truth.rebuffer_ratio()), (None, None));
        assert!(Truth::of(&[]).is_void());
    }
}

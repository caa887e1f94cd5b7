//! A request of which both a tag and a line of the server's log tell: they are one, by the request's
//! number on its session, or else by time. And lines that are missing, by the same numbers.

use std::collections::VecDeque;

use super::super::cell::Cells;
use super::super::viewer::RequestId;
use super::side::{EARLIER_NS, Heard, Side};
use super::{Audience, Key};
use crate::labels::family::Family;
use crate::labels::request::{Class, Media, Object, RequestLabel, Source, Stream, ViewerKey};

/// Tags of one session that wait for their line.
const MOST_TAGS: usize = 16;
/// Requests that share a session end in any order; so many after it one is missing.
const WINDOW: u32 = 64;

/// A tag whose line has not come yet.
#[derive(Clone, Copy, Debug)]
struct Tagged {
    label: RequestLabel,
    /// By what the viewer's model knows its request.
    id: RequestId,
}

/// What a session's labels are numbered.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    tags: VecDeque<Tagged>,
    /// The highest number of a line.
    highest: u32,
    /// Of the numbers up to it, latest first, those that were seen.
    seen: u64,
    /// Who its tags are of is known better from its lines.
    surer: Option<ViewerKey>,
}

impl Numbered {
    /// Takes note of a line's number; returns how many lines before it are missing. `is_first`: the
    /// session's requests were all heard of from its beginning.
    fn line(&mut self, number: u32, is_whole: bool, is_shared: bool) -> u32 {
        if number == 0 {
            return 0;
        }
        if self.highest == 0 && !is_whole {
            (self.highest, self.seen) = (number, u64::MAX);
            return 0;
        }
        if self.highest == 0 {
            // Nothing comes before the first.
            self.seen = u64::MAX;
        }
        if number <= self.highest {
            let back = self.highest - number;
            if back < WINDOW {
                self.seen |= 1 << back;
            }
            return 0;
        }
        let on = number - self.highest;
        self.highest = number;
        if !is_shared {
            self.seen = u64::MAX;
            return on - 1;
        }
        let missing = if on >= WINDOW {
            let never = on - WINDOW;
            let before = self.seen.count_zeros();
            self.seen = 0;
            before + never
        } else {
            let falls_out = !(u64::MAX >> on);
            let missing = (!self.seen & falls_out).count_ones();
            self.seen <<= on;
            missing
        };
        self.seen |= 1;
        missing
    }

    fn has_line(&self, number: u32) -> bool {
        let back = self.highest.checked_sub(number);
        number != 0 && back.is_some_and(|back| back < WINDOW && self.seen & 1 << back != 0)
    }

    fn keep(&mut self, heard: &Heard) {
        if self.tags.len() >= MOST_TAGS {
            self.tags.pop_front();
        }
        self.tags.push_back(Tagged {
            label: heard.label,
            id: heard.id,
        });
    }

    /// The tag of a line's request. Without a number it is the latest that came while the line's
    /// request was under way.
    fn take(&mut self, line: &Heard) -> Option<Tagged> {
        let number = line.label.request_number;
        let is_same = |tag: &Tagged| match tag.label.request_number {
            0 => {
                let first_ns = line.t_begin_ns.saturating_sub(EARLIER_NS);
                let last_ns = line.t_end_ns.saturating_add(EARLIER_NS);
                !line.label.is_http2 && (first_ns..=last_ns).contains(&tag.label.t_heard_ns)
            }
            of_tag => of_tag == number,
        };
        let at = self.tags.iter().position(is_same)?;
        // Lines of a session that does one thing at a time come in the order of its tags.
        if !line.label.is_http2 {
            self.tags.drain(..at);
            return self.tags.pop_front();
        }
        self.tags.remove(at)
    }

    /// Lines that are missing at the end.
    pub(super) fn missing(&self) -> u32 {
        if self.highest == 0 {
            return 0;
        }
        self.seen.count_zeros()
    }
}

/// How a label goes on.
pub(super) enum Paired {
    /// It is the first of its request.
    Alone,
    /// It is a line that a tag came before; the viewer's model knows its request by this.
    With(RequestId),
    /// Its request has a line already, which said all.
    Known,
}

impl Audience {
    /// Finds what else was said of a label's request, and puts both together.
    pub(super) fn pair(&mut self, cookie: u64, heard: &mut Heard, cells: &mut Cells) -> Paired {
        let Some(side) = self.sides.get_mut(&cookie) else {
            return Paired::Alone;
        };
        let is_whole = side.t_adopted_ns == 0;
        let (viewer, base) = (side.viewer, side.cell);
        let numbered = side.numbered.get_or_insert_default();
        let label = &heard.label;
        match label.source {
            Source::Tag if numbered.has_line(label.request_number) => Paired::Known,
            Source::Tag => {
                if let Some(surer) = numbered.surer {
                    heard.label.viewer = surest(heard.label.viewer, Some(surer));
                }
                Paired::Alone
            }
            Source::AccessLog => {
                let lost = numbered.line(label.request_number, is_whole, label.is_http2);
                let paired = numbered.take(heard);
                if let Some(tag) = &paired {
                    heard.label = merged(label, &tag.label);
                    numbered.surer = heard.label.viewer;
                }
                let cell = self.cell_of(viewer, base);
                cells.get_mut(cell).counters.lines_lost += u64::from(lost);
                match paired {
                    Some(tag) => {
                        self.rename_tagged(&tag.label, heard, cells);
                        Paired::With(tag.id)
                    }
                    None => Paired::Alone,
                }
            }
        }
    }

    /// Keeps a tag until its line comes.
    pub(super) fn keep_tag(&mut self, cookie: u64, heard: &Heard) {
        if heard.label.source == Source::Tag
            && let Some(side) = self.sides.get_mut(&cookie)
        {
            side.numbered.get_or_insert_default().keep(heard);
        }
    }

    /// Where what is said of a session is counted: with its viewer, if that is known.
    pub(super) fn cell_of(&self, viewer: Option<u32>, base: u32) -> u32 {
        viewer
            .and_then(|place| self.viewers.get(place))
            .map_or(base, |entry| entry.cell)
    }

    /// Who a tag took for a viewer has another name by its line: he has that from now on, and is none
    /// beside the one who is known by it.
    fn rename_tagged(&mut self, tag: &RequestLabel, line: &Heard, cells: &mut Cells) {
        let (Some(before), Some(after)) = (tag.viewer, line.label.viewer) else {
            return;
        };
        let (before, after) = (Key::from(before), Key::from(after));
        let Some(place) = self.viewers.find(before).filter(|_| before != after) else {
            return;
        };
        if self.viewers.find(after).is_none() {
            self.viewers.rename(place, after);
        } else if let Some(entry) = self.viewers.get_mut(place)
            && entry.objects == 0
        {
            let cell = entry.cell;
            entry.leave(cells.get_mut(cell));
            self.remove(place);
        }
    }
}

impl Side {
    /// Takes a tag's label out of those that wait; none: its delivery is over already.
    pub(super) fn take_tagged(&mut self, tag: RequestId) -> Option<Heard> {
        let labels = self.labels_mut()?;
        let at = labels
            .iter()
            .position(|heard| heard.label.source == Source::Tag && heard.id == tag)?;
        labels.remove(at)
    }
}

/// The surer of two names of a viewer; of equal ones the first.
fn surest(first: Option<ViewerKey>, second: Option<ViewerKey>) -> Option<ViewerKey> {
    match (first, second) {
        (Some(first), Some(second)) if second.by < first.by => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    }
}

/// A line with what its tag says besides. What the server's own code knows goes before what the URL
/// looks like; the times, the end and what the player declares are the line's.
fn merged(line: &RequestLabel, tag: &RequestLabel) -> RequestLabel {
    let (of_line, of_tag) = (&line.object, &tag.object);
    let or = |tag: u64, line: u64| if tag == 0 { line } else { tag };
    let or_u32 = |tag: u32, line: u32| if tag == 0 { line } else { tag };
    RequestLabel {
        object: Object {
            class: match of_tag.class {
                Class::Unknown => of_line.class,
                class => class,
            },
            media: match of_tag.media {
                Media::Unknown => of_line.media,
                media => media,
            },
            stream: match of_tag.stream {
                Stream::Unknown => of_line.stream,
                stream => stream,
            },
            duration_us: or_u32(of_tag.duration_us, of_line.duration_us),
            bitrate_bps: or(of_tag.bitrate_bps, of_line.bitrate_bps),
            rung: or_u32(of_tag.rung, of_line.rung),
            number: of_tag.number.or(of_line.number),
            content: or(of_tag.content, of_line.content),
        },
        viewer: surest(tag.viewer, line.viewer),
        family: if line.family == Family::default() {
            tag.family
        } else {
            line.family
        },
        ..*line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_numbers_is_lines_that_are_missing() {
        let mut numbered = Numbered::default();
        let lost = |numbers: &mut Numbered, n| numbers.line(n, true, false);
        assert_eq!(lost(&mut numbered, 1), 0);
        assert_eq!(lost(&mut numbered, 2), 0);
        assert_eq!(lost(&mut numbered, 5), 2);
        assert_eq!(lost(&mut numbered, 5), 0);
        assert_eq!(numbered.missing(), 0);
        // The first lines of a session that is known from its beginning.
        assert_eq!(lost(&mut Numbered::default(), 3), 2);
        // Of one that was there before, nobody knows.
        assert_eq!(Numbered::default().line(300, false, false), 0);
        assert_eq!(lost(&mut numbered, u32::MAX), u32::MAX - 6);
    }

    #[test]
    fn requests_that_share_a_session_may_end_in_any_order() {
        let mut numbered = Numbered::default();
        let mut lost = 0;
        for number in [3, 1, 2, 7, 5, 4] {
            lost += numbered.line(number, true, true);
        }
        assert_eq!((lost, numbered.missing()), (0, 1));
        assert!(numbered.has_line(7) && !numbered.has_line(6) && !numbered.has_line(8));
        assert_eq!(numbered.line(6, true, true), 0);
        assert_eq!(numbered.missing(), 0);
        assert_eq!(numbered.line(9, true, true), 0);
        assert_eq!(numbered.missing(), 1);
        // Too long ago to come.
        assert_eq!(numbered.line(200, true, true), 1 + (199 - 9 - 63));
        assert_eq!(numbered.missing(), 63);
    }
}

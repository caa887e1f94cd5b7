//! What an object means for the buffer, by its number: the next, the same again, an earlier one in
//! another rendition, or a jump.

use super::input::{Class, Media, Object};

/// So many numbers may be missing and are taken to have gone unlabelled.
const MISSED: i32 = 1;
/// Numbers that are so far apart from the beginning are times.
const LEAST_STRIDE: u32 = 1000;

/// What says that several viewers take turns, and what says that one goes on.
const TURN: u8 = 2;
const TURNS: u8 = 16;
/// So many are kept for when the one before them comes.
const MOST_BEYOND: u8 = 3;
/// So many of the latest are fetched again in another rendition, though they are played.
const MOST_AGAIN: u32 = 4;

/// What to do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It fills no buffer.
    Nothing,
    /// The same once more: at the start the first was a trial of the path and is not played.
    Again { duration_us: u32 },
    /// It comes after what is there.
    Append { duration_us: u32 },
    /// So much of what is there is thrown away before it is put in its place.
    Replace { drop_us: u32, duration_us: u32 },
    /// The player went elsewhere.
    Jump { duration_us: u32 },
}

/// The latest object of one kind of media.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Order {
    /// Low half of its number, which is enough to see a jump; plus one, 0: none.
    number: u32,
    pub duration_us: u32,
    /// How much of it was credited, if it came in ranges.
    credited_us: u32,
    rung: u32,
    /// How far apart numbers are: 1, or a segment's length where they are times; 0: not known.
    stride: u32,
    /// Low half of the byte after its range, which is enough to see what follows; 0: it was no range.
    next_byte: u32,
    /// When it was asked for, in milliseconds after the attempt's first request.
    asked_ms: u32,
    /// The number that a jump left behind, plus one; 0: there was none.
    aside: u32,
    /// How much says that several viewers take turns here.
    torn: u8,
    /// Segments that came although the one after `number` is under way still: they cannot be played
    /// before that.
    beyond: u8,
}

impl Order {
    /// What `object`, asked for at `asked_ms`, means. `is_under_way`: whether the segment of a number
    /// is; `ahead_us`: how much of this media is ahead of the playhead, asked for only if it matters.
    pub(super) fn judge(
        &mut self,
        object: &Object,
        acked_bytes: u64,
        asked_ms: u32,
        is_under_way: impl Fn(u64) -> bool,
        ahead_us: impl FnOnce() -> u32,
    ) -> Step {
        if !matches!(object.class, Class::Segment | Class::Part) {
            return Step::Nothing;
        }
        let is_part = object.class == Class::Part;
        let duration_us = match object.duration_us {
            0 if is_part => return Step::Nothing,
            0 => self.duration_us,
            known => known,
        };
        if duration_us == 0 {
            return Step::Nothing;
        }
        let was = *self;
        let Some(number) = object.number else {
            if !is_part {
                self.duration_us = duration_us;
            }
            return Step::Append { duration_us };
        };
        let full_number = number;
        // Enough to see a jump.
        let number = low_half(number).wrapping_add(1).max(1);
        let steps = self.steps(was.number, number);
        if steps < 0 && asked_ms < was.asked_ms {
            // Overtaken: after it the player asked for what comes later, so it throws nothing away.
            return Step::Nothing;
        }
        let beyond = i32::from(was.beyond);
        if !is_part && steps == 2 + beyond && self.stride <= 1 {
            let missing = full_number.wrapping_sub(u64::from(was.beyond) + 1);
            if is_under_way(missing) && was.beyond < MOST_BEYOND {
                self.beyond += 1;
                return Step::Nothing;
            }
        }
        if !is_part && object.range.is_none() {
            self.count_turns(&was, number, steps, object.rung);
        }
        self.asked_ms = asked_ms;
        self.number = number;
        self.beyond = 0;
        self.rung = object.rung;
        if !is_part {
            self.duration_us = duration_us;
        }
        let whole = Step::Append { duration_us };
        self.credited_us = duration_us;
        self.next_byte = object.range.map_or(0, |range| {
            let next = match range.last {
                u64::MAX => range.first.saturating_add(acked_bytes),
                last => last.saturating_add(1),
            };
            low_half(next).max(1)
        });
        if let (Some(range), false) = (object.range, is_part)
            && was.next_byte != 0
            && (steps == 0 || object.rung != was.rung)
        {
            return self.range(&was, object, range.first, acked_bytes, duration_us);
        }
        match steps {
            _ if was.number == 0 => self.begin(object, acked_bytes, duration_us),
            0 if is_part => whole,
            // In whatever rendition, it takes its own place.
            0 => Step::Again { duration_us },
            1 if beyond > 0 && object.range.is_none() => {
                // And with it what came before it.
                self.number = number.wrapping_add(beyond.unsigned_abs());
                Step::Append {
                    duration_us: duration_us.saturating_mul(1 + beyond.unsigned_abs()),
                }
            }
            1 => self.begin(object, acked_bytes, duration_us),
            steps if (2..=1 + MISSED + beyond).contains(&steps) && !is_part => Step::Append {
                duration_us: duration_us.saturating_mul(steps.unsigned_abs()),
            },
            steps if steps > 0 => Step::Jump { duration_us },
            steps => {
                let dropped = steps.unsigned_abs().saturating_add(1);
                let drop_us = duration_us.saturating_mul(dropped);
                let ahead_us = ahead_us();
                // A dry player may begin again with what it has played of, in another rendition.
                let is_other = object.rung != was.rung || ahead_us == 0;
                let is_again = is_other && dropped <= MOST_AGAIN;
                if is_again || drop_us <= ahead_us.saturating_add(duration_us) {
                    Step::Replace {
                        drop_us,
                        duration_us,
                    }
                } else {
                    Step::Jump { duration_us }
                }
            }
        }
    }

    /// One viewer goes on with the next segment, or jumps and goes on from there. Where the same comes
    /// twice in the same rendition again and again, or jumps return to where the one before went
    /// away, several take turns.
    fn count_turns(&mut self, was: &Self, number: u32, steps: i32, rung: u32) {
        match steps {
            1 => self.torn = self.torn.saturating_sub(1),
            0 if was.number != 0 && rung == was.rung => self.torn = self.torn.saturating_add(TURN),
            0 => {}
            _ => {
                if was.aside != 0 && (0..=2).contains(&self.steps(was.aside, number)) {
                    self.torn = self.torn.saturating_add(TURN);
                }
                self.aside = was.number;
            }
        }
    }

    /// Several viewers take turns here.
    pub(super) fn is_torn(&self) -> bool {
        self.torn >= TURNS
    }

    /// How many segments lie between two numbers. Numbers count segments, or (DASH's `$Time$`) are
    /// times, whose distance is a segment's length and a little more or less.
    fn steps(&mut self, from: u32, to: u32) -> i32 {
        let distance = to.wrapping_sub(from).cast_signed();
        if from == 0 || distance == 0 {
            return 0;
        }
        match (self.stride, distance.unsigned_abs()) {
            (_, 1) => self.stride = 1,
            (0, stride @ LEAST_STRIDE..) => self.stride = stride,
            _ => {}
        }
        let stride = self.stride.max(1);
        let rounded = (distance.unsigned_abs() + stride / 2) / stride;
        rounded.cast_signed().saturating_mul(distance.signum())
    }

    /// None came yet.
    pub(super) fn is_empty(&self) -> bool {
        self.duration_us == 0
    }

    /// The object that follows, as far as can be said.
    pub(super) fn next(&self, media: Media) -> Object {
        Object {
            media,
            duration_us: self.duration_us,
            rung: self.rung,
            number: (self.number != 0)
                .then(|| u64::from(self.number - 1) + u64::from(self.stride.max(1))),
            ..Object::default()
        }
    }

    fn begin(&mut self, object: &Object, acked_bytes: u64, duration_us: u32) -> Step {
        if object.range.is_some() && object.class == Class::Segment {
            self.more(object, acked_bytes, duration_us, 0)
        } else {
            Step::Append { duration_us }
        }
    }

    /// Another range of a file that may be one segment, or all of a rendition with a range for each
    /// segment: then it is the number of no segment that its name has. In another rendition's file one
    /// goes on with the segment that follows.
    fn range(
        &mut self,
        was: &Self,
        object: &Object,
        first_byte: u64,
        acked_bytes: u64,
        duration_us: u32,
    ) -> Step {
        let from_end = low_half(first_byte).wrapping_sub(was.next_byte);
        match from_end.cast_signed() {
            _ if object.rung != was.rung => self.more(object, acked_bytes, duration_us, 0),
            0 if was.credited_us < was.duration_us => {
                self.more(object, acked_bytes, duration_us, was.credited_us)
            }
            0 => self.more(object, acked_bytes, duration_us, 0),
            // To its begin or beyond: the same once more.
            back if back < 0 && u64::from(back.unsigned_abs()) <= acked_bytes => {
                Step::Again { duration_us }
            }
            _ => Step::Jump { duration_us },
        }
    }

    /// A range of a segment is worth its share of it, and more than half of one is a whole one: bit
    /// rates are averages. Where the rendition's bit rate is not known, each range is worth all.
    fn more(&mut self, object: &Object, acked_bytes: u64, duration_us: u32, had_us: u32) -> Step {
        let left_us = duration_us.saturating_sub(had_us);
        let worth_us = match object.bitrate_bps {
            0 => left_us,
            bps => {
                let us = acked_bytes.saturating_mul(8_000_000) / bps;
                let us = u32::try_from(us).unwrap_or(u32::MAX);
                let is_most = us > duration_us / 2 || us.saturating_add(us / 10) >= left_us;
                if is_most { left_us } else { us }
            }
        };
        self.credited_us = had_us + worth_us;
        if worth_us == 0 {
            Step::Nothing
        } else {
            Step::Append {
                duration_us: worth_us,
            }
        }
    }

    /// Whether it was another rendition, and whether a higher one, by its bit rate.
    pub(super) fn rung(&self) -> u32 {
        self.rung
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low_half(number: u64) -> u32 {
    number as u32
}

/// One for the picture (and what is muxed), one for the sound.
pub(super) fn kind(media: Media) -> usize {
    usize::from(media == Media::Audio)
}

#[cfg(test)]
mod tests {
    use super::super::input::Range;
    use super::*;

    const SECOND_US: u32 = 1_000_000;

    fn segment(number: u64) -> Object {
        Object {
            duration_us: 2 * SECOND_US,
            number: Some(number),
            ..Object::default()
        }
    }

    fn after(number: u64) -> Order {
        let mut order = Order::default();
        order.judge(&segment(number), 1000, 0, |_| false, || 0);
        order
    }

    #[test]
    fn the_next_is_appended_and_one_that_went_unlabelled_with_it() {
        let whole = |segments: u32| Step::Append {
            duration_us: segments * 2 * SECOND_US,
        };
        assert_eq!(
            after(7).judge(&segment(8), 1000, 0, |_| false, || 0),
            whole(1)
        );
        assert_eq!(
            after(7).judge(&segment(9), 1000, 0, |_| false, || 0),
            whole(2)
        );
        let again = Step::Again {
            duration_us: 2 * SECOND_US,
        };
        assert_eq!(after(7).judge(&segment(7), 1000, 0, |_| false, || 0), again);
    }

    #[test]
    fn what_overtakes_a_segment_under_way_waits_for_it() {
        let mut order = after(7);
        let under_way = |number: u64| number == 8;
        for number in [9, 10] {
            let step = order.judge(&segment(number), 1000, 0, under_way, || 0);
            assert_eq!(step, Step::Nothing);
        }
        let whole = |segments: u32| Step::Append {
            duration_us: segments * 2 * SECOND_US,
        };
        let mut given_up = order;
        assert_eq!(order.judge(&segment(8), 1000, 0, |_| false, || 0), whole(3));
        assert_eq!(
            order.judge(&segment(11), 1000, 0, |_| false, || 0),
            whole(1)
        );
        // It went unlabelled after all.
        let step = given_up.judge(&segment(11), 1000, 0, |_| false, || 0);
        assert_eq!(step, whole(4));
    }

    /// After how many segments, the n-th of which has number `number_of(n)`, several are found.
    fn torn_after(number_of: impl Fn(u64) -> u64) -> Option<u64> {
        let mut order = Order::default();
        (0..4000).find(|n| {
            order.judge(&segment(number_of(*n)), 1000, 0, |_| false, || 0);
            order.is_torn()
        })
    }

    #[test]
    fn who_takes_turns_is_several_and_who_searches_or_fetches_again_is_one() {
        // Four at one place of a live stream, and two; at two places of a recording; one close
        // behind the other.
        assert!(torn_after(|n| n / 4).is_some_and(|at| at < 20));
        assert!(torn_after(|n| n / 2).is_some_and(|at| at < 40));
        assert!(torn_after(|n| n / 2 + 90 * (n % 2)).is_some_and(|at| at < 20));
        assert!(torn_after(|n| n / 2 + 3 * (n % 2)).is_some_and(|at| at < 20));
        assert_eq!(torn_after(|n| n), None);
        // It searches, fetches each fourth twice, or the latest four again now and then.
        assert_eq!(torn_after(|n| n * 37 % 1000), None);
        assert_eq!(torn_after(|n| n * 4 / 5), None);
        assert_eq!(torn_after(|n| n - 4 * (n / 20)), None);
    }

    #[test]
    fn far_numbers_are_jumps_and_near_earlier_ones_take_the_place_of_what_is_ahead() {
        let duration_us = 2 * SECOND_US;
        let ahead_us = 3 * duration_us;
        let jump = Step::Jump { duration_us };
        assert_eq!(
            after(7).judge(&segment(10), 1000, 0, |_| false, || ahead_us),
            jump
        );
        assert_eq!(
            after(7).judge(&segment(1), 1000, 0, |_| false, || ahead_us),
            jump
        );
        let back = Step::Replace {
            drop_us: 2 * duration_us,
            duration_us,
        };
        assert_eq!(
            after(7).judge(&segment(6), 1000, 0, |_| false, || ahead_us),
            back
        );
        // A dry player fetches what it has played of once more, or begins with another rendition.
        let again = Step::Replace {
            drop_us: 4 * duration_us,
            duration_us,
        };
        assert_eq!(after(7).judge(&segment(4), 1000, 0, |_| false, || 0), again);
        let other = Object {
            rung: 3,
            ..segment(4)
        };
        assert_eq!(
            after(7).judge(&other, 1000, 0, |_| false, || duration_us),
            again
        );
        assert_eq!(
            after(7).judge(&segment(4), 1000, 0, |_| false, || duration_us),
            jump
        );
    }

    #[test]
    fn a_double_that_was_overtaken_changes_nothing() {
        let mut order = Order::default();
        let whole = Step::Append {
            duration_us: 2 * SECOND_US,
        };
        for (number, asked_ms) in [(7, 0), (8, 2000), (9, 5000)] {
            assert_eq!(
                order.judge(&segment(number), 1000, asked_ms, |_| false, || 0),
                whole
            );
        }
        // Asked for again before the ninth, in another rendition, and so large that it comes after.
        let again = Object {
            rung: 3,
            ..segment(7)
        };
        let step = order.judge(&again, 9000, 4000, |_| false, || 2 * SECOND_US);
        assert_eq!(step, Step::Nothing);
        assert_eq!(
            order.judge(&segment(10), 1000, 7000, |_| false, || 0),
            whole
        );
    }

    #[test]
    fn numbers_may_be_times() {
        let mut order = after(900_000);
        let whole = |segments: u32| Step::Append {
            duration_us: segments * 2 * SECOND_US,
        };
        // At 90 kHz, with lengths that vary a little.
        for number in [1_080_000, 1_259_000, 1_440_100] {
            assert_eq!(
                order.judge(&segment(number), 1000, 0, |_| false, || 0),
                whole(1)
            );
        }
        assert_eq!(
            order.judge(&segment(1_800_000), 1000, 0, |_| false, || 0),
            whole(2)
        );
        let jump = Step::Jump {
            duration_us: 2 * SECOND_US,
        };
        assert_eq!(
            order.judge(&segment(18_000_000), 1000, 0, |_| false, || 0),
            jump
        );
        // Where numbers count, a long way is a long way.
        let mut order = after(1);
        order.judge(&segment(2), 1000, 0, |_| false, || 0);
        assert_eq!(order.judge(&segment(2000), 1000, 0, |_| false, || 0), jump);
        assert_eq!(
            order.judge(&segment(2001), 1000, 0, |_| false, || 0),
            whole(1)
        );
    }

    #[test]
    fn manifests_and_what_has_no_duration_fill_nothing() {
        for class in [Class::Manifest, Class::Init, Class::Other] {
            let object = Object {
                class,
                ..segment(1)
            };
            assert_eq!(
                Order::default().judge(&object, 1000, 0, |_| false, || 0),
                Step::Nothing
            );
        }
        let unknown = Object::default();
        assert_eq!(
            Order::default().judge(&unknown, 1000, 0, |_| false, || 0),
            Step::Nothing
        );
        // But if the one before had one, so has this.
        let whole = Step::Append {
            duration_us: 2 * SECOND_US,
        };
        assert_eq!(after(3).judge(&unknown, 1000, 0, |_| false, || 0), whole);
    }

    fn range_of(file: Object, first: u64) -> Object {
        Object {
            range: Some(Range {
                first,
                last: u64::MAX,
            }),
            ..file
        }
    }

    #[test]
    fn ranges_of_a_segment_are_together_worth_the_segment() {
        let mut order = Order::default();
        let file = Object {
            bitrate_bps: 1_000_000,
            ..segment(1)
        };
        let mut sum_us = 0;
        for n in 0..3 {
            // A third of 2 s at 1 Mbit/s.
            let range = range_of(file, n * 83_333);
            if let Step::Append { duration_us } = order.judge(&range, 83_333, 0, |_| false, || 0) {
                sum_us += duration_us;
            }
        }
        assert_eq!(sum_us, 2 * SECOND_US);
    }

    #[test]
    fn where_a_rendition_is_one_file_each_range_is_a_segment() {
        for bitrate_bps in [0, 1_000_000] {
            let file = Object {
                bitrate_bps,
                rung: 1,
                ..segment(0)
            };
            let mut order = Order::default();
            let whole = Step::Append {
                duration_us: 2 * SECOND_US,
            };
            let mut first = 8000;
            for bytes in [260_000, 190_000, 230_000, 250_000] {
                let step = order.judge(&range_of(file, first), bytes, 0, |_| false, || 0);
                assert_eq!(step, whole, "{bitrate_bps} bps, from {first}");
                first += bytes;
            }
            // The last once more; then the next, in another rendition's file.
            let again = range_of(file, first - 250_000);
            assert_eq!(
                order.judge(&again, 250_000, 0, |_| false, || 0),
                Step::Again {
                    duration_us: 2 * SECOND_US
                }
            );
            let other = Object {
                rung: 2,
                number: Some(2),
                ..range_of(file, 1_900_000)
            };
            assert_eq!(order.judge(&other, 480_000, 0, |_| false, || 0), whole);
            let far = Object {
                rung: 2,
                number: Some(2),
                ..range_of(file, 90_000_000)
            };
            let jump = Step::Jump {
                duration_us: 2 * SECOND_US,
            };
            assert_eq!(order.judge(&far, 480_000, 0, |_| false, || 0), jump);
        }
    }

    #[test]
    fn parts_of_one_segment_are_each_appended() {
        let mut order = Order::default();
        let part = |number| Object {
            class: Class::Part,
            duration_us: SECOND_US / 3,
            ..segment(number)
        };
        let whole = Step::Append {
            duration_us: SECOND_US / 3,
        };
        for number in [4, 4, 4, 5, 5] {
            assert_eq!(order.judge(&part(number), 1000, 0, |_| false, || 0), whole);
        }
    }
}

//! What happened to a viewer lately, in the order in which it happened, not in that of its telling.

use super::input::Media;

/// So much is kept; what is older is final.
pub(super) const KEPT: usize = 12;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A request for media came; `slot` is outstanding from now on.
    Begin { slot: u8 },
    /// It is outstanding no more, and brought nothing.
    Void { slot: u8 },
    /// Media arrived; `slot` is outstanding no more.
    Append {
        slot: u8,
        media: Media,
        duration_us: u32,
    },
    /// So much of what had arrived was thrown away, to be fetched again.
    Drop { media: Media, duration_us: u32 },
    /// The player went to another place of the stream.
    Seek,
    /// What the player said of itself.
    Say(Said),
    /// It waits, and has so much of the sound ahead.
    Waits { sound_ms: u32 },
}

/// A claim about the picture (and what is muxed with it), as the buffer's model takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// None: not said.
    pub ahead_ms: Option<u32>,
    pub starved: bool,
    pub starting: Option<bool>,
    pub rate_percent: Option<u8>,
    /// Its time is final already.
    pub is_late: bool,
}

/// An event in eight bytes: what it is, its slot and its media or the flags of what was said, and a
/// duration or what is ahead.
#[derive(Clone, Copy, Debug)]
struct Packed {
    kind: u8,
    slot: u8,
    flags: u8,
    rate_percent: u8,
    value: u32,
}

const BEGIN: u8 = 0;
const VOID: u8 = 1;
const APPEND: u8 = 2;
const DROP: u8 = 3;
const SEEK: u8 = 4;
const SAY: u8 = 5;
const WAITS: u8 = 6;
const STARVED: u8 = 1;
const STARTING: u8 = 1 << 1;
const PLAYING: u8 = 1 << 2;
const LATE: u8 = 1 << 3;
const AHEAD: u8 = 1 << 4;
const ALL_MEDIA: [Media; 3] = [Media::Muxed, Media::Video, Media::Audio];

impl Packed {
    fn pack(what: What) -> Self {
        let packed = |kind, slot, media: Media, value| Self {
            kind,
            slot,
            flags: media as u8,
            rate_percent: 0,
            value,
        };
        match what {
            What::Begin { slot } => packed(BEGIN, slot, Media::Muxed, 0),
            What::Void { slot } => packed(VOID, slot, Media::Muxed, 0),
            What::Append {
                slot,
                media,
                duration_us,
            } => packed(APPEND, slot, media, duration_us),
            What::Drop { media, duration_us } => packed(DROP, 0, media, duration_us),
            What::Seek => packed(SEEK, 0, Media::Muxed, 0),
            What::Waits { sound_ms } => packed(WAITS, 0, Media::Audio, sound_ms),
            What::Say(said) => {
                let bit = |is: bool, bit: u8| if is { bit } else { 0 };
                Self {
                    kind: SAY,
                    slot: 0,
                    flags: bit(said.starved, STARVED)
                        | bit(said.starting == Some(true), STARTING)
                        | bit(said.starting == Some(false), PLAYING)
                        | bit(said.is_late, LATE)
                        | bit(said.ahead_ms.is_some(), AHEAD),
                    rate_percent: said.rate_percent.unwrap_or(0),
                    value: said.ahead_ms.unwrap_or(0),
                }
            }
        }
    }

    fn unpack(self) -> What {
        let media = || ALL_MEDIA[usize::from(self.flags) % ALL_MEDIA.len()];
        let is = |bit: u8| self.flags & bit != 0;
        let slot = self.slot;
        let duration_us = self.value;
        match self.kind {
            BEGIN => What::Begin { slot },
            VOID => What::Void { slot },
            APPEND => What::Append {
                slot,
                media: media(),
                duration_us,
            },
            DROP => What::Drop {
                media: media(),
                duration_us,
            },
            SEEK => What::Seek,
            WAITS => What::Waits {
                sound_ms: self.value,
            },
            _ => What::Say(Said {
                ahead_ms: is(AHEAD).then_some(self.value),
                starved: is(STARVED),
                starting: (is(STARTING) || is(PLAYING)).then_some(is(STARTING)),
                rate_percent: (self.rate_percent > 0).then_some(self.rate_percent),
                is_late: is(LATE),
            }),
        }
    }
}

/// The latest events, oldest first. Times are microseconds after a base that the owner keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    after_us: [u32; KEPT],
    what: [Packed; KEPT],
    len: u8,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self {
            after_us: [0; KEPT],
            what: [Packed::pack(What::Seek); KEPT],
            len: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        usize::from(self.len) == KEPT
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, What)> + '_ {
        let len = usize::from(self.len);
        self.after_us[..len]
            .iter()
            .copied()
            .zip(self.what[..len].iter().map(|what| what.unpack()))
    }

    pub(super) fn first(&self) -> Option<(u32, What)> {
        self.iter().next()
    }

    /// Puts an event after all that are not later. The timeline is not full.
    pub(super) fn insert(&mut self, after_us: u32, what: What) {
        let len = usize::from(self.len);
        let place = self.after_us[..len].partition_point(|at| *at <= after_us);
        self.after_us.copy_within(place..len, place + 1);
        self.what.copy_within(place..len, place + 1);
        self.after_us[place] = after_us;
        self.what[place] = Packed::pack(what);
        self.len += 1;
    }

    /// How many objects arrived.
    pub(super) fn appends(&self) -> usize {
        let is_append = |(_, what): &(u32, What)| matches!(what, What::Append { .. });
        self.iter().filter(is_append).count()
    }

    /// How many objects of this media arrived.
    pub(super) fn appends_of(&self, of: Media) -> usize {
        let is_append =
            |(_, what): &(u32, What)| matches!(what, What::Append { media, .. } if *media == of);
        self.iter().filter(is_append).count()
    }

    /// The latest that arrived of this media brought nothing after all. Whether there is one.
    pub(super) fn void_latest(&mut self, of: Media) -> bool {
        let len = usize::from(self.len);
        for what in self.what[..len].iter_mut().rev() {
            if let What::Append { slot, media, .. } = what.unpack()
                && media == of
            {
                *what = Packed::pack(What::Void { slot });
                return true;
            }
        }
        false
    }

    /// How many requests of a slot are here: the latest is its present one, those before it were of
    /// others that had the slot.
    pub(super) fn begins_of(&self, of: u8) -> usize {
        let is_it = |(_, what): &(u32, What)| *what == What::Begin { slot: of };
        self.iter().filter(is_it).count()
    }

    /// Takes away the request of `slot`, which was not for media, so that what is asked for every few
    /// moments does not push out what is not final. Whether it was still there.
    pub(super) fn forget_begin(&mut self, slot: u8) -> bool {
        let len = usize::from(self.len);
        let is_it = |what: &Packed| what.unpack() == What::Begin { slot };
        let place = self.what[..len].iter().rposition(is_it);
        self.take_out(place)
    }

    /// Takes away what ended a slot's request later than `after_us`. Whether there was any.
    pub(super) fn forget_void_after(&mut self, slot: u8, after_us: u32) -> bool {
        let is_it = |(at, what): (u32, What)| at > after_us && what == What::Void { slot };
        let place = self.iter().position(is_it);
        self.take_out(place)
    }

    fn take_out(&mut self, place: Option<usize>) -> bool {
        let Some(place) = place else {
            return false;
        };
        let len = usize::from(self.len);
        self.after_us.copy_within(place + 1..len, place);
        self.what.copy_within(place + 1..len, place);
        self.len -= 1;
        true
    }

    /// Takes the oldest away and makes its time the base.
    pub(super) fn shift(&mut self) -> Option<(u32, What)> {
        let first = self.first()?;
        let len = usize::from(self.len);
        self.after_us.copy_within(1..len, 0);
        self.what.copy_within(1..len, 0);
        self.len -= 1;
        for at in &mut self.after_us[..len - 1] {
            *at -= first.0;
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_what_is_unpacked() {
        let said = |starting, ahead_ms, rate_percent| {
            What::Say(Said {
                ahead_ms,
                starved: starting == Some(true),
                starting,
                rate_percent,
                is_late: ahead_ms.is_some(),
            })
        };
        let mut all = vec![
            What::Begin { slot: 3 },
            What::Void { slot: 2 },
            What::Seek,
            said(None, None, None),
            said(Some(true), Some(u32::MAX), Some(200)),
            said(Some(false), Some(0), Some(25)),
        ];
        for media in ALL_MEDIA {
            let duration_us = u32::MAX;
            all.push(What::Drop { media, duration_us });
            all.push(What::Append {
                slot: 1,
                media,
                duration_us,
            });
        }
        for what in all {
            assert_eq!(Packed::pack(what).unpack(), what);
        }
    }

    #[test]
    fn events_stand_in_the_order_of_their_times_and_equals_in_that_of_their_telling() {
        let mut timeline = Timeline::new();
        for (at, slot) in [(5, 0), (3, 1), (5, 2), (4, 3)] {
            timeline.insert(at, What::Begin { slot });
        }
        assert_eq!(timeline.shift(), Some((3, What::Begin { slot: 1 })));
        let rest: Vec<_> = timeline.iter().collect();
        let begin = |slot| What::Begin { slot };
        assert_eq!(rest, [(1, begin(3)), (2, begin(0)), (2, begin(2))]);
    }

    #[test]
    fn a_request_that_is_forgotten_leaves_the_others() {
        let mut timeline = Timeline::new();
        for (at, slot) in [(1, 0), (2, 1), (3, 0)] {
            timeline.insert(at, What::Begin { slot });
        }
        assert_eq!((timeline.begins_of(0), timeline.begins_of(1)), (2, 1));
        assert!(timeline.forget_begin(0) && !timeline.forget_begin(3));
        let rest: Vec<_> = timeline.iter().collect();
        let begin = |slot| What::Begin { slot };
        assert_eq!(rest, [(1, begin(0)), (2, begin(1))]);
    }
}

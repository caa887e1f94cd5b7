//! The requests of a viewer that are being answered, and the latest that were.

use super::input::{Media, RequestId};

/// Requests told apart at once: picture, sound, and two that are not known yet.
pub(super) const SLOTS: usize = 4;

/// Whether a slot's request is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Free,
    Open,
    /// Known not to be for media.
    Ignored,
    /// Over; kept to know it when it is told again.
    Done,
}

/// One request.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Slot {
    pub id: RequestId,
    pub stage: Stage,
    pub media: Media,
    /// A label says that the server has written all of it.
    pub is_written: bool,
    /// All that was written had been acknowledged when last seen, so that it may be complete.
    pub may_be_whole: bool,
    /// A claim of this request was taken in.
    pub is_claimed: bool,
    /// The player said that it had media when it asked.
    pub has_ahead: bool,
    /// Low byte of the segment's number, if `is_segment`.
    number: u8,
    is_segment: bool,
    pub acked_bytes: u32,
    /// Of the answer, as far as is known; 0: not known.
    pub whole_bytes: u32,
    /// When it was last seen incomplete, in milliseconds after the attempt's first request.
    pub t_seen_ms: u32,
    /// What was thought to be ahead when it came, once that is final; [`UNKNOWN_MS`] before.
    ahead_ms: u32,
}

const UNKNOWN_MS: u32 = u32::MAX;

impl Slot {
    /// What was thought to be ahead when it came, once that is final.
    pub(super) fn ahead_ms(&self) -> Option<u32> {
        (self.ahead_ms != UNKNOWN_MS).then_some(self.ahead_ms)
    }

    /// It is for the segment of this number.
    pub(super) fn is_for(&mut self, number: u64) {
        self.number = low_byte(number);
        self.is_segment = true;
    }

    pub(super) fn set_ahead_ms(&mut self, ahead_ms: u32) {
        self.ahead_ms = ahead_ms;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low byte is meant")]
fn low_byte(number: u64) -> u8 {
    number as u8
}

const FREE: Slot = Slot {
    id: RequestId {
        session: 0,
        number: 0,
    },
    stage: Stage::Free,
    media: Media::Muxed,
    is_written: false,
    may_be_whole: false,
    is_claimed: false,
    has_ahead: false,
    number: 0,
    is_segment: false,
    acked_bytes: 0,
    whole_bytes: 0,
    t_seen_ms: 0,
    ahead_ms: UNKNOWN_MS,
};

/// All of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub slots: [Slot; SLOTS],
}

/// Whether a request's slot was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Known(u8),
    New(u8),
}

impl Flight {
    pub(super) const fn new() -> Self {
        Self {
            slots: [FREE; SLOTS],
        }
    }

    pub(super) fn find(&self, id: RequestId) -> Option<u8> {
        let known = |slot: &Slot| slot.stage != Stage::Free && slot.id == id;
        let place = self.slots.iter().position(known)?;
        u8::try_from(place).ok()
    }

    /// The slot of a request; of a new one, a free slot or that which is least worth keeping. An
    /// open one that must give way is the caller's to end first: [`Self::victim`].
    pub(super) fn place(&mut self, id: RequestId, t_ms: u32) -> Place {
        if let Some(place) = self.find(id) {
            return Place::Known(place);
        }
        let place = self.victim();
        self.slots[usize::from(place)] = Slot {
            id,
            stage: Stage::Open,
            t_seen_ms: t_ms,
            ..FREE
        };
        Place::New(place)
    }

    /// Where the next new request goes.
    pub(super) fn victim(&self) -> u8 {
        let worth = |slot: &Slot| match slot.stage {
            Stage::Free => (0, 0),
            Stage::Ignored => (1, slot.t_seen_ms),
            Stage::Done => (2, slot.t_seen_ms),
            Stage::Open => (3, slot.t_seen_ms),
        };
        (0..)
            .zip(&self.slots)
            .min_by_key(|(_, slot)| worth(slot))
            .map_or(0, |(place, _)| place)
    }

    pub(super) fn get(&self, place: u8) -> &Slot {
        &self.slots[usize::from(place)]
    }

    pub(super) fn at(&mut self, place: u8) -> &mut Slot {
        &mut self.slots[usize::from(place)]
    }

    /// Whether the segment of this number is under way, as far as its low byte tells.
    pub(super) fn is_under_way(&self, media: Media, number: u64) -> bool {
        let is_it =
            |slot: &Slot| slot.is_segment && slot.media == media && slot.number == low_byte(number);
        self.open().any(|(_, slot)| is_it(slot))
    }

    /// Those under way.
    pub(super) fn open(&self) -> impl Iterator<Item = (u8, &Slot)> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.stage == Stage::Open)
    }
}

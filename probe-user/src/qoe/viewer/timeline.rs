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

/// The latest events, oldest first. Times are microseconds after a base that the owner keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    after_us: [u32; KEPT],
    what: [What; KEPT],
    len: u8,
}

impl Timeline {
    pub(super) const fn new() -> Self {
        Self {
            after_us: [0; KEPT],
            what: [What::Seek; KEPT],
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
            .zip(self.what[..len].iter().copied())
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
        self.what[place] = what;
        self.len += 1;
    }

    /// How many objects arrived.
    pub(super) fn appends(&self) -> usize {
        let is_append = |(_, what): &(u32, What)| matches!(what, What::Append { .. });
        self.iter().filter(is_append).count()
    }

    /// The latest that arrived of this media brought nothing after all. Whether there is one.
    pub(super) fn void_latest(&mut self, of: Media) -> bool {
        let len = usize::from(self.len);
        for what in self.what[..len].iter_mut().rev() {
            if let What::Append { slot, media, .. } = *what
                && media == of
            {
                *what = What::Void { slot };
                return true;
            }
        }
        false
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
}

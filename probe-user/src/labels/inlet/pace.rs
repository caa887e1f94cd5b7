//! How fast datagrams may come.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// What to do about the next datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Read and understand it.
    Read,
    /// Read it away, so that it can be counted.
    Discard,
    /// Leave it: even counting costs too much.
    Wait(Duration),
}

/// Counts the datagrams of each second.
#[derive(Debug)]
pub(super) struct Pace {
    begin: Instant,
    read: u32,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begin: now,
            read: 0,
        }
    }

    /// Of each second's datagrams, `most` are understood, and as many more are counted.
    pub(super) fn turn(&mut self, now: Instant, most: u32) -> Turn {
        let since = now.saturating_duration_since(self.begin);
        if since >= SECOND {
            self.begin = now;
            self.read = 0;
        }
        if self.read < most {
            Turn::Read
        } else if self.read < most.saturating_mul(2) {
            Turn::Discard
        } else {
            Turn::Wait(SECOND.saturating_sub(since))
        }
    }

    /// One was read.
    pub(super) fn count(&mut self) {
        self.read = self.read.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_so_many_are_read_and_as_many_counted() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let mut turns = Vec::new();
        let now = begin + Duration::from_millis(400);
        for _ in 0..7 {
            let turn = pace.turn(now, 3);
            turns.push(turn);
            if !matches!(turn, Turn::Wait(_)) {
                pace.count();
            }
        }
        let wait = Turn::Wait(Duration::from_millis(600));
        let before = [[Turn::Read; 3], [Turn::Discard; 3]].concat();
        assert_eq!(turns, [before, vec![wait]].concat());
        assert_eq!(pace.turn(begin + SECOND, 3), Turn::Read);
    }
}

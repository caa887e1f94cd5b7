//! Which frames of a boot have come: the newest, and those before it that are still missing.
//!
//! A frame may come after a newer one, e.g. by way of another collector; it is then not lost, and
//! what it tells of its own is counted once.

/// Missing stretches that are remembered; of more, the oldest stay lost.
const MAX_STRETCHES: usize = 64;

/// What a frame is to those that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collect) enum Arrival {
    /// Newer than all.
    Newest,
    /// Older than the newest, and missing until now.
    Missing,
    /// Here before.
    Repeated,
}

/// The frames of one boot.
#[derive(Clone, Debug, Default)]
pub(in crate::collect) struct Gaps {
    newest: u64,
    lost: u64,
    /// First and last of each stretch, oldest first.
    missing: Vec<(u64, u64)>,
    /// Frames before this one were made before this collector heard of the boot.
    first: u64,
}

impl Gaps {
    /// The newest frame's number; 0: none came.
    pub(in crate::collect) fn newest(&self) -> u64 {
        self.newest
    }

    /// Frames that are missing between the first and the newest that came.
    pub(in crate::collect) fn lost(&self) -> u64 {
        self.lost
    }

    /// Takes note of a frame.
    pub(in crate::collect) fn arrive(&mut self, seq: u64) -> Arrival {
        if seq > self.newest {
            if self.newest == 0 {
                self.first = seq;
                self.remember(1, seq - 1);
            } else {
                self.lost += seq - self.newest - 1;
                self.remember(self.newest + 1, seq - 1);
            }
            self.newest = seq;
            return Arrival::Newest;
        }
        let within = |(from, to): &(u64, u64)| (*from..=*to).contains(&seq);
        let Some(place) = self.missing.iter().position(within) else {
            return Arrival::Repeated;
        };
        let (from, to) = self.missing.remove(place);
        let left = [(from, seq - 1), (seq + 1, to)];
        let left = left.into_iter().filter(|(from, to)| from <= to);
        self.missing.splice(place..place, left);
        self.forget();
        if seq > self.first {
            self.lost -= 1;
        }
        Arrival::Missing
    }

    fn remember(&mut self, from: u64, to: u64) {
        if from <= to {
            self.missing.push((from, to));
            self.forget();
        }
    }

    fn forget(&mut self) {
        if self.missing.len() > MAX_STRETCHES {
            self.missing.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn in_whatever_order_frames_come_each_counts_once_and_what_is_missing_is_known() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut gaps = Gaps::default();
            let mut came = BTreeSet::new();
            for _ in 0..100 {
                let newest = gaps.newest();
                let seq = random
                    .u64(newest.saturating_sub(10).max(1)..newest + 4)
                    .max(1);
                let expected = match (seq > newest, came.insert(seq)) {
                    (true, _) => Arrival::Newest,
                    (false, true) => Arrival::Missing,
                    (false, false) => Arrival::Repeated,
                };
                assert_eq!(gaps.arrive(seq), expected, "seed {seed}, frame {seq}");
            }
            // What was there before the first frame that came is nobody's loss.
            let between = gaps.newest() - gaps.first + 1;
            let came = came.range(gaps.first..).count() as u64;
            assert_eq!(gaps.lost(), between - came, "seed {seed}");
        }
    }
}

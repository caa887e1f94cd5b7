//! What the objects of a session that nobody labels are worth: a player that has enough asks for the
//! next segment each time one has been played, so that the distance of its requests is their length.

/// So many distances are remembered.
const KEPT: usize = 8;
/// Fewer than these show no cadence.
const LEAST: usize = 5;
/// Answers that are smaller are taken for playlists and the like.
const LEAST_BYTES: u64 = 20_000;
/// A segment is no shorter and no longer.
const LEAST_US: u32 = 400_000;
const MOST_US: u32 = 15_000_000;
/// A player that waited for less than this share of the distance, in percent, may have been busy
/// catching up, and shows nothing.
const LEAST_WAIT_PERCENT: u64 = 15;

/// The cadence of one session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cadence {
    distances_us: [u32; KEPT],
    seen: u32,
    t_request_ns: u64,
    t_last_acked_ns: u64,
    /// When the first answer was there, and how many since.
    t_first_acked_ns: u64,
    answers: u32,
    is_credited: bool,
}

impl Cadence {
    /// A complete answer of `bytes`, asked for at `t_request_ns` and acknowledged at
    /// `t_last_acked_ns`. Returns what it is worth, if the session has a cadence: then every answer
    /// of a segment's size is a segment, while it is fetched in a hurry too. The first that is worth
    /// anything is worth what all before it have left in the buffer, if they were played from the
    /// first on.
    pub fn saw(&mut self, t_request_ns: u64, t_last_acked_ns: u64, bytes: u64) -> Option<u32> {
        if bytes < LEAST_BYTES {
            return None;
        }
        if self.t_request_ns != 0 {
            let distance_us = t_request_ns.saturating_sub(self.t_request_ns) / 1000;
            let waited_us = t_request_ns.saturating_sub(self.t_last_acked_ns) / 1000;
            let has_waited = waited_us * 100 > distance_us * LEAST_WAIT_PERCENT;
            if let Ok(us) = u32::try_from(distance_us)
                && has_waited
                && (LEAST_US..=MOST_US).contains(&us)
            {
                self.distances_us[self.seen as usize % KEPT] = us;
                self.seen = self.seen.wrapping_add(1).max(1);
            }
        }
        self.t_request_ns = t_request_ns;
        self.t_last_acked_ns = t_last_acked_ns;
        if self.answers == 0 {
            self.t_first_acked_ns = t_last_acked_ns;
        }
        self.answers = self.answers.saturating_add(1);
        let duration_us = self.duration_us()?;
        if self.is_credited {
            return Some(duration_us);
        }
        self.is_credited = true;
        let all_us = duration_us.saturating_mul(self.answers);
        let played_us = t_last_acked_ns.saturating_sub(self.t_first_acked_ns) / 1000;
        let left_us = all_us.saturating_sub(u32::try_from(played_us).unwrap_or(u32::MAX));
        Some(left_us.max(duration_us))
    }

    /// The segments' length: the distances' median, if most are near it.
    pub fn duration_us(&self) -> Option<u32> {
        let n = (self.seen as usize).min(KEPT);
        if n < LEAST {
            return None;
        }
        let mut sorted = self.distances_us;
        let sorted = &mut sorted[..n];
        sorted.sort_unstable();
        let median = sorted[n / 2];
        let near = |us: &&u32| us.abs_diff(median) <= median / 6;
        let is_steady = sorted.iter().filter(near).count() * 3 >= n * 2;
        is_steady.then(|| whole(median))
    }
}

/// Lengths are whole tenths of a second mostly, and a tenth is more than the median is wrong by.
fn whole(us: u32) -> u32 {
    const TENTH_US: u32 = 100_000;
    let tenths = (us + TENTH_US / 2) / TENTH_US;
    let rounded = tenths * TENTH_US;
    if rounded.abs_diff(us) * 50 < us {
        rounded
    } else {
        us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Requests at these times, each answered in 300 ms.
    fn cadence(times_ms: &[u64], bytes: u64) -> Option<u32> {
        let mut cadence = Cadence::default();
        let mut worth = None;
        for t_ms in times_ms {
            cadence.saw((1 + t_ms) * MS, (301 + t_ms) * MS, bytes);
            worth = cadence.duration_us();
        }
        worth
    }

    #[test]
    fn the_first_that_is_worth_anything_is_worth_what_is_in_the_buffer() {
        let mut cadence = Cadence::default();
        let times = [0, 310, 620, 2100, 4100, 6100, 8100, 10_100, 12_100];
        let worth: Vec<_> = times
            .into_iter()
            .filter_map(|t_ms| cadence.saw((1 + t_ms) * MS, (301 + t_ms) * MS, 500_000))
            .collect();
        // Eight segments, of which ten seconds are played; then each its own.
        assert_eq!(worth, [16_000_000 - 10_100_000, 2_000_000]);
    }

    #[test]
    fn a_player_that_has_enough_shows_how_long_its_segments_are() {
        // Filled in a hurry first; then each two seconds, with a clock that is not exact.
        let times = [0, 310, 620, 2100, 4050, 6120, 8100, 10_090, 12_130];
        assert_eq!(cadence(&times, 500_000), Some(2_000_000));
    }

    #[test]
    fn what_has_no_cadence_is_worth_nothing() {
        let hurried: Vec<u64> = (0..20).map(|n| n * 310).collect();
        assert_eq!(cadence(&hurried, 500_000), None);
        let random = [0, 900, 5000, 6000, 14_000, 14_900, 22_000, 24_000];
        assert_eq!(cadence(&random, 500_000), None);
        let polls: Vec<u64> = (0..20).map(|n| n * 2000).collect();
        assert_eq!(cadence(&polls, 900), None);
    }

    #[test]
    fn no_times_are_too_strange() {
        let mut cadence = Cadence::default();
        for (a, b) in [(u64::MAX, 0), (0, u64::MAX), (5, 1), (1, 5)] {
            cadence.saw(a, b, u64::MAX);
        }
        assert_eq!(cadence.duration_us(), None);
    }
}

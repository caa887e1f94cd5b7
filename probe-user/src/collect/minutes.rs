//! The last minutes, second by second: what the whole fleet counted in each, so that any window of
//! them can be told exactly.
//!
//! Pure: time enters as an argument. A second holds what reached this collector in it; the hosts'
//! own clocks have no say. Bounded in seconds and in bytes; when bytes run out, the oldest seconds
//! go first, and a window says how far back it really reaches.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::qoe::{Cell, CellSnapshot};

/// What bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Seconds kept.
    pub keep_s: u32,
    /// Bytes kept, roughly.
    pub max_bytes: u64,
}

#[derive(Debug)]
struct Second {
    unix_s: u64,
    cells: Vec<(u32, CellSnapshot)>,
    bytes: u64,
}

/// The last minutes.
#[derive(Debug)]
pub struct Minutes {
    limits: Limits,
    /// Oldest first.
    seconds: VecDeque<Second>,
    bytes: u64,
    /// Seconds that went before their time.
    dropped: u64,
}

/// A stretch of the last minutes.
#[derive(Debug)]
pub struct Window {
    /// By place in the fleet's sum.
    pub cells: HashMap<u32, Cell>,
    /// Its end: the end of the last second that is over.
    pub until_unix_s: u64,
    /// How long it really is; less than was asked for if that is not kept.
    pub seconds: u32,
}

impl Minutes {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            seconds: VecDeque::new(),
            bytes: 0,
            dropped: 0,
        }
    }

    /// A second is over, and this was counted in it. Seconds come in their order; one that comes
    /// twice (the clock was set back) is added to.
    pub fn close(&mut self, unix_s: u64, cells: Vec<(u32, CellSnapshot)>) {
        let bytes = bytes_of(&cells);
        self.bytes += bytes;
        match self.seconds.back_mut() {
            Some(last) if last.unix_s >= unix_s => {
                last.cells.extend(cells);
                last.bytes += bytes;
            }
            _ => self.seconds.push_back(Second {
                unix_s,
                cells,
                bytes,
            }),
        }
        let oldest_s = unix_s.saturating_sub(self.limits.keep_s.into());
        while let Some(oldest) = self.seconds.front() {
            let is_over = oldest.unix_s <= oldest_s;
            if !is_over && (self.bytes <= self.limits.max_bytes || self.seconds.len() == 1) {
                break;
            }
            self.dropped += u64::from(!is_over);
            self.bytes -= oldest.bytes;
            self.seconds.pop_front();
        }
    }

    /// What was counted in some places belongs to others from now on.
    pub fn replace(&mut self, places: &HashMap<u32, u32>) {
        let cells = self.seconds.iter_mut().flat_map(|second| &mut second.cells);
        for (place, _) in cells {
            *place = places.get(place).copied().unwrap_or(*place);
        }
    }

    /// From now on it may take so many bytes.
    pub fn limit(&mut self, max_bytes: u64) {
        self.limits.max_bytes = max_bytes;
    }

    /// What was counted in the last `seconds` that are over, and that came before `before_unix_s`.
    pub fn window(&self, seconds: u32, before_unix_s: u64) -> Window {
        let over = self.seconds.back().map_or(0, |last| last.unix_s + 1);
        let until_unix_s = over.min(before_unix_s);
        let from = until_unix_s.saturating_sub(seconds.into());
        let mut cells = HashMap::<u32, Cell>::new();
        let within = self.seconds.iter();
        let within = within.filter(|second| (from..until_unix_s).contains(&second.unix_s));
        // A second that is not there is one in which nothing was counted.
        let is_older = |first: &Second| first.unix_s < from;
        let mut oldest = match self.seconds.front() {
            Some(first) if is_older(first) => from,
            _ => until_unix_s,
        };
        for second in within {
            oldest = oldest.min(second.unix_s);
            for (place, cell) in &second.cells {
                cells.entry(*place).or_default().absorb(cell);
            }
        }
        Window {
            cells,
            until_unix_s,
            seconds: u32::try_from(until_unix_s - oldest).unwrap_or(u32::MAX),
        }
    }

    /// Seconds kept, and what they take.
    pub fn held(&self) -> (usize, u64) {
        (self.seconds.len(), self.bytes)
    }

    /// Seconds that went before their time, because of their bytes.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn bytes_of(cells: &[(u32, CellSnapshot)]) -> u64 {
    let one = |(_, cell): &(u32, CellSnapshot)| {
        let histograms = cell.histograms.iter();
        let buckets: usize = histograms.map(|(_, histogram)| histogram.len()).sum();
        let each = size_of::<u32>() + size_of::<u64>();
        size_of::<(u32, CellSnapshot)>() + 64 * cell.histograms.len() + each * buckets
    };
    cells.iter().map(one).sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::BackendKind;
    use crate::qoe::{CellKey, Metric};

    fn counted(deliveries: u64) -> Vec<(u32, CellSnapshot)> {
        let mut cell = Cell::default();
        cell.counters.deliveries = deliveries;
        for n in 0..deliveries {
            cell.record(Metric::SrttUs, n);
        }
        vec![(3, cell.snapshot(CellKey::other(BackendKind::Exact), true))]
    }

    #[test]
    fn a_window_is_the_sum_of_its_seconds_and_says_how_far_it_reaches() {
        let mut minutes = Minutes::new(Limits {
            keep_s: 10,
            max_bytes: 1 << 30,
        });
        assert_eq!(minutes.window(60, u64::MAX).seconds, 0);
        for second in 0..30 {
            minutes.close(1_000 + second, counted(second));
        }
        let window = minutes.window(5, u64::MAX);
        assert_eq!((window.until_unix_s, window.seconds), (1_030, 5));
        let sum = 25 + 26 + 27 + 28 + 29;
        assert_eq!(window.cells[&3].counters.deliveries, sum);
        assert_eq!(window.cells[&3].samples(Metric::SrttUs), sum);
        // Up to a second that all of several collectors have closed.
        let earlier = minutes.window(5, 1_028);
        assert_eq!((earlier.until_unix_s, earlier.seconds), (1_028, 5));
        assert_eq!(
            earlier.cells[&3].counters.deliveries,
            sum - 29 - 28 + 24 + 23
        );
        // More is asked for than is kept.
        assert_eq!(minutes.window(60, u64::MAX).seconds, 10);
        assert_eq!(minutes.dropped(), 0);
    }

    #[test]
    fn it_keeps_to_its_bytes_whatever_comes() {
        let max_bytes = 20_000;
        let mut minutes = Minutes::new(Limits {
            keep_s: 1_000,
            max_bytes,
        });
        for second in 0..500 {
            minutes.close(second, counted(second % 200));
            assert!(minutes.held().1 <= max_bytes.max(bytes_of(&counted(199))));
        }
        assert!(minutes.dropped() > 400);
        assert!(minutes.window(1_000, u64::MAX).seconds < 100);
    }
}

//! What each host has counted in the last minutes, so that it can be said how much it sends, and how
//! it fared before a step and after.
//!
//! Pure. Counts are cumulative over a boot; a host that began anew begins anew here.

use std::collections::{HashMap, VecDeque};

use super::view::View;
use crate::steer::validation::Count;

const SECOND_NS: u64 = 1_000_000_000;
/// Between two samples that are kept.
const EVERY_NS: u64 = 5 * SECOND_NS;
/// Samples of a host: five minutes.
const KEPT: usize = 61;
/// A rate is that of so long, at least of one interval.
const RATE_NS: u64 = 15 * SECOND_NS;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ns: u64,
    acked_bytes: u64,
    deliveries: Count,
}

#[derive(Debug, Default)]
struct Track {
    boot_id: String,
    /// The oldest first; the last is always the newest that is known.
    samples: VecDeque<Sample>,
}

impl Track {
    fn note(&mut self, view: &View, now_ns: u64) {
        let newest = self.samples.back();
        let is_less = newest.is_some_and(|newest| view.acked_bytes < newest.acked_bytes);
        if self.boot_id != view.boot_id || is_less {
            self.boot_id.clone_from(&view.boot_id);
            self.samples.clear();
        }
        let sample = Sample {
            at_ns: now_ns,
            acked_bytes: view.acked_bytes,
            deliveries: view.deliveries,
        };
        let before_newest = self.samples.iter().rev().nth(1).copied();
        match (before_newest, self.samples.back_mut()) {
            // Not yet one to be kept: it gives way to what is newer.
            (Some(kept), Some(newest)) if newest.at_ns < kept.at_ns + EVERY_NS => *newest = sample,
            _ => self.samples.push_back(sample),
        }
        if self.samples.len() > KEPT {
            self.samples.pop_front();
        }
    }

    /// The newest that is not younger, else the oldest.
    fn at(&self, at_ns: u64) -> Option<&Sample> {
        let then = self.samples.iter().rfind(|sample| sample.at_ns <= at_ns);
        then.or_else(|| self.samples.front())
    }
}

/// All hosts.
#[derive(Debug, Default)]
pub struct Ledger {
    hosts: HashMap<String, Track>,
}

impl Ledger {
    /// Takes in how hosts are; those that are not there any more are forgotten.
    pub fn note(&mut self, views: &[View], now_ns: u64) {
        for view in views.iter().filter(|view| view.is_fresh) {
            let track = self.hosts.entry(view.host.clone()).or_default();
            track.note(view, now_ns);
        }
        if self.hosts.len() > views.len() {
            let named: std::collections::HashSet<_> = views.iter().map(|view| &view.host).collect();
            self.hosts.retain(|host, _| named.contains(host));
        }
    }

    /// Bits a second of late; none: it is not known yet.
    pub fn sent_bps(&self, host: &str) -> Option<u64> {
        let track = self.hosts.get(host)?;
        let newest = track.samples.back()?;
        let then = track.at(newest.at_ns.saturating_sub(RATE_NS))?;
        let took_ns = newest.at_ns - then.at_ns;
        if took_ns < SECOND_NS {
            return None;
        }
        let bits = u128::from(newest.acked_bytes - then.acked_bytes) * 8;
        u64::try_from(bits * u128::from(SECOND_NS) / u128::from(took_ns)).ok()
    }

    /// Deliveries of a host between two moments, as far as they are kept.
    pub fn counted(&self, host: &str, from_ns: u64, until_ns: u64) -> Count {
        let Some(track) = self.hosts.get(host) else {
            return Count::default();
        };
        match (track.at(from_ns), track.at(until_ns)) {
            (Some(then), Some(now)) if then.at_ns < now.at_ns => Count {
                n: now.deliveries.n.saturating_sub(then.deliveries.n),
                bad: now.deliveries.bad.saturating_sub(then.deliveries.bad),
            },
            _ => Count::default(),
        }
    }

    /// The same of several hosts together.
    pub fn counted_of<'h>(
        &self,
        hosts: impl IntoIterator<Item = &'h str>,
        from_ns: u64,
        until_ns: u64,
    ) -> Count {
        let each = hosts
            .into_iter()
            .map(|host| self.counted(host, from_ns, until_ns));
        each.fold(Count::default(), |sum, one| Count {
            n: sum.n.saturating_add(one.n),
            bad: sum.bad.saturating_add(one.bad),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::view;
    use super::*;

    #[test]
    fn a_rate_is_of_late_and_counts_are_between_two_moments() {
        let mut ledger = Ledger::default();
        let mut one = view("a");
        for s in 0..100_u64 {
            // A megabyte and ten deliveries a second; from the fiftieth on one of ten is late.
            one.acked_bytes = s * 1_000_000;
            one.deliveries = Count {
                n: s * 10,
                bad: s.saturating_sub(50),
            };
            ledger.note(std::slice::from_ref(&one), s * SECOND_NS);
        }
        assert_eq!(ledger.sent_bps("a"), Some(8_000_000));
        let count = ledger.counted("a", 20 * SECOND_NS, 50 * SECOND_NS);
        assert_eq!((count.n, count.bad), (300, 0));
        let count = ledger.counted_of(["a", "b"], 50 * SECOND_NS, 99 * SECOND_NS);
        assert_eq!((count.n, count.bad), (490, 49));
        assert_eq!(ledger.sent_bps("b"), None);
    }

    #[test]
    fn a_host_that_began_anew_counts_anew_and_one_that_is_gone_is_forgotten() {
        let mut ledger = Ledger::default();
        let mut one = view("a");
        for s in 0..60_u64 {
            if s == 40 {
                one.boot_id = "another".to_owned();
            }
            one.acked_bytes = (s % 40) * 1_000;
            one.deliveries = Count { n: s % 40, bad: 0 };
            ledger.note(std::slice::from_ref(&one), s * SECOND_NS);
        }
        assert_eq!(ledger.sent_bps("a"), Some(8_000));
        assert_eq!(ledger.counted("a", 0, 60 * SECOND_NS).n, 19);
        ledger.note(&[], 61 * SECOND_NS);
        assert!(ledger.hosts.is_empty());
    }

    #[test]
    fn what_is_kept_of_a_host_is_bounded() {
        let mut ledger = Ledger::default();
        let mut one = view("a");
        for tenth in 0..20_000_u64 {
            one.acked_bytes = tenth;
            ledger.note(std::slice::from_ref(&one), tenth * SECOND_NS / 10);
        }
        assert_eq!(ledger.hosts["a"].samples.len(), KEPT);
        let first = ledger.hosts["a"].samples[0].at_ns / SECOND_NS;
        assert!((1690..=1705).contains(&first), "{first}");
    }
}

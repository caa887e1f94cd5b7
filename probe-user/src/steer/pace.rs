//! How fast orders and refusals may come: each is a line of a journal that is bounded, and whoever
//! may ask must not be able to write the past out of it.

use super::policy::rules::SECOND_NS;

/// So many at once, and one more each second.
const MOST: u64 = 60;

/// What is left.
#[derive(Debug)]
pub struct Pace {
    left: u64,
    since_ns: u64,
}

impl Pace {
    pub fn new(now_ns: u64) -> Self {
        Self {
            left: MOST,
            since_ns: now_ns,
        }
    }

    /// Whether one more might come.
    pub fn has_room(&self, now_ns: u64) -> bool {
        self.left > 0 || now_ns.saturating_sub(self.since_ns) >= SECOND_NS
    }

    /// Whether one more may come.
    pub fn pass(&mut self, now_ns: u64) -> bool {
        let seconds = now_ns.saturating_sub(self.since_ns) / SECOND_NS;
        self.left = self.left.saturating_add(seconds).min(MOST);
        self.since_ns += seconds * SECOND_NS;
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_each_second() {
        let mut pace = Pace::new(0);
        let passed = (0..100).filter(|_| pace.pass(5)).count();
        assert_eq!(passed as u64, MOST);
        assert!(pace.pass(SECOND_NS) && !pace.pass(SECOND_NS + 1));
        let passed = (0..100).filter(|_| pace.pass(3600 * SECOND_NS)).count();
        assert_eq!(passed as u64, MOST);
    }
}

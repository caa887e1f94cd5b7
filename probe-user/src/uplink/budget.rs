//! Bytes per second of a lane. Pure: time and bytes enter as arguments.

use std::time::{Duration, Instant};

/// What was not used is kept for so long.
const BURST: Duration = Duration::from_secs(2);

/// A token bucket that may go into debt by what was sent last: one frame may be larger than a
/// second's budget, and is paid for by waiting.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_per_s: f64,
    tokens: f64,
    at: Instant,
}

impl Budget {
    /// Full at first.
    pub(super) fn new(bytes_per_s: u32, now: Instant) -> Self {
        let bytes_per_s = f64::from(bytes_per_s);
        Self {
            bytes_per_s,
            tokens: bytes_per_s * BURST.as_secs_f64(),
            at: now,
        }
    }

    /// Takes account of time and of what was sent since it was last asked.
    pub(super) fn spend(&mut self, bytes: u64, now: Instant) {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.bytes_per_s;
        self.at = now;
        let most = self.bytes_per_s * BURST.as_secs_f64();
        self.tokens = (self.tokens + earned).min(most) - bytes as f64;
    }

    /// How long until something may be sent; none: now.
    pub(super) fn wait(&self) -> Option<Duration> {
        (self.tokens < 0.0).then(|| {
            let seconds = -self.tokens / self.bytes_per_s;
            Duration::from_secs_f64(seconds.min(60.0)) + Duration::from_millis(1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_is_sent_than_allowed_whatever_the_frames() {
        let start = Instant::now();
        let mut budget = Budget::new(1000, start);
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(100) {
            budget.spend(0, now);
            if let Some(wait) = budget.wait() {
                now += wait;
            } else {
                budget.spend(3700, now);
                sent += 3700;
            }
        }
        // 100 s, a burst of two, and the frame that went into debt.
        assert!((100_000..=105_700).contains(&sent), "{sent}");
    }
}

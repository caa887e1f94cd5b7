//! Whether what is under way will be there before the buffer is dry.

/// Time constant of the rate's average where it rises.
const MEMORY_NS: u64 = 1_000_000_000;
/// Time constant where it falls: a path that gives way is what is looked for.
const FALLING_MEMORY_NS: u64 = 250_000_000;
/// A lack that is smaller is within what a round trip and a clock make of it.
const LEAST_LACK_US: u64 = 200_000;
/// A time to go that means never.
pub const NEVER_US: u64 = u64::MAX;

/// How fast acknowledged bytes come, averaged over about a second, less where it falls; time in which the application
/// limits what is sent says nothing and counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    bytes_per_s: u32,
    is_known: bool,
}

impl Rate {
    /// Takes in that `acked_bytes` more were acknowledged in `dt_ns`.
    pub fn saw(&mut self, acked_bytes: u64, dt_ns: u64, is_app_limited: bool) {
        if is_app_limited || dt_ns == 0 {
            return;
        }
        let per_s = u128::from(acked_bytes) * 1_000_000_000 / u128::from(dt_ns);
        let now = u32::try_from(per_s).unwrap_or(u32::MAX);
        if !self.is_known {
            self.bytes_per_s = now;
            self.is_known = true;
            return;
        }
        // The exponential's first term; exact where looks are near each other.
        let (was, now) = (u128::from(self.bytes_per_s), u128::from(now));
        let memory_ns = if now < was {
            FALLING_MEMORY_NS
        } else {
            MEMORY_NS
        };
        let (dt, memory) = (u128::from(dt_ns), u128::from(memory_ns));
        let mean = (was * memory + now * dt) / (memory + dt);
        self.bytes_per_s = u32::try_from(mean).unwrap_or(u32::MAX);
    }

    /// Takes over a rate that was measured otherwise, if nothing better is known.
    pub fn hint(&mut self, bytes_per_s: u64) {
        if !self.is_known && bytes_per_s > 0 {
            self.bytes_per_s = u32::try_from(bytes_per_s).unwrap_or(u32::MAX);
            self.is_known = true;
        }
    }

    /// Whether anything was measured.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// How long `bytes` take at this rate.
    pub fn time_us(&self, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        match self.bytes_per_s {
            0 => NEVER_US,
            rate => bytes.saturating_mul(1_000_000) / u64::from(rate),
        }
    }
}

/// Whether a viewer is at risk whose object needs `needs_us` more, of `left_us` until the buffer is
/// dry. A rate is known to a quarter at best, so that it takes that much more to be at risk, and a
/// fifth less to be safe again: it does not flicker.
pub fn is_at_risk(needs_us: u64, left_us: u64, was: bool) -> bool {
    if was {
        needs_us > left_us - left_us / 5
    } else {
        needs_us > left_us.saturating_add(left_us / 4 + LEAST_LACK_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_the_path_and_not_the_application() {
        let mut rate = Rate::default();
        let quarter_ns = 250_000_000;
        rate.saw(250_000, quarter_ns, false);
        assert_eq!(rate.time_us(1_000_000), 1_000_000);
        rate.saw(0, quarter_ns, true);
        assert_eq!(rate.time_us(1_000_000), 1_000_000);
        for _ in 0..20 {
            rate.saw(25_000, quarter_ns, false);
        }
        let now_us = rate.time_us(100_000);
        assert!((900_000..1_050_000).contains(&now_us), "{now_us}");
    }

    #[test]
    fn nothing_arrives_over_a_dead_path_in_time() {
        let mut rate = Rate::default();
        rate.saw(0, 1, false);
        assert!(is_at_risk(rate.time_us(1), u64::from(u32::MAX), false));
        assert!(!is_at_risk(rate.time_us(0), 0, false));
    }

    #[test]
    fn it_does_not_flicker() {
        let left_us = 1_000_000;
        assert!(is_at_risk(1_500_000, left_us, false));
        for needs_us in [900_000, 1_400_000] {
            assert!(!is_at_risk(needs_us, left_us, false));
            assert!(is_at_risk(needs_us, left_us, true));
        }
        assert!(!is_at_risk(800_000, left_us, true));
    }
}

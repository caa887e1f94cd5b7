//! Whether several viewers stand behind what is taken for one: media is fetched faster than anyone
//! can watch it, or the fetching jumps to and fro, for longer than a player fills its buffer.

/// Fetching is judged over windows of this length.
const WINDOW_MS: u32 = 30_000;
/// Media time fetched per second of wall time, in percent, that one viewer does not sustain.
const TOO_FAST_PERCENT: u64 = 150;
/// Jumps within a window that one viewer does not make.
const TOO_MANY_JUMPS: u8 = 8;
/// Windows in a row that are judged so.
const STRIKES: u8 = 3;

/// One viewer's pace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    window_start_ms: u32,
    fetched_ms: u32,
    jumps: u8,
    strikes: u8,
}

impl Pace {
    /// Takes in that media was fetched. `is_steady`: the player has once had enough, so that it is
    /// not filling its buffer for the first time. Returns whether it is too fast for one viewer.
    pub(super) fn fetched(&mut self, t_ms: u32, media_us: u32, is_steady: bool) -> bool {
        let elapsed_ms = t_ms.saturating_sub(self.window_start_ms);
        if elapsed_ms >= WINDOW_MS {
            let media = u64::from(self.fetched_ms) * 100;
            let is_fast = is_steady && media > u64::from(elapsed_ms) * TOO_FAST_PERCENT;
            let is_torn = self.jumps >= TOO_MANY_JUMPS;
            self.strikes = if is_fast || is_torn {
                self.strikes.saturating_add(1)
            } else {
                0
            };
            self.window_start_ms = t_ms;
            self.fetched_ms = 0;
            self.jumps = 0;
        }
        self.fetched_ms = self.fetched_ms.saturating_add(media_us / 1000);
        self.strikes >= STRIKES
    }

    /// Takes in a jump to another place of the stream.
    pub(super) fn jumped(&mut self) {
        self.jumps = self.jumps.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_shared(percent: u32, is_steady: bool, seconds: u32) -> bool {
        let mut pace = Pace::default();
        (1..=seconds).any(|n| pace.fetched(n * 1000, percent * 10_000, is_steady))
    }

    #[test]
    fn one_viewer_in_real_time_is_one_and_three_are_not() {
        assert!(!is_shared(100, true, 600));
        assert!(!is_shared(140, true, 600));
        assert!(is_shared(300, true, 130));
    }

    #[test]
    fn a_player_that_fills_a_large_buffer_is_one() {
        assert!(!is_shared(500, false, 600));
    }
}

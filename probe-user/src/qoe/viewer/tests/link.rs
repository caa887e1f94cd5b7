//! Links that give way: what a path carries at each moment, made from a seed.

use fastrand::Rng;

/// A link's rate, as steps.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// From when, in milliseconds, and how much.
    steps: Vec<(u32, u64)>,
    pub rtt_ms: u32,
}

/// How a link behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Steady,
    Cut,
    Outage,
    Oscillating,
    /// A Markov chain over five rates: like a cellular cell.
    Cellular,
}

impl Link {
    pub(super) fn new(weather: Weather, duration_ms: u32, rng: &mut Rng) -> Self {
        let mut steps = vec![(0, 6_000_000)];
        match weather {
            Weather::Steady => {}
            Weather::Cut => {
                let from_ms = rng.u32(15_000..60_000);
                steps.push((from_ms, rng.u64(200_000..500_000)));
                steps.push((from_ms + rng.u32(15_000..40_000), 6_000_000));
            }
            Weather::Outage => {
                let mut t_ms = rng.u32(15_000..40_000);
                while t_ms < duration_ms {
                    steps.push((t_ms, 0));
                    t_ms += rng.u32(2_000..20_000);
                    steps.push((t_ms, 4_000_000));
                    t_ms += rng.u32(30_000..60_000);
                }
            }
            Weather::Oscillating => {
                let mut t_ms = rng.u32(5_000..15_000);
                while t_ms < duration_ms {
                    steps.push((t_ms, rng.u64(150_000..450_000)));
                    t_ms += rng.u32(5_000..20_000);
                    steps.push((t_ms, rng.u64(2_000_000..6_000_000)));
                    t_ms += rng.u32(5_000..20_000);
                }
            }
            Weather::Cellular => {
                const RATES: [u64; 5] = [80_000, 300_000, 800_000, 2_000_000, 5_000_000];
                let mut state = 4;
                let mut t_ms = 0;
                steps.clear();
                while t_ms < duration_ms {
                    let wobble = rng.u64(80..120);
                    steps.push((t_ms, RATES[state] * wobble / 100));
                    t_ms += rng.u32(500..4_000);
                    state = match rng.u8(0..10) {
                        0..3 => state.saturating_sub(1),
                        3..6 => (state + 1).min(4),
                        6 => rng.usize(0..5),
                        _ => state,
                    };
                }
            }
        }
        Self {
            steps,
            rtt_ms: rng.u32(10..120),
        }
    }

    /// Bits per second at a time.
    pub(super) fn rate_bps(&self, t_ms: u32) -> u64 {
        let after = self.steps.partition_point(|(from_ms, _)| *from_ms <= t_ms);
        self.steps[after.saturating_sub(1)].1
    }
}

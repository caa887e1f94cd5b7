//! How a viewer's link changes over time: made faults for the training set, and for the held-out
//! set a Markov chain like a phone's link on the move. Pure: the same seed gives the same trace.
//!
//! The chain: each second the link stays in its state or moves. States are rates from an outage to
//! more than the highest rendition needs. Rates jitter by a quarter within a state. The queue holds
//! 300 ms of the state's rate, as deep buffers of mobile links do; the delay rises where the rate
//! falls.

use serde::Serialize;

use crate::lab::shaper::Shape;

/// From so long after the player's start on, both directions are so. The way up has the same delay
/// and no limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Since the player's start.
    pub at_ms: u32,
    /// Towards the client; 0: an outage.
    pub rate_bps: u64,
    /// One way.
    pub delay_ms: u32,
    /// Random loss towards the client, in packets per million.
    pub loss_ppm: u32,
}

impl Step {
    /// A link without loss.
    pub const fn new(at_ms: u32, rate_bps: u64, delay_ms: u32) -> Self {
        Self {
            at_ms,
            rate_bps,
            delay_ms,
            loss_ppm: 0,
        }
    }

    /// The same link with loss.
    #[must_use]
    pub const fn lossy(self, loss_ppm: u32) -> Self {
        Self { loss_ppm, ..self }
    }

    /// Server to client.
    pub fn down(self) -> Shape {
        if self.rate_bps == 0 {
            return self.cut();
        }
        Shape {
            delay_ns: u64::from(self.delay_ms) * 1_000_000,
            loss_ppm: self.loss_ppm,
            rate_bps: self.rate_bps,
            queue_bytes: (self.rate_bps * 3 / 10 / 8).max(16_000),
            ..Shape::default()
        }
    }

    /// Client to server.
    pub fn up(self) -> Shape {
        if self.rate_bps == 0 {
            return self.cut();
        }
        Shape {
            delay_ns: u64::from(self.delay_ms) * 1_000_000,
            ..Shape::default()
        }
    }

    fn cut(self) -> Shape {
        Shape {
            delay_ns: u64::from(self.delay_ms) * 1_000_000,
            loss_ppm: 1_000_000,
            ..Shape::default()
        }
    }
}

/// More than any rendition needs.
pub const GOOD_BPS: u64 = 9_000_000;

/// Good, then `rate_bps` for so long, then good again.
pub fn cut(at_ms: u32, rate_bps: u64, lasts_ms: u32, delay_ms: u32) -> Vec<Step> {
    vec![
        Step::new(0, GOOD_BPS, delay_ms),
        Step::new(at_ms, rate_bps, delay_ms),
        Step::new(at_ms + lasts_ms, GOOD_BPS, delay_ms),
    ]
}

/// Two rates in turn.
pub fn oscillation(
    high_bps: u64,
    low_bps: u64,
    half_ms: u32,
    until_ms: u32,
    delay_ms: u32,
) -> Vec<Step> {
    (0..until_ms / half_ms)
        .map(|n| {
            let rate = if n % 2 == 0 { high_bps } else { low_bps };
            Step::new(n * half_ms, rate, delay_ms)
        })
        .collect()
}

/// A state of the chain.
struct State {
    rate_bps: u64,
    delay_ms: u32,
    /// Chance to leave it in a second, in thousandths.
    leave: u32,
    /// Where to, with weights.
    to: &'static [(usize, u32)],
}

const STATES: [State; 6] = [
    State {
        rate_bps: 0,
        delay_ms: 60,
        leave: 250,
        to: &[(1, 3), (2, 2), (3, 1)],
    },
    State {
        rate_bps: 150_000,
        delay_ms: 60,
        leave: 120,
        to: &[(0, 1), (2, 4), (3, 1)],
    },
    State {
        rate_bps: 400_000,
        delay_ms: 50,
        leave: 130,
        to: &[(0, 1), (1, 4), (3, 4)],
    },
    State {
        rate_bps: 1_200_000,
        delay_ms: 40,
        leave: 160,
        to: &[(0, 1), (1, 3), (2, 4), (4, 5)],
    },
    State {
        rate_bps: 3_500_000,
        delay_ms: 30,
        leave: 160,
        to: &[(1, 3), (2, 2), (3, 4), (5, 4)],
    },
    State {
        rate_bps: 9_000_000,
        delay_ms: 25,
        leave: 160,
        to: &[(1, 2), (3, 3), (4, 4)],
    },
];

/// A trace of the chain that begins in a good or a middling state.
pub fn mobile(seed: u64, seconds: u32) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut state = random.usize(3..STATES.len());
    let mut steps = Vec::new();
    for second in 0..seconds {
        if second > 0 && random.u32(..1000) < STATES[state].leave {
            let to = STATES[state].to;
            let weights: u32 = to.iter().map(|(_, weight)| weight).sum();
            let mut left = random.u32(..weights);
            for (next, weight) in to {
                if left < *weight {
                    state = *next;
                    break;
                }
                left -= weight;
            }
        }
        let State {
            rate_bps, delay_ms, ..
        } = STATES[state];
        let rate_bps = rate_bps * random.u64(75..=125) / 100;
        let loss_ppm = if random.u32(..8) == 0 { 5_000 } else { 0 };
        steps.push(Step::new(second * 1000, rate_bps, delay_ms).lossy(loss_ppm));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_another() {
        assert_eq!(mobile(3, 60), mobile(3, 60));
        assert_ne!(mobile(3, 60), mobile(4, 60));
    }

    #[test]
    fn the_chain_visits_every_state_and_is_mostly_able_to_play() {
        let rates: Vec<u64> = (0..200)
            .flat_map(|seed| mobile(seed, 60))
            .map(|step| step.rate_bps)
            .collect();
        let share = |of: fn(u64) -> bool| {
            rates.iter().filter(|rate| of(**rate)).count() as f64 / rates.len() as f64
        };
        assert!((0.005..0.15).contains(&share(|rate| rate == 0)));
        assert!((0.1..0.6).contains(&share(|rate| rate < 500_000)));
        assert!(share(|rate| rate > 2_500_000) > 0.15);
    }

    #[test]
    fn an_outage_lets_nothing_through_either_way() {
        let outage = Step::new(0, 0, 20);
        assert_eq!(outage.down().loss_ppm, 1_000_000);
        assert_eq!(outage.up().loss_ppm, 1_000_000);
    }

    #[test]
    fn steps_come_in_the_order_of_their_times() {
        for steps in [
            cut(10_000, 300_000, 20_000, 20),
            oscillation(4_000_000, 300_000, 6_000, 60_000, 20),
            mobile(1, 60),
        ] {
            assert_eq!(steps[0].at_ms, 0);
            assert!(steps.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
        }
    }
}

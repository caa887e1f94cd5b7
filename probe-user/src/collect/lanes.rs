//! What a collector has heard of each lane of one boot. Pure.
//!
//! Frames may come twice, late, or never. What is cumulative is taken from the newest frame alone;
//! what is in one frame only (events, deliveries) is taken from each frame once, whenever it comes.

use weir_proto::v1::{self, Lane};

/// Frames behind the newest that are told apart; what comes later than that is taken for repeated.
/// An edge has far fewer on their way.
const WINDOW: u64 = 1024;
const WORDS: usize = 16;

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is newer than all before: everything in it counts.
    Newest,
    /// It comes after a newer one: what is in no other frame counts.
    Late,
    /// It came before: nothing counts.
    Stale,
}

/// Which of the latest numbers were seen.
#[derive(Clone, Debug, Default)]
struct Window {
    newest: u64,
    /// Bit `n % 64` of word `n / 64 % WORDS` is number n's.
    seen: [u64; WORDS],
}

impl Window {
    fn bit(&mut self, seq: u64) -> (&mut u64, u64) {
        let word = usize::try_from(seq / 64 % WORDS as u64).unwrap_or(0);
        (&mut self.seen[word], 1 << (seq % 64))
    }

    fn admit(&mut self, seq: u64) -> Admission {
        let is_newest = seq > self.newest;
        if is_newest {
            let fresh = (seq - self.newest).min(WINDOW);
            for number in seq + 1 - fresh..=seq {
                let (word, bit) = self.bit(number);
                *word &= !bit;
            }
            self.newest = seq;
        } else if self.newest - seq >= WINDOW {
            return Admission::Stale;
        }
        let (word, bit) = self.bit(seq);
        if *word & bit != 0 {
            return Admission::Stale;
        }
        *word |= bit;
        if is_newest {
            Admission::Newest
        } else {
            Admission::Late
        }
    }
}

/// One lane.
#[derive(Clone, Debug, Default)]
struct Heard {
    window: Window,
    connections: usize,
    frames: u64,
    frames_lost: u64,
    frames_stale: u64,
    delay_us: u64,
    last_frame_unix_ns: u64,
}

/// All lanes of one boot.
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    hot: Heard,
    warm: Heard,
    cold: Heard,
    drill: Heard,
    counts: Vec<v1::LaneCounts>,
    vital: Option<v1::Vital>,
    /// Of the newest tick, on whichever lane it came.
    tick_seq: u64,
    events: u64,
    events_total: u64,
    deliveries: u64,
    deliveries_total: u64,
}

const LANES: [Lane; 4] = [Lane::Hot, Lane::Warm, Lane::Cold, Lane::Drill];

impl Lanes {
    fn lane(&mut self, lane: Lane) -> &mut Heard {
        match lane {
            Lane::Warm => &mut self.warm,
            Lane::Cold => &mut self.cold,
            Lane::Drill => &mut self.drill,
            Lane::Hot | Lane::Unspecified => &mut self.hot,
        }
    }

    fn of(&self, lane: Lane) -> &Heard {
        match lane {
            Lane::Warm => &self.warm,
            Lane::Cold => &self.cold,
            Lane::Drill => &self.drill,
            Lane::Hot | Lane::Unspecified => &self.hot,
        }
    }

    /// A connection has begun. Returns the newest number of its lane.
    pub fn connect(&mut self, lane: Lane) -> u64 {
        let heard = self.lane(lane);
        heard.connections += 1;
        heard.window.newest
    }

    /// A connection has ended.
    pub fn disconnect(&mut self, lane: Lane) {
        let heard = self.lane(lane);
        heard.connections = heard.connections.saturating_sub(1);
    }

    /// Whether any lane is connected.
    pub fn are_connected(&self) -> bool {
        LANES.iter().any(|lane| self.of(*lane).connections > 0)
    }

    /// Takes in a frame that was checked, and says what is to be done with it.
    pub fn admit(&mut self, frame: &v1::Frame) -> Admission {
        let heard = self.lane(frame.lane());
        let before = heard.window.newest;
        let admission = heard.window.admit(frame.seq);
        match admission {
            Admission::Stale => {
                heard.frames_stale += 1;
                return admission;
            }
            Admission::Late => heard.frames_lost = heard.frames_lost.saturating_sub(1),
            Admission::Newest => {
                heard.frames_lost += frame.seq - before - 1;
                heard.delay_us = frame.delay_us;
                heard.last_frame_unix_ns = frame.unix_ns;
            }
        }
        heard.frames += 1;
        self.events += frame.events.len() as u64;
        self.events_total = self.events_total.max(frame.events_total);
        self.deliveries += frame.deliveries.len() as u64;
        self.deliveries_total = self.deliveries_total.max(frame.deliveries_total);
        if admission == Admission::Newest {
            for counts in &frame.lanes {
                self.count(counts);
            }
            if frame.vital.is_some() {
                self.vital.clone_from(&frame.vital);
            }
        }
        admission
    }

    /// Each lane's frames carry the counts of all; the largest are the latest.
    fn count(&mut self, counts: &v1::LaneCounts) {
        let mut known = self.counts.iter();
        match known.position(|known| known.lane == counts.lane) {
            Some(place) if self.counts[place].frames_made <= counts.frames_made => {
                self.counts[place] = *counts;
            }
            None if self.counts.len() < LANES.len() => self.counts.push(*counts),
            _ => {}
        }
    }

    /// Whether a frame's tick is not older than any before, so that what it says of the whole host
    /// (losses, what is off) is the latest.
    pub fn is_latest_tick(&mut self, frame: &v1::Frame) -> bool {
        if !frame.tick || frame.tick_seq < self.tick_seq {
            return false;
        }
        self.tick_seq = frame.tick_seq;
        true
    }

    /// Frames of all lanes: taken, missing, repeated.
    pub fn frames(&self) -> (u64, u64, u64) {
        let sum = |of: fn(&Heard) -> u64| LANES.iter().map(|lane| of(self.of(*lane))).sum();
        (
            sum(|heard| heard.frames),
            sum(|heard| heard.frames_lost),
            sum(|heard| heard.frames_stale),
        )
    }

    /// The newest number of the hot lane.
    pub fn last_seq(&self) -> u64 {
        self.hot.window.newest
    }

    /// Events taken, and those that were made and did not come.
    pub fn events(&self) -> (u64, u64) {
        let lost = self.events_total.saturating_sub(self.events);
        (self.events, lost)
    }

    /// Deliveries likewise.
    pub fn deliveries(&self) -> (u64, u64) {
        let lost = self.deliveries_total.saturating_sub(self.deliveries);
        (self.deliveries, lost)
    }

    /// The latest vital numbers.
    pub fn vital(&self) -> Option<&v1::Vital> {
        self.vital.as_ref()
    }

    /// Those lanes of which anything is known.
    pub fn message(&self) -> Vec<v1::HostLane> {
        let known = LANES.into_iter().filter(|lane| {
            let heard = self.of(*lane);
            heard.connections > 0 || heard.frames > 0
        });
        known
            .map(|lane| {
                let heard = self.of(lane);
                v1::HostLane {
                    lane: lane.into(),
                    connected: heard.connections > 0,
                    last_seq: heard.window.newest,
                    frames: heard.frames,
                    frames_lost: heard.frames_lost,
                    frames_stale: heard.frames_stale,
                    delay_us: heard.delay_us,
                    last_frame_unix_ns: heard.last_frame_unix_ns,
                    counts: self
                        .counts
                        .iter()
                        .find(|counts| counts.lane() == lane)
                        .copied(),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever order numbers come in, each that is not too late is taken once.
        #[test]
        fn each_number_is_taken_once(
            steps in prop::collection::vec((0_u64..1500, any::<bool>()), 1..400),
        ) {
            let mut window = Window::default();
            let mut taken = BTreeSet::new();
            let mut newest = 0;
            for (step, is_ahead) in steps {
                let seq = if is_ahead {
                    newest + 1 + step % 700
                } else {
                    (newest + 1).saturating_sub(step).max(1)
                };
                let expected = if seq > newest {
                    Admission::Newest
                } else if taken.contains(&seq) || newest - seq >= WINDOW {
                    Admission::Stale
                } else {
                    Admission::Late
                };
                prop_assert_eq!(window.admit(seq), expected);
                taken.insert(seq);
                newest = newest.max(seq);
            }
        }
    }

    #[test]
    fn an_event_in_a_late_frame_counts_and_in_a_repeated_one_does_not() {
        let mut lanes = Lanes::default();
        let frame = |seq, events: usize, events_total| v1::Frame {
            lane: Lane::Hot.into(),
            seq,
            events: vec![v1::HotEvent::default(); events],
            events_total,
            ..v1::Frame::default()
        };
        assert_eq!(lanes.admit(&frame(1, 1, 1)), Admission::Newest);
        assert_eq!(lanes.admit(&frame(3, 1, 4)), Admission::Newest);
        assert_eq!((lanes.events(), lanes.frames().1), ((2, 2), 1));
        assert_eq!(lanes.admit(&frame(2, 2, 3)), Admission::Late);
        assert_eq!(lanes.admit(&frame(2, 2, 3)), Admission::Stale);
        assert_eq!((lanes.events(), lanes.frames()), ((4, 0), (3, 0, 1)));
    }
}

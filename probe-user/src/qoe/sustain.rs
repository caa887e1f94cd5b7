//! Whether a delivery shows that its path sustains a rate: the test of `HDratio` (Schlinker et al.,
//! "Internet Performance from Facebook's Edge", IMC 2019), for any rate.
//!
//! Of the deliveries that could show it, the share that did. What could not is counted by its reason.

use probe_ebpf::record::Delivery;

use super::blame::{Part, Spent};
use super::delivery::ticks_us;

/// Fewer segments than these show nothing.
const LEAST_SEGMENTS: u64 = 10;
/// Bytes in a microsecond to bits in a second.
const BIT_US: u64 = 8_000_000;
/// Slow start is followed for so many rounds; beyond lies more than any path carries.
const MOST_ROUNDS: u32 = 40;

/// Why a delivery cannot be tested for a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Untestable {
    /// Too few bytes to reach the rate, even if all went well.
    TooSmall,
    /// The application gave too little to send.
    Application,
    /// The client's window held it back.
    Receiver,
    /// The sender's own pace did.
    Pacing,
    /// A live source: its rate is that of the encoder.
    LiveSource,
}

impl Untestable {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::TooSmall,
        Self::Application,
        Self::Receiver,
        Self::Pacing,
        Self::LiveSource,
    ];
}

/// What a delivery showed of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The path sustains it.
    Achieved,
    /// It does not.
    Missed,
    /// Nothing.
    Untestable(Untestable),
}

/// A delivery as the test sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transfer {
    /// Bytes acknowledged.
    pub bytes: u64,
    /// First write to last acknowledgement.
    pub took_us: u64,
    /// Least round trip.
    pub min_rtt_us: u32,
    /// Maximum segment size.
    pub mss: u32,
    /// Congestion window at the first byte: that at the end of the session's delivery before, or
    /// the kernel's initial one; 0: not known, and the initial one is taken.
    pub window_bytes: u64,
    /// [`Self::ideal_window_bytes`] of the session's delivery before; 0: it is the first.
    pub ideal_before_bytes: u64,
    /// Time in which the client's window held it back.
    pub rwnd_limited_us: u64,
    /// Time in which there was nothing to send, between first and last write.
    pub idle_us: u64,
    /// Time that blame gives to pacing.
    pub pacing_us: u64,
    /// It is fetched while the encoder makes it.
    pub is_live_source: bool,
}

impl Transfer {
    /// A complete delivery. `before`: the same of the session's delivery before, and the window
    /// that it ended with (`cwnd` times `mss`). `tick_hz`: the kernel's ticks per second.
    pub fn of(
        record: &Delivery,
        tick_hz: u32,
        before: Option<(&Self, u64)>,
        is_live_source: bool,
    ) -> Self {
        let took_ns = record
            .t_last_acked_ns
            .saturating_sub(record.t_first_write_ns);
        let spent = Spent::of(record, tick_hz, record.t_last_acked_ns);
        let (ideal_before_bytes, window_bytes) = before.map_or((0, 0), |(before, window)| {
            (before.ideal_window_bytes(), window)
        });
        Self {
            bytes: record.acked_bytes,
            took_us: took_ns / 1000,
            min_rtt_us: record.min_rtt_us,
            mss: record.mss,
            window_bytes,
            ideal_before_bytes,
            rwnd_limited_us: ticks_us(record.rwnd_limited_ticks, tick_hz),
            idle_us: spent.us(Part::ApplicationWrite),
            pacing_us: spent.us(Part::Pacing),
            is_live_source,
        }
    }

    /// The window at the first byte, if nothing had gone wrong before.
    fn first_window_bytes(&self) -> u64 {
        let initial = 10 * u64::from(self.mss.max(1));
        let known = if self.window_bytes == 0 {
            initial
        } else {
            self.window_bytes
        };
        known.max(self.ideal_before_bytes).max(1)
    }

    /// The window that it would have ended with, doubling each round.
    pub fn ideal_window_bytes(&self) -> u64 {
        let first = self.first_window_bytes();
        let (rounds, _) = rounds(self.bytes, first);
        first.saturating_mul(1 << (rounds - 1).min(MOST_ROUNDS))
    }

    /// Whether it shows that its path sustains `rate_bps`.
    pub fn shows(&self, rate_bps: u64) -> Shown {
        if let Some(why) = self.held_back() {
            return Shown::Untestable(why);
        }
        let first = self.first_window_bytes();
        let is_too_small = self.bytes < LEAST_SEGMENTS * u64::from(self.mss.max(1));
        let carries = self.carries(self.largest_round(first), rate_bps);
        if is_too_small || self.min_rtt_us == 0 || !carries {
            return Shown::Untestable(Untestable::TooSmall);
        }
        if self.took_us <= self.allowed_us(first, rate_bps) {
            Shown::Achieved
        } else {
            Shown::Missed
        }
    }

    /// Whether something other than the path decided how long it took.
    fn held_back(&self) -> Option<Untestable> {
        let took_us = self.took_us.max(1);
        let most = |us: u64| us.saturating_mul(5) > took_us;
        if self.is_live_source {
            Some(Untestable::LiveSource)
        } else if most(self.rwnd_limited_us) {
            Some(Untestable::Receiver)
        } else if most(self.idle_us) {
            Some(Untestable::Application)
        } else if most(self.pacing_us) {
            Some(Untestable::Pacing)
        } else {
            None
        }
    }

    /// Whether so many bytes a round trip are the rate or more.
    fn carries(&self, bytes: u64, rate_bps: u64) -> bool {
        let rtt_us = u64::from(self.min_rtt_us.max(1));
        // Without a division: this is asked for each round of slow start. A product that saturates is
        // of terabytes a round trip, which is more than any rate.
        bytes.saturating_mul(BIT_US) >= rate_bps.saturating_mul(rtt_us)
    }

    /// The most bytes in one round over a path without limits: the highest rate that could show.
    fn largest_round(&self, first: u64) -> u64 {
        let (rounds, before_last) = rounds(self.bytes, first);
        let last = self.bytes.saturating_sub(before_last);
        let window = if rounds > 1 {
            first.saturating_mul(1 << (rounds - 2))
        } else {
            0
        };
        window.max(last)
    }

    /// How long it may take over a path of `rate_bps`: rounds of slow start until a window carries
    /// the rate, the rest at the rate, and a round trip for the last acknowledgement.
    fn allowed_us(&self, first: u64, rate_bps: u64) -> u64 {
        let rtt_us = u64::from(self.min_rtt_us);
        let (mut window, mut sent, mut slow) = (first, 0_u64, 0_u32);
        while !self.carries(window, rate_bps) && slow < MOST_ROUNDS {
            sent = sent.saturating_add(window);
            window = window.saturating_mul(2);
            slow += 1;
        }
        let rest = self.bytes.saturating_sub(sent);
        let at_the_rate_us = rest.saturating_mul(BIT_US) / rate_bps.max(1);
        (u64::from(slow) + 1) * rtt_us + at_the_rate_us
    }
}

/// Rounds of doubling windows that carry `bytes`, and what all but the last of them carry.
fn rounds(bytes: u64, first: u64) -> (u32, u64) {
    let (mut window, mut before, mut rounds) = (first, 0_u64, 1);
    while before.saturating_add(window) < bytes && rounds < MOST_ROUNDS {
        before = before.saturating_add(window);
        window = window.saturating_mul(2);
        rounds += 1;
    }
    (rounds, before)
}

/// What the deliveries of a cell showed of one rate; cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sustained {
    /// Those that could show it.
    pub testable: u64,
    /// Those that did.
    pub achieved: u64,
    /// Those that could not, by [`Untestable`].
    pub untestable: [u64; Untestable::ALL.len()],
}

impl Sustained {
    /// Counts a delivery.
    pub fn add(&mut self, shown: Shown) {
        match shown {
            Shown::Achieved => {
                self.testable += 1;
                self.achieved += 1;
            }
            Shown::Missed => self.testable += 1,
            Shown::Untestable(why) => self.untestable[why as usize] += 1,
        }
    }

    /// The share that achieved it, in parts per million; none if none could show it.
    pub fn ratio_ppm(&self) -> Option<u64> {
        let ppm = self.achieved.saturating_mul(1_000_000);
        ppm.checked_div(self.testable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1448;
    const RTT_US: u32 = 40_000;

    /// How long slow start over a path of `path_bps` takes, to the last acknowledgement.
    fn over(path_bps: u64, bytes: u64) -> Transfer {
        let carried = |window: u64| window.min(path_bps * u64::from(RTT_US) / 8_000_000);
        let (mut window, mut sent, mut took_us) = (10 * u64::from(MSS), 0, 0);
        loop {
            let round = carried(window);
            if sent + round >= bytes {
                let rest_us = (bytes - sent) * 8_000_000 / path_bps;
                took_us += rest_us + u64::from(RTT_US);
                break;
            }
            sent += round;
            took_us += u64::from(RTT_US);
            window = (window * 2).min(bytes);
        }
        Transfer {
            bytes,
            took_us,
            min_rtt_us: RTT_US,
            mss: MSS,
            ..Transfer::default()
        }
    }

    #[test]
    fn what_is_shown_is_what_the_path_carries() {
        const RATE_BPS: u64 = 5_000_000;
        for bytes in [200_000, 500_000, 2_000_000, 20_000_000] {
            for (percent, shown) in [
                (110, Shown::Achieved),
                (150, Shown::Achieved),
                (400, Shown::Achieved),
                (50, Shown::Missed),
                (25, Shown::Missed),
            ] {
                let transfer = over(RATE_BPS * percent / 100, bytes);
                assert_eq!(
                    transfer.shows(RATE_BPS),
                    shown,
                    "{percent} %, {bytes} bytes"
                );
            }
        }
    }

    #[test]
    fn a_small_answer_shows_nothing_of_a_high_rate() {
        let small = over(100_000_000, 30_000);
        let too_small = Shown::Untestable(Untestable::TooSmall);
        assert_eq!(small.shows(50_000_000), too_small);
        assert_eq!(small.shows(1_000_000), Shown::Achieved);
        let tiny = over(100_000_000, 5_000);
        assert_eq!(tiny.shows(100_000), too_small);
    }

    #[test]
    fn an_open_window_lets_an_answer_show_more() {
        let mut transfer = over(100_000_000, 100_000);
        let rate_bps = 15_000_000;
        assert_eq!(
            transfer.shows(rate_bps),
            Shown::Untestable(Untestable::TooSmall)
        );
        transfer.ideal_before_bytes = 200_000;
        transfer.took_us = 45_000;
        assert_eq!(transfer.shows(rate_bps), Shown::Achieved);
    }

    #[test]
    fn a_record_is_tested_by_its_own_times() {
        const MS: u64 = 1_000_000;
        // 2 MB in 1 s over 40 ms: 16 Mbit/s and a little less.
        let record = Delivery {
            t_request_ns: 1,
            t_request_last_ns: 1,
            t_first_write_ns: 5 * MS,
            t_last_write_ns: 900 * MS,
            t_last_acked_ns: 1005 * MS,
            acked_bytes: 2_000_000,
            written_bytes: 2_000_000,
            srtt_us: RTT_US + 5000,
            min_rtt_us: RTT_US,
            cwnd: 60,
            mss: MSS,
            busy_ticks: 1000,
            ..Delivery::default()
        };
        let first = Transfer::of(&record, 1000, None, false);
        assert_eq!((first.took_us, first.idle_us), (1_000_000, 0));
        assert_eq!(first.shows(8_000_000), Shown::Achieved);
        assert_eq!(first.shows(30_000_000), Shown::Missed);
        let second = Transfer::of(&record, 1000, Some((&first, 80_000)), false);
        assert!(second.ideal_before_bytes > 500_000);
        // The disk stopped for most of it.
        let stopped = Delivery {
            busy_ticks: 300,
            ..record
        };
        let held = Transfer::of(&stopped, 1000, None, false);
        let application = Shown::Untestable(Untestable::Application);
        assert_eq!(held.shows(8_000_000), application);
    }

    #[test]
    fn what_held_it_back_is_named() {
        let whole = over(1_000_000, 500_000);
        let half_us = whole.took_us / 2;
        for (transfer, why) in [
            (
                Transfer {
                    rwnd_limited_us: half_us,
                    ..whole
                },
                Untestable::Receiver,
            ),
            (
                Transfer {
                    idle_us: half_us,
                    ..whole
                },
                Untestable::Application,
            ),
            (
                Transfer {
                    pacing_us: half_us,
                    ..whole
                },
                Untestable::Pacing,
            ),
            (
                Transfer {
                    is_live_source: true,
                    ..whole
                },
                Untestable::LiveSource,
            ),
        ] {
            let mut sustained = Sustained::default();
            sustained.add(transfer.shows(5_000_000));
            assert_eq!(sustained.untestable[why as usize], 1, "{why:?}");
            assert_eq!(sustained.ratio_ppm(), None);
        }
    }
}

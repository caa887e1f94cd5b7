//! Where a delivery's time went, in shares that sum to one. Who that makes answerable is
//! [`super::verdict`]'s.
//!
//! The kernel gives times and clocks of what limited it; between them this divides what is left by
//! stated rules. Sums add up over deliveries, stalls and cells.

use probe_ebpf::record::{Delivery, flag};

use super::delivery::{retransmits, ticks_us};

/// A million: all of it.
pub const WHOLE_PPM: u32 = 1_000_000;
/// The kernel's least retransmission timeout.
const LEAST_RTO_US: u64 = 200_000;
/// Pacing is blamed only where a window would have carried so many times more.
const UNUSED_WINDOW: u64 = 3;
/// And over so many windows that slow start is behind.
const WINDOWS_TO_JUDGE: u64 = 4;

/// A part of the way that can take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Part {
    /// Nothing was written yet: cache, origin.
    Think,
    /// The path was free and there was nothing to send: disk, CPU, send buffer.
    ApplicationWrite,
    /// Data waited for the congestion window: what the path carries.
    SenderWindow,
    /// Lost segments were sent again.
    LossRecovery,
    /// Queues on the path, beyond its least round trip.
    PathQueue,
    /// The client's window was full.
    ReceiverWindow,
    /// The window was open and the sender's pace held it back.
    Pacing,
}

impl Part {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// All of them, each at the index of its value.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Think,
        Self::ApplicationWrite,
        Self::SenderWindow,
        Self::LossRecovery,
        Self::PathQueue,
        Self::ReceiverWindow,
        Self::Pacing,
    ];

    /// As the wire and the screens write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Think => "think",
            Self::ApplicationWrite => "application write",
            Self::SenderWindow => "sender window",
            Self::LossRecovery => "loss recovery",
            Self::PathQueue => "path queue",
            Self::ReceiverWindow => "receiver window",
            Self::Pacing => "pacing",
        }
    }
}

/// Time by part, in microseconds; adds up over deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    us: [u64; Part::COUNT],
}

impl Spent {
    /// Where the time of a delivery went until its last acknowledgement, or until `t_now_ns` if it
    /// is under way or was cut off. `tick_hz`: the kernel's ticks per second.
    pub fn of(record: &Delivery, tick_hz: u32, t_now_ns: u64) -> Self {
        let is_cut = record.flags & (flag::ABORTED | flag::UNANSWERED) != 0;
        let is_under_way = record.acked_bytes < record.written_bytes || record.written_bytes == 0;
        let t_end_ns = if is_cut || is_under_way {
            t_now_ns.max(record.t_last_acked_ns)
        } else {
            record.t_last_acked_ns
        };
        let all_us = us_between(record.t_request_ns, t_end_ns);
        let mut left = Left {
            spent: Self::default(),
            us: all_us,
        };
        if record.t_first_write_ns == 0 {
            left.rest(Part::Think);
            return left.spent;
        }
        // A request that trickles in is the client's path, not the server's thinking.
        let heard_ns = record.t_request_last_ns.max(record.t_request_ns);
        left.take(Part::PathQueue, us_between(record.t_request_ns, heard_ns));
        left.take(Part::Think, us_between(heard_ns, record.t_first_write_ns));
        let sent_us = left.us;
        let busy_us = ticks_us(record.busy_ticks, tick_hz);
        if busy_us > 0 {
            // Ticks are coarse: within two of them nothing is idle.
            let coarse_us = ticks_us(2, tick_hz);
            let idle_us = sent_us.saturating_sub(busy_us.saturating_add(coarse_us));
            left.take(Part::ApplicationWrite, idle_us);
        }
        left.take(
            Part::ReceiverWindow,
            ticks_us(record.rwnd_limited_ticks, tick_hz),
        );
        left.take(
            Part::ApplicationWrite,
            ticks_us(record.sndbuf_limited_ticks, tick_hz),
        );
        let loss_us = loss_us(record, left.us);
        left.take(Part::LossRecovery, loss_us);
        let pacing_us = pacing_us(record, left.us);
        left.take(Part::Pacing, pacing_us);
        // What is left was spent waiting for acknowledgements: a round trip's share of queueing is
        // the share of that time that queues took.
        if record.srtt_us > record.min_rtt_us && record.min_rtt_us > 0 {
            let queue = u64::from(record.srtt_us - record.min_rtt_us);
            let queue_us = share(left.us, queue, u64::from(record.srtt_us));
            left.take(Part::PathQueue, queue_us);
        }
        left.rest(Part::SenderWindow);
        left.spent
    }

    /// Of one part.
    pub fn us(&self, part: Part) -> u64 {
        self.us[part as usize]
    }

    /// Sets one part's.
    pub(super) fn set_us(&mut self, part: Part, us: u64) {
        self.us[part as usize] = us;
    }

    /// Of all parts.
    pub fn total_us(&self) -> u64 {
        self.us.iter().fold(0, |sum, us| sum.saturating_add(*us))
    }

    /// Adds another delivery's, stall's or cell's.
    pub fn merge(&mut self, other: &Self) {
        for (us, more) in self.us.iter_mut().zip(other.us) {
            *us = us.saturating_add(more);
        }
    }

    /// What was added since `older`.
    #[must_use]
    pub fn since(&self, older: &Self) -> Self {
        let mut spent = *self;
        for (us, then) in spent.us.iter_mut().zip(older.us) {
            *us = us.saturating_sub(then);
        }
        spent
    }

    /// Shares in parts per million, which sum to exactly a million; none if no time was spent.
    /// What rounding leaves goes to the parts that it took most from.
    pub fn shares_ppm(&self) -> Option<[u32; Part::COUNT]> {
        let whole: u128 = self.us.iter().map(|us| u128::from(*us)).sum();
        if whole == 0 {
            return None;
        }
        let mut shares = [0; Part::COUNT];
        let mut remainders = [(0, 0); Part::COUNT];
        let mut given = 0;
        for (n, us) in self.us.iter().enumerate() {
            let scaled = u128::from(*us) * u128::from(WHOLE_PPM);
            let ppm = u32::try_from(scaled / whole).unwrap_or(WHOLE_PPM);
            shares[n] = ppm;
            given += ppm;
            remainders[n] = (scaled % whole, n);
        }
        remainders.sort_unstable();
        for (_, n) in remainders.iter().rev().take((WHOLE_PPM - given) as usize) {
            shares[*n] += 1;
        }
        Some(shares)
    }

    /// The part that took most, and its share.
    pub fn worst(&self) -> Option<(Part, u32)> {
        let shares = self.shares_ppm()?;
        Part::ALL
            .into_iter()
            .zip(shares)
            .max_by_key(|(part, ppm)| (*ppm, std::cmp::Reverse(*part)))
    }
}

/// Time that is not yet given to a part.
struct Left {
    spent: Spent,
    us: u64,
}

impl Left {
    /// No part takes more than is left.
    fn take(&mut self, part: Part, us: u64) {
        let us = us.min(self.us);
        self.spent.us[part as usize] += us;
        self.us -= us;
    }

    fn rest(&mut self, part: Part) {
        self.take(part, u64::MAX);
    }
}

fn us_between(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns) / 1000
}

/// `of`, by the ratio of `part` to `whole`.
pub(super) fn share(of: u64, part: u64, whole: u64) -> u64 {
    let whole = whole.max(1);
    if let Some(product) = of.checked_mul(part) {
        return product / whole;
    }
    let scaled = u128::from(of) * u128::from(part) / u128::from(whole);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// What sending again took of `left_us`. After timeouts: all beyond what the path's own rate would
/// have needed, and where no rate was sampled what that many doubling timeouts take. After fast
/// recovery: a round trip, and the resent segments' share.
fn loss_us(record: &Delivery, left_us: u64) -> u64 {
    let srtt_us = u64::from(record.srtt_us);
    let resent_us = share(left_us, retransmits(record), record.segments.into()).min(left_us);
    if record.retrans_rto > 0 {
        let rto_us = LEAST_RTO_US.max(2 * srtt_us);
        let least_us = rto_us.min(left_us);
        let is_sampled =
            record.delivery_rate_bytes_per_s > 0 && record.flags & flag::RATE_APP_LIMITED == 0;
        let lost_us = if is_sampled {
            let needed_us = share(
                record.acked_bytes,
                1_000_000,
                record.delivery_rate_bytes_per_s,
            );
            left_us.saturating_sub(needed_us.saturating_add(srtt_us))
        } else {
            let doublings = record.retrans_rto.min(16);
            rto_us.saturating_mul((1 << doublings) - 1)
        };
        return lost_us.max(least_us).max(resent_us);
    }
    if record.retrans_fast > 0 || record.retrans_tlp > 0 {
        return resent_us.saturating_add(srtt_us);
    }
    0
}

/// What the sender's pace took: where the window would have carried several times what was sent,
/// nothing was queued and nothing lost.
fn pacing_us(record: &Delivery, left_us: u64) -> u64 {
    let window_bytes = u64::from(record.cwnd) * u64::from(record.mss);
    let is_queued = u64::from(record.srtt_us) * 4 > u64::from(record.min_rtt_us) * 5;
    let is_judged = record.acked_bytes >= window_bytes.saturating_mul(WINDOWS_TO_JUDGE)
        && window_bytes > 0
        && record.srtt_us > 0
        && record.flags & flag::RATE_APP_LIMITED == 0;
    if !is_judged || is_queued || retransmits(record) > 0 {
        return 0;
    }
    let by_window_us = share(record.acked_bytes, record.srtt_us.into(), window_bytes);
    if by_window_us.saturating_mul(UNUSED_WINDOW) < left_us {
        left_us - by_window_us
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const TICK_HZ: u32 = 1000;

    /// Ten milliseconds of thinking, then a second of sending at a window's pace.
    fn healthy() -> Delivery {
        Delivery {
            t_request_ns: 1000 * MS,
            t_request_last_ns: 1000 * MS,
            t_first_write_ns: 1010 * MS,
            t_last_write_ns: 1500 * MS,
            t_first_acked_ns: 1050 * MS,
            t_last_acked_ns: 2010 * MS,
            acked_bytes: 1_000_000,
            written_bytes: 1_000_000,
            segments: 700,
            srtt_us: 40_000,
            min_rtt_us: 40_000,
            cwnd: 30,
            mss: 1448,
            busy_ticks: 1000,
            delivery_rate_bytes_per_s: 1_000_000,
            ..Delivery::default()
        }
    }

    fn worst(record: &Delivery) -> Part {
        Spent::of(record, TICK_HZ, 0).worst().unwrap().0
    }

    #[test]
    fn each_fault_is_blamed_on_its_part() {
        assert_eq!(worst(&healthy()), Part::SenderWindow);
        for (part, record) in [
            (
                Part::Think,
                Delivery {
                    t_request_ns: 1,
                    t_request_last_ns: 1,
                    t_first_write_ns: 1010 * MS + 1_000_000_000,
                    t_last_acked_ns: 2510 * MS,
                    busy_ticks: 500,
                    ..healthy()
                },
            ),
            (
                Part::ApplicationWrite,
                Delivery {
                    busy_ticks: 300,
                    ..healthy()
                },
            ),
            (
                Part::PathQueue,
                Delivery {
                    srtt_us: 200_000,
                    ..healthy()
                },
            ),
            (
                Part::ReceiverWindow,
                Delivery {
                    rwnd_limited_ticks: 800,
                    ..healthy()
                },
            ),
            (
                Part::LossRecovery,
                Delivery {
                    retrans_rto: 3,
                    delivery_rate_bytes_per_s: 0,
                    ..healthy()
                },
            ),
            (
                Part::Pacing,
                Delivery {
                    // A window of 145 kB every 41 ms would be 3.5 Mbyte/s.
                    cwnd: 100,
                    srtt_us: 41_000,
                    ..healthy()
                },
            ),
        ] {
            assert_eq!(worst(&record), part, "{:?}", Spent::of(&record, TICK_HZ, 0));
        }
    }

    #[test]
    fn a_timeout_among_fast_sending_takes_what_the_path_did_not_need() {
        // The path would have needed 200 ms; go-back-N resent many segments after one timeout.
        let record = Delivery {
            retrans_rto: 30,
            delivery_rate_bytes_per_s: 5_000_000,
            ..healthy()
        };
        let us = Spent::of(&record, TICK_HZ, 0).us(Part::LossRecovery);
        assert!((700_000..800_000).contains(&us), "{us}");
    }

    #[test]
    fn one_that_is_not_answered_is_thought_about_until_now() {
        let record = Delivery {
            t_first_write_ns: 0,
            t_last_acked_ns: 0,
            acked_bytes: 0,
            written_bytes: 0,
            ..healthy()
        };
        let spent = Spent::of(&record, TICK_HZ, 3000 * MS);
        assert_eq!(spent.us(Part::Think), 2_000_000);
        assert_eq!(spent.total_us(), 2_000_000);
        assert_eq!(Spent::default().shares_ppm(), None);
    }

    proptest! {
        #[test]
        fn shares_sum_to_one_and_time_to_all_of_it(
            times in proptest::array::uniform6(0..u64::MAX / 4),
            counts in proptest::array::uniform10(any::<u32>()),
            bytes in proptest::array::uniform3(any::<u64>()),
            flags in any::<u32>(),
            tick_hz in any::<u32>(),
            now_ns in 0..u64::MAX / 4,
        ) {
            let [t_request_ns, t_request_last_ns, t_first_write_ns, t_last_write_ns,
                t_first_acked_ns, t_last_acked_ns] = times;
            let [segments, retrans_fast, retrans_rto, retrans_tlp, srtt_us, min_rtt_us, cwnd, mss,
                busy_ticks, rwnd_limited_ticks] = counts;
            let [acked_bytes, written_bytes, delivery_rate_bytes_per_s] = bytes;
            let record = Delivery {
                t_request_ns, t_request_last_ns, t_first_write_ns, t_last_write_ns,
                t_first_acked_ns, t_last_acked_ns, segments, retrans_fast, retrans_rto, retrans_tlp,
                srtt_us, min_rtt_us, cwnd, mss, busy_ticks, rwnd_limited_ticks, acked_bytes,
                written_bytes, delivery_rate_bytes_per_s, flags,
                sndbuf_limited_ticks: rwnd_limited_ticks.rotate_left(7),
                ..Delivery::default()
            };
            let mut spent = Spent::of(&record, tick_hz, now_ns);
            let end_ns = t_last_acked_ns.max(now_ns);
            prop_assert!(spent.total_us() <= end_ns.saturating_sub(t_request_ns) / 1000);
            spent.merge(&Spent::of(&healthy(), TICK_HZ, 0));
            let shares = spent.shares_ppm().unwrap();
            prop_assert_eq!(shares.iter().sum::<u32>(), WHOLE_PPM);
        }
    }
}

//! The distributions that every cell keeps, and their buckets.

use histogram::Config;

/// Relative width of a bucket is `2^-GROUPING_POWER`: 3 %.
pub const GROUPING_POWER: u8 = 5;

/// What is counted in a histogram. Units stand in the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Metric {
    /// Request's first byte to the acknowledgement of the answer's last byte.
    DeliveryLatencyUs,
    /// Request's last byte to the first write.
    ThinkTimeUs,
    /// Request's first byte to the first acknowledgement.
    FirstByteUs,
    /// Last write to last acknowledgement.
    DeliveryTailUs,
    /// Smoothed round-trip time at the end of a delivery.
    SrttUs,
    /// The kernel's delivery-rate sample at the end of a delivery, where the path limited it.
    DeliveryRateKbps,
    /// Segments retransmitted per million sent, of one delivery.
    RetransmitRatioPpm,
    /// First SYN-ACK to ESTABLISHED.
    HandshakeUs,
    /// First request of a playback to its first frame.
    StartupTimeUs,
    /// Of one stall.
    StallTimeUs,
    /// A thousand times an object's duration over its delivery latency.
    ChunkPerformancePermille,
    /// Bits of an object over its duration.
    BitrateKbps,
}

impl Metric {
    /// How many there are.
    pub const COUNT: usize = 12;

    /// All of them, each at the index of its value.
    pub const ALL: [Self; Self::COUNT] = [
        Self::DeliveryLatencyUs,
        Self::ThinkTimeUs,
        Self::FirstByteUs,
        Self::DeliveryTailUs,
        Self::SrttUs,
        Self::DeliveryRateKbps,
        Self::RetransmitRatioPpm,
        Self::HandshakeUs,
        Self::StartupTimeUs,
        Self::StallTimeUs,
        Self::ChunkPerformancePermille,
        Self::BitrateKbps,
    ];

    /// Values from 2 to this power on are counted in the last bucket.
    pub const fn max_value_power(self) -> u8 {
        match self {
            // 71 minutes.
            Self::DeliveryLatencyUs
            | Self::ThinkTimeUs
            | Self::FirstByteUs
            | Self::StartupTimeUs
            | Self::StallTimeUs => 32,
            // 18 minutes, beyond the kernel's patience with an unacknowledged segment; 1 Tbit/s; a
            // segment of 10 s in 10 us.
            Self::DeliveryTailUs
            | Self::DeliveryRateKbps
            | Self::ChunkPerformancePermille
            | Self::BitrateKbps => 30,
            // 67 s: a round trip cannot be longer than the patience of either end.
            Self::SrttUs => 26,
            // 2^20 is a little more than a million.
            Self::RetransmitRatioPpm => 20,
            // 268 s: six SYN-ACKs with doubling timeouts take 127 s.
            Self::HandshakeUs => 28,
        }
    }

    /// The buckets of this metric's histogram.
    pub const fn buckets(self) -> Config {
        match Config::new(GROUPING_POWER, self.max_value_power()) {
            Ok(config) => config,
            Err(_) => panic!("every metric's largest value is above the grouping power"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_buckets_and_its_own_place() {
        for (n, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, n);
            assert_eq!(metric.buckets().max_value_power(), metric.max_value_power());
        }
    }
}

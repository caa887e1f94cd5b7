//! What one direction of a link does to a packet: loss, rate, queue and delay. Pure: time and
//! packet sizes are arguments, so the same seed gives the same losses.

/// How one direction behaves from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// One way.
    pub delay_ns: u64,
    /// Random loss, in packets per million.
    pub loss_ppm: u32,
    /// Every so-many-th large packet is lost; 0: none.
    pub lose_every: u32,
    /// 0: unlimited.
    pub rate_bps: u64,
    /// Bytes that may wait for the rate; what comes on top is lost.
    pub queue_bytes: u64,
}

/// Packets smaller than this are not counted by [`Shape::lose_every`]: pure acknowledgements.
pub const LARGE_BYTES: usize = 1000;

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came in.
    pub packets: u64,
    /// Lost at random.
    pub lost_random: u64,
    /// Lost as every so-many-th.
    pub lost_every: u64,
    /// Lost because the queue was full.
    pub lost_queue: u64,
    /// Handed to the far end.
    pub delivered: u64,
    /// Bytes handed to the far end.
    pub delivered_bytes: u64,
}

impl Counts {
    /// Packets lost for any cause.
    pub fn lost(&self) -> u64 {
        self.lost_random + self.lost_every + self.lost_queue
    }
}

/// The state of one direction.
#[derive(Debug)]
pub struct Shaper {
    shape: Shape,
    random: fastrand::Rng,
    large: u64,
    /// When the last admitted byte will have left at the limited rate.
    line_free_ns: u64,
    /// When the last admitted packet arrives; later ones do not overtake it.
    last_arrival_ns: u64,
    counts: Counts,
}

impl Shaper {
    /// A direction whose random losses follow from `seed`.
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: fastrand::Rng::with_seed(seed),
            large: 0,
            line_free_ns: 0,
            last_arrival_ns: 0,
            counts: Counts::default(),
        }
    }

    /// Changes the behaviour; packets already admitted keep their time.
    pub fn set(&mut self, shape: Shape) {
        if self.shape.lose_every != shape.lose_every {
            self.large = 0;
        }
        self.shape = shape;
    }

    /// When a packet of `bytes` that enters at `now_ns` comes out, or `None` if it is lost.
    pub fn admit(&mut self, now_ns: u64, bytes: usize) -> Option<u64> {
        self.counts.packets += 1;
        if self.shape.lose_every > 0 && bytes >= LARGE_BYTES {
            self.large += 1;
            if self.large.is_multiple_of(u64::from(self.shape.lose_every)) {
                self.counts.lost_every += 1;
                return None;
            }
        }
        if self.shape.loss_ppm > 0 && self.random.u32(..1_000_000) < self.shape.loss_ppm {
            self.counts.lost_random += 1;
            return None;
        }
        let mut leaves_ns = now_ns;
        if self.shape.rate_bps > 0 {
            let start_ns = self.line_free_ns.max(now_ns);
            let waiting_bytes =
                u128::from(start_ns - now_ns) * u128::from(self.shape.rate_bps) / 8_000_000_000;
            if waiting_bytes + bytes as u128 > u128::from(self.shape.queue_bytes) {
                self.counts.lost_queue += 1;
                return None;
            }
            leaves_ns = start_ns + bytes as u64 * 8_000_000_000 / self.shape.rate_bps;
            self.line_free_ns = leaves_ns;
        }
        self.last_arrival_ns = self.last_arrival_ns.max(leaves_ns + self.shape.delay_ns);
        Some(self.last_arrival_ns)
    }

    /// Notes that a packet has come out.
    pub fn delivered(&mut self, bytes: usize) {
        self.counts.delivered += 1;
        self.counts.delivered_bytes += bytes as u64;
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn delay_is_added_and_nothing_is_lost() {
        let mut shaper = Shaper::new(
            Shape {
                delay_ns: 20 * MS,
                ..Shape::default()
            },
            1,
        );
        assert_eq!(shaper.admit(5 * MS, 1500), Some(25 * MS));
        assert_eq!(shaper.counts().lost(), 0);
    }

    #[test]
    fn a_limited_rate_spaces_packets_and_a_full_queue_loses_them() {
        // 1500 bytes take 1.5 ms at 8 Mbit/s; the queue holds two.
        let shape = Shape {
            rate_bps: 8_000_000,
            queue_bytes: 3000,
            ..Shape::default()
        };
        let mut shaper = Shaper::new(shape, 1);
        assert_eq!(shaper.admit(0, 1500), Some(1_500_000));
        assert_eq!(shaper.admit(0, 1500), Some(3_000_000));
        assert_eq!(shaper.admit(0, 1500), None);
        assert_eq!(shaper.counts().lost_queue, 1);
        assert_eq!(shaper.admit(10 * MS, 1500), Some(11_500_000));
    }

    #[test]
    fn every_nth_large_packet_is_lost_and_small_ones_are_not_counted() {
        let mut shaper = Shaper::new(
            Shape {
                lose_every: 3,
                ..Shape::default()
            },
            1,
        );
        let sizes = [1500, 40, 1500, 40, 1500, 1500];
        let kept: Vec<_> = sizes
            .iter()
            .map(|bytes| shaper.admit(0, *bytes).is_some())
            .collect();
        assert_eq!(kept, [true, true, true, true, false, true]);
    }

    #[test]
    fn the_same_seed_loses_the_same_packets_at_about_the_asked_share() {
        let run = |seed| {
            let mut shaper = Shaper::new(
                Shape {
                    loss_ppm: 30_000,
                    ..Shape::default()
                },
                seed,
            );
            (0..20_000)
                .map(|t| shaper.admit(t, 1500).is_none())
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let lost = run(7).into_iter().filter(|lost| *lost).count();
        assert!((500..700).contains(&lost), "{lost} of 20000");
    }

    #[test]
    fn a_shorter_delay_does_not_reorder() {
        let mut shaper = Shaper::new(
            Shape {
                delay_ns: 50 * MS,
                ..Shape::default()
            },
            1,
        );
        assert_eq!(shaper.admit(0, 1500), Some(50 * MS));
        shaper.set(Shape::default());
        assert_eq!(shaper.admit(MS, 1500), Some(50 * MS));
    }
}

//! The cold lane: each finished delivery. The first to be shed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_proto::v1::{self, Lane};

use super::Private;
use super::hot::unix_ns_of;
use super::lane::{Common, Made, Numbers, Room, Source};
use super::queue::Queue;
use crate::query::Followed;
use crate::wire;

/// Deliveries in one frame: about a tenth of a millisecond's work, and some ten kilobytes.
const PER_FRAME: usize = 128;
/// They are many, and nobody waits for them: collected for so long.
const COLLECT: Duration = Duration::from_millis(200);
/// Even if there is nothing to tell, the counts are told so often.
const LEAST: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Cold {
    numbers: Numbers,
    deliveries: Arc<Queue<Box<Followed>>>,
    /// Deliveries that were put into frames.
    taken: u64,
    /// Of the latest frame.
    sent: Instant,
    shed_told: u64,
    private: Private,
    is_finishing: bool,
}

impl Cold {
    pub(super) fn new(
        common: Common,
        deliveries: Arc<Queue<Box<Followed>>>,
        private: Private,
    ) -> Self {
        Self {
            numbers: Numbers::new(Lane::Cold, common),
            deliveries,
            taken: 0,
            sent: Instant::now(),
            shed_told: 0,
            private,
            is_finishing: false,
        }
    }
}

impl Source for Cold {
    const LANE: Lane = Lane::Cold;
    const TICKS_ARE_BUDGETED: bool = false;

    fn has_next(&self, room: Room) -> bool {
        let waiting = self.deliveries.len();
        let since_last = self.sent.elapsed();
        let is_enough = waiting >= PER_FRAME || (waiting > 0 && since_last >= COLLECT);
        let shed = self.deliveries.counts().shed;
        let is_last = self.is_finishing && (waiting > 0 || shed > self.shed_told);
        room.budgeted && (is_enough || is_last || since_last >= LEAST)
    }

    fn next(&mut self, room: Room) -> Option<Made> {
        if !room.budgeted {
            return None;
        }
        let taken = self.deliveries.take(PER_FRAME);
        let counts = self.deliveries.counts();
        self.taken += taken.len() as u64;
        self.sent = Instant::now();
        self.shed_told = counts.shed;
        self.numbers.items(counts);
        let since = taken.first().map_or(self.sent, |(_, since)| *since);
        let private = &mut self.private;
        let deliveries: Vec<_> = taken
            .iter()
            .map(|(followed, _)| {
                let Followed {
                    record,
                    cell,
                    context,
                } = &**followed;
                private.delivery(wire::delivery(record, cell, context))
            })
            .collect();
        let head = self.numbers.next();
        let frame = v1::Frame {
            unix_ns: unix_ns_of(since),
            deliveries,
            deliveries_total: self.taken + counts.shed,
            lanes: self.numbers.all(),
            ..head
        };
        Some(Made::frame(frame, since))
    }

    async fn hear(&mut self) {
        let wait = COLLECT.saturating_sub(self.sent.elapsed());
        tokio::time::sleep(wait.max(COLLECT / 4)).await;
        self.numbers.items(self.deliveries.counts());
    }

    fn begin(&mut self, _last_seq: u64) {}

    fn finish(&mut self) {
        self.is_finishing = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_of_nothing_is_of_now() {
        let common = Common {
            hello: v1::Hello::default(),
            counts: Arc::default(),
            pressure: Arc::default(),
        };
        let mut cold = Cold::new(common, Arc::new(Queue::new(1)), Private::default());
        let before = unix_ns_of(Instant::now());
        let room = Room {
            tick: true,
            budgeted: true,
            again: false,
        };
        let made = cold.next(room).unwrap();
        let v1::edge_message::Message::Frame(frame) = made.message else {
            panic!("no frame");
        };
        let after = unix_ns_of(Instant::now());
        assert!(
            (before..=after).contains(&frame.unix_ns),
            "{}",
            frame.unix_ns
        );
    }
}

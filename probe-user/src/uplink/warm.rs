//! The warm lane: every cell with its distributions. Cumulative: the newest is worth all before it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{Notify, watch};
use weir_proto::v1::{self, Lane};

use super::Tick;
use super::lane::{Common, Made, Room, Source};
use crate::wire;

/// A tick's cells as frames have them.
#[derive(Clone, Debug, Default)]
pub struct Encoded(OnceLock<Vec<Bytes>>);

impl Tick {
    /// Its cells as frames have them: made once, for the lane, for the ring and for each repetition.
    pub(crate) fn encoded(&self) -> &[Bytes] {
        self.encoded.0.get_or_init(|| {
            let heard = wire::Heard::of(&self.losses);
            let cells = self.cells.iter();
            cells
                .map(|cell| wire::cell(cell, 1, heard).encode_to_vec().into())
                .collect()
        })
    }
}

#[derive(Debug)]
pub(super) struct Warm {
    common: Common,
    ticks: watch::Receiver<Option<Arc<Tick>>>,
    /// The newest, while it is not sent.
    tick: Option<Arc<Tick>>,
    /// Hears that a collector knows nothing of this boot.
    unknown: Arc<Notify>,
}

impl Warm {
    pub(super) fn new(
        common: Common,
        ticks: watch::Receiver<Option<Arc<Tick>>>,
        unknown: Arc<Notify>,
    ) -> Self {
        Self {
            common,
            ticks,
            tick: None,
            unknown,
        }
    }

    fn take_tick(&mut self) {
        let Some(newest) = self.ticks.borrow_and_update().clone() else {
            return;
        };
        let before = self.tick.replace(newest);
        self.common.counts.count(Lane::Warm, |counts| {
            counts.frames_made += 1;
            counts.frames_shed += u64::from(before.is_some());
        });
    }
}

/// A tick in full. Its number is the tick's, so that it is the same frame whoever sends it: this
/// boot, or the next from the ring on disk.
pub(super) fn frame(tick: &Tick, hello: &v1::Hello, lanes: Vec<v1::LaneCounts>) -> v1::Frame {
    v1::Frame {
        host: hello.host.clone(),
        boot_id: hello.boot_id.clone(),
        lane: Lane::Warm.into(),
        seq: tick.seq,
        tick_seq: tick.seq,
        unix_ns: tick.unix_ns,
        interval_ms: tick.interval_ms,
        config_generation: tick.config_generation,
        losses: Some(tick.losses),
        cells: tick.encoded().to_vec(),
        tick: true,
        off: tick.off.clone(),
        budget: tick.budget.clone(),
        lanes,
        ..v1::Frame::default()
    }
}

impl Source for Warm {
    const LANE: Lane = Lane::Warm;
    const TICKS_ARE_BUDGETED: bool = true;

    fn has_next(&self, room: Room) -> bool {
        room.tick && self.tick.is_some()
    }

    fn next(&mut self, room: Room) -> Option<Made> {
        let tick = self.tick.take_if(|_| room.tick)?;
        let frame = frame(&tick, &self.common.hello, self.common.counts.counts());
        Some(Made::frame(frame, tick.made))
    }

    async fn hear(&mut self) {
        match self.ticks.changed().await {
            Ok(()) => self.take_tick(),
            Err(_) => std::future::pending().await,
        }
    }

    fn begin(&mut self, last_seq: u64) {
        if last_seq == 0 {
            self.unknown.notify_one();
        }
        if self.tick.is_none() {
            self.tick.clone_from(&self.ticks.borrow_and_update());
        }
    }

    fn finish(&mut self) {
        if self.ticks.has_changed().unwrap_or(true) {
            self.take_tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cell, tick};
    use super::*;

    #[test]
    fn a_tick_that_is_sent_and_kept_is_encoded_once() {
        let tick = tick(3, vec![cell("a", 7), cell("b", 9)]);
        let hello = v1::Hello::default();
        let [sent, kept] = [(); 2].map(|()| frame(&tick, &hello, Vec::new()));
        assert_eq!(sent.cells.len(), 2);
        for (sent, kept) in sent.cells.iter().zip(&kept.cells) {
            assert_eq!(sent.as_ptr(), kept.as_ptr());
        }
        let cell = v1::Cell::decode(&sent.cells[1][..]).unwrap();
        assert_eq!(cell.counters.unwrap().deliveries, 9);
    }
}

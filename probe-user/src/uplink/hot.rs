//! The hot lane: the vital frame at its interval, and what must be known at once.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use weir_proto::v1::{self, Lane};

use super::drill::Ends;
use super::lane::{Common, Made, Numbers, Room, Source};
use super::queue::Queue;
use super::{HotEvent, Private, Tick, vital};

/// Events in one frame: as long as a vital frame or two, so that none waits behind many.
const EVENTS_PER_FRAME: usize = 32;

#[derive(Debug)]
pub(super) struct Hot {
    numbers: Numbers,
    ticks: watch::Receiver<Option<Arc<Tick>>>,
    /// The newest, while it is not sent.
    tick: Option<Arc<Tick>>,
    events: Arc<Queue<HotEvent>>,
    gate: Option<watch::Receiver<Option<v1::GateWord>>>,
    /// Events that were put into frames.
    taken: u64,
    private: Private,
    drills: Ends,
}

impl Hot {
    pub(super) fn new(
        common: Common,
        ticks: watch::Receiver<Option<Arc<Tick>>>,
        events: Arc<Queue<HotEvent>>,
        gate: Option<watch::Receiver<Option<v1::GateWord>>>,
        private: Private,
        drills: Ends,
    ) -> Self {
        Self {
            numbers: Numbers::new(Lane::Hot, common),
            ticks,
            tick: None,
            events,
            gate,
            taken: 0,
            private,
            drills,
        }
    }

    fn take_tick(&mut self) {
        let newest = self.ticks.borrow_and_update().clone();
        if newest.is_some() && std::mem::replace(&mut self.tick, newest).is_some() {
            self.numbers.shed();
        }
    }

    /// Events until now: those that were sent, and those that never will be.
    fn total(&self) -> u64 {
        self.taken + self.events.counts().shed
    }

    fn events(&mut self) -> Option<Made> {
        let events = self.events.take(EVENTS_PER_FRAME);
        let (_, since) = events.first()?;
        let since = *since;
        self.taken += events.len() as u64;
        self.drills.tap(&events);
        let private = &mut self.private;
        let events: Vec<_> = events
            .iter()
            .map(|(event, _)| private.event(event))
            .collect();
        self.numbers.items(self.events.counts());
        let head = self.numbers.next();
        let frame = v1::Frame {
            unix_ns: unix_ns_of(since),
            events,
            events_total: self.total(),
            ..head
        };
        Some(Made::frame(frame, since))
    }
}

impl Source for Hot {
    const LANE: Lane = Lane::Hot;
    const TICKS_ARE_BUDGETED: bool = false;
    const GOES_ON: bool = true;

    fn has_next(&self, room: Room) -> bool {
        !self.drills.answers.is_empty()
            || (room.tick && self.tick.is_some())
            || (room.budgeted && !self.events.is_empty())
    }

    /// The vital frame first: it is small, and comes once per interval.
    fn next(&mut self, room: Room) -> Option<Made> {
        if room.tick
            && let Some(tick) = self.tick.take()
        {
            self.numbers.items(self.events.counts());
            let head = v1::Frame {
                gate: self.gate.as_ref().and_then(|gate| *gate.borrow()),
                events_total: self.total(),
                ..self.numbers.next()
            };
            let frame = vital::frame(&tick, head, self.numbers.all());
            return Some(Made::frame(frame, tick.made));
        }
        if let Some((message, since)) = self.drills.answers.take(1).pop() {
            return Some(Made { message, since });
        }
        if room.budgeted { self.events() } else { None }
    }

    async fn hear(&mut self) {
        tokio::select! {
            Ok(()) = self.ticks.changed() => self.take_tick(),
            // What waits already is no news.
            () = self.events.ready(), if self.events.is_empty() => {}
            () = self.drills.answers.ready(), if self.drills.answers.is_empty() => {}
            else => std::future::pending().await,
        }
    }

    fn begin(&mut self, _last_seq: u64) {
        if self.tick.is_none() {
            self.tick.clone_from(&self.ticks.borrow_and_update());
        }
    }

    fn obey(&mut self, wish: v1::collector_message::Message) {
        self.drills.wish(wish);
    }

    fn finish(&mut self) {
        if self.ticks.has_changed().unwrap_or(true) {
            self.take_tick();
        }
    }
}

impl Drop for Hot {
    fn drop(&mut self) {
        let waiting = self.events.take(usize::MAX).len();
        if waiting > 0 {
            tracing::debug!(waiting, "events were not sent");
        }
    }
}

/// When a frame's content was made.
pub(super) fn age_us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// What the clock says of that moment, as long as it has not stepped since: with the age, the time
/// of sending.
pub(super) fn unix_ns_of(since: Instant) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let then = now.unwrap_or_default().saturating_sub(since.elapsed());
    u64::try_from(then.as_nanos()).unwrap_or(u64::MAX)
}

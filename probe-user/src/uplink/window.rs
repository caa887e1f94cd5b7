//! Frames that were sent and are not acknowledged: what may follow them, what is sent again, and
//! whether the other side still answers. Pure: time enters as an argument.
//!
//! A frame is *taken* when the collector has merged it, and *acknowledged* when it is safe: when what
//! stands behind the collector has it, too. The way there is held up by what is not taken alone.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;
use weir_proto::v1;

/// Frames of events or deliveries that are under way: beyond, what comes waits, where it can be shed.
const UNDER_WAY: usize = 32;
/// Ticks that are under way: a third would only make the newest wait.
const TICKS_UNDER_WAY: usize = 2;
/// A tick that is under way for so long makes no newer one wait.
const TICK_PATIENCE: Duration = Duration::from_secs(2);
/// Frames that are taken and not acknowledged: of more, the oldest are not sent again. The collector
/// holds as many receipts of a connection.
const KEPT: usize = 512;
/// And in bytes.
const KEPT_BYTES: usize = 4 << 20;
/// What is not acknowledged for so long is sent again, although the connection stands: the collector
/// had no room to hold it until it was safe.
const REPEAT: Duration = Duration::from_secs(20);
/// A collector that answers nothing for so long is not there any more.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be sent again.
    Again,
    UnderWay,
    Taken,
}

#[derive(Debug)]
struct Sent {
    seq: u64,
    at: Instant,
    is_tick: bool,
    state: State,
    /// None: what is in it is in the next tick, too.
    kept: Option<v1::Frame>,
    bytes: usize,
}

/// Those of one lane.
#[derive(Debug)]
pub(super) struct Window {
    /// In the order in which they were sent first.
    sent: VecDeque<Sent>,
    /// Whether new events go on while those that are taken are not acknowledged.
    goes_on: bool,
    /// When the collector said something last.
    answered: Instant,
}

impl Window {
    pub(super) fn new(goes_on: bool, now: Instant) -> Self {
        Self {
            sent: VecDeque::new(),
            goes_on,
            answered: now,
        }
    }

    /// Frames that are not acknowledged.
    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// There is a new connection: what is said once must be sent again.
    pub(super) fn begin(&mut self, now: Instant) {
        self.answered = now;
        self.sent.retain(|sent| sent.kept.is_some());
        for sent in &mut self.sent {
            sent.state = State::Again;
        }
    }

    /// A frame is sent for the first time.
    pub(super) fn push(&mut self, frame: &v1::Frame, now: Instant) {
        let is_kept = !frame.events.is_empty() || !frame.deliveries.is_empty();
        self.sent.push_back(Sent {
            seq: frame.seq,
            at: now,
            is_tick: frame.tick,
            state: State::UnderWay,
            bytes: if is_kept { frame.encoded_len() } else { 0 },
            kept: is_kept.then(|| frame.clone()),
        });
        self.forget();
    }

    /// More than may be kept is not sent again. What a collector has taken it has; of what it has
    /// not, it misses the count.
    fn forget(&mut self) {
        let kept = self.sent.iter().filter(|sent| sent.kept.is_some());
        let (mut frames, mut bytes) = kept.fold((0, 0), |(frames, bytes), sent| {
            (frames + 1, bytes + sent.bytes)
        });
        let mut ticks = self.sent.iter().filter(|sent| sent.is_tick).count();
        self.sent.retain_mut(|sent| {
            if sent.is_tick && sent.kept.is_none() {
                // A newer one has all of it.
                let is_old = ticks > UNDER_WAY;
                ticks -= usize::from(is_old);
                return !is_old;
            }
            if sent.kept.is_none() || (frames <= KEPT && bytes <= KEPT_BYTES) {
                return true;
            }
            frames -= 1;
            bytes -= std::mem::take(&mut sent.bytes);
            sent.kept = None;
            sent.state == State::UnderWay
        });
    }

    /// The oldest that is to be sent again.
    pub(super) fn again(&mut self, now: Instant) -> Option<v1::Frame> {
        if !self.has_again() {
            return None;
        }
        let is_due = |sent: &&mut Sent| sent.state == State::Again;
        let sent = self.sent.iter_mut().find(is_due)?;
        sent.state = State::UnderWay;
        sent.at = now;
        sent.kept.clone()
    }

    /// Whether one is to be sent again, and may be now.
    pub(super) fn has_again(&self) -> bool {
        self.items_under_way() < UNDER_WAY
            && self.sent.iter().any(|sent| sent.state == State::Again)
    }

    fn items_under_way(&self) -> usize {
        let is_counted = |sent: &&Sent| sent.state == State::UnderWay && !sent.is_tick;
        self.sent.iter().filter(is_counted).count()
    }

    /// For a frame of a tick.
    pub(super) fn has_room_for_tick(&self, now: Instant) -> bool {
        let is_awaited = |sent: &&Sent| {
            let is_late = now.saturating_duration_since(sent.at) >= TICK_PATIENCE;
            sent.is_tick && sent.state == State::UnderWay && !is_late
        };
        self.sent.iter().filter(is_awaited).count() < TICKS_UNDER_WAY
    }

    /// For a frame of events or deliveries.
    pub(super) fn has_room(&self) -> bool {
        let of_now = self.items_under_way();
        let is_item = |sent: &&Sent| !sent.is_tick;
        of_now < UNDER_WAY && (self.goes_on || self.sent.iter().filter(is_item).count() < UNDER_WAY)
    }

    /// The collector said something.
    pub(super) fn answered(&mut self, now: Instant) {
        self.answered = now;
    }

    /// A frame is safe.
    pub(super) fn acknowledge(&mut self, seq: u64) {
        self.sent.retain(|sent| sent.seq != seq);
    }

    /// The collector has these, and keeps their host's acknowledgement until they are safe.
    pub(super) fn taken(&mut self, seqs: &[u64]) {
        for sent in &mut self.sent {
            if sent.state == State::UnderWay && seqs.contains(&sent.seq) {
                sent.state = State::Taken;
            }
        }
        // What is forgotten cannot be sent again: there is nothing to wait for.
        self.sent
            .retain(|sent| sent.is_tick || sent.kept.is_some() || sent.state != State::Taken);
    }

    /// Since when the oldest is under way.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let under_way = |sent: &&Sent| sent.state == State::UnderWay;
        self.sent.iter().filter(under_way).map(|sent| sent.at).min()
    }

    /// When the other side is given up, if it says nothing until then.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.oldest()?.max(self.answered) + ANSWER_TIMEOUT)
    }

    /// Marks what must be sent again by now. Gives when that is to be asked next.
    pub(super) fn repeat(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for sent in &mut self.sent {
            if sent.kept.is_none() || sent.state == State::Again {
                continue;
            }
            let due = sent.at + REPEAT;
            if due <= now {
                sent.state = State::Again;
            } else {
                next = Some(next.map_or(due, |next: Instant| next.min(due)));
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(seq: u64) -> v1::Frame {
        v1::Frame {
            seq,
            events: vec![v1::HotEvent::default()],
            ..v1::Frame::default()
        }
    }

    fn tick(seq: u64) -> v1::Frame {
        v1::Frame {
            seq,
            tick: true,
            ..v1::Frame::default()
        }
    }

    fn filled(goes_on: bool, now: Instant) -> Window {
        let mut window = Window::new(goes_on, now);
        for seq in 1..=UNDER_WAY as u64 {
            assert!(window.has_room());
            window.push(&items(seq), now);
        }
        window
    }

    #[test]
    fn events_that_are_not_acknowledged_make_no_tick_wait() {
        let now = Instant::now();
        let mut window = filled(true, now);
        assert!(!window.has_room() && window.has_room_for_tick(now));
        window.push(&tick(100), now);
        window.push(&tick(101), now);
        assert!(!window.has_room_for_tick(now));
        window.taken(&[100]);
        assert!(window.has_room_for_tick(now));
    }

    #[test]
    fn what_is_taken_is_not_under_way_and_only_urgent_lanes_go_on_with_more() {
        let now = Instant::now();
        let seqs: Vec<_> = (1..=UNDER_WAY as u64).collect();
        for goes_on in [true, false] {
            let mut window = filled(goes_on, now);
            assert_eq!(window.deadline(), Some(now + ANSWER_TIMEOUT));
            window.taken(&seqs);
            assert_eq!(window.oldest(), None);
            assert_eq!(window.deadline(), None);
            assert_eq!(window.has_room(), goes_on);
            assert_eq!(window.len(), UNDER_WAY);
            for seq in &seqs {
                window.acknowledge(*seq);
            }
            assert!(window.is_empty() && window.has_room());
        }
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_by_and_by_and_on_each_new_connection() {
        let start = Instant::now();
        let mut window = Window::new(true, start);
        for seq in 1..=2 {
            window.push(&items(seq), start);
        }
        window.push(&tick(3), start);
        window.taken(&[1, 3]);
        assert_eq!(window.repeat(start), Some(start + REPEAT));
        assert!(!window.has_again());
        let later = start + REPEAT;
        assert_eq!(window.repeat(later), None);
        assert_eq!(window.again(later).unwrap().seq, 1);
        assert_eq!(window.again(later).unwrap().seq, 2);
        assert_eq!(window.again(later), None);
        window.acknowledge(1);
        window.begin(later);
        assert_eq!((window.len(), window.oldest()), (1, None));
        assert_eq!(window.again(later).unwrap().seq, 2);
        assert_eq!(window.oldest(), Some(later));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let now = Instant::now();
        let mut window = Window::new(true, now);
        for seq in 1..=3 * KEPT as u64 {
            window.push(&items(seq), now);
            window.taken(&[seq]);
            window.push(&tick(seq), now);
            window.taken(&[seq]);
        }
        assert_eq!(window.len(), KEPT + UNDER_WAY);
        window.begin(now);
        let first = window.again(now).unwrap().seq;
        assert_eq!(first, 2 * KEPT as u64 + 1);
    }
}

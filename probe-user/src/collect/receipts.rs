//! Which frames of one connection wait for the engine, and when their host hears that they are safe.
//!
//! What a newer tick says again need not be in the engine itself: a tick is acknowledged when the
//! engine has it, or when a newer one of the same connection is merged, which then is the one that
//! waits. So the newest is always the host's to repeat, and an engine that is away keeps no host
//! from saying how things are. Events and deliveries are said once, and wait.

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use super::engine::{Error, Receipt};

/// Frames of one connection that wait: as many as a host keeps to send again.
const MOST: usize = 512;

/// What became of a frame.
pub(super) type Settled = (u64, Result<(), Error>);

/// Those that wait.
#[derive(Default)]
pub(super) struct Receipts {
    items: FuturesUnordered<BoxFuture<'static, Settled>>,
    /// The newest tick; without a receipt, the engine's buffer was full.
    tick: Option<(u64, Option<Receipt>)>,
}

impl Receipts {
    pub(super) fn has_room(&self) -> bool {
        self.items.len() < MOST
    }

    /// A frame with events or deliveries waits.
    pub(super) fn item(&mut self, seq: u64, receipt: Receipt) {
        self.items.push(Box::pin(async move {
            let settled = receipt.await.unwrap_or(Err(Error::Ended));
            (seq, settled)
        }));
    }

    /// A tick waits. Gives the one before it, which need not any more.
    pub(super) fn tick(&mut self, seq: u64, receipt: Option<Receipt>) -> Option<u64> {
        match &mut self.tick {
            // Late: the newer one has it all.
            Some((newest, _)) if *newest > seq => Some(seq),
            // Sent again: it is no newer one, and waits as before. Under its one name the engine has
            // it when it has either; what was handed over first is not given up.
            Some((newest, waiting)) if *newest == seq => {
                *waiting = waiting.take().or(receipt);
                None
            }
            _ => self.tick.replace((seq, receipt)).map(|(before, _)| before),
        }
    }

    /// The next that is settled; never, if none waits.
    pub(super) async fn next(&mut self) -> Settled {
        let tick = async {
            match &mut self.tick {
                Some((seq, Some(receipt))) => (*seq, receipt.await.unwrap_or(Err(Error::Ended))),
                _ => std::future::pending().await,
            }
        };
        let settled = tokio::select! {
            settled = tick => settled,
            Some(settled) = self.items.next() => return settled,
        };
        self.tick = None;
        settled
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn the_newest_tick_waits_and_those_before_it_do_not() {
        let mut receipts = Receipts::default();
        let (one, receipt) = oneshot::channel();
        assert_eq!(receipts.tick(1, Some(receipt)), None);
        let (two, receipt) = oneshot::channel();
        assert_eq!(receipts.tick(2, Some(receipt)), Some(1));
        // What the engine says of the older does not matter any more.
        let _ = one.send(Ok(()));
        assert_eq!(receipts.next().now_or_never(), None);
        two.send(Ok(())).unwrap();
        assert_eq!(receipts.next().now_or_never(), Some((2, Ok(()))));
        assert_eq!(receipts.next().now_or_never(), None);
        // A full buffer: it is never settled, but by a newer one.
        assert_eq!(receipts.tick(3, None), None);
        assert_eq!(receipts.next().now_or_never(), None);
        assert_eq!(receipts.tick(4, None), Some(3));
        assert_eq!(receipts.tick(3, None), Some(3));
    }

    #[test]
    fn a_tick_that_is_sent_again_waits_as_before() {
        let mut receipts = Receipts::default();
        let (first, receipt) = oneshot::channel();
        assert_eq!(receipts.tick(2, Some(receipt)), None);
        let (_second, receipt) = oneshot::channel();
        assert_eq!(receipts.tick(2, Some(receipt)), None);
        assert_eq!(receipts.tick(2, None), None);
        assert_eq!(receipts.next().now_or_never(), None);
        first.send(Ok(())).unwrap();
        assert_eq!(receipts.next().now_or_never(), Some((2, Ok(()))));
        // The buffer was full at first; then it was not.
        assert_eq!(receipts.tick(3, None), None);
        let (again, receipt) = oneshot::channel();
        assert_eq!(receipts.tick(3, Some(receipt)), None);
        assert_eq!(receipts.next().now_or_never(), None);
        again.send(Ok(())).unwrap();
        assert_eq!(receipts.next().now_or_never(), Some((3, Ok(()))));
    }

    #[test]
    fn what_is_said_once_waits_each_for_itself_and_not_without_bound() {
        let mut receipts = Receipts::default();
        let mut senders = Vec::new();
        for seq in 0..MOST as u64 {
            assert!(receipts.has_room());
            let (sender, receipt) = oneshot::channel();
            receipts.item(seq, receipt);
            senders.push(sender);
        }
        assert!(!receipts.has_room());
        assert_eq!(receipts.next().now_or_never(), None);
        senders.remove(7).send(Ok(())).unwrap();
        assert_eq!(receipts.next().now_or_never(), Some((7, Ok(()))));
        assert!(receipts.has_room());
        drop(senders);
        assert!(matches!(
            receipts.next().now_or_never(),
            Some((_, Err(Error::Ended)))
        ));
    }
}

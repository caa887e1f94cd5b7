//! Frames of one connection that are merged and not safe yet, and what their host hears meanwhile.
//!
//! However long the engine takes, the host is read on: how things are must be known here. It hears
//! soon that its frame is taken, so that it does not think the way here held up, and that it is safe
//! when it is. What there is no room to wait for is not acknowledged, and sent again by its host.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::engine::Receipt;
use super::receipts::{Receipts, Settled};

/// An engine that is well has acknowledged by then, and nothing needs to be said twice.
const SOON: Duration = Duration::from_millis(200);

/// What a host is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A frame is safe, or never will be.
    Settled(Settled),
    /// These are here.
    Taken(Vec<u64>),
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Waiting {
    receipts: Receipts,
    /// Of those that wait each for itself.
    items: HashSet<u64>,
    /// Their host does not know yet that they are here; oldest first.
    untold: VecDeque<(u64, Instant)>,
}

impl Waiting {
    /// Whether a frame waits that is not a tick.
    pub(super) fn has(&self, seq: u64) -> bool {
        self.items.contains(&seq)
    }

    /// Says once more that a frame is here.
    pub(super) fn tell(&mut self, seq: u64) {
        self.untold.push_back((seq, Instant::now() + SOON));
    }

    /// A frame waits; without a receipt, the engine's buffer was full. Gives what need not wait any
    /// more.
    pub(super) fn add(
        &mut self,
        seq: u64,
        is_only_tick: bool,
        receipt: Option<Receipt>,
    ) -> Option<u64> {
        self.tell(seq);
        let safe = if is_only_tick {
            self.receipts.tick(seq, receipt)
        } else {
            if let Some(receipt) = receipt
                && self.receipts.has_room()
            {
                self.receipts.item(seq, receipt);
                self.items.insert(seq);
            }
            None
        };
        if let Some(safe) = safe {
            self.untold.retain(|(seq, _)| *seq != safe);
        }
        safe
    }

    /// The next that is to be told; never, if there is nothing. May be dropped.
    pub(super) async fn next(&mut self) -> News {
        let first = self.untold.front().map(|(_, at)| *at);
        let soon = async {
            match first {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            settled = self.receipts.next() => {
                let seq = settled.0;
                self.items.remove(&seq);
                self.untold.retain(|(untold, _)| *untold != seq);
                News::Settled(settled)
            }
            () = soon => {
                let now = Instant::now();
                let due = self.untold.iter().take_while(|(_, at)| *at <= now).count();
                let due = self.untold.drain(..due.max(1));
                News::Taken(due.map(|(seq, _)| seq).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    /// All that are told to be here.
    async fn taken(waiting: &mut Waiting) -> Vec<u64> {
        let mut taken = Vec::new();
        while !waiting.untold.is_empty() {
            match waiting.next().await {
                News::Taken(seqs) => taken.extend(seqs),
                News::Settled(settled) => panic!("{settled:?}"),
            }
        }
        taken
    }

    #[tokio::test]
    async fn a_host_hears_soon_that_its_frame_is_here_and_later_that_it_is_safe() {
        let mut waiting = Waiting::default();
        let (first, receipt) = oneshot::channel();
        assert_eq!(waiting.add(1, false, Some(receipt)), None);
        let (second, receipt) = oneshot::channel();
        assert_eq!(waiting.add(2, true, Some(receipt)), None);
        // The buffer is full.
        assert_eq!(waiting.add(3, false, None), None);
        assert!(waiting.has(1) && !waiting.has(2) && !waiting.has(3));
        // What is safe at once is said once.
        second.send(Ok(())).unwrap();
        assert_eq!(
            waiting.next().now_or_never(),
            Some(News::Settled((2, Ok(()))))
        );
        assert_eq!(taken(&mut waiting).await, [1, 3]);
        waiting.tell(1);
        first.send(Ok(())).unwrap();
        assert_eq!(waiting.next().await, News::Settled((1, Ok(()))));
        assert!(!waiting.has(1) && waiting.untold.is_empty());
    }

    #[tokio::test]
    async fn what_finds_no_room_is_told_to_be_here_and_waits_for_nothing() {
        let mut waiting = Waiting::default();
        let mut senders = Vec::new();
        let mut seq = 0;
        while waiting.receipts.has_room() {
            let (sender, receipt) = oneshot::channel();
            seq += 1;
            waiting.add(seq, false, Some(receipt));
            senders.push(sender);
        }
        let (_sender, receipt) = oneshot::channel();
        waiting.add(seq + 1, false, Some(receipt));
        assert!(waiting.has(seq) && !waiting.has(seq + 1));
        assert_eq!(taken(&mut waiting).await, (1..=seq + 1).collect::<Vec<_>>());
    }
}

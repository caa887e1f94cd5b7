//! The two ways out, as those of the kernel programs: bounded in bytes, and counting what found no
//! room.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context as _, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use probe_ebpf::record::{Delivery, SessionEnd, SessionStart};

use crate::kernel::{Record, RingCounts};

/// One record on its way to the daemon.
#[derive(Clone, Copy, Debug)]
pub(super) enum Queued {
    Start(SessionStart),
    End(SessionEnd),
    Delivery(Delivery),
}

impl Queued {
    /// What it would take in a ring of the kernel.
    fn bytes(&self) -> usize {
        match self {
            Self::Start(_) => size_of::<SessionStart>(),
            Self::End(_) => size_of::<SessionEnd>(),
            Self::Delivery(_) => size_of::<Delivery>(),
        }
    }

    fn record(&self) -> Record<'_> {
        match self {
            Self::Start(record) => Record::SessionStart(record),
            Self::End(record) => Record::SessionEnd(record),
            Self::Delivery(record) => Record::Delivery(record),
        }
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Queue {
    records: VecDeque<Queued>,
    bytes: usize,
    max_bytes: usize,
    counts: RingCounts,
    /// Readable while records wait.
    wake: EventFd,
}

impl Queue {
    pub(super) fn new(max_bytes: u32) -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            records: VecDeque::new(),
            bytes: 0,
            max_bytes: max_bytes as usize,
            counts: RingCounts::default(),
            wake: EventFd::from_flags(flags).context("making an eventfd")?,
        })
    }

    /// Takes a record in, or counts it as lost.
    pub(super) fn push(&mut self, record: Queued) {
        self.counts.seen += 1;
        if self.bytes + record.bytes() > self.max_bytes {
            self.counts.ring_full += 1;
            return;
        }
        self.counts.exported += 1;
        if self.records.is_empty() {
            // Fails only when its count is at the end of its range, and then it is readable.
            let _ = self.wake.write(1);
        }
        self.bytes += record.bytes();
        self.records.push_back(record);
    }

    /// Hands out at most `max`, oldest first; returns how many.
    pub(super) fn drain(&mut self, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize {
        let mut taken = 0;
        while taken < max
            && let Some(queued) = self.records.pop_front()
        {
            self.bytes -= queued.bytes();
            sink(queued.record());
            taken += 1;
        }
        if self.records.is_empty() {
            // Fails only if nothing was written since.
            let _ = self.wake.read();
        }
        taken
    }

    /// Whether so little is left that what can wait should.
    pub(super) fn is_tight(&self) -> bool {
        self.bytes > self.max_bytes / 4 * 3
    }

    pub(super) fn counts(&self) -> RingCounts {
        self.counts
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    fn is_readable(queue: &Queue) -> bool {
        poll(&mut [PollFd::new(queue.as_fd(), PollFlags::POLLIN)], 0_u8) == Ok(1)
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_books_balance() {
        let mut queue = Queue::new(1024).unwrap();
        assert!(!is_readable(&queue));
        for cookie in 0..10 {
            queue.push(Queued::Delivery(Delivery {
                cookie,
                ..Delivery::default()
            }));
        }
        let counts = queue.counts();
        assert_eq!((counts.seen, counts.exported, counts.ring_full), (10, 4, 6));
        assert!(queue.is_tight() && is_readable(&queue));

        let mut cookies = Vec::new();
        let mut sink = |record: Record<'_>| match record {
            Record::Delivery(delivery) => cookies.push(delivery.cookie),
            other => panic!("{other:?}"),
        };
        assert_eq!(queue.drain(3, &mut sink), 3);
        assert!(is_readable(&queue));
        assert_eq!(queue.drain(3, &mut sink), 1);
        assert!(!is_readable(&queue));
        assert_eq!(cookies, [0, 1, 2, 3]);
        queue.push(Queued::Start(SessionStart::default()));
        assert_eq!(queue.counts().exported, 5);
        assert!(is_readable(&queue));
    }
}

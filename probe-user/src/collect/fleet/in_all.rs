//! What several fleets of one collector hold together, so that they share its bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Hosts and cells of all of them.
#[derive(Debug, Default)]
pub struct InAll {
    hosts: AtomicUsize,
    cells: AtomicUsize,
}

/// One fleet's part in it, which goes with it.
#[derive(Debug)]
pub(super) struct Part {
    all: Arc<InAll>,
    hosts: usize,
    cells: usize,
}

impl Part {
    pub(super) fn new(all: Arc<InAll>) -> Self {
        Self {
            all,
            hosts: 0,
            cells: 0,
        }
    }

    /// The fleet holds so much by now.
    pub(super) fn note(&mut self, hosts: usize, cells: usize) {
        for (all, was, is) in [
            (&self.all.hosts, &mut self.hosts, hosts),
            (&self.all.cells, &mut self.cells, cells),
        ] {
            // Of a sum to which each adds what it holds; the order of others does not matter.
            all.fetch_add(is.wrapping_sub(*was), Ordering::Relaxed);
            *was = is;
        }
    }

    /// Hosts of all fleets.
    pub(super) fn hosts(&self) -> usize {
        self.all.hosts.load(Ordering::Relaxed)
    }

    /// Cells of all fleets.
    pub(super) fn cells(&self) -> usize {
        self.all.cells.load(Ordering::Relaxed)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.note(0, 0);
    }
}

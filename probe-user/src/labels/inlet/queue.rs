//! Labels on their way to whoever measures: bounded, and the newest are worth most.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::labels::request::RequestLabel;

#[derive(Debug)]
pub(super) struct Queue {
    labels: Mutex<VecDeque<RequestLabel>>,
    most: usize,
    filled: Notify,
    dropped: AtomicU64,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self {
            labels: Mutex::default(),
            most,
            filled: Notify::new(),
            dropped: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RequestLabel>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of `from`; the oldest make room.
    pub(super) fn put(&self, from: &mut Vec<RequestLabel>) {
        if from.is_empty() {
            return;
        }
        let mut labels = self.lock();
        labels.extend(from.drain(..));
        let excess = labels.len().saturating_sub(self.most);
        labels.drain(..excess);
        drop(labels);
        self.dropped.fetch_add(excess as u64, Ordering::Relaxed);
        self.filled.notify_one();
    }

    /// Moves at most `most` behind those in `to`, oldest first.
    pub(super) fn take(&self, most: usize, to: &mut Vec<RequestLabel>) {
        let mut labels = self.lock();
        let taken = labels.len().min(most);
        to.extend(labels.drain(..taken));
        if !labels.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Waits until something was put.
    pub(super) async fn ready(&self) {
        self.filled.notified().await;
    }

    /// So many made room for others.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

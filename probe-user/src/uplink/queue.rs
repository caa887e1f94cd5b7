//! A queue between the core and a lane: the core never waits, and what there is no room for is the
//! oldest.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// Bounded; made by one side, emptied by the other.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Notify,
    room: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, Instant)>,
    counts: Counts,
    is_over: bool,
}

/// What went through a queue; whatever was made was taken, shed, or waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pushed.
    pub made: u64,
    /// Dropped for a newer one.
    pub shed: u64,
}

impl<T> Queue<T> {
    /// For at most `room` items.
    pub fn new(room: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                counts: Counts::default(),
                is_over: false,
            }),
            ready: Notify::new(),
            room,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item, and wakes who waits for one.
    pub fn push(&self, item: T) {
        self.push_quietly(item);
        self.ready.notify_one();
    }

    /// Adds an item. Nobody is woken: for what comes often and is looked for now and then.
    pub fn push_quietly(&self, item: T) {
        let mut state = self.state();
        state.counts.made += 1;
        let oldest = if state.items.len() >= self.room {
            state.counts.shed += 1;
            state.items.pop_front()
        } else {
            None
        };
        state.items.push_back((item, Instant::now()));
        drop(state);
        drop(oldest);
    }

    /// Takes out at most `most`, oldest first, each with the time it was pushed.
    pub fn take(&self, most: usize) -> Vec<(T, Instant)> {
        let mut state = self.state();
        let most = most.min(state.items.len());
        state.items.drain(..most).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.state().items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.state().items.is_empty()
    }

    /// What went through.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Nothing will be pushed any more.
    pub fn finish(&self) {
        self.state().is_over = true;
        self.ready.notify_one();
    }

    /// Whether nothing waits, and nothing will.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        state.is_over && state.items.is_empty()
    }

    /// Waits until there is something, or nothing will come any more. For one at a time.
    pub async fn ready(&self) {
        loop {
            {
                let state = self.state();
                if state.is_over || !state.items.is_empty() {
                    return;
                }
            }
            self.ready.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_make_room_and_are_counted() {
        let queue = Queue::new(2);
        for item in 1..=5 {
            queue.push(item);
        }
        let of = |taken: Vec<(i32, Instant)>| -> Vec<i32> {
            taken.into_iter().map(|(item, _)| item).collect()
        };
        queue.ready().await;
        assert_eq!(queue.counts(), Counts { made: 5, shed: 3 });
        assert_eq!(of(queue.take(1)), [4]);
        queue.finish();
        assert!(!queue.is_over());
        assert_eq!(of(queue.take(9)), [5]);
        assert!(queue.is_over());
        queue.ready().await;
    }
}

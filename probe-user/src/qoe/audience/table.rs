//! The table of viewers: by key and by place, whose turn it is to be looked at, and who goes first
//! when there is no room.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use hashbrown::HashMap;

use super::{Entry, Key};

/// All viewers. A place is a viewer's own until it is removed.
#[derive(Debug)]
pub(super) struct Viewers {
    places: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: HashMap<Key, u32>,
    /// When to look at whom; what was planned otherwise since is skipped.
    wakes: BinaryHeap<Reverse<(u64, u32)>>,
    /// In the order in which they ended.
    ended: VecDeque<(u64, u32)>,
    /// In the order in which they came; who is gone is skipped.
    arrivals: VecDeque<(u32, u64)>,
    max: usize,
    len: usize,
}

impl Viewers {
    pub(super) fn new(max: usize) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            wakes: BinaryHeap::new(),
            ended: VecDeque::new(),
            arrivals: VecDeque::new(),
            max,
            len: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.len >= self.max
    }

    pub(super) fn get(&self, place: u32) -> Option<&Entry> {
        self.places.get(place as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Entry> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// The viewing under way of this key.
    pub(super) fn find(&self, key: Key) -> Option<u32> {
        let place = *self.index.get(&key)?;
        self.get(place)
            .is_some_and(|entry| !entry.is_ended())
            .then_some(place)
    }

    /// The latest viewing of this key that is not removed yet, whether or not it is over.
    pub(super) fn latest(&self, key: Key) -> Option<&Entry> {
        self.get(*self.index.get(&key)?)
    }

    pub(super) fn iter_from(&self, from: usize) -> impl Iterator<Item = (u32, &Entry)> {
        (0..)
            .zip(&self.places)
            .skip(from)
            .filter_map(|(place, entry)| Some((place, entry.as_ref()?)))
    }

    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
        let (key, t_ns) = (entry.key, entry.t_attempt_ns);
        let place = if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(entry);
            place
        } else {
            self.places.push(Some(entry));
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        };
        self.index.insert(key, place);
        self.arrivals.push_back((place, t_ns));
        self.len += 1;
        self.plan(place);
        place
    }

    pub(super) fn rename(&mut self, place: u32, key: Key) {
        if let Some(entry) = self.get_mut(place) {
            let before = std::mem::replace(&mut entry.key, key);
            self.index.remove(&before);
            self.index.insert(key, place);
        }
    }

    pub(super) fn remove(&mut self, place: u32) {
        let Some(entry) = self.places.get_mut(place as usize).and_then(Option::take) else {
            return;
        };
        if self.index.get(&entry.key) == Some(&place) {
            self.index.remove(&entry.key);
        }
        self.free.push(place);
        self.len -= 1;
    }

    /// Plans the next look at a viewer, or notes that it has ended.
    pub(super) fn plan(&mut self, place: u32) {
        let Some(entry) = self.places.get_mut(place as usize).and_then(Option::as_mut) else {
            return;
        };
        if entry.is_ended() {
            if entry.wake_ns != 0 {
                entry.wake_ns = 0;
                self.ended.push_back((entry.t_updated_ns, place));
            }
            return;
        }
        let wake_ns = entry.model.wake_ns();
        if wake_ns != entry.wake_ns {
            entry.wake_ns = wake_ns;
            if wake_ns != u64::MAX {
                self.wakes.push(Reverse((wake_ns, place)));
            }
        }
        // Plans that were changed stay behind; many of them are cleared out at once.
        if self.wakes.len() > 64 + 4 * self.len {
            let places = &self.places;
            self.wakes.retain(|Reverse((wake_ns, place))| {
                places
                    .get(*place as usize)
                    .and_then(Option::as_ref)
                    .is_some_and(|entry| entry.wake_ns == *wake_ns)
            });
        }
    }

    /// Looks that are planned.
    pub(super) fn planned(&self) -> usize {
        self.wakes.len()
    }

    /// One whose time has come; it is planned anew by whoever looks at it.
    pub(super) fn next_to_wake(&mut self, now_ns: u64) -> Option<u32> {
        while let Some(Reverse((wake_ns, place))) = self.wakes.peek().copied()
            && wake_ns <= now_ns
        {
            self.wakes.pop();
            if let Some(entry) = self.get_mut(place)
                && entry.wake_ns == wake_ns
            {
                entry.wake_ns = u64::MAX;
                return Some(place);
            }
        }
        None
    }

    /// The one that ended first, if that is longer ago than this.
    pub(super) fn ended_before(&mut self, t_ns: u64) -> Option<u32> {
        let (ended_ns, place) = *self.ended.front()?;
        if ended_ns >= t_ns {
            return None;
        }
        self.ended.pop_front();
        Some(place)
    }

    /// Who goes first when there is no room: who has ended longest ago, else who came first.
    pub(super) fn most_forgettable(&mut self) -> Option<u32> {
        if let Some((_, place)) = self.ended.pop_front() {
            return Some(place);
        }
        while let Some((place, t_ns)) = self.arrivals.pop_front() {
            if self
                .get(place)
                .is_some_and(|entry| entry.t_attempt_ns == t_ns)
            {
                return Some(place);
            }
        }
        None
    }
}

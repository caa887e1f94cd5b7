//! From a session's cookie to its place: a hash table whose lines can be fetched ahead of a look-up.
//!
//! Of a million sessions hardly any is in the cache when a record of it comes, and a look-up is then
//! a chain of waits for memory. Libraries' tables do not say where they will look; here each first
//! look is at one known line ([`Index::fetch`]), so that the waits of many look-ups are one.
//! Open addressing, linear probing; removal shifts back what follows, so that nothing is left over.

use crate::prefetch::prefetch;

/// No place.
const NONE: u32 = u32::MAX;
const SMALLEST: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// A part of the cookie's hash: tells most others apart, and says where the entry belongs when
    /// the table grows.
    hash: u32,
    /// [`NONE`]: the entry is empty.
    place: u32,
}

const EMPTY: Entry = Entry {
    hash: 0,
    place: NONE,
};

/// Places by cookie. Whose place it is, only the caller can tell: it is asked.
#[derive(Debug)]
pub(super) struct Index {
    /// A power of two, of which at least a quarter is empty.
    entries: Box<[Entry]>,
    len: usize,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            entries: vec![EMPTY; SMALLEST].into_boxed_slice(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Begins to fetch the line at which a look-up of this cookie begins.
    #[inline]
    pub(super) fn fetch(&self, cookie: u64) {
        prefetch(&self.entries[self.home(hash(cookie))]);
    }

    /// The place of a cookie; `is_its` says whether a place is this cookie's.
    #[inline]
    pub(super) fn find(&self, cookie: u64, is_its: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.at(cookie, is_its)?;
        Some(self.entries[at].place)
    }

    /// The first place that may be this cookie's: a look at it is what [`Index::find`] does next.
    #[inline]
    pub(super) fn guess(&self, cookie: u64) -> Option<u32> {
        self.find(cookie, |_| true)
    }

    /// Adds a cookie that is not there.
    pub(super) fn insert(&mut self, cookie: u64, place: u32) {
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.grow();
        }
        self.put(Entry {
            hash: hash(cookie),
            place,
        });
        self.len += 1;
    }

    /// Removes a cookie's place, if it is there.
    pub(super) fn remove(&mut self, cookie: u64, place: u32) {
        let Some(mut gap) = self.at(cookie, |other| other == place) else {
            return;
        };
        self.len -= 1;
        let mask = self.entries.len() - 1;
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let entry = self.entries[at];
            if entry.place == NONE {
                break;
            }
            // It may move back into the gap unless that lies before where it belongs.
            let from_home = at.wrapping_sub(self.home(entry.hash)) & mask;
            let from_gap = at.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.entries[gap] = entry;
                gap = at;
            }
        }
        self.entries[gap] = EMPTY;
    }

    #[inline]
    fn at(&self, cookie: u64, is_its: impl Fn(u32) -> bool) -> Option<usize> {
        let mask = self.entries.len() - 1;
        let hash = hash(cookie);
        let mut at = self.home(hash);
        loop {
            let entry = self.entries[at];
            if entry.place == NONE {
                return None;
            }
            if entry.hash == hash && is_its(entry.place) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.entries.len() - 1)
    }

    fn put(&mut self, entry: Entry) {
        let mask = self.entries.len() - 1;
        let mut at = self.home(entry.hash);
        while self.entries[at].place != NONE {
            at = (at + 1) & mask;
        }
        self.entries[at] = entry;
    }

    fn grow(&mut self) {
        let larger = vec![EMPTY; self.entries.len() * 2].into_boxed_slice();
        let entries = std::mem::replace(&mut self.entries, larger);
        for entry in entries {
            if entry.place != NONE {
                self.put(entry);
            }
        }
    }
}

/// Cookies are numbered by the kernel and nobody can choose them: it is enough to spread them.
#[inline]
fn hash(cookie: u64) -> u32 {
    (cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_a_map_would_find(
            steps in proptest::collection::vec((any::<bool>(), 0u64..200), 0..800),
            // Cookies of one home: their hashes differ, and their lowest bits do not.
            crowded in any::<bool>(),
        ) {
            let crowd = crowd();
            let cookie = |n: u64| {
                if crowded { crowd[usize::try_from(n).unwrap()] } else { n }
            };
            let (mut index, mut map) = (Index::new(), HashMap::new());
            for (add, n) in steps {
                let place = u32::try_from(n).unwrap();
                if add && map.insert(n, place).is_none() {
                    index.insert(cookie(n), place);
                } else if !add {
                    map.remove(&n);
                    index.remove(cookie(n), place);
                }
                prop_assert_eq!(index.len(), map.len());
            }
            for n in 0..200 {
                let found = index.find(cookie(n), |place| u64::from(place) == n);
                prop_assert_eq!(found, map.get(&n).copied());
            }
        }
    }

    /// Numbers whose hashes end with zeros.
    fn crowd() -> Vec<u64> {
        let ends = |cookie: &u64| hash(*cookie).trailing_zeros() >= 6;
        (0..).filter(ends).take(200).collect()
    }
}

//! An array that grows without moving what is in it: a million sessions are not copied when one
//! more comes, and no room is left behind that was too small.

use std::ops::{Index, IndexMut};

/// Elements allocated together; a power of two.
const CHUNK: usize = 1 << 12;

/// The array.
#[derive(Debug)]
pub(super) struct Chunks<T> {
    /// All full but the last.
    chunks: Vec<Vec<T>>,
}

impl<T> Chunks<T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, Vec::len);
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    pub(super) fn push(&mut self, element: T) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(element),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(element);
                self.chunks.push(chunk);
            }
        }
    }

    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    /// From one place on.
    pub(super) fn iter_from(&self, from: usize) -> impl Iterator<Item = &T> {
        let chunks = self.chunks.get(from / CHUNK..).unwrap_or_default();
        chunks.iter().flatten().skip(from % CHUNK)
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: u32) -> &T {
        let at = at as usize;
        &self.chunks[at / CHUNK][at % CHUNK]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut T {
        let at = at as usize;
        &mut self.chunks[at / CHUNK][at % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_where_it_was_pushed() {
        let mut numbers = Chunks::new();
        assert_eq!((numbers.len(), numbers.get(0)), (0, None));
        let many = u32::try_from(CHUNK).unwrap() * 2 + 3;
        for n in 0..many {
            assert_eq!(numbers.len(), n as usize);
            numbers.push(n);
        }
        assert_eq!((numbers[0], numbers[many - 1]), (0, many - 1));
        assert_eq!(numbers.get(many), None);
        numbers[7] = 70;
        assert_eq!(numbers.get(7), Some(&70));
        for from in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 2] {
            let rest: Vec<_> = numbers.iter_from(from).copied().collect();
            let expected =
                (u32::try_from(from).unwrap()..many).map(|n| if n == 7 { 70 } else { n });
            assert!(rest.into_iter().eq(expected));
        }
        assert_eq!(numbers.iter_from(many as usize).count(), 0);
        assert_eq!(numbers.iter_from(10 * CHUNK).count(), 0);
    }
}

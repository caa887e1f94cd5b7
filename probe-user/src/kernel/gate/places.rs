//! Where each rule counts: a rule that comes again goes on counting where it did, so that its counts
//! are cumulative.

use std::collections::HashMap;

use probe_ebpf::gate::{KEY_BYTES, MAX_RULES};

/// A rule's identity: how long its key is, and the key without its slot.
pub(super) type Name = (u32, [u8; KEY_BYTES]);

/// Places in the map of counts.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: HashMap<Name, u32>,
    given_back: Vec<u32>,
}

impl Places {
    /// The place of a rule, which may be new. None: all are taken, and [`Places::keep`] has to be
    /// called first.
    pub(super) fn of(&mut self, name: Name) -> Option<u32> {
        if let Some(place) = self.taken.get(&name) {
            return Some(*place);
        }
        let unused = u32::try_from(self.taken.len() + self.given_back.len()).ok()?;
        let place = self
            .given_back
            .pop()
            .or_else(|| (unused < MAX_RULES).then_some(unused))?;
        self.taken.insert(name, place);
        Some(place)
    }

    /// Gives back the places of all rules but those that `is_kept` names; returns them.
    pub(super) fn keep(&mut self, is_kept: impl Fn(&Name) -> bool) -> Vec<u32> {
        let mut gone = Vec::new();
        self.taken.retain(|name, place| {
            let stays = is_kept(name);
            if !stays {
                gone.push(*place);
            }
            stays
        });
        self.given_back.extend(&gone);
        gone
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, u32)> {
        self.taken.iter().map(|(name, place)| (name, *place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> Name {
        let mut key = [0; KEY_BYTES];
        key[16..].copy_from_slice(&n.to_be_bytes());
        (160, key)
    }

    #[test]
    fn a_rule_that_comes_again_counts_where_it_did_and_no_two_count_in_one_place() {
        let mut places = Places::default();
        let first: Vec<_> = (0..MAX_RULES).map(|n| places.of(name(n))).collect();
        let distinct: std::collections::HashSet<_> = first.iter().flatten().collect();
        assert_eq!(distinct.len(), MAX_RULES as usize);
        assert!(distinct.iter().all(|place| **place < MAX_RULES));
        assert_eq!(places.of(name(7)), first[7]);
        assert_eq!(places.of(name(MAX_RULES)), None);

        let gone = places.keep(|kept| *kept == name(7));
        assert_eq!(gone.len(), MAX_RULES as usize - 1);
        assert_eq!(places.of(name(7)), first[7]);
        let again: std::collections::HashSet<_> = (MAX_RULES..2 * MAX_RULES - 1)
            .map(|n| places.of(name(n)).unwrap())
            .collect();
        assert_eq!(again.len(), MAX_RULES as usize - 1);
        assert!(!again.contains(&first[7].unwrap()));
        assert_eq!(places.of(name(0)), None);
    }
}

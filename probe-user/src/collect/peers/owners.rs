//! Which collector has which partition: the same at all who know of the same collectors.
//!
//! Rendezvous hashing: each pair of a collector and a partition has a weight, the heaviest has the
//! say, and a collector that comes or goes moves little else. Bounded: nobody has more than his
//! share, so that with few partitions two collectors have half of them each.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

fn weight(collector: &str, partition: u32) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(collector.as_bytes());
    hasher.write_u32(partition.to_be());
    hasher.finish()
}

/// The place among `collectors` of the one that has each partition; none, if there are none.
pub(super) fn assign(partitions: u32, collectors: &[&str]) -> Option<Vec<usize>> {
    if collectors.is_empty() {
        return None;
    }
    let share = (partitions as usize).div_ceil(collectors.len());
    let mut pairs: Vec<_> = (0..partitions)
        .flat_map(|partition| {
            let all = collectors.iter().enumerate();
            all.map(move |(place, name)| {
                (weight(name, partition), partition as usize, place, *name)
            })
        })
        .collect();
    // By weight; whatever order the collectors are given in.
    pairs.sort_unstable_by(|one, other| {
        let (weight, partition, _, name) = other;
        (weight, partition, name).cmp(&(&one.0, &one.1, &one.3))
    });
    let mut owners = vec![None; partitions as usize];
    let mut has = vec![0; collectors.len()];
    for (_, partition, place, _) in pairs {
        if owners[partition].is_none() && has[place] < share {
            owners[partition] = Some(place);
            has[place] += 1;
        }
    }
    // Shares together are at least as many as there are partitions, so that each has found one.
    Some(owners.into_iter().map(|owner| owner.unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(partitions: u32, collectors: &[&'a str]) -> Vec<&'a str> {
        let owners = assign(partitions, collectors).unwrap();
        owners.into_iter().map(|place| collectors[place]).collect()
    }

    #[test]
    fn all_partitions_have_an_owner_and_nobody_has_more_than_a_share() {
        let all: Vec<_> = (0..9).map(|n| format!("collector-{n}")).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        for collectors in 1..=all.len() {
            for partitions in [1, 2, 16, 64] {
                let owners = named(partitions, &all[..collectors]);
                assert_eq!(owners.len(), partitions as usize);
                let share = (partitions as usize).div_ceil(collectors);
                for one in &all {
                    let has = owners.iter().filter(|owner| *owner == one).count();
                    assert!(has <= share, "{one} has {has} of {partitions}");
                }
            }
        }
        assert_eq!(assign(16, &[]), None);
    }

    #[test]
    fn whoever_asks_in_whatever_order_hears_the_same() {
        let forth = named(64, &["a", "b", "c", "d"]);
        assert_eq!(forth, named(64, &["d", "b", "a", "c"]));
    }

    #[test]
    fn who_comes_or_goes_moves_little_else() {
        for n in 0..50 {
            let ids: Vec<_> = (0..4).map(|place| format!("{n}-{place}")).collect();
            let four: Vec<_> = ids.iter().map(String::as_str).collect();
            let before = named(64, &four);
            let after = named(64, &four[..3]);
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(one, other)| one != other);
            // A quarter must; bounds move a few more.
            let moved = moved.count();
            assert!((16..=28).contains(&moved), "{moved} of 64 moved");
        }
    }
}

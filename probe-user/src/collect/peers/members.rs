//! Which collectors live, what each has taken in, and so whose each partition is.
//!
//! Pure: time enters as an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weir_proto::v1::Alive;

use super::owners;

/// Who has said nothing for so long is gone: three times it could have.
const EXPIRY: Duration = Duration::from_millis(3_500);
/// Collectors that are remembered; of more, those that come later are not heard.
const MOST: usize = 256;

/// One that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::collect) struct Member {
    pub(in crate::collect) id: String,
    pub(in crate::collect) name: String,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Members {
    own: Member,
    partitions: u32,
    others: BTreeMap<String, (Alive, Instant)>,
    /// One whose configuration is another, if there is.
    stranger: Option<(String, u32, Instant)>,
}

/// Whom to ask of what.
pub(in crate::collect) type Plan = Vec<(Member, Vec<u32>)>;

impl Members {
    pub(super) fn new(id: String, name: String, partitions: u32) -> Self {
        Self {
            own: Member { id, name },
            partitions,
            others: BTreeMap::new(),
            stranger: None,
        }
    }

    /// One says that it lives. Says whether that is news to this one.
    pub(super) fn hear(&mut self, alive: Alive, now: Instant) -> bool {
        if alive.id == self.own.id || alive.id.is_empty() {
            return false;
        }
        if alive.partitions != self.partitions {
            self.stranger = Some((alive.name, alive.partitions, now));
            return false;
        }
        if alive.is_leaving {
            return self.others.remove(&alive.id).is_some();
        }
        if !self.others.contains_key(&alive.id) && self.others.len() >= MOST {
            return false;
        }
        let before = self.others.insert(alive.id.clone(), (alive.clone(), now));
        before.is_none_or(|(before, _)| before.whole != alive.whole)
    }

    /// One is known to be gone.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        self.others.remove(id).is_some()
    }

    /// Takes out those that have said nothing for too long.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.others.len();
        let lives = |heard: &Instant| now.saturating_duration_since(*heard) < EXPIRY;
        self.others.retain(|_, (_, heard)| lives(heard));
        self.stranger.take_if(|(_, _, heard)| !lives(heard));
        self.others.len() != before
    }

    /// What is wrong with one that cannot be worked together with.
    pub(super) fn complaint(&self) -> Option<String> {
        let (name, partitions, _) = self.stranger.as_ref()?;
        let own = self.partitions;
        Some(format!(
            "the collector {name} has nats.partitions = {partitions}, this one {own}: what it merges \
             is not told here; they must be equal"
        ))
    }

    /// All that live, this one included.
    pub(super) fn live(&self) -> Vec<Member> {
        let others = self.others.values().map(|(alive, _)| Member {
            id: alive.id.clone(),
            name: alive.name.clone(),
        });
        std::iter::once(self.own.clone()).chain(others).collect()
    }

    /// Whose each partition is.
    pub(super) fn owners(&self) -> Vec<Member> {
        let live = self.live();
        let ids: Vec<_> = live.iter().map(|member| member.id.as_str()).collect();
        // There is this one at least.
        let owners = owners::assign(self.partitions, &ids).unwrap_or_default();
        owners
            .into_iter()
            .map(|place| live[place].clone())
            .collect()
    }

    /// Whether another has taken in all of a partition.
    pub(super) fn is_whole_at(&self, id: &str, partition: u32) -> bool {
        let other = self.others.get(id);
        other.is_some_and(|(alive, _)| alive.whole.contains(&partition))
    }

    /// Of each partition, who is asked: whose it is if that has all of it, else one that has, else
    /// whose it is. Everybody is in it, also who is asked of none.
    pub(super) fn plan(&self, own_whole: &[u32]) -> Plan {
        let mut plan: BTreeMap<String, (Member, Vec<u32>)> = self
            .live()
            .into_iter()
            .map(|member| (member.id.clone(), (member, Vec::new())))
            .collect();
        for (partition, owner) in (0..).zip(self.owners()) {
            let is_whole = |id: &str| {
                if id == self.own.id {
                    own_whole.contains(&partition)
                } else {
                    self.is_whole_at(id, partition)
                }
            };
            let chosen = if is_whole(&owner.id) {
                owner.id
            } else {
                let whole = plan.keys().find(|id| is_whole(id)).cloned();
                whole.unwrap_or(owner.id)
            };
            if let Some((_, partitions)) = plan.get_mut(&chosen) {
                partitions.push(partition);
            }
        }
        plan.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(id: &str, whole: &[u32]) -> Alive {
        Alive {
            id: id.into(),
            name: format!("name-{id}"),
            partitions: 16,
            whole: whole.to_vec(),
            ..Alive::default()
        }
    }

    fn members() -> Members {
        Members::new("a".into(), "name-a".into(), 16)
    }

    /// How often each partition is asked of anybody.
    fn asked(plan: &Plan) -> Vec<usize> {
        let of = |partition: u32| {
            let all = plan.iter().flat_map(|(_, partitions)| partitions);
            all.filter(|one| **one == partition).count()
        };
        (0..16).map(of).collect()
    }

    #[test]
    fn who_says_nothing_is_gone_and_who_leaves_is_gone_at_once() {
        let now = Instant::now();
        let mut members = members();
        assert!(members.hear(alive("b", &[]), now));
        assert!(!members.hear(alive("b", &[]), now));
        assert!(members.hear(alive("b", &[1]), now));
        assert!(!members.expire(now + Duration::from_secs(3)));
        assert_eq!(members.live().len(), 2);
        assert!(members.expire(now + Duration::from_secs(4)));
        assert_eq!(members.live().len(), 1);
        members.hear(alive("c", &[]), now);
        let leaving = Alive {
            is_leaving: true,
            ..alive("c", &[])
        };
        assert!(members.hear(leaving, now));
        assert_eq!(members.live().len(), 1);
    }

    #[test]
    fn each_partition_is_asked_of_one_whoever_has_it() {
        let now = Instant::now();
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let mut members = members();
            let mut some = || -> Vec<u32> { (0..16).filter(|_| random.bool()).collect() };
            for id in ["b", "c", "d"] {
                members.hear(alive(id, &some()), now);
            }
            let plan = members.plan(&some());
            assert_eq!(plan.len(), 4);
            assert_eq!(asked(&plan), [1; 16]);
        }
    }

    #[test]
    fn who_comes_is_asked_only_when_it_has_all() {
        let now = Instant::now();
        let mut members = members();
        let all: Vec<_> = (0..16).collect();
        members.hear(alive("b", &[]), now);
        let of_b = |plan: &Plan| plan[1].1.clone();
        assert!(of_b(&members.plan(&all)).is_empty());
        let owners = members.owners().into_iter();
        let to_b: Vec<_> = (0..)
            .zip(owners)
            .filter(|(_, owner)| owner.id == "b")
            .collect();
        let to_b: Vec<u32> = to_b.into_iter().map(|(partition, _)| partition).collect();
        assert_eq!(to_b.len(), 8);
        members.hear(alive("b", &to_b), now);
        assert_eq!(of_b(&members.plan(&all)), to_b);
        // Nobody has it: whose it is.
        members.hear(alive("b", &[]), now);
        assert_eq!(of_b(&members.plan(&[])), to_b);
    }

    #[test]
    fn one_with_other_partitions_is_named_and_has_no_part() {
        let now = Instant::now();
        let mut members = members();
        let stranger = Alive {
            partitions: 32,
            ..alive("b", &[])
        };
        assert!(!members.hear(stranger, now));
        assert_eq!(members.live().len(), 1);
        let complaint = members.complaint().unwrap();
        assert!(
            complaint.contains("name-b") && complaint.contains("32"),
            "{complaint}"
        );
    }
}

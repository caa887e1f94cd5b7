//! Orders on their way to hosts: each is sent again until its host has answered, or until it is too old
//! to be taken there.
//!
//! Pure. One at a time for each host, because each is chained to the one before (`prev_hash`): its
//! generation and its link are given to it when it is first sent, and are the same each time. What
//! comes twice or late is refused by the host's book, which says that it has it; if the host's chain
//! is another (its journal was lost, or another collector ordered), the host says where it stands, and
//! the order is sent once more from there.

use std::collections::{BTreeMap, VecDeque};

use crate::steer::overrides::book::MAX_AGE_NS;
use crate::steer::overrides::{Action, Level, Order};

/// Orders that wait for one host.
const MAX_WAITING: usize = 64;
/// Between two sendings of one, at first; twice that each time, up to the other.
const RETRY_NS: u64 = 500_000_000;
const RETRY_MOST_NS: u64 = 8_000_000_000;

/// Where a host's chain of one level stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub generation: u64,
    pub hash: Option<String>,
}

/// What a host answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is in force there, now or since it came first; here the host's chain stands.
    Taken { head: Head },
    /// It will not be, and why.
    Refused(String),
    /// It does not follow what the host has; here that stands.
    Elsewhere { head: Head, why: String },
}

/// What became of an order at one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    pub host: String,
    pub order: String,
    /// None: it was taken.
    pub refused: Option<String>,
    /// From when it was pushed.
    pub took_ns: u64,
    /// A new chain had to be begun with it.
    pub is_rechained: bool,
}

/// One that is to be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub host: String,
    /// Names this order to this host; the answer has the same.
    pub number: u64,
    pub order: Order,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    order: Order,
    /// Its generation and its link have been given to it.
    is_bound: bool,
    pushed_ns: u64,
    next_ns: u64,
    wait_ns: u64,
    is_rechained: bool,
}

#[derive(Debug, Default)]
struct Host {
    waiting: VecDeque<Waiting>,
    heads: BTreeMap<Level, Head>,
}

/// There is no room for more orders to a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_WAITING} orders wait for {host} already")]
pub struct Full {
    host: String,
}

/// All hosts'.
#[derive(Debug, Default)]
pub struct Outbox {
    hosts: BTreeMap<String, Host>,
    numbers: u64,
    latest_generation: u64,
}

impl Outbox {
    /// Orders that wait for any host, and for how many.
    pub fn waiting(&self) -> (usize, usize) {
        let counts = self.hosts.values().map(|host| host.waiting.len());
        counts.fold((0, 0), |(orders, hosts), count| {
            (orders + count, hosts + usize::from(count > 0))
        })
    }

    /// Puts an order in line. A panic goes before what has not been sent yet.
    ///
    /// # Errors
    /// Too many wait.
    pub fn push(&mut self, host: &str, order: Order, now_ns: u64) -> Result<(), Full> {
        let its = self.hosts.entry(host.to_owned()).or_default();
        if its.waiting.len() >= MAX_WAITING {
            return Err(Full {
                host: host.to_owned(),
            });
        }
        let is_panic = order.action == Action::Panic;
        let waiting = Waiting {
            number: 0,
            order,
            is_bound: false,
            pushed_ns: now_ns,
            next_ns: now_ns,
            wait_ns: RETRY_NS,
            is_rechained: false,
        };
        let first_unsent = its.waiting.iter().position(|other| !other.is_bound);
        match first_unsent {
            Some(place) if is_panic => its.waiting.insert(place, waiting),
            _ => its.waiting.push_back(waiting),
        }
        Ok(())
    }

    /// A host has connected: what waits for it is sent at once.
    pub fn connected(&mut self, host: &str, now_ns: u64) {
        let its = self.hosts.get_mut(host);
        if let Some(first) = its.and_then(|its| its.waiting.front_mut()) {
            first.next_ns = now_ns;
            first.wait_ns = RETRY_NS;
        }
    }

    /// What is to be sent now, of one host or of all.
    pub fn due(&mut self, host: Option<&str>, now_ns: u64, now_unix_ns: u64) -> Vec<Letter> {
        let Self {
            hosts,
            latest_generation,
            numbers,
        } = self;
        let mut letters = Vec::new();
        for (name, its) in hosts {
            if host.is_some_and(|host| host != name) {
                continue;
            }
            let Some(first) = its.waiting.front_mut() else {
                continue;
            };
            if first.next_ns > now_ns {
                continue;
            }
            if !first.is_bound {
                let head = its.heads.entry(first.order.level).or_default();
                // By the clock, so that whoever goes on after this collector is ahead of it.
                *latest_generation = (*latest_generation + 1)
                    .max(now_unix_ns / 1_000)
                    .max(head.generation + 1);
                first.order.generation = *latest_generation;
                first.order.prev_hash.clone_from(&head.hash);
                // Of its own, so that an answer to what it was before is none to this.
                *numbers += 1;
                first.number = *numbers;
                first.is_bound = true;
            }
            first.next_ns = now_ns.saturating_add(first.wait_ns);
            first.wait_ns = (first.wait_ns * 2).min(RETRY_MOST_NS);
            letters.push(Letter {
                host: name.clone(),
                number: first.number,
                order: first.order.clone(),
            });
        }
        letters
    }

    /// A host has answered. None: to nothing that waits, or the order is sent once more.
    pub fn heard(&mut self, host: &str, number: u64, answer: Answer, now_ns: u64) -> Option<Fate> {
        let its = self.hosts.get_mut(host)?;
        let first = its.waiting.front_mut().filter(|own| own.number == number)?;
        let head = its.heads.entry(first.order.level).or_default();
        let refused = match answer {
            Answer::Taken { head: there } => {
                *head = there;
                None
            }
            Answer::Elsewhere { head: there, .. } if !first.is_rechained => {
                *head = there;
                first.is_rechained = true;
                first.is_bound = false;
                first.next_ns = now_ns;
                return None;
            }
            Answer::Elsewhere { why, .. } | Answer::Refused(why) => Some(why),
        };
        let Waiting {
            order,
            pushed_ns,
            is_rechained,
            ..
        } = its.waiting.pop_front()?;
        Some(Fate {
            host: host.to_owned(),
            order: order.id,
            refused,
            took_ns: now_ns.saturating_sub(pushed_ns),
            is_rechained,
        })
    }

    /// Gives up what is too old to be taken, and forgets hosts for which nothing waits and of which
    /// nothing is known.
    pub fn expire(&mut self, now_ns: u64, now_unix_ns: u64) -> Vec<Fate> {
        let mut over = Vec::new();
        for (name, its) in &mut self.hosts {
            its.waiting.retain(|own| {
                let age_ns = now_unix_ns.saturating_sub(own.order.created_unix_ns);
                if age_ns <= MAX_AGE_NS {
                    return true;
                }
                let heard = if own.is_bound {
                    "the host has not answered"
                } else {
                    "it never left: the host was not reached"
                };
                over.push(Fate {
                    host: name.clone(),
                    order: own.order.id.clone(),
                    refused: Some(format!(
                        "expired after {} s: {heard}",
                        age_ns / 1_000_000_000
                    )),
                    took_ns: now_ns.saturating_sub(own.pushed_ns),
                    is_rechained: own.is_rechained,
                });
                false
            });
        }
        self.hosts
            .retain(|_, its| !its.waiting.is_empty() || !its.heads.is_empty());
        over
    }
}

#[cfg(test)]
pub(super) mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::steer::Scope;
    use crate::steer::overrides::order::OnFail;
    use crate::steer::overrides::{Auth, Book, Moment, Refusal};

    const SECOND_NS: u64 = 1_000_000_000;
    const BEGUN_UNIX_NS: u64 = 1_700_000_000 * SECOND_NS;

    pub(crate) fn order(id: &str, action: Action, at_ns: u64) -> Order {
        Order {
            id: id.to_owned(),
            generation: 0,
            scope: Scope::Host,
            action,
            level: Level::CentralHuman,
            actor: "noc".to_owned(),
            auth: Auth::Certificate {
                name: "noc".to_owned(),
            },
            second: None,
            reason: "because".to_owned(),
            created_unix_ns: BEGUN_UNIX_NS + at_ns,
            ttl_s: 600,
            ramp_s: 0,
            expect: None,
            on_fail: OnFail::Revert,
            is_break_glass: false,
            prev_hash: None,
        }
    }

    fn moment(at_ns: u64) -> Moment {
        Moment {
            boot_ns: at_ns,
            unix_ns: BEGUN_UNIX_NS + at_ns,
            boot_id: "b".to_owned(),
        }
    }

    /// As a host answers.
    fn obey(book: &mut Book, order: &Order, now: &Moment) -> Answer {
        let admitted = book.admit(order.clone(), now);
        let head = Head {
            generation: book.next_generation(order.level) - 1,
            hash: book.latest_hash(order.level).map(str::to_owned),
        };
        match admitted {
            Ok(_) | Err(Refusal::Replayed { .. }) => Answer::Taken { head },
            Err(why @ (Refusal::ChainBroken { .. } | Refusal::Reordered { .. })) => {
                let why = why.to_string();
                Answer::Elsewhere { head, why }
            }
            Err(why) => Answer::Refused(why.to_string()),
        }
    }

    fn taken(order: &Order) -> Answer {
        let head = Head {
            generation: order.generation,
            hash: Some(order.hash()),
        };
        Answer::Taken { head }
    }

    #[test]
    fn an_order_is_sent_again_the_same_until_it_is_answered() {
        let mut outbox = Outbox::default();
        outbox.push("a", order("1", Action::Hold, 0), 0).unwrap();
        outbox.push("a", order("2", Action::Drain, 0), 0).unwrap();
        let first = outbox.due(None, 0, BEGUN_UNIX_NS);
        assert_eq!(first.len(), 1, "the second waits for the first");
        assert!(outbox.due(None, RETRY_NS - 1, BEGUN_UNIX_NS).is_empty());
        assert_eq!(outbox.due(None, RETRY_NS, BEGUN_UNIX_NS), first);
        let late_ns = 3 * RETRY_NS;
        assert!(outbox.due(None, late_ns - 1, BEGUN_UNIX_NS).is_empty());
        outbox.connected("a", late_ns - 1);
        assert_eq!(outbox.due(Some("a"), late_ns - 1, BEGUN_UNIX_NS), first);
        let taken_first = || taken(&first[0].order);
        assert_eq!(outbox.heard("a", 99, taken_first(), 1), None);
        let fate = outbox
            .heard("a", first[0].number, taken_first(), late_ns)
            .unwrap();
        assert_eq!((fate.refused, fate.took_ns), (None, late_ns));
        let second = outbox.due(None, late_ns, BEGUN_UNIX_NS);
        assert_eq!(second[0].order.prev_hash, Some(first[0].order.hash()));
        assert!(second[0].order.generation > first[0].order.generation);
        assert_eq!(outbox.heard("a", first[0].number, taken_first(), 1), None);
    }

    #[test]
    fn a_panic_goes_before_what_waits_and_what_is_too_old_is_given_up() {
        let mut outbox = Outbox::default();
        for id in ["1", "2"] {
            outbox.push("a", order(id, Action::Hold, 0), 0).unwrap();
        }
        let sent = outbox.due(None, 0, BEGUN_UNIX_NS);
        outbox.push("a", order("p", Action::Panic, 0), 0).unwrap();
        outbox.heard("a", sent[0].number, taken(&sent[0].order), 0);
        let next = outbox.due(None, 0, BEGUN_UNIX_NS);
        assert_eq!(next[0].order.id, "p");
        assert_eq!(outbox.waiting(), (2, 1));
        assert!(outbox.expire(0, BEGUN_UNIX_NS + MAX_AGE_NS).is_empty());
        let over = outbox.expire(7, BEGUN_UNIX_NS + MAX_AGE_NS + 1);
        let told: Vec<_> = over
            .iter()
            .map(|fate| fate.refused.as_deref().unwrap())
            .collect();
        assert!(told[0].contains("has not answered") && told[1].contains("never left"));
        assert_eq!(outbox.waiting(), (0, 0));
    }

    #[test]
    fn what_waits_for_a_host_is_bounded() {
        let mut outbox = Outbox::default();
        let full = (0..=MAX_WAITING).find_map(|n| {
            let order = order(&n.to_string(), Action::Hold, 0);
            outbox.push("a", order, 0).err()
        });
        assert!(full.unwrap().to_string().contains("64 orders wait for a"));
        outbox.push("b", order("x", Action::Hold, 0), 0).unwrap();
    }

    #[test]
    fn a_chain_that_was_lost_at_either_end_is_taken_up_from_where_the_host_stands() {
        let mut outbox = Outbox::default();
        let mut book = Book::default();
        let send = |outbox: &mut Outbox, book: &mut Book, id: &str| {
            outbox.push("a", order(id, Action::Hold, 0), 0).unwrap();
            for _ in 0..3 {
                for letter in outbox.due(None, 0, BEGUN_UNIX_NS) {
                    let answer = obey(book, &letter.order, &moment(0));
                    if let Some(fate) = outbox.heard("a", letter.number, answer, 0) {
                        return fate;
                    }
                }
            }
            panic!("{id} was never answered for good");
        };
        let fate = send(&mut outbox, &mut book, "1");
        assert_eq!((fate.refused, fate.is_rechained), (None, false));
        // The host's journal is gone.
        book = Book::default();
        let fate = send(&mut outbox, &mut book, "2");
        assert_eq!((fate.refused, fate.is_rechained), (None, true));
        // The collector is another.
        outbox = Outbox::default();
        let fate = send(&mut outbox, &mut book, "3");
        assert_eq!(fate.refused, None);
        assert_eq!(send(&mut outbox, &mut book, "4").refused, None);
        let held: Vec<_> = book.orders().iter().map(|held| &*held.order.id).collect();
        assert_eq!(held, ["2", "3", "4"]);
    }

    /// Letters and answers that are lost, doubled and held back, and a collector that is begun anew:
    /// each order is in force once, in order, or was given up.
    #[test]
    fn whatever_happens_on_the_way_each_order_is_taken_at_most_once() {
        for seed in 0..300 {
            let mut rng = Rng::with_seed(seed);
            let mut outbox = Outbox::default();
            let mut book = Book::default();
            let (mut down, mut up) = (VecDeque::new(), VecDeque::new());
            let mut fates: BTreeMap<String, Option<String>> = BTreeMap::new();
            let mut given: Vec<(String, u64)> = Vec::new();
            for step in 0..2_000_u64 {
                let now_ns = step * 200_000_000;
                if given.len() < 40 && rng.u32(0..20) == 0 {
                    let id = format!("o{}", given.len());
                    outbox
                        .push("a", order(&id, Action::Hold, now_ns), now_ns)
                        .unwrap();
                    given.push((id, now_ns));
                }
                if rng.u32(0..40) == 0 {
                    outbox.connected("a", now_ns);
                }
                if rng.u32(0..200) == 0 {
                    // Another collector: it has read what was ordered, and hears no old answers.
                    outbox = Outbox::default();
                    up.clear();
                    for (id, given_ns) in given.iter().filter(|(id, _)| !fates.contains_key(id)) {
                        let again = order(id, Action::Hold, *given_ns);
                        outbox.push("a", again, now_ns).unwrap();
                    }
                }
                for letter in outbox.due(None, now_ns, BEGUN_UNIX_NS + now_ns) {
                    for _ in 0..rng.usize(0..3) {
                        down.push_back(letter.clone());
                    }
                }
                while let Some(letter) = down.pop_front() {
                    if rng.u32(0..4) == 0 {
                        down.push_back(letter);
                        break;
                    }
                    let answer = obey(&mut book, &letter.order, &moment(now_ns));
                    if rng.u32(0..3) > 0 {
                        up.push_back((letter.number, answer));
                    }
                }
                while let Some((number, answer)) = up.pop_front() {
                    if let Some(fate) = outbox.heard("a", number, answer, now_ns) {
                        fates.insert(fate.order, fate.refused);
                    }
                }
                for fate in outbox.expire(now_ns, BEGUN_UNIX_NS + now_ns) {
                    fates.insert(fate.order, fate.refused);
                }
            }
            assert_eq!(fates.len(), given.len(), "seed {seed}");
            let mut ids: Vec<_> = book.orders().iter().map(|held| &held.order.id).collect();
            let count = ids.len();
            ids.dedup();
            assert_eq!(ids.len(), count);
            for (id, refused) in &fates {
                assert_eq!(*refused, None, "seed {seed}: {id}");
            }
        }
    }
}

//! The orders that were given, and what became of each at each host.
//!
//! Pure; bounded.

use std::collections::{BTreeMap, VecDeque};

use super::at::At;
use super::outbox::Fate;
use super::places::Places;
use crate::steer::overrides::book::MAX_AGE_NS;
use crate::steer::overrides::order::MAX_TTL_S;
use crate::steer::overrides::{Action, Order};

/// Orders that are remembered: of more, the oldest is forgotten, and cannot be undone by its name.
const MAX_GIVEN: usize = 256;
const SECOND_NS: u64 = 1_000_000_000;

/// What became of an order at a host; none yet: it has not answered.
pub type Outcome = Option<Fate>;

/// One order.
#[derive(Debug)]
pub struct Given {
    pub at: At,
    pub order: Order,
    pub hosts: BTreeMap<String, Outcome>,
    /// What became of it has been written down.
    pub is_tallied: bool,
    /// From before this collector's start: who has it is not known.
    pub is_restored: bool,
}

/// How many hosts took it, refused it, and have not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub taken: u32,
    pub refused: u32,
    pub unanswered: u32,
}

impl Given {
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for outcome in self.hosts.values() {
            let count = match outcome {
                None => &mut tally.unanswered,
                Some(fate) if fate.refused.is_none() => &mut tally.taken,
                Some(_) => &mut tally.refused,
            };
            *count += 1;
        }
        tally
    }

    /// Hosts that refused it, with why.
    pub fn refusals(&self) -> impl Iterator<Item = (&str, &str)> {
        self.hosts.iter().filter_map(|(host, outcome)| {
            let why = outcome.as_ref()?.refused.as_deref()?;
            Some((host.as_str(), why))
        })
    }

    /// Hosts at which it may be in force.
    pub fn taken_by(&self) -> impl Iterator<Item = &str> {
        let may_hold =
            |outcome: &Outcome| outcome.as_ref().is_none_or(|fate| fate.refused.is_none());
        let holding = self.hosts.iter().filter(move |(_, own)| may_hold(own));
        holding.map(|(host, _)| host.as_str())
    }
}

/// All of them, the newest last.
#[derive(Debug, Default)]
pub struct Orders {
    given: VecDeque<Given>,
}

impl Orders {
    pub fn push(&mut self, at: At, order: Order, hosts: &[String]) {
        if self.given.len() >= MAX_GIVEN {
            self.given.pop_front();
        }
        self.given.push_back(Given {
            at,
            order,
            hosts: hosts.iter().map(|host| (host.clone(), None)).collect(),
            is_tallied: false,
            is_restored: false,
        });
    }

    /// One that was given before this collector's start.
    pub fn restore(&mut self, at: At, order: Order) {
        self.push(at, order, &[]);
        if let Some(given) = self.given.back_mut() {
            (given.is_tallied, given.is_restored) = (true, true);
        }
    }

    /// Orders that were given to a host too, and that are not on their way to it: it was not known then,
    /// or this collector was not there yet. It may have them; then it says so.
    pub fn missed_by(&mut self, host: &str, places: &Places, now_unix_ns: u64) -> Vec<Order> {
        let mut missed = Vec::new();
        for given in &mut self.given {
            let age_ns = now_unix_ns.saturating_sub(given.order.created_unix_ns);
            if age_ns < MAX_AGE_NS
                && !given.hosts.contains_key(host)
                && given.at.holds(host, places)
            {
                given.hosts.insert(host.to_owned(), None);
                missed.push(given.order.clone());
            }
        }
        missed
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Given> {
        self.given.iter()
    }

    pub fn find(&self, id: &str) -> Option<&Given> {
        self.given.iter().rfind(|given| given.order.id == id)
    }

    /// A host has answered, or never will.
    pub fn note(&mut self, fate: Fate) {
        let given = self.given.iter_mut();
        let mut its = given.rev().filter(|given| given.order.id == fate.order);
        if let Some(outcome) = its.next().and_then(|own| own.hosts.get_mut(&fate.host)) {
            *outcome = Some(fate);
        }
    }

    /// Of those that all hosts have answered by now: each once.
    pub fn answered(&mut self) -> Vec<&Given> {
        let mut news = Vec::new();
        for given in &mut self.given {
            if !given.is_tallied && given.tally().unanswered == 0 {
                given.is_tallied = true;
                news.push(&*given);
            }
        }
        news
    }

    /// Forgets what has ended everywhere by itself.
    pub fn expire(&mut self, now_unix_ns: u64) {
        let ends_ns = |given: &Given| {
            let ttl_s = match given.order.action {
                // Kept as long as what it may have ended.
                Action::Release { .. } => MAX_TTL_S,
                _ => given.order.ttl_s,
            };
            // On its way for five minutes at most.
            let least_ns = u64::from(ttl_s + 600) * SECOND_NS;
            given.order.created_unix_ns.saturating_add(least_ns)
        };
        self.given.retain(|given| now_unix_ns < ends_ns(given));
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::tests::order as at_ns;
    use super::*;

    fn order(id: &str, action: Action) -> Order {
        at_ns(id, action, 0)
    }

    fn fate(host: &str, order: &str, refused: Option<&str>) -> Fate {
        Fate {
            host: host.to_owned(),
            order: order.to_owned(),
            refused: refused.map(str::to_owned),
            took_ns: 1,
            is_rechained: false,
        }
    }

    #[test]
    fn what_became_of_an_order_is_known_host_by_host_and_told_once() {
        let mut orders = Orders::default();
        let hosts = ["a", "b", "c"].map(str::to_owned);
        orders.push(At::Fleet, order("1", Action::Drain), &hosts);
        orders.note(fate("a", "1", None));
        orders.note(fate("b", "1", Some("no role")));
        orders.note(fate("x", "1", None));
        assert!(orders.answered().is_empty());
        let given = orders.find("1").unwrap();
        let told = (
            given.tally().taken,
            given.tally().refused,
            given.tally().unanswered,
        );
        assert_eq!(told, (1, 1, 1));
        assert_eq!(given.taken_by().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(given.refusals().collect::<Vec<_>>(), [("b", "no role")]);
        orders.note(fate("c", "1", None));
        assert_eq!(orders.answered().len(), 1);
        assert!(orders.answered().is_empty());
    }

    #[test]
    fn a_host_that_comes_later_is_given_what_it_missed_once_and_not_too_late() {
        let places = super::super::places::tests::two_regions();
        let mut orders = Orders::default();
        orders.restore("region=fra".parse().unwrap(), order("1", Action::Drain));
        let begun_ns = orders.find("1").unwrap().order.created_unix_ns;
        let missed = |orders: &mut Orders, host: &str, after_ns| {
            orders.missed_by(host, &places, begun_ns + after_ns).len()
        };
        assert_eq!(missed(&mut orders, "ams-1", 1), 0);
        assert_eq!(missed(&mut orders, "fra-1", 1), 1);
        assert_eq!(missed(&mut orders, "fra-1", 2), 0);
        assert_eq!(missed(&mut orders, "fra-2", MAX_AGE_NS), 0);
        assert!(orders.answered().is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_ends() {
        let mut orders = Orders::default();
        for n in 0..=MAX_GIVEN {
            orders.push(At::Fleet, order(&n.to_string(), Action::Hold), &[]);
        }
        assert!(orders.find("0").is_none() && orders.find("1").is_some());
        let begun_ns = orders.find("1").unwrap().order.created_unix_ns;
        orders.expire(begun_ns + 1199 * SECOND_NS);
        assert!(orders.find("1").is_some());
        orders.expire(begun_ns + 1200 * SECOND_NS);
        assert!(orders.find("1").is_none());
    }
}

//! The orders in force, and which of them has the say.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::deadline::{Deadline, Moment};
use super::order::{
    Action, Level, MAX_BREAK_GLASS_S, MAX_RAMP_S, MAX_TEXT_BYTES, MAX_TTL_S, Order,
};
use crate::steer::Scope;

/// Orders in force at the same time.
const MAX_ORDERS: usize = 256;
/// Ids remembered. An order older than [`MAX_AGE_NS`] is refused for its age, so that only those of
/// that time need to be known; where more come, none is taken until the oldest is past it.
const MAX_IDS: usize = 4096;
/// An order that took longer to come here is refused.
pub const MAX_AGE_NS: u64 = 300_000_000_000;
/// The issuer's clock may be ahead of this host's by so much.
pub const MAX_AHEAD_NS: u64 = 30_000_000_000;

/// Why an order is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("an order needs a reason; say why in --reason")]
    NoReason,
    #[error("{what} has {bytes} bytes; at most {MAX_TEXT_BYTES} are possible")]
    TooLong { what: &'static str, bytes: usize },
    #[error("{what} must not be empty")]
    Empty { what: &'static str },
    #[error("a time to live of {ttl_s} s is out of range: 1 to {most_s} s; renew it when it ends")]
    Ttl { ttl_s: u32, most_s: u32 },
    #[error("a ramp of {ramp_s} s is out of range: 0 to {MAX_RAMP_S} s")]
    Ramp { ramp_s: u32 },
    #[error("a weight of {permille} permille is out of range: 0 to 1000")]
    Weight { permille: u16 },
    #[error("a cap of 0 bit/s would stop every session; drain instead")]
    Cap,
    #[error("an expectation's window of {window_s} s is out of range: 60 to 300 s")]
    Window { window_s: u32 },
    #[error("break-glass is for humans")]
    BreakGlass,
    #[error("order {id} was heard before: it is a replay")]
    Replayed { id: String },
    #[error("order {id} was given {age_s} s ago: it expired on its way here; give it again")]
    Expired { id: String, age_s: u64 },
    #[error("order {id} is of {ahead_s} s in the future: compare the clocks of both hosts")]
    Future { id: String, ahead_s: u64 },
    #[error(
        "generation {generation} of the {level} is not after {latest}: orders came out of order"
    )]
    Reordered {
        level: &'static str,
        generation: u64,
        latest: u64,
    },
    #[error(
        "an order of the {level} before this one is missing: its hash is not this one's prev_hash"
    )]
    ChainBroken { level: &'static str },
    #[error("{MAX_ORDERS} orders are in force; release some")]
    Full,
    #[error("more than {MAX_IDS} orders came within five minutes; wait")]
    Flooded,
    #[error("no order {id} is in force")]
    NoSuchOrder { id: String },
    #[error("order {id} is of the {level}, which outranks this")]
    Outranked { id: String, level: &'static str },
}

/// An order that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub order: Order,
    pub deadline: Deadline,
}

/// What is known of a level's issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Issuer {
    latest_generation: u64,
    latest_hash: Option<String>,
}

/// The orders in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    orders: Vec<Held>,
    /// With when each was given.
    ids: VecDeque<(String, u64)>,
    issuers: [Issuer; 4],
}

/// Who has the say on a scope's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say<'a> {
    /// An order sets it.
    Order(&'a Held),
    /// It stays where it is: held, or pinned there.
    Stays(&'a Held),
    /// Automation. An order may shed some of the rest.
    Automation { shed: Option<&'a Held> },
}

impl Book {
    pub fn orders(&self) -> &[Held] {
        &self.orders
    }

    /// The generation of the next order that this host's own humans give.
    pub fn next_generation(&self, level: Level) -> u64 {
        self.issuers[level as usize]
            .latest_generation
            .saturating_add(1)
    }

    /// Of the level's latest order; none: there was none yet.
    pub fn latest_hash(&self, level: Level) -> Option<&str> {
        self.issuers[level as usize].latest_hash.as_deref()
    }

    /// Takes an order, or refuses it and stays as it is. Who may give it is for
    /// [`super::roles`] to say before. Gives back what no longer holds because of it.
    ///
    /// # Errors
    /// The order says nothing that can be done, or is replayed, expired or out of order.
    pub fn admit(&mut self, order: Order, now: &Moment) -> Result<Vec<Held>, Refusal> {
        self.expire(now.boot_ns);
        check(&order)?;
        self.check_time(&order, now)?;
        let mut order = order;
        let level = order.level as usize;
        let latest = self.issuers[level].latest_generation;
        if order.generation == 0 && !order.level.is_central() {
            order.generation = latest.saturating_add(1);
        }
        if order.generation <= latest {
            return Err(Refusal::Reordered {
                level: order.level.as_str(),
                generation: order.generation,
                latest,
            });
        }
        if let Some(prev) = &order.prev_hash
            && self.issuers[level].latest_hash.as_ref() != Some(prev)
        {
            let level = order.level.as_str();
            return Err(Refusal::ChainBroken { level });
        }
        let mut gone = Vec::new();
        if let Action::Release { order: of } = &order.action {
            gone = self.release(of.as_deref(), &order)?;
        } else if self.orders.len() >= MAX_ORDERS {
            return Err(Refusal::Full);
        }
        self.ids
            .push_back((order.id.clone(), order.created_unix_ns));
        self.issuers[level] = Issuer {
            latest_generation: order.generation,
            latest_hash: Some(order.hash()),
        };
        if !matches!(order.action, Action::Release { .. }) {
            let deadline = Deadline::after(now.boot_ns, order.ttl_s);
            self.orders.push(Held { order, deadline });
        }
        Ok(gone)
    }

    fn check_time(&mut self, order: &Order, now: &Moment) -> Result<(), Refusal> {
        let oldest = now.unix_ns.saturating_sub(MAX_AGE_NS);
        // Not before they are too old to be taken anyway.
        while self.ids.front().is_some_and(|(_, given)| *given < oldest) {
            self.ids.pop_front();
        }
        let id = order.id.clone();
        if self.ids.iter().any(|(seen, _)| *seen == id) || self.holds(&id) {
            return Err(Refusal::Replayed { id });
        }
        if self.ids.len() >= MAX_IDS {
            return Err(Refusal::Flooded);
        }
        if order.created_unix_ns < oldest {
            let age_s = now.unix_ns.saturating_sub(order.created_unix_ns) / 1_000_000_000;
            return Err(Refusal::Expired { id, age_s });
        }
        let ahead = order.created_unix_ns.saturating_sub(now.unix_ns);
        if ahead > MAX_AHEAD_NS {
            let ahead_s = ahead / 1_000_000_000;
            return Err(Refusal::Future { id, ahead_s });
        }
        Ok(())
    }

    fn holds(&self, id: &str) -> bool {
        self.orders.iter().any(|held| held.order.id == id)
    }

    fn release(&mut self, of: Option<&str>, by: &Order) -> Result<Vec<Held>, Refusal> {
        if let Some(id) = of {
            let Some(held) = self.orders.iter().find(|held| held.order.id == id) else {
                return Err(Refusal::NoSuchOrder { id: id.to_owned() });
            };
            if held.order.level < by.level {
                return Err(Refusal::Outranked {
                    id: id.to_owned(),
                    level: held.order.level.as_str(),
                });
            }
        }
        let is_released = |held: &Held| match of {
            Some(id) => held.order.id == id,
            None => held.order.level >= by.level && by.scope.covers(&held.order.scope),
        };
        let (gone, left) = std::mem::take(&mut self.orders)
            .into_iter()
            .partition(is_released);
        self.orders = left;
        Ok(gone)
    }

    /// Takes back an order that hurt.
    pub fn withdraw(&mut self, id: &str) {
        self.orders.retain(|held| held.order.id != id);
    }

    /// Forgets what is over, and gives it back.
    pub fn expire(&mut self, now_boot_ns: u64) -> Vec<Held> {
        let (over, left) = std::mem::take(&mut self.orders)
            .into_iter()
            .partition(|held| held.deadline.is_over(now_boot_ns));
        self.orders = left;
        over
    }

    /// The book as it was kept, after a restart of the daemon or of the host. What was refused then
    /// is refused now.
    #[must_use]
    pub fn restored(mut self, kept: &Moment, now: &Moment) -> Self {
        self.orders = std::mem::take(&mut self.orders)
            .into_iter()
            .filter_map(|held| {
                let deadline = held.deadline.restored(kept, now)?;
                Some(Held { deadline, ..held })
            })
            .collect();
        self
    }

    /// The order to turn all off, if there is one.
    pub fn panic(&self) -> Option<&Held> {
        self.orders
            .iter()
            .find(|held| held.order.action == Action::Panic)
    }

    /// Who sets the weight of a scope.
    ///
    /// Humans before automation, this host's before the centre's, the newer before the older. A hold
    /// stops automation and no human; a pin stops all below its level.
    pub fn say(&self, scope: &Scope) -> Say<'_> {
        let covering = || {
            let covers = |held: &&Held| held.order.scope.covers(scope);
            self.orders.iter().filter(covers)
        };
        let sets = |held: &&Held| {
            let action = &held.order.action;
            action.weight_permille().is_some() || matches!(action, Action::Pin { .. })
        };
        let setting = covering().filter(sets).min_by_key(|held| rank(&held.order));
        let hold = covering()
            .filter(|held| held.order.action == Action::Hold)
            .min_by_key(|held| rank(&held.order));
        match (setting, hold) {
            // The centre's automation is automation too.
            (Some(held), Some(hold))
                if !held.order.level.is_human() && hold.order.level < held.order.level =>
            {
                Say::Stays(hold)
            }
            (Some(held), _) if held.order.action.weight_permille().is_none() => Say::Stays(held),
            (Some(held), _) => Say::Order(held),
            (None, Some(hold)) => Say::Stays(hold),
            (None, None) => Say::Automation {
                shed: covering()
                    .filter(|held| matches!(held.order.action, Action::Shed { .. }))
                    .min_by_key(|held| rank(&held.order)),
            },
        }
    }

    /// Who caps a scope's sessions, and at what.
    pub fn cap(&self, scope: &Scope) -> Option<(&Held, u64)> {
        self.orders
            .iter()
            .filter(|held| held.order.scope.covers(scope))
            .filter_map(|held| match held.order.action {
                Action::CapBitrate { bps } => Some((held, bps)),
                _ => None,
            })
            .min_by_key(|(held, _)| rank(&held.order))
    }
}

/// The least has the say.
fn rank(order: &Order) -> (Level, std::cmp::Reverse<u64>, bool) {
    let newest_first = std::cmp::Reverse(order.generation);
    (order.level, newest_first, order.level.is_central())
}

/// Whether it says something that can be done.
fn check(order: &Order) -> Result<(), Refusal> {
    if order.reason.trim().is_empty() {
        return Err(Refusal::NoReason);
    }
    for (what, text) in [
        ("the reason", &order.reason),
        ("the order's id", &order.id),
        ("the actor", &order.actor),
    ] {
        if text.len() > MAX_TEXT_BYTES {
            let bytes = text.len();
            return Err(Refusal::TooLong { what, bytes });
        }
        if text.is_empty() {
            return Err(Refusal::Empty { what });
        }
    }
    let most_s = if order.is_break_glass {
        MAX_BREAK_GLASS_S
    } else {
        MAX_TTL_S
    };
    if !(1..=most_s).contains(&order.ttl_s) {
        let ttl_s = order.ttl_s;
        return Err(Refusal::Ttl { ttl_s, most_s });
    }
    if order.ramp_s > MAX_RAMP_S {
        let ramp_s = order.ramp_s;
        return Err(Refusal::Ramp { ramp_s });
    }
    if order.is_break_glass && !order.level.is_human() {
        return Err(Refusal::BreakGlass);
    }
    let permille = match order.action {
        Action::Weight { permille } | Action::Shed { permille } => permille,
        Action::Pin { permille } => permille.unwrap_or(0),
        Action::CapBitrate { bps: 0 } => return Err(Refusal::Cap),
        _ => 0,
    };
    if permille > 1000 {
        return Err(Refusal::Weight { permille });
    }
    if let Some(expect) = &order.expect
        && !(60..=300).contains(&expect.window_s)
    {
        let window_s = expect.window_s;
        return Err(Refusal::Window { window_s });
    }
    Ok(())
}

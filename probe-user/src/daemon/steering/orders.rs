//! Orders: who may give them, what needs a second person, and what becomes of each.

use super::{Decider, WrittenFirst};
use crate::query::steering::{Denial, Taken};
use crate::steer::forecast::{Forecast, forecast};
use crate::steer::journal::Body;
use crate::steer::overrides::book::MAX_AGE_NS;
use crate::steer::overrides::roles::{Denied, Reach};
use crate::steer::overrides::{Action, Auth, Held, Moment, Order};
use crate::steer::pace::Pace;
use crate::wire::steer::{auth as who, in_words};

/// Orders that wait for a second person.
const WAITING: usize = 16;

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) order: Order,
    reach: Reach,
    /// It is too old then to be taken anyway.
    pub(super) until_boot_ns: u64,
}

/// What bounds orders, and those that wait.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) waiting: Vec<Waiting>,
    taken: Pace,
    refused: Pace,
    /// Of their own, so that they take no place from refusals of those who may look.
    strangers: Pace,
    /// Refusals that came too fast to be written down each, since the last that was.
    unwritten: u64,
}

impl Desk {
    pub(super) fn new(now_ns: u64) -> Self {
        Self {
            waiting: Vec::new(),
            taken: Pace::new(now_ns),
            refused: Pace::new(now_ns),
            strangers: Pace::new(now_ns),
            unwritten: 0,
        }
    }
}

impl Desk {
    /// Whether another order might be taken now.
    pub(super) fn has_room(&self, now_ns: u64) -> bool {
        self.taken.has_room(now_ns)
    }

    /// Whether another refusal may be written down.
    pub(super) fn may_write_refusal(&mut self, now_ns: u64) -> bool {
        let may = self.refused.pass(now_ns);
        self.unwritten += u64::from(!may);
        may
    }
}

impl Decider {
    /// Takes an order, or says why not; either way it is written down.
    pub(super) async fn order(&mut self, order: Order, reach: Reach) -> Result<Taken, Denial> {
        let now = self.clock.now();
        self.forget_waiting(&now);
        // Turning all off is never too much.
        if order.action != Action::Panic && !self.desk.taken.pass(now.boot_ns) {
            let why = "more orders came than one a second; wait".to_owned();
            return Err(self.refuse(&order, Denial::Refused(why), &now).await);
        }
        match self.roles.authorise(&order, reach) {
            Ok(()) => self.take(order, &now).await,
            Err(denied @ Denied::SecondNeeded { .. }) => {
                self.wait_for_second(order, reach, &denied, &now).await
            }
            Err(denied) => {
                let denial = Denial::Unauthorised(denied.to_string());
                Err(self.refuse(&order, denial, &now).await)
            }
        }
    }

    /// What would come of it; nothing is done and nothing is written.
    pub(super) fn rehearse(
        &self,
        order: Order,
        reach: Reach,
        ahead_s: u32,
    ) -> Result<Forecast, Denial> {
        match self.roles.authorise(&order, reach) {
            // Who asks first wants to know whether it is worth a second person's time.
            Ok(()) | Err(Denied::SecondNeeded { .. }) => {}
            Err(denied) => return Err(Denial::Unauthorised(denied.to_string())),
        }
        let now = self.clock.now();
        let (rules, inputs) = (&self.rules, &self.inputs);
        forecast(rules, &self.state, inputs, Some(order), &now, ahead_s)
            .map_err(|refusal| Denial::Refused(refusal.to_string()))
    }

    /// A second person agrees to an order that waits.
    pub(super) async fn approve(&mut self, id: &str, by: Auth) -> Result<Taken, Denial> {
        let now = self.clock.now();
        self.forget_waiting(&now);
        let found = self.desk.waiting.iter().position(|own| own.order.id == id);
        let Some(found) = found else {
            let why = format!("no order {id} waits for a second person (any longer)");
            return Err(Denial::Refused(why));
        };
        let own = &self.desk.waiting[found];
        let reach = own.reach;
        let order = Order {
            second: Some(by),
            ..own.order.clone()
        };
        if let Err(denied) = self.roles.authorise(&order, reach) {
            // The order goes on waiting for somebody who may.
            let denial = Denial::Unauthorised(denied.to_string());
            return Err(self.refuse(&order, denial, &now).await);
        }
        self.desk.waiting.remove(found);
        self.take(order, &now).await
    }

    async fn wait_for_second(
        &mut self,
        order: Order,
        reach: Reach,
        denied: &Denied,
        now: &Moment,
    ) -> Result<Taken, Denial> {
        // What would be refused anyway does not wait.
        if let Err(refusal) = self.state.book.clone().admit(order.clone(), now) {
            let denial = Denial::Book(refusal);
            return Err(self.refuse(&order, denial, now).await);
        }
        let waiting = &self.desk.waiting;
        if waiting.iter().any(|own| own.order.id == order.id) {
            let why = format!("order {} waits already", order.id);
            return Err(self.refuse(&order, Denial::Refused(why), now).await);
        }
        if waiting.len() >= WAITING {
            let why = format!("{WAITING} orders wait for a second person already");
            return Err(self.refuse(&order, Denial::Refused(why), now).await);
        }
        let note = format!(
            "{} by {} waits: {denied}",
            in_words(&order),
            who(&order.auth)
        );
        tracing::warn!("{note}; `weir steer approve {}`", order.id);
        self.write(vec![Body::Note(note)]).await;
        let taken = Taken {
            id: order.id.clone(),
            waits: Some(denied.to_string()),
            released: Vec::new(),
            generation: self.held.generation,
        };
        self.desk.waiting.push(Waiting {
            order,
            reach,
            until_boot_ns: now.boot_ns.saturating_add(MAX_AGE_NS),
        });
        Ok(taken)
    }

    /// The order is its author's to give.
    async fn take(&mut self, order: Order, now: &Moment) -> Result<Taken, Denial> {
        let is_over = |own: &Held| own.deadline.is_over(now.boot_ns);
        if self.state.book.orders().iter().any(is_over) {
            // That they ended is told before the book forgets them.
            self.turn().await;
        }
        let before = self.state.clone();
        let released = match self.state.book.admit(order.clone(), now) {
            Ok(released) => released,
            Err(refusal) => {
                let denial = Denial::Book(refusal);
                return Err(self.refuse(&order, denial, now).await);
            }
        };
        // As the book has it: with its generation.
        let latest = self.state.book.orders().last();
        let kept = latest.filter(|own| own.order.id == order.id);
        let kept = kept.map_or_else(|| order.clone(), |own| own.order.clone());
        let opens = matches!(
            order.action,
            Action::Panic | Action::Release { .. } | Action::Undrain
        );
        let expect = kept.expect.clone();
        let first = WrittenFirst {
            bodies: vec![Body::Order(kept.clone())],
            is_book_changed: true,
            or_nothing: !opens,
        };
        let is_written = self.decide_and_hold(first, now).await;
        if !is_written && !opens {
            // Nothing was moved for it.
            self.state = before;
            self.take_back(&kept);
            let why = self.keeper.error().unwrap_or_default();
            self.counts.orders_refused += 1;
            return Err(Denial::Unwritten(format!("the order is not taken: {why}")));
        }
        self.counts.orders_taken += 1;
        tracing::warn!(
            actor = kept.actor,
            auth = who(&kept.auth),
            reason = kept.reason,
            "order: {} for {} s",
            in_words(&kept),
            kept.ttl_s
        );
        if let Some(expect) = expect {
            self.watch(&kept.id, &kept.scope, &expect, now.boot_ns);
        }
        Ok(Taken {
            id: kept.id,
            waits: None,
            released,
            generation: self.held.generation,
        })
    }

    /// Of an order that was not taken the journal must not say that it was, whenever its disk takes
    /// what it is owed.
    fn take_back(&mut self, order: &Order) {
        self.keeper.disown(&order.id);
        let note = format!(
            "not taken, because it could not be written down: {} by {}",
            in_words(order),
            who(&order.auth)
        );
        let checkpoint = self.checkpoint();
        let drafts = [Body::Note(note), checkpoint].map(|body| self.draft(body));
        self.keeper.owe(drafts.into());
    }

    /// Writes down who wanted what and why it was not done.
    pub(super) async fn refuse(&mut self, order: &Order, denial: Denial, now: &Moment) -> Denial {
        self.counts.orders_refused += 1;
        if !self.desk.refused.pass(now.boot_ns) {
            self.desk.unwritten += 1;
            self.counts.refusals_unwritten += 1;
            return denial;
        }
        let mut why = denial.to_string();
        let unwritten = std::mem::take(&mut self.desk.unwritten);
        if unwritten > 0 {
            why = format!("{why} (and {unwritten} more refusals before)");
        }
        let speaker = match &order.second {
            Some(second) => format!("{}, approving for {}", who(second), order.actor),
            None => format!("{} ({})", order.actor, who(&order.auth)),
        };
        tracing::warn!(who = speaker, "refused: {}: {denial}", in_words(order));
        let refused = Body::Refused {
            who: speaker,
            what: in_words(order),
            why,
        };
        self.write(vec![refused]).await;
        denial
    }

    /// Writes down that somebody called who may not even look. What was wanted is not known: nothing of
    /// it was heard.
    pub(super) async fn stranger(&mut self, uid: u32) {
        if !self.desk.strangers.pass(self.clock.now().boot_ns) {
            self.counts.refusals_unwritten += 1;
            return;
        }
        self.write(vec![Body::Refused {
            who: format!("uid {uid}"),
            what: "a connection to weir's socket".to_owned(),
            why: "neither allow_users nor allow_groups has this user".to_owned(),
        }])
        .await;
    }

    fn forget_waiting(&mut self, now: &Moment) {
        let is_open = |own: &Waiting| now.boot_ns < own.until_boot_ns;
        self.desk.waiting.retain(is_open);
    }
}

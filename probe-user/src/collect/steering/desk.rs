//! What operators order through the collector: who may, what needs a second person, and what comes
//! back from hosts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::Status;
use weir_proto::v1;

use super::Steering;
use super::at::At;
use super::given::Given;
use super::keep::Now;
use crate::steer::Scope;
use crate::steer::central::Central;
use crate::steer::journal::Body;
use crate::steer::overrides::book::MAX_AGE_NS;
use crate::steer::overrides::order::{DEFAULT_TTL_S, OnFail};
use crate::steer::overrides::roles::{Denied, Reach};
use crate::steer::overrides::{Action, Auth, Book, Level, Moment, Order};
use crate::wire::steer::{self as wire, Author};

/// Orders that wait for a second person.
const MAX_WAITING: usize = 16;
const DEFAULT_WAIT_MS: u32 = 5_000;
const MAX_WAIT_MS: u32 = 60_000;

/// One that waits for a second person.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) at: At,
    pub(super) order: Order,
    pub(super) until_boot_ns: u64,
}

/// Why nothing came of what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::collect) enum Refused {
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("{0}")]
    Impossible(String),
    /// It could not be written down first.
    #[error("nothing is ordered that cannot be written down first: {0}")]
    Unwritten(String),
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let why = refused.to_string();
        match refused {
            Refused::Denied(_) => Self::permission_denied(why),
            Refused::Impossible(_) => Self::invalid_argument(why),
            Refused::Unwritten(_) => Self::failed_precondition(why),
        }
    }
}

/// Who speaks: a name in the certificate of the connection.
pub(super) fn author(name: &str) -> Author {
    Author {
        level: Level::CentralHuman,
        actor: name.to_owned(),
        auth: Auth::Certificate {
            name: name.to_owned(),
        },
    }
}

fn impossible(why: impl Into<String>) -> Refused {
    Refused::Impossible(why.into())
}

impl Steering {
    /// Which of an operator's names speaks: one that has a role, if there is one.
    pub(in crate::collect) fn speaker<'n>(&self, names: &'n [String]) -> Option<&'n str> {
        let has_role = |name: &&String| {
            let roles = self.roles.roles.iter();
            let mut certificates = roles.flat_map(|role| &role.certificates);
            certificates.any(|own| own == *name)
        };
        let speaks = names.iter().find(has_role).or_else(|| names.first());
        speaks.map(String::as_str)
    }

    /// Does what an operator wants, and waits for hosts' answers.
    pub(in crate::collect) async fn order(
        &self,
        speaker: &str,
        request: v1::FleetOrderRequest,
    ) -> Result<v1::FleetOrderResponse, Status> {
        let wait_ms = match request.wait_ms {
            0 => DEFAULT_WAIT_MS,
            ms => ms.min(MAX_WAIT_MS),
        };
        let until = Instant::now() + Duration::from_millis(wait_ms.into());
        let asked = request.order.unwrap_or_default();
        let invalid = |why: String| Status::invalid_argument(why);
        if !request.undoes.is_empty() {
            let id = wire::checked_id(&request.undoes).map_err(invalid)?;
            let reason = asked.reason.trim().to_owned();
            return match self.undo(speaker, id, &reason).await? {
                Some(release) => Ok(self.answers(&release, until).await),
                None => Ok(v1::FleetOrderResponse {
                    id: id.to_owned(),
                    ..v1::FleetOrderResponse::default()
                }),
            };
        }
        if !asked.approves.is_empty() {
            let id = wire::checked_id(&asked.approves).map_err(invalid)?;
            if self.approve(speaker, id).await? {
                return Ok(self.answers(id, until).await);
            }
            return Ok(v1::FleetOrderResponse {
                id: id.to_owned(),
                ..v1::FleetOrderResponse::default()
            });
        }
        if asked.rehearse_s > 0 {
            let why = "what would come of an order is to be asked of its host (--socket)";
            return Err(Status::invalid_argument(why));
        }
        let at: At = request.at.parse().map_err(invalid)?;
        let now = Now::read();
        let asked = v1::OrderRequest {
            // By the collector's clock, not by that of whoever asks.
            created_unix_ns: 0,
            ..asked
        };
        let order = wire::order(&asked, author(speaker), now.unix_ns).map_err(invalid)?;
        let id = order.id.clone();
        if let Some(waits) = self.give(at, order).await? {
            return Ok(v1::FleetOrderResponse {
                id,
                waits,
                ..v1::FleetOrderResponse::default()
            });
        }
        Ok(self.answers(&id, until).await)
    }

    /// Gives an order, or says why it waits for a second person.
    async fn give(&self, at: At, order: Order) -> Result<Option<String>, Refused> {
        if let Err(why) = self.is_possible(&at, &order) {
            return Err(self.refuse(&order, &at.to_string(), impossible(why)).await);
        }
        match self.roles.authorise(&order, at.reach()) {
            Ok(()) => {}
            Err(denied @ Denied::SecondNeeded { .. }) => {
                return self.wait_for_second(at, order, &denied).await.map(Some);
            }
            Err(denied) => return Err(self.refuse(&order, &at.to_string(), denied.into()).await),
        }
        self.send(at, order).await?;
        Ok(None)
    }

    /// Writes it down and puts it on its way.
    async fn send(&self, at: At, order: Order) -> Result<(), Refused> {
        let hosts = self.hosts_of(&at).await;
        if hosts.is_empty() {
            let why = impossible(format!("no host of {at} has reported to this collector"));
            return Err(self.refuse(&order, &at.to_string(), why).await);
        }
        let written = Body::Central(Box::new(Central::Ordered {
            at: at.to_string(),
            hosts: u32::try_from(hosts.len()).unwrap_or(u32::MAX),
            order: order.clone(),
        }));
        if let Err(why) = self.keeper.write(vec![written]).await {
            // What takes traffic back must always be possible.
            let opens = matches!(
                order.action,
                Action::Panic | Action::Release { .. } | Action::Undrain
            );
            if !opens {
                return Err(Refused::Unwritten(why));
            }
            tracing::error!(id = order.id, "sent, and not written down: {why}");
        }
        tracing::warn!(
            id = order.id,
            actor = order.actor,
            hosts = hosts.len(),
            reason = order.reason,
            "order: {} at {at}",
            wire::in_words(&order)
        );
        let now = Now::read();
        let is_panic = order.action == Action::Panic;
        {
            let mut state = self.state();
            state.orders.push(at.clone(), order.clone(), &hosts);
            for host in &hosts {
                if let Err(err) = state.outbox.push(host, order.clone(), now.boot_ns) {
                    state.orders.note(super::outbox::Fate {
                        host: host.clone(),
                        order: order.id.clone(),
                        refused: Some(err.to_string()),
                        took_ns: 0,
                        is_rechained: false,
                    });
                }
            }
        }
        self.nudge.notify_one();
        if is_panic {
            self.undo_rebalances(&at, &order.reason).await;
        }
        Ok(())
    }

    /// Those that the collector knows.
    async fn hosts_of(&self, at: &At) -> Vec<String> {
        let (known, _) = self.gather.hosts().await;
        let known = known.into_iter().map(|own| own.host);
        known.filter(|host| at.holds(host, &self.places)).collect()
    }

    /// Whether it says something that can be done, as hosts will ask too.
    fn is_possible(&self, at: &At, order: &Order) -> Result<(), String> {
        if let At::Region(region) = at
            && !self.places.has_region(region)
        {
            return Err(format!(
                "no [[steer.pool]] is in a region {region:?}; there are: {}",
                self.places.regions().join(", ")
            ));
        }
        if self.state().orders.find(&order.id).is_some() {
            return Err(format!(
                "order {} was heard before: it is a replay",
                order.id
            ));
        }
        let order = Order {
            generation: 1,
            // Which orders a host has, it knows itself.
            action: match &order.action {
                Action::Release { .. } => Action::Release { order: None },
                other => other.clone(),
            },
            ..order.clone()
        };
        let now = Now::read();
        let moment = Moment {
            boot_ns: now.boot_ns,
            unix_ns: now.unix_ns,
            boot_id: String::new(),
        };
        Book::default()
            .admit(order, &moment)
            .map(|_| ())
            .map_err(|refusal| refusal.to_string())
    }

    async fn wait_for_second(
        &self,
        at: At,
        order: Order,
        denied: &Denied,
    ) -> Result<String, Refused> {
        let now = Now::read();
        let id = order.id.clone();
        let note = format!(
            "{} at {at} by {} waits: {denied}",
            wire::in_words(&order),
            order.actor
        );
        let fits = {
            let mut state = self.state();
            let is_new = !state.waiting.iter().any(|own| own.order.id == id);
            let fits = is_new && state.waiting.len() < MAX_WAITING;
            if fits {
                state.waiting.push(Waiting {
                    at: at.clone(),
                    order: order.clone(),
                    until_boot_ns: now.boot_ns.saturating_add(MAX_AGE_NS),
                });
            }
            fits
        };
        if !fits {
            let why = impossible(format!(
                "order {id} waits already, or {MAX_WAITING} others do; approve or wait five minutes"
            ));
            return Err(self.refuse(&order, &at.to_string(), why).await);
        }
        tracing::warn!("{note}; `weir steer approve {id} --collector ...`");
        self.keeper.note(vec![Body::Note(note)]).await;
        Ok(denied.to_string())
    }

    /// A second person agrees to an order, which is then on its way (true), or to a rebalance.
    async fn approve(&self, speaker: &str, id: &str) -> Result<bool, Refused> {
        let found = {
            let state = self.state();
            let own = state.waiting.iter().find(|own| own.order.id == id);
            own.map(|own| (own.at.clone(), own.order.clone()))
        };
        let Some((at, order)) = found else {
            self.approve_rebalance(speaker, id).await?;
            return Ok(false);
        };
        let order = Order {
            second: Some(author(speaker).auth),
            // With the second word it is given.
            created_unix_ns: Now::read().unix_ns,
            ..order
        };
        if let Err(denied) = self.roles.authorise(&order, at.reach()) {
            return Err(self.refuse(&order, &at.to_string(), denied.into()).await);
        }
        let is_first = {
            let mut state = self.state();
            let before = state.waiting.len();
            state.waiting.retain(|own| own.order.id != id);
            state.waiting.len() < before
        };
        if is_first {
            self.send(at, order).await?;
        }
        Ok(true)
    }

    /// Takes back an order or a rebalance; the id of the order that does so, if it takes one.
    async fn undo(&self, speaker: &str, id: &str, reason: &str) -> Result<Option<String>, Refused> {
        let found = {
            let state = self.state();
            let given = state.orders.find(id);
            given.map(|own| {
                let hosts: Vec<_> = own.taken_by().map(str::to_owned).collect();
                let scope = own.order.scope.clone();
                (own.at.clone(), scope, hosts, own.is_restored)
            })
        };
        let Some((at, scope, mut hosts, is_restored)) = found else {
            self.undo_rebalance(speaker, id, reason).await?;
            return Ok(None);
        };
        if is_restored {
            hosts.extend(self.hosts_of(&at).await);
            hosts.sort();
            hosts.dedup();
        }
        let order = release(speaker, scope, Some(id), reason);
        self.may(&order, &at).await?;
        if hosts.is_empty() {
            let why = impossible(format!("no host has taken {id}"));
            return Err(self.refuse(&order, &at.to_string(), why).await);
        }
        let release_id = order.id.clone();
        self.send(at, order).await?;
        Ok(Some(release_id))
    }

    /// Whether it may be given, written down if not.
    pub(super) async fn may(&self, order: &Order, at: &At) -> Result<(), Refused> {
        if order.reason.trim().is_empty() {
            let why = impossible("an order needs a reason; say why in --reason");
            return Err(self.refuse(order, &at.to_string(), why).await);
        }
        match self.roles.authorise(order, at.reach()) {
            Ok(()) => Ok(()),
            Err(denied) => Err(self.refuse(order, &at.to_string(), denied.into()).await),
        }
    }

    /// Writes down who wanted what and why it was not done.
    pub(super) async fn refuse(&self, order: &Order, at: &str, refused: Refused) -> Refused {
        let speaker = order.second.as_ref().unwrap_or(&order.auth);
        let who = format!("{} ({})", order.actor, wire::auth(speaker));
        let what = format!("{} at {at}", wire::in_words(order));
        tracing::warn!(who, "refused: {what}: {refused}");
        // Whoever may ask must not be able to write the past out of the journal.
        if self.state().refused.pass(Now::read().boot_ns) {
            let why = refused.to_string();
            self.keeper
                .note(vec![Body::Refused { who, what, why }])
                .await;
        }
        refused
    }

    /// Somebody who is no operator has asked for something.
    pub(in crate::collect) fn stranger(self: &Arc<Self>, who: String, why: String) {
        if self.state().refused.pass(Now::read().boot_ns) {
            let what = "a request to steer".to_owned();
            let steering = Arc::clone(self);
            tokio::spawn(async move {
                let refused = Body::Refused { who, what, why };
                steering.keeper.note(vec![refused]).await;
            });
        }
    }

    /// What hosts have answered by then, or sooner if all have.
    async fn answers(&self, id: &str, until: Instant) -> v1::FleetOrderResponse {
        let mut answered = self.answered.subscribe();
        loop {
            answered.borrow_and_update();
            let is_complete = {
                let state = self.state();
                let given = state.orders.find(id);
                given.is_none_or(|given| given.tally().unanswered == 0)
            };
            if is_complete || timeout_at(until, answered.changed()).await.is_err() {
                break;
            }
        }
        let state = self.state();
        let given = state.orders.find(id);
        v1::FleetOrderResponse {
            id: id.to_owned(),
            waits: String::new(),
            hosts: given.map(outcomes).unwrap_or_default(),
        }
    }
}

fn outcomes(given: &Given) -> Vec<v1::HostOutcome> {
    let outcomes = given.hosts.iter().map(|(host, outcome)| match outcome {
        None => v1::HostOutcome {
            host: host.clone(),
            ..v1::HostOutcome::default()
        },
        Some(fate) => v1::HostOutcome {
            host: host.clone(),
            outcome: match fate.refused {
                None => v1::CommandOutcome::Done,
                Some(_) => v1::CommandOutcome::Refused,
            }
            .into(),
            reason: fate.refused.clone().unwrap_or_default(),
            took_us: fate.took_ns / 1_000,
        },
    });
    outcomes.collect()
}

/// The order that takes back another.
pub(super) fn release(speaker: &str, scope: Scope, of: Option<&str>, reason: &str) -> Order {
    let Author { level, actor, auth } = author(speaker);
    Order {
        id: uuid::Uuid::new_v4().simple().to_string(),
        generation: 0,
        scope,
        action: Action::Release {
            order: of.map(str::to_owned),
        },
        level,
        actor,
        auth,
        second: None,
        reason: reason.to_owned(),
        created_unix_ns: Now::read().unix_ns,
        ttl_s: DEFAULT_TTL_S,
        ramp_s: 0,
        expect: None,
        on_fail: OnFail::Revert,
        is_break_glass: false,
        prev_hash: None,
    }
}

/// How far a rebalance reaches.
pub(super) const REBALANCE_REACH: Reach = Reach::Region;

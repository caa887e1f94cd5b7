//! Steering from the centre: orders to many hosts, rights that are lent to them, and what each is told
//! of its pool.
//!
//! What decides is pure and stands in the files beside this one, as values and functions of time. Here
//! they are given the fleet as it is, their journal, and the way to hosts: one task looks once a second
//! and at every answer. A host that does not hear of the centre goes on by itself: orders end there by
//! their own time, rights by their lease, and the word on the pool after three minutes.

pub mod at;
mod balance;
mod desk;
pub mod given;
pub mod harm;
pub mod journals;
mod keep;
pub mod ledger;
pub mod outbox;
pub mod places;
pub mod preview;
pub mod rebalance;
pub mod tokens;
mod told;
pub mod view;
pub mod word;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use weir_proto::v1;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::command::What;
use weir_proto::v1::edge_message::Message as Up;

use super::drills::{Answer as Drilled, Drills, Waiting as Answers};
use super::gather::Gather;
use crate::config::collect::Steer;
use crate::steer::Scope;
use crate::steer::central::{Central, Kept, Phase};
use crate::steer::journal::Body;
use crate::steer::overrides::order::OnFail;
use crate::steer::overrides::roles::{Reach, Roles};
use crate::steer::overrides::{Action, Level, Order};
use crate::steer::pace::Pace;
use given::Orders;
use journals::Journals;
use keep::{Found, Keeper, Now};
use ledger::Ledger;
use outbox::{Answer, Head, Letter, Outbox};
use places::Places;
use preview::Limits;
use rebalance::{Around, Rebalance};
use tokens::{Authority, Member, Token};
use view::View;
use word::Word;

/// Between two words on a pool.
const LOOK: Duration = Duration::from_secs(1);
/// Of those that refused an order, as many are written down by name.
const REFUSALS_NAMED: usize = 32;
/// Rebalances that are over, for whoever asks.
const OVER_KEPT: usize = 16;

/// Everything that is ordered, lent and known of it.
#[derive(Debug)]
struct State {
    outbox: Outbox,
    orders: Orders,
    waiting: Vec<desk::Waiting>,
    authority: Authority,
    rebalances: Vec<Rebalance>,
    over: Vec<Kept>,
    /// Hosts that refuse what a rebalance wants of them, and why.
    unwilling: HashMap<String, String>,
    ledger: Ledger,
    views: Vec<View>,
    /// Hosts that are connected to other collectors, and to which.
    elsewhere: BTreeMap<String, String>,
    words: BTreeMap<String, Word>,
    tokens: BTreeMap<String, Token>,
    journals: Journals,
    refused: Pace,
}

/// What the collector and its task share.
#[derive(Debug)]
pub(in crate::collect) struct Steering {
    roles: Roles,
    places: Places,
    limits: Limits,
    dead_time_s: u32,
    keeper: Keeper,
    gather: Arc<Gather>,
    drills: Arc<Drills>,
    state: Mutex<State>,
    /// Something waits to be sent.
    nudge: Notify,
    /// Grows whenever a host has answered.
    answered: watch::Sender<u64>,
    /// On `CLOCK_BOOTTIME`: before, nothing is said of pools.
    settled_ns: u64,
}

impl Steering {
    /// With what was ordered before. None: this collector orders nothing.
    pub(super) fn open(
        config: &Steer,
        gather: Arc<Gather>,
        drills: Arc<Drills>,
    ) -> Option<Arc<Self>> {
        let file = config.journal_file.as_deref()?;
        let now = Now::read();
        let (keeper, found) = Keeper::open(config, file, now);
        let settle_ns = u64::from(config.settle_s) * 1_000_000_000;
        let places = Places::from(&config.pools[..]);
        let state = State {
            outbox: Outbox::default(),
            orders: Orders::default(),
            waiting: Vec::new(),
            authority: Authority::new(now.boot_ns),
            rebalances: Vec::new(),
            over: Vec::new(),
            unwilling: HashMap::new(),
            ledger: Ledger::default(),
            views: Vec::new(),
            elsewhere: BTreeMap::new(),
            words: BTreeMap::new(),
            tokens: BTreeMap::new(),
            journals: Journals::default(),
            refused: Pace::new(now.boot_ns),
        };
        let steering = Self {
            roles: config.roles(),
            places,
            limits: Limits::default(),
            dead_time_s: config.dead_time_s,
            keeper,
            gather,
            drills,
            state: Mutex::new(state),
            nudge: Notify::new(),
            answered: watch::Sender::new(0),
            settled_ns: now.boot_ns.saturating_add(settle_ns),
        };
        steering.take_up(found, now, settle_ns);
        Some(Arc::new(steering))
    }

    /// What was ordered before goes on: hosts that have it say so when it is sent again.
    fn take_up(&self, found: Found, now: Now, settle_ns: u64) {
        let mut state = self.state();
        let (orders, rebalances) = (found.orders.len(), found.rebalances.len());
        for (at, order) in found.orders {
            // To whom it was sent is found out as they come.
            state.orders.restore(at, order);
        }
        for kept in found.rebalances {
            let rebalance = Rebalance::restored(kept, now.boot_ns, settle_ns);
            state.rebalances.push(rebalance);
        }
        if orders + rebalances > 0 {
            tracing::warn!(
                orders,
                rebalances,
                "what was ordered before the start goes on"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host's hot lane has connected.
    pub(super) fn connected(&self, host: &str) {
        let now = Now::read();
        let mut state = self.state();
        state.catch_up(host, &self.places, now);
        state.outbox.connected(host, now.boot_ns);
        drop(state);
        self.nudge.notify_one();
    }

    /// A host has written these down.
    pub(super) fn journaled(&self, host: &str, events: &[v1::HotEvent]) {
        let steer = events.iter().filter_map(|event| match &event.event {
            Some(v1::hot_event::Event::Steer(entry)) => Some(entry),
            _ => None,
        });
        let mut steer = steer.peekable();
        if steer.peek().is_none() {
            return;
        }
        let mut state = self.state();
        for entry in steer {
            state.journals.note(host, entry.clone());
        }
    }

    /// Until the collector ends.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut answers = self.drills.wait();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                answer = answers.answer() => {
                    let Some((host, Drilled::Said(said))) = answer else { continue };
                    if let Up::CommandResult(result) = *said {
                        self.heard(&host, result);
                        self.send_letters(&answers, Some(&host));
                    }
                }
                () = self.nudge.notified() => self.send_letters(&answers, None),
                _ = tick.tick() => {
                    self.look().await;
                    self.send_letters(&answers, None);
                    self.send_words(&answers);
                }
            }
        }
    }

    /// A host has answered.
    fn heard(&self, host: &str, result: v1::CommandResult) {
        let now = Now::read();
        let outcome = result.outcome();
        if result.number == 0 {
            // To a rebalance, which rides on the word on its pool.
            let mut state = self.state();
            if outcome == v1::CommandOutcome::Done {
                state.unwilling.remove(host);
            } else {
                state.unwilling.insert(host.to_owned(), result.reason);
            }
            return;
        }
        let head = Head {
            generation: result.generation,
            hash: (!result.hash.is_empty()).then_some(result.hash),
        };
        let answer = match outcome {
            v1::CommandOutcome::Done => Answer::Taken { head },
            v1::CommandOutcome::Elsewhere => Answer::Elsewhere {
                head,
                why: result.reason,
            },
            v1::CommandOutcome::Refused | v1::CommandOutcome::Failed => {
                Answer::Refused(result.reason)
            }
            // It is sent again.
            v1::CommandOutcome::Busy | v1::CommandOutcome::Unspecified => return,
        };
        let bodies = {
            let mut state = self.state();
            let fate = state.outbox.heard(host, result.number, answer, now.boot_ns);
            let Some(fate) = fate else { return };
            let mut bodies = Vec::new();
            if fate.is_rechained {
                bodies.push(Body::Note(format!(
                    "{host} had another chain of orders; it goes on from there with {}",
                    fate.order
                )));
            }
            state.orders.note(fate);
            bodies.extend(state.answered());
            bodies
        };
        self.answered.send_modify(|count| *count += 1);
        if !bodies.is_empty() {
            // What is to be sent next does not wait for the disk.
            let keeper = self.keeper.clone();
            tokio::spawn(async move { keeper.note(bodies).await });
        }
    }

    /// Takes in how the fleet is, and what follows.
    async fn look(&self) {
        let now = Now::read();
        // What a collector that does not answer would have said is missing: its hosts count as silent.
        let (hosts, _) = self.gather.hosts().await;
        self.meet_elsewhere(&hosts);
        let views: Vec<_> = hosts
            .iter()
            .map(|host| View::of(host, now.unix_ns))
            .collect();
        let mut bodies = Vec::new();
        let changed = {
            let mut state = self.state();
            state.ledger.note(&views, now.boot_ns);
            state.views = views;
            for fate in state.outbox.expire(now.boot_ns, now.unix_ns) {
                state.orders.note(fate);
            }
            state.waiting.retain(|own| own.until_boot_ns > now.boot_ns);
            bodies.extend(state.answered());
            state.orders.expire(now.unix_ns);
            state.step(&self.places, self.limits, now)
        };
        for (before, kept) in changed {
            tracing::warn!(
                id = kept.plan.id,
                phase = kept.phase.as_str(),
                "rebalance: {}",
                kept.phase.why()
            );
            let goes_on = matches!(kept.phase, Phase::Moving { .. });
            let body = Body::Central(Box::new(Central::Rebalance(kept)));
            if let Err(why) = self.keeper.write(vec![body]).await
                && goes_on
            {
                // What is not written down is not begun.
                tracing::error!(id = before.plan.id, "a rebalance cannot go on: {why}");
                self.state().go_back(before);
            }
        }
        self.keeper.note(bodies).await;
        self.answered.send_modify(|count| *count += 1);
        let mut state = self.state();
        state.let_go_of_what_is_over();
        if now.boot_ns >= self.settled_ns {
            state.reckon(&self.places, now);
        }
    }

    /// Hosts come to other collectors too; there nobody says so but the list of hosts.
    fn meet_elsewhere(&self, hosts: &[v1::Host]) {
        let new: Vec<_> = {
            let mut state = self.state();
            let before = std::mem::take(&mut state.elsewhere);
            let elsewhere = hosts
                .iter()
                .filter(|host| host.connected && !self.drills.has(&host.host));
            state.elsewhere = elsewhere
                .map(|host| (host.host.clone(), host.collector.clone()))
                .collect();
            let is_new = |(host, collector): &(&String, &String)| {
                before.get(*host).is_none_or(|own| own != *collector)
            };
            let new = state.elsewhere.iter().filter(is_new);
            new.map(|(host, _)| host.clone()).collect()
        };
        for host in new {
            self.connected(&host);
        }
    }

    /// To a host, here or at another collector. Who is not connected is sent it when he is.
    fn forward(&self, host: String, command: Down) {
        let hosts = [host];
        if self.drills.ask(&hosts, &command).is_empty() && self.gather.is_divided() {
            let gather = Arc::clone(&self.gather);
            let Down::Command(v1::Command { id, .. }) = &command else {
                return;
            };
            let id = id.clone();
            tokio::spawn(async move { gather.wish(&id, &hosts, &command).await });
        }
    }

    fn send_letters(&self, answers: &Answers, host: Option<&str>) {
        let now = Now::read();
        let (letters, reaches) = {
            let mut state = self.state();
            let letters = state.outbox.due(host, now.boot_ns, now.unix_ns);
            let reach = |letter: &Letter| {
                let given = state.orders.find(&letter.order.id);
                given.map_or(Reach::Host, |given| given.at.reach())
            };
            let reaches: Vec<_> = letters.iter().map(reach).collect();
            (letters, reaches)
        };
        for (letter, reach) in letters.into_iter().zip(reaches) {
            // An order is some hundred bytes of strings: there is nothing in it that JSON cannot say.
            let Ok(json) = serde_json::to_string(&letter.order) else {
                continue;
            };
            let order = What::Order(v1::CentralOrder {
                json,
                reach: reach.as_str().to_owned(),
            });
            let command = command(answers, letter.number, order, now);
            self.forward(letter.host, command);
        }
    }

    fn send_words(&self, answers: &Answers) {
        let now = Now::read();
        if now.boot_ns < self.settled_ns {
            return;
        }
        let words = self.state().pool_words(&self.places);
        for (host, word) in words {
            let command = command(answers, 0, What::Pool(word), now);
            self.forward(host, command);
        }
    }
}

fn command(answers: &Answers, number: u64, what: What, now: Now) -> Down {
    Down::Command(v1::Command {
        id: answers.id.clone(),
        issued_unix_ns: now.unix_ns,
        number,
        what: Some(what),
    })
}

impl State {
    /// Orders that a host may not have heard of: those from before this collector's start, which were
    /// given to it too.
    fn catch_up(&mut self, host: &str, places: &Places, now: Now) {
        let missed = self.orders.missed_by(host, places, now.unix_ns);
        for order in missed {
            if let Err(err) = self.outbox.push(host, order, now.boot_ns) {
                tracing::warn!("{err}");
            }
        }
    }

    /// What became of orders that all hosts have answered.
    fn answered(&mut self) -> Vec<Body> {
        let told = self.orders.answered().into_iter().map(|given| {
            let tally = given.tally();
            let refusals = given.refusals().take(REFUSALS_NAMED);
            Body::Central(Box::new(Central::Answered {
                order: given.order.id.clone(),
                taken: tally.taken,
                refused: tally.refused,
                refusals: refusals
                    .map(|(host, why)| (host.to_owned(), why.to_owned()))
                    .collect(),
            }))
        });
        told.collect()
    }

    /// Rebalances go on; gives each that changed, as it was and as it is.
    fn step(&mut self, places: &Places, limits: Limits, now: Now) -> Vec<(Kept, Kept)> {
        let Self {
            rebalances,
            views,
            ledger,
            ..
        } = self;
        let around = Around {
            places,
            views,
            ledger,
            limits,
            now_ns: now.boot_ns,
            now_unix_ns: now.unix_ns,
        };
        let mut changed = Vec::new();
        for rebalance in rebalances {
            let before = rebalance.kept.clone();
            if rebalance.step(&around) {
                changed.push((before, rebalance.kept.clone()));
            }
        }
        changed
    }

    fn go_back(&mut self, kept: Kept) {
        let its = |own: &&mut Rebalance| own.kept.plan.id == kept.plan.id;
        if let Some(own) = self.rebalances.iter_mut().find(its) {
            own.kept = kept;
        }
    }

    fn let_go_of_what_is_over(&mut self) {
        let all = std::mem::take(&mut self.rebalances);
        let (over, left): (Vec<_>, _) = all.into_iter().partition(Rebalance::is_over);
        self.rebalances = left;
        self.over.extend(over.into_iter().map(|own| own.kept));
        let most = self.over.len().saturating_sub(OVER_KEPT);
        self.over.drain(..most);
        if self.rebalances.is_empty() {
            self.unwilling.clear();
        }
    }

    /// What pools are told, and who may go below half.
    fn reckon(&mut self, places: &Places, now: Now) {
        self.words = word::words(places, &self.views, &self.ledger, now.unix_ns);
        let members: Vec<_> = self
            .views
            .iter()
            .filter_map(|view| {
                let word = self.words.get(&view.host)?;
                Some(Member {
                    view,
                    pool: places.of(&view.host)?.pool,
                    own_ppm: word.own_ppm,
                    healthy_ppm: word.healthy_ppm,
                })
            })
            .collect();
        self.tokens = self.authority.turn(&members, now.boot_ns);
    }

    /// To each host that says how its gate stands.
    fn pool_words(&self, places: &Places) -> Vec<(String, v1::PoolWord)> {
        let fresh = self.views.iter().filter(|view| view.is_fresh);
        let words = fresh.filter_map(|view| {
            let gate = view.gate?;
            let word = self.words.get(&view.host)?;
            let token = self.tokens.get(&view.host);
            let region = self.region_weight(&view.host, places);
            let word = v1::PoolWord {
                as_of_boot_ns: gate.boot_ns,
                healthy_ppm: word.healthy_ppm,
                own_ppm: word.own_ppm,
                spare_ppm: word.spare_ppm,
                token: token.map(|token| v1::LentToken {
                    floor_permille: token.floor_permille.into(),
                    until_boot_ns: token.until_boot_ns,
                }),
                region,
            };
            Some((view.host.clone(), word))
        });
        words.collect()
    }

    /// The lowest that any rebalance wants of it, and by which order.
    fn region_weight(&self, host: &str, places: &Places) -> Option<v1::RegionWeight> {
        let wanted = self.rebalances.iter().filter_map(|own| {
            let permille = own.weight_permille(host, places)?;
            Some((permille, &own.kept))
        });
        let (permille, kept) = wanted.min_by_key(|(permille, _)| *permille)?;
        Some(v1::RegionWeight {
            weight_permille: permille.into(),
            order_json: serde_json::to_string(&order_of(kept, permille)).ok()?,
        })
    }
}

/// What a rebalance wants of one host, as the order for which its author must have the right there.
pub(super) fn order_of(kept: &Kept, permille: u16) -> Order {
    let plan = &kept.plan;
    Order {
        id: plan.id.clone(),
        generation: 0,
        scope: Scope::Host,
        action: Action::Weight { permille },
        level: Level::CentralHuman,
        actor: plan.actor.clone(),
        auth: plan.auth.clone(),
        second: plan.second.clone(),
        reason: plan.reason.clone(),
        created_unix_ns: plan.created_unix_ns,
        ttl_s: plan.ttl_s,
        ramp_s: 0,
        expect: None,
        on_fail: OnFail::Revert,
        is_break_glass: plan.is_break_glass,
        prev_hash: None,
    }
}

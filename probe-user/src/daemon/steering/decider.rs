//! Decides at every look at the numbers, at an order and at an alarm; writes it down; tells the gates.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weir_proto::v1;

use super::centre::CentreSaid;
use super::clock::Clock;
use super::gates::{Gates, Report};
use super::keeper::Keeper;
use super::numbers::{LOOK_NS, Numbers};
use super::orders::Desk;
use super::resume::Resumed;
use super::verdicts::Verdicts;
use super::{Ends, NewRules};
use crate::daemon::measuring::KillSwitch;
use crate::kernel::SWEEP_INTERVAL;
use crate::query::steering::Ask;
use crate::query::{self, Query};
use crate::steer::journal::{Body, Checkpoint, Draft, Permit, Written};
use crate::steer::overrides::Moment;
use crate::steer::overrides::order::{Direction, Expect};
use crate::steer::overrides::roles::Roles;
use crate::steer::policy::rules::SECOND_NS;
use crate::steer::policy::{Decision, Inputs, Kind, Rules, State, decide};
use crate::steer::{Position, Scope};
use crate::ui::listing::journal as listing;
use crate::uplink::HotEvent;
use crate::wire::steer as wire;

/// Decisions, verdicts and pieces of advice that are remembered for whoever asks.
const REMEMBERED: usize = 16;
/// The core has so long to say its numbers.
const ANSWER_NS: u64 = 2 * SECOND_NS;
/// What must be known after a restart is kept so often at least, so that it is in the newest files.
const CHECKPOINT_NS: u64 = 600 * SECOND_NS;
/// Between a decision and the first of its ramp, where something else was on its way and it did not
/// begin at once: a thousandth of the traffic at the usual pace.
const SOON: Duration = Duration::from_millis(40);
/// An entry longer than this goes to the collector without its body.
const MAX_EVENT_BYTES: usize = 4096;

/// What is written down before a decision's own entries.
#[derive(Debug, Default)]
pub(super) struct WrittenFirst {
    pub(super) bodies: Vec<Body>,
    pub(super) is_book_changed: bool,
    /// Of what cannot be written down nothing moves, towards neutral neither.
    pub(super) or_nothing: bool,
}

/// One gate as it was reported last.
#[derive(Debug, Default)]
pub(super) struct GateState {
    pub(super) told: v1::SteerGate,
    pub(super) until_boot_ns: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Decider {
    pub(super) rules: Rules,
    pub(super) roles: Roles,
    pub(super) clock: Clock,
    pub(super) keeper: Keeper,
    pub(super) gates: Gates,
    pub(super) gate_reports: Vec<GateState>,
    switch: KillSwitch,
    pub(super) ends: Ends,
    pub(super) state: State,
    pub(super) inputs: Inputs,
    pub(super) centre: CentreSaid,
    numbers: Numbers,
    /// When the core was asked, and where it answers.
    asked: Option<(u64, oneshot::Receiver<query::Numbers>)>,
    /// An alarm came while the core was asked: what it answers may not have it yet.
    ask_again: bool,
    looked_ns: u64,
    verdicts: Verdicts,
    /// What the gates are told.
    pub(super) held: Position,
    pub(super) desk: Desk,
    pub(super) counts: v1::SteerCounts,
    pub(super) decisions: VecDeque<Decision>,
    pub(super) advice: VecDeque<Decision>,
    pub(super) told_verdicts: VecDeque<v1::SteerVerdict>,
    /// What automation would do, and when that was found out.
    pub(super) otherwise: (u64, Vec<v1::SteerMove>),
    checkpoint_ns: u64,
    /// A ramp has begun: its first step does not wait for the next tick.
    soon: Option<tokio::time::Instant>,
}

/// What the core answers, if it was asked.
async fn answer(
    asked: &mut Option<(u64, oneshot::Receiver<query::Numbers>)>,
) -> (u64, Option<query::Numbers>) {
    match asked {
        Some((asked_ns, reply)) => (*asked_ns, reply.await.ok()),
        None => std::future::pending().await,
    }
}

async fn pause(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

impl Decider {
    pub(super) fn new(
        rules: NewRules,
        clock: Clock,
        keeper: Keeper,
        gates: Gates,
        switch: KillSwitch,
        ends: Ends,
    ) -> Self {
        let NewRules { rules, roles, .. } = rules;
        let now_ns = clock.now().boot_ns;
        let names = gates.names();
        Self {
            gate_reports: names.iter().map(|_| GateState::default()).collect(),
            rules,
            roles,
            clock,
            keeper,
            gates,
            switch,
            ends,
            state: State::default(),
            inputs: Inputs::default(),
            centre: CentreSaid::default(),
            numbers: Numbers::default(),
            asked: None,
            ask_again: false,
            looked_ns: 0,
            verdicts: Verdicts::default(),
            held: Position::default(),
            desk: Desk::new(now_ns),
            counts: v1::SteerCounts::default(),
            decisions: VecDeque::new(),
            advice: VecDeque::new(),
            told_verdicts: VecDeque::new(),
            otherwise: (0, Vec::new()),
            checkpoint_ns: now_ns,
            soon: None,
        }
    }

    /// Until it is stopped; then every gate is let go.
    pub(super) async fn run(mut self, resumed: Resumed, mut rules: mpsc::Receiver<NewRules>) {
        self.begin(resumed).await;
        let mut tick = tokio::time::interval(SWEEP_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (stop, alarmed) = (self.ends.stop.clone(), self.ends.alarmed.clone());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ask) = self.ends.asks.recv() => self.obey(ask).await,
                (asked_ns, numbers) = answer(&mut self.asked) => {
                    self.asked = None;
                    if std::mem::take(&mut self.ask_again) {
                        self.ask_for_numbers();
                    }
                    self.look(numbers, asked_ns).await;
                }
                () = alarmed.notified() => {
                    self.ask_again = self.asked.is_some();
                    self.ask_for_numbers();
                }
                () = pause(self.soon) => {
                    self.soon = None;
                    self.turn().await;
                }
                report = self.gates.report() => self.hear_of_gate(report).await,
                Some(new) = rules.recv() => self.follow(new).await,
                _ = tick.tick() => self.tick().await,
            }
            self.gates.live();
            self.tell_the_centre();
        }
        self.end().await;
    }

    async fn begin(&mut self, resumed: Resumed) {
        let Resumed { state, orders } = resumed;
        self.held.generation = state.position.generation;
        self.state = state;
        self.inputs.is_panic = self.switch.is_on();
        if orders > 0 {
            tracing::warn!(
                orders,
                "orders from before the start hold again; weights began neutral"
            );
        }
        if self.keeper.has_journal() {
            let note = format!(
                "weir {} begins: weights are neutral, {orders} orders hold",
                env!("CARGO_PKG_VERSION")
            );
            self.write(vec![Body::Note(note)]).await;
        }
    }

    /// Every gate neutral, and written down so.
    async fn end(mut self) {
        let neutral = Position {
            generation: self.held.generation.saturating_add(1),
            decision: self.held.decision.clone(),
            settings: Vec::new(),
        };
        let mut bodies = vec![Body::Note("weir ends: every gate is let go".to_owned())];
        if !self.held.settings.is_empty() {
            self.hold(neutral.clone());
            bodies.push(Body::Position(neutral));
        }
        bodies.push(self.checkpoint());
        self.write(bodies).await;
        let names = self.gates.names().to_vec();
        let told = self.gates.end().await;
        let told = told.into_iter().filter(|report| report.is_news);
        let bodies: Vec<_> = told.map(|report| actuated(&names, &report)).collect();
        if !bodies.is_empty() {
            self.write(bodies).await;
        }
    }

    async fn tick(&mut self) {
        self.inputs.is_panic = self.switch.is_on();
        let now_ns = self.clock.now().boot_ns;
        if let Some((asked_ns, _)) = &self.asked
            && now_ns.saturating_sub(*asked_ns) > ANSWER_NS
        {
            self.asked = None;
            self.counts.numbers_missed += 1;
        }
        if now_ns.saturating_sub(self.looked_ns) >= LOOK_NS {
            self.ask_for_numbers();
        }
        self.turn().await;
    }

    /// The core says its numbers when it has the time.
    fn ask_for_numbers(&mut self) {
        if self.asked.is_some() {
            return;
        }
        self.looked_ns = self.clock.now().boot_ns;
        let (reply, answer) = oneshot::channel();
        if self.ends.core.try_send(Query::Numbers(reply)).is_ok() {
            self.asked = Some((self.looked_ns, answer));
        } else {
            self.counts.numbers_missed += 1;
        }
    }

    async fn look(&mut self, numbers: Option<query::Numbers>, asked_ns: u64) {
        let Some(numbers) = numbers else {
            self.counts.numbers_missed += 1;
            return;
        };
        self.numbers.take(numbers, asked_ns);
        self.inputs.cells = self.numbers.inputs();
        let now = self.clock.now();
        let mut bodies = Vec::new();
        for report in self.verdicts.look(&self.numbers, now.boot_ns) {
            tracing::info!(by = report.by, scope = %report.scope, "verdict: {}", report.why());
            self.inputs.hurt.extend(report.hurt());
            let told = wire::verdict(&report, now.unix_ns);
            remember(&mut self.told_verdicts, told);
            bodies.push(Body::Verdict(report));
        }
        let first = WrittenFirst {
            bodies,
            ..WrittenFirst::default()
        };
        self.decide_and_hold(first, &now).await;
    }

    async fn obey(&mut self, ask: Ask) {
        // Whoever asked may no longer wait; what was ordered holds all the same.
        match ask {
            Ask::Order {
                order,
                reach,
                reply,
            } => {
                let _ = reply.send(self.order(*order, reach).await);
            }
            Ask::Rehearse {
                order,
                reach,
                ahead_s,
                reply,
            } => {
                let _ = reply.send(self.rehearse(*order, reach, ahead_s));
            }
            Ask::Approve { id, by, reply } => {
                let _ = reply.send(self.approve(&id, by).await);
            }
            Ask::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Ask::Central {
                order,
                reach,
                reply,
            } => {
                let _ = reply.send(self.central(*order, reach).await);
            }
            Ask::Pool {
                pool,
                region,
                reply,
            } => {
                let _ = reply.send(self.pool(pool, region.map(|own| *own)).await);
            }
            Ask::Unusable { why } => self.unusable(&why).await,
            Ask::Stranger { uid } => self.stranger(uid).await,
        }
    }

    async fn follow(&mut self, new: NewRules) {
        let NewRules {
            rules,
            roles,
            bound,
        } = new;
        if rules != self.rules || roles != self.roles {
            let armed = rules.policies.iter().filter(|own| own.is_armed).count();
            let note = format!(
                "the configuration changed: {}, {} policies of which {armed} are armed, {} roles",
                if rules.is_armed { "armed" } else { "not armed" },
                rules.policies.len(),
                roles.roles.len()
            );
            self.write(vec![Body::Note(note)]).await;
        }
        self.keeper.set_bound(bound);
        (self.rules, self.roles) = (rules, roles);
        self.turn().await;
    }

    async fn hear_of_gate(&mut self, report: Report) {
        let mut bodies = Vec::new();
        let mut next = Some(report);
        while let Some(report) = next {
            if let Some(own) = self.gate_reports.get_mut(report.gate) {
                let is_new_error = report.error.as_deref().unwrap_or_default() != own.told.error;
                own.until_boot_ns = report.until_boot_ns;
                own.told.neutral = report.until_boot_ns.is_none();
                own.told.error = report.error.clone().unwrap_or_default();
                if report.error.is_some() {
                    own.told.errors += 1;
                    self.counts.gate_errors += 1;
                } else if report.is_news || own.told.generation != report.generation {
                    own.told.generation = report.generation;
                    let us = u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX);
                    own.told.latest_us = us;
                }
                let name = &self.gates.names()[report.gate];
                if let Some(error) = report.error.as_ref().filter(|_| is_new_error) {
                    tracing::error!(
                        gate = name,
                        "the gate does not hold what it should: {error}"
                    );
                }
                // An error that stays the same is told once.
                let is_told = if report.error.is_some() {
                    is_new_error
                } else {
                    report.is_news || is_new_error
                };
                if is_told {
                    bodies.push(actuated(self.gates.names(), &report));
                }
            }
            next = self.gates.reported();
        }
        if !bodies.is_empty() {
            self.write(bodies).await;
        }
    }

    /// Decides by what is known.
    pub(super) async fn turn(&mut self) {
        let now = self.clock.now();
        self.decide_and_hold(WrittenFirst::default(), &now).await;
    }

    /// Decides, writes `first` and what was decided, and tells the gates. Whether all of it is
    /// written down; if not, the gates were only told what goes towards neutral.
    pub(super) async fn decide_and_hold(&mut self, first: WrittenFirst, now: &Moment) -> bool {
        let state = std::mem::take(&mut self.state);
        let (state, outcome) = decide(&self.rules, state, &self.inputs, now.boot_ns);
        self.state = state;
        self.inputs.hurt.clear();
        let WrittenFirst {
            mut bodies,
            mut is_book_changed,
            or_nothing,
        } = first;
        let mut begins = false;
        for decision in outcome.decisions {
            is_book_changed |= matches!(decision.kind, Kind::Expire | Kind::Undo);
            begins |= decision.acts && decision.from_permille != decision.to_permille;
            self.note(&decision, now.boot_ns);
            bodies.push(Body::Decision(decision));
        }
        let wanted = Position {
            generation: self.held.generation.saturating_add(1),
            ..outcome.position
        };
        let moves = wanted.settings != self.held.settings;
        if begins && !moves {
            self.soon = Some(tokio::time::Instant::now() + SOON);
        }
        if moves {
            bodies.push(Body::Position(wanted.clone()));
        }
        let since_ns = now.boot_ns.saturating_sub(self.checkpoint_ns);
        if is_book_changed || (since_ns >= CHECKPOINT_NS && self.keeper.has_journal()) {
            bodies.push(self.checkpoint());
            self.checkpoint_ns = now.boot_ns;
        }
        if bodies.is_empty() && !self.keeper.owes() {
            return true;
        }
        // What opens all does not wait for the disk.
        let is_told = moves && wanted.is_neutral() && !or_nothing;
        if is_told {
            self.hold(wanted.clone());
        }
        let permit = self.write(bodies).await;
        let is_bounded = permit != Permit::Any;
        let allowed = if is_bounded && or_nothing {
            self.held.clone()
        } else {
            permit.bound(&self.held, &wanted)
        };
        let is_changed = allowed.settings != self.held.settings;
        if is_changed {
            self.hold(allowed);
        }
        if is_bounded && moves {
            // What may not be held is not gone on from, so that it does not come all at once later.
            self.state.held_back(&self.held);
        }
        if is_bounded && (is_told || is_changed) {
            // It goes towards neutral, and is written when that is possible.
            let draft = self.draft(Body::Position(self.held.clone()));
            self.keeper.owe_one(draft);
        }
        !is_bounded
    }

    fn hold(&mut self, position: Position) {
        self.gates.tell(&position);
        self.held = position;
        self.counts.positions += 1;
    }

    pub(super) fn draft(&self, body: Body) -> Draft {
        let now = self.clock.now();
        Draft {
            body,
            unix_ns: now.unix_ns,
            boot_ns: now.boot_ns,
        }
    }

    /// Writes down; with [`Permit::Any`] it is on the disk.
    pub(super) async fn write(&mut self, bodies: Vec<Body>) -> Permit {
        let drafts = bodies.into_iter().map(|body| self.draft(body)).collect();
        let permit = self.keeper.write(drafts).await;
        for (draft, written) in self.keeper.fetch() {
            self.pass_on(&draft, &written);
        }
        permit
    }

    /// The collector hears of it at once, if there is one.
    fn pass_on(&self, draft: &Draft, written: &Written) {
        let Some(events) = &self.ends.events else {
            return;
        };
        if matches!(draft.body, Body::Checkpoint(_) | Body::Opened { .. }) {
            return;
        }
        let json = serde_json::to_string(&draft.body).unwrap_or_default();
        let event = v1::SteerEvent {
            seq: written.seq,
            hash: written.hash.clone(),
            kind: listing::kind(&draft.body).to_owned(),
            text: listing::text(&draft.body),
            body_json: if json.len() <= MAX_EVENT_BYTES {
                json
            } else {
                String::new()
            },
        };
        events.push(HotEvent::Steer(draft.unix_ns, event.into()));
    }

    pub(super) fn checkpoint(&self) -> Body {
        Body::Checkpoint(Checkpoint {
            book: self.state.book.clone(),
            generation: self.held.generation.saturating_add(1),
            decisions: self.state.decisions,
            kept: self.clock.now(),
        })
    }

    /// Tells the log of a decision, remembers it, and watches what comes of it.
    fn note(&mut self, decision: &Decision, now_ns: u64) {
        let Decision {
            id,
            by,
            scope,
            reason,
            ..
        } = decision;
        if decision.asks_human {
            tracing::warn!(id, by, %scope, acts = decision.acts, "look at this: {reason}");
        } else {
            tracing::info!(id, by, %scope, acts = decision.acts, "{reason}");
        }
        let is_same = |own: &Decision| own.by == *by && own.scope == *scope;
        self.advice.retain(|own| !is_same(own));
        if !decision.acts {
            remember(&mut self.advice, decision.clone());
        }
        remember(&mut self.decisions, decision.clone());
        if let (Kind::TurnAway, true, Some(expected)) =
            (decision.kind, decision.acts, &decision.expected)
        {
            let policy = self.rules.policies.iter().find(|own| own.name == *by);
            let expect = Expect {
                metric: expected.metric,
                direction: Direction::Falls,
                window_s: expected.within_s.clamp(60, 300),
                min_effect_permille: 0,
                min_n: policy.map_or(1, |own| own.min_n),
            };
            self.watch(by, scope, &expect, now_ns);
        }
    }

    /// Watches whether what is begun now helps.
    pub(super) fn watch(&mut self, by: &str, scope: &Scope, expect: &Expect, now_ns: u64) {
        let (standing, numbers) = (&self.held, &self.numbers);
        if !self
            .verdicts
            .begin(by, scope, expect, standing, numbers, now_ns)
        {
            tracing::warn!(by, %scope, "too much is watched already: this will have no verdict");
        }
    }
}

fn actuated(names: &[String], report: &Report) -> Body {
    Body::Actuated {
        actuator: names.get(report.gate).cloned().unwrap_or_default(),
        generation: report.generation,
        error: report.error.clone(),
        said: report.said.clone(),
    }
}

fn remember<T>(past: &mut VecDeque<T>, new: T) {
    if past.len() >= REMEMBERED {
        past.pop_front();
    }
    past.push_back(new);
}

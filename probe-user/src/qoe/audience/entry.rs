//! One viewer as the audience keeps it: the model, what was already counted of it, and what an
//! operator is told.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::super::alarms::{START_ROUND_NS, Standing};
use super::super::blame::Spent;
use super::super::cell::{Cell, Cells};
use super::super::learn::Pupil;
use super::super::metric::Metric;
use super::super::poll::network_of;
use super::super::startup::FailureClass;
use super::super::verdict::{Evidence, Verdict, verdict};
use super::super::viewer::{Cause, Change, Ending, Phase, Sums, Thresholds, Tier, View, Viewer};
use super::Key;
use crate::labels::family::Family;
use crate::labels::request::ShortText;

/// A viewer that tries again and fails within so long has failed once (CTA-2066 counts the viewer's
/// intent, and a player that retries is no other intent).
const RETRIES_NS: u64 = 300_000_000_000;
/// Stalls that are listed of a viewer.
const MOST_STALLS: usize = 16;

/// A stall, as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// When it began, by what is known now.
    pub t_begin_ns: u64,
    /// When playback went on; 0: it has not.
    pub t_end_ns: u64,
    /// When weir said so first.
    pub t_told_ns: u64,
    /// Why.
    pub cause: Cause,
    /// Where the time of the deliveries went that it waited for.
    pub blame: Spent,
    /// How many of them are over; while none is, the blame is that of what is under way.
    deliveries: u64,
}

impl Stall {
    /// Who is answerable.
    pub fn verdict(&self) -> Verdict {
        verdict(&Evidence {
            spent: self.blame,
            deliveries: self.deliveries,
            upstream_us: 0,
            origin_stalls: u64::from(self.cause == Cause::Origin),
            stalls: 1,
            worst_network: None,
        })
    }
}

/// One viewer.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own"
)]
pub struct Entry {
    /// What tells it from others.
    pub key: Key,
    /// Its session id, cut short.
    pub name: Option<ShortText>,
    /// Where its client is.
    pub client: IpAddr,
    /// The server's port.
    pub port: u16,
    /// The kind of player.
    pub family: Family,
    /// How much is known of it.
    pub tier: Tier,
    /// What it watches is live.
    pub is_live: bool,
    /// Where it is counted.
    pub cell: u32,
    /// Its attempt to play began: its first session was opened, or its first request came.
    pub t_attempt_ns: u64,
    /// First frame; 0: none yet.
    pub t_started_ns: u64,
    /// When it was last heard of.
    pub t_updated_ns: u64,
    /// When it ended; 0: it has not.
    pub t_ended_ns: u64,
    /// It played already when it was first heard of.
    pub is_joined: bool,
    /// It asked for more than manifests that it was given.
    pub(super) has_asked: bool,
    /// It had a session, so that its address is its own.
    pub(super) was_reached: bool,
    /// When the first of a row of failed attempts of it failed; 0: none did.
    pub(super) t_failed_ns: u64,
    /// How it ended.
    pub ended: Option<Ending>,
    /// Why it never began.
    pub failure: Option<FailureClass>,
    /// Several viewers stand behind it.
    pub is_shared: bool,
    /// Sessions of it that are open.
    pub sessions: u32,
    /// Media objects delivered.
    pub objects: u64,
    /// Media time delivered.
    pub media_us: u64,
    /// Bytes of its deliveries.
    pub acked_bytes: u64,
    /// Times at risk.
    pub at_risk_times: u64,
    /// Where the time of its slow deliveries went.
    pub blame: Spent,
    /// How many they are.
    pub slow_deliveries: u64,
    /// Of their thinking, what other servers took.
    pub upstream_us: u64,
    /// The latest, latest last.
    pub stalls: VecDeque<Stall>,
    /// Where the time has gone of the delivery that was reported last while it was under way.
    pub(super) under_way: Spent,
    /// What its player teaches of its family.
    pub(super) pupil: Option<Box<Pupil>>,
    pub(super) model: Viewer,
    /// The same, not told what the player says: how good the model is without.
    pub(super) shadow: Option<Box<Viewer>>,
    /// What is already in its cell.
    counted: Sums,
    shown: Shown,
    /// The wake-up that is planned for it.
    pub(super) wake_ns: u64,
}

/// What the gauges of its cell have of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shown {
    is_active: bool,
    is_stalled: bool,
    is_at_risk: bool,
}

/// What a new entry is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) key: Key,
    pub(super) name: Option<ShortText>,
    pub(super) client: IpAddr,
    pub(super) port: u16,
    pub(super) family: Family,
    pub(super) tier: Tier,
    pub(super) cell: u32,
    /// When its attempt to play began.
    pub(super) t_attempt_ns: u64,
    /// It plays already.
    pub(super) is_joined: bool,
}

impl Entry {
    pub(super) fn new(origin: &Origin) -> Self {
        Self {
            key: origin.key,
            name: origin.name,
            client: origin.client,
            port: origin.port,
            family: origin.family,
            tier: origin.tier,
            is_live: false,
            cell: origin.cell,
            t_attempt_ns: origin.t_attempt_ns,
            t_started_ns: 0,
            t_updated_ns: origin.t_attempt_ns,
            t_ended_ns: 0,
            is_joined: origin.is_joined,
            has_asked: false,
            was_reached: false,
            t_failed_ns: 0,
            ended: None,
            failure: None,
            is_shared: false,
            sessions: 0,
            objects: 0,
            media_us: 0,
            acked_bytes: 0,
            at_risk_times: 0,
            blame: Spent::default(),
            slow_deliveries: 0,
            upstream_us: 0,
            stalls: VecDeque::new(),
            under_way: Spent::default(),
            pupil: None,
            shadow: (origin.tier == Tier::Declared)
                .then(|| Box::new(Viewer::new(origin.t_attempt_ns))),
            model: Viewer::new(origin.t_attempt_ns),
            counted: Sums::default(),
            shown: Shown::default(),
            wake_ns: u64::MAX,
        }
    }

    /// What it is doing.
    pub fn view(&self, now_ns: u64, with: &Thresholds) -> View {
        self.model.view(now_ns, with)
    }

    /// How it stands, if it is active.
    pub fn standing(&self) -> Option<Standing> {
        self.shown.is_active.then(|| Standing {
            cell: self.cell,
            network: network_of(self.client),
            is_stalled: self.shown.is_stalled,
        })
    }

    /// Whether the viewing is over.
    pub fn is_ended(&self) -> bool {
        self.t_ended_ns != 0
    }

    /// Whether anything went wrong for it.
    pub fn troubled(&self) -> bool {
        self.failure.is_some()
            || !self.stalls.is_empty()
            || self.shown.is_at_risk
            || self.ended == Some(Ending::UnderStress)
    }

    /// How much it needs looking at: stalled first, then at risk, then who is still there, then failed
    /// starts, then by what it stalled.
    pub fn badness(&self) -> (bool, bool, bool, bool, u64) {
        (
            self.shown.is_stalled,
            self.shown.is_at_risk,
            !self.is_ended(),
            self.failure.is_some(),
            self.counted.stalled_us.point,
        )
    }

    /// Whether it stands still now.
    pub fn is_stalled(&self) -> bool {
        self.shown.is_stalled
    }

    /// Whether the object under way will miss its buffer.
    pub fn is_at_risk(&self) -> bool {
        self.shown.is_at_risk
    }

    /// Who is answerable for what went slowly; none: nothing did.
    pub fn verdict(&self) -> Option<Verdict> {
        let origin_stalls = self.stalls.iter().filter(|s| s.cause == Cause::Origin);
        let evidence = Evidence {
            spent: self.blame,
            deliveries: self.slow_deliveries,
            upstream_us: self.upstream_us,
            origin_stalls: origin_stalls.count() as u64,
            stalls: self.stalls.len() as u64,
            worst_network: None,
        };
        (self.slow_deliveries > 0 || evidence.origin_stalls > 0).then(|| verdict(&evidence))
    }

    /// A delivery is over that took its time: so do the stalls that waited for it.
    pub(super) fn blame(&mut self, t_request_ns: u64, t_last_acked_ns: u64, spent: &Spent) {
        for stall in self.stalls.iter_mut().rev() {
            let t_end_ns = if stall.t_end_ns == 0 {
                u64::MAX
            } else {
                stall.t_end_ns
            };
            if t_request_ns < t_end_ns && t_last_acked_ns >= stall.t_begin_ns {
                if stall.deliveries == 0 {
                    stall.blame = Spent::default();
                }
                stall.blame.merge(spent);
                stall.deliveries += 1;
            }
        }
    }

    /// What others hear of a change that its model says: the model does not know that it played
    /// before, nor that it looked at a manifest and no more. None: nothing.
    pub(super) fn told(&self, change: &Change) -> Option<Change> {
        match *change {
            Change::Started { .. } if self.is_joined => None,
            Change::Failed { t_ns, class } if self.is_joined || self.is_visit(class) => {
                Some(Change::Ended {
                    t_ns,
                    how: Ending::Left,
                })
            }
            other => Some(other),
        }
    }

    /// Whether one that never played never tried to either: it had its manifests and went. Who declares
    /// its state is a player.
    fn is_visit(&self, class: FailureClass) -> bool {
        class == FailureClass::Client && self.tier == Tier::Joined && !self.has_asked
    }

    /// Takes note of what its model said, and counts what is final.
    pub(super) fn note(&mut self, change: &Change, now_ns: u64, cell: &mut Cell) {
        match *change {
            Change::Started { t_ns, startup_us } => {
                self.t_started_ns = t_ns;
                if self.is_joined {
                    return;
                }
                cell.counters.start_attempts += 1;
                cell.counters.starts += 1;
                cell.record(Metric::StartupTimeUs, startup_us.into());
                let network = network_of(self.client);
                cell.start_poll.saw(network, false, now_ns, START_ROUND_NS);
            }
            Change::Failed { t_ns, class } => {
                self.t_ended_ns = t_ns.max(1);
                self.ended = Some(Ending::Left);
                self.leave(cell);
                if self.is_joined {
                    cell.counters.viewers_ended += 1;
                } else if self.is_visit(class) {
                    cell.counters.manifest_visits += 1;
                } else {
                    self.failure = Some(class);
                    self.count_failure(t_ns, class, cell);
                    if self.was_reached {
                        let network = network_of(self.client);
                        cell.start_poll.saw(network, true, now_ns, START_ROUND_NS);
                    }
                }
            }
            Change::StallBegan { t_ns, cause } => {
                if self.stalls.len() >= MOST_STALLS {
                    self.stalls.pop_front();
                }
                self.stalls.push_back(Stall {
                    t_begin_ns: t_ns,
                    t_end_ns: 0,
                    t_told_ns: now_ns,
                    cause,
                    blame: self.under_way,
                    deliveries: 0,
                });
                self.shown_stalled(true, cell);
            }
            Change::StallEnded {
                t_began_ns,
                t_ns,
                cause,
            } => {
                // One that was over before it could be told has not begun either.
                if self.stalls.back().is_none_or(|stall| stall.t_end_ns != 0) {
                    self.note(
                        &Change::StallBegan {
                            t_ns: t_began_ns,
                            cause,
                        },
                        now_ns,
                        cell,
                    );
                }
                if let Some(stall) = self.stalls.back_mut() {
                    stall.t_begin_ns = t_began_ns;
                    stall.t_end_ns = t_ns;
                    stall.cause = cause;
                }
                cell.record(Metric::StallTimeUs, t_ns.saturating_sub(t_began_ns) / 1000);
                self.shown_stalled(false, cell);
            }
            Change::StallRetracted { .. } => {
                if self.stalls.back().is_some_and(|stall| stall.t_end_ns == 0) {
                    self.stalls.pop_back();
                }
                self.shown_stalled(false, cell);
            }
            Change::AtRisk { .. } => {
                self.at_risk_times += 1;
                cell.counters.at_risk += 1;
                if !self.shown.is_at_risk {
                    self.shown.is_at_risk = true;
                    cell.gauges.viewers_at_risk += 1;
                }
            }
            Change::Safe { .. } => self.no_longer_at_risk(cell),
            Change::Ended { t_ns, how } => {
                self.t_ended_ns = t_ns.max(1);
                self.ended = Some(how);
                if how != Ending::Forgotten && !self.is_shared {
                    cell.counters.viewers_ended += 1;
                }
                cell.counters.exits_under_stress += u64::from(how == Ending::UnderStress);
                self.leave(cell);
            }
            Change::Shared { .. } => {
                self.is_shared = true;
                cell.counters.viewers_excluded += 1;
                self.leave(cell);
            }
        }
    }

    /// Counts an attempt that failed; of a row of them one in a while.
    fn count_failure(&mut self, t_ns: u64, class: FailureClass, cell: &mut Cell) {
        let counters = &mut cell.counters;
        if self.t_failed_ns != 0 && t_ns < self.t_failed_ns.saturating_add(RETRIES_NS) {
            counters.failed_retries += 1;
            return;
        }
        self.t_failed_ns = t_ns.max(1);
        counters.start_attempts += 1;
        *match class {
            FailureClass::Http => &mut counters.start_failures_http,
            FailureClass::Origin => &mut counters.start_failures_origin,
            FailureClass::Network => &mut counters.start_failures_network,
            FailureClass::Client => &mut counters.start_failures_client,
        } += 1;
    }

    /// Time watched, of which the start of one that joined is no part.
    pub fn watched_us(&self, sums: &Sums) -> u64 {
        let startup_us = if self.is_joined { sums.startup_us } else { 0 };
        sums.watched_us().saturating_sub(startup_us)
    }

    /// Adds to its cell what has become final.
    pub(super) fn count(&mut self, cell: &mut Cell) {
        let sums = self.model.sums();
        let more = sums.since(&self.counted);
        self.counted = sums;
        let counters = &mut cell.counters;
        counters.watched_us += self.watched_us(&more);
        counters.stalls += u64::from(more.stalls);
        counters.stalled_us += more.stalled_us.point;
        counters.stalled_low_us += more.stalled_us.lo;
        counters.stalled_high_us += more.stalled_us.hi;
        counters.up_switches += u64::from(more.switches_up);
        counters.down_switches += u64::from(more.switches_down);
        counters.viewer_corrections += u64::from(more.idle_errors);
    }

    /// It is counted elsewhere from now on.
    pub(super) fn move_to(&mut self, cell: u32, tier: Tier, cells: &mut Cells) {
        self.count(cells.get_mut(self.cell));
        let shown = self.shown;
        self.leave(cells.get_mut(self.cell));
        (self.cell, self.tier) = (cell, tier);
        let gauges = &mut cells.get_mut(cell).gauges;
        gauges.viewers_active += u64::from(shown.is_active);
        gauges.viewers_stalled += u64::from(shown.is_stalled);
        gauges.viewers_at_risk += u64::from(shown.is_at_risk);
        self.shown = shown;
    }

    /// It is there.
    pub(super) fn enter(&mut self, cell: &mut Cell) {
        if !self.shown.is_active {
            self.shown.is_active = true;
            cell.gauges.viewers_active += 1;
        }
    }

    pub(super) fn leave(&mut self, cell: &mut Cell) {
        self.no_longer_at_risk(cell);
        self.shown_stalled(false, cell);
        if std::mem::take(&mut self.shown.is_active) {
            cell.gauges.viewers_active -= 1;
        }
    }

    fn no_longer_at_risk(&mut self, cell: &mut Cell) {
        if std::mem::take(&mut self.shown.is_at_risk) {
            cell.gauges.viewers_at_risk -= 1;
        }
    }

    fn shown_stalled(&mut self, is_stalled: bool, cell: &mut Cell) {
        if self.shown.is_stalled != is_stalled {
            self.shown.is_stalled = is_stalled;
            if is_stalled {
                cell.gauges.viewers_stalled += 1;
            } else {
                cell.gauges.viewers_stalled -= 1;
            }
        }
    }

    /// Whether it has begun to play and is not over.
    pub fn is_playing(&self, now_ns: u64, with: &Thresholds) -> bool {
        matches!(
            self.view(now_ns, with).phase,
            Phase::Playing | Phase::Stalled | Phase::Seeking
        )
    }
}

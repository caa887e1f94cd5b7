//! What the core does with questions, and who is to hear of what comes in.
//!
//! Apart from the backend, so that the backend can lend its records while this takes them in.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use probe_ebpf::record::{Delivery, flag, kind};
use tokio::sync::{Notify, broadcast, watch};
use weir_proto::v1;

use super::labelling::Labelling;
use super::learned::Keeper;
use crate::intake::{AlreadyRecorded, Intake, Listener, Recording, Told};
use crate::kernel::{Batch, HalfOpenGiveUp, Probe, Ring};
use crate::labels::inlet::LabelCounts;
use crate::qoe::{Session, delivery};
use crate::query::filter::Filter;
use crate::query::selector::Selector;
use crate::query::server::QueryCounts;
use crate::query::{
    CellNumbers, DeliveryPage, Drilled, Followed, FollowedViewer, Numbers, Query,
    SESSIONS_PER_PAGE, SessionPage,
};
use crate::recording::Said;
use crate::recording::history::Shared as OwnRecording;
use crate::uplink::{HotEvent, Queue, UplinkCounts};
use crate::wire::{self, DaemonCounts, Heard};

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// What this host is called.
    pub(super) host: String,
    /// Names this start of the daemon.
    pub(super) boot_id: String,
    /// When that was.
    pub(super) started_unix_ns: u64,
    /// The kernel's version.
    pub(super) kernel_release: String,
    /// CPUs that the daemon sees.
    pub(super) cpus: u32,
    /// Where the configuration came from; empty: defaults.
    pub(super) config_path: String,
}

/// Those who follow deliveries as they end. Who follows troubled ones alone is not woken by all the
/// others, and does not lose its own among them.
#[derive(Debug)]
pub(super) struct Followers {
    all: Channel<Followed>,
    troubled: Channel<Followed>,
    pub(super) viewers: Channel<FollowedViewer>,
}

/// What followers of one kind are told through. Made for the first of them: it takes a megabyte.
#[derive(Debug)]
pub(super) struct Channel<T> {
    lag: usize,
    sender: OnceCell<broadcast::Sender<T>>,
}

impl<T: Clone> Channel<T> {
    fn new(lag: usize) -> Self {
        Self {
            lag,
            sender: OnceCell::new(),
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<T> {
        let sender = self.sender.get_or_init(|| broadcast::Sender::new(self.lag));
        sender.subscribe()
    }

    /// The way to those who follow, if there is anybody.
    pub(super) fn to_followers(&self) -> Option<&broadcast::Sender<T>> {
        let sender = self.sender.get();
        sender.filter(|sender| sender.receiver_count() > 0)
    }
}

impl Followers {
    /// Nobody yet. `lag`: deliveries that each may be behind.
    pub(super) fn new(lag: usize) -> Self {
        Self {
            all: Channel::new(lag),
            troubled: Channel::new(lag),
            viewers: Channel::new(lag),
        }
    }

    fn subscribe(&self, only_troubled: bool) -> broadcast::Receiver<Followed> {
        if only_troubled {
            self.troubled.subscribe()
        } else {
            self.all.subscribe()
        }
    }

    fn tell(&self, record: &Delivery, followed: impl Fn() -> Followed) {
        // Fails only if the last follower has just gone.
        if let Some(all) = self.all.to_followers() {
            let _ = all.send(followed());
        }
        if let Some(troubled) = self.troubled.to_followers()
            && delivery::troubled(record)
        {
            let _ = troubled.send(followed());
        }
    }
}

/// What is known, and everyone who asks for it or follows it.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) intake: Intake,
    pub(super) config_error: watch::Receiver<String>,
    /// Why nothing is measured; empty: it is.
    pub(super) off: String,
    /// None without a limit.
    pub(super) budget: Option<v1::BudgetStatus>,
    pub(super) identity: Arc<Identity>,
    pub(super) probes: Vec<Probe>,
    pub(super) query_counts: Arc<QueryCounts>,
    pub(super) uplink_counts: Arc<UplinkCounts>,
    pub(super) followers: Followers,
    /// None without a collector.
    pub(super) events: Option<Arc<Queue<HotEvent>>>,
    /// Wakes the gate: an alarm was raised, or has cleared.
    pub(super) alarmed: Arc<Notify>,
    /// None if finished deliveries are not sent to one.
    pub(super) deliveries: Option<Arc<Queue<Box<Followed>>>>,
    /// None: the daemon records nothing itself.
    pub(super) own_recording: Option<Arc<OwnRecording>>,
    pub(super) labelling: Labelling,
    /// None: what is learned of players is not kept.
    pub(super) learned: Option<Keeper>,
}

impl Desk {
    /// Takes in one thing that was said, and tells those who follow.
    pub(super) fn take(&mut self, said: &Said<'_>) {
        if let Some(told) = self.intake.take(said) {
            self.tell(told);
        }
        while let Some(happening) = self.intake.next_happening() {
            self.tell_happening(&happening);
        }
        while let Some(raised) = self.intake.next_alarm() {
            self.tell_alarm(&raised);
        }
    }

    /// Takes in a batch of records and empties it.
    pub(super) fn take_records(&mut self, ring: Ring, batch: &mut Batch) {
        for (at, record) in batch.iter().enumerate() {
            self.intake.foresee(batch, at);
            if let Some(said) = self.labelling.network_of(&record, &self.intake) {
                self.take(&said);
            }
            self.take(&Said::Record { ring, record });
        }
        batch.clear();
    }

    /// Takes in a handshake that was given up.
    pub(super) fn take_give_up(&mut self, give_up: HalfOpenGiveUp) {
        if let Some(said) = self.labelling.network_at(give_up.remote, &self.intake) {
            self.take(&said);
        }
        self.take(&Said::GiveUp(give_up));
    }

    /// Takes in at most `most` labels that were heard.
    pub(super) fn take_labels(&mut self, most: usize) {
        let mut labels = std::mem::take(&mut self.labelling.batch);
        if let Some(heard) = &self.labelling.heard {
            heard.take(most, &mut labels);
        }
        for label in labels.drain(..) {
            self.take(&Said::Label(&label));
        }
        self.labelling.batch = labels;
    }

    /// What came to the sockets for labels.
    pub(super) fn label_counts(&self) -> LabelCounts {
        let heard = self.labelling.heard.as_ref();
        heard.map(|heard| heard.counts()).unwrap_or_default()
    }

    /// To be called about once a second: names of client networks are said again now and then.
    pub(super) fn forget_networks(&mut self, now: Instant) {
        if self.labelling.is_time_to_forget(now) {
            self.intake.forget_networks();
        }
    }

    /// Lets those know who follow; costs nothing if nobody does.
    fn tell(&self, told: Told<'_>) {
        let Told { record, folded } = told;
        let followed = || Followed {
            record: *record,
            cell: self.intake.fold().cells().key(folded.cell).clone(),
            context: *self.intake.context(),
        };
        if told.is_for_followers() {
            self.followers.tell(record, followed);
        }
        if let Some(deliveries) = &self.deliveries
            && record.header.kind == kind::DELIVERY_END
            && record.flags & flag::HANDSHAKE == 0
        {
            deliveries.push_quietly(Box::new(followed()));
        }
        if let (Some(event), Some(events)) = (folded.event, &self.events) {
            events.push(HotEvent::Delivery {
                event,
                delivery: Box::new(followed()),
            });
        }
    }

    /// All that was lost.
    pub(super) fn losses(&self) -> v1::Losses {
        let dropped = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.intake.losses(&DaemonCounts {
            followers_dropped: dropped(&self.query_counts.followers_dropped),
            recorder_dropped: dropped(&self.query_counts.recorder_dropped),
            recorder_unwritten: self
                .own_recording
                .as_ref()
                .map_or(0, |recording| dropped(&recording.unwritten)),
            uplink_events_dropped: shed(self.events.as_deref()),
            uplink_frames_dropped: self.uplink_counts.of(v1::Lane::Hot).frames_shed
                + self.uplink_counts.of(v1::Lane::Warm).frames_shed,
            uplink_deliveries_dropped: shed(self.deliveries.as_deref()),
            uplink_ring_unwritten: dropped(&self.uplink_counts.ring_unwritten),
            labels: self.label_counts(),
            ..DaemonCounts::default()
        })
    }

    /// Answers a question. One who no longer waits for the answer does not matter.
    pub(super) fn answer(&mut self, query: Query, now_ns: u64) {
        match query {
            Query::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Query::Sessions {
                filter,
                from,
                reply,
            } => {
                let _ = reply.send(self.sessions(&filter, from));
            }
            Query::Deliveries {
                filter,
                limit,
                handshakes,
                reply,
            } => {
                let _ = reply.send(self.deliveries(&filter, limit, handshakes));
            }
            Query::Cells {
                filter,
                histograms,
                reply,
            } => {
                let _ = reply.send(v1::ListCellsResponse {
                    cells: self.matching_cells(&filter, histograms),
                    unix_ns: self.intake.unix_ns(now_ns),
                    hosts: 0,
                    missing: Vec::new(),
                });
            }
            Query::Snapshot {
                filter,
                sessions,
                reply,
            } => {
                let _ = reply.send(self.snapshot(&filter, sessions, now_ns));
            }
            Query::Viewers {
                filter,
                from,
                reply,
            } => {
                let _ = reply.send(self.viewers(&filter, from, now_ns));
            }
            Query::Drill {
                selector,
                most,
                reply,
            } => {
                let _ = reply.send(self.drill(&selector, most, now_ns));
            }
            Query::Numbers(reply) => {
                let _ = reply.send(self.numbers());
            }
            Query::Record(reply) => {
                let _ = reply.send(self.record_from(Listener::Client, now_ns));
            }
        }
    }

    /// Begins a recording.
    pub(super) fn record_from(
        &mut self,
        listener: Listener,
        now_ns: u64,
    ) -> Result<Recording, AlreadyRecorded> {
        let dropped = self.query_counts.recorder_dropped.clone();
        // A recording has all that is said from now on, and nothing that was said before.
        self.intake.forget_networks();
        let mut recording = self.intake.record_from(listener, now_ns, dropped)?;
        let identity = &self.identity;
        recording.header = v1::RecordingHeader {
            host: identity.host.clone(),
            boot_id: identity.boot_id.clone(),
            kernel_release: identity.kernel_release.clone(),
            machine: std::env::consts::ARCH.to_owned(),
            cpus: identity.cpus,
            started_unix_ns: identity.started_unix_ns,
            probes: self.probes.iter().map(wire::probe).collect(),
            ..recording.header
        };
        Ok(recording)
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            cells: self
                .intake
                .fold()
                .cells()
                .iter()
                .map(|(key, cell)| CellNumbers {
                    key: key.clone(),
                    counters: cell.counters,
                    gauges: cell.gauges,
                    late_ended: cell.late_ended,
                })
                .collect(),
            heard: Heard::of(&self.losses()),
            is_measured: self.off.is_empty(),
        }
    }

    fn status(&self) -> v1::Status {
        let identity = &self.identity;
        v1::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: identity.host.clone(),
            boot_id: identity.boot_id.clone(),
            started_unix_ns: identity.started_unix_ns,
            backend: wire::backend(self.intake.context().backend).into(),
            kernel_release: identity.kernel_release.clone(),
            probes: self.probes.iter().map(wire::probe).collect(),
            losses: Some(self.losses()),
            sessions_open: self.intake.fold().sessions().open() as u64,
            cells: self.intake.fold().cells().len() as u64,
            config_path: identity.config_path.clone(),
            config_generation: self.intake.settings().config_generation,
            deadline_ms: self.intake.settings().deadline_ms.into(),
            uplink: Some(self.uplink_counts.status()),
            config_error: self.config_error.borrow().clone(),
            queries_refused: self.query_counts.refused.load(Ordering::Relaxed),
            off: self.off.clone(),
            budget: self.budget.clone(),
            recording: self
                .own_recording
                .as_ref()
                .map(|recording| recording.status()),
            labels: self.labelling.status(),
            learned: self.intake.learned(),
        }
    }

    fn sessions(&self, filter: &Filter, from: usize) -> SessionPage {
        let cells = self.matching_keys(filter);
        let until = from.saturating_add(SESSIONS_PER_PAGE);
        let sessions = self
            .intake
            .fold()
            .sessions()
            .iter_from(from)
            .take_while(|(place, _)| *place < until)
            .map(|(_, session)| session)
            .filter(|session| cells[session.cell as usize] && filter.matches_session(session))
            .map(|session| {
                (
                    *session,
                    self.intake.fold().cells().key(session.cell).clone(),
                )
            })
            .collect();
        SessionPage {
            sessions,
            next: (until < self.intake.fold().sessions().places()).then_some(until),
            context: *self.intake.context(),
        }
    }

    fn deliveries(&self, filter: &Filter, limit: usize, handshakes: bool) -> DeliveryPage {
        let cells = self.matching_keys(filter);
        let handshake = probe_ebpf::record::flag::HANDSHAKE;
        let mut deliveries: Vec<_> = self
            .intake
            .fold()
            .recent()
            .iter()
            .rev()
            .filter(|finished| {
                (handshakes || finished.record.flags & handshake == 0)
                    && cells[finished.cell as usize]
                    && filter.matches_delivery(&finished.record)
            })
            .take(limit)
            .map(|finished| {
                (
                    *finished,
                    self.intake.fold().cells().key(finished.cell).clone(),
                )
            })
            .collect();
        deliveries.reverse();
        DeliveryPage {
            deliveries,
            context: *self.intake.context(),
            follow: self.followers.subscribe(filter.only_troubled()),
        }
    }

    fn snapshot(&self, filter: &Filter, sessions: usize, now_ns: u64) -> v1::Snapshot {
        let cells = self.matching_keys(filter);
        let troubled = self.intake.fold().troubled().iter();
        let troubled = troubled
            .filter(|finished| {
                cells[finished.cell as usize] && filter.matches_delivery(&finished.record)
            })
            .map(|finished| {
                let key = self.intake.fold().cells().key(finished.cell);
                wire::delivery(&finished.record, key, self.intake.context())
            })
            .collect();
        v1::Snapshot {
            status: Some(self.status()),
            unix_ns: self.intake.unix_ns(now_ns),
            cells: self.matching_cells(filter, true),
            sessions: self.worst_sessions(filter, &cells, sessions),
            troubled,
            viewers: self.worst_viewers(filter, &cells, sessions, now_ns),
            alarms: self.intake.alarms().collect(),
            // Who serves it asks the decider.
            steering: None,
        }
    }

    fn drill(&self, selector: &Selector, most: usize, now_ns: u64) -> Drilled {
        let filter = &selector.filter;
        let cells = self.matching_keys(filter);
        let mut drilled = Drilled {
            unix_ns: self.intake.unix_ns(now_ns),
            ..Drilled::default()
        };
        if let Some(sid) = selector.sid {
            drilled.viewers = self.viewers_called(sid, filter, &cells, most, now_ns);
        } else if selector.wants_clients() {
            drilled.viewers = self.worst_viewers(filter, &cells, most, now_ns);
            drilled.sessions = self.worst_sessions(filter, &cells, most);
            drilled.sessions.truncate(most);
        }
        if selector.wants_cells() {
            drilled.cells = self.matching_cells(filter, false);
        }
        drilled
    }

    fn worst_sessions(&self, filter: &Filter, cells: &[bool], most: usize) -> Vec<v1::Session> {
        let mut worst: Vec<&Session> = self
            .intake
            .fold()
            .sessions()
            .iter_from(0)
            .map(|(_, session)| session)
            .filter(|session| cells[session.cell as usize] && filter.matches_session(session))
            .collect();
        let by_badness = |a: &&Session, b: &&Session| b.badness().cmp(&a.badness());
        if worst.len() > most && most > 0 {
            worst.select_nth_unstable_by(most - 1, by_badness);
            worst.truncate(most);
        }
        worst.sort_unstable_by(by_badness);
        worst
            .into_iter()
            .map(|session| {
                wire::session(
                    session,
                    self.intake.fold().cells().key(session.cell),
                    self.intake.context(),
                )
            })
            .collect()
    }

    fn matching_cells(&self, filter: &Filter, histograms: bool) -> Vec<v1::Cell> {
        let heard = Heard::of(&self.losses());
        self.intake
            .fold()
            .cells()
            .iter()
            .filter(|(key, cell)| filter.matches_cell(key, &cell.counters, self.intake.labels()))
            .map(|(key, cell)| wire::cell(&cell.snapshot(key.clone(), histograms), 1, heard))
            .collect()
    }

    /// Which cells' names match, by index.
    pub(super) fn matching_keys(&self, filter: &Filter) -> Vec<bool> {
        let keys = self.intake.fold().cells().keys();
        keys.map(|key| filter.matches_key(key)).collect()
    }
}

/// What a queue to the collector had no room for.
fn shed<T>(queue: Option<&Queue<T>>) -> u64 {
    queue.map_or(0, |queue| queue.counts().shed)
}

//! What the core does with records and questions: the fold, and who is to hear of it.
//!
//! Apart from the backend, so that the backend can lend its records while this takes them in.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use probe_ebpf::record::{Delivery, kind};
use tokio::sync::{broadcast, watch};
use weir_proto::v1;

use crate::kernel::{HalfOpenGiveUp, KernelCounts, Probe, Record};
use crate::labels::Labels;
use crate::qoe::{self, CellSnapshot, Fold, Session, Transport};
use crate::query::filter::Filter;
use crate::query::server::QueryCounts;
use crate::query::{DeliveryPage, Followed, Query, SESSIONS_PER_PAGE, SessionPage};
use crate::uplink::{HotEvent, UplinkCounts};
use crate::wire::{self, Context, DaemonCounts};

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
    /// Where the configuration came from; empty: defaults.
    pub(super) config_path: String,
}

/// Everything that the core knows, the kernel aside.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) fold: Fold,
    pub(super) labels: Labels,
    pub(super) context: Context,
    pub(super) kernel_counts: KernelCounts,
    pub(super) daemon_counts: DaemonCounts,
    pub(super) config_generation: u64,
    pub(super) config_error: watch::Receiver<String>,
    pub(super) deadline_ms: u32,
    pub(super) identity: Arc<Identity>,
    pub(super) probes: Vec<Probe>,
    pub(super) query_counts: Arc<QueryCounts>,
    pub(super) uplink_counts: Arc<UplinkCounts>,
    pub(super) followers: broadcast::Sender<Followed>,
    /// None without a collector.
    pub(super) events: Option<broadcast::Sender<HotEvent>>,
}

impl Intake {
    /// Takes in one record.
    pub(super) fn record(&mut self, record: Record<'_>) {
        let labels = &self.labels;
        match record {
            Record::SessionStart(record) => {
                self.fold.session_start(record, |ends| labels.label(ends));
            }
            Record::SessionEnd(record) => self.fold.session_end(record, |ends| labels.label(ends)),
            Record::Delivery(record) => {
                let folded = self.fold.delivery(record, |ends| labels.label(ends));
                self.tell(record, folded);
            }
            Record::Malformed => self.daemon_counts.records_malformed += 1,
        }
    }

    /// Lets those know who follow; costs nothing if nobody does.
    fn tell(&self, record: &Delivery, folded: qoe::fold::Folded) {
        let followed = || Followed {
            record: *record,
            cell: self.fold.cells().key(folded.cell).clone(),
            context: self.context,
        };
        if record.header.kind == kind::DELIVERY_END && self.followers.receiver_count() > 0 {
            // Fails only if the last follower has just gone.
            let _ = self.followers.send(followed());
        }
        if let (Some(event), Some(events)) = (folded.event, &self.events) {
            let _ = events.send(HotEvent {
                event,
                delivery: followed(),
            });
        }
    }

    /// Takes in handshakes that were given up.
    pub(super) fn half_open_give_up(&mut self, give_up: &HalfOpenGiveUp) {
        let remote = give_up.remote.to_canonical();
        let transport = if remote.is_ipv4() {
            Transport::Tcp4
        } else {
            Transport::Tcp6
        };
        let label = self.labels.label_of(give_up.local_port, remote);
        self.fold
            .half_open_give_up(label, transport, give_up.synack_retransmits);
    }

    /// Unix time of a monotonic time.
    pub(super) fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        self.context.unix_ns(monotonic_ns)
    }

    /// All that was lost.
    pub(super) fn losses(&self) -> v1::Losses {
        let counts = DaemonCounts {
            followers_dropped: self.query_counts.followers_dropped.load(Ordering::Relaxed),
            uplink_events_dropped: self.uplink_counts.events_dropped.load(Ordering::Relaxed),
            uplink_frames_dropped: self.uplink_counts.frames_dropped.load(Ordering::Relaxed),
            ..self.daemon_counts
        };
        wire::losses(&self.kernel_counts, &self.fold.losses(), &counts)
    }

    /// Every cell, with its histograms.
    pub(super) fn cells(&self) -> Vec<CellSnapshot> {
        self.fold
            .cells()
            .iter()
            .map(|(key, cell)| cell.snapshot(key.clone(), true))
            .collect()
    }

    /// Answers a question. One who no longer waits for the answer does not matter.
    pub(super) fn answer(&self, query: Query, now_ns: u64) {
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
                    unix_ns: self.unix_ns(now_ns),
                    hosts: 0,
                });
            }
            Query::Snapshot {
                filter,
                sessions,
                reply,
            } => {
                let _ = reply.send(self.snapshot(&filter, sessions, now_ns));
            }
        }
    }

    fn status(&self) -> v1::Status {
        let identity = &self.identity;
        v1::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: identity.host.clone(),
            boot_id: identity.boot_id.clone(),
            started_unix_ns: identity.started_unix_ns,
            backend: wire::backend(self.context.backend).into(),
            kernel_release: identity.kernel_release.clone(),
            probes: self.probes.iter().map(wire::probe).collect(),
            losses: Some(self.losses()),
            sessions_open: self.fold.sessions().open() as u64,
            cells: self.fold.cells().len() as u64,
            config_path: identity.config_path.clone(),
            config_generation: self.config_generation,
            deadline_ms: self.deadline_ms.into(),
            uplink: Some(self.uplink_counts.status()),
            config_error: self.config_error.borrow().clone(),
            queries_refused: self.query_counts.refused.load(Ordering::Relaxed),
        }
    }

    fn sessions(&self, filter: &Filter, from: usize) -> SessionPage {
        let cells = self.matching_keys(filter);
        let until = from.saturating_add(SESSIONS_PER_PAGE);
        let sessions = self
            .fold
            .sessions()
            .iter_from(from)
            .take_while(|(place, _)| *place < until)
            .map(|(_, session)| session)
            .filter(|session| cells[session.cell as usize] && filter.matches_session(session))
            .map(|session| (*session, self.fold.cells().key(session.cell).clone()))
            .collect();
        SessionPage {
            sessions,
            next: (until < self.fold.sessions().places()).then_some(until),
            context: self.context,
        }
    }

    fn deliveries(&self, filter: &Filter, limit: usize, handshakes: bool) -> DeliveryPage {
        let cells = self.matching_keys(filter);
        let handshake = probe_ebpf::record::flag::HANDSHAKE;
        let mut deliveries: Vec<_> = self
            .fold
            .recent()
            .iter()
            .rev()
            .filter(|finished| {
                (handshakes || finished.record.flags & handshake == 0)
                    && cells[finished.cell as usize]
                    && filter.matches_delivery(&finished.record)
            })
            .take(limit)
            .map(|finished| (*finished, self.fold.cells().key(finished.cell).clone()))
            .collect();
        deliveries.reverse();
        DeliveryPage {
            deliveries,
            context: self.context,
            follow: self.followers.subscribe(),
        }
    }

    fn snapshot(&self, filter: &Filter, sessions: usize, now_ns: u64) -> v1::Snapshot {
        let cells = self.matching_keys(filter);
        let troubled = self.fold.troubled().iter();
        let troubled = troubled
            .filter(|finished| {
                cells[finished.cell as usize] && filter.matches_delivery(&finished.record)
            })
            .map(|finished| {
                let key = self.fold.cells().key(finished.cell);
                wire::delivery(&finished.record, key, &self.context)
            })
            .collect();
        v1::Snapshot {
            status: Some(self.status()),
            unix_ns: self.unix_ns(now_ns),
            cells: self.matching_cells(filter, true),
            sessions: self.worst_sessions(filter, &cells, sessions),
            troubled,
        }
    }

    fn worst_sessions(&self, filter: &Filter, cells: &[bool], most: usize) -> Vec<v1::Session> {
        let mut worst: Vec<&Session> = self
            .fold
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
                wire::session(session, self.fold.cells().key(session.cell), &self.context)
            })
            .collect()
    }

    fn matching_cells(&self, filter: &Filter, histograms: bool) -> Vec<v1::Cell> {
        self.fold
            .cells()
            .iter()
            .filter(|(key, cell)| filter.matches_cell(key, &cell.counters, &self.labels))
            .map(|(key, cell)| wire::cell(&cell.snapshot(key.clone(), histograms), 1))
            .collect()
    }

    /// Which cells' names match, by index.
    fn matching_keys(&self, filter: &Filter) -> Vec<bool> {
        let keys = self.fold.cells().keys();
        keys.map(|key| filter.matches_key(key)).collect()
    }
}

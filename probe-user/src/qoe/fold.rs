//! The fold: one record after the other into sessions, cells, events and the latest deliveries.
//!
//! Records may be missing (a ring was full) and the two rings may be read out of step; neither
//! makes a count go back, a gauge go wrong for good, or traffic be counted twice.

use std::collections::VecDeque;

use probe_ebpf::record::{
    Delivery, Endpoints, Header, SessionEnd, SessionStart, ended, flag, kind as record_kind,
};

use super::cell::{CellKey, Cells, RATES, RATES_KBPS, Transport};
use super::count::{add_traffic, note_path};
use super::delivery::{self, Finished, Kind, Phase};
use super::metric::Metric;
use super::session::{OpenDelivery, Session};
use super::table::{List, Sessions};
use super::viewer::Tier;
use crate::kernel::BackendKind;
use crate::labels::Label;
use crate::labels::request::Class;

const SECOND_NS: u64 = 1_000_000_000;
/// Ended sessions stay so long: to be listed, and to be found by what the other ring still holds.
const ENDED_KEPT_NS: u64 = 5 * SECOND_NS;
/// A delivery under way that missed so many reports in a row is not under way any more.
const MISSED_REPORTS: u64 = 5;
/// After records were lost, a session unheard of for so long is taken to have ended.
const UNSURE_KEPT_NS: u64 = 300 * SECOND_NS;
/// Late and aborted deliveries kept for the live view.
const TROUBLED_KEPT: usize = 100;

/// What bounds the fold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions.
    pub max_sessions: usize,
    /// Viewers, those lately ended included; 0: none are followed.
    pub max_viewers: usize,
    /// Cells, `other` included.
    pub max_cells: usize,
    /// Finished deliveries.
    pub max_deliveries_kept: usize,
}

/// What must be known at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A delivery passed its deadline and is still open.
    Late,
    /// A delivery was cut off.
    Aborted,
}

/// What a delivery record led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Where it was counted: in the cell of its class, once that is known and it is over.
    pub cell: u32,
    /// Where its session is counted.
    pub session_cell: u32,
    /// Whether it must be known at once.
    pub event: Option<Event>,
}

/// What the fold could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoldLosses {
    /// Sessions forgotten while they were open: the table was full, or records were lost and
    /// nothing was heard of them since.
    pub sessions_evicted: u64,
    /// Sessions counted in `other` because there were too many cells.
    pub cells_overflowed: u64,
}

/// Everything that is known.
#[derive(Debug)]
pub struct Fold {
    pub(super) sessions: Sessions,
    pub(super) cells: Cells,
    recent: VecDeque<Finished>,
    troubled: VecDeque<Finished>,
    limits: Limits,
    pub(super) tick_hz: u32,
    pub(super) rates_bps: [u64; RATES],
    progress_ns: u64,
    sessions_evicted: u64,
    /// No session established later than this was ever forgotten.
    forgotten_ns: u64,
    /// When records were last lost.
    lost_ns: u64,
}

impl Fold {
    /// Nothing known yet. `tick_hz`: the kernel's ticks per second.
    pub fn new(limits: Limits, tick_hz: u32) -> Self {
        Self {
            sessions: Sessions::new(limits.max_sessions),
            cells: Cells::new(limits.max_cells),
            recent: VecDeque::with_capacity(limits.max_deliveries_kept),
            troubled: VecDeque::with_capacity(TROUBLED_KEPT),
            limits,
            tick_hz,
            rates_bps: RATES_KBPS.map(|kbps| u64::from(kbps) * 1000),
            progress_ns: 0,
            sessions_evicted: 0,
            forgotten_ns: 0,
            lost_ns: 0,
        }
    }

    /// How often the kernel reports deliveries under way; 0: never.
    pub fn set_progress_ms(&mut self, progress_ms: u32) {
        self.progress_ns = u64::from(progress_ms) * 1_000_000;
    }

    /// Which rates deliveries are tested for, rising; at most [`RATES`]. None: the usual ones.
    pub fn set_rates_kbps(&mut self, rates_kbps: &[u32]) {
        let rates_kbps = if rates_kbps.is_empty() {
            &RATES_KBPS
        } else {
            rates_kbps
        };
        let mut rates = rates_kbps.iter().map(|kbps| u64::from(*kbps) * 1000);
        self.rates_bps = std::array::from_fn(|_| rates.next().unwrap_or(0));
    }

    /// Nothing that was said before `now_ns` was heard. What the kernel tells of sessions that are
    /// older began before, so their totals are not all of this time.
    pub fn deaf_until(&mut self, now_ns: u64) {
        self.forgotten_ns = self.forgotten_ns.max(now_ns);
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The cells.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// The cells, for what else is counted in them.
    pub fn cells_mut(&mut self) -> &mut Cells {
        &mut self.cells
    }

    /// The latest finished deliveries, latest last; TLS handshakes among them.
    pub fn recent(&self) -> &VecDeque<Finished> {
        &self.recent
    }

    /// The latest late and aborted deliveries, latest last.
    pub fn troubled(&self) -> &VecDeque<Finished> {
        &self.troubled
    }

    /// What could not be kept.
    pub fn losses(&self) -> FoldLosses {
        FoldLosses {
            sessions_evicted: self.sessions_evicted,
            cells_overflowed: self.cells.overflowed(),
        }
    }

    /// A session was established or adopted; returns where it is counted.
    pub fn session_start(
        &mut self,
        record: &SessionStart,
        label: impl FnOnce(&Endpoints) -> Label,
    ) -> u32 {
        let t_ns = record.header.t_ns;
        // A changed filter ends what is known of a session, and another may let it in again.
        if let Some(place) = self.sessions.find(record.cookie) {
            let session = self.sessions.at(place);
            if session.is_ended() && record.t_established_ns > session.t_ended_ns {
                self.sessions.remove(place);
            }
        }
        let place = self.session(
            record.cookie,
            &record.endpoints,
            record.flags,
            &record.header,
            label,
        );
        let session = self.sessions.at(place);
        let place_of_cell = session.cell;
        if session.start_counted || session.is_ended() {
            return place_of_cell;
        }
        session.start_counted = true;
        session.t_established_ns = record.t_established_ns;
        session.handshake_us = record.handshake_us;
        session.synack_retransmits = record.synack_retransmits;
        session.flags |= record.flags & Session::LASTING_FLAGS;
        let cell = self.cells.get_mut(session.cell);
        if record.flags & flag::ADOPTED != 0 {
            cell.counters.sessions_adopted += 1;
        } else {
            cell.counters.sessions_started += 1;
            cell.counters.synack_retransmits += u64::from(record.synack_retransmits);
            if record.handshake_us > 0 {
                cell.record(Metric::HandshakeUs, u64::from(record.handshake_us));
            }
        }
        self.sessions.touch(place, t_ns);
        place_of_cell
    }

    /// A record of the session `cookies[at]`, made at about `now_ns`, is next, and those of the
    /// sessions after it follow: has at hand what they need when they come.
    #[inline]
    pub fn foresee(&self, cookies: &[u64], at: usize, now_ns: u64) {
        self.sessions.foresee(cookies, at, now_ns);
    }

    /// A delivery is over, late or under way. `known`: of what class it is, and how that is known.
    pub fn delivery(
        &mut self,
        record: &Delivery,
        label: impl FnOnce(&Endpoints) -> Label,
        known: Option<(Class, Tier)>,
    ) -> Folded {
        let t_ns = record.header.t_ns;
        let place = self.session(
            record.cookie,
            &record.endpoints,
            record.flags,
            &record.header,
            label,
        );
        let is_end = record.header.kind == record_kind::DELIVERY_END;
        let kind = delivery::kind_of(record);
        let phase = delivery::phase_of(record);

        let recalled = self.sessions.at(place).recalls(record);
        self.count_traffic(place, record, is_end, recalled);
        let event = if kind == Kind::Handshake {
            None
        } else {
            self.count_late(place, record, recalled)
        };
        let session = self.sessions.at(place);
        note_path(session, record);
        let session_cell = session.cell;
        let mut cell = session_cell;
        if is_end {
            session.over = session.over.max(record.index.saturating_add(1));
            if session
                .open()
                .is_some_and(|open| open.index <= record.index)
            {
                self.set_open(place, None);
            }
            if let Some((class, tier)) = known {
                cell = self.cells.of_class(session_cell, class, tier);
            }
            self.count_end(place, cell, record, kind, phase);
        } else if kind != Kind::Handshake {
            self.note_under_way(place, record, phase == Phase::Late);
        }
        self.sessions.touch(place, t_ns);

        let aborted = is_end && kind != Kind::Handshake && phase == Phase::Aborted;
        let event = event.or(aborted.then_some(Event::Aborted));
        let finished = || Finished {
            record: *record,
            cell,
        };
        let same = |known: &&mut Finished| {
            (known.record.cookie, known.record.index) == (record.cookie, record.index)
        };
        let was_late = record.index < self.sessions.at(place).late_counted;
        if was_late && let Some(known) = self.troubled.iter_mut().rev().find(same) {
            if is_end {
                // It was late, and this is what became of it.
                *known = finished();
            }
        } else if event.is_some() {
            push_bounded(&mut self.troubled, finished(), TROUBLED_KEPT);
        }
        if is_end {
            push_bounded(
                &mut self.recent,
                finished(),
                self.limits.max_deliveries_kept,
            );
        }
        Folded {
            cell,
            session_cell,
            event,
        }
    }

    /// A session is over.
    pub fn session_end(&mut self, record: &SessionEnd, label: impl FnOnce(&Endpoints) -> Label) {
        let t_ns = record.header.t_ns;
        let place = self.session(
            record.cookie,
            &record.endpoints,
            record.flags,
            &record.header,
            label,
        );
        if self.sessions.at(place).is_ended() {
            return;
        }
        self.set_open(place, None);
        let session = self.sessions.at(place);
        // If it may have been known and forgotten before, part of its totals may have been counted
        // then; that part cannot be told, so nothing is added.
        let complete = record.t_established_ns > session.forgotten_before_ns;
        let adopted = record.flags & flag::ADOPTED != 0;
        session.flags |= record.flags & Session::LASTING_FLAGS;
        session.t_established_ns = record.t_established_ns;
        session.set_ended(t_ns);
        session.ended = record.ended;
        if record.srtt_us > 0 {
            session.srtt_us = record.srtt_us;
        }
        if record.min_rtt_us > 0 {
            session.min_rtt_us = record.min_rtt_us;
        }
        let cell = self.cells.get_mut(session.cell);
        cell.gauges.sessions_open -= 1;
        let counters = &mut cell.counters;
        if !session.start_counted && complete {
            session.start_counted = true;
            if adopted {
                counters.sessions_adopted += 1;
            } else {
                counters.sessions_started += 1;
            }
        }
        counters.sessions_ended += 1;
        counters.sessions_left_out += u64::from(record.flags & flag::LEFT_OUT != 0);
        *match record.ended {
            ended::CLIENT_FIN => &mut counters.ended_client_fin,
            ended::SERVER_FIN => &mut counters.ended_server_fin,
            ended::CLIENT_RST => &mut counters.ended_client_rst,
            ended::SERVER_RST => &mut counters.ended_server_rst,
            ended::TIMEOUT => &mut counters.ended_timeout,
            _ => &mut counters.ended_other,
        } += 1;
        if complete {
            // What happened outside deliveries, or in deliveries whose record was lost.
            let mut totals = session.traffic;
            totals.retrans_fast = record.retrans_fast.into();
            totals.retrans_rto = record.retrans_rto.into();
            totals.retrans_tlp = record.retrans_tlp.into();
            // The kernel's own counts of an adopted session include the time before weir.
            if !adopted {
                totals.acked_bytes = record.acked_bytes;
                totals.segments = record.segments.into();
            }
            let before = session.traffic;
            add_traffic(session, cell, &totals, &before);
            session.retrans_settled = true;
            session.volume_settled = !adopted;
        }
        self.sessions.touch(place, t_ns);
    }

    /// A handshake was given up; returns where it is counted.
    pub fn half_open_give_up(
        &mut self,
        label: Label,
        transport: Transport,
        backend: BackendKind,
        synack_retransmits: u32,
    ) -> u32 {
        let cell = self.cells.place(CellKey::new(label, transport, backend));
        let counters = &mut self.cells.get_mut(cell).counters;
        counters.half_open_give_ups += 1;
        counters.synack_retransmits += u64::from(synack_retransmits);
        cell
    }

    /// Records of the bulk ring were lost before `now_ns`: ends of sessions may be among them.
    pub fn records_lost(&mut self, now_ns: u64) {
        self.lost_ns = self.lost_ns.max(now_ns);
    }

    /// Lets time pass: what is only kept for a while goes.
    pub fn advance(&mut self, now_ns: u64) {
        while let Some(place) = self.older_than(List::Ended, now_ns, ENDED_KEPT_NS) {
            self.sessions.remove(place);
        }
        if self.progress_ns > 0 {
            // Two seconds more, for the way out of the kernel.
            let stale_ns = self.progress_ns * MISSED_REPORTS + 2 * SECOND_NS;
            while let Some(place) = self.older_than(List::Open, now_ns, stale_ns) {
                self.set_open(place, None);
                let t_ns = self.sessions.at(place).t_updated_ns;
                self.sessions.touch(place, t_ns);
            }
        }
        for list in [List::Idle, List::Open] {
            while let Some(place) = self.older_than(list, now_ns, UNSURE_KEPT_NS) {
                if self.sessions.at(place).t_updated_ns >= self.lost_ns {
                    break;
                }
                self.forget(place, now_ns);
            }
        }
    }

    fn older_than(&mut self, list: List, now_ns: u64, age_ns: u64) -> Option<u32> {
        let place = self.sessions.oldest(list)?;
        let age = now_ns.saturating_sub(self.sessions.at(place).t_updated_ns);
        (age > age_ns).then_some(place)
    }

    /// The place of a session, which is made if nothing was heard of it before.
    fn session(
        &mut self,
        cookie: u64,
        endpoints: &Endpoints,
        flags: u32,
        header: &Header,
        label: impl FnOnce(&Endpoints) -> Label,
    ) -> u32 {
        // What is decoded names one that is known.
        let backend = BackendKind::of(header).unwrap_or(BackendKind::Exact);
        if let Some(place) = self.sessions.find(cookie) {
            if self.sessions.at(place).backend == backend {
                return place;
            }
            // Measured in another way from now on, which has cells of its own.
            self.forget(place, header.t_ns);
        }
        // It was not among those that are forgotten to make room for it.
        let forgotten_before_ns = self.forgotten_ns;
        while self.sessions.is_full()
            && let Some(place) = self.sessions.most_forgettable()
        {
            self.forget(place, header.t_ns);
        }
        let transport = if flags & flag::IPV6 == 0 {
            Transport::Tcp4
        } else {
            Transport::Tcp6
        };
        let key = CellKey::new(label(endpoints), transport, backend);
        let cell = self.cells.place(key);
        self.cells.get_mut(cell).gauges.sessions_open += 1;
        let mut session = Session::new(cookie, *endpoints, cell, header.t_ns);
        session.backend = backend;
        session.flags = flags & Session::LASTING_FLAGS & !flag::BUSY_PERIOD;
        session.forgotten_before_ns = forgotten_before_ns;
        self.sessions.insert(&session)
    }

    /// Removes a session; one that was open is missed from now on.
    fn forget(&mut self, place: u32, now_ns: u64) {
        self.set_open(place, None);
        let session = self.sessions.remove(place);
        self.forgotten_ns = self.forgotten_ns.max(now_ns).max(session.t_updated_ns);
        if !session.is_ended() {
            self.cells.get_mut(session.cell).gauges.sessions_open -= 1;
            self.sessions_evicted += 1;
        }
    }

    /// Takes over a report of a delivery under way, unless the session is already beyond it.
    fn note_under_way(&mut self, place: u32, record: &Delivery, late: bool) {
        let session = self.sessions.at(place);
        let ahead = session.open().is_some_and(|open| open.index > record.index);
        if session.is_ended() || record.index < session.over || ahead {
            return;
        }
        let was_late = session
            .open()
            .is_some_and(|open| open.index == record.index && open.late);
        let open = OpenDelivery {
            index: record.index,
            t_request_ns: record.t_request_ns,
            acked_bytes: record.acked_bytes,
            written_bytes: record.written_bytes,
            late: late || was_late,
        };
        self.set_open(place, Some(open));
    }

    /// Sets or clears the delivery under way, and the gauges with it.
    fn set_open(&mut self, place: u32, open: Option<OpenDelivery>) {
        let session = self.sessions.at(place);
        let before = session.set_open(open);
        let gauges = &mut self.cells.get_mut(session.cell).gauges;
        let late = |open: Option<OpenDelivery>| u64::from(open.is_some_and(|open| open.late));
        gauges.deliveries_open += u64::from(open.is_some());
        gauges.deliveries_open -= u64::from(before.is_some());
        gauges.deliveries_open_late += late(open);
        gauges.deliveries_open_late -= late(before);
    }
}

#[inline]
fn push_bounded(queue: &mut VecDeque<Finished>, finished: Finished, max: usize) {
    if queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(finished);
}

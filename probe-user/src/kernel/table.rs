//! Sessions whose state lies in a table, which no program walks: the daemon looks through it, and
//! reports what no event would: deliveries that are silent and late, those under way, sessions
//! that a new filter leaves out.

use std::{
    collections::{HashMap, VecDeque},
    net::Ipv6Addr,
    os::fd::AsFd as _,
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData};
use nix::time::{ClockId, clock_gettime};
use probe_ebpf::{
    record::{ABI_VERSION, Delivery, Header, SessionEnd, ended, flag, kind},
    session::{Gauges, Kept, Session, phase},
    settings,
};

use super::{Filter, KernelCounts, Record, Ring, RingCounts, maps::Maps, pod::Pod, sys};

/// Sessions read at once.
const BATCH: usize = 1024;
/// Most records that wait to be taken; as with a ring, what does not fit is counted.
const MOST_WAITING: usize = 1 << 16;

/// The programs' table of sessions.
pub(super) struct Table {
    sessions: BpfHashMap<MapData, u64, Pod<Kept>>,
    backend: u8,
    settings: settings::Settings,
    filter: Filter,
    /// Per session, the delivery (index) that was reported late here.
    late: HashMap<u64, u32>,
    t_progress_ns: u64,
    hot: Queue<Delivery>,
    bulk: Queue<Bulk>,
    keys: Vec<u64>,
    values: Vec<Kept>,
}

#[derive(Clone, Copy)]
enum Bulk {
    Progress(Delivery),
    End(SessionEnd),
}

struct Queue<T> {
    waiting: VecDeque<T>,
    counts: RingCounts,
}

impl<T> Queue<T> {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            counts: RingCounts::default(),
        }
    }

    fn push(&mut self, record: T) {
        self.counts.seen += 1;
        if self.waiting.len() < MOST_WAITING {
            self.counts.exported += 1;
            self.waiting.push_back(record);
        } else {
            self.counts.ring_full += 1;
        }
    }
}

impl Table {
    /// Takes the map over; `backend` is what its programs write into their records.
    pub(super) fn new(sessions: BpfHashMap<MapData, u64, Pod<Kept>>, backend: u8) -> Self {
        Self {
            sessions,
            backend,
            settings: settings::Settings::default(),
            filter: Filter::default(),
            late: HashMap::new(),
            t_progress_ns: 0,
            hot: Queue::new(),
            bulk: Queue::new(),
            keys: vec![0; BATCH],
            values: vec![Kept::default(); BATCH],
        }
    }

    /// The settings that the programs have.
    pub(super) fn apply(&mut self, settings: settings::Settings, filter: &Filter) {
        self.settings = settings;
        self.filter = filter.clone();
    }

    /// Looks at every session once.
    pub(super) fn sweep(&mut self) -> Result<()> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now_ns = u64::try_from(std::time::Duration::from(now).as_nanos())?;
        let wants_progress = self.settings.progress_ns != 0
            && now_ns >= self.t_progress_ns + self.settings.progress_ns;
        if wants_progress {
            self.t_progress_ns = now_ns;
        }
        let mut keys = std::mem::take(&mut self.keys);
        let mut values = std::mem::take(&mut self.values);
        let mut position = None;
        let swept = loop {
            let map = self.sessions.map().fd().as_fd();
            match sys::lookup_batch(map, &mut position, &mut keys, &mut values) {
                Ok((read, more)) => {
                    for (key, kept) in keys.iter().zip(&values).take(read) {
                        self.look(*key, kept, now_ns, wants_progress);
                    }
                    if !more {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error).context("reading the table of sessions"),
            }
        };
        self.keys = keys;
        self.values = values;
        swept
    }

    fn look(&mut self, key: u64, kept: &Kept, now_ns: u64, wants_progress: bool) {
        let s = &kept.session;
        if s.phase == phase::IGNORED {
            return;
        }
        if s.filter_generation != self.settings.filter_generation && !self.admits(s) {
            self.leave_out(key, s, now_ns);
            return;
        }
        let is_late = s.late_mark != s.index + 1
            && self.late.get(&s.cookie) != Some(&s.index)
            && kept.is_late(now_ns, self.settings.deadline_ns);
        // Copied while a program may have been at it: it is what it seems if it stays so.
        if is_late && self.is_still(key, kept) {
            if self.late.len() >= MOST_WAITING {
                // Their ends were lost. Those that go on are reported again, and counted once.
                self.late.clear();
            }
            self.late.insert(s.cookie, s.index);
            let mut record = self.record(s, kind::DELIVERY_LATE, now_ns);
            record.flags |= flag::LATE;
            self.hot.push(record);
        } else if wants_progress && s.is_open() && !s.is_tentative() && self.is_still(key, kept) {
            let record = self.record(s, kind::DELIVERY_PROGRESS, now_ns);
            self.bulk.push(Bulk::Progress(record));
        }
    }

    fn is_still(&self, key: u64, kept: &Kept) -> bool {
        self.sessions
            .get(&key, 0)
            .is_ok_and(|Pod(now)| now == *kept)
    }

    /// By port and prefix; the cgroup of a socket that is there already cannot be asked for.
    fn admits(&self, s: &Session) -> bool {
        let remote = Ipv6Addr::from(s.endpoints.remote_addr).to_canonical();
        let filter = &self.filter;
        (filter.ports.is_empty() || filter.ports.contains(&s.endpoints.local_port))
            && (filter.prefixes.is_empty()
                || filter
                    .prefixes
                    .iter()
                    .any(|prefix| prefix.contains(&remote)))
    }

    fn leave_out(&mut self, key: u64, s: &Session, now_ns: u64) {
        if self.sessions.remove(&key).is_err() {
            // It has just ended by itself.
            return;
        }
        let end = SessionEnd {
            header: self.header::<SessionEnd>(kind::SESSION_END, now_ns),
            cookie: s.cookie,
            t_established_ns: s.t_established_ns,
            endpoints: s.endpoints,
            deliveries: s.index,
            flags: s.flags,
            retrans_fast: s.session_retrans.fast,
            retrans_rto: s.session_retrans.rto,
            retrans_tlp: s.session_retrans.tlp,
            retrans_before: s.retrans_before,
            retrans_total: s.retrans_seen,
            ended: ended::UNTRACKED,
            ..SessionEnd::default()
        };
        self.bulk.push(Bulk::End(end));
    }

    fn header<T>(&self, kind: u8, now_ns: u64) -> Header {
        Header {
            t_ns: now_ns,
            kind,
            version: ABI_VERSION,
            len: u16::try_from(size_of::<T>()).unwrap_or(u16::MAX),
            backend: self.backend,
            reserved: 0,
            reserved_too: 0,
        }
    }

    /// The delivery as it is kept; what only the socket knows is left at 0.
    fn record(&self, s: &Session, kind: u8, now_ns: u64) -> Delivery {
        let mut record = Delivery::default();
        let unknown = Gauges {
            segments: s.base_segments,
            clocks: s.base_clocks,
            ..Gauges::default()
        };
        s.fill(&mut record, s.written_seq, &unknown);
        record.header = self.header::<Delivery>(kind, now_ns);
        record
    }

    /// Drains a ring: first what the sweep reported, then what the programs did.
    pub(super) fn drain_with(
        &mut self,
        maps: &mut Maps,
        ring: Ring,
        max: usize,
        sink: &mut dyn FnMut(Record<'_>),
    ) -> usize {
        // What the programs said came before what was found by looking: a report of a delivery
        // under way must not overtake the end of the one before it.
        let taken = maps.drain(ring, max, &mut |record| self.pass_on(record, sink));
        taken + self.drain_own(ring, max - taken, sink)
    }

    fn drain_own(&mut self, ring: Ring, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize {
        let mut taken = 0;
        while taken < max {
            match ring {
                Ring::Hot => match self.hot.waiting.pop_front() {
                    Some(record) => sink(Record::Delivery(&record)),
                    None => break,
                },
                Ring::Bulk => match self.bulk.waiting.pop_front() {
                    Some(Bulk::Progress(record)) => sink(Record::Delivery(&record)),
                    Some(Bulk::End(record)) => sink(Record::SessionEnd(&record)),
                    None => break,
                },
            }
            taken += 1;
        }
        taken
    }

    /// Passes a program's record on, marked late if that was found here.
    fn pass_on(&mut self, record: Record<'_>, sink: &mut dyn FnMut(Record<'_>)) {
        match record {
            Record::Delivery(delivery)
                if delivery.header.kind == kind::DELIVERY_END
                    && self.late.get(&delivery.cookie) == Some(&delivery.index) =>
            {
                self.late.remove(&delivery.cookie);
                let mut late = *delivery;
                late.flags |= flag::LATE;
                sink(Record::Delivery(&late));
            }
            Record::SessionEnd(end) => {
                self.late.remove(&end.cookie);
                sink(record);
            }
            _ => sink(record),
        }
    }

    /// Adds what was counted here to the programs' own counts.
    pub(super) fn add_to(&self, counts: &mut KernelCounts) {
        for (ring, own) in [
            (&mut counts.hot, self.hot.counts),
            (&mut counts.bulk, self.bulk.counts),
        ] {
            ring.seen += own.seen;
            ring.exported += own.exported;
            ring.ring_full += own.ring_full;
        }
    }
}

//! Sessions: what is remembered of each, in a table that cannot grow without limit.
//!
//! A session is in one of three lists, each ordered by when it was last heard of: open with a
//! delivery under way, idle, or ended. Ended ones stay for a few seconds, because the two rings
//! are not ordered against each other: a cut delivery (hot) may be read after its session's end
//! (bulk), and must find it.

use hashbrown::HashMap;
use probe_ebpf::record::{Endpoints, flag};

use super::delivery::retransmit_ratio_ppm;
use crate::kernel::BackendKind;

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Open, no delivery known to be under way.
    Idle,
    /// A delivery is under way.
    Delivering,
    /// And past its deadline.
    Late,
    /// Over.
    Ended,
}

/// Bytes and segments, as far as they were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes acknowledged.
    pub acked_bytes: u64,
    /// Data segments sent.
    pub segments: u64,
    /// Segments retransmitted in fast recovery.
    pub retrans_fast: u64,
    /// After a timeout.
    pub retrans_rto: u64,
    /// As tail-loss probes.
    pub retrans_tlp: u64,
}

impl Traffic {
    /// Segments retransmitted, of all kinds.
    pub fn retransmits(&self) -> u64 {
        self.retrans_fast + self.retrans_rto + self.retrans_tlp
    }
}

/// A delivery under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenDelivery {
    /// Its number in the session.
    pub index: u32,
    /// When its request began.
    pub t_request_ns: u64,
    /// Bytes acknowledged so far.
    pub acked_bytes: u64,
    /// Bytes written so far.
    pub written_bytes: u64,
    /// Whether it is past its deadline.
    pub late: bool,
}

/// What was already counted of a delivery that is not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// Which delivery, plus one; 0: none.
    pub number: u32,
    /// Its traffic.
    pub traffic: Traffic,
    /// Its time with data outstanding.
    pub busy_ticks: u32,
    /// Of that, limited by the client's window.
    pub rwnd_limited_ticks: u32,
    /// Of that, limited by the send buffer.
    pub sndbuf_limited_ticks: u32,
}

impl Partial {
    /// The larger of each; what was counted once stays counted.
    pub(super) fn at_least(self, other: &Self) -> Self {
        let (a, b) = (&self.traffic, &other.traffic);
        Self {
            number: self.number,
            traffic: Traffic {
                acked_bytes: a.acked_bytes.max(b.acked_bytes),
                segments: a.segments.max(b.segments),
                retrans_fast: a.retrans_fast.max(b.retrans_fast),
                retrans_rto: a.retrans_rto.max(b.retrans_rto),
                retrans_tlp: a.retrans_tlp.max(b.retrans_tlp),
            },
            busy_ticks: self.busy_ticks.max(other.busy_ticks),
            rwnd_limited_ticks: self.rwnd_limited_ticks.max(other.rwnd_limited_ticks),
            sndbuf_limited_ticks: self.sndbuf_limited_ticks.max(other.sndbuf_limited_ticks),
        }
    }
}

/// One session. Times are monotonic nanoseconds; 0: unknown.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// Who talks to whom.
    pub endpoints: Endpoints,
    /// Where it is counted.
    pub cell: u32,
    /// Who measures it.
    pub backend: BackendKind,
    /// When it reached ESTABLISHED, or was adopted.
    pub t_established_ns: u64,
    /// When it was last heard of.
    pub t_updated_ns: u64,
    /// When it ended.
    pub t_ended_ns: u64,
    /// First SYN-ACK to ESTABLISHED.
    pub handshake_us: u32,
    /// SYN-ACKs sent again.
    pub synack_retransmits: u32,
    /// The session's [`flag`] bits: ADOPTED, TLS, `BUSY_PERIOD`, IPV6, `RATE_APP_LIMITED`.
    pub flags: u32,
    /// Exchanges and busy periods that completed.
    pub deliveries: u32,
    /// Deliveries that were late.
    pub late_deliveries: u32,
    /// Deliveries that were cut off.
    pub aborted_deliveries: u32,
    /// All that was counted for it.
    pub traffic: Traffic,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
    /// Least round-trip time.
    pub min_rtt_us: u32,
    /// The kernel's latest delivery-rate sample.
    pub delivery_rate_bytes_per_s: u64,
    /// Of the latest delivery that completed.
    pub last_latency_us: u64,
    /// The delivery under way.
    pub open: Option<OpenDelivery>,
    /// How it ended; see [`probe_ebpf::record::ended`].
    pub ended: u8,

    pub(super) partial: Partial,
    /// One more than the highest delivery that is over.
    pub(super) over: u32,
    /// One more than the highest delivery that was counted late.
    pub(super) late_counted: u32,
    /// If it was established later than this, nothing of it was known before.
    pub(super) forgotten_before_ns: u64,
    /// Its start was counted.
    pub(super) start_counted: bool,
    /// Its end's totals were counted, so nothing more is to be added.
    pub(super) retrans_settled: bool,
    /// Likewise for bytes and segments.
    pub(super) volume_settled: bool,
    list: List,
    older: u32,
    newer: u32,
}

impl Session {
    /// The session's flags that concern all of it.
    pub(super) const LASTING_FLAGS: u32 =
        flag::ADOPTED | flag::TLS | flag::BUSY_PERIOD | flag::IPV6;

    pub(super) fn new(cookie: u64, endpoints: Endpoints, cell: u32, t_ns: u64) -> Self {
        Self {
            cookie,
            endpoints,
            cell,
            backend: BackendKind::Exact,
            t_established_ns: 0,
            t_updated_ns: t_ns,
            t_ended_ns: 0,
            handshake_us: 0,
            synack_retransmits: 0,
            flags: 0,
            deliveries: 0,
            late_deliveries: 0,
            aborted_deliveries: 0,
            traffic: Traffic::default(),
            srtt_us: 0,
            min_rtt_us: 0,
            delivery_rate_bytes_per_s: 0,
            last_latency_us: 0,
            open: None,
            ended: 0,
            partial: Partial::default(),
            over: 0,
            late_counted: 0,
            forgotten_before_ns: 0,
            start_counted: false,
            retrans_settled: false,
            volume_settled: false,
            list: List::Idle,
            older: NONE,
            newer: NONE,
        }
    }

    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        self.t_ended_ns != 0
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        match self.open {
            _ if self.is_ended() => State::Ended,
            Some(open) if open.late => State::Late,
            Some(_) => State::Delivering,
            None => State::Idle,
        }
    }

    /// How much it needs looking at: late ones first, then by retransmit ratio, then by latency.
    pub fn badness(&self) -> (bool, u64, u64) {
        let ratio =
            retransmit_ratio_ppm(self.traffic.retransmits(), self.traffic.segments).unwrap_or(0);
        (self.state() == State::Late, ratio, self.last_latency_us)
    }

    /// Whether anything went wrong on it.
    pub fn troubled(&self) -> bool {
        self.late_deliveries > 0
            || self.aborted_deliveries > 0
            || self.traffic.retransmits() > 0
            || self.state() == State::Late
    }

    fn proper_list(&self) -> List {
        match self.state() {
            State::Ended => List::Ended,
            State::Delivering | State::Late => List::Open,
            State::Idle => List::Idle,
        }
    }
}

const NONE: u32 = u32::MAX;

/// The lists, in the order in which a full table forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum List {
    Ended,
    Idle,
    Open,
}

impl List {
    const ALL: [Self; 3] = [Self::Ended, Self::Idle, Self::Open];
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
    len: usize,
}

/// The sessions, found by cookie in constant time.
#[derive(Debug)]
pub struct Sessions {
    index: HashMap<u64, u32>,
    slots: Vec<Session>,
    free: Vec<u32>,
    lists: [Ends; 3],
    max: usize,
}

impl Sessions {
    pub(super) fn new(max: usize) -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            lists: [Ends {
                oldest: NONE,
                newest: NONE,
                len: 0,
            }; 3],
            max: max.clamp(1, NONE as usize),
        }
    }

    /// Sessions that are not over.
    pub fn open(&self) -> usize {
        self.lists[List::Idle as usize].len + self.lists[List::Open as usize].len
    }

    /// All sessions, the lately ended ones included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Sessions from place `from` on, each with its place; for reading the table in pieces.
    pub fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, &Session)> {
        self.slots
            .iter()
            .enumerate()
            .skip(from)
            .filter(|(place, session)| self.index.get(&session.cookie) == Some(&to_u32(*place)))
    }

    /// The places there are, in use or not.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, cookie: u64) -> Option<u32> {
        self.index.get(&cookie).copied()
    }

    pub(super) fn at(&mut self, place: u32) -> &mut Session {
        &mut self.slots[place as usize]
    }

    pub(super) fn is_full(&self) -> bool {
        self.index.len() >= self.max
    }

    /// The session that a full table forgets first.
    pub(super) fn most_forgettable(&self) -> Option<u32> {
        List::ALL.into_iter().find_map(|list| self.oldest(list))
    }

    /// The session of a list that was not heard of for longest.
    pub(super) fn oldest(&self, list: List) -> Option<u32> {
        let place = self.lists[list as usize].oldest;
        (place != NONE).then_some(place)
    }

    /// Adds a session. The caller has made room.
    pub(super) fn insert(&mut self, mut session: Session) -> u32 {
        let cookie = session.cookie;
        session.list = session.proper_list();
        let place = if let Some(place) = self.free.pop() {
            self.slots[place as usize] = session;
            place
        } else {
            self.slots.push(session);
            to_u32(self.slots.len() - 1)
        };
        self.index.insert(cookie, place);
        self.link(place);
        place
    }

    pub(super) fn remove(&mut self, place: u32) -> Session {
        self.unlink(place);
        let session = self.slots[place as usize];
        self.index.remove(&session.cookie);
        self.free.push(place);
        session
    }

    /// Puts a session, just heard of, at the new end of the list it belongs to.
    pub(super) fn touch(&mut self, place: u32, t_ns: u64) {
        self.unlink(place);
        let session = &mut self.slots[place as usize];
        session.t_updated_ns = session.t_updated_ns.max(t_ns);
        session.list = session.proper_list();
        self.link(place);
    }

    fn link(&mut self, place: u32) {
        let list = self.slots[place as usize].list as usize;
        let newest = self.lists[list].newest;
        self.slots[place as usize].older = newest;
        self.slots[place as usize].newer = NONE;
        match newest {
            NONE => self.lists[list].oldest = place,
            newest => self.slots[newest as usize].newer = place,
        }
        self.lists[list].newest = place;
        self.lists[list].len += 1;
    }

    fn unlink(&mut self, place: u32) {
        let Session {
            list, older, newer, ..
        } = self.slots[place as usize];
        let list = list as usize;
        match older {
            NONE => self.lists[list].oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.lists[list].newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        self.lists[list].len -= 1;
    }
}

/// Places fit: the table is bounded below `NONE`.
fn to_u32(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(NONE)
}

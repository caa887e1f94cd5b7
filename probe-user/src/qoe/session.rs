//! Sessions: what is remembered of each, and what it is doing. The table of them is in
//! [`super::table`].

use probe_ebpf::record::{Delivery, Endpoints, flag};

use super::delivery::retransmit_ratio_ppm;
use super::table::List;
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// More may have been counted, before the session was forgotten.
    pub(super) is_unsure: bool,
}

/// A delivery of which more may have been counted than is known, because its session may have been
/// forgotten since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recalled {
    /// But no more than its record says, which is younger than all that was forgotten.
    Sure,
    /// Its record is not younger: the other ring was ahead, and may have told more.
    Unsure,
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
            is_unsure: self.is_unsure || other.is_unsure,
        }
    }
}

/// One session. Times are monotonic nanoseconds; 0: unknown.
///
/// What every record of a delivery reads or writes stands in the first two cache lines: with many
/// sessions, fetching them is what a record costs.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Session {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// When it was last heard of.
    pub t_updated_ns: u64,
    /// What was counted of it before it was forgotten, if it was, was told by records no younger
    /// than this; 0: it never was.
    pub(super) forgotten_before_ns: u64,
    /// Of the latest delivery that completed.
    pub last_latency_us: u64,
    /// The kernel's latest delivery-rate sample.
    pub delivery_rate_bytes_per_s: u64,
    /// Where it is counted.
    pub cell: u32,
    /// The session's [`flag`] bits: ADOPTED, TLS, `BUSY_PERIOD`, IPV6, `RATE_APP_LIMITED`.
    pub flags: u32,
    /// Exchanges and busy periods that completed.
    pub deliveries: u32,
    /// One more than the highest delivery that is over.
    pub(super) over: u32,
    /// One more than the highest delivery that was counted late.
    pub(super) late_counted: u32,
    /// Smoothed round-trip time.
    pub srtt_us: u32,

    /// All that was counted for it.
    pub traffic: Traffic,
    /// Least round-trip time.
    pub min_rtt_us: u32,
    /// [`Partial::number`] of the delivery that is counted in part; 0: none is.
    partial_number: u32,
    /// When it was put where it is in its list.
    pub(super) t_listed_ns: u64,
    /// Who measures it.
    pub backend: BackendKind,
    /// How it ended; see [`probe_ebpf::record::ended`].
    pub ended: u8,
    /// Where the table keeps it; none: its place is free.
    pub(super) list: Option<List>,
    /// Its start was counted.
    pub(super) start_counted: bool,
    /// Its end's totals were counted, so nothing more is to be added.
    pub(super) retrans_settled: bool,
    /// Likewise for bytes and segments.
    pub(super) volume_settled: bool,
    is_open: bool,
    is_ended: bool,

    open: OpenDelivery,
    partial: Partial,
    /// Deliveries that were late.
    pub late_deliveries: u32,
    /// Deliveries that were cut off.
    pub aborted_deliveries: u32,
    /// Who talks to whom.
    pub endpoints: Endpoints,
    /// When it reached ESTABLISHED, or was adopted.
    pub t_established_ns: u64,
    /// Congestion window at the end of its latest delivery.
    pub(super) window_bytes: u32,
    /// What that would have been, had nothing gone wrong.
    pub(super) ideal_window_bytes: u32,
    /// When it ended.
    pub t_ended_ns: u64,
    /// First SYN-ACK sent to ESTABLISHED.
    pub handshake_us: u32,
    /// SYN-ACKs sent again.
    pub synack_retransmits: u32,
}

const CACHE_LINE_BYTES: usize = 64;
const _: () = assert!(std::mem::offset_of!(Session, open) == 2 * CACHE_LINE_BYTES);

impl Session {
    /// The session's flags that concern all of it.
    pub(super) const LASTING_FLAGS: u32 =
        flag::ADOPTED | flag::TLS | flag::BUSY_PERIOD | flag::IPV6;

    pub(super) fn new(cookie: u64, endpoints: Endpoints, cell: u32, t_ns: u64) -> Self {
        Self {
            cookie,
            t_updated_ns: t_ns,
            forgotten_before_ns: 0,
            last_latency_us: 0,
            delivery_rate_bytes_per_s: 0,
            cell,
            flags: 0,
            deliveries: 0,
            over: 0,
            late_counted: 0,
            srtt_us: 0,
            traffic: Traffic::default(),
            min_rtt_us: 0,
            partial_number: 0,
            t_listed_ns: 0,
            backend: BackendKind::Exact,
            ended: 0,
            list: None,
            start_counted: false,
            retrans_settled: false,
            volume_settled: false,
            is_open: false,
            is_ended: false,
            open: OpenDelivery::default(),
            partial: Partial::default(),
            late_deliveries: 0,
            aborted_deliveries: 0,
            endpoints,
            t_established_ns: 0,
            window_bytes: 0,
            ideal_window_bytes: 0,
            t_ended_ns: 0,
            handshake_us: 0,
            synack_retransmits: 0,
        }
    }

    /// The delivery under way.
    pub fn open(&self) -> Option<OpenDelivery> {
        self.is_open.then(|| self.far().0)
    }

    /// Sets or clears it; returns what it was.
    pub(super) fn set_open(&mut self, open: Option<OpenDelivery>) -> Option<OpenDelivery> {
        let before = self.open();
        self.is_open = open.is_some();
        if let Some(open) = open {
            self.open = open;
        }
        before
    }

    /// What was counted of a delivery that is not over, if it is this one.
    pub(super) fn partial_of(&self, number: u32) -> Option<Partial> {
        (self.partial_number == number).then(|| self.far().1)
    }

    /// Whether more of a record's delivery may have been counted than is known. That is a matter of
    /// each delivery: by which one a session is met again says nothing about the others.
    pub(super) fn recalls(&self, record: &Delivery) -> Option<Recalled> {
        let forgotten_ns = self.forgotten_before_ns;
        if forgotten_ns == 0 || record.t_request_ns > forgotten_ns {
            return None;
        }
        let known = self.partial_of(record.index.saturating_add(1));
        if known.is_some_and(|known| !known.is_unsure) {
            None
        } else if record.header.t_ns > forgotten_ns {
            Some(Recalled::Sure)
        } else {
            Some(Recalled::Unsure)
        }
    }

    /// What lies beyond the first two lines. Not inlined, because a compiler that sees it reads it
    /// in any case and throws it away when it is not wanted, and reading it is what costs.
    #[inline(never)]
    fn far(&self) -> (OpenDelivery, Partial) {
        (self.open, self.partial)
    }

    /// Which delivery was counted in part; 0: none was.
    pub(super) fn partial_number(&self) -> u32 {
        self.partial_number
    }

    /// Sets what was counted, or clears it.
    pub(super) fn set_partial(&mut self, partial: Option<Partial>) {
        self.partial_number = partial.map_or(0, |partial| partial.number);
        if let Some(partial) = partial {
            self.partial = partial;
        }
    }

    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// It is over.
    pub(super) fn set_ended(&mut self, t_ns: u64) {
        self.is_ended = true;
        self.t_ended_ns = t_ns;
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        if self.is_ended() {
            State::Ended
        } else if !self.is_open {
            State::Idle
        } else if self.open.late {
            State::Late
        } else {
            State::Delivering
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

    pub(super) fn proper_list(&self) -> List {
        match self.state() {
            State::Ended => List::Ended,
            State::Delivering | State::Late => List::Open,
            State::Idle => List::Idle,
        }
    }
}

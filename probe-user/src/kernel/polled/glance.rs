//! What a look at a socket found, as the tracker's [`Host`].

use probe_ebpf::{
    drive::{Host, Look, state},
    record::{ABI_VERSION, Delivery, Header, SessionEnd, SessionStart, backend, flag, kind},
    session::{Clocks, Gauges, Session},
};

use super::{
    TICK_HZ,
    info::TcpInfo,
    queue::{Queue, Queued},
};

/// A socket as it was found, with what its FINs count in the kernel's numbers taken off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) info: TcpInfo,
    /// TCP state.
    pub(super) state: u8,
    /// Data written by the server since it was established.
    pub(super) written_bytes: u64,
    /// Of this, acknowledged.
    pub(super) acked_bytes: u64,
    /// Data received of the client.
    pub(super) received_bytes: u64,
}

impl Found {
    /// Takes off the FINs that the state tells of. `fin_queued` and `fin_received`: such as are
    /// known although it does not.
    pub(super) fn new(
        info: TcpInfo,
        state: u8,
        write_queue_bytes: u32,
        fin_queued: bool,
        fin_received: bool,
    ) -> Self {
        let fin_queued = fin_queued || is_closed_by_server(state);
        let fin_received = fin_received || is_closed_by_client(state);
        // Two ways to the same number, each of which may be too large: an acknowledgement comes
        // between the kernel's reading of the queue and of the rest; and what a full queue of the
        // network device refused is sent, and counted as sent, again.
        let by_queue = info.bytes_acked + u64::from(write_queue_bytes);
        let by_sent = info.bytes_sent_once() + u64::from(info.notsent_bytes);
        let is_fin_unsent = fin_queued && info.notsent_bytes > 0;
        let written_bytes = by_queue
            .saturating_sub(u64::from(fin_queued))
            .min(by_sent.saturating_sub(u64::from(is_fin_unsent)));
        Self {
            info,
            state,
            written_bytes,
            acked_bytes: info.bytes_acked.min(written_bytes),
            received_bytes: info.bytes_received.saturating_sub(u64::from(fin_received)),
        }
    }

    /// Time since the first of the things whose latest the kernel tells.
    pub(super) fn oldest_event_ms(&self) -> u32 {
        self.info
            .last_data_recv_ms
            .max(self.info.last_data_sent_ms)
            .max(self.info.last_ack_recv_ms)
    }

    /// When what the look found came about. The kernel's own times are to the tick; what was
    /// written is not all sent, and then nothing tells when it was.
    pub(super) fn look(&self, before_ns: u64, now_ns: u64) -> Look {
        let ago = |ms: u32| {
            let t_ns = now_ns.saturating_sub(u64::from(ms) * 1_000_000);
            t_ns.clamp(before_ns.min(now_ns), now_ns)
        };
        Look {
            t_received_ns: ago(self.info.last_data_recv_ms),
            t_received_last_ns: ago(self.info.last_data_recv_ms),
            t_written_ns: if self.info.notsent_bytes == 0 {
                ago(self.info.last_data_sent_ms)
            } else {
                now_ns
            },
            t_acked_ns: ago(self.info.last_ack_recv_ms),
            ..Look::at(now_ns)
        }
    }

    fn gauges(&self) -> Gauges {
        // Wrapping: differences are taken.
        let ticks = |us: u64| low_word(us / (1_000_000 / u64::from(TICK_HZ)));
        Gauges {
            segments: self.info.data_segs_out,
            clocks: Clocks {
                busy: ticks(self.info.busy_us),
                rwnd_limited: ticks(self.info.rwnd_limited_us),
                sndbuf_limited: ticks(self.info.sndbuf_limited_us),
            },
            srtt_us: self.info.rtt_us,
            min_rtt_us: self.info.min_rtt_us,
            cwnd: self.info.cwnd,
            mss: self.info.mss,
            peer_window_bytes: self.info.peer_window_bytes,
            delivery_rate_bytes_per_s: self.info.delivery_rate_bytes_per_s,
            rate_app_limited: self.info.rate_app_limited,
        }
    }
}

/// What the tracker keeps of a count, of which it takes differences: it wraps.
pub(super) fn low_word(count: u64) -> u32 {
    (count & 0xffff_ffff) as u32
}

/// Whether the server's FIN is queued or beyond in a state.
pub(super) fn is_closed_by_server(state: u8) -> bool {
    matches!(
        state,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::LAST_ACK
    )
}

/// Whether the client's FIN has arrived in a state.
pub(super) fn is_closed_by_client(state: u8) -> bool {
    matches!(state, state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING)
}

/// One look, and where its records go.
#[derive(Debug)]
pub(super) struct Glance<'a> {
    /// As it is.
    pub(super) found: Found,
    /// As it was at the look before, if whatever was under way then was through: what came since
    /// belongs to the next delivery alone.
    pub(super) rest: Option<Found>,
    /// The delivery that was through then, and not reported yet.
    pub(super) through: Option<u32>,
    pub(super) hot: &'a mut Queue,
    pub(super) bulk: &'a mut Queue,
}

fn header<T>(kind: u8, t_ns: u64) -> Header {
    Header {
        t_ns,
        kind,
        version: ABI_VERSION,
        len: u16::try_from(size_of::<T>()).unwrap_or(u16::MAX),
        backend: backend::POLLED,
        reserved: 0,
        reserved_too: 0,
    }
}

impl Glance<'_> {
    fn delivery(&self, s: &Session, write_seq: u32, kind: u8, now_ns: u64) -> Delivery {
        let found = match &self.rest {
            Some(rest) if self.through == Some(s.index) => rest,
            _ => &self.found,
        };
        let mut out = Delivery {
            header: header::<Delivery>(kind, now_ns),
            ..Delivery::default()
        };
        s.fill(&mut out, write_seq, &found.gauges());
        out
    }

    /// Reports a session's start.
    pub(super) fn session_start(&mut self, s: &Session, synack_retransmits: u32, now_ns: u64) {
        self.bulk.push(Queued::Start(SessionStart {
            header: header::<SessionStart>(kind::SESSION_START, now_ns),
            cookie: s.cookie,
            t_established_ns: s.t_established_ns,
            endpoints: s.endpoints,
            handshake_us: 0,
            synack_retransmits,
            flags: s.flags,
            reserved: 0,
        }));
    }
}

/// Sequence numbers are relative to the session's beginning.
impl Host for Glance<'_> {
    fn write_seq(&self) -> u32 {
        low_word(self.found.written_bytes)
    }

    fn snd_una(&self) -> u32 {
        low_word(self.found.acked_bytes)
    }

    fn snd_nxt(&self) -> u32 {
        self.write_seq().wrapping_sub(self.found.info.notsent_bytes)
    }

    fn rcv_nxt(&self) -> u32 {
        low_word(self.found.received_bytes)
    }

    fn srtt_us(&self) -> u32 {
        self.found.info.rtt_us
    }

    fn total_retrans(&self) -> u32 {
        self.found.info.total_retrans
    }

    fn ca_state(&self) -> u8 {
        self.found.info.ca_state
    }

    fn error(&self) -> i32 {
        0
    }

    fn tcp_state(&self) -> u8 {
        self.found.state
    }

    fn gauges(&self, out: &mut Gauges) {
        *out = self.rest.as_ref().unwrap_or(&self.found).gauges();
    }

    fn add_epoch(&mut self, s: &mut Session, n: u64) -> u64 {
        let before = s.epoch;
        s.epoch = before.wrapping_add(n);
        before
    }

    fn swap_epoch(&mut self, s: &mut Session, expected: u64, new: u64) -> bool {
        let same = s.epoch == expected;
        if same {
            s.epoch = new;
        }
        same
    }

    // Every session is looked at.
    fn mark(&mut self) -> bool {
        false
    }

    fn unmark(&mut self) {}

    fn delivery_end(&mut self, s: &Session, write_seq: u32, now_ns: u64) {
        let record = self.delivery(s, write_seq, kind::DELIVERY_END, now_ns);
        let queue = if record.flags & flag::ABORTED != 0 {
            &mut *self.hot
        } else {
            &mut *self.bulk
        };
        queue.push(Queued::Delivery(record));
    }

    fn delivery_settled(&mut self, s: &mut Session, now_ns: u64, expected: u64, new: u64) {
        let mut record = self.delivery(s, self.write_seq(), kind::DELIVERY_END, now_ns);
        record.flags |= flag::SETTLED;
        if self.swap_epoch(s, expected, new) {
            self.bulk.push(Queued::Delivery(record));
        }
    }

    fn delivery_late(&mut self, s: &Session, now_ns: u64) {
        let record = self.delivery(s, self.write_seq(), kind::DELIVERY_LATE, now_ns);
        self.hot.push(Queued::Delivery(record));
    }

    fn delivery_progress(&mut self, s: &Session, now_ns: u64) {
        let record = self.delivery(s, self.write_seq(), kind::DELIVERY_PROGRESS, now_ns);
        self.bulk.push(Queued::Delivery(record));
    }

    fn session_end(&mut self, s: &Session, now_ns: u64, ended: u8, _fin_acked: bool) {
        self.bulk.push(Queued::End(SessionEnd {
            header: header::<SessionEnd>(kind::SESSION_END, now_ns),
            cookie: s.cookie,
            t_established_ns: s.t_established_ns,
            received_bytes: self.found.received_bytes,
            acked_bytes: self.found.acked_bytes,
            endpoints: s.endpoints,
            deliveries: s.index,
            flags: s.flags,
            segments: self.found.info.data_segs_out,
            retrans_fast: s.session_retrans.fast,
            retrans_rto: s.session_retrans.rto,
            retrans_tlp: s.session_retrans.tlp,
            retrans_before: s.retrans_before,
            retrans_total: self.found.info.total_retrans,
            srtt_us: self.found.info.rtt_us,
            min_rtt_us: self.found.info.min_rtt_us,
            ended,
            reserved: 0,
            reserved_too: 0,
            reserved_as_well: 0,
        }));
    }
}

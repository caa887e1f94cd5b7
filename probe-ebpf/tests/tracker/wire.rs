//! A socket and its client, as plain numbers: what the tests drive the tracker with. It keeps
//! its own account of what was sent and acknowledged, from which the records are judged.

use probe_ebpf::{
    drive::{self, Host, Segment, state},
    record::{Delivery, Endpoints, ended, kind},
    session::{Gauges, Session},
    settings::Settings,
    tls,
    tracker::{EPOCH_STEP, UNMARKED},
};

pub(crate) const MS: u64 = 1_000_000;

/// What was reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    End(Delivery),
    Late(Delivery),
    Progress(Delivery),
    Session { ended: u8, fin_acked: bool },
}

/// The socket's fields, as the kernel would show them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Socket {
    pub(crate) write_seq: u32,
    pub(crate) snd_una: u32,
    pub(crate) rcv_nxt: u32,
    pub(crate) total_retrans: u32,
    pub(crate) ca_state: u8,
    pub(crate) error: i32,
    pub(crate) state: u8,
    pub(crate) segments: u32,
    pub(crate) reports: Vec<Report>,
    /// Runs between the writing of a settled record and its claim.
    pub(crate) race: bool,
    /// The sweep has the session on its round.
    pub(crate) marked: bool,
    /// There is no memory for marks.
    pub(crate) refuses_marks: bool,
    /// What happens while the sweep takes the mark away.
    pub(crate) meanwhile: Option<fn(&mut Self, &mut Session)>,
}

impl Socket {
    fn record(&self, s: &Session, write_seq: u32, kind: u8) -> Delivery {
        let mut gauges = Gauges::default();
        self.gauges(&mut gauges);
        let mut out = Delivery::default();
        out.header.kind = kind;
        s.fill(&mut out, write_seq, &gauges);
        out
    }
}

impl Host for Socket {
    fn write_seq(&self) -> u32 {
        self.write_seq
    }
    fn snd_una(&self) -> u32 {
        self.snd_una
    }
    fn snd_nxt(&self) -> u32 {
        self.write_seq
    }
    fn rcv_nxt(&self) -> u32 {
        self.rcv_nxt
    }
    fn srtt_us(&self) -> u32 {
        1000
    }
    fn total_retrans(&self) -> u32 {
        self.total_retrans
    }
    fn ca_state(&self) -> u8 {
        self.ca_state
    }
    fn error(&self) -> i32 {
        self.error
    }
    fn tcp_state(&self) -> u8 {
        self.state
    }
    fn gauges(&self, out: &mut Gauges) {
        out.segments = self.segments;
        out.srtt_us = 1000;
    }
    fn add_epoch(&mut self, s: &mut Session, n: u64) -> u64 {
        let before = s.epoch;
        s.epoch = s.epoch.wrapping_add(n);
        before
    }
    fn swap_epoch(&mut self, s: &mut Session, expected: u64, new: u64) -> bool {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile(self, s);
        }
        if self.race {
            s.epoch = s.epoch.wrapping_add(2 * EPOCH_STEP);
        }
        let same = s.epoch == expected;
        if same {
            s.epoch = new;
        }
        same
    }
    fn mark(&mut self) -> bool {
        self.marked |= !self.refuses_marks;
        self.marked
    }
    fn unmark(&mut self) {
        self.marked = false;
    }
    fn delivery_end(&mut self, s: &Session, write_seq: u32, _now_ns: u64) {
        let record = self.record(s, write_seq, kind::DELIVERY_END);
        self.reports.push(Report::End(record));
    }
    fn delivery_settled(&mut self, s: &mut Session, _now_ns: u64, expected: u64, new: u64) {
        let record = self.record(s, self.write_seq, kind::DELIVERY_END);
        if self.swap_epoch(s, expected, new) {
            self.reports.push(Report::End(record));
        }
    }
    fn delivery_late(&mut self, s: &Session, _now_ns: u64) {
        let record = self.record(s, self.write_seq, kind::DELIVERY_LATE);
        self.reports.push(Report::Late(record));
    }
    fn delivery_progress(&mut self, s: &Session, _now_ns: u64) {
        let record = self.record(s, self.write_seq, kind::DELIVERY_PROGRESS);
        self.reports.push(Report::Progress(record));
    }
    fn session_end(&mut self, _s: &Session, _now_ns: u64, ended: u8, fin_acked: bool) {
        self.reports.push(Report::Session { ended, fin_acked });
    }
}

/// A session and its socket, and the clock.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) now_ns: u64,
    pub(crate) socket: Socket,
    pub(crate) session: Session,
    pub(crate) settings: Settings,
}

impl Wire {
    /// Just established; sequence numbers begin at `isn` in both directions.
    pub(crate) fn established(isn: u32) -> Self {
        let socket = Socket {
            write_seq: isn,
            snd_una: isn,
            rcv_nxt: isn,
            state: state::ESTABLISHED,
            ..Socket::default()
        };
        let session = Session {
            cookie: 1,
            endpoints: Endpoints::default(),
            t_established_ns: 1000 * MS,
            acked_seq: isn,
            rcv_nxt: isn,
            epoch: UNMARKED,
            ..Session::default()
        };
        Self {
            now_ns: 1000 * MS,
            socket,
            session,
            settings: Settings {
                deadline_ns: 4000 * MS,
                quiet_gap_ns: 1000 * MS,
                ..Settings::default()
            },
        }
    }

    pub(crate) fn wait_ms(&mut self, ms: u64) {
        self.now_ns += ms * MS;
    }

    /// The client sends `bytes` and acknowledges up to `ack`.
    pub(crate) fn arrives(&mut self, bytes: u32, ack: u32) {
        let segment = Segment {
            seq: self.socket.rcv_nxt,
            ack,
            has_ack: true,
            payload: bytes,
        };
        drive::segment(
            &mut self.socket,
            &mut self.session,
            &self.settings,
            self.now_ns,
            segment,
        );
        self.socket.rcv_nxt = self.socket.rcv_nxt.wrapping_add(bytes);
        if drive::after(ack, self.socket.snd_una) && !drive::after(ack, self.socket.write_seq) {
            self.socket.snd_una = ack;
        }
    }

    /// The client sends a request, acknowledging nothing new.
    pub(crate) fn asks(&mut self, bytes: u32) {
        self.arrives(bytes, self.socket.snd_una);
    }

    /// The client acknowledges everything.
    pub(crate) fn acks_all(&mut self) {
        self.arrives(0, self.socket.write_seq);
    }

    /// The server writes.
    pub(crate) fn writes(&mut self, bytes: u32) {
        let start = self.socket.write_seq;
        drive::wrote(&mut self.socket, &mut self.session, self.now_ns, start);
        self.socket.write_seq = start.wrapping_add(bytes);
        self.socket.segments += bytes.div_ceil(1448);
    }

    /// The server writes a TLS record of this kind.
    pub(crate) fn writes_tls(&mut self, bytes: u32, first: [u8; 3]) {
        let start = self.socket.write_seq;
        if drive::wrote(&mut self.socket, &mut self.session, self.now_ns, start)
            && self.session.wants_sniff()
        {
            self.session.sniffed(tls::classify(first));
        }
        self.socket.write_seq = start.wrapping_add(bytes);
    }

    /// A segment is sent again in this congestion state.
    pub(crate) fn retransmits(&mut self, segments: u32, ca_state: u8) {
        self.socket.total_retrans += segments;
        self.socket.ca_state = ca_state;
        drive::retransmitted(&self.socket, &mut self.session);
    }

    /// The session goes to a state.
    pub(crate) fn goes(&mut self, new: u8) {
        drive::state_changed(&mut self.socket, &mut self.session, self.now_ns, new);
        self.socket.state = new;
        if matches!(new, state::FIN_WAIT1 | state::LAST_ACK) {
            // The FIN takes a sequence number.
            self.socket.write_seq = self.socket.write_seq.wrapping_add(1);
        }
    }

    /// The daemon sweeps, past all sessions.
    pub(crate) fn sweeps(&mut self) {
        let (host, s) = (&mut self.socket, &mut self.session);
        let epoch = s.epoch;
        drive::swept(host, s, &self.settings, self.now_ns, epoch);
        drive::rested(host, s, self.now_ns, epoch);
    }

    /// The daemon sweeps, past marked sessions only.
    pub(crate) fn sweeps_marked(&mut self) {
        if self.socket.marked {
            self.sweeps();
        }
    }

    /// What has been reported since the last call.
    pub(crate) fn reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.socket.reports)
    }

    /// The one delivery that has ended since the last call.
    pub(crate) fn ended(&mut self) -> Delivery {
        let ends: Vec<Delivery> = self
            .reports()
            .into_iter()
            .filter_map(|report| match report {
                Report::End(delivery) => Some(delivery),
                _ => None,
            })
            .collect();
        assert_eq!(ends.len(), 1, "{ends:?}");
        ends[0]
    }

    /// The client resets the session.
    pub(crate) fn client_resets(&mut self) {
        const ECONNRESET: i32 = 104;
        self.session.reset(ended::CLIENT_RST);
        self.socket.error = ECONNRESET;
        self.goes(state::CLOSE);
    }
}

//! The delivery tracker: a session's state, and what each thing that happens to it does to it.
//!
//! Plain functions over a plain struct. Time and the socket's sequence numbers come in as
//! arguments; what goes out is a decision for the caller (emit, arm, ignore). The caller holds
//! the socket's lock, so nothing here is concurrent with itself; the one reader that does not
//! hold it (the sweep) goes by [`Session::epoch`](crate::session::Session::epoch).
//!
//! A delivery opens with the first byte of a request that arrives while nothing is outstanding,
//! and is complete when every byte written in answer is acknowledged. A later write reopens it.
//! It is closed, and reported, by the next request, the end of the session, or the quiet gap.

mod left_out;

use crate::{
    drive::after,
    record::{ended, flag},
    session::{Gauges, Kept, Retrans, Session, phase},
    tls,
};
pub use left_out::Watched;

/// Largest client message that is taken for HTTP/2 control in a session known to have busy
/// periods: WINDOW_UPDATE, PING and SETTINGS frames under TLS 1.2 or 1.3, with room for two.
const MAX_BUSY_CONTROL_BYTES: u64 = 64;
/// Less than the shortest HTTP/1 request line.
const MAX_CLEAR_CONTROL_BYTES: u64 = 15;

/// In [`Session::epoch`]: the delivery that the sweep has reported as settled.
const SETTLED: u64 = 0xffff_ffff;
/// In [`Session::epoch`]: the sweep does not know of the session, so that whoever opens a delivery
/// has to mark it.
pub const UNMARKED: u64 = 1 << 32;
/// One change of [`Session::epoch`].
pub const EPOCH_STEP: u64 = 1 << 33;
/// The sweep goes on looking at a session for so long after its last delivery: longer than most
/// clients wait before they ask again, and not so long that looking costs more than marking anew.
const REST_NS: u64 = 2_000_000_000;

impl Session {
    /// Whether a change is under way at this epoch.
    #[inline(always)]
    pub fn is_changing(epoch: u64) -> bool {
        epoch & EPOCH_STEP != 0
    }

    /// Whether the sweep has settled the open delivery at this epoch.
    #[inline(always)]
    pub fn is_claimed(&self, epoch: u64) -> bool {
        (epoch & SETTLED) as u32 == self.index + 1
    }

    /// The epoch that says that the sweep has settled the open delivery, if nothing has changed
    /// since `epoch`.
    #[inline(always)]
    pub fn settled_epoch(&self, epoch: u64) -> u64 {
        (epoch & !SETTLED) | u64::from(self.index + 1)
    }

    /// To be called at the start of every change with the epoch before it: takes notice of the
    /// sweep's having settled the open delivery.
    #[inline(always)]
    pub fn changing(&mut self, epoch: u64) {
        if self.is_open() && self.is_claimed(epoch) {
            self.close_settled();
        }
    }

    /// Whether the sweep has had nothing to wait for, at this epoch, for so long that it may turn
    /// away. What may be no request is never late.
    #[inline(always)]
    pub fn is_at_rest(&self, now_ns: u64, epoch: u64) -> bool {
        now_ns > self.t_last_acked_ns.wrapping_add(REST_NS)
            && now_ns > self.t_request_last_ns.wrapping_add(REST_NS)
            && now_ns > self.t_last_write_ns.wrapping_add(REST_NS)
            && (!self.is_open() || self.is_claimed(epoch) || self.is_tentative())
    }

    /// Whether a delivery is open.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        self.phase == phase::ASKED || self.phase == phase::ANSWERING
    }

    /// Whether everything written in answer is acknowledged.
    #[inline(always)]
    pub fn is_complete(&self, write_seq: u32) -> bool {
        self.phase == phase::ANSWERING && self.acked_seq == self.end_seq(write_seq)
    }

    /// Whether the open request may be none: too short, or the handshake's last flight.
    #[inline(always)]
    pub fn is_tentative(&self) -> bool {
        if self.phase != phase::ASKED {
            return false;
        }
        let bytes = self.request_bytes;
        if self.tls_phase == tls::Phase::Handshake as u8 && tls::is_finished_flight(bytes) {
            return true;
        }
        if self.flags & flag::BUSY_PERIOD != 0 && bytes <= MAX_BUSY_CONTROL_BYTES {
            return true;
        }
        if self.flags & flag::TLS != 0 {
            bytes <= tls::MAX_CONTROL_BYTES
        } else {
            bytes <= MAX_CLEAR_CONTROL_BYTES
        }
    }

    /// Whether the open delivery has been complete and quiet for the gap, and is so over.
    #[inline(always)]
    pub fn is_settled(&self, now_ns: u64, write_seq: u32, quiet_gap_ns: u64) -> bool {
        self.is_complete(write_seq) && self.is_silent(now_ns, quiet_gap_ns)
    }

    /// Whether an answer is open and nothing was written or acknowledged for the gap.
    #[inline(always)]
    pub fn is_silent(&self, now_ns: u64, quiet_gap_ns: u64) -> bool {
        self.phase == phase::ANSWERING
            && now_ns > self.t_last_acked_ns.wrapping_add(quiet_gap_ns)
            && now_ns > self.t_last_write_ns.wrapping_add(quiet_gap_ns)
    }

    /// Whether the open delivery is due for a progress record. `progress_ns` 0 means never.
    #[inline(always)]
    pub fn is_progress_due(&self, now_ns: u64, write_seq: u32, progress_ns: u64) -> bool {
        progress_ns != 0
            && self.is_open()
            && now_ns > self.t_progress_ns.wrapping_add(progress_ns)
            && !self.is_complete(write_seq)
            && !self.is_tentative()
    }

    /// Whether the open delivery is past its deadline and was not reported so.
    /// `deadline_ns` 0 means no deadline. A long request counts from its last byte.
    #[inline(always)]
    pub fn is_late(&self, now_ns: u64, write_seq: u32, deadline_ns: u64) -> bool {
        deadline_ns != 0
            && self.is_open()
            && now_ns > self.t_request_last_ns.wrapping_add(deadline_ns)
            && self.late_mark != self.index + 1
            && !self.is_complete(write_seq)
            && !self.is_tentative()
    }

    /// Marks the open delivery as reported late.
    #[inline(always)]
    pub fn mark_late(&mut self) {
        self.late_mark = self.index + 1;
        self.delivery_flags |= flag::LATE;
    }

    /// An acknowledgement of everything before `ack_seq` arrived.
    #[inline(always)]
    pub fn acked(&mut self, now_ns: u64, ack_seq: u32, write_seq: u32, srtt_us: u32) {
        let end = self.end_seq(write_seq);
        let ack = if after(ack_seq, end) { end } else { ack_seq };
        if !self.is_open() || !after(ack, self.acked_seq) {
            return;
        }
        let bytes = ack.wrapping_sub(self.acked_seq);
        self.acked_seq = ack;
        self.acked_bytes += u64::from(bytes);
        self.t_last_acked_ns = now_ns;
        if self.t_first_acked_ns == 0 {
            self.t_first_acked_ns = now_ns;
        }
        if self.phase == phase::ASKED {
            // No hook saw the write: it was a round trip ago at the latest.
            self.phase = phase::ANSWERING;
            let bound = now_ns.saturating_sub(u64::from(srtt_us) * 1000);
            self.t_first_write_ns = if bound > self.t_request_ns {
                bound
            } else {
                self.t_request_ns
            };
            self.t_last_write_ns = self.t_first_write_ns;
            self.delivery_flags |= flag::FIRST_WRITE_BOUNDED;
        }
    }

    /// New bytes of the client arrived, in order. The caller has closed a complete delivery
    /// (or a handshake exchange: [`Session::yields_to_request`]) before. Returns whether they are
    /// a delivery's first.
    #[inline(always)]
    pub fn requested(&mut self, now_ns: u64, bytes: u64, write_seq: u32, gauges: &Gauges) -> bool {
        if self.phase == phase::ANSWERING {
            if self.flags & flag::TLS == 0 || !tls::is_alert(bytes, self.is_tls_13 != 0) {
                // The client speaks while it is answered.
                self.mark_busy();
            }
            if bytes > MAX_BUSY_CONTROL_BYTES {
                self.requests += 1;
            }
            self.request_bytes += bytes;
            return false;
        }
        // In clear and in one stream, a message so short is the beginning of a request.
        let replaces = self.flags & (flag::TLS | flag::BUSY_PERIOD) != 0 && self.is_tentative();
        if self.phase == phase::ASKED && !replaces {
            self.request_bytes += bytes;
            self.t_request_last_ns = now_ns;
            return false;
        }
        if self.fin_queued != 0 {
            // The server has closed: there will be no answer.
            return false;
        }
        self.pass_late();
        self.open(now_ns, write_seq, gauges);
        self.phase = phase::ASKED;
        self.request_bytes = bytes;
        true
    }

    /// A client message of so many bytes has arrived: HTTP/2 over TLS shows itself by its control
    /// frames, and what is open then, complete or not, was one of its busy periods.
    #[inline(always)]
    pub fn note_control(&mut self, bytes: u64) {
        if self.tls_phase == tls::Phase::Data as u8
            && tls::is_http2_control(bytes, self.is_tls_13 != 0)
        {
            self.mark_busy();
        }
    }

    #[inline(always)]
    fn mark_busy(&mut self) {
        self.flags |= flag::BUSY_PERIOD;
        if self.delivery_flags & flag::HANDSHAKE == 0 {
            self.delivery_flags |= flag::BUSY_PERIOD;
        }
    }

    /// The client's bytes are complete up to `rcv_nxt`. Those that no hook has counted came with
    /// the last segment seen, which filled a hole before them.
    #[inline(always)]
    pub fn note_filled(&mut self, rcv_nxt: u32) {
        if self.is_open() && self.fin_received == 0 {
            self.request_bytes += u64::from(rcv_nxt.wrapping_sub(self.rcv_nxt));
            self.rcv_nxt = rcv_nxt;
        }
    }

    /// Whether the open delivery must be closed before a request is taken: it is complete, or a
    /// handshake exchange, which the first request after it ends.
    #[inline(always)]
    pub fn yields_to_request(&self, write_seq: u32) -> bool {
        self.is_complete(write_seq)
            || (self.phase == phase::ANSWERING && self.delivery_flags & flag::HANDSHAKE != 0)
    }

    /// The server wrote. `rcv_nxt` tells of a request that no hook saw arrive (in the segment
    /// that established the session).
    #[inline(always)]
    pub fn wrote(&mut self, now_ns: u64, write_seq: u32, rcv_nxt: u32, gauges: &Gauges) {
        match self.phase {
            phase::ANSWERING => {}
            phase::ASKED => {
                self.note_filled(rcv_nxt);
                if self.tls_phase == tls::Phase::Data as u8 && self.is_tentative() {
                    // HTTP/2's control frames are answered by more of the same.
                    self.mark_busy();
                }
                self.phase = phase::ANSWERING;
                self.t_first_write_ns = now_ns;
            }
            _ => {
                let unseen = rcv_nxt.wrapping_sub(self.rcv_nxt);
                let settled = self.settled;
                let first = self.index == 0 && self.flags & flag::ADOPTED == 0;
                self.pass_late();
                self.open(now_ns, write_seq, gauges);
                self.phase = phase::ANSWERING;
                self.t_first_write_ns = now_ns;
                if unseen != 0 && self.fin_received == 0 {
                    self.request_bytes = u64::from(unseen);
                    if first {
                        self.t_request_ns = self.t_established_ns;
                        self.t_request_last_ns = self.t_established_ns;
                    } else {
                        self.delivery_flags |= flag::REQUEST_BOUNDED;
                    }
                } else if self.index == 0 && self.flags & flag::ADOPTED != 0 {
                    self.delivery_flags |= flag::REQUEST_BOUNDED;
                } else if settled != 0 {
                    self.delivery_flags |= flag::RESUMED;
                } else {
                    self.delivery_flags |= flag::UNSOLICITED;
                }
            }
        }
        self.rcv_nxt = rcv_nxt;
        self.t_last_write_ns = now_ns;
    }

    /// The first bytes of a write in answer are known; to be called right after
    /// [`Session::wrote`] opened the answer, while [`Session::wants_sniff`].
    #[inline(always)]
    pub fn sniffed(&mut self, write: tls::Write) {
        match write {
            tls::Write::Other => {
                if self.tls_phase == tls::Phase::Unknown as u8 {
                    self.tls_phase = tls::Phase::Clear as u8;
                }
            }
            tls::Write::Handshake => {
                self.flags |= flag::TLS;
                self.tls_phase = tls::Phase::Handshake as u8;
                self.delivery_flags |= flag::HANDSHAKE;
            }
            tls::Write::Data => {
                if self.tls_phase == tls::Phase::Handshake as u8
                    && tls::is_finished_flight(self.request_bytes)
                {
                    // Session tickets, in answer to the client's Finished.
                    self.delivery_flags |= flag::HANDSHAKE;
                    self.is_tls_13 = u8::from(tls::is_finished_flight_13(self.request_bytes));
                }
                self.flags |= flag::TLS;
                self.tls_phase = tls::Phase::Data as u8;
            }
        }
        self.delivery_flags |= self.flags & flag::TLS;
    }

    /// Whether the first bytes of the next answer are still of interest.
    #[inline(always)]
    pub fn wants_sniff(&self) -> bool {
        self.tls_phase == tls::Phase::Unknown as u8 || self.tls_phase == tls::Phase::Handshake as u8
    }

    /// The server closed its direction: the FIN follows the data that ends at `write_seq`.
    #[inline(always)]
    pub fn fin_queued(&mut self, write_seq: u32) {
        if self.fin_queued == 0 {
            self.fin_queued = 1;
            self.data_end_seq = write_seq;
            if self.ended == ended::OPEN {
                self.ended = ended::SERVER_FIN;
            }
        }
    }

    /// The client closed its direction.
    #[inline(always)]
    pub fn fin_received(&mut self) {
        self.fin_received = 1;
        if self.ended == ended::OPEN {
            self.ended = ended::CLIENT_FIN;
        }
    }

    /// One end reset the session; that outweighs an earlier FIN.
    #[inline(always)]
    pub fn reset(&mut self, by: u8) {
        if self.ended != ended::CLIENT_RST && self.ended != ended::SERVER_RST {
            self.ended = by;
        }
    }

    /// The kernel's count of retransmitted segments rose to `total` while the congestion state
    /// was `ca_state`.
    #[inline(always)]
    pub fn retransmitted(&mut self, total: u32, ca_state: u8, write_seq: u32) {
        let segments = total.wrapping_sub(self.retrans_seen);
        self.retrans_seen = total;
        self.session_retrans.add(segments, ca_state);
        if self.is_open() && !self.is_complete(write_seq) {
            self.delivery_retrans.add(segments, ca_state);
        }
    }

    /// Opens a delivery whose answer will begin at `write_seq`; all of its fields are set.
    #[inline(always)]
    fn open(&mut self, now_ns: u64, write_seq: u32, gauges: &Gauges) {
        self.t_request_ns = now_ns;
        self.t_request_last_ns = now_ns;
        self.t_first_write_ns = 0;
        self.t_last_write_ns = 0;
        self.t_first_acked_ns = 0;
        self.t_last_acked_ns = 0;
        self.t_progress_ns = now_ns;
        self.request_bytes = 0;
        self.acked_bytes = 0;
        self.acked_seq = write_seq;
        self.requests = 1;
        self.base_segments = gauges.segments;
        self.base_clocks = gauges.clocks;
        self.delivery_retrans = Retrans {
            fast: 0,
            rto: 0,
            tlp: 0,
        };
        self.delivery_flags =
            self.flags & (flag::ADOPTED | flag::TLS | flag::BUSY_PERIOD | flag::IPV6);
        self.settled = 0;
    }

    /// Opens the delivery that was under way when the session was adopted: bytes from `una_seq`
    /// on are outstanding.
    #[inline(always)]
    pub fn open_adopted(&mut self, now_ns: u64, una_seq: u32, gauges: &Gauges) {
        self.open(now_ns, una_seq, gauges);
        self.phase = phase::ANSWERING;
        self.t_first_write_ns = now_ns;
        self.t_last_write_ns = now_ns;
        self.delivery_flags |= flag::REQUEST_BOUNDED | flag::FIRST_WRITE_BOUNDED;
    }

    /// Bytes up to `una_seq` are acknowledged although no hook saw how: takes `now_ns` as the
    /// bound of when.
    #[inline(always)]
    pub fn catch_up(&mut self, now_ns: u64, una_seq: u32, write_seq: u32, srtt_us: u32) {
        let before = self.acked_seq;
        self.acked(now_ns, una_seq, write_seq, srtt_us);
        if self.acked_seq != before {
            self.delivery_flags |= flag::END_BOUNDED;
        }
    }

    /// Sets the flags that say how the open delivery ended. Returns whether it is worth a
    /// record: a tentative request that nobody answered is none.
    #[inline(always)]
    pub fn finish(&mut self, write_seq: u32) -> bool {
        if self.phase == phase::ASKED {
            self.delivery_flags |= flag::UNANSWERED;
            return !self.is_tentative();
        }
        if self.phase != phase::ANSWERING {
            return false;
        }
        if !self.is_complete(write_seq) && self.delivery_flags & flag::HANDSHAKE == 0 {
            self.delivery_flags |= flag::ABORTED;
        }
        true
    }

    /// Forgets the open delivery, which has been reported or is not worth it.
    #[inline(always)]
    pub fn close(&mut self) {
        self.phase = phase::IDLE;
        self.index += 1;
    }

    #[inline(always)]
    fn close_settled(&mut self) {
        self.close();
        self.settled = 1;
    }
}

impl Kept {
    /// Whether the open delivery is past its deadline, for who sees the state and not the socket:
    /// what was written is known as of the last look, and that there is more is told by the time
    /// of a write. `deadline_ns` 0 means no deadline.
    pub fn is_late(&self, now_ns: u64, deadline_ns: u64) -> bool {
        let s = &self.session;
        let (t_acked_ns, acked_seq) = if self.seen.t_acked_ns > s.t_last_acked_ns {
            (self.seen.t_acked_ns, self.seen.ack_seq)
        } else {
            (s.t_last_acked_ns, s.acked_seq)
        };
        let is_complete = s.phase == phase::ANSWERING
            && !after(s.end_seq(s.written_seq), acked_seq)
            && t_acked_ns >= s.t_last_write_ns;
        deadline_ns != 0
            && s.is_open()
            && now_ns > s.t_request_last_ns.wrapping_add(deadline_ns)
            && !is_complete
            && !s.is_tentative()
    }
}

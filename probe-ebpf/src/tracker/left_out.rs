//! Sessions that are left out to keep within the budget: only looked at now and then, without the
//! lock.

use crate::{
    drive::after,
    record::flag,
    session::{Gauges, Session, phase},
    tls,
};

use super::MAX_BUSY_CONTROL_BYTES;

impl Session {
    /// Takes the session out of those that are followed; says whether it was among them ever
    /// since it began.
    #[inline(always)]
    pub fn leave_out(&mut self) -> bool {
        let first = self.flags & flag::LEFT_OUT == 0;
        self.flags |= flag::LEFT_OUT;
        first
    }

    /// The delivery under way is not followed any further. One that is not through goes on being
    /// watched, under its own index if it was reported late.
    #[inline(always)]
    pub fn drop_delivery(&mut self, write_seq: u32) {
        let is_through = self.is_tentative()
            || self.is_complete(write_seq)
            || self.delivery_flags & flag::HANDSHAKE != 0;
        let was_late = self.late_mark == self.index + 1;
        self.t_request_ns = if is_through {
            0
        } else {
            self.t_request_last_ns
        };
        self.written_seq = write_seq;
        if was_late && !is_through {
            self.phase = phase::IDLE;
        } else {
            self.close();
        }
    }

    /// Opens what is cut off by the session's end: what is known of it is that it was late, or
    /// nothing.
    #[inline(always)]
    pub fn open_cut_off(&mut self, now_ns: u64, una_seq: u32, gauges: &Gauges) {
        if self.late_mark != self.index + 1 {
            self.open_adopted(now_ns, una_seq, gauges);
            return;
        }
        self.acked_bytes += u64::from(una_seq.wrapping_sub(self.acked_seq));
        self.acked_seq = una_seq;
        self.phase = phase::ANSWERING;
    }

    /// The next delivery is not the one that was late while the session was left out.
    #[inline(always)]
    pub(super) fn pass_late(&mut self) {
        if !self.is_open() && self.late_mark == self.index + 1 {
            self.index += 1;
        }
    }

    /// Takes notice of what a look finds: of what was asked and not answered, or answered and not
    /// acknowledged, and since when.
    #[inline(always)]
    pub fn watch(
        &mut self,
        now_ns: u64,
        una_seq: u32,
        write_seq: u32,
        rcv_nxt: u32,
        deadline_ns: u64,
    ) -> Watched {
        let end = self.end_seq(write_seq);
        let is_outstanding = after(end, una_seq);
        let asked_bytes = u64::from(rcv_nxt.wrapping_sub(self.rcv_nxt));
        let has_written = end != self.written_seq;
        self.rcv_nxt = rcv_nxt;
        self.written_seq = end;
        // Whatever follows is the rest of what was not followed.
        self.settled = 1;
        let was_waiting = self.t_request_ns != 0 && self.t_first_write_ns == 0;
        // Whether a short message asks for something can be told in clear and in one stream only: else
        // it is taken for none.
        let is_plain = self.tls_phase == tls::Phase::Clear as u8
            && self.flags & (flag::TLS | flag::BUSY_PERIOD) == 0;
        let least_bytes = if is_plain { 0 } else { MAX_BUSY_CONTROL_BYTES };
        let is_handshake =
            self.tls_phase != tls::Phase::Clear as u8 && tls::is_finished_flight(asked_bytes);
        let asks = asked_bytes > least_bytes && !is_handshake;
        let is_waiting =
            !is_outstanding && !has_written && self.fin_queued == 0 && (asks || was_waiting);
        let is_late = self.late_mark == self.index + 1;
        if !is_outstanding && !is_waiting {
            self.t_request_ns = 0;
            if !is_late {
                return Watched::Well;
            }
            self.acked_bytes += u64::from(end.wrapping_sub(self.acked_seq));
            self.acked_seq = end;
            if self.t_first_write_ns == 0 {
                self.t_first_write_ns = now_ns;
                self.t_last_write_ns = now_ns;
            }
            if self.t_first_acked_ns == 0 {
                self.t_first_acked_ns = now_ns;
            }
            self.t_last_acked_ns = now_ns;
            self.delivery_flags |= flag::LEFT_OUT | flag::END_BOUNDED;
            return Watched::Over;
        }
        if !is_late && (asked_bytes != 0 || self.t_request_ns == 0) {
            self.t_request_ns = now_ns;
            self.t_first_write_ns = 0;
        }
        if is_outstanding && self.t_first_write_ns == 0 {
            self.t_first_write_ns = now_ns;
        }
        if is_late || deadline_ns == 0 || now_ns <= self.t_request_ns.wrapping_add(deadline_ns) {
            return Watched::Well;
        }
        self.t_request_last_ns = self.t_request_ns;
        self.t_last_write_ns = self.t_first_write_ns;
        self.t_first_acked_ns = 0;
        self.t_last_acked_ns = 0;
        self.request_bytes = 0;
        self.acked_bytes = 0;
        self.acked_seq = una_seq;
        self.requests = 1;
        self.delivery_flags = self.flags & (flag::ADOPTED | flag::TLS | flag::IPV6)
            | flag::LEFT_OUT
            | flag::REQUEST_BOUNDED
            | flag::FIRST_WRITE_BOUNDED;
        self.mark_late();
        Watched::Late
    }
}

/// What a look at a session that is left out finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Nothing to report.
    Well,
    /// What it waits for is late, and was not reported so.
    Late,
    /// What was reported late has come through by now.
    Over,
}

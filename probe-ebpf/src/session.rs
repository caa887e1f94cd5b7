//! What the kernel remembers of a session: the value of the socket storage, and the record that
//! is made of it. How it changes is in [`crate::tracker`].

use bytemuck::{Pod, Zeroable};

use crate::{
    drive::{Look, Segment, after},
    record::{Delivery, Endpoints, flag},
};

/// Values of [`Session::phase`].
pub mod phase {
    /// No delivery is open.
    pub const IDLE: u8 = 0;
    /// A request has arrived and nothing was written in answer.
    pub const ASKED: u8 = 1;
    /// The server has begun to answer.
    pub const ANSWERING: u8 = 2;
    /// The session is not measured (any more): the filter leaves it out.
    pub const IGNORED: u8 = 3;
}

/// Everything the kernel remembers of one session, in the socket's own storage. What an
/// acknowledgement and the sweep look at comes first: the 56 bytes that share a cache line with what
/// finds them. Times and bytes are those of the delivery under way, as in [`Delivery`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Session {
    /// One of [`phase`].
    pub phase: u8,
    /// The server has closed its direction.
    pub fin_queued: u8,
    /// The client has closed its direction.
    pub fin_received: u8,
    /// The last delivery was closed by the quiet gap and no request has come since.
    pub settled: u8,
    /// A [`tls::Phase`].
    pub tls_phase: u8,
    /// The session speaks TLS 1.3.
    pub is_tls_13: u8,
    /// One of [`ended`]: who closed it first.
    pub ended: u8,
    /// A retransmission timeout is being made good; for those who are not told the kernel's
    /// congestion state.
    pub in_loss: u8,
    /// Acknowledged up to here; never behind the answer's start.
    pub acked_seq: u32,
    /// Generation of the filter that let it through.
    pub filter_generation: u32,
    /// Received up to here when last looked at.
    pub rcv_nxt: u32,
    /// Written up to here when last looked at.
    pub written_seq: u32,
    /// Latest acknowledgement.
    pub t_last_acked_ns: u64,
    /// First acknowledgement.
    pub t_first_acked_ns: u64,
    /// Bytes of the answer acknowledged.
    pub acked_bytes: u64,
    /// Last byte of the request.
    pub t_request_last_ns: u64,
    /// Low half: the delivery (index + 1) that the sweep has reported as settled. Then one bit:
    /// the sweep does not know of the session ([`crate::tracker::UNMARKED`]). The rest counts
    /// changes, odd while one is under way. One word, so that the sweep can settle a delivery, or
    /// turn away from a session, by compare-and-swap and lose against any change.
    pub epoch: u64,
    /// Latest write.
    pub t_last_write_ns: u64,
    /// First write in answer.
    pub t_first_write_ns: u64,
    /// First byte of the request.
    pub t_request_ns: u64,
    /// When the sweep last reported progress.
    pub t_progress_ns: u64,
    /// [`flag`] bits of the session.
    pub flags: u32,
    /// [`flag`] bits of the delivery.
    pub delivery_flags: u32,
    /// Index of the delivery under way, or of the next.
    pub index: u32,
    /// Delivery (index + 1) that was reported late.
    pub late_mark: u32,
    /// Socket cookie.
    pub cookie: u64,
    /// Who talks to whom.
    pub endpoints: Endpoints,
    /// Established, or adopted.
    pub t_established_ns: u64,
    /// Bytes of the request.
    pub request_bytes: u64,
    /// Client messages in the delivery.
    pub requests: u32,
    /// `data_segs_out` at the delivery's start.
    pub base_segments: u32,
    /// Ticks of [`Clocks`] at the delivery's start.
    pub base_clocks: Clocks,
    /// Retransmitted in this delivery.
    pub delivery_retrans: Retrans,
    /// Retransmitted in this session.
    pub session_retrans: Retrans,
    /// `total_retrans` when last looked at.
    pub retrans_seen: u32,
    /// `total_retrans` when the session was adopted.
    pub retrans_before: u32,
    /// End of the data, once a FIN is queued behind it ([`Session::fin_queued`]).
    pub data_end_seq: u32,
    /// Callbacks that were asked for to follow this session and that nobody else had asked for.
    pub callbacks: u32,
    /// Not 0: the callbacks by which it can be followed were asked for.
    pub is_called: u32,
}

/// A session's state in a table of its own, beside what was seen on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Kept {
    /// Its state; whoever changes it holds the socket's lock.
    pub session: Session,
    /// What has arrived; changed by the program that sees packets arrive, without the lock.
    pub seen: Seen,
}

/// The client's segments as they arrived: what a later look at the socket cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Seen {
    /// An acknowledgement of new bytes arrived last.
    pub t_acked_ns: u64,
    /// The first byte that no look has taken notice of arrived; 0: there is none.
    pub t_asked_ns: u64,
    /// The last of them.
    pub t_asked_last_ns: u64,
    /// Acknowledged up to here.
    pub ack_seq: u32,
    /// Bytes arrived up to here.
    pub end_seq: u32,
}

impl Seen {
    /// A segment has arrived.
    #[inline(always)]
    pub fn arrived(&mut self, segment: &Segment, now_ns: u64) {
        if segment.has_ack && after(segment.ack, self.ack_seq) {
            self.ack_seq = segment.ack;
            self.t_acked_ns = now_ns;
        }
        let end = segment.seq.wrapping_add(segment.payload);
        if segment.payload != 0 && after(end, self.end_seq) {
            self.end_seq = end;
            self.t_asked_last_ns = now_ns;
            if self.t_asked_ns == 0 {
                self.t_asked_ns = now_ns;
            }
        }
    }

    /// What a look at the socket, acknowledged up to `snd_una`, can make of it.
    #[inline(always)]
    pub fn look(&self, now_ns: u64, snd_una: u32) -> Look {
        let has_asked = self.t_asked_ns != 0;
        Look {
            now_ns,
            t_received_ns: if has_asked { self.t_asked_ns } else { now_ns },
            t_received_last_ns: if has_asked {
                self.t_asked_last_ns
            } else {
                now_ns
            },
            sees_request: has_asked,
            t_written_ns: now_ns,
            sees_writes: true,
            t_acked_ns: if self.t_acked_ns == 0 {
                now_ns
            } else {
                self.t_acked_ns
            },
            sees_ack: self.ack_seq == snd_una,
            ..Look::at(now_ns)
        }
    }
}

/// Segments retransmitted, by what made the kernel send them again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Retrans {
    /// Fast recovery.
    pub fast: u32,
    /// Retransmission timeout.
    pub rto: u32,
    /// Tail-loss probe.
    pub tlp: u32,
}

/// `tcp_sock`'s clocks (`chrono_stat`, Linux 4.10), in ticks, the running one included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Clocks {
    /// Data outstanding; the two below are parts of it.
    pub busy: u32,
    /// Limited by the client's receive window.
    pub rwnd_limited: u32,
    /// Limited by the send buffer.
    pub sndbuf_limited: u32,
}

/// What is read of the socket at a delivery's two ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// `data_segs_out`.
    pub segments: u32,
    /// The three clocks.
    pub clocks: Clocks,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
    /// Least round-trip time.
    pub min_rtt_us: u32,
    /// Congestion window.
    pub cwnd: u32,
    /// Maximum segment size.
    pub mss: u32,
    /// Send window.
    pub peer_window_bytes: u32,
    /// Latest delivery-rate sample.
    pub delivery_rate_bytes_per_s: u64,
    /// It was application-limited.
    pub rate_app_limited: bool,
}

impl Gauges {
    /// Sets the delivery rate from the kernel's latest sample of so many segments of
    /// [`Gauges::mss`]; there is none without an interval.
    #[inline(always)]
    pub fn set_delivery_rate(&mut self, segments: u32, interval_us: u32) {
        self.delivery_rate_bytes_per_s = if interval_us == 0 {
            0
        } else {
            u64::from(segments) * u64::from(self.mss) * 1_000_000 / u64::from(interval_us)
        };
    }
}

/// The kernel's least round-trip time; 0 if it has no sample.
#[inline(always)]
pub fn sampled_rtt_us(min_rtt_us: u32) -> u32 {
    if min_rtt_us == u32::MAX {
        0
    } else {
        min_rtt_us
    }
}

impl Retrans {
    /// Adds segments that the kernel sent again while its congestion state was `ca_state`
    /// (`icsk_ca_state`, enum `tcp_ca_state`). A tail-loss probe is the only retransmission made
    /// outside recovery and loss.
    #[inline(always)]
    pub fn add(&mut self, segments: u32, ca_state: u8) {
        const CA_RECOVERY: u8 = 3;
        const CA_LOSS: u8 = 4;
        if ca_state == CA_LOSS {
            self.rto += segments;
        } else if ca_state == CA_RECOVERY {
            self.fast += segments;
        } else {
            self.tlp += segments;
        }
    }
}

impl Session {
    /// End of the answer's data: `write_seq`, without the FIN if one is queued.
    #[inline(always)]
    pub fn end_seq(&self, write_seq: u32) -> u32 {
        if self.fin_queued != 0 {
            self.data_end_seq
        } else {
            write_seq
        }
    }

    /// Writes the delivery as it stands, everything but the header.
    #[inline(always)]
    pub fn fill(&self, out: &mut Delivery, write_seq: u32, gauges: &Gauges) {
        let end = self.end_seq(write_seq);
        let mut flags = self.delivery_flags;
        if gauges.rate_app_limited {
            flags |= flag::RATE_APP_LIMITED;
        }
        out.cookie = self.cookie;
        out.t_request_ns = self.t_request_ns;
        out.t_request_last_ns = self.t_request_last_ns;
        out.t_first_write_ns = self.t_first_write_ns;
        out.t_last_write_ns = self.t_last_write_ns;
        out.t_first_acked_ns = self.t_first_acked_ns;
        out.t_last_acked_ns = self.t_last_acked_ns;
        out.request_bytes = self.request_bytes;
        out.acked_bytes = self.acked_bytes;
        out.written_bytes = self.acked_bytes + u64::from(end.wrapping_sub(self.acked_seq));
        out.endpoints.copy_from(&self.endpoints);
        out.index = self.index;
        out.flags = flags;
        out.segments = gauges.segments.wrapping_sub(self.base_segments);
        out.retrans_fast = self.delivery_retrans.fast;
        out.retrans_rto = self.delivery_retrans.rto;
        out.retrans_tlp = self.delivery_retrans.tlp;
        out.srtt_us = gauges.srtt_us;
        out.min_rtt_us = gauges.min_rtt_us;
        out.cwnd = gauges.cwnd;
        out.mss = gauges.mss;
        out.peer_window_bytes = gauges.peer_window_bytes;
        out.requests = self.requests;
        out.delivery_rate_bytes_per_s = gauges.delivery_rate_bytes_per_s;
        out.busy_ticks = gauges.clocks.busy.wrapping_sub(self.base_clocks.busy);
        out.rwnd_limited_ticks = gauges
            .clocks
            .rwnd_limited
            .wrapping_sub(self.base_clocks.rwnd_limited);
        out.sndbuf_limited_ticks = gauges
            .clocks
            .sndbuf_limited
            .wrapping_sub(self.base_clocks.sndbuf_limited);
        out.ended = self.ended;
        out.reserved = 0;
        out.reserved_too = 0;
    }
}

//! The records that the programs write into the two ring buffers, byte for byte.
//!
//! Times are `CLOCK_MONOTONIC` nanoseconds (`bpf_ktime_get_ns`); 0 means "did not happen".
//! Addresses are 16 bytes in network order, IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2);
//! ports are in host order. Every record begins with a [`Header`], and its length is fixed by
//! its [`kind`].

use bytemuck::{Pod, Zeroable};

/// Version of every layout in this file; raised when one changes.
pub const ABI_VERSION: u8 = 1;

/// Values of [`Header::kind`].
pub mod kind {
    /// A session was established, or adopted: [`super::SessionStart`].
    pub const SESSION_START: u8 = 1;
    /// A session is over: [`super::SessionEnd`].
    pub const SESSION_END: u8 = 2;
    /// A delivery is over: [`super::Delivery`]. One per delivery, final.
    pub const DELIVERY_END: u8 = 3;
    /// A delivery has passed its deadline and is still open: [`super::Delivery`] as it stands.
    /// At most one per delivery; on the hot ring.
    pub const DELIVERY_LATE: u8 = 4;
    /// A delivery is under way: [`super::Delivery`] as it stands, once per progress interval.
    pub const DELIVERY_PROGRESS: u8 = 5;
}

/// Values of [`Header::backend`]: how a record was measured.
pub mod backend {
    /// Tracing programs on the kernel's own tracepoints.
    pub const EXACT: u8 = 0;
    /// Socket callbacks alone.
    pub const PORTABLE: u8 = 1;
    /// Looking at the sockets from user space, again and again.
    pub const POLLED: u8 = 2;
}

/// Bits of [`Delivery::flags`] and of the session flags, which share one space.
pub mod flag {
    /// The session was established before the daemon came; its early life is unknown.
    pub const ADOPTED: u32 = 1 << 0;
    /// The session speaks TLS (its first answer was a TLS handshake record).
    pub const TLS: u32 = 1 << 1;
    /// The exchange is a part of the TLS handshake and no delivery.
    pub const HANDSHAKE: u32 = 1 << 2;
    /// A busy period: the client sent again while the answer was outstanding (HTTP/2 or
    /// pipelining), so more than one response may be inside.
    pub const BUSY_PERIOD: u32 = 1 << 3;
    /// The server spoke without being asked; `t_request_ns` is the time of its first write.
    pub const UNSOLICITED: u32 = 1 << 4;
    /// The server went on after the answer had been acknowledged and silent for the quiet gap:
    /// the rest of an answer already reported; `t_request_ns` is the time of its first write.
    pub const RESUMED: u32 = 1 << 5;
    /// Nothing was ever written in answer.
    pub const UNANSWERED: u32 = 1 << 6;
    /// The last byte was not acknowledged: the delivery was cut off.
    pub const ABORTED: u32 = 1 << 7;
    /// It was reported as late.
    pub const LATE: u32 = 1 << 8;
    /// The end is the time of the FIN's acknowledgement or of the session's end, because no hook
    /// saw the acknowledgement itself: an upper bound.
    pub const END_BOUNDED: u32 = 1 << 9;
    /// The first write was seen only when the send call returned, or at a later look at the socket:
    /// an upper bound.
    pub const FIRST_WRITE_BOUNDED: u32 = 1 << 10;
    /// The request came before it was seen: it was under way when the session was adopted, or was
    /// found at a later look at the socket; or nobody asked, and the first write's time, a bound
    /// itself, stands for it. Its time is an upper bound.
    pub const REQUEST_BOUNDED: u32 = 1 << 11;
    /// The last delivery-rate sample was limited by the application, not by the path.
    pub const RATE_APP_LIMITED: u32 = 1 << 12;
    /// Closed by the quiet gap, not by the next request or the session's end.
    pub const SETTLED: u32 = 1 << 13;
    /// The wire is IPv6 (else IPv4, also on a v4-mapped socket).
    pub const IPV6: u32 = 1 << 14;
    /// The session was left out for a time, to keep within the budget: deliveries of that time
    /// are not reported, unless they were late or cut off.
    pub const LEFT_OUT: u32 = 1 << 15;
    /// The first acknowledgement was found together with later ones, to keep within the budget: an
    /// upper bound.
    pub const FIRST_ACKED_BOUNDED: u32 = 1 << 16;
    /// The last write was found at a later look at the socket, to keep within the budget: an upper
    /// bound.
    pub const LAST_WRITE_BOUNDED: u32 = 1 << 17;
}

/// Values of [`SessionEnd::ended`] and [`Delivery::ended`]: who ended it.
pub mod ended {
    /// Still open (late and progress records), or closed by the next request or the quiet gap.
    pub const OPEN: u8 = 0;
    /// The client closed first (FIN).
    pub const CLIENT_FIN: u8 = 1;
    /// The server closed first (FIN).
    pub const SERVER_FIN: u8 = 2;
    /// The client reset the session.
    pub const CLIENT_RST: u8 = 3;
    /// The server reset the session.
    pub const SERVER_RST: u8 = 4;
    /// The kernel gave up: retransmissions or keep-alive probes went unanswered.
    pub const TIMEOUT: u8 = 5;
    /// Ended otherwise.
    pub const OTHER: u8 = 6;
    /// The session goes on, but the filter has changed and leaves it out.
    pub const UNTRACKED: u8 = 7;
}

/// The first 16 bytes of every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// When the record was written.
    pub t_ns: u64,
    /// One of [`kind`].
    pub kind: u8,
    /// [`ABI_VERSION`] of the writer.
    pub version: u8,
    /// Length of the whole record, header included.
    pub len: u16,
    /// One of [`backend`]: what measured it.
    pub backend: u8,
    /// Zero; so is the next. No array, which the compiler would fill in a way that only privileged
    /// programs may.
    pub reserved: u8,
    /// Zero.
    pub reserved_too: u16,
}

/// The two ends of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoints {
    /// The server's own address.
    pub local_addr: [u8; 16],
    /// The client's address.
    pub remote_addr: [u8; 16],
    /// The server's port.
    pub local_port: u16,
    /// The client's port.
    pub remote_port: u16,
    /// Inode number of the session's network namespace.
    pub netns: u32,
}

impl Endpoints {
    /// Takes another's place, word by word: a copy as a whole becomes a call, in which pointers
    /// are compared, as only privileged programs may.
    #[inline(always)]
    pub fn copy_from(&mut self, from: &Self) {
        let to: &mut [u32; 10] = bytemuck::must_cast_mut(self);
        let from: &[u32; 10] = bytemuck::must_cast_ref(from);
        let mut i = 0;
        while i < 10 {
            // SAFETY: both are references; volatile, so that the words stay words.
            unsafe { core::ptr::write_volatile(&raw mut to[i], from[i]) };
            i += 1;
        }
    }

    /// The client's address is IPv4.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let words: [u32; 4] = bytemuck::must_cast(self.remote_addr);
        words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be()
    }

    /// An IPv4 address, as it lies in memory, as v4-mapped IPv6.
    #[inline(always)]
    pub fn v4_mapped(v4: u32) -> [u8; 16] {
        Self::address([0, 0, 0xffff_u32.to_be(), v4])
    }

    /// An address from its words, as they lie in memory.
    #[inline(always)]
    pub fn address(words: [u32; 4]) -> [u8; 16] {
        bytemuck::must_cast(words)
    }
}

/// A session was established or adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SessionStart {
    /// `kind` = [`kind::SESSION_START`].
    pub header: Header,
    /// The kernel's socket cookie; names the session for as long as the host is up.
    pub cookie: u64,
    /// When it reached ESTABLISHED; when it was met, if adopted.
    pub t_established_ns: u64,
    /// Who talks to whom.
    pub endpoints: Endpoints,
    /// First SYN-ACK sent to ESTABLISHED; 0 if unknown.
    pub handshake_us: u32,
    /// SYN-ACKs sent again before it was established.
    pub synack_retransmits: u32,
    /// [`flag`] bits: ADOPTED, IPV6.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// One delivery: an exchange from the request's first byte to the acknowledgement of the
/// answer's last byte. The same layout for its end, its lateness and its progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Delivery {
    /// `kind` = one of the `DELIVERY_*` kinds.
    pub header: Header,
    /// The session it belongs to.
    pub cookie: u64,
    /// First byte of the request arrived.
    pub t_request_ns: u64,
    /// Last byte of the request arrived, before the first write.
    pub t_request_last_ns: u64,
    /// The server's first write in answer.
    pub t_first_write_ns: u64,
    /// The server's last write so far.
    pub t_last_write_ns: u64,
    /// First acknowledgement of any byte of the answer.
    pub t_first_acked_ns: u64,
    /// Latest acknowledgement of a new byte of the answer; of the last byte, once it is over.
    pub t_last_acked_ns: u64,
    /// Bytes of the request.
    pub request_bytes: u64,
    /// Bytes of the answer acknowledged.
    pub acked_bytes: u64,
    /// Bytes of the answer written to the socket.
    pub written_bytes: u64,
    /// Who talks to whom.
    pub endpoints: Endpoints,
    /// Counts deliveries of the session from 0.
    pub index: u32,
    /// [`flag`] bits.
    pub flags: u32,
    /// Data segments sent, retransmissions included.
    pub segments: u32,
    /// Segments retransmitted in fast recovery.
    pub retrans_fast: u32,
    /// Segments retransmitted after a timeout.
    pub retrans_rto: u32,
    /// Segments retransmitted as tail-loss probes (RFC 8985, 7).
    pub retrans_tlp: u32,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
    /// Least round-trip time in the kernel's window (5 minutes by default).
    pub min_rtt_us: u32,
    /// Congestion window, in segments.
    pub cwnd: u32,
    /// Maximum segment size.
    pub mss: u32,
    /// The client's receive window.
    pub peer_window_bytes: u32,
    /// Client messages: 1, or more in a busy period.
    pub requests: u32,
    /// The kernel's latest delivery-rate sample; see [`flag::RATE_APP_LIMITED`].
    pub delivery_rate_bytes_per_s: u64,
    /// Time with data outstanding, in kernel ticks ([`crate`] users convert by the tick rate).
    pub busy_ticks: u32,
    /// Of that, limited by the client's receive window.
    pub rwnd_limited_ticks: u32,
    /// Of that, limited by the send buffer.
    pub sndbuf_limited_ticks: u32,
    /// One of [`ended`].
    pub ended: u8,
    /// Zero.
    pub reserved: u8,
    /// Zero.
    pub reserved_too: u16,
}

/// A session is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SessionEnd {
    /// `kind` = [`kind::SESSION_END`].
    pub header: Header,
    /// The session.
    pub cookie: u64,
    /// When it reached ESTABLISHED, or was adopted.
    pub t_established_ns: u64,
    /// Bytes received from the client since it was established (kernel's own count).
    pub received_bytes: u64,
    /// Bytes acknowledged by the client since it was established (kernel's own count).
    pub acked_bytes: u64,
    /// Who talked to whom.
    pub endpoints: Endpoints,
    /// Deliveries reported.
    pub deliveries: u32,
    /// [`flag`] bits: ADOPTED, TLS, `BUSY_PERIOD` (ever), IPV6, `LEFT_OUT`.
    pub flags: u32,
    /// Data segments sent, retransmissions included (kernel's own count).
    pub segments: u32,
    /// Segments retransmitted in fast recovery, seen as they happened.
    pub retrans_fast: u32,
    /// Segments retransmitted after a timeout, likewise.
    pub retrans_rto: u32,
    /// Segments retransmitted as tail-loss probes, likewise.
    pub retrans_tlp: u32,
    /// Retransmitted before the session was adopted (kernel's own count then).
    pub retrans_before: u32,
    /// The kernel's own total at the end; equals the sum of the four above.
    pub retrans_total: u32,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
    /// Least round-trip time in the kernel's window.
    pub min_rtt_us: u32,
    /// One of [`ended`].
    pub ended: u8,
    /// Zero.
    pub reserved: u8,
    /// Zero.
    pub reserved_too: u16,
    /// Zero.
    pub reserved_as_well: u32,
}

//! What to do when something happens to a session: the order of the tracker's steps, and when a
//! record is due. The kernel programs call these with a [`Host`] that reads the socket and writes
//! to the rings; tests and replays call them with one of their own.

mod sweep;

use crate::{
    record::{ended, flag},
    session::{Gauges, Session, phase},
    settings::Settings,
    tracker::{EPOCH_STEP, UNMARKED},
};
pub use sweep::{rested, swept, untracked, watched};

/// What the steps need of the socket they run on, and where their records go.
pub trait Host {
    /// Next sequence number to be written.
    fn write_seq(&self) -> u32;
    /// Oldest sequence number that is not acknowledged.
    fn snd_una(&self) -> u32;
    /// Next sequence number to be sent.
    fn snd_nxt(&self) -> u32;
    /// Next sequence number expected of the client.
    fn rcv_nxt(&self) -> u32;
    /// Smoothed round-trip time.
    fn srtt_us(&self) -> u32;
    /// The kernel's count of segments sent again.
    fn total_retrans(&self) -> u32;
    /// When bytes were last acknowledged, one way or another; 0: not told.
    fn delivered_ns(&self) -> u64 {
        0
    }
    /// Congestion state (enum `tcp_ca_state`).
    fn ca_state(&self) -> u8;
    /// The socket's pending error.
    fn error(&self) -> i32;
    /// The socket's TCP state: the one before, while it changes.
    fn tcp_state(&self) -> u8;
    /// What describes a delivery's two ends.
    fn gauges(&self, out: &mut Gauges);

    /// Adds to [`Session::epoch`] and returns what it was; atomic.
    fn add_epoch(&mut self, s: &mut Session, n: u64) -> u64;
    /// Sets [`Session::epoch`] if it is `expected`; says whether it was; atomic.
    fn swap_epoch(&mut self, s: &mut Session, expected: u64, new: u64) -> bool;
    /// Marks the session as one that the sweep has to look at; says whether it will. It may be
    /// marked already.
    fn mark(&mut self) -> bool;
    /// Takes the mark away, if there is one.
    fn unmark(&mut self);

    /// Writes the record of the open delivery's end; what was written in answer ends at
    /// `write_seq`.
    fn delivery_end(&mut self, s: &Session, write_seq: u32, now_ns: u64);
    /// The same for a delivery that the sweep would settle. The record counts only if, once it is
    /// written, [`Host::swap_epoch`] from `expected` to `new` succeeds.
    fn delivery_settled(&mut self, s: &mut Session, now_ns: u64, expected: u64, new: u64);
    /// Writes the record of the open delivery's lateness.
    fn delivery_late(&mut self, s: &Session, now_ns: u64);
    /// Writes the record of the open delivery's progress.
    fn delivery_progress(&mut self, s: &Session, now_ns: u64);
    /// Writes the record of the session's end.
    fn session_end(&mut self, s: &Session, now_ns: u64, ended: u8, fin_acked: bool);
}

/// The parts of a segment that matter.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledged up to here.
    pub ack: u32,
    /// It acknowledges. A reset does not, whatever its flag says: the kernel takes no notice of
    /// the number in it (RFC 9293, 3.10.7.4).
    pub has_ack: bool,
    /// Bytes of payload.
    pub payload: u32,
}

impl Segment {
    /// Takes the fields from a TCP header (RFC 9293, 3.1); `len` counts header and payload.
    #[inline(always)]
    pub fn parse(header: &[u8; 20], len: u32) -> Self {
        let header_len = u32::from(header[12] >> 4) * 4;
        Self::new(
            u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            header[13],
            len.saturating_sub(header_len),
        )
    }

    /// With the header's flags and the payload's bytes; what a reset carries is none.
    #[inline(always)]
    pub fn new(seq: u32, ack: u32, flags: u8, payload: u32) -> Self {
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;
        let reset = flags & RST != 0;
        Self {
            seq,
            ack,
            has_ack: flags & ACK != 0 && !reset,
            payload: if reset { 0 } else { payload },
        }
    }
}

/// What `inet_sock_set_state` says (`include/net/tcp_states.h`).
pub mod state {
    #![allow(missing_docs, reason = "the kernel's own names")]
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
}

/// Whether sequence number `a` comes after `b` (RFC 9293, 3.4).
#[inline(always)]
pub fn after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() < 0
}

/// Begins a change of a session's state, so that the sweep keeps off it (see
/// [`Session::epoch`]); [`end_change`] ends it. No closure in between: the compiler makes a
/// function of it, and the verifier refuses one that returns nothing.
#[inline(always)]
fn begin_change<H: Host>(host: &mut H, s: &mut Session) {
    let before = host.add_epoch(s, EPOCH_STEP);
    s.changing(before);
}

#[inline(always)]
fn end_change<H: Host>(host: &mut H, s: &mut Session) {
    let before = host.add_epoch(s, EPOCH_STEP);
    show(host, s, before.wrapping_add(EPOCH_STEP));
}

/// Sees to it that the sweep looks at the session, whose epoch is `epoch`, if something is open.
#[inline(always)]
pub fn show<H: Host>(host: &mut H, s: &mut Session, epoch: u64) {
    if epoch & UNMARKED != 0 && s.is_open() && host.mark() {
        // If that fails, the sweep has been here meanwhile, and the mark is there all the same.
        host.swap_epoch(s, epoch, epoch & !UNMARKED);
    }
}

/// A segment of the client has arrived and is about to be processed.
#[inline(always)]
pub fn segment<H: Host>(
    host: &mut H,
    s: &mut Session,
    settings: &Settings,
    now_ns: u64,
    segment: Segment,
) {
    let write_seq = host.write_seq();
    let una = host.snd_una();
    let is_new = segment.has_ack && after(segment.ack, una) && !after(segment.ack, host.snd_nxt());
    // The kernel skips a program that interrupts itself on a CPU, so that an acknowledgement may
    // have gone unseen.
    if is_new || after(una, s.acked_seq) {
        let begins_answer = s.phase == phase::ASKED;
        if begins_answer {
            begin_change(host, s);
        }
        if is_new {
            s.acked(now_ns, segment.ack, write_seq, host.srtt_us());
        } else {
            s.catch_up(now_ns, una, write_seq, host.srtt_us());
        }
        if begins_answer {
            end_change(host, s);
        }
    }
    if segment.payload != 0 {
        let expected = host.rcv_nxt();
        let end = segment.seq.wrapping_add(segment.payload);
        // Old bytes (a retransmission, a probe) ask nothing; bytes after a hole ask when it is
        // filled. Bytes that were counted and are still expected come a second time: another agent
        // has asked for header callbacks too, or the kernel could not keep the segment.
        if !after(segment.seq, expected) && after(end, expected) && after(end, s.rcv_nxt) {
            let bytes = u64::from(end.wrapping_sub(expected));
            begin_change(host, s);
            s.note_filled(expected);
            s.note_control(bytes);
            if s.yields_to_request(write_seq) {
                close(host, s, write_seq, now_ns);
            }
            let mut gauges = Gauges::default();
            host.gauges(&mut gauges);
            s.requested(now_ns, bytes, write_seq, &gauges);
            s.rcv_nxt = end;
            end_change(host, s);
        }
    }
    s.written_seq = write_seq;
    if s.is_late(now_ns, write_seq, settings.deadline_ns) {
        s.mark_late();
        host.delivery_late(s, now_ns);
    }
}

/// Reports the open delivery, if it is worth a record, and forgets it.
#[inline(always)]
fn close<H: Host>(host: &mut H, s: &mut Session, write_seq: u32, now_ns: u64) {
    if s.finish(write_seq) {
        host.delivery_end(s, write_seq, now_ns);
    }
    s.close();
}

/// The server has written bytes that begin at `write_seq`. Returns whether it is the first write
/// in answer to a request.
#[inline(always)]
pub fn wrote<H: Host>(host: &mut H, s: &mut Session, now_ns: u64, write_seq: u32) -> bool {
    if s.phase == phase::ANSWERING && !s.is_complete(write_seq) {
        s.t_last_write_ns = now_ns;
        return false;
    }
    begin_change(host, s);
    let first = s.phase != phase::ANSWERING;
    let mut gauges = Gauges::default();
    if s.phase == phase::IDLE {
        host.gauges(&mut gauges);
    }
    s.wrote(now_ns, write_seq, host.rcv_nxt(), &gauges);
    end_change(host, s);
    first
}

/// When things happened that a look at a socket finds done: each the time of the latest of its
/// kind, or that of the look where it cannot be told.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says of one time whether it is a bound"
)]
pub struct Look {
    /// Of the look.
    pub now_ns: u64,
    /// The first new byte of the client arrived.
    pub t_received_ns: u64,
    /// The last did.
    pub t_received_last_ns: u64,
    /// These two are no bounds.
    pub sees_request: bool,
    /// The server wrote.
    pub t_written_ns: u64,
    /// There is a look whenever a write begins: what is found written belongs to the answer that
    /// is under way.
    pub sees_writes: bool,
    /// The acknowledgement of the last byte that is acknowledged arrived.
    pub t_acked_ns: u64,
    /// That is no bound.
    pub sees_ack: bool,
    /// Nor is it, if it is the first of the answer.
    pub sees_first_ack: bool,
    /// Nor is the time of the last write, if it wrote more to an answer that is under way.
    pub sees_last_write: bool,
    /// Received up to here, where that is not what the socket says.
    pub received_seq: Option<u32>,
}

impl Look {
    /// A look that tells what is, and nothing of when it came to be.
    #[inline(always)]
    pub fn at(now_ns: u64) -> Self {
        Self {
            now_ns,
            t_received_ns: now_ns,
            t_received_last_ns: now_ns,
            sees_request: false,
            t_written_ns: now_ns,
            sees_writes: false,
            t_acked_ns: now_ns,
            sees_ack: false,
            sees_first_ack: true,
            sees_last_write: true,
            received_seq: None,
        }
    }
}

/// Looks at the socket as it stands and catches up with all that happened to it since the look
/// before: for those who are not called for every segment and every write. What came between two
/// looks is put into the order request, answer, acknowledgement; a request found together with
/// more of an answer that was not through makes a busy period of it. Times that are not those of
/// the event are marked as bounds.
///
/// A FIN is in none of the host's sequence numbers here; a change of state is told
/// ([`state_changed`]) after the look that finds it.
#[inline(always)]
pub fn looked<H: Host>(host: &mut H, s: &mut Session, settings: &Settings, look: &Look) {
    let write_seq = s.end_seq(host.write_seq());
    let una = host.snd_una();
    let rcv_nxt = match look.received_seq {
        Some(seq) => seq,
        None => host.rcv_nxt(),
    };
    let mut before = s.written_seq;
    let has_asked = s.fin_received == 0 && after(rcv_nxt, s.rcv_nxt);
    let mut has_written = after(write_seq, before);
    let mut t_written_ns = look.t_written_ns;
    if has_written && after(una, before) {
        // Some of it is acknowledged already, and was written a round trip before at the latest.
        let bound = look
            .t_acked_ns
            .saturating_sub(u64::from(host.srtt_us()) * 1000);
        if bound < t_written_ns {
            t_written_ns = bound;
        }
    }
    begin_change(host, s);
    if has_written && look.sees_writes && s.phase == phase::ANSWERING {
        if s.t_last_write_ns < t_written_ns {
            s.t_last_write_ns = t_written_ns;
        }
        if !look.sees_last_write {
            s.delivery_flags |= flag::LAST_WRITE_BOUNDED;
        }
        s.written_seq = write_seq;
        before = write_seq;
        has_written = false;
    }
    // Where the answer before ends among what was written since cannot be told.
    let is_mixed = has_asked && has_written && s.is_open() && s.acked_seq != before;
    // Of what had been written at the look before.
    found_acked(
        host,
        s,
        look,
        if after(una, before) { before } else { una },
        before,
    );
    let mut t_next_ns = look.now_ns;
    if has_written && t_written_ns < t_next_ns {
        t_next_ns = t_written_ns;
    }
    if has_asked && look.t_received_ns < t_next_ns {
        t_next_ns = look.t_received_ns;
    }
    if s.is_settled(t_next_ns, before, settings.quiet_gap_ns) {
        s.delivery_flags |= flag::SETTLED;
        close(host, s, before, look.now_ns);
        s.settled = 1;
    }
    if has_asked {
        let bytes = u64::from(rcv_nxt.wrapping_sub(s.rcv_nxt));
        s.note_control(bytes);
        if !is_mixed && s.yields_to_request(before) {
            close(host, s, before, look.now_ns);
        }
        let mut gauges = Gauges::default();
        host.gauges(&mut gauges);
        if s.requested(look.t_received_ns, bytes, before, &gauges) && !look.sees_request {
            s.delivery_flags |= flag::REQUEST_BOUNDED;
        }
        if s.phase == phase::ASKED {
            s.t_request_last_ns = look.t_received_last_ns;
        }
        s.rcv_nxt = rcv_nxt;
    }
    if has_written {
        let phase_before = s.phase;
        if phase_before == phase::ASKED && t_written_ns < s.t_request_last_ns {
            t_written_ns = s.t_request_last_ns;
        }
        let mut gauges = Gauges::default();
        if phase_before == phase::IDLE {
            host.gauges(&mut gauges);
        }
        s.wrote(t_written_ns, before, rcv_nxt, &gauges);
        if phase_before != phase::ANSWERING {
            s.delivery_flags |= flag::FIRST_WRITE_BOUNDED;
        }
        if phase_before == phase::IDLE {
            // Nobody asked for it, and the first write's time stands for a request's.
            s.delivery_flags |= flag::REQUEST_BOUNDED;
        }
        s.written_seq = write_seq;
        found_acked(host, s, look, una, write_seq);
    }
    end_change(host, s);
    if s.is_late(look.now_ns, write_seq, settings.deadline_ns) {
        s.mark_late();
        host.delivery_late(s, look.now_ns);
    }
}

#[inline(always)]
fn found_acked<H: Host>(host: &H, s: &mut Session, look: &Look, una: u32, end: u32) {
    if !look.sees_first_ack && s.t_first_acked_ns == 0 && s.is_open() && after(una, s.acked_seq) {
        s.delivery_flags |= flag::FIRST_ACKED_BOUNDED;
    }
    if look.sees_ack {
        s.acked(look.t_acked_ns, una, end, host.srtt_us());
    } else {
        s.catch_up(look.t_acked_ns, una, end, host.srtt_us());
    }
}

/// A segment was sent again.
#[inline(always)]
pub fn retransmitted<H: Host>(host: &H, s: &mut Session) {
    s.retransmitted(host.total_retrans(), host.ca_state(), host.write_seq());
}

/// The session goes from one TCP state to `new`; the socket's fields are those before.
#[inline(always)]
pub fn state_changed<H: Host>(host: &mut H, s: &mut Session, now_ns: u64, new: u8) {
    begin_change(host, s);
    match new {
        state::FIN_WAIT1 | state::LAST_ACK => s.fin_queued(host.write_seq()),
        state::CLOSE_WAIT | state::CLOSING => s.fin_received(),
        state::FIN_WAIT2 => catch_up(host, s, now_ns),
        state::CLOSE => closed(host, s, now_ns),
        _ => {}
    }
    end_change(host, s);
}

#[inline(always)]
fn catch_up<H: Host>(host: &H, s: &mut Session, now_ns: u64) {
    s.catch_up(now_ns, host.snd_una(), host.write_seq(), host.srtt_us());
}

/// The socket is closed.
#[inline(always)]
fn closed<H: Host>(host: &mut H, s: &mut Session, now_ns: u64) {
    const ETIMEDOUT: i32 = 110;
    catch_up(host, s, now_ns);
    retransmitted(host, s);
    if host.error() == ETIMEDOUT {
        s.ended = ended::TIMEOUT;
    } else if host.error() == 0
        && matches!(host.tcp_state(), state::ESTABLISHED | state::CLOSE_WAIT)
    {
        // The server gave it up in the midst of things: the reset is sent after this.
        s.reset(ended::SERVER_RST);
    } else if s.ended == ended::OPEN {
        s.ended = ended::OTHER;
    }
    session_ended(host, s, now_ns);
}

/// The session is over, and [`Session::ended`] says how: reports its last delivery, and itself.
#[inline(always)]
pub fn session_ended<H: Host>(host: &mut H, s: &mut Session, now_ns: u64) {
    if !s.is_open() && s.flags & flag::LEFT_OUT != 0 {
        if after(s.end_seq(host.write_seq()), host.snd_una()) {
            // Nothing was known of it but that it is cut off.
            let mut gauges = Gauges::default();
            host.gauges(&mut gauges);
            s.open_cut_off(now_ns, host.snd_una(), &gauges);
        } else {
            sweep::watch(host, s, now_ns, 0);
        }
    }
    if s.is_open() {
        close(host, s, host.write_seq(), now_ns);
    }
    let una = host.snd_una();
    let fin_acked = s.fin_queued != 0 && una == host.write_seq() && una != s.data_end_seq;
    host.session_end(s, now_ns, s.ended, fin_acked);
    s.phase = phase::IGNORED;
}

//! What a delivery is, said a second time: from packets alone, in code that weir does not share.
//!
//! A delivery begins with the first client payload that is new and in order while nothing is
//! outstanding, and is over with the first client acknowledgement that covers the last byte the
//! server sent before the next delivery began, the connection ended, or it fell silent for the
//! quiet gap. Client payload while something is outstanding belongs to the delivery under way
//! and makes it a busy period. In TLS only application data asks; handshake and alerts do not. In
//! HTTP/2 the connection preface, HEADERS and DATA ask; frames that only steer the connection do
//! not.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::dissect::{Packet, flag};

/// TLS content types (RFC 8446, 5.1).
const TLS_ALERT: u8 = 21;
const TLS_APPLICATION_DATA: u8 = 23;
/// HTTP/2 frame types (RFC 9113, 6).
const HTTP2_DATA: u8 = 0;
const HTTP2_HEADERS: u8 = 1;

/// What the server sends so soon after a request's packet may have been written before TCP took it:
/// packets are captured below TCP, which lays by what comes in the midst of a write.
const CROSSING_NS: u64 = 1_000_000;

/// What is asked of the witness.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Everything acknowledged and nothing sent for so long: the delivery is over.
    pub quiet_gap_ns: u64,
    /// What the sessions speak.
    pub protocol: Protocol,
}

/// What sessions speak, as far as it decides what asks for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Anything in clear: every byte asks.
    Clear,
    /// HTTP/1.1 in TLS.
    Tls,
    /// HTTP/2 in TLS.
    Http2,
}

/// How a delivery came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One request, one answer.
    Exchange,
    /// The client sent again while the answer was outstanding.
    BusyPeriod,
    /// The server spoke unasked.
    Unsolicited,
    /// The server went on after the quiet gap.
    Resumed,
}

/// How far a delivery came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Every byte that was sent was acknowledged. (What was written and never sent, packets do
    /// not show.)
    Complete,
    /// The connection ended before.
    Aborted,
    /// Nothing was ever sent in answer.
    Unanswered,
}

/// A delivery as the packets show it. Times are Unix nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Witnessed {
    /// The server's end.
    pub server: SocketAddr,
    /// The client's end.
    pub client: SocketAddr,
    /// How it came about.
    pub kind: Kind,
    /// How far it came.
    pub phase: Phase,
    /// The request's first packet; the answer's, if nobody asked.
    pub request_ns: u64,
    /// The answer's first packet.
    pub first_sent_ns: Option<u64>,
    /// The first acknowledgement of any byte of the answer.
    pub first_acked_ns: Option<u64>,
    /// The last acknowledgement of a new byte of the answer.
    pub last_acked_ns: Option<u64>,
    /// Bytes of the answer acknowledged.
    pub acked_bytes: u64,
    /// Bytes of the answer sent.
    pub sent_bytes: u64,
    /// New client payload, in bytes.
    pub request_bytes: u64,
    /// Bytes of the answer's first packet, if it may have crossed the request.
    pub crossing_bytes: u64,
}

/// A connection as the packets show it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The server's end.
    pub server: SocketAddr,
    /// The client's end.
    pub client: SocketAddr,
    /// In order.
    pub deliveries: Vec<Witnessed>,
    /// The first SYN-ACK.
    pub begun_ns: u64,
    /// Bytes of the server's acknowledged, TLS handshakes and alerts included.
    pub acked_bytes: u64,
    /// Data and FIN segments that the server sent more than once, matched by sequence range.
    pub retransmitted: u64,
    /// SYN-ACKs beyond the first.
    pub synack_retransmitted: u64,
}

/// Reads connections from packets; `is_server` tells which end serves.
pub fn connections(
    packets: &[Packet],
    rules: Rules,
    is_server: impl Fn(SocketAddr) -> bool,
) -> Vec<Connection> {
    let mut streams: BTreeMap<u32, Stream> = BTreeMap::new();
    for packet in packets {
        let from_server = is_server(packet.source);
        let (server, client) = if from_server {
            (packet.source, packet.destination)
        } else if is_server(packet.destination) {
            (packet.destination, packet.source)
        } else {
            continue;
        };
        let stream = streams
            .entry(packet.stream)
            .or_insert_with(|| Stream::new(server, client, rules));
        if from_server {
            stream.server_packet(packet);
        } else {
            stream.client_packet(packet);
        }
    }
    streams.into_values().map(Stream::finish).collect()
}

struct Open {
    kind: Kind,
    request_ns: u64,
    request_bytes: u64,
    first_sent_ns: Option<u64>,
    first_acked_ns: Option<u64>,
    last_acked_ns: Option<u64>,
    crossing_bytes: u64,
    /// Before the answer's first byte.
    start: i64,
    /// After the answer's last byte so far.
    end: i64,
}

struct Stream {
    connection: Connection,
    rules: Rules,
    /// First sequence number after the SYN, per side.
    server_base: Option<u32>,
    client_base: Option<u32>,
    synacks: u64,
    /// Next byte expected from the client, and what came beyond it.
    client_next: i64,
    beyond: Vec<(i64, i64)>,
    /// After the last byte the server has sent.
    server_next: i64,
    fin_sent: bool,
    acked: i64,
    reset: bool,
    open: Option<Open>,
}

/// Distance on the circle of sequence numbers; right for connections of less than 2 GiB.
fn distance(seq: u32, base: u32) -> i64 {
    i64::from(seq.wrapping_sub(base).cast_signed())
}

impl Stream {
    fn new(server: SocketAddr, client: SocketAddr, rules: Rules) -> Self {
        Self {
            connection: Connection {
                server,
                client,
                deliveries: Vec::new(),
                begun_ns: 0,
                acked_bytes: 0,
                retransmitted: 0,
                synack_retransmitted: 0,
            },
            rules,
            server_base: None,
            client_base: None,
            synacks: 0,
            client_next: 0,
            beyond: Vec::new(),
            server_next: 0,
            fin_sent: false,
            acked: 0,
            reset: false,
            open: None,
        }
    }

    fn client_packet(&mut self, packet: &Packet) {
        if packet.flags & flag::SYN != 0 {
            self.client_base = Some(packet.seq.wrapping_add(1));
            return;
        }
        if packet.flags & flag::RST != 0 {
            // A reset acknowledges nothing (RFC 9293, 3.10.7.4): the connection is gone.
            if !self.reset {
                self.reset = true;
                self.close();
            }
            return;
        }
        let (Some(server_base), Some(client_base)) = (self.server_base, self.client_base) else {
            return;
        };
        // The acknowledgement comes before the payload: a request says that all before it came.
        let ack = distance(packet.ack, server_base).min(self.server_next);
        if ack > self.acked {
            let before = std::mem::replace(&mut self.acked, ack);
            if let Some(open) = &mut self.open
                && ack > open.start
                // What comes after the end is an alert, not the answer.
                && before < open.end
            {
                open.first_acked_ns.get_or_insert(packet.unix_ns);
                open.last_acked_ns = Some(packet.unix_ns);
            }
        }
        if packet.len > 0 {
            let start = distance(packet.seq, client_base);
            let new = self.receive(start, start + i64::from(packet.len));
            if new > 0 {
                self.request(packet, new);
            }
        }
    }

    /// Takes a piece of the client's stream; returns how many bytes came into order by it.
    fn receive(&mut self, start: i64, end: i64) -> u64 {
        self.beyond.push((start, end));
        self.beyond.sort_unstable();
        let before = self.client_next;
        for (start, end) in &self.beyond {
            if *start <= self.client_next {
                self.client_next = self.client_next.max(*end);
            }
        }
        self.beyond.retain(|(_, end)| *end > self.client_next);
        (self.client_next - before).unsigned_abs()
    }

    /// Whether a packet asks for something by itself.
    fn asks(&self, packet: &Packet) -> bool {
        match self.rules.protocol {
            Protocol::Clear => true,
            Protocol::Tls => packet.tls.contains(&TLS_APPLICATION_DATA),
            Protocol::Http2 => {
                packet.http2_preface
                    || packet
                        .http2
                        .iter()
                        .any(|kind| [HTTP2_DATA, HTTP2_HEADERS].contains(kind))
            }
        }
    }

    fn request(&mut self, packet: &Packet, bytes: u64) {
        let asks = self.asks(packet);
        if let Some(open) = &mut self.open {
            let answered = open.end > open.start;
            if !answered || self.acked < open.end {
                open.request_bytes += bytes;
                if asks && answered && open.kind == Kind::Exchange {
                    open.kind = Kind::BusyPeriod;
                }
                return;
            }
        }
        if asks {
            self.close();
            self.begin(Kind::Exchange, packet.unix_ns, bytes);
        }
    }

    fn begin(&mut self, kind: Kind, now_ns: u64, request_bytes: u64) {
        self.open = Some(Open {
            kind,
            request_ns: now_ns,
            request_bytes,
            first_sent_ns: None,
            first_acked_ns: None,
            last_acked_ns: None,
            crossing_bytes: 0,
            start: self.server_next,
            end: self.server_next,
        });
    }

    fn server_packet(&mut self, packet: &Packet) {
        if packet.flags & flag::SYN != 0 {
            self.server_base = Some(packet.seq.wrapping_add(1));
            if self.synacks == 0 {
                self.connection.begun_ns = packet.unix_ns;
            }
            self.synacks += 1;
            return;
        }
        let Some(server_base) = self.server_base else {
            return;
        };
        if packet.flags & flag::RST != 0 {
            self.close();
            return;
        }
        let start = distance(packet.seq, server_base);
        let end = start + i64::from(packet.len);
        let fin = packet.flags & flag::FIN != 0;
        if packet.len > 0 && start < self.server_next || packet.len == 0 && fin && self.fin_sent {
            self.connection.retransmitted += 1;
        }
        self.fin_sent |= fin;
        // After a reset only what had been queued below TCP still comes out.
        if packet.len == 0 || end <= self.server_next || self.reset {
            return;
        }
        let quiet = self.open.as_ref().is_some_and(|open| {
            open.end > open.start
                && self.acked >= open.end
                && open.last_acked_ns.is_some_and(|acked_ns| {
                    packet.unix_ns.saturating_sub(acked_ns) > self.rules.quiet_gap_ns
                })
        });
        let clear = self.rules.protocol == Protocol::Clear;
        if clear && (quiet || self.open.is_none()) {
            let kind = if quiet {
                Kind::Resumed
            } else {
                Kind::Unsolicited
            };
            self.close();
            self.begin(kind, packet.unix_ns, 0);
        }
        self.server_next = end;
        let alert = !packet.tls.is_empty() && packet.tls.iter().all(|kind| *kind == TLS_ALERT);
        if let Some(open) = &mut self.open
            && !alert
        {
            let is_soon = packet.unix_ns.saturating_sub(open.request_ns) <= CROSSING_NS;
            if open.first_sent_ns.is_none() && is_soon {
                open.crossing_bytes = u64::from(packet.len);
            }
            open.first_sent_ns.get_or_insert(packet.unix_ns);
            open.end = end;
        }
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let acked = self.acked.min(open.end);
        let phase = if open.end == open.start {
            Phase::Unanswered
        } else if acked < open.end {
            Phase::Aborted
        } else {
            Phase::Complete
        };
        self.connection.deliveries.push(Witnessed {
            server: self.connection.server,
            client: self.connection.client,
            kind: open.kind,
            phase,
            request_ns: open.request_ns,
            first_sent_ns: open.first_sent_ns,
            first_acked_ns: open.first_acked_ns,
            last_acked_ns: open.last_acked_ns,
            acked_bytes: (acked - open.start).max(0).unsigned_abs(),
            sent_bytes: (open.end - open.start).unsigned_abs(),
            request_bytes: open.request_bytes,
            crossing_bytes: open.crossing_bytes,
        });
    }

    fn finish(mut self) -> Connection {
        self.close();
        self.connection.acked_bytes = self.acked.unsigned_abs();
        self.connection.synack_retransmitted = self.synacks.saturating_sub(1);
        self.connection
    }
}

#[cfg(test)]
mod tests;

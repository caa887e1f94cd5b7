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

use serde::Serialize;

use super::dissect::{Packet, flag};

/// TLS content types (RFC 8446, 5.1).
const TLS_ALERT: u8 = 21;
const TLS_APPLICATION_DATA: u8 = 23;
/// HTTP/2 frame types (RFC 9113, 6).
const HTTP2_DATA: u8 = 0;
const HTTP2_HEADERS: u8 = 1;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
            start: self.server_next,
            end: self.server_next,
        });
    }

    fn server_packet(&mut self, packet: &Packet) {
        if packet.flags & flag::SYN != 0 {
            self.server_base = Some(packet.seq.wrapping_add(1));
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
        });
    }

    fn finish(mut self) -> Connection {
        self.close();
        self.connection.synack_retransmitted = self.synacks.saturating_sub(1);
        self.connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Rules = Rules {
        quiet_gap_ns: 500_000_000,
        protocol: Protocol::Clear,
    };
    const TLS: Rules = Rules {
        protocol: Protocol::Tls,
        ..GAP
    };

    /// Builds a capture packet by packet; sequence numbers start just before they wrap.
    struct Script {
        packets: Vec<Packet>,
    }

    const BASE: u32 = u32::MAX - 500;

    impl Script {
        fn new() -> Self {
            let mut script = Self {
                packets: Vec::new(),
            };
            script.client(0, 0, 0, 0).flags = flag::SYN;
            script.packets[0].seq = BASE.wrapping_sub(1);
            script.server(0, 0, 0).flags = flag::SYN | flag::ACK;
            script.packets[1].seq = BASE.wrapping_sub(1);
            script
        }

        fn packet(&mut self, ms: u64, down: bool, seq: u32, len: u32, ack: u32) -> &mut Packet {
            let (server, client) = (
                "10.0.0.1:80".parse().unwrap(),
                "10.0.0.2:4000".parse().unwrap(),
            );
            let (source, destination) = if down {
                (server, client)
            } else {
                (client, server)
            };
            self.packets.push(Packet {
                unix_ns: ms * 1_000_000,
                stream: 0,
                source,
                destination,
                seq: BASE.wrapping_add(seq),
                ack: BASE.wrapping_add(ack),
                len,
                flags: flag::ACK,
                tls: Vec::new(),
                http2: Vec::new(),
                http2_preface: false,
            });
            self.packets.last_mut().unwrap()
        }

        fn client(&mut self, ms: u64, seq: u32, len: u32, ack: u32) -> &mut Packet {
            self.packet(ms, false, seq, len, ack)
        }

        fn server(&mut self, ms: u64, seq: u32, len: u32) -> &mut Packet {
            self.packet(ms, true, seq, len, 0)
        }

        fn read(&self, rules: Rules) -> Connection {
            let mut all = connections(&self.packets, rules, |end| end.port() == 80);
            assert_eq!(all.len(), 1);
            all.remove(0)
        }
    }

    fn ms(ns: Option<u64>) -> Option<u64> {
        ns.map(|ns| ns / 1_000_000)
    }

    #[test]
    fn requests_and_answers_across_the_wrap_of_sequence_numbers() {
        let mut s = Script::new();
        s.client(10, 0, 100, 0);
        s.server(12, 0, 1000);
        s.server(13, 1000, 1000);
        s.client(50, 100, 0, 1000);
        s.client(51, 100, 0, 2000);
        s.client(90, 100, 100, 2000);
        s.server(91, 2000, 10);
        s.client(130, 200, 0, 2010);
        let c = s.read(GAP);
        let [first, second] = &c.deliveries[..] else {
            panic!("{:?}", c.deliveries)
        };
        assert_eq!((first.kind, first.phase), (Kind::Exchange, Phase::Complete));
        assert_eq!(first.request_ns, 10_000_000);
        assert_eq!(ms(first.first_sent_ns), Some(12));
        assert_eq!(ms(first.first_acked_ns), Some(50));
        assert_eq!(ms(first.last_acked_ns), Some(51));
        assert_eq!((first.acked_bytes, first.request_bytes), (2000, 100));
        assert_eq!(
            (second.acked_bytes, ms(second.last_acked_ns)),
            (10, Some(130))
        );
    }

    #[test]
    fn a_request_sent_again_is_one_request_and_segments_sent_again_are_counted() {
        let mut s = Script::new();
        s.client(10, 0, 100, 0);
        s.server(11, 0, 1000);
        s.client(12, 0, 100, 0);
        s.server(300, 0, 500);
        s.server(301, 500, 1000);
        s.client(340, 100, 0, 1500);
        let c = s.read(GAP);
        assert_eq!(c.deliveries.len(), 1);
        assert_eq!(c.deliveries[0].kind, Kind::Exchange);
        assert_eq!((c.deliveries[0].acked_bytes, c.retransmitted), (1500, 2));
    }

    #[test]
    fn a_request_counts_from_when_it_is_in_order() {
        let mut s = Script::new();
        s.client(10, 100, 50, 0);
        s.client(30, 0, 100, 0);
        s.server(31, 0, 10);
        s.client(70, 150, 0, 10);
        let c = s.read(GAP);
        assert_eq!(c.deliveries.len(), 1);
        assert_eq!(c.deliveries[0].request_ns, 30_000_000);
        assert_eq!(c.deliveries[0].request_bytes, 150);
    }

    #[test]
    fn asking_again_before_the_end_makes_a_busy_period() {
        let mut s = Script::new();
        s.client(10, 0, 100, 0);
        s.server(11, 0, 1000);
        s.client(12, 100, 100, 500);
        s.server(13, 1000, 1000);
        s.client(50, 200, 0, 2000);
        let c = s.read(GAP);
        assert_eq!(c.deliveries.len(), 1);
        assert_eq!(c.deliveries[0].kind, Kind::BusyPeriod);
        assert_eq!(c.deliveries[0].acked_bytes, 2000);
    }

    #[test]
    fn a_reset_aborts_and_acknowledges_nothing() {
        let mut s = Script::new();
        s.client(10, 0, 100, 0);
        s.server(11, 0, 2000);
        s.client(50, 100, 0, 1000);
        s.client(51, 100, 0, 2000).flags = flag::RST | flag::ACK;
        let c = s.read(GAP);
        assert_eq!(c.deliveries[0].phase, Phase::Aborted);
        assert_eq!(c.deliveries[0].acked_bytes, 1000);
        assert_eq!(ms(c.deliveries[0].last_acked_ns), Some(50));
    }

    #[test]
    fn the_server_may_speak_first_and_go_on_after_a_pause() {
        let mut s = Script::new();
        s.server(5, 0, 20);
        s.client(45, 0, 0, 20);
        s.server(700, 20, 20);
        s.client(740, 0, 0, 40);
        s.client(800, 0, 10, 40);
        let c = s.read(GAP);
        let kinds: Vec<_> = c.deliveries.iter().map(|d| (d.kind, d.phase)).collect();
        assert_eq!(
            kinds,
            [
                (Kind::Unsolicited, Phase::Complete),
                (Kind::Resumed, Phase::Complete),
                (Kind::Exchange, Phase::Unanswered),
            ]
        );
    }

    #[test]
    fn in_http2_steering_frames_ask_nothing_and_overlapping_streams_are_one_busy_period() {
        let mut s = Script::new();
        let preface = s.client(1, 0, 80, 0);
        (preface.tls, preface.http2, preface.http2_preface) = (vec![23], vec![4, 8], true);
        s.client(2, 80, 50, 0).http2 = vec![1];
        s.server(3, 0, 2000);
        s.client(20, 130, 30, 1000).http2 = vec![4];
        s.client(40, 160, 50, 1500).http2 = vec![1];
        s.server(41, 2000, 500);
        s.client(80, 210, 0, 2500);
        s.client(81, 210, 30, 2500).http2 = vec![8];
        let c = s.read(Rules {
            protocol: Protocol::Http2,
            ..GAP
        });
        assert_eq!(c.deliveries.len(), 1);
        assert_eq!(c.deliveries[0].kind, Kind::BusyPeriod);
        assert_eq!(
            (c.deliveries[0].request_ns, c.deliveries[0].acked_bytes),
            (1_000_000, 2500)
        );
    }

    #[test]
    fn in_tls_handshake_and_alerts_ask_and_answer_nothing() {
        let mut s = Script::new();
        s.client(1, 0, 500, 0).tls = vec![22];
        s.server(2, 0, 700).tls = vec![22, 20];
        s.client(42, 500, 80, 700).tls = vec![20, 22];
        s.client(43, 580, 100, 700).tls = vec![23];
        s.server(44, 700, 3000).tls = vec![23];
        s.client(84, 680, 0, 3700);
        s.server(90, 3700, 24).tls = vec![21];
        s.client(130, 680, 24, 3724).tls = vec![21];
        let c = s.read(TLS);
        assert_eq!(c.deliveries.len(), 1);
        assert_eq!(c.deliveries[0].request_ns, 43_000_000);
        assert_eq!(c.deliveries[0].acked_bytes, 3000);
        assert_eq!(ms(c.deliveries[0].last_acked_ns), Some(84));
    }
}

//! Captures written by hand, and what they show.

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

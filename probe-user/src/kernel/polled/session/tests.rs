use probe_ebpf::record::{Delivery, SessionEnd, SessionStart, kind};

use super::*;
use crate::kernel::Record;

const SECOND_NS: u64 = 1_000_000_000;

/// A socket as the kernel would tell of it, and what was reported of the session on it.
struct Bench {
    hot: Queue,
    bulk: Queue,
    settings: Settings,
    info: TcpInfo,
    seen: Seen,
}

impl Bench {
    fn new() -> Self {
        Self {
            hot: Queue::new(1 << 16).unwrap(),
            bulk: Queue::new(1 << 16).unwrap(),
            settings: Settings {
                deadline_ns: 4 * SECOND_NS,
                quiet_gap_ns: SECOND_NS,
                ..Settings::default()
            },
            info: TcpInfo {
                rtt_us: 20_000,
                mss: 1000,
                ..TcpInfo::default()
            },
            seen: Seen {
                cookie: 7,
                state: state::ESTABLISHED,
                ..Seen::default()
            },
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(TcpInfo, &Seen, &mut Out<'_>) -> T) -> T {
        let mut out = Out {
            hot: &mut self.hot,
            bulk: &mut self.bulk,
            settings: self.settings,
        };
        act(self.info, &self.seen, &mut out)
    }

    fn begin(&mut self) -> Followed {
        let name = Name {
            cookie: 7,
            endpoints: Endpoints::default(),
        };
        self.with(|info, seen, out| {
            let mut followed = Followed::begun(name, info, 0, SECOND_NS, SECOND_NS, out);
            followed.look(info, seen, SECOND_NS, out);
            followed
        })
    }

    fn look(&mut self, followed: &mut Followed, now_ns: u64) {
        self.with(|info, seen, out| followed.look(info, seen, now_ns, out));
    }

    fn end(&mut self, followed: Followed, now_ns: u64) {
        self.seen.state = state::CLOSE;
        self.with(|info, seen, out| followed.end(Some((info, seen)), now_ns, out));
    }

    fn asked(&mut self, bytes: u64) {
        self.info.bytes_received += bytes;
        self.info.last_data_recv_ms = 0;
    }

    /// The server has written and sent so much, and the client acknowledged it.
    fn answered(&mut self, bytes: u64) {
        self.info.bytes_sent += bytes;
        self.info.bytes_acked += bytes;
        self.info.data_segs_out += low_word(bytes / 1000);
    }

    fn ages(&mut self, ms: u32) {
        for age in [
            &mut self.info.last_data_recv_ms,
            &mut self.info.last_data_sent_ms,
            &mut self.info.last_ack_recv_ms,
        ] {
            *age += ms;
        }
    }

    fn reported(&mut self) -> (Vec<SessionStart>, Vec<Delivery>, Vec<SessionEnd>) {
        let mut all = (Vec::new(), Vec::new(), Vec::new());
        for queue in [&mut self.hot, &mut self.bulk] {
            queue.drain(usize::MAX, &mut |record| match record {
                Record::SessionStart(record) => all.0.push(*record),
                Record::Delivery(record) => all.1.push(*record),
                Record::SessionEnd(record) => all.2.push(*record),
                Record::Malformed => panic!("malformed"),
            });
        }
        all
    }
}

#[test]
fn a_session_between_two_looks_is_reported_whole_from_its_last_word() {
    let mut bench = Bench::new();
    let followed = {
        let name = Name {
            cookie: 7,
            endpoints: Endpoints::default(),
        };
        bench.asked(100);
        bench.answered(50_000);
        bench.ages(40);
        bench.info.last_data_recv_ms = 120;
        // Both FINs, as bytes of the kernel's counts.
        bench.info.bytes_acked += 1;
        bench.with(|info, _, out| Followed::begun(name, info, 0, SECOND_NS, 2 * SECOND_NS, out))
    };
    bench.end(followed, 2 * SECOND_NS);
    let (starts, deliveries, ends) = bench.reported();
    assert_eq!(starts[0].t_established_ns, 2 * SECOND_NS - 120_000_000);
    assert_eq!(starts[0].flags & flag::ADOPTED, 0);
    let delivery = deliveries[0];
    assert_eq!(deliveries.len(), 1);
    assert_eq!(
        (delivery.acked_bytes, delivery.written_bytes),
        (50_000, 50_000)
    );
    assert_eq!((delivery.segments, delivery.flags & flag::ABORTED), (50, 0));
    assert_eq!(delivery.t_request_ns, 2 * SECOND_NS - 120_000_000);
    assert_eq!(delivery.t_last_acked_ns, 2 * SECOND_NS - 40_000_000);
    let bounds = flag::REQUEST_BOUNDED | flag::FIRST_WRITE_BOUNDED | flag::END_BOUNDED;
    assert_eq!(delivery.flags & bounds, bounds);
    assert_eq!(ends[0].acked_bytes, 50_000);
    assert_eq!((ends[0].deliveries, ends[0].segments), (1, 50));
}

#[test]
fn segments_and_clocks_are_each_deliverys_own() {
    let mut bench = Bench::new();
    let mut followed = bench.begin();
    for (index, now_ns) in [(0, 2 * SECOND_NS), (1, 4 * SECOND_NS), (2, 6 * SECOND_NS)] {
        bench.ages(1000);
        bench.look(&mut followed, now_ns - SECOND_NS);
        bench.asked(100);
        bench.answered(10_000 * (index + 1));
        bench.info.busy_us += 7_000;
        bench.look(&mut followed, now_ns);
    }
    bench.end(followed, 7 * SECOND_NS);
    let (_, deliveries, ends) = bench.reported();
    let told: Vec<_> = deliveries
        .iter()
        .map(|delivery| (delivery.segments, delivery.busy_ticks, delivery.acked_bytes))
        .collect();
    assert_eq!(told, [(10, 70, 10_000), (20, 70, 20_000), (30, 70, 30_000)]);
    assert_eq!(ends[0].segments, 60);
}

#[test]
fn retransmissions_are_counted_once_and_syn_acks_apart() {
    let mut bench = Bench::new();
    bench.info.total_retrans = 2;
    let mut followed = bench.begin();
    bench.asked(100);
    bench.answered(10_000);
    bench.info.total_retrans = 5;
    bench.info.bytes_retrans = 3000;
    bench.info.bytes_sent += 3000;
    bench.look(&mut followed, 2 * SECOND_NS);
    bench.end(followed, 3 * SECOND_NS);
    let (starts, deliveries, ends) = bench.reported();
    assert_eq!(starts[0].synack_retransmits, 2);
    let of = |fast: u32, rto: u32, tlp: u32| fast + rto + tlp;
    let delivery = deliveries[0];
    let sum = of(
        delivery.retrans_fast,
        delivery.retrans_rto,
        delivery.retrans_tlp,
    );
    assert_eq!(sum, 3);
    let end = ends[0];
    let sum = of(end.retrans_fast, end.retrans_rto, end.retrans_tlp);
    assert_eq!((end.retrans_before, sum, end.retrans_total), (2, 3, 5));
}

#[test]
fn fins_are_no_bytes_and_tell_who_closed_first() {
    for (first, ended_by) in [
        (state::CLOSE_WAIT, ended::CLIENT_FIN),
        (state::FIN_WAIT2, ended::SERVER_FIN),
    ] {
        let mut bench = Bench::new();
        let mut followed = bench.begin();
        bench.asked(100);
        bench.answered(3000);
        bench.look(&mut followed, 2 * SECOND_NS);
        bench.seen.state = first;
        if first == state::CLOSE_WAIT {
            bench.info.bytes_received += 1;
        } else {
            bench.info.bytes_acked += 1;
        }
        bench.look(&mut followed, 3 * SECOND_NS);
        if first == state::CLOSE_WAIT {
            bench.info.bytes_acked += 1;
        } else {
            bench.info.bytes_received += 1;
        }
        bench.end(followed, 4 * SECOND_NS);
        let (_, deliveries, ends) = bench.reported();
        assert_eq!(deliveries.len(), 1, "{deliveries:?}");
        assert_eq!(deliveries[0].flags & (flag::ABORTED | flag::BUSY_PERIOD), 0);
        assert_eq!(
            (ends[0].ended, ends[0].acked_bytes, ends[0].received_bytes),
            (ended_by, 3000, 100)
        );
    }
}

#[test]
fn what_was_not_acknowledged_at_the_end_is_aborted_and_hot() {
    let mut bench = Bench::new();
    let mut followed = bench.begin();
    bench.asked(100);
    bench.answered(3000);
    bench.info.notsent_bytes = 2000;
    bench.seen.write_queue_bytes = 2000;
    bench.look(&mut followed, 2 * SECOND_NS);
    bench.end(followed, 3 * SECOND_NS);
    assert_eq!(bench.hot.counts().seen, 1);
    let (_, deliveries, _) = bench.reported();
    assert_ne!(deliveries[0].flags & flag::ABORTED, 0);
    assert_eq!(
        (deliveries[0].acked_bytes, deliveries[0].written_bytes),
        (3000, 5000)
    );
}

#[test]
fn a_silent_delivery_is_late_once_and_its_end_is_told_after() {
    let mut bench = Bench::new();
    let mut followed = bench.begin();
    bench.asked(100);
    for second in 2..9 {
        bench.look(&mut followed, second * SECOND_NS);
        bench.ages(1000);
    }
    bench.answered(1000);
    bench.look(&mut followed, 10 * SECOND_NS);
    bench.end(followed, 11 * SECOND_NS);
    let (_, deliveries, _) = bench.reported();
    let kinds: Vec<_> = deliveries
        .iter()
        .map(|delivery| delivery.header.kind)
        .collect();
    assert_eq!(kinds, [kind::DELIVERY_LATE, kind::DELIVERY_END]);
    assert_ne!(deliveries[1].flags & flag::LATE, 0);
}

#[test]
fn an_acknowledgement_between_the_kernels_two_readings_adds_nothing() {
    let info = TcpInfo {
        bytes_acked: 5000,
        bytes_sent: 8000,
        notsent_bytes: 1000,
        ..TcpInfo::default()
    };
    // The queue was read when 3000 were acknowledged.
    let found = Found::new(info, state::ESTABLISHED, 6000, false, false);
    assert_eq!((found.written_bytes, found.acked_bytes), (9000, 5000));
    // The device refused 2000 once; they are counted as sent twice.
    let refused = TcpInfo {
        bytes_sent: 10_000,
        ..info
    };
    let found = Found::new(refused, state::ESTABLISHED, 4000, false, false);
    assert_eq!(found.written_bytes, 9000);
    // A FIN waits behind the data.
    let closing = TcpInfo {
        notsent_bytes: 1001,
        ..info
    };
    let found = Found::new(closing, state::FIN_WAIT1, 4001, false, false);
    assert_eq!(found.written_bytes, 9000);
}

//! Sessions that are left out to keep within the budget: only the sweep looks at them.

use probe_ebpf::{
    drive::{self, Segment},
    record::flag,
    session::{Session, phase},
    settings::{Settings, WHOLE},
    tls::Phase,
};

use crate::wire::{MS, Report, Socket};

fn settings() -> Settings {
    Settings {
        deadline_ns: 4000 * MS,
        quiet_gap_ns: 1000 * MS,
        share: 0,
        ..Settings::default()
    }
}

#[derive(Default)]
struct LeftOut {
    socket: Socket,
    session: Session,
}

impl LeftOut {
    /// `t` in milliseconds.
    fn sweep(&mut self, t: u64) -> bool {
        let epoch = self.session.epoch;
        drive::watched(
            &mut self.socket,
            &mut self.session,
            &settings(),
            t * MS,
            epoch,
        )
    }

    fn late(&self) -> usize {
        let is_late = |report: &&Report| matches!(report, Report::Late(_));
        self.socket.reports.iter().filter(is_late).count()
    }
}

#[test]
fn the_delivery_under_way_is_dropped_and_counted_as_left_out_once() {
    let mut w = LeftOut::default();
    w.session.phase = phase::ANSWERING;
    w.socket.write_seq = 1000;
    assert!(w.sweep(10), "left out for the first time");
    assert!(!w.sweep(260));
    assert_eq!(w.session.phase, phase::IDLE);
    assert_ne!(w.session.flags & flag::LEFT_OUT, 0);
    assert!(w.socket.reports.is_empty());
}

#[test]
fn lateness_is_reported_all_the_same_once_for_each() {
    let mut w = LeftOut::default();
    w.socket.rcv_nxt = 100;
    w.socket.write_seq = 1000;
    for t in [10, 2000, 4011, 6000] {
        w.sweep(t);
    }
    assert_eq!(w.late(), 1);
    // It comes through, and the next one is late too.
    w.socket.snd_una = 1000;
    w.sweep(7000);
    w.socket.rcv_nxt = 200;
    w.socket.write_seq = 2000;
    for t in [8000, 12_001, 13_000] {
        w.sweep(t);
    }
    assert_eq!(w.late(), 2);
    let indices: Vec<u32> = w
        .socket
        .reports
        .iter()
        .filter_map(|report| match report {
            Report::Late(record) => Some(record.index),
            _ => None,
        })
        .collect();
    assert_eq!(indices, [0, 1]);
}

#[test]
fn a_client_that_asks_again_and_again_is_not_late() {
    let mut w = LeftOut::default();
    for t in (0..20_000).step_by(1000) {
        w.socket.rcv_nxt += 100;
        w.socket.write_seq += 1000;
        w.socket.snd_una = w.socket.write_seq - 500;
        w.sweep(1 + t);
    }
    assert_eq!(w.late(), 0);
}

#[test]
fn what_is_cut_off_is_reported_at_the_end() {
    let mut w = LeftOut::default();
    w.socket.write_seq = 1000;
    w.socket.state = drive::state::ESTABLISHED;
    w.sweep(10);
    drive::state_changed(&mut w.socket, &mut w.session, 500 * MS, drive::state::CLOSE);
    let [Report::End(record), Report::Session { .. }] = w.socket.reports.as_slice() else {
        panic!("{:?}", w.socket.reports);
    };
    assert_ne!(record.flags & flag::ABORTED, 0);
    assert_ne!(record.flags & flag::REQUEST_BOUNDED, 0);
    assert_eq!(record.written_bytes, 1000);
}

#[test]
fn a_smaller_share_is_a_part_of_a_larger_one_and_as_large_as_it_says() {
    let with = |share| Settings {
        share,
        ..Settings::default()
    };
    let cookies = 1..100_000u64;
    assert!(cookies.clone().all(|cookie| with(WHOLE).follows(cookie)));
    assert!(!cookies.clone().any(|cookie| with(0).follows(cookie)));
    let (few, many) = (with(WHOLE / 8), with(WHOLE / 2));
    assert!(
        cookies
            .clone()
            .all(|cookie| many.follows(cookie) || !few.follows(cookie))
    );
    let followed = cookies.filter(|cookie| few.follows(*cookie)).count();
    assert!((12_000..13_000).contains(&followed), "{followed}");
}

impl LeftOut {
    fn ends(&self) -> Vec<(u32, u64, u32)> {
        let end = |report: &Report| match report {
            Report::End(record) => Some((record.index, record.acked_bytes, record.flags)),
            _ => None,
        };
        self.socket.reports.iter().filter_map(end).collect()
    }

    /// A request of so many bytes, seen by the programs.
    fn asked(&mut self, t: u64, bytes: u32) {
        let segment = Segment {
            seq: self.socket.rcv_nxt,
            ack: self.socket.snd_una,
            has_ack: true,
            payload: bytes,
        };
        drive::segment(
            &mut self.socket,
            &mut self.session,
            &settings(),
            t * MS,
            segment,
        );
        self.socket.rcv_nxt += bytes;
    }
}

#[test]
fn what_was_late_is_reported_again_once_it_is_through() {
    let mut w = LeftOut::default();
    w.socket.write_seq = 1000;
    for t in [10, 4011, 4261] {
        w.sweep(t);
    }
    assert_eq!((w.late(), w.ends().len()), (1, 0));
    w.socket.write_seq = 3000;
    w.sweep(5000);
    w.socket.snd_una = 3000;
    w.sweep(6000);
    w.sweep(6250);
    let [(0, 3000, flags)] = w.ends()[..] else {
        panic!("{:?}", w.ends());
    };
    let marks = flag::LATE | flag::END_BOUNDED | flag::REQUEST_BOUNDED | flag::LEFT_OUT;
    assert_eq!(flags & marks, marks);
    assert_eq!(flags & flag::ABORTED, 0);
}

/// In clear, and one request at a time, whatever comes is one.
#[test]
fn a_short_request_that_nobody_answers_is_late_where_it_cannot_be_anything_else() {
    for (flags, late) in [(0, 1), (flag::BUSY_PERIOD, 0), (flag::TLS, 0)] {
        let mut w = LeftOut::default();
        w.session.tls_phase = Phase::Clear as u8;
        w.session.flags |= flags;
        w.sweep(10);
        w.socket.rcv_nxt += 31;
        for t in [100, 4200, 8000] {
            w.sweep(t);
        }
        assert_eq!(w.late(), late, "{flags}");
    }
}

#[test]
fn a_request_that_nobody_answers_is_late_and_a_short_message_is_none() {
    let mut w = LeftOut::default();
    w.sweep(10);
    w.socket.rcv_nxt += 40;
    for t in [100, 4200, 8000] {
        w.sweep(t);
    }
    assert_eq!(w.late(), 0, "nobody knows whether that asks");
    w.socket.rcv_nxt += 200;
    for t in [9000, 13_000, 13_001, 14_000] {
        w.sweep(t);
    }
    assert_eq!(w.late(), 1);
    // Answered and acknowledged between two looks.
    w.socket.write_seq += 5000;
    w.socket.snd_una += 5000;
    w.sweep(15_000);
    assert_eq!(w.ends().len(), 1);
    for t in [16_000, 20_000, 25_000] {
        w.sweep(t);
    }
    assert_eq!(w.late(), 1);
}

#[test]
fn a_delivery_under_way_that_is_left_out_is_late_since_its_request() {
    let mut w = LeftOut::default();
    w.asked(1000, 200);
    assert_eq!(w.session.phase, phase::ASKED);
    w.sweep(3000);
    assert_eq!(w.session.phase, phase::IDLE);
    w.sweep(5000);
    assert_eq!(w.late(), 0);
    w.sweep(5001);
    assert_eq!(w.late(), 1);
}

#[test]
fn one_that_is_late_already_when_it_is_left_out_ends_under_its_own_index() {
    let mut w = LeftOut::default();
    w.asked(1000, 200);
    drive::wrote(&mut w.socket, &mut w.session, 1100 * MS, 0);
    w.socket.write_seq = 8000;
    let epoch = w.session.epoch;
    drive::swept(&mut w.socket, &mut w.session, &settings(), 6000 * MS, epoch);
    assert_eq!(w.late(), 1);
    w.sweep(6250);
    w.socket.snd_una = 8000;
    w.sweep(6500);
    assert_eq!(w.late(), 1);
    let [(0, 8000, flags)] = w.ends()[..] else {
        panic!("{:?}", w.ends());
    };
    assert_ne!(flags & flag::LATE, 0);
}

#[test]
fn the_next_request_once_it_is_followed_again_is_another_delivery_than_the_late_one() {
    let mut w = LeftOut::default();
    w.socket.write_seq = 1000;
    for t in [10, 4011] {
        w.sweep(t);
    }
    assert_eq!(w.late(), 1);
    w.socket.snd_una = 1000;
    w.asked(5000, 200);
    assert_eq!((w.session.index, w.session.phase), (1, phase::ASKED));
    w.asked(9001, 0);
    assert_eq!(w.late(), 2);
}

#[test]
fn a_late_one_that_comes_through_or_is_cut_off_just_before_the_end_is_reported_all_the_same() {
    for (acked, aborted) in [(1000, 0), (400, flag::ABORTED)] {
        let mut w = LeftOut::default();
        w.socket.write_seq = 1000;
        w.socket.state = drive::state::ESTABLISHED;
        for t in [10, 4011] {
            w.sweep(t);
        }
        w.socket.snd_una = acked;
        drive::state_changed(
            &mut w.socket,
            &mut w.session,
            4100 * MS,
            drive::state::CLOSE,
        );
        let [(0, bytes, flags)] = w.ends()[..] else {
            panic!("{:?}", w.ends());
        };
        assert_eq!(bytes, u64::from(acked));
        assert_eq!(flags & (flag::ABORTED | flag::LATE), aborted | flag::LATE);
    }
}

//! Sessions that are left out to keep within the budget: only the sweep looks at them.

use probe_ebpf::{
    drive,
    record::flag,
    session::{Session, phase},
    settings::{Settings, WHOLE},
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

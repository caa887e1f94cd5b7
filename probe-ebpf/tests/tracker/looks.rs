//! What is known by looking at a socket now and then.

use probe_ebpf::{
    drive::{self, Look},
    record::flag,
    session::{Session, phase},
    settings::{Settings, WHOLE},
};
use proptest::prelude::*;

use crate::wire::{MS, Report, Socket};

const SETTINGS: Settings = Settings {
    deadline_ns: 5000 * MS,
    quiet_gap_ns: 1000 * MS,
    progress_ns: 0,
    filter_generation: 0,
    by_port: 0,
    by_prefix: 0,
    cgroup_count: 0,
    cgroups: [0; 8],
    share: WHOLE,
    sees_arrivals: 0,
};

/// A session that is looked at; `t` in milliseconds.
#[derive(Default)]
struct Watched {
    socket: Socket,
    session: Session,
}

impl Watched {
    fn look(&mut self, t: u64) {
        self.look_knowing(&Look::at(t * MS));
    }

    fn look_knowing(&mut self, look: &Look) {
        drive::looked(&mut self.socket, &mut self.session, &SETTINGS, look);
    }

    fn asks(&mut self, bytes: u32) {
        self.socket.rcv_nxt += bytes;
    }

    fn answers(&mut self, bytes: u32) {
        self.socket.write_seq += bytes;
    }

    fn acknowledges_all(&mut self) {
        self.socket.snd_una = self.socket.write_seq;
    }

    fn ends(&self) -> Vec<(u64, u64, u32)> {
        self.socket
            .reports
            .iter()
            .filter_map(|report| match report {
                Report::End(record) => {
                    Some((record.request_bytes, record.acked_bytes, record.flags))
                }
                _ => None,
            })
            .collect()
    }
}

#[test]
fn an_exchange_seen_step_by_step_is_one_delivery_with_bounds() {
    let mut w = Watched::default();
    w.asks(100);
    w.look(10);
    w.answers(5000);
    w.look(20);
    w.acknowledges_all();
    w.look(30);
    w.asks(100);
    w.look(500);
    let [Report::End(record)] = w.socket.reports.as_slice() else {
        panic!("{:?}", w.socket.reports);
    };
    assert_eq!(record.t_request_ns, 10 * MS);
    assert_eq!(record.t_first_write_ns, 20 * MS);
    assert_eq!(record.t_last_acked_ns, 30 * MS);
    assert_eq!((record.request_bytes, record.acked_bytes), (100, 5000));
    let bounds = flag::REQUEST_BOUNDED | flag::FIRST_WRITE_BOUNDED | flag::END_BOUNDED;
    assert_eq!(
        record.flags & (bounds | flag::ABORTED | flag::BUSY_PERIOD),
        bounds
    );
}

#[test]
fn exchanges_that_fall_between_two_looks_are_told_apart_by_their_requests() {
    let mut w = Watched::default();
    for t in 1..=3 {
        w.asks(100);
        w.answers(5000);
        w.acknowledges_all();
        w.look(t * 100);
    }
    assert_eq!(w.ends().len(), 2, "the third is still open");
    for (request, acked, flags) in w.ends() {
        assert_eq!((request, acked), (100, 5000));
        assert_eq!(flags & (flag::BUSY_PERIOD | flag::ABORTED), 0);
    }
    // Its end is reported once it has been silent for the quiet gap.
    w.look(300 + 1001);
    let ends = w.ends();
    assert_eq!(ends.len(), 3);
    assert_ne!(ends[2].2 & flag::SETTLED, 0);
    assert_eq!(w.session.phase, phase::IDLE);
}

#[test]
fn an_answer_that_goes_on_after_a_pause_and_then_is_asked_more_has_bounds_throughout() {
    let mut w = Watched::default();
    w.asks(100);
    w.answers(5000);
    w.acknowledges_all();
    w.look(10);
    w.look(10 + 1001);
    w.answers(5000);
    w.look(2000);
    w.answers(3000);
    w.asks(100);
    w.acknowledges_all();
    w.look(2100);
    w.look(2100 + 1001);
    let [_, (request, acked, flags)] = w.ends()[..] else {
        panic!("{:?}", w.ends());
    };
    assert_eq!((request, acked), (100, 8000));
    let bounds = flag::REQUEST_BOUNDED | flag::FIRST_WRITE_BOUNDED | flag::END_BOUNDED;
    let marks = bounds | flag::RESUMED | flag::BUSY_PERIOD;
    assert_eq!(flags & marks, marks);
}

#[test]
fn a_request_that_takes_the_place_of_a_control_message_is_marked_as_well() {
    let mut w = Watched::default();
    w.session.flags |= flag::BUSY_PERIOD;
    w.asks(20);
    w.look(10);
    w.asks(300);
    w.look(20);
    w.answers(5000);
    w.acknowledges_all();
    w.look(30);
    w.look(30 + 1001);
    let [(request, acked, flags)] = w.ends()[..] else {
        panic!("{:?}", w.ends());
    };
    assert_eq!((request, acked), (300, 5000));
    assert_ne!(flags & flag::REQUEST_BOUNDED, 0);
}

#[test]
fn a_request_found_with_more_of_the_answer_before_makes_a_busy_period() {
    let mut w = Watched::default();
    w.asks(100);
    w.answers(5000);
    w.look(10);
    // The rest of the first answer and a second one: where the one ends cannot be told.
    w.answers(8000);
    w.acknowledges_all();
    w.asks(100);
    w.look(20);
    w.look(20 + 1001);
    let [(request, acked, flags)] = w.ends()[..] else {
        panic!("{:?}", w.ends());
    };
    assert_eq!((request, acked), (200, 13_000));
    assert_ne!(flags & flag::BUSY_PERIOD, 0);
}

#[test]
fn a_request_after_the_answer_was_acknowledged_ends_it_where_writing_stood() {
    let mut w = Watched::default();
    w.asks(100);
    w.answers(5000);
    w.look(10);
    // All of it acknowledged, the next asked for and not yet answered.
    w.acknowledges_all();
    w.asks(120);
    w.look(20);
    assert_eq!(w.ends().len(), 1);
    assert_eq!(w.ends()[0].1, 5000);
    assert_eq!(w.session.phase, phase::ASKED);
}

#[test]
fn times_that_the_kernel_remembers_are_taken_for_those_of_the_look() {
    let mut w = Watched::default();
    w.asks(100);
    w.answers(5000);
    w.acknowledges_all();
    w.look_knowing(&Look {
        t_received_ns: 100 * MS,
        t_received_last_ns: 100 * MS,
        t_written_ns: 150 * MS,
        t_acked_ns: 130 * MS,
        ..Look::at(250 * MS)
    });
    let s = &w.session;
    assert_eq!(s.t_request_ns, 100 * MS);
    // Acknowledged at 130 ms, with a round trip of 1 ms.
    assert_eq!(s.t_first_write_ns, 129 * MS);
    assert_eq!(s.t_last_acked_ns, 130 * MS);
}

#[test]
fn an_acknowledgement_that_is_looked_at_as_it_comes_is_exact() {
    let mut w = Watched::default();
    w.asks(100);
    w.answers(5000);
    w.look(10);
    w.acknowledges_all();
    w.look_knowing(&Look {
        sees_ack: true,
        ..Look::at(40 * MS)
    });
    assert_eq!(w.session.t_last_acked_ns, 40 * MS);
    assert_eq!(w.session.delivery_flags & flag::END_BOUNDED, 0);
}

#[test]
fn a_first_acknowledgement_that_is_found_with_later_ones_is_a_bound() {
    let mut w = Watched::default();
    w.asks(100);
    w.look(10);
    w.answers(5000);
    w.look(20);
    w.socket.snd_una += 1000;
    w.acknowledges_all();
    w.look_knowing(&Look {
        t_acked_ns: 90 * MS,
        sees_ack: true,
        sees_first_ack: false,
        ..Look::at(100 * MS)
    });
    assert_eq!(w.session.t_last_acked_ns, 90 * MS);
    let bounds = flag::FIRST_ACKED_BOUNDED | flag::END_BOUNDED;
    assert_eq!(w.session.delivery_flags & bounds, flag::FIRST_ACKED_BOUNDED);
}

#[test]
fn a_write_that_is_found_later_and_a_request_that_is_about_to_be_told_are_taken_as_such() {
    let mut w = Watched::default();
    w.asks(100);
    w.look_knowing(&Look {
        sees_request: true,
        ..Look::at(10 * MS)
    });
    let later = |t, received_seq| Look {
        sees_writes: true,
        sees_last_write: false,
        received_seq,
        ..Look::at(t * MS)
    };
    w.answers(1);
    w.look(20);
    w.answers(4999);
    w.asks(77);
    let told = w.session.rcv_nxt;
    w.look_knowing(&later(30, Some(told)));
    assert_eq!(w.session.request_bytes, 100, "the rest is told by another");
    assert_ne!(
        w.session.delivery_flags & flag::LAST_WRITE_BOUNDED,
        0,
        "written between two looks"
    );
    w.look_knowing(&later(40, None));
    assert_eq!(w.session.request_bytes, 177);
}

#[test]
fn what_is_silent_past_its_deadline_is_late_at_the_next_look_and_once() {
    let mut w = Watched::default();
    w.asks(100);
    w.answers(5000);
    for t in [10, 2000, 5011, 6000, 7000] {
        w.look(t);
    }
    let late = |report: &&Report| matches!(report, Report::Late(_));
    assert_eq!(w.socket.reports.iter().filter(late).count(), 1);
    assert_eq!(w.socket.reports.len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Asks(u32),
    Answers(u32),
    Acknowledges(u32),
    Looks,
}

proptest! {
    /// However seldom one looks, every byte is in one delivery.
    #[test]
    fn no_byte_is_lost_or_counted_twice_between_looks(
        steps in prop::collection::vec(
            prop_oneof![
                // Larger than what may be a control frame, which the next request replaces.
                (65u32..2000).prop_map(Step::Asks),
                (1u32..100_000).prop_map(Step::Answers),
                (1u32..100_000).prop_map(Step::Acknowledges),
                Just(Step::Looks),
            ],
            1..200,
        ),
        apart_ms in 1u64..2000,
    ) {
        let mut w = Watched::default();
        let mut t = 1;
        for step in steps {
            match step {
                Step::Asks(bytes) => w.asks(bytes),
                Step::Answers(bytes) => w.answers(bytes),
                Step::Acknowledges(bytes) => {
                    w.socket.snd_una = w.socket.write_seq.min(w.socket.snd_una + bytes);
                }
                Step::Looks => {
                    t += apart_ms;
                    w.look(t);
                }
            }
        }
        w.look(t + 1);
        // Whatever was asked is answered, and then there is silence.
        w.answers(1);
        w.acknowledges_all();
        w.look(t + 2);
        w.look(t + 2 + 1001);
        let ends = w.ends();
        prop_assert_eq!(ends.iter().map(|end| end.0).sum::<u64>(), u64::from(w.socket.rcv_nxt));
        prop_assert_eq!(ends.iter().map(|end| end.1).sum::<u64>(), u64::from(w.socket.write_seq));
        prop_assert!(ends.iter().all(|end| end.2 & flag::ABORTED == 0));
    }
}

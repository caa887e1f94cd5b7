//! The mark by which the sweep knows of a session: nothing is open without one for longer than it
//! takes to make it, and nothing that is at rest keeps it.

use probe_ebpf::{
    drive,
    record::flag,
    session::{Session, phase},
    tracker::UNMARKED,
};

use crate::wire::{MS, Report, Socket, Wire};

/// A session whose delivery of a thousand bytes is complete.
fn served() -> Wire {
    let mut w = Wire::established(0);
    w.asks(100);
    w.writes(1000);
    w.acks_all();
    w
}

/// Sweeps for so long, four times a second.
fn sweep_for(w: &mut Wire, ms: u64) {
    for _ in 0..ms / 250 {
        w.wait_ms(250);
        w.sweeps_marked();
    }
}

fn is_unmarked(w: &Wire) -> bool {
    w.session.epoch & UNMARKED != 0
}

#[test]
fn a_session_in_which_nothing_was_opened_has_no_mark() {
    let mut w = Wire::established(0);
    assert!(!w.socket.marked && is_unmarked(&w));
    w.acks_all();
    assert!(!w.socket.marked);
    w.asks(100);
    assert!(w.socket.marked && !is_unmarked(&w));
}

#[test]
fn what_the_server_says_unasked_marks_too() {
    let mut w = Wire::established(0);
    w.writes(100);
    assert!(w.socket.marked);
}

#[test]
fn a_settled_session_loses_its_mark_and_is_given_another_with_the_next_delivery() {
    let mut w = served();
    sweep_for(&mut w, 1500);
    assert_eq!(w.ended().acked_bytes, 1000);
    assert!(w.socket.marked, "it may go on at any moment");
    sweep_for(&mut w, 2000);
    assert!(!w.socket.marked && is_unmarked(&w));
    w.asks(200);
    assert!(w.socket.marked);
    sweep_for(&mut w, 5000);
    assert!(matches!(w.reports()[..], [Report::Late(_)]));
}

#[test]
fn a_session_that_asks_again_soon_keeps_its_mark() {
    let mut w = served();
    for _ in 0..20 {
        sweep_for(&mut w, 1000);
        assert!(w.socket.marked);
        w.asks(100);
        w.writes(1000);
        w.acks_all();
    }
}

#[test]
fn a_resumed_answer_is_marked_again() {
    let mut w = served();
    sweep_for(&mut w, 4000);
    assert!(!w.socket.marked);
    w.writes(500);
    assert!(w.socket.marked);
    w.acks_all();
    w.reports();
    sweep_for(&mut w, 4000);
    let end = w.ended();
    assert_eq!((end.index, end.flags & flag::RESUMED), (1, flag::RESUMED));
}

#[test]
fn what_may_be_no_request_is_left_and_found_again_when_it_was_one() {
    let mut w = served();
    sweep_for(&mut w, 4000);
    w.asks(10);
    assert!(w.socket.marked);
    sweep_for(&mut w, 4000);
    assert!(!w.socket.marked && w.session.phase == phase::ASKED);
    // No hook sees the write; its acknowledgement tells of it.
    w.socket.write_seq += 1000;
    w.acks_all();
    assert!(w.socket.marked && w.session.phase == phase::ANSWERING);
    let mut more = w.clone();
    w.reports();
    sweep_for(&mut w, 4000);
    assert_eq!(w.ended().acked_bytes, 1000);
    more.asks(100);
    assert!(more.socket.marked);
}

#[test]
fn a_delivery_opened_while_the_mark_is_taken_away_is_marked() {
    fn asks(socket: &mut Socket, s: &mut Session) {
        let segment = drive::Segment {
            seq: socket.rcv_nxt,
            ack: socket.snd_una,
            has_ack: true,
            payload: 300,
        };
        drive::segment(
            socket,
            s,
            &probe_ebpf::settings::Settings::default(),
            9000 * MS,
            segment,
        );
        socket.rcv_nxt += 300;
    }
    fn asks_and_is_cut_off(socket: &mut Socket, s: &mut Session) {
        asks(socket, s);
        drive::state_changed(socket, s, 9001 * MS, drive::state::CLOSE);
    }
    let mut w = served();
    sweep_for(&mut w, 1500);
    assert!(w.socket.marked, "it may go on at any moment");
    w.wait_ms(4000);
    let mut cut = w.clone();
    w.socket.meanwhile = Some(asks);
    w.sweeps_marked();
    assert!(w.socket.marked && !is_unmarked(&w));
    assert_eq!(w.session.phase, phase::ASKED);
    // Over again at once: the mark may be there, but not missing.
    cut.socket.meanwhile = Some(asks_and_is_cut_off);
    cut.sweeps_marked();
    assert!(cut.socket.marked && !is_unmarked(&cut));
}

#[test]
fn without_memory_for_the_mark_the_next_change_or_a_round_past_all_makes_it() {
    let mut w = Wire::established(0);
    w.socket.refuses_marks = true;
    w.asks(100);
    assert!(!w.socket.marked && is_unmarked(&w));
    let mut round = w.clone();
    w.socket.refuses_marks = false;
    w.writes(1000);
    assert!(w.socket.marked && !is_unmarked(&w));
    round.sweeps();
    assert!(!round.socket.marked && is_unmarked(&round));
    round.socket.refuses_marks = false;
    round.sweeps();
    assert!(round.socket.marked && !is_unmarked(&round));
}

#[test]
fn no_memory_for_the_mark_that_was_taken_away_too_soon_is_made_good_as_well() {
    fn opens_while_memory_is_short(socket: &mut Socket, s: &mut Session) {
        socket.refuses_marks = true;
        drive::wrote(socket, s, 9000 * MS, socket.write_seq);
        socket.write_seq += 10;
    }
    let mut w = served();
    sweep_for(&mut w, 1500);
    assert!(w.socket.marked, "it may go on at any moment");
    w.wait_ms(4000);
    w.socket.meanwhile = Some(opens_while_memory_is_short);
    w.sweeps_marked();
    assert!(!w.socket.marked && is_unmarked(&w));
    w.socket.refuses_marks = false;
    w.sweeps();
    assert!(w.socket.marked && !is_unmarked(&w));
}

#[test]
fn a_round_past_all_does_not_mark_what_is_settled() {
    let mut w = served();
    sweep_for(&mut w, 4000);
    assert!(!w.socket.marked);
    w.sweeps();
    assert!(!w.socket.marked && is_unmarked(&w));
}

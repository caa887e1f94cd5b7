//! What the tracker must make of each kind of exchange, step by step.

use crate::wire::{MS, Report, Wire};
use probe_ebpf::{
    drive::{Segment, state},
    record::{ended, flag},
};

#[test]
fn a_delivery_spans_from_the_first_request_byte_to_the_last_acknowledgement() {
    let mut wire = Wire::established(100);
    wire.wait_ms(5);
    let asked = wire.now_ns;
    wire.asks(300);
    wire.wait_ms(20);
    let wrote = wire.now_ns;
    wire.writes(10_000);
    wire.wait_ms(3);
    wire.writes(5_000);
    let last_write = wire.now_ns;
    wire.wait_ms(40);
    let first_acked = wire.now_ns;
    wire.arrives(0, 100 + 1448);
    wire.wait_ms(10);
    wire.acks_all();
    let end = wire.now_ns;
    wire.wait_ms(500);
    wire.asks(300);
    let delivery = wire.ended();
    assert_eq!(delivery.t_request_ns, asked);
    assert_eq!(delivery.t_first_write_ns, wrote);
    assert_eq!(delivery.t_last_write_ns, last_write);
    assert_eq!(delivery.t_first_acked_ns, first_acked);
    assert_eq!(delivery.t_last_acked_ns, end);
    assert_eq!(
        (delivery.acked_bytes, delivery.written_bytes),
        (15_000, 15_000)
    );
    assert_eq!((delivery.request_bytes, delivery.requests), (300, 1));
    assert_eq!((delivery.index, delivery.flags), (0, 0));
}

#[test]
fn a_request_that_carries_the_last_acknowledgement_ends_the_delivery_before() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(1000);
    wire.wait_ms(40);
    wire.arrives(120, 1000);
    let first = wire.ended();
    assert_eq!(first.t_last_acked_ns, wire.now_ns);
    assert_eq!(first.acked_bytes, 1000);
    wire.writes(500);
    wire.acks_all();
    wire.goes(state::CLOSE_WAIT);
    wire.goes(state::LAST_ACK);
    wire.goes(state::CLOSE);
    let second = wire.ended();
    assert_eq!(
        (second.index, second.request_bytes, second.acked_bytes),
        (1, 120, 500)
    );
}

#[test]
fn a_segment_that_is_seen_twice_before_it_is_taken_asks_once() {
    let mut wire = Wire::established(0);
    let segment = Segment {
        seq: 0,
        ack: 0,
        has_ack: true,
        payload: 100,
    };
    for _ in 0..2 {
        let Wire {
            now_ns,
            socket,
            session,
            settings,
        } = &mut wire;
        probe_ebpf::drive::segment(socket, session, settings, *now_ns, segment);
    }
    wire.socket.rcv_nxt = 100;
    wire.wait_ms(5);
    wire.writes(1000);
    wire.acks_all();
    wire.wait_ms(500);
    wire.asks(100);
    let delivery = wire.ended();
    assert_eq!((delivery.request_bytes, delivery.requests), (100, 1));
}

#[test]
fn old_bytes_of_the_client_ask_nothing() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(1000);
    wire.acks_all();
    wire.wait_ms(10);
    // The request again.
    let segment = probe_ebpf::drive::Segment {
        seq: 0,
        ack: 1000,
        has_ack: true,
        payload: 100,
    };
    probe_ebpf::drive::segment(
        &mut wire.socket,
        &mut wire.session,
        &wire.settings,
        wire.now_ns,
        segment,
    );
    assert!(wire.reports().is_empty());
    assert_eq!(wire.session.index, 0);
}

#[test]
fn a_request_in_pieces_is_one_request_and_thinking_begins_after_the_last() {
    let mut wire = Wire::established(0);
    let first = wire.now_ns;
    wire.asks(1448);
    wire.wait_ms(7);
    let last = wire.now_ns;
    wire.asks(600);
    wire.wait_ms(1);
    wire.writes(10);
    wire.acks_all();
    wire.wait_ms(2000);
    wire.sweeps();
    let delivery = wire.ended();
    assert_eq!(
        (delivery.t_request_ns, delivery.t_request_last_ns),
        (first, last)
    );
    assert_eq!((delivery.request_bytes, delivery.requests), (2048, 1));
}

#[test]
fn a_pipelined_request_makes_a_busy_period() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(5000);
    wire.asks(100);
    wire.writes(5000);
    wire.acks_all();
    wire.wait_ms(2000);
    wire.sweeps();
    let delivery = wire.ended();
    assert_eq!((delivery.requests, delivery.acked_bytes), (2, 10_000));
    assert_ne!(delivery.flags & flag::BUSY_PERIOD, 0);
}

#[test]
fn a_close_delimited_answer_ends_with_its_last_byte_not_with_the_fin() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(5000);
    wire.goes(state::FIN_WAIT1);
    wire.wait_ms(30);
    let data_acked = wire.now_ns;
    wire.arrives(0, 5000);
    wire.wait_ms(30);
    wire.arrives(0, 5001);
    wire.goes(state::FIN_WAIT2);
    wire.goes(state::CLOSE);
    let reports = wire.reports();
    let [Report::End(delivery), Report::Session { ended, fin_acked }] = reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!(delivery.t_last_acked_ns, data_acked);
    assert_eq!((delivery.acked_bytes, delivery.written_bytes), (5000, 5000));
    assert_eq!(delivery.flags & (flag::ABORTED | flag::END_BOUNDED), 0);
    assert_eq!((ended, fin_acked), (ended::SERVER_FIN, true));
}

#[test]
fn an_end_that_no_hook_saw_is_a_bound_and_says_so() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(5000);
    wire.goes(state::FIN_WAIT1);
    wire.wait_ms(30);
    wire.socket.snd_una = wire.socket.write_seq;
    wire.goes(state::FIN_WAIT2);
    wire.goes(state::CLOSE);
    let delivery = wire.ended();
    assert_ne!(delivery.flags & flag::END_BOUNDED, 0);
    assert_eq!(delivery.acked_bytes, 5000);
}

#[test]
fn a_client_that_resets_cuts_the_delivery() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(50_000);
    wire.arrives(0, 20_000);
    wire.client_resets();
    let reports = wire.reports();
    let [Report::End(delivery), Report::Session { ended, .. }] = reports[..] else {
        panic!("{reports:?}");
    };
    assert_ne!(delivery.flags & flag::ABORTED, 0);
    assert_eq!(
        (delivery.acked_bytes, delivery.written_bytes),
        (20_000, 50_000)
    );
    assert_eq!(
        (delivery.ended, ended),
        (ended::CLIENT_RST, ended::CLIENT_RST)
    );
}

#[test]
fn a_half_closed_client_still_gets_its_answer_measured() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.goes(state::CLOSE_WAIT);
    wire.socket.rcv_nxt += 1;
    wire.wait_ms(10);
    wire.writes(3000);
    wire.wait_ms(10);
    wire.acks_all();
    let end = wire.now_ns;
    wire.goes(state::LAST_ACK);
    wire.wait_ms(10);
    wire.acks_all();
    wire.goes(state::CLOSE);
    let delivery = wire.ended();
    assert_eq!(
        (delivery.acked_bytes, delivery.t_last_acked_ns),
        (3000, end)
    );
    assert_eq!(delivery.flags, 0);
    assert_eq!(delivery.ended, ended::CLIENT_FIN);
}

#[test]
fn a_request_that_established_the_session_is_seen_at_the_first_write() {
    let mut wire = Wire::established(0);
    wire.socket.rcv_nxt += 90;
    wire.wait_ms(2);
    wire.writes(700);
    wire.acks_all();
    wire.wait_ms(2000);
    wire.sweeps();
    let delivery = wire.ended();
    assert_eq!(delivery.t_request_ns, wire.session.t_established_ns);
    assert_eq!(
        (delivery.request_bytes, delivery.flags & !flag::SETTLED),
        (90, 0)
    );
}

#[test]
fn a_server_that_speaks_first_is_unsolicited() {
    let mut wire = Wire::established(0);
    wire.writes(60);
    wire.acks_all();
    wire.wait_ms(2000);
    wire.sweeps();
    let delivery = wire.ended();
    assert_ne!(delivery.flags & flag::UNSOLICITED, 0);
}

#[test]
fn what_is_written_after_the_quiet_gap_is_the_resumed_rest() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(200);
    wire.acks_all();
    wire.wait_ms(1500);
    wire.sweeps();
    assert_eq!(wire.ended().flags & flag::RESUMED, 0);
    wire.writes(10_000);
    wire.acks_all();
    wire.wait_ms(10);
    wire.asks(100);
    let rest = wire.ended();
    assert_ne!(rest.flags & flag::RESUMED, 0);
    assert_eq!((rest.index, rest.acked_bytes), (1, 10_000));
}

#[test]
fn a_settled_delivery_is_reported_once() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(200);
    wire.acks_all();
    wire.wait_ms(1500);
    wire.sweeps();
    wire.wait_ms(250);
    wire.sweeps();
    wire.asks(100);
    assert_eq!(wire.reports().len(), 1);
    assert_eq!(wire.session.index, 1);
}

#[test]
fn a_sweep_that_loses_against_a_change_reports_nothing() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(200);
    wire.acks_all();
    wire.wait_ms(1500);
    wire.socket.race = true;
    wire.sweeps();
    assert!(wire.reports().is_empty());
    wire.socket.race = false;
    wire.sweeps();
    assert_eq!(wire.ended().acked_bytes, 200);
}

#[test]
fn a_delivery_past_its_deadline_is_reported_once_and_while_it_is_late() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(9000);
    wire.wait_ms(3900);
    wire.sweeps();
    assert!(wire.reports().is_empty());
    wire.wait_ms(200);
    wire.sweeps();
    let reports = wire.reports();
    let [Report::Late(late)] = reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!((late.acked_bytes, late.written_bytes), (0, 9000));
    wire.arrives(0, 4000);
    wire.wait_ms(100);
    wire.sweeps();
    wire.acks_all();
    wire.wait_ms(1100);
    wire.sweeps();
    assert_ne!(wire.ended().flags & flag::LATE, 0);
}

#[test]
fn progress_is_reported_at_its_interval_and_not_of_what_is_complete() {
    let mut wire = Wire::established(0);
    wire.settings.progress_ns = 1000 * MS;
    wire.asks(100);
    wire.writes(9000);
    for _ in 0..9 {
        wire.wait_ms(250);
        wire.sweeps();
    }
    assert_eq!(wire.reports().len(), 1);
    wire.acks_all();
    wire.wait_ms(900);
    wire.sweeps();
    assert!(wire.reports().is_empty());
}

#[test]
fn retransmissions_are_told_apart_and_belong_to_their_delivery() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(90_000);
    wire.retransmits(3, 3);
    wire.retransmits(2, 4);
    wire.retransmits(1, 0);
    wire.acks_all();
    // A FIN sent again is the session's, not the delivery's.
    wire.goes(state::FIN_WAIT1);
    wire.retransmits(1, 4);
    wire.acks_all();
    wire.goes(state::FIN_WAIT2);
    wire.goes(state::CLOSE);
    let delivery = wire.ended();
    assert_eq!(
        (
            delivery.retrans_fast,
            delivery.retrans_rto,
            delivery.retrans_tlp
        ),
        (3, 2, 1)
    );
    let session = wire.session.session_retrans;
    assert_eq!((session.fast, session.rto, session.tlp), (3, 3, 1));
}

#[test]
fn the_tls_handshake_is_no_delivery() {
    const HANDSHAKE: [u8; 3] = [22, 3, 3];
    const DATA: [u8; 3] = [23, 3, 3];
    let mut wire = Wire::established(0);
    wire.asks(517);
    wire.writes_tls(1500, HANDSHAKE);
    wire.wait_ms(40);
    // Finished, acknowledging the server's flight, then at once the request.
    wire.arrives(80, 1500);
    assert_ne!(wire.ended().flags & flag::HANDSHAKE, 0);
    wire.writes_tls(500, DATA);
    wire.wait_ms(1);
    let asked = wire.now_ns;
    wire.asks(400);
    assert_ne!(wire.ended().flags & flag::HANDSHAKE, 0);
    wire.writes_tls(100_000, DATA);
    wire.acks_all();
    wire.wait_ms(10);
    wire.asks(400);
    let delivery = wire.ended();
    assert_eq!(delivery.flags, flag::TLS);
    assert_eq!(
        (delivery.t_request_ns, delivery.acked_bytes),
        (asked, 100_000)
    );
}

#[test]
fn a_finished_that_nobody_answers_is_no_request() {
    let mut wire = Wire::established(0);
    wire.asks(517);
    wire.writes_tls(1500, [22, 3, 3]);
    wire.arrives(80, 1500);
    wire.reports();
    wire.wait_ms(9000);
    wire.sweeps();
    assert!(wire.reports().is_empty());
    let asked = wire.now_ns;
    wire.asks(400);
    wire.writes_tls(100, [23, 3, 3]);
    wire.acks_all();
    wire.wait_ms(1500);
    wire.sweeps();
    let delivery = wire.ended();
    assert_eq!(delivery.t_request_ns, asked);
    assert_eq!(delivery.flags & flag::HANDSHAKE, 0);
}

#[test]
fn a_request_without_answer_is_unanswered_at_the_end() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.wait_ms(50);
    wire.goes(state::CLOSE_WAIT);
    wire.goes(state::CLOSE);
    assert_ne!(wire.ended().flags & flag::UNANSWERED, 0);
}

#[test]
fn a_session_that_times_out_says_so() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(100);
    wire.socket.error = 110;
    wire.goes(state::CLOSE);
    let reports = wire.reports();
    assert!(
        matches!(reports[..], [Report::End(_), Report::Session { ended, .. }] if ended == ended::TIMEOUT),
        "{reports:?}"
    );
}

#[test]
fn an_acknowledgement_that_no_program_saw_is_made_good() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(5000);
    wire.socket.snd_una = 5000;
    wire.wait_ms(10);
    // Before the next request, which is then no pipelined one.
    wire.asks(100);
    let delivery = wire.ended();
    assert_eq!(delivery.flags, flag::END_BOUNDED);
    assert_eq!((delivery.acked_bytes, delivery.requests), (5000, 1));
    // And when nothing follows.
    wire.writes(700);
    wire.socket.snd_una = 5700;
    wire.wait_ms(1500);
    wire.sweeps();
    wire.wait_ms(1500);
    wire.sweeps();
    assert_eq!(wire.ended().acked_bytes, 700);
}

#[test]
fn the_number_in_a_reset_acknowledges_nothing() {
    let mut header = [0u8; 20];
    header[8..12].copy_from_slice(&5000u32.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = 0x14;
    assert!(!Segment::parse(&header, 20).has_ack);
    header[13] = 0x10;
    let segment = Segment::parse(&header, 1468);
    assert!(segment.has_ack);
    assert_eq!((segment.ack, segment.payload), (5000, 1448));
}

#[test]
fn a_request_in_clear_counts_from_its_first_byte_however_short_its_pieces() {
    let mut wire = Wire::established(0);
    let first = wire.now_ns;
    for _ in 0..28 {
        wire.asks(1);
        wire.wait_ms(40);
    }
    wire.writes(100);
    wire.acks_all();
    wire.wait_ms(1500);
    wire.sweeps();
    let delivery = wire.ended();
    assert_eq!((delivery.t_request_ns, delivery.request_bytes), (first, 28));
}

/// Handshake of TLS 1.3 up to the client's Finished, which has been answered by tickets.
fn tls_13() -> Wire {
    let mut wire = Wire::established(0);
    wire.asks(517);
    wire.writes_tls(1500, [22, 3, 3]);
    wire.wait_ms(20);
    wire.arrives(80, 1500);
    wire.writes_tls(500, [23, 3, 3]);
    wire.wait_ms(20);
    wire
}

#[test]
fn a_request_behind_a_lost_finished_is_not_taken_for_the_handshake() {
    let mut wire = Wire::established(0);
    wire.asks(517);
    wire.writes_tls(1500, [22, 3, 3]);
    wire.wait_ms(40);
    // The Finished fills the hole before a request that is there already.
    wire.arrives(80, 1500);
    wire.reports();
    let asked = wire.now_ns;
    wire.socket.rcv_nxt += 157;
    wire.writes_tls(30_000, [23, 3, 3]);
    wire.acks_all();
    wire.wait_ms(1500);
    wire.sweeps();
    let delivery = wire.ended();
    assert_eq!(delivery.flags & flag::HANDSHAKE, 0);
    assert_eq!(
        (delivery.t_request_ns, delivery.request_bytes),
        (asked, 237)
    );
}

#[test]
fn http2_shows_itself_by_its_control_frames_from_its_first_delivery_on() {
    let mut wire = tls_13();
    // Preface, SETTINGS and the first request; the server's SETTINGS are all that is answered
    // before the client acknowledges them.
    wire.asks(218);
    wire.reports();
    wire.writes_tls(60, [23, 3, 3]);
    wire.wait_ms(20);
    wire.arrives(31, wire.socket.write_seq);
    let first = wire.ended();
    assert_eq!((first.index, first.flags & flag::HANDSHAKE), (2, 0));
    assert_ne!(first.flags & flag::BUSY_PERIOD, 0);
    wire.writes(100_000);
    wire.acks_all();
    wire.wait_ms(1500);
    wire.sweeps();
    assert_ne!(wire.ended().flags & flag::BUSY_PERIOD, 0);
}

#[test]
fn a_closing_alert_makes_no_busy_period_and_no_request() {
    let mut wire = tls_13();
    wire.asks(400);
    wire.reports();
    wire.writes(5000);
    wire.acks_all();
    wire.wait_ms(10);
    wire.asks(24);
    assert_eq!(wire.ended().flags, flag::TLS);
    wire.goes(state::CLOSE_WAIT);
    wire.goes(state::CLOSE);
    let reports = wire.reports();
    assert!(
        matches!(reports[..], [Report::Session { .. }]),
        "{reports:?}"
    );
}

#[test]
fn a_retransmission_that_no_program_saw_is_in_the_sessions_total() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(9000);
    wire.socket.total_retrans += 2;
    wire.client_resets();
    let session = wire.session.session_retrans;
    assert_eq!(session.fast + session.rto + session.tlp, 2);
}

#[test]
fn a_server_that_gives_up_in_the_midst_of_things_has_reset_the_session() {
    let mut wire = Wire::established(0);
    wire.asks(100);
    wire.writes(50_000);
    wire.goes(state::CLOSE);
    let reports = wire.reports();
    let [Report::End(delivery), Report::Session { ended, .. }] = reports[..] else {
        panic!("{reports:?}");
    };
    assert_ne!(delivery.flags & flag::ABORTED, 0);
    assert_eq!(ended, ended::SERVER_RST);
}

//! Acknowledgements in the midst of an answer, whose times are left to the kernel.

use crate::wire::{MS, Report, Wire};

/// A session that is being answered: ten thousand bytes, of which one thousand is acknowledged.
fn answering() -> Wire {
    let mut w = Wire::established(0);
    w.asks(100);
    w.writes(10_000);
    w.wait_ms(20);
    w.arrives(0, 1000);
    w.wait_ms(5);
    w
}

#[test]
fn what_is_cut_off_ends_with_its_last_acknowledgement() {
    let mut w = answering();
    let first = w.now_ns - 5 * MS;
    w.arrives(0, 3000);
    assert_ne!(w.session.is_ack_untimed, 0);
    let last = w.now_ns;
    w.wait_ms(700);
    w.client_resets();
    let end = w.ended();
    assert_eq!((end.t_first_acked_ns, end.t_last_acked_ns), (first, last));
    assert_eq!((end.acked_bytes, end.written_bytes), (3000, 10_000));
}

#[test]
fn a_delivery_out_of_order_is_not_taken_for_the_last_acknowledgement() {
    let mut w = answering();
    w.arrives(0, 3000);
    let last = w.now_ns;
    w.wait_ms(50);
    w.arrives(0, 3000);
    // By a selective acknowledgement in it.
    w.socket.t_delivered_ns = w.now_ns;
    w.wait_ms(50);
    w.client_resets();
    assert_eq!(w.ended().t_last_acked_ns, last);
}

#[test]
fn the_clock_is_read_where_the_kernel_may_not_note_the_time_or_not_keep_it() {
    // Nothing stays outstanding: with what is sent next the kernel begins anew.
    let mut w = answering();
    w.socket.unsent = 5000;
    w.arrives(0, 5000);
    assert_eq!(
        (w.session.is_ack_untimed, w.session.t_last_acked_ns),
        (0, w.now_ns)
    );
    // Less than a packet is none.
    let mut w = answering();
    w.arrives(0, 1099);
    assert_eq!(
        (w.session.is_ack_untimed, w.session.t_last_acked_ns),
        (0, w.now_ns)
    );
    // A kernel that does not tell.
    let mut w = answering();
    w.socket.t_packet_ns = 0;
    w.arrives(0, 3000);
    assert_eq!(
        (w.session.is_ack_untimed, w.session.t_last_acked_ns),
        (0, w.now_ns)
    );
}

#[test]
fn the_last_acknowledgement_is_timed_after_all_and_so_is_a_client_that_asks_meanwhile() {
    let mut w = answering();
    w.arrives(0, 3000);
    let midway = w.now_ns;
    w.wait_ms(10);
    w.arrives(200, 3000);
    assert_eq!(
        (w.session.is_ack_untimed, w.session.t_last_acked_ns),
        (0, midway)
    );
    w.arrives(0, 5000);
    w.wait_ms(10);
    w.acks_all();
    assert_eq!(
        (w.session.is_ack_untimed, w.session.t_last_acked_ns),
        (0, w.now_ns)
    );
}

#[test]
fn one_that_comes_in_long_after_the_deadline_tells_of_the_lateness() {
    let mut w = answering();
    w.arrives(0, 3000);
    w.wait_ms(5000);
    // The kernel has not sent or received since: this one is not known to be late.
    w.arrives(0, 4000);
    assert!(w.reports().is_empty());
    w.wait_ms(1);
    w.arrives(0, 5000);
    let [Report::Late(late)] = w.reports()[..] else {
        panic!("not told");
    };
    assert_eq!((late.acked_bytes, late.t_last_acked_ns), (5000, w.now_ns));
}

#[test]
fn what_the_sweep_reports_has_the_kernels_time() {
    let mut w = answering();
    w.settings.deadline_ns = 100 * MS;
    w.arrives(0, 3000);
    let last = w.now_ns;
    w.wait_ms(500);
    w.sweeps_marked();
    let [Report::Late(late)] = w.reports()[..] else {
        panic!("not told");
    };
    assert_eq!(late.t_last_acked_ns, last);
}

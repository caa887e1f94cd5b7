//! What must hold after any history of a session.

use crate::wire::{Report, Wire};
use probe_ebpf::{drive::state, record::flag};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Ask(u32),
    Write(u32),
    /// Of what is outstanding, in per cent; with a request of so many bytes.
    Ack(u32, u32),
    Retransmit(u32, u8),
    Sweep,
    ClientFin,
    ServerFin,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u64..3000).prop_map(Step::Wait),
        3 => (1u32..3000).prop_map(Step::Ask),
        4 => (1u32..200_000).prop_map(Step::Write),
        5 => (1u32..=100, prop_oneof![Just(0u32), 1u32..1000]).prop_map(|(a, b)| Step::Ack(a, b)),
        1 => (1u32..5, 0u8..5).prop_map(|(n, c)| Step::Retransmit(n, c)),
        3 => Just(Step::Sweep),
        1 => Just(Step::ClientFin),
        1 => Just(Step::ServerFin),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every byte acknowledged is in exactly one record, every record in order and once, its
    /// times in order, its retransmissions within the session's.
    #[test]
    fn nothing_is_lost_and_nothing_counted_twice(
        isn in any::<u32>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut wire = Wire::established(isn);
        wire.settings.progress_ns = 500_000_000;
        let (mut client_fin, mut server_fin) = (false, false);
        let mut reports = Vec::new();
        for step in steps {
            match step {
                Step::Wait(ms) => wire.wait_ms(ms),
                Step::Ask(bytes) if !client_fin => wire.asks(bytes),
                Step::Write(bytes) if !server_fin => wire.writes(bytes),
                Step::Ack(percent, bytes) => {
                    let end = wire.socket.write_seq;
                    let out = end.wrapping_sub(wire.socket.snd_una);
                    let ack = wire.socket.snd_una.wrapping_add(
                        u32::try_from(u64::from(out) * u64::from(percent) / 100).unwrap(),
                    );
                    wire.arrives(if client_fin { 0 } else { bytes }, ack);
                }
                Step::Retransmit(n, ca) => wire.retransmits(n, ca),
                Step::Sweep => wire.sweeps(),
                Step::ClientFin if !client_fin => {
                    client_fin = true;
                    wire.goes(state::CLOSE_WAIT);
                    wire.socket.rcv_nxt = wire.socket.rcv_nxt.wrapping_add(1);
                }
                Step::ServerFin if !server_fin => {
                    server_fin = true;
                    wire.goes(state::FIN_WAIT1);
                }
                _ => {}
            }
            reports.extend(wire.reports());
        }
        wire.goes(state::CLOSE);
        reports.extend(wire.reports());

        let mut acked = 0;
        let mut retransmitted = 0;
        let mut next_index = 0;
        let mut last_end = 0;
        let mut sessions = 0;
        let mut late = Vec::new();
        for report in &reports {
            match report {
                Report::End(d) => {
                    prop_assert!(d.index >= next_index, "out of order: {d:?}");
                    next_index = d.index + 1;
                    prop_assert!(d.acked_bytes <= d.written_bytes);
                    prop_assert!(d.t_request_ns >= last_end, "overlaps: {d:?}");
                    prop_assert!(d.t_request_last_ns >= d.t_request_ns);
                    if d.flags & flag::UNANSWERED != 0 {
                        prop_assert_eq!(d.written_bytes, 0);
                    } else {
                        prop_assert!(d.t_first_write_ns >= d.t_request_ns);
                        prop_assert!(d.t_last_write_ns >= d.t_first_write_ns);
                    }
                    if d.acked_bytes > 0 {
                        prop_assert!(d.t_first_acked_ns >= d.t_first_write_ns);
                        prop_assert!(d.t_last_acked_ns >= d.t_first_acked_ns);
                        last_end = d.t_last_acked_ns;
                    }
                    let complete = d.acked_bytes == d.written_bytes && d.written_bytes > 0;
                    prop_assert_eq!(
                        complete,
                        d.flags & (flag::ABORTED | flag::UNANSWERED) == 0,
                        "{:?}", d
                    );
                    acked += d.acked_bytes;
                    retransmitted += d.retrans_fast + d.retrans_rto + d.retrans_tlp;
                }
                Report::Late(d) => {
                    prop_assert!(!late.contains(&d.index), "late twice: {d:?}");
                    late.push(d.index);
                }
                Report::Progress(d) => prop_assert!(d.index >= next_index),
                Report::Session { .. } => sessions += 1,
            }
        }
        prop_assert_eq!(sessions, 1);
        let fin = u32::from(server_fin && wire.socket.snd_una == wire.socket.write_seq);
        let all = wire.socket.snd_una.wrapping_sub(isn).wrapping_sub(fin);
        prop_assert_eq!(acked, u64::from(all));
        let session = wire.session.session_retrans;
        prop_assert_eq!(session.fast + session.rto + session.tlp, wire.socket.total_retrans);
        prop_assert!(retransmitted <= wire.socket.total_retrans);
    }
}

//! What holds whatever the model is told, in whatever order.

use proptest::prelude::*;

use super::super::*;
use super::network::EPOCH_NS;

const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
enum Told {
    UnderWay(UnderWay),
    Labelled(Labelled),
    Finished(Finished),
    Over(SessionOver),
    Nothing,
}

/// Times near each other mostly, and anything now and then.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        20 => (0..120_000_u64).prop_map(|ms| EPOCH_NS + ms * 1_000_000),
        1 => any::<u64>(),
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![5 => 0..3_000_000_u64, 1 => any::<u64>()]
}

fn id() -> impl Strategy<Value = RequestId> {
    (0..3_u32, 0..20_u32).prop_map(|(session, number)| RequestId { session, number })
}

fn object() -> impl Strategy<Value = Object> {
    (
        prop_oneof![
            4 => Just(Class::Segment),
            1 => Just(Class::Manifest),
            1 => Just(Class::Init),
            1 => Just(Class::Part)
        ],
        prop_oneof![Just(Media::Muxed), Just(Media::Video), Just(Media::Audio)],
        prop_oneof![4 => Just(2_000_000), 1 => any::<u32>()],
        proptest::option::of(prop_oneof![9 => 0..20_u64, 1 => any::<u64>()]),
        0..4_u32,
        any::<(bool, bool)>(),
    )
        .prop_map(
            |(class, media, duration_us, number, rung, (is_live, is_range))| Object {
                class,
                media,
                duration_us,
                bitrate_bps: u64::from(rung) * 1_000_000,
                rung,
                number,
                is_live,
                range: is_range.then_some(Range {
                    first: number.unwrap_or(0),
                    last: u64::MAX,
                }),
            },
        )
}

fn claim() -> impl Strategy<Value = Claim> {
    (
        proptest::option::of(prop_oneof![9 => 0..20_000_u32, 1 => any::<u32>()]),
        any::<bool>(),
        any::<Option<bool>>(),
        any::<Option<u16>>(),
        any::<Option<u32>>(),
    )
        .prop_map(
            |(ahead_ms, starved, starting, rate_percent, startup_ms)| Claim {
                ahead_ms,
                starved,
                starting,
                rate_percent,
                startup_ms,
                failed: false,
            },
        )
}

fn told() -> impl Strategy<Value = Told> {
    let under_way = (
        id(),
        time(),
        time(),
        any::<(bool, bool)>(),
        count(),
        count(),
    )
        .prop_map(
            |(id, t_request_ns, t_ns, (is_sole, is_app_limited), acked_bytes, written_bytes)| {
                Told::UnderWay(UnderWay {
                    id,
                    t_request_ns,
                    t_ns,
                    is_sole,
                    acked_bytes,
                    written_bytes,
                    is_app_limited,
                    ..UnderWay::default()
                })
            },
        );
    let labelled = (
        id(),
        time(),
        object(),
        any::<bool>(),
        count(),
        claim(),
        0..7_u16,
    )
        .prop_map(
            |(id, t_request_ns, object, has_claim, expected_bytes, claim, status)| {
                Told::Labelled(Labelled {
                    id,
                    t_request_ns,
                    object,
                    status: status * 100,
                    is_written: true,
                    expected_bytes,
                    claim: has_claim.then_some(claim),
                })
            },
        );
    let finished = (
        id(),
        time(),
        time(),
        time(),
        count(),
        any::<u32>(),
        object(),
        0..10_u8,
    )
        .prop_map(
            |(id, t_request_ns, t_last_acked_ns, t_ns, acked_bytes, srtt_us, object, end)| {
                Told::Finished(Finished {
                    id,
                    t_request_ns,
                    t_first_write_ns: t_request_ns,
                    t_last_acked_ns,
                    t_ns,
                    acked_bytes,
                    srtt_us: srtt_us % 1_000_000,
                    end: match end {
                        0 => End::ClientAbort,
                        1 => End::OtherAbort,
                        2 => End::Unanswered,
                        _ => End::Complete,
                    },
                    object: (end != 3).then_some(object),
                    ..Finished::default()
                })
            },
        );
    let over = (0..3_u32, time(), any::<(bool, bool)>()).prop_map(
        |(session, t_ns, (by_client, is_last))| {
            Told::Over(SessionOver {
                session,
                t_ns,
                by_client,
                is_last,
            })
        },
    );
    prop_oneof![3 => under_way, 3 => labelled, 4 => finished, 1 => over, 2 => Just(Told::Nothing)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_order_and_no_content_makes_it_panic_count_backwards_or_stall_longer_than_time(
        story in proptest::collection::vec((told(), 0..3_000_u64), 1..120),
        start_us in any::<[u32; 3]>(),
        begin_us in any::<u32>(),
    ) {
        let with = Thresholds {
            start_us,
            begin_us,
            ..Thresholds::default()
        }
        .bounded();
        let mut viewer = Viewer::new(EPOCH_NS);
        let mut now_ns = EPOCH_NS;
        let mut before = Sums::default();
        let mut out = Vec::new();
        let mut goes_on = None;
        let check = |viewer: &Viewer, now_ns: u64, before: &mut Sums| {
            let sums = viewer.sums();
            let view = viewer.view(now_ns, &with);
            for bounds in [sums.stalled_us, view.sums.stalled_us, view.ahead_us] {
                prop_assert!(bounds.lo <= bounds.point && bounds.point <= bounds.hi);
            }
            let wall_us = (now_ns - EPOCH_NS) / 1000;
            prop_assert!(view.sums.stalled_us.hi <= wall_us, "{view:?} in {wall_us}");
            prop_assert!(sums.stalled_us.hi <= wall_us, "{sums:?} in {wall_us}");
            prop_assert!(sums.played_us >= before.played_us);
            prop_assert!(sums.startup_us >= before.startup_us);
            prop_assert!(sums.stalls >= before.stalls && sums.seeks >= before.seeks);
            prop_assert!(sums.stalled_us.lo >= before.stalled_us.lo);
            prop_assert!(sums.stalled_us.point >= before.stalled_us.point);
            prop_assert!(sums.stalled_us.hi >= before.stalled_us.hi);
            *before = sums;
            Ok(())
        };
        for (told, after_ms) in &story {
            now_ns += after_ms * 1_000_000;
            match told {
                Told::UnderWay(told) => viewer.under_way(told, now_ns, &with, &mut out),
                Told::Labelled(told) => viewer.labelled(told, now_ns, &with, &mut out),
                Told::Finished(told) => viewer.finished(told, now_ns, &with, &mut out),
                Told::Over(told) => viewer.session_over(told, now_ns, &with, &mut out),
                Told::Nothing => viewer.advance(now_ns, &with, &mut out),
            }
            prop_assert!(viewer.wake_ns() > now_ns);
            for change in out.drain(..) {
                match change {
                    Change::StallBegan { t_ns, .. } => {
                        prop_assert_eq!(goes_on, None);
                        goes_on = Some(t_ns);
                    }
                    Change::StallEnded { t_began_ns, t_ns, .. } => {
                        prop_assert!(goes_on.is_some() && t_began_ns <= t_ns && t_ns <= now_ns);
                        goes_on = None;
                    }
                    // One that goes on, or the latest that was over.
                    Change::StallRetracted { t_began_ns } if goes_on == Some(t_began_ns) => {
                        goes_on = None;
                    }
                    _ => {}
                }
            }
            check(&viewer, now_ns, &mut before)?;
        }
        viewer.end(now_ns + SECOND_NS, Ending::Forgotten, &with, &mut out);
        prop_assert!(viewer.is_ended() && viewer.wake_ns() == u64::MAX);
        check(&viewer, now_ns + SECOND_NS, &mut before)?;
    }
}

#[test]
fn no_clock_is_too_strange() {
    let with = Thresholds::default();
    for t_ns in [0, 1, u64::MAX / 2, u64::MAX] {
        for now_ns in [0, EPOCH_NS, u64::MAX] {
            let mut out = Vec::new();
            let mut viewer = Viewer::new(t_ns);
            let id = RequestId::default();
            let under_way = UnderWay {
                id,
                t_request_ns: t_ns,
                t_ns,
                ..UnderWay::default()
            };
            viewer.under_way(&under_way, now_ns, &with, &mut out);
            let finished = Finished {
                id,
                t_request_ns: t_ns,
                t_last_acked_ns: u64::MAX,
                t_ns: u64::MAX,
                object: Some(Object {
                    duration_us: u32::MAX,
                    ..Object::default()
                }),
                ..Finished::default()
            };
            viewer.finished(&finished, now_ns, &with, &mut out);
            viewer.advance(u64::MAX, &with, &mut out);
            viewer.view(u64::MAX, &with);
            viewer.end(0, Ending::Left, &with, &mut out);
            assert!(viewer.is_ended());
        }
    }
}

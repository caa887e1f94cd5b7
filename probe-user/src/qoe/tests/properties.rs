//! What must hold of every story.

use probe_ebpf::record::flag;
use proptest::prelude::*;

use super::story::{Story, apart, hot_first, port_of, story};
use super::*;

fn retransmits(counters: &Counters) -> u64 {
    counters.retrans_fast + counters.retrans_rto + counters.retrans_tlp
}

/// Takes a story in; at each step, what must hold always must hold.
fn tell(fold: &mut Fold, story: &Story) -> Result<(), TestCaseError> {
    let mut before = Counters::default();
    for (record, lost) in &story.records {
        if *lost {
            continue;
        }
        take(fold, record);
        let (counters, gauges) = total(fold);
        for ((name, now), (_, before)) in counters.named().iter().zip(before.named()) {
            prop_assert!(*now >= before, "{name} went from {before} to {now}");
        }
        prop_assert_eq!(gauges.sessions_open, fold.sessions().open() as u64);
        prop_assert!(gauges.deliveries_open <= gauges.sessions_open);
        prop_assert!(gauges.deliveries_open_late <= gauges.deliveries_open);
        before = counters;
    }
    Ok(())
}

proptest! {
    #[test]
    fn without_loss_every_count_is_exact_in_any_order_of_the_rings(story in story(false)) {
        let mut fold = fold_with(100, 10);
        tell(&mut fold, &story)?;
        let (counters, gauges) = total(&fold);
        prop_assert_eq!(gauges, Gauges::default());
        prop_assert_eq!(counters.sessions_started + counters.sessions_adopted, 4);
        prop_assert_eq!((counters.sessions_ended, counters.ended_client_rst), (4, 4));
        prop_assert_eq!(retransmits(&counters), story.retrans());
        let shapes = || story.lives.iter().flat_map(|life| &life.shapes);
        let of = |bit: u32| shapes().filter(|shape| shape.flags & bit != 0).count() as u64;
        prop_assert_eq!(counters.late_deliveries, shapes().filter(|s| s.late).count() as u64);
        prop_assert_eq!(counters.busy_periods, of(flag::BUSY_PERIOD));
        prop_assert_eq!(counters.unsolicited, of(flag::UNSOLICITED));
        prop_assert_eq!(counters.resumed, of(flag::RESUMED));
        prop_assert_eq!(counters.tls_handshakes, of(flag::HANDSHAKE));
        prop_assert_eq!(counters.unanswered_requests, of(flag::UNANSWERED));
        let aborted = story.lives.iter().filter(|life| life.aborted).count() as u64;
        prop_assert_eq!(counters.aborted_deliveries, aborted);
        let whole: u64 = story.lives.iter().map(|life| {
            let not_counted = flag::UNSOLICITED | flag::RESUMED | flag::HANDSHAKE | flag::UNANSWERED;
            let mut shapes = life.shapes.iter().filter(|s| s.flags & not_counted == 0);
            let cut = life.aborted && life.shapes.last().is_some_and(|s| s.flags & not_counted == 0);
            shapes.by_ref().count() as u64 - u64::from(cut)
        }).sum();
        prop_assert_eq!(counters.deliveries, whole);
        for life in story.lives.iter().filter(|life| life.end.flags & flag::ADOPTED == 0) {
            let session = fold.sessions().iter_from(0).find(|(_, s)| s.cookie == life.end.cookie);
            let traffic = session.unwrap().1.traffic;
            prop_assert_eq!(traffic.acked_bytes, life.end.acked_bytes);
            prop_assert_eq!(traffic.segments, u64::from(life.end.segments));
        }
    }

    #[test]
    fn loss_costs_resolution_and_the_sessions_end_repairs_the_totals(story in story(true)) {
        let mut fold = fold_with(100, 10);
        tell(&mut fold, &story)?;
        for life in &story.lives {
            let ended = story.records.iter().any(|(record, lost)| {
                !lost && matches!(record, Record::End(end) if end.cookie == life.end.cookie)
            });
            let found = fold.sessions().iter_from(0).find(|(_, s)| s.cookie == life.end.cookie);
            let Some((_, session)) = found else {
                prop_assert!(!ended);
                continue;
            };
            let end = &life.end;
            let truth = (end.retrans_fast, end.retrans_rto, end.retrans_tlp);
            let truth = (truth.0.into(), truth.1.into(), truth.2.into());
            let t = session.traffic;
            let told = (t.retrans_fast, t.retrans_rto, t.retrans_tlp);
            if ended {
                prop_assert_eq!(told, truth);
                prop_assert_eq!(session.state(), State::Ended);
            } else {
                prop_assert!(told.0 <= truth.0 && told.1 <= truth.1 && told.2 <= truth.2);
            }
        }
        let (counters, _) = total(&fold);
        let sessions = fold.sessions().iter_from(0);
        let per_session: u64 = sessions.map(|(_, s)| s.traffic.retransmits()).sum();
        prop_assert_eq!(retransmits(&counters), per_session);
    }

    #[test]
    fn a_table_too_small_forgets_and_never_counts_twice(
        (story, max_sessions) in (any::<bool>(), any::<bool>())
            .prop_flat_map(|(lossy, in_step)| {
                story(lossy).prop_map(move |story| if in_step { hot_first(story) } else { story })
            })
            .prop_map(apart)
            .prop_flat_map(|story| (Just(story), 1..4_usize)),
    ) {
        let mut fold = fold_with(max_sessions, 10);
        tell(&mut fold, &story)?;
        prop_assert!(fold.sessions().len() <= max_sessions);
        prop_assert!(fold.recent().len() <= 8);
        for life in &story.lives {
            let service = Service::Port(port_of(life.end.cookie));
            let of_life = |(key, _): &(&CellKey, &Cell)| key.service == service;
            // All its records were lost.
            let Some((_, cell)) = fold.cells().iter().find(of_life) else { continue };
            let told = &cell.counters;
            for ((name, told), truth) in told.named().iter().zip(life.at_most(told).named()) {
                prop_assert!(*told <= truth.1, "{name} of {life:?}: {told} > {}", truth.1);
            }
            prop_assert!(told.sessions_started + told.sessions_adopted <= 1);
        }
    }

    #[test]
    fn after_lost_ends_the_gauges_come_right_with_time(story in story(true)) {
        let mut fold = fold_with(100, 10);
        tell(&mut fold, &story)?;
        fold.records_lost(100 * SECOND_NS);
        fold.advance(1000 * SECOND_NS);
        prop_assert_eq!(total(&fold).1, Gauges::default());
        prop_assert!(fold.sessions().is_empty());
    }

    #[test]
    fn cells_merge_in_any_order_to_what_one_fold_would_have_counted(
        one in story(false), two in story(false), three in story(false),
    ) {
        let fold_of = |stories: &[&Story]| {
            let mut fold = fold_with(100, 10);
            for (n, story) in (0..).zip(stories) {
                for (record, _) in &story.records {
                    let mut record = *record;
                    // Every host has its own cookies.
                    match &mut record {
                        Record::Start(record) => record.cookie += n * 100,
                        Record::Delivery(record) => record.cookie += n * 100,
                        Record::End(record) => record.cookie += n * 100,
                    }
                    take(&mut fold, &record);
                }
            }
            fold
        };
        let merged = |stories: &[&Story]| {
            let mut cells = cell::Cells::new(10);
            for story in stories {
                for (key, cell) in fold_of(&[story]).cells().iter() {
                    let place = cells.place(key.clone());
                    cells.get_mut(place).absorb(&cell.snapshot(key.clone(), true));
                }
            }
            snapshots(&cells)
        };
        let together = snapshots(fold_of(&[&one, &two, &three]).cells());
        prop_assert_eq!(&together, &merged(&[&one, &two, &three]));
        prop_assert_eq!(&together, &merged(&[&three, &one, &two]));
    }
}

fn snapshots(cells: &cell::Cells) -> Vec<CellSnapshot> {
    let mut all: Vec<_> = cells
        .iter()
        .map(|(key, cell)| cell.snapshot(key.clone(), true))
        .collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;
use weir_proto::v1;

use super::*;
use crate::query::filter::Filter;

const NOW_MS: u64 = 1_700_000_000_000;

fn fleet() -> Fleet {
    Fleet::new(Limits {
        max_hosts: 16,
        max_cells: 1 << 16,
    })
}

fn hello(boot_id: &str, started_unix_ns: u64) -> v1::Hello {
    v1::Hello {
        host: "edge".into(),
        boot_id: boot_id.into(),
        lane: v1::Lane::Warm.into(),
        started_unix_ns,
        ..v1::Hello::default()
    }
}

fn cell(service: &str, deliveries: u64) -> v1::Cell {
    v1::Cell {
        key: Some(v1::CellKey {
            service: service.into(),
            content_class: "-".into(),
            network: "other".into(),
            transport: "tcp4".into(),
            tier: v1::EvidenceTier::Kernel.into(),
            backend: v1::Backend::Exact.into(),
        }),
        counters: Some(v1::Counters {
            deliveries,
            ..v1::Counters::default()
        }),
        ..v1::Cell::default()
    }
}

/// As they are when they were sent and checked.
fn sent(cells: impl IntoIterator<Item = v1::Cell>) -> Arc<[SentCell]> {
    let cells = cells.into_iter().map(|cell| cell.encode_to_vec().into());
    let cells: Vec<_> = cells.collect();
    sent::cells(&cells, &[]).unwrap().into()
}

fn tick(seq: u64) -> v1::Frame {
    v1::Frame {
        lane: v1::Lane::Warm.into(),
        seq,
        tick: true,
        ..v1::Frame::default()
    }
}

/// A tick of a boot with one cell reaches a fleet.
fn say(
    fleet: &mut Fleet,
    hello: &v1::Hello,
    way: Way,
    seq: u64,
    count: u64,
    at_ms: u64,
) -> Result<Merged, Error> {
    let how = How { way, ..how(at_ms) };
    fleet.merge(hello, &tick(seq), sent([cell("a", count)]), how)
}

fn deliveries(fleet: &Fleet) -> u64 {
    let cells = fleet.cells(&Filter::default(), false, NOW_MS * 1_000_000);
    let counters = cells.cells.iter().filter_map(|cell| cell.counters);
    counters.map(|counters| counters.deliveries).sum()
}

fn host(fleet: &Fleet, at_ms: u64) -> v1::Host {
    fleet.hosts(at_ms * 1_000_000).hosts.remove(0)
}

/// By way of the engine, at that time.
fn how(at_ms: u64) -> How {
    How {
        way: Way::Engine,
        heard_unix_ns: at_ms * 1_000_000,
        is_of_now: true,
        deliveries: 0,
    }
}

#[test]
fn a_boot_that_speaks_is_never_over_whatever_its_clock_says() {
    let (mut here, mut there) = (fleet(), fleet());
    let both = |fleets: &mut [&mut Fleet; 2], hello: &v1::Hello, seq, count, at_ms| {
        say(fleets[0], hello, Way::Link, seq, count, at_ms).unwrap();
        say(fleets[1], hello, Way::Engine, seq, count, at_ms).unwrap();
    };
    let mut fleets = [&mut here, &mut there];
    for n in 0..8_u64 {
        let old = hello(&format!("old-{n}"), (1_000 + n) * 1_000_000_000);
        fleets[0].connect(&old).unwrap();
        both(&mut fleets, &old, 1, 10, NOW_MS + n);
        fleets[0].disconnect(&old);
    }
    // Its clock was set back before it began.
    let live = hello("live", 5_000_000_000);
    fleets[0].connect(&live).unwrap();
    both(&mut fleets, &live, 1, 100, NOW_MS + 100);
    // It brings what boots before it had left on disk: more than are kept apart.
    for n in 0..20_u64 {
        let mut late = hello(&format!("late-{n}"), (2_000 + n) * 1_000_000_000);
        late.is_recovery = true;
        fleets[0].connect(&late).unwrap();
        both(&mut fleets, &late, 7, 1, NOW_MS + 101 + n);
        fleets[0].disconnect(&late);
    }
    both(&mut fleets, &live, 2, 5_000, NOW_MS + 200);
    for fleet in &fleets {
        assert_eq!(deliveries(fleet), 8 * 10 + 20 + 5_000);
        let host = host(fleet, NOW_MS + 201);
        assert_eq!((host.boot_id.as_str(), host.boots), ("live", 29));
    }
}

#[test]
fn a_boot_that_was_never_heard_of_may_come_again() {
    let mut fleet = fleet();
    for n in 0..20 {
        let hello = hello(&format!("boot-{n}"), n);
        fleet.connect(&hello).unwrap();
        fleet.disconnect(&hello);
    }
    let first = hello("boot-0", 0);
    fleet.connect(&first).unwrap();
    say(&mut fleet, &first, Way::Link, 1, 3, NOW_MS).unwrap();
    assert_eq!(deliveries(&fleet), 3);
}

#[test]
fn of_thousands_of_boots_none_is_counted_twice() {
    let mut fleet = fleet();
    let boots: Vec<_> = (0..4_500)
        .map(|n| hello(&format!("boot-{n}"), (1 + n) * 1_000_000_000))
        .collect();
    for (n, boot) in (0..).zip(&boots) {
        say(&mut fleet, boot, Way::Engine, 1, 1, NOW_MS + n * 1_000).unwrap();
    }
    let at_ms = NOW_MS + 5_000_000;
    // Those that are remembered, by whatever way they come again.
    for boot in &boots[500..4_400] {
        let again = say(&mut fleet, boot, Way::Engine, 1, 1, at_ms);
        assert_eq!(again, Err(Error::Past(boot.boot_id.clone())));
    }
    // And those that are not, from the disk that they are on.
    for boot in &boots[..500] {
        let boot = v1::Hello {
            is_recovery: true,
            ..boot.clone()
        };
        assert!(fleet.connect(&boot).is_err());
        assert!(say(&mut fleet, &boot, Way::Engine, 1, 1, at_ms).is_err());
    }
    assert_eq!(deliveries(&fleet), 4_500);
    assert_eq!(host(&fleet, at_ms).boots, 4_500);
    // A new one is not taken for one of them, although its clock was set back.
    let new = hello("new", 7);
    say(&mut fleet, &new, Way::Engine, 1, 1, at_ms).unwrap();
    assert_eq!(deliveries(&fleet), 4_501);
}

#[test]
fn what_was_counted_of_a_hosts_frames_never_falls() {
    let mut fleet = fleet();
    let mut expected = 0;
    for n in 0..20_u64 {
        let hello = v1::Hello {
            lane: v1::Lane::Hot.into(),
            ..hello(&format!("boot-{n}"), n)
        };
        let events = if n == 0 { 1_000 } else { 1 };
        fleet.connect(&hello).unwrap();
        let frame = v1::Frame {
            lane: v1::Lane::Hot.into(),
            seq: 3,
            events: vec![v1::HotEvent::default(); events],
            events_total: events as u64 + 2,
            ..v1::Frame::default()
        };
        let how = How {
            way: Way::Link,
            heard_unix_ns: (NOW_MS + n) * 1_000_000,
            is_of_now: true,
            deliveries: frame.deliveries.len() as u64,
        };
        for _ in 0..2 {
            fleet.merge(&hello, &frame, sent([]), how).unwrap();
        }
        fleet.refused(&hello);
        fleet.disconnect(&hello);
        expected += events as u64;
        let host = host(&fleet, NOW_MS + n);
        let boots = n + 1;
        assert_eq!((host.events, host.events_lost), (expected, 2 * boots));
        assert_eq!((host.frames, host.frames_stale), (boots, boots));
        assert_eq!(host.frames_refused, boots);
    }
}

#[test]
fn a_clock_is_compared_by_ticks_alone() {
    let mut fleet = fleet();
    let hello = hello("boot", 1);
    let mut hear = |lane: v1::Lane, tick, unix_ns, at_ms: u64| {
        let frame = v1::Frame {
            lane: lane.into(),
            seq: at_ms,
            tick,
            unix_ns,
            delay_us: 2_000,
            ..v1::Frame::default()
        };
        let how = How {
            way: Way::Engine,
            heard_unix_ns: at_ms * 1_000_000,
            is_of_now: true,
            deliveries: frame.deliveries.len() as u64,
        };
        fleet.merge(&hello, &frame, sent([]), how).unwrap();
        host(&fleet, at_ms).clock_offset_ms
    };
    // Its clock is 90 s ahead; the content is 2 ms old, and 3 ms are on the way.
    let unix_ns = (NOW_MS - 5 + 90_000) * 1_000_000;
    assert_eq!(hear(v1::Lane::Warm, true, unix_ns, NOW_MS), 89_997);
    // A frame of nothing, as edges made it, and an old event.
    assert_eq!(hear(v1::Lane::Cold, false, 0, NOW_MS + 1), 89_997);
    assert_eq!(hear(v1::Lane::Hot, false, 5, NOW_MS + 2), 89_997);
}

#[test]
fn a_host_that_makes_names_up_leaves_room_for_those_of_others() {
    let mut fleet = fleet();
    let how = |n: u64| How {
        way: Way::Engine,
        heard_unix_ns: (NOW_MS + n) * 1_000_000,
        is_of_now: true,
        deliveries: 0,
    };
    for n in 0..5 {
        let boot = hello(&format!("boot-{n}"), n);
        let cells = (0..1_000).map(|m| cell(&format!("made-up-{n}-{m}"), 1));
        fleet.merge(&boot, &tick(1), sent(cells), how(n)).unwrap();
    }
    let honest = v1::Hello {
        host: "honest".into(),
        ..hello("boot", 1)
    };
    let cells = sent([cell("real", 7), cell("made-up-0-0", 3)]);
    fleet.merge(&honest, &tick(1), cells, how(9)).unwrap();
    let cells = fleet
        .cells(&Filter::default(), false, NOW_MS * 1_000_000)
        .cells;
    let of = |service: &str| {
        let is_it = |cell: &&v1::Cell| cell.key.as_ref().unwrap().service == service;
        let found = cells.iter().find(is_it).unwrap();
        found.counters.unwrap().deliveries
    };
    assert_eq!((of("real"), of("made-up-0-0")), (7, 1 + 3));
    assert!(cells.len() <= MAX_PLACES_OF_A_HOST + 2, "{}", cells.len());
    assert_eq!(deliveries(&fleet), 5_000 + 10);
    assert!(fleet.cells_overflowed() > 4_000);
}

#[test]
fn when_names_run_out_those_that_nobody_uses_make_room_and_the_sum_stays() {
    let mut fleet = fleet();
    let of = |host: u64| v1::Hello {
        host: format!("host-{host}"),
        ..hello("boot", 1)
    };
    let cells = |n: u64, count| (0..500).map(move |m| cell(&format!("{n}-{m}"), count));
    for n in 0..8 {
        let cells = sent(cells(n, 2));
        fleet.merge(&of(n), &tick(1), cells, how(NOW_MS)).unwrap();
    }
    // All are in use.
    assert!(fleet.make_room(NOW_MS + 60_000).is_empty());
    // One goes on.
    let at_ms = NOW_MS + 1_000_000;
    let more = sent(cells(0, 5));
    fleet.merge(&of(0), &tick(2), more, how(at_ms)).unwrap();
    assert_eq!(deliveries(&fleet), 7 * 1_000 + 2_500);
    let gone = fleet.make_room(at_ms);
    assert_eq!(gone.len(), 7 * 500);
    assert_eq!(deliveries(&fleet), 7 * 1_000 + 2_500);
    // There is room for others, and one that was silent goes on in the cell that it is in now.
    let overflowed = fleet.cells_overflowed();
    fleet
        .merge(&of(20), &tick(1), sent(cells(20, 1)), how(at_ms))
        .unwrap();
    assert_eq!(fleet.cells_overflowed(), overflowed);
    fleet
        .merge(&of(3), &tick(2), sent(cells(3, 4)), how(at_ms))
        .unwrap();
    assert_eq!(deliveries(&fleet), 6 * 1_000 + 2_500 + 500 + 2_000);
    let told = fleet.cells(&Filter::default(), false, at_ms * 1_000_000);
    let services = told.cells.iter();
    let other = services.filter(|cell| cell.key.as_ref().unwrap().service == "other");
    let other: Vec<_> = other
        .map(|cell| (cell.hosts, cell.counters.unwrap().deliveries))
        .collect();
    assert_eq!(other, [(7, 6 * 1_000 + 2_000)]);
    assert_eq!(told.cells.len(), 500 + 500 + 1);
}

/// Other boots of the same host, as many as are needed to let go of one.
fn others(fleet: &mut Fleet, way: Way, names: &str, at_ms: u64) -> u64 {
    for n in 0..8 {
        let other = hello(&format!("{names}-{n}"), n);
        fleet.connect(&other).unwrap();
        say(fleet, &other, way, 1, 1, at_ms + n).unwrap();
        fleet.disconnect(&other);
    }
    8
}

#[test]
fn a_boot_that_was_let_go_and_speaks_again_goes_on_where_it_was() {
    for way in [Way::Link, Way::Engine] {
        let mut fleet = fleet();
        let cut_off = hello("cut-off", 1);
        fleet.connect(&cut_off).unwrap();
        say(&mut fleet, &cut_off, way, 1, 10, NOW_MS).unwrap();
        say(&mut fleet, &cut_off, way, 3, 15, NOW_MS + 1).unwrap();
        fleet.disconnect(&cut_off);
        let mut sum = 15;
        for round in 0..3 {
            let at_ms = NOW_MS + 100_000 * (1 + round);
            sum += others(&mut fleet, way, &format!("other-{round}"), at_ms);
            assert_eq!(deliveries(&fleet), sum);
            let boots = 1 + 8 * (1 + round);
            assert_eq!(host(&fleet, at_ms).boots, boots);
            // It knows what the collector has of it.
            assert_eq!(fleet.connect(&cut_off), Ok(3 + round));
            let seq = 4 + round;
            // What it had said already is no news, by whatever way it comes.
            for (again, merged) in [
                (1, Merged::Repeated),
                (seq, Merged::New),
                (seq, Merged::Repeated),
            ] {
                let count = if again == seq { 20 + round } else { 10 };
                assert_eq!(
                    say(&mut fleet, &cut_off, way, again, count, at_ms + 50),
                    Ok(merged)
                );
            }
            sum += if round == 0 { 5 } else { 1 };
            assert_eq!(deliveries(&fleet), sum);
            let host = host(&fleet, at_ms + 51);
            assert_eq!((host.boot_id.as_str(), host.boots), ("cut-off", boots));
            fleet.disconnect(&cut_off);
        }
        // The one that was missing in between is late, and is counted once.
        assert_eq!(
            say(&mut fleet, &cut_off, way, 2, 12, NOW_MS + 900_000),
            Ok(Merged::Late)
        );
        assert_eq!(deliveries(&fleet), sum);
    }
}

#[test]
fn what_rests_gives_way_where_cells_are_short_and_is_not_counted_twice() {
    let mut fleet = Fleet::new(Limits {
        max_hosts: 16,
        max_cells: 64,
    });
    let first = hello("first", 1);
    say(&mut fleet, &first, Way::Engine, 1, 10, NOW_MS).unwrap();
    let sum = 10 + others(&mut fleet, Way::Engine, "other", NOW_MS + 1_000);
    assert_eq!(fleet.cells_held(), 9);
    // A host with as many cells as there are: all that rests goes for it, and nothing else.
    let large = v1::Hello {
        host: "large".into(),
        ..hello("boot", 1)
    };
    let how = how(NOW_MS + 2_000);
    let many = |count| sent((0..56).map(|n| cell(&format!("service-{n}"), count)));
    let merged = fleet.merge(&large, &tick(1), many(1), how);
    assert_eq!(merged, Ok(Merged::New));
    assert_eq!(fleet.cells_held(), 8 + 56);
    assert_eq!(deliveries(&fleet), sum + 56);
    let again = say(&mut fleet, &first, Way::Engine, 2, 11, NOW_MS + 3_000);
    assert_eq!(again, Err(Error::Past("first".to_owned())));
    // No more than half is kept for those that are silent.
    let more = say(
        &mut fleet,
        &hello("more", 1),
        Way::Engine,
        1,
        1,
        NOW_MS + 4_000,
    );
    assert_eq!(more, Ok(Merged::New));
    assert_eq!(fleet.cells_held(), 8 + 56);
    assert_eq!(deliveries(&fleet), sum + 57);
}

#[test]
fn what_rests_goes_on_in_the_cell_that_its_own_went_over_to() {
    let mut fleet = fleet();
    let first = hello("first", 1);
    let cells = |count| sent((0..100).map(|n| cell(&format!("old-{n}"), count)));
    fleet
        .merge(&first, &tick(1), cells(2), how(NOW_MS))
        .unwrap();
    let mut sum = 200 + others(&mut fleet, Way::Engine, "other", NOW_MS + 1_000);
    for n in 0..7 {
        let other = v1::Hello {
            host: format!("host-{n}"),
            ..hello("boot", 1)
        };
        let cells = sent((0..500).map(|m| cell(&format!("{n}-{m}"), 1)));
        let at_ms = NOW_MS + 1_000_000;
        fleet.merge(&other, &tick(1), cells, how(at_ms)).unwrap();
        sum += 500;
    }
    let at_ms = NOW_MS + 1_000_100;
    assert!(fleet.make_room(at_ms).len() > 100);
    // Names that are new take the places.
    let newer = v1::Hello {
        host: "newer".into(),
        ..hello("boot", 1)
    };
    let news = sent((0..100).map(|n| cell(&format!("new-{n}"), 7)));
    fleet.merge(&newer, &tick(1), news, how(at_ms)).unwrap();
    fleet.merge(&first, &tick(2), cells(5), how(at_ms)).unwrap();
    assert_eq!(deliveries(&fleet), sum + 700 + 300);
    let told = fleet.cells(&Filter::default(), false, at_ms * 1_000_000);
    let new: Vec<_> = told
        .cells
        .iter()
        .filter(|cell| cell.key.as_ref().unwrap().service.starts_with("new-"))
        .map(|cell| cell.counters.unwrap().deliveries)
        .collect();
    assert_eq!(new, [7; 100]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Boots come and go in any order, as many as may rest and be kept apart.
    #[test]
    fn whoever_comes_and_goes_the_sum_is_that_of_what_each_said_last(
        steps in proptest::collection::vec((0_u64..32, 0_u64..100, any::<bool>(), any::<bool>()), 1..400),
    ) {
        let mut fleet = fleet();
        let mut said: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (n, (boot, more, by_link, again)) in (0..).zip(steps) {
            let hello = hello(&format!("boot-{boot}"), boot);
            let (seq, count) = said.entry(boot).or_default();
            if !again || *seq == 0 {
                *seq += 1;
                *count += more;
            }
            let way = if by_link { Way::Link } else { Way::Engine };
            if by_link {
                fleet.connect(&hello).unwrap();
            }
            say(&mut fleet, &hello, way, *seq, *count, NOW_MS + n).unwrap();
            if by_link {
                fleet.disconnect(&hello);
            }
            let sum: u64 = said.values().map(|(_, count)| count).sum();
            prop_assert_eq!(deliveries(&fleet), sum);
            prop_assert_eq!(host(&fleet, NOW_MS + n).boots, said.len() as u64);
        }
    }
}

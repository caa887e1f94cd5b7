//! Schedules of faults between an edge's uplink and a collector, over real gRPC: whatever happens in
//! whatever order, afterwards the centre's totals equal the edge's, to the unit. Collectors are processes
//! that get SIGKILL; behind every fourth schedule's there is a NATS server, and there are two of them.
//!
//! A schedule follows from its seed. A few run with every `cargo test`; `WEIR_FAULT_SCHEDULES=200`
//! runs so many, from `WEIR_FAULT_SEED` on, and says which failed.

mod common;
mod faults {
    pub(crate) mod centre;
    pub(crate) mod edge;
    pub(crate) mod mischief;
    pub(crate) mod wire;
}

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::centre::Collector;
use faults::centre::Centre;
use faults::edge::{Edge, Past, Story};
use faults::mischief::Mischief;
use faults::wire::Wire;
use tokio::sync::Semaphore;
use weir::qoe::Cell;
use weir::wire::{self, Heard};
use weir_proto::v1;

const SCHEDULES: u64 = 20;
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_the_totals_are_equal_afterwards() {
    let first = number("WEIR_FAULT_SEED", 1);
    let schedules = number("WEIR_FAULT_SCHEDULES", SCHEDULES);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = Vec::new();
    for seed in first..first + schedules {
        let permit = room.clone().acquire_owned().await.unwrap();
        running.push((
            seed,
            tokio::spawn(async move {
                let _permit = permit;
                schedule(seed).await
            }),
        ));
    }
    let mut done = Done::default();
    let mut failed = Vec::new();
    for (seed, task) in running {
        match task.await {
            Ok(Ok(one)) => done.add(&one),
            Ok(Err(why)) => failed.push(format!("WEIR_FAULT_SEED={seed}: {why}")),
            Err(err) => failed.push(format!("WEIR_FAULT_SEED={seed}: {err}")),
        }
    }
    println!("{schedules} schedules: {done:?}");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // Faults that never happen prove nothing.
    assert!(schedules < SCHEDULES || done.is_varied(), "{done:?}");
}

/// What happened in how many steps.
#[derive(Clone, Debug, Default)]
struct Done {
    ticks: u64,
    edge_kills: u64,
    collector_kills: u64,
    cuts: u64,
    partitions: u64,
    slow: u64,
    torn: u64,
    full_disks: u64,
    clock_steps: u64,
    repeated: u64,
    held: u64,
    /// Of those with an engine.
    engine_kills: u64,
    moves: u64,
}

impl Done {
    fn all(&mut self) -> [&mut u64; 13] {
        [
            &mut self.ticks,
            &mut self.edge_kills,
            &mut self.collector_kills,
            &mut self.cuts,
            &mut self.partitions,
            &mut self.slow,
            &mut self.torn,
            &mut self.full_disks,
            &mut self.clock_steps,
            &mut self.repeated,
            &mut self.held,
            &mut self.engine_kills,
            &mut self.moves,
        ]
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in self.all().into_iter().zip(other.clone().all()) {
            *sum += *more;
        }
    }

    fn is_varied(&self) -> bool {
        self.clone().all().into_iter().all(|count| *count > 0)
    }
}

async fn pause(random: &mut fastrand::Rng, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(random.u64(0..=most_ms))).await;
}

async fn schedule(seed: u64) -> Result<Done, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut done = Done::default();
    let directory = tempfile::tempdir().unwrap();
    let mut centre = Centre::start(seed.is_multiple_of(4)).await;
    let mischief = Mischief::start(centre.url(), random.u64(..)).await;
    let wire = Wire::start(mischief.address).await;
    let mut story = Story::default();
    let mut edge = Edge::start(&wire.url(), directory.path(), &mut story).await;

    for _ in 0..random.u32(12..30) {
        for _ in 0..random.u32(1..4) {
            edge.count(&mut random);
            edge.tick(&mut story);
            done.ticks += 1;
            pause(&mut random, 15).await;
        }
        let kinds = if centre.has_engine() { 17 } else { 14 };
        match random.u32(0..kinds) {
            0 => {
                done.edge_kills += 1;
                let is_kept = random.u32(0..10) < 7 && edge.is_kept().await;
                edge = edge.kill(&mut story, is_kept).await;
            }
            1 => {
                done.collector_kills += 1;
                centre.lose_one(&mut random, &mischief, &mut story).await;
            }
            2 | 3 => {
                done.cuts += 1;
                wire.cut();
            }
            4 => {
                done.partitions += 1;
                wire.block(true);
                for _ in 0..random.u32(1..6) {
                    edge.count(&mut random);
                    edge.tick(&mut story);
                    pause(&mut random, 100).await;
                }
                wire.block(false);
            }
            5 => {
                done.slow += 1;
                wire.slow(random.usize(200..3000));
                pause(&mut random, 300).await;
                wire.slow(0);
            }
            6 => {
                done.torn += 1;
                wire.tear();
            }
            7 => {
                done.full_disks += 1;
                edge.fill_disk(true);
            }
            8 => edge.fill_disk(false),
            9 => {
                done.clock_steps += 1;
                edge.step_clock(random.i64(-7_200_000_000_000..7_200_000_000_000));
            }
            10 => mischief.repeat(random.u32(0..60)),
            11 => mischief.hold(random.u32(0..60)),
            14 => {
                done.engine_kills += 1;
                centre.lose_engine();
                for _ in 0..random.u32(1..6) {
                    edge.count(&mut random);
                    edge.tick(&mut story);
                    pause(&mut random, 100).await;
                }
                centre.resume_engine();
            }
            15 | 16 => {
                done.moves += 1;
                centre.move_edge(&mischief);
            }
            _ => pause(&mut random, 50).await,
        }
    }

    // All is well again.
    edge.fill_disk(false);
    wire.block(false);
    wire.slow(0);
    mischief.repeat(0);
    mischief.hold(0);
    edge.tick(&mut story);
    (done.repeated, done.held) = mischief.done();
    let mut result = Ok(());
    for collector in centre.collectors() {
        result = result.and(settle(&edge, &story, collector).await);
    }
    edge.finish().await;
    result.map(|()| done)
}

/// Waits until the totals are equal, or says how they differ.
async fn settle(edge: &Edge, story: &Story, collector: &Collector) -> Result<(), String> {
    let begun = tokio::time::Instant::now();
    loop {
        let difference = difference(edge, story, collector).await;
        match difference {
            None => return Ok(()),
            Some(why) if begun.elapsed() > PATIENCE => return Err(why),
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn difference(edge: &Edge, story: &Story, collector: &Collector) -> Option<String> {
    let (cells, missing) = collector.all().await;
    if !missing.is_empty() {
        return Some(format!("not all is told: {missing:?}"));
    }
    let counted = |service: &str| {
        let cell = cells
            .iter()
            .find(|cell| cell.key.as_ref().unwrap().service == service);
        cell.map_or(0, |cell| cell.counters.as_ref().unwrap().deliveries)
    };
    // Each boot counts its ticks in a cell of its own: which tick is it that the centre has?
    let mut sum: BTreeMap<String, Cell> = BTreeMap::new();
    for Past { boot, ticks, kept } in &story.past {
        let seq = counted(boot);
        let last = ticks.len() as u64;
        if !(*kept..=last).contains(&seq) {
            return Some(format!(
                "{boot}: tick {seq}, where {kept} to {last} were known"
            ));
        }
        if seq > 0 {
            Edge::add(&mut sum, &ticks[usize::try_from(seq).unwrap() - 1]);
        }
    }
    let (seq, last) = edge.last();
    if counted(&edge.boot) != seq {
        return Some(format!(
            "the last boot is at {} of {seq}",
            counted(&edge.boot)
        ));
    }
    Edge::add(&mut sum, last);
    let expected: Vec<_> = sum
        .iter()
        .map(|(service, cell)| {
            let snapshot = cell.snapshot(Edge::key(service), true);
            wire::cell(&snapshot, 1, Heard::default())
        })
        .collect();
    if cells != expected {
        let differs = cells
            .iter()
            .zip(&expected)
            .find(|(got, wanted)| got != wanted);
        return Some(format!("cells differ, e.g. {differs:?}"));
    }
    let told = collector.hosts().await;
    let [host] = &told.hosts[..] else {
        let (hosts, missing) = (told.hosts.len(), &told.missing);
        return Some(format!("{hosts} hosts are told; missing: {missing:?}"));
    };
    vital(host, last).or_else(|| items(host, edge, story))
}

/// The vital frame of the same tick has the same sums.
fn vital(host: &v1::Host, last: &[weir::qoe::CellSnapshot]) -> Option<String> {
    let vital = host.vital.as_ref()?;
    let of = |which: v1::VitalValue| -> u64 {
        let cells = vital.cells.iter().map(|cell| &cell.values);
        cells
            .chain([&vital.other])
            .map(|values| values[which as usize])
            .sum()
    };
    let deliveries: u64 = last.iter().map(|cell| cell.counters.deliveries).sum();
    let segments: u64 = last.iter().map(|cell| cell.counters.segments).sum();
    let told = (of(v1::VitalValue::Deliveries), of(v1::VitalValue::Segments));
    (told != (deliveries, segments)).then(|| {
        format!(
            "vital {told:?}, where {:?} were counted",
            (deliveries, segments)
        )
    })
}

/// What is in one frame only came once, or is known to be missing.
fn items(host: &v1::Host, edge: &Edge, story: &Story) -> Option<String> {
    if !story.past.is_empty() {
        return None;
    }
    for (what, got, lost, queue) in [
        (
            "events",
            host.events,
            host.events_lost,
            edge.events.counts(),
        ),
        (
            "deliveries",
            host.deliveries,
            host.deliveries_lost,
            edge.deliveries.counts(),
        ),
    ] {
        if got + lost != queue.made {
            return Some(format!(
                "{what}: {got} came, {lost} lost, {} made",
                queue.made
            ));
        }
        // What a collector took with it when it went is lost to the next one.
        if !story.has_lost_collector && lost != queue.shed {
            return Some(format!("{what}: {lost} lost, {} shed", queue.shed));
        }
    }
    None
}

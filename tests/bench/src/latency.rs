//! From the kernel's event to a local follower: a program writes a cut delivery into the daemon's
//! hot ring, with the time in it, and a client of the daemon's socket says when it has it; while
//! the bulk ring is idle, and while it is kept full.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, MapInfo};
use histogram::Histogram;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::time::{ClockId, clock_gettime};
use weir::query::client;
use weir_proto::v1;
use weir_tests::lab::cleanup::{self, Deferred};
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;

use crate::daemon::Daemon;
use crate::measure::Plan;
use crate::observer::Tools;
use crate::programs::{HOT_PORT, Making, Producer};
use crate::report::{Aim, Bound, Report, Samples, Table, Unit, quantile};

/// Between two events, on average.
const GAP: Duration = Duration::from_millis(1);
/// Between two fillings of the bulk ring.
const REFILL: Duration = Duration::from_micros(500);
/// Records made by one call: the kernel does not leave the processor to others within one.
const AT_ONCE: u32 = 256;
/// An event that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Quantiles of each round.
#[derive(Clone, Debug, Default)]
struct Side {
    p50_us: Samples,
    p99_us: Samples,
    p999_us: Samples,
    bulk_per_s: Samples,
}

/// Measures, and adds to the report.
pub(crate) fn measure(plan: &Plan, tools: &Tools, report: &mut Report) -> Result<()> {
    let lab = Lab::with_veth()?;
    let daemon = Daemon::start(&tools.weir, lab.dir(), None, "")?;
    let rings = Rings::pin(&daemon)?;
    let mut events = rings.producer(&tools.programs)?;
    let follower = Follower::start(daemon.socket())?;
    follower.await_first(&mut events)?;
    let mut sides = [Side::default(), Side::default()];
    for round in 0..plan.latency_rounds {
        for (saturated, side) in [false, true].into_iter().zip(&mut sides) {
            let flood = saturated
                .then(|| Flood::start(rings.producer(&tools.programs)?, REFILL))
                .transpose()?;
            let before = (Instant::now(), bulk_drained(&daemon)?);
            let latencies = follower.time(&mut events, plan.latency_events)?;
            let drained = bulk_drained(&daemon)? - before.1;
            let seconds = before.0.elapsed().as_secs_f64();
            if let Some(flood) = flood {
                flood.finish()?;
            }
            let us = |share: f64| quantile(&latencies, share).map(|ns| ns / 1e3);
            side.p50_us.0.push(us(0.5)?);
            side.p99_us.0.push(us(0.99)?);
            side.p999_us.0.push(us(0.999)?);
            side.bulk_per_s.0.push(drained as f64 / seconds);
        }
        eprintln!("  latency, round {} of {}", round + 1, plan.latency_rounds);
    }
    tell(&sides, report);
    daemon.stop()
}

fn tell([idle, saturated]: &[Side; 2], report: &mut Report) {
    let mut table = Table::new(
        "latency",
        "From the kernel's event to a local follower",
        "bulk ring",
        &[
            ("p50", Unit::Microseconds),
            ("p99", Unit::Microseconds),
            ("p99.9", Unit::Microseconds),
            ("bulk records/s", Unit::PerSecond),
        ],
    )
    .note(
        "From the time in the record, taken in the kernel, to its receipt by a client of the \
         daemon's socket that follows troubled deliveries. Saturated: the ring is filled up every \
         half millisecond, by a thread that runs when nobody else wants to.",
    );
    for (name, side) in [("idle", idle), ("saturated", saturated)] {
        table.row(
            name,
            vec![
                side.p50_us.clone(),
                side.p99_us.clone(),
                side.p999_us.clone(),
                side.bulk_per_s.clone(),
            ],
        );
    }
    report.tables.push(table);
    report.aims.extend([
        Aim {
            what: "hot event to follower, p99, bulk ring saturated".into(),
            unit: Unit::Microseconds,
            bound: Bound::AtMost,
            limit: 1000.0,
            measured: saturated.p99_us.clone(),
        },
        Aim {
            what: "the same, of that with the bulk ring idle".into(),
            unit: Unit::Ratio,
            bound: Bound::AtMost,
            limit: 1.2,
            measured: saturated.p99_us.over(&idle.p99_us),
        },
    ]);
}

/// The daemon's two rings, by names under which others can open them; gone when dropped.
pub(crate) struct Rings {
    paths: Vec<(&'static str, PathBuf)>,
    _remove: Deferred,
}

impl Rings {
    pub(crate) fn pin(daemon: &Daemon) -> Result<Self> {
        // Of two daemons at a time each has its own.
        let own = std::env::temp_dir().join(cleanup::next_name());
        std::fs::create_dir(&own).with_context(|| format!("cannot make {}", own.display()))?;
        let remove = {
            let own = own.clone();
            cleanup::defer(move || {
                let _ = umount2(&own, MntFlags::MNT_DETACH);
                let _ = std::fs::remove_dir(own);
            })
        };
        // One of its own: not every host has one mounted.
        let bpf = Some("bpf");
        mount(bpf, &own, bpf, MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpf file system at {}", own.display()))?;
        let mut paths = Vec::new();
        for id in daemon.ids("map_id")? {
            let info = MapInfo::from_id(id).context("a map of weir's")?;
            let Some(name) = ["HOT", "BULK"]
                .into_iter()
                .find(|name| info.name_as_str() == Some(name))
            else {
                continue;
            };
            let path = own.join(name);
            let map = MapData::from_id(id)?;
            map.pin(&path)
                .with_context(|| format!("cannot pin {}", path.display()))?;
            paths.push((name, path));
        }
        if paths.len() != 2 {
            bail!("weir has no rings of these names");
        }
        Ok(Self {
            paths,
            _remove: remove,
        })
    }

    /// A producer that writes into them.
    pub(crate) fn producer(&self, programs: &Path) -> Result<Producer> {
        let now = monotonic_ns()?;
        let making = Making {
            sessions: 10_000,
            deliveries: 0,
            random: true,
            troubled: 0,
            begin_ns: now,
            step_ns: 1,
        };
        Producer::load(programs, &self.paths, making)
    }
}

/// Writes many records into the bulk ring.
pub(crate) struct Flood {
    stop: std::sync::Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Flood {
    /// A batch, or as many as the ring takes, every `refill`.
    pub(crate) fn start(mut producer: Producer, refill: Duration) -> Result<Self> {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("bench-flood".into())
            .spawn(move || {
                // What is saturated is to be the ring and not the processors: on a host the records
                // come from interrupts, and leave the processor to whoever is woken.
                let parameters = libc::sched_param { sched_priority: 0 };
                // SAFETY: 0 is the calling thread; the parameters live through the call.
                if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) }
                    != 0
                {
                    bail!("cannot lower a thread's priority");
                }
                let mut made = 0;
                while !stopped.load(Ordering::Relaxed) {
                    let before = made;
                    made = producer.produce(AT_ONCE)?;
                    let is_full = made < before + u64::from(AT_ONCE);
                    if is_full || refill > REFILL {
                        std::thread::sleep(refill);
                    }
                }
                Ok(())
            })
            .context("cannot start a thread")?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        join(self.thread)
    }
}

/// Who hears of hot events, on a thread of its own.
pub(crate) struct Follower {
    /// Nanoseconds from each event to its receipt.
    pub(crate) received: Receiver<u64>,
    pub(crate) missed: std::sync::Arc<AtomicU64>,
    pub(crate) _thread: JoinHandle<Result<()>>,
}

impl Follower {
    /// A client of the daemon's socket that follows troubled deliveries.
    fn start(socket: &Path) -> Result<Self> {
        let (to, received) = mpsc::channel();
        let missed = std::sync::Arc::new(AtomicU64::new(0));
        let (socket, count) = (socket.to_owned(), missed.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting a runtime")?;
        let thread = std::thread::Builder::new()
            .name("bench-follower".into())
            .spawn(move || {
                runtime.block_on(async {
                    let mut client = client::local(&socket).await?;
                    let request = v1::ListDeliveriesRequest {
                        filter: Some(v1::Filter {
                            ports: vec![HOT_PORT.into()],
                            only_troubled: true,
                            ..v1::Filter::default()
                        }),
                        limit: 1,
                        follow: true,
                        handshakes: false,
                    };
                    let mut stream = client.list_deliveries(request).await?.into_inner();
                    while let Some(delivery) = stream.message().await? {
                        let now = monotonic_ns()?;
                        count.fetch_add(delivery.missed_before, Ordering::Relaxed);
                        // The event's session is named by its time.
                        if to.send(now.saturating_sub(delivery.session)).is_err() {
                            break;
                        }
                    }
                    Ok(())
                })
            })
            .context("cannot start a thread")?;
        Ok(Self {
            received,
            missed,
            _thread: thread,
        })
    }

    /// Makes events until one comes: then the follower follows.
    pub(crate) fn await_first(&self, events: &mut Producer) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            events.hot_event()?;
            if self
                .received
                .recv_timeout(Duration::from_millis(100))
                .is_ok()
            {
                // What was made in vain may still come.
                while self
                    .received
                    .recv_timeout(Duration::from_millis(100))
                    .is_ok()
                {}
                return Ok(());
            }
        }
        bail!("no hot event reached the follower")
    }

    /// Makes events at random times, and times them.
    pub(crate) fn time(&self, events: &mut Producer, count: usize) -> Result<Histogram> {
        let mut latencies = Histogram::new(7, 40).context("making a histogram")?;
        let missed = self.missed.load(Ordering::Relaxed);
        for _ in 0..count {
            std::thread::sleep(GAP.mul_f64(0.5 + fastrand::f64()));
            events.hot_event()?;
        }
        for n in 0..count {
            let ns = self
                .received
                .recv_timeout(PATIENCE)
                .with_context(|| format!("of {count} hot events {n} reached the follower"))?;
            latencies.increment(ns).context("counting a latency")?;
        }
        if self.missed.load(Ordering::Relaxed) != missed {
            bail!("the follower missed events");
        }
        Ok(latencies)
    }
}

fn bulk_drained(daemon: &Daemon) -> Result<u64> {
    let losses = daemon.status()?.losses.context("a status without losses")?;
    Ok(losses.bulk.map_or(0, |ring| ring.drained))
}

pub(crate) fn monotonic_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the clock")?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

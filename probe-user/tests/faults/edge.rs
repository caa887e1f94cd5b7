//! An edge whose uplink is real and whose measurements are made up.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir::kernel::BackendKind;
use weir::labels::Service;
use weir::qoe::viewer::Tier;
use weir::qoe::{Cell, CellKey, CellSnapshot, Event, Metric, Transport};
use weir::query::Followed;
use weir::tls::Connector;
use weir::uplink::ring::disk::{Directory, Disk};
use weir::uplink::ring::{self, Ring};
use weir::uplink::{
    self, Budgets, DELIVERIES_KEPT, EVENTS_KEPT, Encoded, HotEvent, Inputs, Options, Private,
    Queue, Tick, UplinkCounts,
};
use weir::wire::{Context, WIRE_VERSION};
use weir_proto::v1;

use crate::common::{at, delivery};

const START_UNIX_NS: i64 = 1_790_000_000_000_000_000;

/// What every boot knew, and what is known of it.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) past: Vec<Past>,
    pub(crate) has_lost_collector: bool,
    /// The directory of the ring is full.
    full: Arc<AtomicBool>,
    clock_ns: i64,
}

/// A boot that was killed.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) boot: String,
    /// The cells of each tick, from 1.
    pub(crate) ticks: Vec<Vec<CellSnapshot>>,
    /// The last tick that is on disk; 0: none.
    pub(crate) kept: u64,
}

/// A directory that is full at times, in the middle of what is written.
#[derive(Debug)]
struct Fillable {
    inner: Directory,
    full: Arc<AtomicBool>,
}

impl Disk for Fillable {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn list(&mut self) -> io::Result<Vec<(u64, u64)>> {
        self.inner.list()
    }
    fn read(&mut self, number: u64) -> io::Result<Vec<u8>> {
        self.inner.read(number)
    }
    fn create(&mut self, number: u64) -> io::Result<()> {
        self.inner.create(number)
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            self.inner.append(&bytes[..bytes.len() / 3])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.append(bytes)
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }
    fn remove(&mut self, number: u64) -> io::Result<()> {
        self.inner.remove(number)
    }
}

/// The running boot.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) boot: String,
    pub(crate) events: Arc<Queue<HotEvent>>,
    pub(crate) deliveries: Arc<Queue<Box<Followed>>>,
    url: String,
    directory: PathBuf,
    full: Arc<AtomicBool>,
    clock_ns: i64,
    started: Instant,
    cells: BTreeMap<String, Cell>,
    ticks: Vec<Vec<CellSnapshot>>,
    ticks_to: watch::Sender<Option<Arc<Tick>>>,
    latest_unix_ns: u64,
    pub(crate) counts: Arc<UplinkCounts>,
    finish: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The directory, when the boot before has let go of it.
async fn free(directory: &Path) -> Directory {
    for _ in 0..500 {
        match Directory::open(directory) {
            Ok(directory) => return directory,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("the boot before still holds its ring");
}

impl Edge {
    pub(crate) async fn start(url: &str, directory: &Path, story: &mut Story) -> Self {
        let boot = format!("boot-{}", story.past.len());
        let disk = Fillable {
            inner: free(directory).await,
            full: story.full.clone(),
        };
        let (ticks_to, ticks) = watch::channel(None);
        let events = Arc::new(Queue::new(EVENTS_KEPT));
        let deliveries = Arc::new(Queue::new(DELIVERIES_KEPT));
        let counts = Arc::new(UplinkCounts::default());
        let finish = CancellationToken::new();
        let options = Options {
            collector: Connector::new(url.parse().unwrap(), None),
            hello: v1::Hello {
                wire_version: WIRE_VERSION,
                host: "edge-1".into(),
                boot_id: boot.clone(),
                weir_version: "0".into(),
                backend: v1::Backend::Exact.into(),
                kernel_release: "6".into(),
                started_unix_ns: story.past.len() as u64 + 1,
                ..v1::Hello::default()
            },
            private: Private::default(),
            budgets: Budgets {
                hot: 1 << 24,
                warm: 1 << 24,
                cold: 1 << 24,
            },
            core: None,
            ring: Some(ring::Options {
                directory: None,
                open: Box::new(move || Ok(Box::new(disk))),
                max_bytes: 16 << 20,
                every: Duration::ZERO,
            }),
        };
        let inputs = Inputs {
            ticks,
            events: events.clone(),
            deliveries: Some(deliveries.clone()),
            centre: None,
            finish: finish.clone(),
        };
        let task = tokio::spawn(uplink::run(options, inputs, counts.clone()));
        Self {
            boot,
            events,
            deliveries,
            url: url.to_owned(),
            directory: directory.to_owned(),
            full: story.full.clone(),
            clock_ns: story.clock_ns,
            started: Instant::now(),
            cells: BTreeMap::new(),
            ticks: Vec::new(),
            ticks_to,
            latest_unix_ns: 0,
            counts,
            finish,
            task,
        }
    }

    pub(crate) fn key(service: &str) -> CellKey {
        CellKey {
            service: Service::Named(service.into()),
            content_class: "-".into(),
            network: "other".into(),
            transport: Transport::Tcp4,
            tier: Tier::Kernel,
            backend: BackendKind::Exact,
        }
    }

    /// Something is measured.
    pub(crate) fn count(&mut self, random: &mut fastrand::Rng) {
        for _ in 0..random.u32(1..8) {
            let cell = self
                .cells
                .entry(format!("s{}", random.u32(0..25)))
                .or_default();
            cell.counters.deliveries += random.u64(0..100);
            cell.counters.segments += random.u64(0..10_000);
            cell.counters.stalls += random.u64(0..3);
            cell.record(Metric::SrttUs, random.u64(100..900_000));
            cell.record(Metric::DeliveryLatencyUs, random.u64(100..9_000_000));
        }
        for index in 0..random.u32(0..20) {
            let session = random.u64(1..9);
            if random.u32(0..4) == 0 {
                self.happen(session, index);
            } else {
                let followed = Self::followed(session, index);
                self.deliveries.push_quietly(Box::new(followed));
            }
        }
    }

    fn followed(session: u64, index: u32) -> Followed {
        Followed {
            record: delivery(session, 443, index, at(0)),
            cell: Self::key("s0"),
            context: Context {
                unix_minus_monotonic_ns: 0,
                tick_hz: 1000,
                backend: BackendKind::Exact,
            },
        }
    }

    /// Something happens that must be known at once.
    pub(crate) fn happen(&self, session: u64, index: u32) {
        self.events.push(HotEvent::Delivery {
            event: Event::Late,
            delivery: Box::new(Self::followed(session, index)),
        });
    }

    pub(crate) fn tick(&mut self, story: &mut Story) {
        let seq = self.ticks.len() as u64 + 1;
        // How far this boot has come, to be read off at the centre.
        self.cells
            .entry(self.boot.clone())
            .or_default()
            .counters
            .deliveries = seq;
        let cells: Vec<_> = self
            .cells
            .iter()
            .map(|(service, cell)| cell.snapshot(Self::key(service), true))
            .collect();
        self.ticks.push(cells.clone());
        story.clock_ns = self.clock_ns;
        let elapsed = i64::try_from(self.started.elapsed().as_nanos()).unwrap();
        self.latest_unix_ns = (START_UNIX_NS + self.clock_ns + elapsed).unsigned_abs();
        self.ticks_to.send_replace(Some(Arc::new(Tick {
            seq,
            unix_ns: self.latest_unix_ns,
            made: Instant::now(),
            interval_ms: 10,
            config_generation: 1,
            losses: v1::Losses::default(),
            cells,
            encoded: Encoded::default(),
            off: String::new(),
            budget: None,
        })));
    }

    pub(crate) fn fill_disk(&self, is_full: bool) {
        self.full.store(is_full, Ordering::Relaxed);
    }

    pub(crate) fn step_clock(&mut self, by_ns: i64) {
        self.clock_ns += by_ns;
    }

    /// Waits until the latest tick is on disk; false if that is full.
    pub(crate) async fn is_kept(&self) -> bool {
        for _ in 0..500 {
            let ring = self.counts.status().ring.unwrap_or_default();
            if ring.error.is_empty() && ring.newest_unix_ns == self.latest_unix_ns {
                return true;
            }
            if self.full.load(Ordering::Relaxed) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the latest tick does not come to the disk");
    }

    /// As if by SIGKILL; then the next boot begins.
    pub(crate) async fn kill(self, story: &mut Story, is_kept: bool) -> Self {
        self.task.abort();
        let _ = self.task.await;
        let disk = free(&self.directory).await;
        let (ring, found) = Ring::open(Box::new(disk), v1::Hello::default(), 16 << 20).unwrap();
        drop(ring);
        let last = found
            .last
            .iter()
            .find(|(hello, _)| hello.boot_id == self.boot);
        let kept = last.map_or(0, |(_, frame)| frame.seq);
        let made = self.ticks.len() as u64;
        assert!(
            !is_kept || kept == made,
            "tick {made} was on disk, found {kept}"
        );
        story.past.push(Past {
            boot: self.boot,
            ticks: self.ticks,
            kept,
        });
        Self::start(&self.url, &self.directory, story).await
    }

    /// The latest tick.
    pub(crate) fn last(&self) -> (u64, &[CellSnapshot]) {
        let last = self.ticks.last().map_or(&[][..], Vec::as_slice);
        (self.ticks.len() as u64, last)
    }

    pub(crate) fn add(sum: &mut BTreeMap<String, Cell>, cells: &[CellSnapshot]) {
        for cell in cells {
            sum.entry(cell.key.service.to_string())
                .or_default()
                .absorb(cell);
        }
    }

    /// In order.
    pub(crate) async fn finish(self) {
        self.finish.cancel();
        self.task.await.unwrap().unwrap();
    }
}

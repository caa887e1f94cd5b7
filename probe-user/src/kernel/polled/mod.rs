//! The polled backend: nothing is loaded into the kernel. Every socket is looked at again and
//! again, over netlink, with `TCP_INFO`, and its last word is heard when the kernel destroys it;
//! the tracker that the kernel programs run makes deliveries of what the looks find.
//!
//! Any user may do this in the network namespace that the daemon runs in.

mod filter;
mod glance;
mod half_open;
mod info;
mod namespace;
mod pace;
mod probes;
mod queue;
mod session;
pub(super) mod sockdiag;

use std::{
    collections::HashSet,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
    time::{ClockId, clock_gettime},
};
use probe_ebpf::settings;

use self::{
    filter::Judge,
    namespace::{Common, Namespace},
    pace::Pace,
    queue::Queue,
    sockdiag::Buffer,
};
use super::{
    Backend, BackendKind, Filter, HalfOpenGiveUp, KernelCounts, Means, Options, Probe, Record,
    Ring, SWEEP_INTERVAL, Settings, namespaces,
};

pub(super) use probes::try_sockets;

/// Of the `*_ticks` fields: `TCP_INFO` tells its clocks in microseconds, and a tenth of a
/// millisecond holds five days in 32 bits.
const TICK_HZ: u32 = 10_000;
/// Between two searches for network namespaces that have come or gone.
const NAMESPACES_INTERVAL: Duration = Duration::from_secs(5);

/// Sockets under watch.
#[derive(Debug)]
pub struct Polled {
    probes: Vec<Probe>,
    tells_cgroups: bool,
    namespaces: Vec<Namespace>,
    common: Common,
    buffer: Buffer,
    /// Readable while bulk records wait, or last words.
    bulk_wake: Epoll,
    /// When the latest look was over, and before when there is to be none.
    looked: Instant,
    next_look: Instant,
    pace: Pace,
    next_search: Instant,
    /// Namespaces that could not be entered, and of which that was said.
    told: HashSet<u64>,
}

/// `CLOCK_MONOTONIC`, which the kernel programs read as well.
fn monotonic_ns() -> u64 {
    // Cannot fail: every Linux has this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
    })
}

impl Polled {
    /// Begins to watch. Sessions that are already there wait for [`Backend::adopt`].
    pub fn start(options: &Options, settings: &Settings) -> Result<Self> {
        let findings = probes::findings()?;
        let hot = Queue::new(options.hot_ring_bytes)?;
        let bulk = Queue::new(options.bulk_ring_bytes)?;
        let bulk_wake = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll")?;
        bulk_wake
            .add(&bulk, EpollEvent::new(EpollFlags::EPOLLIN, 0))
            .context("waiting for records")?;
        let mut polled = Self {
            probes: findings.probes,
            tells_cgroups: findings.tells_cgroups,
            namespaces: Vec::new(),
            common: Common {
                judge: Judge::new(&Filter::default(), findings.tells_cgroups)?,
                settings: settings::Settings::default(),
                hot,
                bulk,
                counts: KernelCounts::default(),
                followed: 0,
                max_followed: options.max_sessions as usize,
                given_up: Vec::new(),
            },
            buffer: Buffer::new(),
            bulk_wake,
            looked: Instant::now(),
            next_look: Instant::now(),
            pace: Pace::new(),
            next_search: Instant::now(),
            told: HashSet::new(),
        };
        polled
            .apply(settings)
            .context("the configured filter cannot be put in force")?;
        polled.watch(namespaces::own()?)?;
        Ok(polled)
    }

    /// Watches the calling thread's network namespace.
    fn watch(&mut self, inode: u64) -> Result<()> {
        let namespace = enter(inode)?;
        self.take_in(namespace)
    }

    fn take_in(&mut self, namespace: Namespace) -> Result<()> {
        self.bulk_wake
            .add(
                &namespace.farewells,
                EpollEvent::new(EpollFlags::EPOLLIN, 0),
            )
            .context("waiting for destroyed sockets")?;
        self.namespaces.push(namespace);
        Ok(())
    }

    /// Watches namespaces that have come, and lets go of those that only this daemon still holds.
    /// Returns how many could not be entered.
    fn search(&mut self) -> Result<usize> {
        self.next_search = Instant::now() + NAMESPACES_INTERVAL;
        let own = namespaces::own()?;
        let others = namespaces::others(own);
        let (kept, gone): (_, Vec<_>) =
            std::mem::take(&mut self.namespaces)
                .into_iter()
                .partition(|namespace| {
                    let inode = u64::from(namespace.netns());
                    inode == own || others.iter().any(|other| other.inode() == inode)
                });
        self.namespaces = kept;
        for namespace in gone {
            // Fails only if it is not there, as it should be.
            let _ = self.bulk_wake.delete(&namespace.farewells);
            namespace.leave(&mut self.common);
        }
        self.told
            .retain(|told| others.iter().any(|other| other.inode() == *told));
        let mut failed = 0;
        for other in others {
            let known = |namespace: &Namespace| u64::from(namespace.netns()) == other.inode();
            if self.namespaces.iter().any(known) {
                continue;
            }
            match other.enter(|| enter(other.inode())) {
                Ok(namespace) => self.take_in(namespace)?,
                Err(err) => {
                    if self.told.insert(other.inode()) {
                        tracing::warn!("{other}: {err:#}");
                    }
                    failed += 1;
                }
            }
        }
        Ok(failed)
    }

    /// Looks at every socket once; an error only after all namespaces had their turn.
    fn look(&mut self) -> Result<()> {
        let began = Instant::now();
        let (result, took) = pace::timed(|| {
            let mut result = Ok(());
            for namespace in &mut self.namespaces {
                let looked = namespace.round(&mut self.buffer, &mut self.common);
                result = result.and(looked);
            }
            result
        });
        self.looked = Instant::now();
        self.next_look = self.looked + self.pace.looked(began, self.looked, took);
        result
    }
}

fn enter(inode: u64) -> Result<Namespace> {
    // Inode numbers of namespaces are 32 bits wide (`struct ns_common`).
    Namespace::enter(u32::try_from(inode).unwrap_or(0))
}

impl Backend for Polled {
    fn kind(&self) -> BackendKind {
        BackendKind::Polled
    }

    fn probes(&self) -> &[Probe] {
        &self.probes
    }

    fn tick_hz(&self) -> u32 {
        TICK_HZ
    }

    fn apply(&mut self, settings: &Settings) -> Result<()> {
        self.common.judge = Judge::new(&settings.filter, self.tells_cgroups)?;
        let generation = self.common.settings.filter_generation.wrapping_add(1);
        self.common.settings = settings::Settings {
            deadline_ns: u64::from(settings.deadline_ms) * 1_000_000,
            quiet_gap_ns: u64::from(settings.quiet_gap_ms) * 1_000_000,
            progress_ns: u64::from(settings.progress_ms) * 1_000_000,
            filter_generation: generation,
            ..settings::Settings::default()
        };
        // They hold from the next sweep on, however long the look before it took.
        self.next_look = Instant::now();
        Ok(())
    }

    fn ring_fd(&self, ring: Ring) -> BorrowedFd<'_> {
        match ring {
            Ring::Hot => self.common.hot.as_fd(),
            Ring::Bulk => self.bulk_wake.0.as_fd(),
        }
    }

    fn drain(&mut self, ring: Ring, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize {
        match ring {
            Ring::Hot => self.common.hot.drain(max, sink),
            Ring::Bulk => {
                let (namespaces, buffer) = (&mut self.namespaces, &mut self.buffer);
                let common = &mut self.common;
                self.pace.hearing(|| {
                    for namespace in namespaces {
                        if let Err(err) = namespace.hear(buffer, common) {
                            // The next look finds those sessions gone, and counts them.
                            tracing::debug!("{err:#}");
                        }
                    }
                });
                self.common.bulk.drain(max, sink)
            }
        }
    }

    fn sweep(&mut self) -> Result<()> {
        if Instant::now() >= self.next_search {
            self.search()?;
            self.common.judge.forget_strangers();
        }
        let now = Instant::now();
        if now < self.next_look {
            // One has just been taken, or has its turn now and is left out.
            self.common.counts.looks_left_out += u64::from(now - self.looked > SWEEP_INTERVAL / 2);
            return Ok(());
        }
        self.look()
    }

    fn adopt(&mut self, _sink: &mut dyn FnMut(Record<'_>)) -> Result<usize> {
        let failed = self.search()?;
        self.look()?;
        Ok(failed)
    }

    fn half_open_give_ups(&mut self) -> Result<Vec<HalfOpenGiveUp>> {
        Ok(std::mem::take(&mut self.common.given_up))
    }

    fn means(&self) -> Means {
        Means::Pace
    }

    fn run_time(&self) -> Result<Duration> {
        Ok(self.pace.spent())
    }

    fn pace(&mut self, limit_core_permille: u32) {
        self.pace.set_limit(limit_core_permille);
    }

    fn counts(&mut self) -> Result<KernelCounts> {
        Ok(KernelCounts {
            hot: self.common.hot.counts(),
            bulk: self.common.bulk.counts(),
            ..self.common.counts
        })
    }
}

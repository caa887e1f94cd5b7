//! Many connections under one epoll, and when each of them asks.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use histogram::Histogram;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::prctl::set_timerslack;

use super::connection::{Connection, Progress};
use super::{Answered, Args};
use crate::report::quantile;

/// Looked at by one call.
const EVENTS: usize = 256;
/// Requests that are due and find no connection free, at most; what comes on top has failed.
const WAITING: usize = 100_000;
/// So many failures, and nothing is measured any more.
const FAILURES: u64 = 1000;

/// Runs it; `tell` hears when counting begins (true) and ends.
pub(super) fn run(args: &Args, tell: &mut dyn FnMut(bool) -> Result<()>) -> Result<Answered> {
    set_timerslack(1).context("asking for exact timers")?;
    let mut engine = Engine::new(args)?;
    for at in 0..args.connections {
        engine.connect(at)?;
    }
    engine.run_until(engine.begun + Duration::from_millis(args.warm_ms))?;
    engine.forget_counts();
    tell(true)?;
    let begin = Instant::now();
    engine.run_until(begin + Duration::from_millis(args.measure_ms))?;
    let seconds = begin.elapsed().as_secs_f64();
    tell(false)?;
    engine.answered(seconds)
}

struct Engine {
    epoll: Epoll,
    address: SocketAddr,
    request: Vec<u8>,
    short: bool,
    /// Time between two requests that are due; 0: as fast as they are answered.
    period_ns: u64,
    begun: Instant,
    next_due_ns: u64,
    /// Due, and not asked.
    waiting: VecDeque<u64>,
    connections: Vec<Option<Connection>>,
    /// Places of connections that have nothing to do.
    idle: Vec<usize>,
    latencies_ns: Histogram,
    requests: u64,
    bytes: u64,
    failed: u64,
}

impl Engine {
    fn new(args: &Args) -> Result<Self> {
        let close = if args.short {
            "Connection: close\r\n"
        } else {
            ""
        };
        let request = format!("GET {} HTTP/1.1\r\nHost: bench\r\n{close}\r\n", args.path);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates are between one a second and a million"
        )]
        let period_ns = if args.rate > 0.0 {
            (1e9 / args.rate) as u64
        } else {
            0
        };
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll")?,
            address: args.address,
            request: request.into_bytes(),
            short: args.short,
            period_ns,
            begun: Instant::now(),
            next_due_ns: 0,
            waiting: VecDeque::new(),
            connections: std::iter::repeat_with(|| None)
                .take(args.connections)
                .collect(),
            idle: Vec::new(),
            latencies_ns: Histogram::new(7, 40).context("making a histogram")?,
            requests: 0,
            bytes: 0,
            failed: 0,
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes a place: a kept connection is made, a short one only when it is due.
    fn connect(&mut self, at: usize) -> Result<()> {
        if self.short {
            if self.period_ns > 0 {
                self.idle.push(at);
                return Ok(());
            }
            let now = self.now_ns();
            return self.open(at, now);
        }
        self.open(at, 0)
    }

    fn open(&mut self, at: usize, due_ns: u64) -> Result<()> {
        let mut connection = Connection::open(self.address)?;
        connection.due_ns = due_ns;
        // Edge-triggered: every event is followed to its end.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll
            .add(&connection, EpollEvent::new(flags, at as u64))
            .context("watching a connection")?;
        self.connections[at] = Some(connection);
        Ok(())
    }

    fn run_until(&mut self, end: Instant) -> Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        while Instant::now() < end {
            let next = self.ask_what_is_due()?;
            let left = end.saturating_duration_since(Instant::now());
            let count = self.wait(&mut events, next.min(left))?;
            for event in &events[..count] {
                let at = usize::try_from(event.u64)?;
                if let Err(error) = self.look(at) {
                    self.fail(at, &error)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for events, to the nanosecond (`epoll_pwait2`, Linux 5.11): a request that is due must
    /// not wait for a millisecond's end, nor the client spin until it is.
    fn wait(&self, events: &mut [libc::epoll_event; EVENTS], limit: Duration) -> Result<usize> {
        let timeout = libc::timespec {
            tv_sec: i64::try_from(limit.as_secs())?,
            tv_nsec: limit.subsec_nanos().into(),
        };
        // SAFETY: the descriptor is open, the array holds `EVENTS` events, the time is read only,
        // and no signal mask is given.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.0.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS,
                std::ptr::from_ref(&timeout),
                std::ptr::null::<libc::sigset_t>(),
                size_of::<libc::sigset_t>(),
            )
        };
        match usize::try_from(count) {
            Ok(count) => Ok(count),
            Err(_) if Errno::last() == Errno::EINTR => Ok(0),
            Err(_) => Err(Errno::last()).context("waiting for connections"),
        }
    }

    /// Asks, on idle connections, what has come due; says how long it is until something is.
    fn ask_what_is_due(&mut self) -> Result<Duration> {
        const FOR_EVER: Duration = Duration::from_secs(1);
        if self.period_ns == 0 {
            return Ok(FOR_EVER);
        }
        let now = self.now_ns();
        while self.next_due_ns <= now {
            if self.waiting.len() < WAITING {
                self.waiting.push_back(self.next_due_ns);
            } else {
                self.failed += 1;
            }
            self.next_due_ns += self.period_ns;
        }
        while !self.waiting.is_empty()
            && let Some(at) = self.idle.pop()
        {
            let due_ns = self.waiting.pop_front().unwrap_or(now);
            self.begin(at, due_ns)?;
        }
        Ok(Duration::from_nanos(
            self.next_due_ns.saturating_sub(self.now_ns()),
        ))
    }

    fn begin(&mut self, at: usize, due_ns: u64) -> Result<()> {
        if self.short {
            return self.open(at, due_ns);
        }
        let connection = self.connections[at]
            .as_mut()
            .context("an idle connection")?;
        connection.ask(&self.request, due_ns)
    }

    /// Follows what happened on one connection.
    fn look(&mut self, at: usize) -> Result<()> {
        loop {
            let now = self.now_ns();
            let Some(connection) = self.connections[at].as_mut() else {
                return Ok(());
            };
            if connection.is_connecting() {
                if self.short || self.period_ns == 0 {
                    let due_ns = if self.short { connection.due_ns } else { now };
                    connection.ask(&self.request, due_ns)?;
                } else {
                    connection.established();
                    self.idle.push(at);
                    return Ok(());
                }
            }
            match connection.read()? {
                Progress::Waiting => return Ok(()),
                Progress::Answered(bytes) => {
                    let due_ns = connection.due_ns;
                    self.requests += 1;
                    self.bytes += bytes;
                    let _ = self
                        .latencies_ns
                        .increment(self.now_ns().saturating_sub(due_ns));
                    if !self.short {
                        return self.again(at);
                    }
                }
                Progress::Closed => {
                    self.connections[at] = None;
                    if !self.short {
                        bail!("the server closed a connection that was to be kept");
                    }
                    return self.connect(at);
                }
            }
        }
    }

    /// A kept connection has had its answer.
    fn again(&mut self, at: usize) -> Result<()> {
        if self.period_ns > 0 {
            self.idle.push(at);
            return Ok(());
        }
        let now = self.now_ns();
        let connection = self.connections[at].as_mut().context("a kept connection")?;
        connection.ask(&self.request, now)
    }

    fn fail(&mut self, at: usize, error: &anyhow::Error) -> Result<()> {
        self.failed += 1;
        if self.failed >= FAILURES {
            bail!("{} connections failed, the last: {error:#}", self.failed);
        }
        self.connections[at] = None;
        self.connect(at)
    }

    fn forget_counts(&mut self) {
        self.latencies_ns.as_mut_slice().fill(0);
        (self.requests, self.bytes, self.failed) = (0, 0, 0);
    }

    fn answered(&self, seconds: f64) -> Result<Answered> {
        let us = |share: f64| Ok::<_, anyhow::Error>(quantile(&self.latencies_ns, share)? / 1e3);
        Ok(Answered {
            requests: self.requests,
            bytes: self.bytes,
            failed: self.failed,
            seconds,
            p50_us: us(0.5)?,
            p99_us: us(0.99)?,
            p999_us: us(0.999)?,
        })
    }
}

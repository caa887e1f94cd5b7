//! Where labels come in: two Unix datagram sockets, read and understood on a thread of their own, and
//! a bounded queue from there to whoever measures.
//!
//! Who writes to the sockets need not be well meant: what comes too fast is not read, what waits too
//! long is dropped, oldest first, and both are counted.

mod pace;
mod queue;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::ClockId;

use self::pace::{Pace, Turn};
use self::queue::Queue;
use self::socket::LabelSocket;
use super::naming::{HashKey, Naming};
use super::request::{RequestLabel, Source};
use super::rules::Rules;
use super::{access_log, tag};
use crate::config;
use crate::throttle::Throttle;

/// The longest datagram that is read. nginx takes at most 32 KiB of a request's head (four buffers
/// of 8 KiB), and writes two bytes for each at worst.
const MOST_BYTES: usize = 64 * 1024;
/// Datagrams of one socket before the other is looked at again.
const BATCH: usize = 64;
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
const STOP: u64 = u64::MAX;

/// What came to the sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// Datagrams of access logs.
    pub heard_log: u64,
    /// Datagrams of tags.
    pub heard_tag: u64,
    /// Of both, those that could not be understood.
    pub malformed: u64,
    /// Of both, those that came too fast.
    pub dropped: u64,
}

/// What was heard, for whoever measures.
#[derive(Debug)]
pub struct Heard {
    queue: Queue,
    naming: Mutex<Arc<Naming>>,
    max_per_s: AtomicU32,
    log: AtomicU64,
    tag: AtomicU64,
    malformed: AtomicU64,
    unread: AtomicU64,
}

impl Heard {
    /// Waits until there is a label.
    pub async fn ready(&self) {
        self.queue.ready().await;
    }

    /// Moves at most `most` labels, oldest first, behind those in `to`.
    pub fn take(&self, most: usize, to: &mut Vec<RequestLabel>) {
        self.queue.take(most, to);
    }

    /// All that was counted.
    pub fn counts(&self) -> LabelCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LabelCounts {
            heard_log: read(&self.log),
            heard_tag: read(&self.tag),
            malformed: read(&self.malformed),
            dropped: read(&self.unread) + self.queue.dropped(),
        }
    }

    fn naming(&self) -> Arc<Naming> {
        let naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        naming.clone()
    }
}

/// Datagrams that the kernel lets wait at a socket, and what is enough for a busy server's bursts.
const QUEUE_LENGTH: &str = "/proc/sys/net/unix/max_dgram_qlen";
const ENOUGH_WAITING: u32 = 512;

/// nginx does not wait for room, and weir does not hear of what found none.
fn warn_of_short_queue() {
    let length = std::fs::read_to_string(QUEUE_LENGTH).ok();
    let length = length.and_then(|length| length.trim().parse::<u32>().ok());
    if let Some(length) = length.filter(|length| *length < ENOUGH_WAITING) {
        tracing::warn!(
            length,
            "net.unix.max_dgram_qlen is low: bursts of labels get lost unseen; set it to \
             {ENOUGH_WAITING} or more and restart weir"
        );
    }
}

/// The sockets and their thread; both end when this is dropped.
#[derive(Debug)]
pub struct Inlet {
    heard: Arc<Heard>,
    key: HashKey,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Inlet {
    /// Makes the sockets that are configured and begins to read them; none if none is.
    ///
    /// # Errors
    /// If a socket cannot be made: another process holds it, or something else is at its path.
    pub fn start(labels: &config::Labels, rules: &[config::Rule]) -> anyhow::Result<Option<Self>> {
        let group = match &labels.socket_group {
            Some(group) => Some(group.gid("labels.socket_group")?),
            None => None,
        };
        let mut sources = Vec::new();
        for (key, path, source) in [
            (
                "labels.access_log_socket",
                &labels.access_log_socket,
                Source::AccessLog,
            ),
            ("labels.tag_socket", &labels.tag_socket, Source::Tag),
        ] {
            if let Some(path) = path {
                let socket = LabelSocket::take(path, group, key)?;
                sources.push((socket, source));
            }
        }
        if sources.is_empty() {
            return Ok(None);
        }
        warn_of_short_queue();
        let key = HashKey::random().context("cannot make a key for viewers' hashes")?;
        let heard = Arc::new(Heard {
            queue: Queue::new(labels.queue as usize),
            naming: Mutex::new(Arc::new(naming(labels, rules, key)?)),
            max_per_s: AtomicU32::new(labels.max_per_s),
            log: AtomicU64::new(0),
            tag: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            unread: AtomicU64::new(0),
        });
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = Arc::new(EventFd::from_flags(flags).context("cannot make an eventfd")?);
        let reader = Reader::new(sources, heard.clone(), stop.clone())?;
        let thread = std::thread::Builder::new()
            .name("weir-labels".to_owned())
            .spawn(move || reader.run())
            .context("cannot start the thread that reads labels")?;
        Ok(Some(Self {
            heard,
            key,
            stop,
            thread: Some(thread),
        }))
    }

    /// What it hears.
    pub fn heard(&self) -> Arc<Heard> {
        self.heard.clone()
    }

    /// Puts other rules and bounds in force for what is heard from now on.
    ///
    /// # Errors
    /// If a rule cannot be used; the others stay in force.
    pub fn reload(&self, labels: &config::Labels, rules: &[config::Rule]) -> anyhow::Result<()> {
        let naming = Arc::new(naming(labels, rules, self.key)?);
        let mut place = self
            .heard
            .naming
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = naming;
        self.heard
            .max_per_s
            .store(labels.max_per_s, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // Fails only if it is stopped already.
        let _ = self.stop.write(1);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that reads labels has panicked");
        }
    }
}

fn naming(labels: &config::Labels, rules: &[config::Rule], key: HashKey) -> anyhow::Result<Naming> {
    Ok(Naming {
        rules: Rules::new(rules).map_err(anyhow::Error::msg)?,
        key,
        keep_session_ids: labels.keep_session_ids,
    })
}

/// A socket as it is read.
struct Reading {
    socket: LabelSocket,
    source: Source,
    pace: Pace,
    /// It is let be until then: who writes to it finds it full.
    resume: Option<Instant>,
}

/// The thread's own.
struct Reader {
    sources: Vec<Reading>,
    heard: Arc<Heard>,
    epoll: Epoll,
    _stop: Arc<EventFd>,
    buffer: Vec<u8>,
    labels: Vec<RequestLabel>,
    warnings: Throttle,
}

impl Reader {
    fn new(
        sources: Vec<(LabelSocket, Source)>,
        heard: Arc<Heard>,
        stop: Arc<EventFd>,
    ) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll")?;
        epoll.add(&*stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        for (id, (socket, _)) in (0..).zip(&sources) {
            epoll.add(socket.socket(), EpollEvent::new(EpollFlags::EPOLLIN, id))?;
        }
        let now = Instant::now();
        let reading = |(socket, source)| Reading {
            socket,
            source,
            pace: Pace::new(now),
            resume: None,
        };
        Ok(Self {
            sources: sources.into_iter().map(reading).collect(),
            heard,
            epoll,
            _stop: stop,
            buffer: vec![0; MOST_BYTES + 1],
            labels: Vec::with_capacity(BATCH),
            warnings: Throttle::new(WARNING_INTERVAL),
        })
    }

    fn run(mut self) {
        if let Err(err) = self.read_on() {
            tracing::error!("no label is heard any more: {err}");
        }
    }

    /// Until the end.
    fn read_on(&mut self) -> nix::Result<()> {
        let mut events = [EpollEvent::empty(); 4];
        loop {
            let timeout = self.resume()?;
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(ready) => &events[..ready],
                Err(nix::errno::Errno::EINTR) => continue,
                Err(err) => return Err(err),
            };
            if ready.iter().any(|event| event.data() == STOP) {
                return Ok(());
            }
            let naming = self.heard.naming();
            // A tag is sent before the line of its request, so after the log all tags of its lines are
            // there: they are read last and go first.
            for (id, at) in (0..).zip(0..self.sources.len()) {
                let reading = &self.sources[at];
                let is_ready = ready.iter().any(|event| event.data() == id);
                if (is_ready || reading.source == Source::Tag && reading.resume.is_none())
                    && let Some(pause) = self.read_some(at, &naming)
                {
                    self.sources[at].resume = Some(Instant::now() + pause);
                    self.listen(at, EpollFlags::empty())?;
                }
            }
            self.labels
                .sort_by_key(|label| label.source == Source::AccessLog);
            self.heard.queue.put(&mut self.labels);
        }
    }

    /// Goes on with the sockets whose pause is over; returns how long the others' still is.
    fn resume(&mut self) -> nix::Result<EpollTimeout> {
        let now = Instant::now();
        let mut shortest: Option<Duration> = None;
        for at in 0..self.sources.len() {
            let Some(resume) = self.sources[at].resume else {
                continue;
            };
            let left = resume.saturating_duration_since(now);
            if left.is_zero() {
                self.sources[at].resume = None;
                self.listen(at, EpollFlags::EPOLLIN)?;
            } else {
                shortest = Some(shortest.map_or(left, |known| known.min(left)));
            }
        }
        // Whole milliseconds, and none too early.
        let rounded = |left: Duration| left + Duration::from_millis(1);
        Ok(shortest.map_or(EpollTimeout::NONE, |left| {
            EpollTimeout::try_from(rounded(left)).unwrap_or(EpollTimeout::ZERO)
        }))
    }

    fn listen(&self, at: usize, flags: EpollFlags) -> nix::Result<()> {
        let mut event = EpollEvent::new(flags, at as u64);
        self.epoll
            .modify(self.sources[at].socket.socket(), &mut event)
    }

    /// Reads some of a socket's datagrams. Returns how long nothing more may be read of it, if so.
    fn read_some(&mut self, at: usize, naming: &Naming) -> Option<Duration> {
        let reading = &mut self.sources[at];
        let now = Instant::now();
        let most = self.heard.max_per_s.load(Ordering::Relaxed);
        let counted = match reading.source {
            Source::AccessLog => &self.heard.log,
            Source::Tag => &self.heard.tag,
        };
        let mut pause = None;
        for _ in 0..BATCH {
            let turn = reading.pace.turn(now, most);
            if let Turn::Wait(how_long) = turn {
                pause = Some(how_long);
                break;
            }
            let len = match reading.socket.socket().recv(&mut self.buffer) {
                Ok(len) => len,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) => {
                    if self.warnings.pass(now).is_some() {
                        tracing::error!("cannot read a label: {err}");
                    }
                    break;
                }
            };
            reading.pace.count();
            counted.fetch_add(1, Ordering::Relaxed);
            if turn == Turn::Discard {
                self.heard.unread.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            match understood(reading.source, &self.buffer[..len], naming) {
                Ok(label) => self.labels.push(label),
                Err(why) => {
                    self.heard.malformed.fetch_add(1, Ordering::Relaxed);
                    if let Some(withheld) = self.warnings.pass(now) {
                        let path = reading.socket.path().display();
                        tracing::warn!(withheld, "what came to {path} is no label: {why}");
                    }
                }
            }
        }
        pause
    }
}

fn understood(source: Source, datagram: &[u8], naming: &Naming) -> Result<RequestLabel, String> {
    if datagram.len() > MOST_BYTES {
        return Err(format!("it is longer than {MOST_BYTES} bytes"));
    }
    let t_heard_ns = now_ns();
    match source {
        Source::AccessLog => {
            access_log::read(datagram, t_heard_ns, naming).map_err(|why| why.to_string())
        }
        Source::Tag => tag::read(datagram, t_heard_ns, naming).map_err(|why| why.to_string()),
    }
}

/// Monotonic time as the kernel programs read it.
fn now_ns() -> u64 {
    let now = ClockId::CLOCK_MONOTONIC.now().map(Duration::from);
    // The clock is there wherever weir runs.
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

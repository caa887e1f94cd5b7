//! The link between two namespaces: a TUN device in each, and one thread per direction that
//! moves packets through [`Paths`]. This kernel needs no netem for it, and the counters are exact.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::unistd::pipe2;

use super::netns::Netns;
pub use super::paths::Direction;
use super::paths::Paths;
use super::shaper::{Counts, Shape, Shaper};

/// The device in each namespace.
pub const DEVICE: &str = "link0";

/// A running relay; dropping it cuts the link.
#[derive(Debug)]
pub struct Relay {
    down: Arc<Mutex<Paths>>,
    up: Arc<Mutex<Paths>>,
    threads: Vec<JoinHandle<()>>,
    /// Closing it ends the threads.
    stop: Option<OwnedFd>,
}

fn lock(paths: &Mutex<Paths>) -> MutexGuard<'_, Paths> {
    paths.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Joins the two namespaces by devices named [`DEVICE`], still without addresses.
    ///
    /// # Errors
    /// No TUN device can be made.
    pub fn new(server: &Netns, client: &Netns, shape: Shape, seed: u64) -> Result<Self> {
        let server_tun = server.run(open_tun)?;
        let client_tun = client.run(open_tun)?;
        let paths = |direction, seed| {
            let paths = Paths::new(direction, Shaper::new(shape, seed));
            Arc::new(Mutex::new(paths))
        };
        let down = paths(Direction::Down, seed);
        let up = paths(Direction::Up, !seed);
        // Close-on-exec: a copy in some child would keep the relay running.
        let (watch, stop) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        let watch = Arc::new(watch);
        let mut threads = Vec::new();
        for (from, to, paths, name) in [
            (&server_tun, &client_tun, &down, "lab-relay-down"),
            (&client_tun, &server_tun, &up, "lab-relay-up"),
        ] {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let (paths, watch) = (Arc::clone(paths), Arc::clone(&watch));
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || carry(from, to, &paths, &watch))
                .context("cannot start the relay")?;
            threads.push(thread);
        }
        Ok(Self {
            down,
            up,
            threads,
            stop: Some(stop),
        })
    }

    fn paths(&self, direction: Direction) -> &Mutex<Paths> {
        match direction {
            Direction::Down => &self.down,
            Direction::Up => &self.up,
        }
    }

    /// Changes one direction from the next packet on, but for clients with a path of their own.
    pub fn set(&self, direction: Direction, shape: Shape) {
        lock(self.paths(direction)).set(shape);
    }

    /// Gives a client a path of its own, or changes it from the next packet on.
    pub fn set_client(&self, direction: Direction, client: Ipv4Addr, shape: Shape, seed: u64) {
        lock(self.paths(direction)).set_client(client, shape, seed);
    }

    /// What one direction has done so far to packets on no client's own path.
    pub fn counts(&self, direction: Direction) -> Counts {
        lock(self.paths(direction)).counts()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.take();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Opens a TUN device in the namespace of the calling thread; the descriptor works anywhere.
fn open_tun() -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun (is the tun module loaded?)")?;
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).context("TUN flags")?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives on this stack.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    nix::errno::Errno::result(made).context("cannot make a TUN device")?;
    Ok(file)
}

/// Ordered by when it is due; of those due at once, by when it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due_ns: u64,
    turn: u64,
    packet: Vec<u8>,
}

/// One direction: reads all there is, hands on all that is due, sleeps until either.
fn carry(mut from: File, mut to: File, paths: &Mutex<Paths>, stop: &OwnedFd) {
    let epoch = Instant::now();
    let now_ns = || u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
    // Sleeping must end in time: the default slack is 50 us.
    // SAFETY: PR_SET_TIMERSLACK takes plain integers and concerns this thread alone.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let mut queue: BinaryHeap<Reverse<Waiting>> = BinaryHeap::new();
    let mut turn = 0;
    let mut spare: Vec<Vec<u8>> = Vec::new();
    loop {
        // Bounded, so that a fast sender cannot keep due packets waiting.
        for _ in 0..64 {
            let mut packet = spare.pop().unwrap_or_default();
            packet.resize(2048, 0);
            match from.read(&mut packet) {
                Ok(bytes) => {
                    packet.truncate(bytes);
                    let due_ns = lock(paths).admit(now_ns(), &packet);
                    if let Some(due_ns) = due_ns {
                        turn += 1;
                        queue.push(Reverse(Waiting {
                            due_ns,
                            turn,
                            packet,
                        }));
                    } else {
                        spare.push(packet);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    spare.push(packet);
                    break;
                }
                // The device is gone: its namespace was deleted.
                Err(_) => return,
            }
        }
        while queue
            .peek()
            .is_some_and(|Reverse(waiting)| waiting.due_ns <= now_ns())
        {
            if let Some(Reverse(Waiting { packet, .. })) = queue.pop() {
                // A device that is down loses it, as a cut cable does.
                if to.write(&packet).is_ok() {
                    lock(paths).delivered(&packet);
                }
                spare.push(packet);
            }
        }
        spare.truncate(1024);
        let timeout = queue.peek().map(|Reverse(waiting)| {
            TimeSpec::from_duration(Duration::from_nanos(
                waiting.due_ns.saturating_sub(now_ns()),
            ))
        });
        let mut fds = [
            PollFd::new(from.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::empty()),
        ];
        if ppoll(&mut fds, timeout, None).is_err() {
            continue;
        }
        if fds[1].any() == Some(true) {
            return;
        }
    }
}

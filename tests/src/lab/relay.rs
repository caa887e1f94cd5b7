//! The link between two namespaces: a TUN device in each, and one thread per direction that
//! moves packets through a [`Shaper`]. This kernel needs no netem for it, and the counters are
//! exact.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
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
use super::shaper::{Counts, Shape, Shaper};

/// The device in each namespace.
pub const DEVICE: &str = "link0";

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Server to client.
    Down,
    /// Client to server.
    Up,
}

/// A running relay; dropping it cuts the link.
#[derive(Debug)]
pub struct Relay {
    down: Arc<Mutex<Shaper>>,
    up: Arc<Mutex<Shaper>>,
    threads: Vec<JoinHandle<()>>,
    /// Closing it ends the threads.
    stop: Option<OwnedFd>,
}

fn lock(shaper: &Mutex<Shaper>) -> MutexGuard<'_, Shaper> {
    shaper.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Joins the two namespaces by devices named [`DEVICE`], still without addresses.
    ///
    /// # Errors
    /// No TUN device can be made.
    pub fn new(server: &Netns, client: &Netns, shape: Shape, seed: u64) -> Result<Self> {
        let server_tun = server.run(open_tun)?;
        let client_tun = client.run(open_tun)?;
        let down = Arc::new(Mutex::new(Shaper::new(shape, seed)));
        let up = Arc::new(Mutex::new(Shaper::new(shape, !seed)));
        // Close-on-exec: a copy in some child would keep the relay running.
        let (watch, stop) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        let watch = Arc::new(watch);
        let mut threads = Vec::new();
        for (from, to, shaper, name) in [
            (&server_tun, &client_tun, &down, "lab-relay-down"),
            (&client_tun, &server_tun, &up, "lab-relay-up"),
        ] {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let (shaper, watch) = (Arc::clone(shaper), Arc::clone(&watch));
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || carry(from, to, &shaper, &watch))
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

    fn shaper(&self, direction: Direction) -> &Mutex<Shaper> {
        match direction {
            Direction::Down => &self.down,
            Direction::Up => &self.up,
        }
    }

    /// Changes one direction from the next packet on.
    pub fn set(&self, direction: Direction, shape: Shape) {
        lock(self.shaper(direction)).set(shape);
    }

    /// What one direction has done so far.
    pub fn counts(&self, direction: Direction) -> Counts {
        lock(self.shaper(direction)).counts()
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

struct Waiting {
    due_ns: u64,
    packet: Vec<u8>,
}

/// One direction: reads all there is, hands on all that is due, sleeps until either.
fn carry(mut from: File, mut to: File, shaper: &Mutex<Shaper>, stop: &OwnedFd) {
    let epoch = Instant::now();
    let now_ns = || u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
    // Sleeping must end in time: the default slack is 50 us.
    // SAFETY: PR_SET_TIMERSLACK takes plain integers and concerns this thread alone.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let mut queue: VecDeque<Waiting> = VecDeque::new();
    let mut spare: Vec<Vec<u8>> = Vec::new();
    loop {
        // Bounded, so that a fast sender cannot keep due packets waiting.
        for _ in 0..64 {
            let mut packet = spare.pop().unwrap_or_default();
            packet.resize(2048, 0);
            match from.read(&mut packet) {
                Ok(bytes) => {
                    packet.truncate(bytes);
                    match lock(shaper).admit(now_ns(), bytes) {
                        Some(due_ns) => queue.push_back(Waiting { due_ns, packet }),
                        None => spare.push(packet),
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
            .front()
            .is_some_and(|waiting| waiting.due_ns <= now_ns())
        {
            if let Some(Waiting { packet, .. }) = queue.pop_front() {
                // A device that is down loses it, as a cut cable does.
                if to.write(&packet).is_ok() {
                    lock(shaper).delivered(packet.len());
                }
                spare.push(packet);
            }
        }
        spare.truncate(1024);
        let timeout = queue.front().map(|waiting| {
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

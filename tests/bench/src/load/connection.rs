//! One connection of the load: asks, reads the answer's head, throws its body away.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

/// Larger than any answer's head.
const HEAD_BYTES: usize = 4096;
/// Thrown away by one call.
const DISCARD_BYTES: usize = 1 << 20;

/// What a look at the socket led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More is to come.
    Waiting,
    /// The answer is whole; its bytes.
    Answered(u64),
    /// The server has closed, after a whole answer.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Idle,
    /// The answer's head; so many bytes of it are there.
    Head(usize),
    /// So many bytes of the body are to come.
    Body(u64),
}

/// A connection; closed when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    state: State,
    head: Box<[u8; HEAD_BYTES]>,
    answer_bytes: u64,
    /// When the request under way was due.
    pub(super) due_ns: u64,
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, None).context("making a socket")?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => bail!("cannot connect to {address}: {errno}"),
        }
        // SAFETY: the descriptor was just made, and is given up here.
        let stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            state: State::Connecting,
            head: Box::new([0; HEAD_BYTES]),
            answer_bytes: 0,
            due_ns: 0,
        })
    }

    /// Sends the request.
    pub(super) fn ask(&mut self, request: &[u8], due_ns: u64) -> Result<()> {
        let sent = self.stream.write(request).context("sending a request")?;
        if sent != request.len() {
            bail!("a request did not fit into an empty socket");
        }
        self.due_ns = due_ns;
        self.state = State::Head(0);
        Ok(())
    }

    /// It is made, and has nothing to do yet.
    pub(super) fn established(&mut self) {
        self.state = State::Idle;
    }

    /// Whether it is still being made.
    pub(super) fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    /// Reads what is there, up to the end of one answer.
    pub(super) fn read(&mut self) -> Result<Progress> {
        loop {
            match self.state {
                State::Connecting => return Ok(Progress::Waiting),
                State::Idle => {
                    return match self.stream.read(&mut self.head[..]) {
                        Ok(0) => Ok(Progress::Closed),
                        Ok(_) => bail!("the server spoke unasked"),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            Ok(Progress::Waiting)
                        }
                        Err(error) => Err(error).context("waiting for the server's close"),
                    };
                }
                State::Head(have) => match self.stream.read(&mut self.head[have..]) {
                    Ok(0) => bail!("the server closed before it answered"),
                    Ok(read) => self.take_head(have + read)?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return Ok(Progress::Waiting);
                    }
                    Err(error) => return Err(error).context("reading an answer"),
                },
                State::Body(0) => {
                    self.state = State::Idle;
                    return Ok(Progress::Answered(self.answer_bytes));
                }
                State::Body(left) => match discard(self.stream.as_fd())? {
                    None => return Ok(Progress::Waiting),
                    Some(0) => bail!("the server closed {left} bytes before the end"),
                    Some(gone) if gone > left => bail!("an answer is longer than it says"),
                    Some(gone) => self.state = State::Body(left - gone),
                },
            }
        }
    }

    fn take_head(&mut self, have: usize) -> Result<()> {
        self.state = State::Head(have);
        let Some(end) = self.head[..have]
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
        else {
            if have == HEAD_BYTES {
                bail!("an answer's head is too long");
            }
            return Ok(());
        };
        let text = std::str::from_utf8(&self.head[..end]).context("an answer's head")?;
        let status = text.split(' ').nth(1);
        if status != Some("200") {
            bail!("the server answered {status:?}");
        }
        let body: u64 = text
            .lines()
            .find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse().ok())?
            })
            .context("an answer does not say its length")?;
        let there = (have - end - 4) as u64;
        self.answer_bytes = end as u64 + 4 + body;
        self.state = State::Body(body.checked_sub(there).context("more than one answer")?);
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Throws away what has arrived, without copying it (`MSG_TRUNC`, tcp(7)); how many bytes, or none
/// if nothing is there.
fn discard(fd: BorrowedFd<'_>) -> Result<Option<u64>> {
    // SAFETY: with MSG_TRUNC the kernel writes nothing to the buffer, which is why it may be null.
    let got = unsafe {
        libc::recv(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            DISCARD_BYTES,
            libc::MSG_TRUNC,
        )
    };
    if let Ok(got) = u64::try_from(got) {
        return Ok(Some(got));
    }
    match Errno::last() {
        Errno::EAGAIN => Ok(None),
        errno => bail!("reading an answer: {errno}"),
    }
}

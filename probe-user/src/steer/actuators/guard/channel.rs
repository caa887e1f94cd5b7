//! Messages between a holder and its guard: one packet each, in JSON, some with a descriptor. The end
//! of either side is seen by the other at once.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Plan;

/// Of one message.
const MAX_BYTES: usize = 64 << 10;

/// What the holder says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// From now on, and until then unless told otherwise, the gate is turned.
    Hold {
        gate: String,
        until_boot_ns: u64,
        plan: Plan,
        /// It was held before, and only the end is another.
        is_renewal: bool,
    },
    /// Whether what was held last is held still.
    Confirm { gate: String },
    /// The gate is neutral, or made so by the holder.
    Free { gate: String },
    /// The gate is to be made neutral now.
    Restore { gate: String },
    /// A command runs that turns the gate; none: it has ended.
    Running {
        gate: String,
        child: Option<Running>,
    },
}

/// A process, told from a later one of the same number by when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::steer::actuators) struct Running {
    /// Of the process and its group.
    pub(in crate::steer::actuators) pid: i32,
    /// Ticks since boot, as `/proc` has it.
    pub(in crate::steer::actuators) started: u64,
}

/// What the guard says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It guards.
    Ready,
    Done,
    /// The lease was over: the gate has been made neutral, or is being.
    Over,
    Refused(String),
}

/// A message with its number: an answer has that of what was asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Numbered<T> {
    pub(super) number: u64,
    pub(super) message: T,
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(AsyncFd<OwnedFd>);

/// Both ends; neither is left to programs that are started.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    Ok(socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC)?)
}

impl Channel {
    /// To be called within a runtime.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: an OwnedFd stays the same open descriptor until it is dropped, which is after it has
        // been taken from the reactor, and nothing replaces it meanwhile.
        Ok(Self(unsafe { AsyncFd::register(fd)? }))
    }

    /// The other side gets a descriptor of its own for `fd`.
    pub(super) async fn send<T: Serialize>(
        &self,
        message: &Numbered<T>,
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_BYTES {
            let what = format!("{} bytes; at most {MAX_BYTES} are possible", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let fds: Vec<RawFd> = fd.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
        let send = |own: &OwnedFd| {
            let rights = [ControlMessage::ScmRights(&fds)];
            let rights = if fds.is_empty() { &[][..] } else { &rights };
            let (own, bytes) = (own.as_raw_fd(), [IoSlice::new(&bytes)]);
            let sent = sendmsg::<()>(own, &bytes, rights, MsgFlags::MSG_NOSIGNAL, None);
            Ok(sent.map(drop)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// None: the other side has ended.
    pub(super) async fn receive<T: DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(Numbered<T>, Option<OwnedFd>)>> {
        let received = self.0.async_io(Interest::READABLE, receive).await?;
        let Some((bytes, fd)) = received else {
            return Ok(None);
        };
        Ok(Some((serde_json::from_slice(&bytes)?, fd)))
    }
}

type Packet = Option<(Vec<u8>, Option<OwnedFd>)>;

fn receive(from: &OwnedFd) -> io::Result<Packet> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut space = cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let got = match recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags) {
        Ok(got) => got,
        // It ended without having heard all that was said to it.
        Err(Errno::ECONNRESET) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    let mut fd = None;
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            for raw in fds {
                // SAFETY: the kernel has just made this descriptor for this process, and nobody else
                // knows it.
                fd = Some(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    let (length, is_cut) = (got.bytes, got.flags.contains(MsgFlags::MSG_TRUNC));
    if is_cut {
        let what = "a message that is longer than any that weir sends";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    bytes.truncate(length);
    Ok((length > 0).then_some((bytes, fd)))
}

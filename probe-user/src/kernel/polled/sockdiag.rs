//! Asking the kernel for its TCP sockets, and hearing of each that it destroys: netlink's
//! `NETLINK_SOCK_DIAG` (`sock_diag(7)`), which any user may.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use bytemuck::{Pod, Zeroable};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            send, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};
use probe_ebpf::record::Endpoints;

use super::info::TcpInfo;

/// TCP states (`include/net/tcp_states.h`) as bits of a request.
pub(in crate::kernel) mod states {
    use probe_ebpf::drive::state;

    /// Listeners.
    pub(in crate::kernel) const LISTEN: u32 = 1 << state::LISTEN;
    /// Handshakes under way.
    pub(in crate::kernel) const SYN_RECV: u32 = 1 << state::SYN_RECV;
    /// Sessions.
    pub(in crate::kernel) const OPEN: u32 = 1 << state::ESTABLISHED
        | 1 << state::FIN_WAIT1
        | 1 << state::FIN_WAIT2
        | 1 << state::CLOSE_WAIT
        | 1 << state::LAST_ACK
        | 1 << state::CLOSING;
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `INET_DIAG_INFO`: the `tcp_info`.
const ATTRIBUTE_INFO: u16 = 2;
/// `INET_DIAG_CGROUP_ID` (Linux 5.7).
const ATTRIBUTE_CGROUP_ID: u16 = 21;
/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY` (Linux 4.2), as bits.
const DESTROY_GROUPS: u32 = 1 << 0 | 1 << 2;
/// More than the kernel fills at once (32 kB; `netlink_dump` of `af_netlink.c`).
const BUFFER_BYTES: usize = 64 << 10;
/// Room for what is destroyed while nobody reads; the kernel gives an ordinary user less.
const DESTROYED_BYTES: usize = 8 << 20;
/// A kernel that says nothing for so long says nothing any more.
const PATIENCE_S: i64 = 5;

/// `struct inet_diag_sockid` (`include/uapi/linux/inet_diag.h`).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SockId {
    sport_be: u16,
    dport_be: u16,
    src: [u8; 16],
    dst: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`, behind its `nlmsghdr`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Request {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SockId,
}

const REQUEST_BYTES: u32 = 72;
const _: () = assert!(size_of::<Request>() == REQUEST_BYTES as usize);

/// `struct inet_diag_msg`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retrans: u8,
    id: SockId,
    expires: u32,
    receive_queue: u32,
    write_queue: u32,
    uid: u32,
    inode: u32,
}

/// A socket as the kernel described it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Seen {
    /// Names it for as long as the host is up.
    pub(in crate::kernel) cookie: u64,
    /// TCP state.
    pub(super) state: u8,
    /// Of a handshake under way: SYN-ACKs sent again.
    pub(super) retransmits: u8,
    /// Both ends; the namespace is not set.
    pub(in crate::kernel) endpoints: Endpoints,
    /// Written and not acknowledged, a FIN included.
    pub(super) write_queue_bytes: u32,
    /// Of the descriptors under which processes have it open, in `/proc/PID/fd`. 0: none has.
    pub(in crate::kernel) inode: u32,
    /// How it fares; `None` if the kernel did not say, or not enough.
    pub(super) info: Option<TcpInfo>,
    /// The cgroup that it was made in; `None` before Linux 5.7, and of one that is destroyed.
    pub(super) cgroup: Option<u64>,
}

/// Both address families, each of which is asked for by itself.
pub(in crate::kernel) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// A way to ask one network namespace.
#[derive(Debug)]
pub(in crate::kernel) struct Asker {
    socket: OwnedFd,
    sequence: u32,
}

impl Asker {
    /// Opens it in the calling thread's network namespace, where it stays.
    pub(in crate::kernel) fn open() -> Result<Self> {
        let socket = open(SockFlag::SOCK_CLOEXEC)?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(PATIENCE_S),
        )
        .context("setting a netlink socket's patience")?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Hands every socket of a family in one of `states` to `each`, as it comes.
    pub(in crate::kernel) fn each(
        &mut self,
        family: u8,
        states: u32,
        buffer: &mut Buffer,
        mut each: impl FnMut(Seen),
    ) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = Request {
            len: REQUEST_BYTES,
            kind: SOCK_DIAG_BY_FAMILY,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            sequence: self.sequence,
            family,
            protocol: IPPROTO_TCP,
            extensions: 1 << (ATTRIBUTE_INFO - 1),
            states,
            ..Request::zeroed()
        };
        send(
            self.socket.as_raw_fd(),
            bytemuck::bytes_of(&request),
            MsgFlags::empty(),
        )
        .context("asking the kernel for its sockets")?;
        loop {
            let bytes = match receive(&self.socket, buffer) {
                Err(Errno::EINTR) => continue,
                received => received.context("reading the kernel's sockets")?,
            };
            if bytes.is_empty() {
                bail!("the kernel ended its list of sockets in the midst");
            }
            for message in messages(bytes) {
                let message = message?;
                if message.sequence_number() != self.sequence {
                    // What was left of a request that failed.
                    continue;
                }
                match message.message_type() {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(refusal(message.payload())),
                    SOCK_DIAG_BY_FAMILY => {
                        if let Some(seen) = parse(message.payload()) {
                            each(seen);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Makes the cookie of every session in the calling thread's network namespace: the kernel gives
/// each socket that it lists one (`sock_diag_save_cookie`).
pub(in crate::kernel) fn make_cookies() -> Result<()> {
    let mut asker = Asker::open()?;
    let mut buffer = Buffer::new();
    for family in FAMILIES {
        asker.each(family, states::OPEN, &mut buffer, |_| {})?;
    }
    Ok(())
}

/// Hears of every socket that is destroyed in one network namespace, with its last word.
#[derive(Debug)]
pub(super) struct Farewells {
    socket: OwnedFd,
}

/// What a call of [`Farewells::each`] left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing more is there.
    All,
    /// There may be more.
    Part,
}

impl Farewells {
    /// Opens it in the calling thread's network namespace, where it stays.
    pub(super) fn open() -> Result<Self> {
        let socket = open(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
        // What an ordinary user is given is less, and still of use.
        if setsockopt(&socket, sockopt::RcvBufForce, &DESTROYED_BYTES).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &DESTROYED_BYTES);
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, DESTROY_GROUPS))
            .context("listening for destroyed sockets")?;
        Ok(Self { socket })
    }

    /// Hands those that were destroyed since to `each`, at most about `max`. `overflowed` is told
    /// when the kernel dropped some because they were not read in time.
    pub(super) fn each(
        &self,
        max: usize,
        buffer: &mut Buffer,
        mut overflowed: impl FnMut(),
        mut each: impl FnMut(Seen),
    ) -> Result<Heard> {
        let mut heard = 0;
        while heard < max {
            let bytes = match receive(&self.socket, buffer) {
                Ok(bytes) => bytes,
                Err(Errno::EAGAIN) => return Ok(Heard::All),
                Err(Errno::EINTR) => continue,
                Err(Errno::ENOBUFS) => {
                    overflowed();
                    continue;
                }
                Err(err) => return Err(err).context("reading what sockets were destroyed"),
            };
            for message in messages(bytes) {
                let message = message?;
                heard += 1;
                if message.message_type() == SOCK_DIAG_BY_FAMILY
                    && let Some(seen) = parse(message.payload())
                {
                    each(seen);
                }
            }
        }
        Ok(Heard::Part)
    }
}

impl AsFd for Farewells {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where the kernel's answers are read into.
#[derive(Debug)]
pub(in crate::kernel) struct Buffer(Vec<u8>);

impl Buffer {
    pub(in crate::kernel) fn new() -> Self {
        Self(vec![0; BUFFER_BYTES])
    }
}

fn open(flags: SockFlag) -> Result<OwnedFd> {
    socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkSockDiag,
    )
    .context("opening a netlink socket for sock_diag")
}

fn receive<'b>(socket: &OwnedFd, buffer: &'b mut Buffer) -> Result<&'b [u8], Errno> {
    let len = recv(socket.as_raw_fd(), &mut buffer.0, MsgFlags::empty())?;
    Ok(&buffer.0[..len])
}

/// The messages of one read (netlink(7)), each where the one before ends, aligned to 4.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Ok(message) = NetlinkBuffer::new_checked(rest) else {
            rest = &[];
            return Some(Err(anyhow::anyhow!(
                "the kernel sent what is no netlink message"
            )));
        };
        let len = (message.length() as usize).next_multiple_of(4);
        rest = rest.get(len..).unwrap_or_default();
        Some(Ok(message))
    })
}

fn refusal(payload: &[u8]) -> anyhow::Error {
    let code = payload.get(..4).and_then(|code| code.try_into().ok());
    let code = code.map_or(0, i32::from_ne_bytes);
    let err = io::Error::from_raw_os_error(code.saturating_neg());
    anyhow::Error::from(err).context("the kernel does not list its TCP sockets")
}

/// Reads one socket's description; `None` if it is none.
fn parse(payload: &[u8]) -> Option<Seen> {
    let (message, attributes) = payload.split_at_checked(size_of::<Message>())?;
    let message: Message = bytemuck::pod_read_unaligned(message);
    let address = |raw: &[u8; 16]| -> Option<[u8; 16]> {
        match message.family {
            AF_INET => {
                let mut mapped = [0; 16];
                mapped[10..12].fill(0xff);
                mapped[12..].copy_from_slice(&raw[..4]);
                Some(mapped)
            }
            AF_INET6 => Some(*raw),
            _ => None,
        }
    };
    let mut seen = Seen {
        cookie: u64::from(message.id.cookie[0]) | u64::from(message.id.cookie[1]) << 32,
        state: message.state,
        retransmits: message.retrans,
        endpoints: Endpoints {
            local_addr: address(&message.id.src)?,
            remote_addr: address(&message.id.dst)?,
            local_port: u16::from_be(message.id.sport_be),
            remote_port: u16::from_be(message.id.dport_be),
            netns: 0,
        },
        write_queue_bytes: message.write_queue,
        inode: message.inode,
        info: None,
        cgroup: None,
    };
    for attribute in NlasIterator::new(attributes) {
        // What cannot be read is behind what can.
        let Ok(attribute) = attribute else { break };
        match attribute.kind() {
            ATTRIBUTE_INFO => seen.info = TcpInfo::parse(attribute.value()),
            ATTRIBUTE_CGROUP_ID => {
                let id = attribute.value().try_into().ok();
                seen.cgroup = id.map(u64::from_ne_bytes);
            }
            _ => {}
        }
    }
    Some(seen)
}

#[cfg(test)]
mod tests;

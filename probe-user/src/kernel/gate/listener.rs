//! The other listener: found among this namespace's sockets by its address, and borrowed from the
//! server that has it open, for as long as it takes to put it into the programs' map. It is not kept
//! open: a server that goes away takes its listener along.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{getsockopt, sockopt};

use crate::kernel::polled::sockdiag::{Asker, Buffer, Seen, states};

/// A listening socket, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Names it for as long as the host is up.
    pub cookie: u64,
    inode: u32,
    address: IpAddr,
    port: u16,
    is_v6: bool,
}

/// How well a listener fits an address: at that address itself, at all of its family, at all of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Itself,
    Family,
    Both,
}

impl Listening {
    fn of(seen: &Seen, is_v6: bool) -> Self {
        let v6 = Ipv6Addr::from(seen.endpoints.local_addr);
        Self {
            cookie: seen.cookie,
            inode: seen.inode,
            address: if is_v6 {
                v6.into()
            } else {
                v6.to_ipv4_mapped().map_or(v6.into(), IpAddr::V4)
            },
            port: seen.endpoints.local_port,
            is_v6,
        }
    }

    /// Whether it takes what is sent to `wanted`.
    fn fit(&self, wanted: SocketAddr) -> Option<Fit> {
        if self.port != wanted.port() {
            return None;
        }
        if self.address == wanted.ip() {
            return Some(Fit::Itself);
        }
        match (self.address, wanted) {
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), SocketAddr::V4(_))
            | (IpAddr::V6(Ipv6Addr::UNSPECIFIED), SocketAddr::V6(_)) => Some(Fit::Family),
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), SocketAddr::V4(_)) => Some(Fit::Both),
            _ => None,
        }
    }
}

/// Every TCP listener of the calling thread's network namespace.
pub fn all() -> Result<Vec<Listening>> {
    /// Families as `sock_diag` names them.
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let mut asker = Asker::open()?;
    let mut buffer = Buffer::new();
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        asker.each(family, states::LISTEN, &mut buffer, |seen| {
            found.push(Listening::of(&seen, family == AF_INET6));
        })?;
    }
    Ok(found)
}

/// The one of `listeners` that fits `wanted` best; among several that fit alike (`SO_REUSEPORT`: the
/// kernel then chooses among them by itself) the one that is in use, or the oldest.
pub fn best(listeners: &[Listening], wanted: SocketAddr, in_use: Option<u64>) -> Option<Listening> {
    listeners
        .iter()
        .filter_map(|one| {
            Some((
                one.fit(wanted)?,
                Some(one.cookie) != in_use,
                one.cookie,
                one,
            ))
        })
        .min_by_key(|(fit, is_other, cookie, _)| (*fit, *is_other, *cookie))
        .map(|(.., one)| *one)
}

/// A second descriptor of a listener that another process has open, for clients that are sent to
/// `wanted`.
///
/// Looks through all processes, which takes time on a host with very many.
pub fn borrow(listener: &Listening, wanted: SocketAddr) -> Result<OwnedFd> {
    let of_whom = SocketAddr::new(listener.address, listener.port);
    let name = format!("socket:[{}]", listener.inode);
    let mut refused = None;
    let mut closed = 0_usize;
    for process in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let descriptors = match fs::read_dir(process.path().join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) => {
                closed += usize::from(error.kind() == io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        for descriptor in descriptors.flatten() {
            let is_it = fs::read_link(descriptor.path())
                .is_ok_and(|target| target.to_str() == Some(name.as_str()));
            let number = descriptor.file_name();
            let Some(number) = number.to_str().filter(|_| is_it) else {
                continue;
            };
            match take(pid, number.parse()?) {
                // Between the look and the taking the number may have become another's.
                Ok(socket) if cookie(&socket).ok() == Some(listener.cookie) => {
                    if listener.is_v6
                        && wanted.is_ipv4()
                        && getsockopt(&socket, sockopt::Ipv6V6Only)?
                    {
                        bail!("the listener at {of_whom} takes IPv6 alone");
                    }
                    return Ok(socket);
                }
                Ok(_) => {}
                Err(error) => refused = Some(error),
            }
        }
    }
    if let Some(error) = refused {
        return Err(error).with_context(|| {
            format!(
                "the listener at {of_whom} cannot be taken from its server; that needs CAP_SYS_PTRACE, \
                 kernel.yama.ptrace_scope below 3, and a seccomp filter that lets pidfd_getfd pass"
            )
        });
    }
    if closed > 0 {
        bail!(
            "no process that may be looked into has the listener at {of_whom} open; {closed} may \
             not: that needs CAP_SYS_PTRACE"
        );
    }
    bail!("no process has the listener at {of_whom} open any more");
}

/// `pidfd_getfd(2)` (Linux 5.6).
fn take(pid: i32, descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, and returns a descriptor of our own or an error.
    let process = unsafe { owned(libc::syscall(libc::SYS_pidfd_open, pid, 0))? };
    // SAFETY: the same.
    unsafe {
        owned(libc::syscall(
            libc::SYS_pidfd_getfd,
            process.as_raw_fd(),
            descriptor,
            0,
        ))
    }
}

/// # Safety
/// `result` is that of a system call that returns a new descriptor or -1.
unsafe fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the caller's: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether descriptors can be taken from processes at all: tries it on this one.
pub(super) fn try_taking() -> io::Result<()> {
    let own = fs::File::open("/dev/null")?;
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    take(pid, own.as_raw_fd()).map(drop)
}

/// What the kernel calls a socket.
fn cookie(socket: &impl AsFd) -> io::Result<u64> {
    get(socket, libc::SO_COOKIE)
}

/// What the kernel calls the calling thread's network namespace; `None` before Linux 5.14.
pub(super) fn netns_cookie() -> Option<u64> {
    /// `SO_NETNS_COOKIE` (`include/uapi/asm-generic/socket.h`).
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .or_else(|_| std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)))
        .ok()?;
    get(&socket, SO_NETNS_COOKIE).ok()
}

fn get(socket: &impl AsFd, option: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `value`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(cookie: u64, address: &str, is_v6: bool) -> Listening {
        let address: SocketAddr = address.parse().unwrap();
        Listening {
            cookie,
            inode: 1,
            address: address.ip(),
            port: address.port(),
            is_v6,
        }
    }

    #[test]
    fn the_listener_at_the_address_itself_comes_before_those_at_any() {
        let all = [
            listening(1, "0.0.0.0:8081", false),
            listening(2, "127.0.0.1:8081", false),
            listening(3, "[::]:8081", true),
            listening(4, "127.0.0.1:8080", false),
        ];
        let cookie = |wanted: &str, of: &[Listening]| {
            best(of, wanted.parse().unwrap(), None).map(|one| one.cookie)
        };
        assert_eq!(cookie("127.0.0.1:8081", &all), Some(2));
        assert_eq!(cookie("127.0.0.2:8081", &all), Some(1));
        assert_eq!(cookie("127.0.0.2:8081", &all[2..]), Some(3));
        assert_eq!(cookie("[::1]:8081", &all), Some(3));
        assert_eq!(cookie("[::1]:8081", &all[..2]), None);
        assert_eq!(cookie("127.0.0.1:8082", &all), None);
    }

    #[test]
    fn of_several_alike_the_one_in_use_stays() {
        let all = [
            listening(5, "127.0.0.1:8081", false),
            listening(6, "127.0.0.1:8081", false),
        ];
        let wanted = "127.0.0.1:8081".parse().unwrap();
        let cookie = |in_use| best(&all, wanted, in_use).unwrap().cookie;
        assert_eq!(cookie(None), 5);
        assert_eq!(cookie(Some(6)), 6);
        assert_eq!(cookie(Some(7)), 5);
    }

    #[test]
    fn a_listener_of_this_process_is_listed_and_can_be_borrowed() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = own.local_addr().unwrap();
        let found = best(&all().unwrap(), wanted, None).unwrap();
        assert_eq!(found.cookie, cookie(&own).unwrap());
        let borrowed = borrow(&found, wanted).unwrap();
        assert_eq!(cookie(&borrowed).unwrap(), found.cookie);
        drop((own, borrowed));
        assert_eq!(best(&all().unwrap(), wanted, None), None);
    }
}

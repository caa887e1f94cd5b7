//! Clients with addresses of their own, who call a server and hear who answers.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::time::{ClockId, clock_gettime};

use crate::lab::link::{CLIENT_V4, CLIENT_V6, Lab};
use crate::lab::netns::join;
use crate::lab::relay::DEVICE;

/// Who is not answered for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many call at once: the server shares two processors with them.
const CALLERS: usize = 2;

/// Networks of clients, all behind the lab's client namespace.
pub const NETS_V4: [&str; 2] = ["10.80.0.0/16", "10.81.0.0/16"];
/// See [`NETS_V4`].
pub const NET_V6: &str = "fd80::/64";

/// The `n`th address of the first network of IPv4; the second's come after 65,535 others.
pub fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 80, 0, 0)) + n).into()
}

/// The `n`th address of the network of IPv6.
pub fn v6(n: u32) -> IpAddr {
    Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, 0)) + u128::from(n)).into()
}

/// Gives the lab's client every address of the networks.
///
/// # Errors
/// `ip` fails.
pub fn gather(lab: &Lab) -> Result<()> {
    for net in NETS_V4 {
        lab.client.ip(&format!("route add local {net} dev lo"))?;
        lab.server.ip(&format!("route add {net} via {CLIENT_V4}"))?;
    }
    lab.client
        .ip(&format!("-6 route add local {NET_V6} dev lo"))?;
    lab.server.ip(&format!(
        "-6 route add {NET_V6} via {CLIENT_V6} dev {DEVICE}"
    ))?;
    lab.client.sysctl("net/ipv6/ip_nonlocal_bind", "1")
}

/// A connection that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The client.
    pub from: SocketAddr,
    /// The name of the server that answered.
    pub by: u8,
    /// Before it connected, `CLOCK_BOOTTIME`.
    pub began_boot_ns: u64,
    /// When it had connected.
    pub connected_boot_ns: u64,
}

/// `CLOCK_BOOTTIME`.
///
/// # Panics
/// The kernel has no such clock.
pub fn now_boot_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has it");
    u64::try_from(now.tv_sec()).expect("after the boot") * 1_000_000_000
        + u64::try_from(now.tv_nsec()).expect("after the boot")
}

/// Calls from `from` in the calling thread's namespace, hears who answers, and stays connected.
///
/// # Errors
/// Nobody answers.
pub fn call(from: IpAddr, to: SocketAddr) -> Result<(Call, TcpStream)> {
    let family = match from {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Tens of thousands of them: none is to wait out stray packets.
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&fd, sockopt::Linger, &at_once)?;
    bind(
        fd.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(from, 0)),
    )
    .with_context(|| format!("cannot have the address {from}"))?;
    let began_boot_ns = now_boot_ns();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))
        .with_context(|| format!("{from} cannot connect to {to}"))?;
    let connected_boot_ns = now_boot_ns();
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE))?;
    let by = hear(&mut stream)?;
    let call = Call {
        from: stream.local_addr()?,
        by,
        began_boot_ns,
        connected_boot_ns,
    };
    Ok((call, stream))
}

/// Asks a server that stays who it is.
///
/// # Errors
/// It does not answer.
pub fn ask(stream: &mut TcpStream) -> Result<u8> {
    stream.write_all(b"?").context("cannot ask")?;
    hear(stream)
}

fn hear(stream: &mut TcpStream) -> Result<u8> {
    let mut name = [0];
    stream
        .read_exact(&mut name)
        .context("nobody says who it is")?;
    Ok(name[0])
}

/// Everybody calls once; in the order of `from`.
///
/// # Errors
/// Somebody is not answered.
pub fn all_call(lab: &Lab, from: &[IpAddr], to: SocketAddr) -> Result<Vec<Call>> {
    let callers = from.chunks(from.len().div_ceil(CALLERS).max(1));
    let callers: Vec<_> = callers
        .map(|chunk| {
            let chunk = chunk.to_vec();
            lab.client.spawn("crowd", move || {
                let calls = chunk.into_iter().map(|from| Ok(call(from, to)?.0));
                calls.collect::<Result<Vec<_>>>()
            })
        })
        .collect::<Result<_>>()?;
    let mut calls = Vec::with_capacity(from.len());
    for caller in callers {
        calls.extend(join(caller)?);
    }
    Ok(calls)
}

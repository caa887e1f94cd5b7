//! A plain blocking server: one thread per connection, big blocking writes. It is what nginx is
//! not, and weir has to be right on both.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::netns::Netns;
use super::nginx::body;

/// The greeting of [`Mode::SpeaksFirst`].
pub const BANNER: &[u8] = b"220 lab ready\r\n";

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With a length, and the connection stays.
    KeepAlive,
    /// The close ends the response.
    CloseDelimited,
    /// [`BANNER`] before the client has said anything, then as [`Mode::KeepAlive`].
    SpeaksFirst,
}

type Open = Arc<Mutex<HashMap<u64, TcpStream>>>;

/// A running server; dropping it closes the listener and every connection.
///
/// It answers `GET /f/BYTES` and `GET /f/BYTES?think=MS`.
#[derive(Debug)]
pub struct BlockingServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    open: Open,
    accept: Option<JoinHandle<Result<()>>>,
    netns: Arc<NetnsHandle>,
}

/// What is needed to connect from inside, to wake the accepting thread.
#[derive(Debug)]
struct NetnsHandle(std::fs::File);

fn lock(open: &Open) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlockingServer {
    /// Listens in `netns` on every IPv4 address.
    ///
    /// # Errors
    /// The port is taken.
    pub fn v4(netns: &Netns, port: u16, mode: Mode) -> Result<Self> {
        Self::start(netns, (Ipv4Addr::UNSPECIFIED, port).into(), mode)
    }

    /// Listens in `netns` on every address of both families, IPv4 as v4-mapped.
    ///
    /// # Errors
    /// The port is taken.
    pub fn dual(netns: &Netns, port: u16, mode: Mode) -> Result<Self> {
        Self::start(netns, (Ipv6Addr::UNSPECIFIED, port).into(), mode)
    }

    fn start(netns: &Netns, address: SocketAddr, mode: Mode) -> Result<Self> {
        let listener = netns.run(move || {
            TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
        })?;
        let stopping = Arc::new(AtomicBool::new(false));
        let open = Open::default();
        let handle = NetnsHandle(netns.fd().try_clone_to_owned()?.into());
        let accept = {
            let (stopping, open) = (Arc::clone(&stopping), Arc::clone(&open));
            netns.spawn("lab-server", move || {
                for (id, stream) in (0..).zip(listener.incoming()) {
                    if stopping.load(Ordering::Acquire) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    let Ok(copy) = stream.try_clone() else {
                        continue;
                    };
                    lock(&open).insert(id, copy);
                    let open = Arc::clone(&open);
                    std::thread::spawn(move || {
                        // A client that breaks off is part of the scenario.
                        let _ = serve(&stream, mode);
                        lock(&open).remove(&id);
                    });
                }
                Ok(())
            })?
        };
        Ok(Self {
            address,
            stopping,
            open,
            accept: Some(accept),
            netns: Arc::new(handle),
        })
    }
}

impl Drop for BlockingServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let loopback: SocketAddr = match self.address {
            SocketAddr::V4(a) => (Ipv4Addr::LOCALHOST, a.port()).into(),
            SocketAddr::V6(a) => (Ipv6Addr::LOCALHOST, a.port()).into(),
        };
        let netns = Arc::clone(&self.netns);
        let _ = std::thread::spawn(move || {
            if nix::sched::setns(&netns.0, nix::sched::CloneFlags::CLONE_NEWNET).is_ok() {
                let _ = TcpStream::connect_timeout(&loopback, Duration::from_secs(1));
            }
        })
        .join();
        for stream in lock(&self.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

fn serve(stream: &TcpStream, mode: Mode) -> std::io::Result<()> {
    // Header and body go out in separate writes; waiting for the first to be acknowledged
    // (Nagle) would be this server's own slowness.
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    if mode == Mode::SpeaksFirst {
        writer.write_all(BANNER)?;
    }
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 0 && header.trim_end() != "" {
            header.clear();
        }
        let Some((bytes, think)) = parse(&request) else {
            writer.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        std::thread::sleep(think);
        let body = body(bytes);
        if mode == Mode::CloseDelimited {
            writer.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            writer.write_all(&body)?;
            return Ok(());
        }
        write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")?;
        writer.write_all(&body)?;
    }
}

/// Size and think time of a request line.
fn parse(request: &str) -> Option<(usize, Duration)> {
    let path = request.strip_prefix("GET /f/")?.split(' ').next()?;
    let (size, think) = path.split_once("?think=").unwrap_or((path, "0"));
    Some((
        size.parse().ok()?,
        Duration::from_millis(think.trim().parse().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_give_size_and_think_time() {
        assert_eq!(
            parse("GET /f/1000 HTTP/1.1\r\n"),
            Some((1000, Duration::ZERO))
        );
        assert_eq!(
            parse("GET /f/7?think=25 HTTP/1.0\r\n"),
            Some((7, Duration::from_millis(25)))
        );
        assert_eq!(parse("GET /other HTTP/1.1\r\n"), None);
    }
}

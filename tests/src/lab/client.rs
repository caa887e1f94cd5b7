//! Clients: plain HTTP over a socket that does exactly what a scenario asks, and curl for
//! everything with TLS in it. What they saw is what the witness is checked against.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::netns::Netns;
use super::process::Process;

/// Nothing in a lab takes longer; what does has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// What a client knows of a session after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The client's port.
    pub port: u16,
    /// Bytes of each answer's body, in order.
    pub bodies: Vec<u64>,
}

/// How a client breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// By RST.
    Reset,
    /// By FIN, and a moment later RST for what still comes.
    Close,
}

/// A connection of the thread's own namespace.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffered: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffered: Vec::new(),
        })
    }

    /// The client's port.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn port(&self) -> Result<u16> {
        Ok(self.stream.local_addr()?.port())
    }

    /// Sends requests for `paths` in one write.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn ask(&mut self, paths: &[&str], version: &str) -> Result<()> {
        let mut requests = String::new();
        for path in paths {
            let _ = write!(requests, "GET {path} HTTP/{version}\r\nHost: lab\r\n\r\n");
        }
        self.stream
            .write_all(requests.as_bytes())
            .context("cannot send the request")
    }

    /// Sends raw bytes.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("cannot send")
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn half_close(&self) -> Result<()> {
        self.stream
            .shutdown(Shutdown::Write)
            .context("cannot half-close")
    }

    fn fill(&mut self) -> Result<usize> {
        let mut chunk = [0_u8; CHUNK_BYTES];
        let read = self.stream.read(&mut chunk).context("no answer")?;
        self.buffered.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    /// Reads exactly `bytes` bytes.
    ///
    /// # Errors
    /// The server closes before.
    pub fn read_exactly(&mut self, bytes: usize) -> Result<Vec<u8>> {
        while self.buffered.len() < bytes {
            if self.fill()? == 0 {
                bail!("closed after {} of {bytes} bytes", self.buffered.len());
            }
        }
        let rest = self.buffered.split_off(bytes);
        Ok(std::mem::replace(&mut self.buffered, rest))
    }

    /// Reads until nothing has come for `gap`; returns how many bytes came.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn read_until_quiet(&mut self, gap: Duration) -> Result<usize> {
        self.stream.set_read_timeout(Some(gap))?;
        let mut bytes = std::mem::take(&mut self.buffered).len();
        let mut chunk = [0_u8; CHUNK_BYTES];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => bytes += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("no answer"),
            }
        }
        self.stream.set_read_timeout(Some(PATIENCE))?;
        Ok(bytes)
    }

    /// Reads a header; returns the length it announces.
    fn header(&mut self) -> Result<Option<u64>> {
        let end = loop {
            if let Some(at) = self.buffered.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill()? == 0 {
                bail!("closed within the header");
            }
        };
        let header: Vec<u8> = self.buffered.drain(..end).collect();
        let header = String::from_utf8_lossy(&header).to_ascii_lowercase();
        if header.split_whitespace().nth(1) != Some("200") {
            bail!("not the answer that was asked for: {header}");
        }
        Ok(header
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()))
    }

    /// Reads one answer with a length; returns the body's size.
    ///
    /// # Errors
    /// It breaks off, is not a 200 or has no length.
    pub fn answer(&mut self) -> Result<u64> {
        let length = self.header()?.context("an answer without a length")?;
        let mut left = length.saturating_sub(self.buffered.len() as u64);
        self.buffered
            .drain(..self.buffered.len().min(usize::try_from(length)?));
        let mut chunk = [0_u8; CHUNK_BYTES];
        while left > 0 {
            let want = chunk.len().min(usize::try_from(left)?);
            let read = self.stream.read(&mut chunk[..want]).context("no answer")?;
            if read == 0 {
                bail!("closed {left} bytes before the end");
            }
            left -= read as u64;
        }
        Ok(length)
    }

    /// Reads one answer that the close ends; returns the body's size.
    ///
    /// # Errors
    /// It breaks off or is not a 200.
    pub fn answer_to_close(&mut self) -> Result<u64> {
        self.header()?;
        let mut length = self.buffered.len() as u64;
        let mut chunk = [0_u8; CHUNK_BYTES];
        loop {
            let read = self.stream.read(&mut chunk).context("no answer")?;
            if read == 0 {
                return Ok(length);
            }
            length += read as u64;
        }
    }

    /// Breaks off.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn abort(self, how: Abort) -> Result<()> {
        if how == Abort::Close {
            // Closing with unread data would send RST at once.
            self.half_close()?;
            std::thread::sleep(Duration::from_millis(20));
        } else {
            let linger = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            // SAFETY: setsockopt reads one linger, which lives on this stack, from a socket that
            // `self` owns.
            let set = unsafe {
                libc::setsockopt(
                    self.stream.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    (&raw const linger).cast(),
                    libc::socklen_t::try_from(size_of::<libc::linger>())?,
                )
            };
            nix::errno::Errno::result(set).context("cannot set SO_LINGER")?;
        }
        Ok(())
    }
}

/// Asks for `paths` one after the other on one connection, `pause` between them.
///
/// # Errors
/// An answer is missing or wrong.
pub fn keep_alive(address: SocketAddr, paths: &[&str], pause: Duration) -> Result<Seen> {
    let mut connection = Connection::open(address)?;
    let mut bodies = Vec::new();
    for path in paths {
        connection.ask(&[path], "1.1")?;
        bodies.push(connection.answer()?);
        std::thread::sleep(pause);
    }
    Ok(Seen {
        port: connection.port()?,
        bodies,
    })
}

/// Asks for all `paths` at once.
///
/// # Errors
/// An answer is missing or wrong.
pub fn pipelined(address: SocketAddr, paths: &[&str]) -> Result<Seen> {
    let mut connection = Connection::open(address)?;
    for path in paths {
        connection.ask(&[path], "1.1")?;
    }
    let bodies = paths
        .iter()
        .map(|_| connection.answer())
        .collect::<Result<_>>()?;
    Ok(Seen {
        port: connection.port()?,
        bodies,
    })
}

/// Asks for `path` and reads until the server closes.
///
/// # Errors
/// The answer is missing or wrong.
pub fn until_close(address: SocketAddr, path: &str) -> Result<Seen> {
    let mut connection = Connection::open(address)?;
    connection.ask(&[path], "1.0")?;
    let body = connection.answer_to_close()?;
    Ok(Seen {
        port: connection.port()?,
        bodies: vec![body],
    })
}

/// Asks for `path`, says that it will ask no more, and reads the answer.
///
/// # Errors
/// The answer is missing or wrong.
pub fn half_closed(address: SocketAddr, path: &str) -> Result<Seen> {
    let mut connection = Connection::open(address)?;
    connection.ask(&[path], "1.1")?;
    connection.half_close()?;
    let body = connection.answer()?;
    Ok(Seen {
        port: connection.port()?,
        bodies: vec![body],
    })
}

/// Asks for `path` and breaks off after `bytes` bytes of the answer.
///
/// # Errors
/// The answer is shorter than that.
pub fn aborted(address: SocketAddr, path: &str, bytes: usize, how: Abort) -> Result<Seen> {
    let mut connection = Connection::open(address)?;
    let port = connection.port()?;
    connection.ask(&[path], "1.1")?;
    connection.read_exactly(bytes)?;
    connection.abort(how)?;
    Ok(Seen {
        port,
        bodies: Vec::new(),
    })
}

/// What curl is asked to do.
#[derive(Clone, Debug)]
pub struct Curl<'a> {
    /// `scheme://host:port/path`, one after the other unless the options say otherwise.
    pub urls: Vec<String>,
    /// `--http1.1`, `--http2`, ...
    pub options: &'a [&'a str],
    /// Where TLS secrets are appended, for the dissector.
    pub keylog: &'a Path,
}

/// Runs curl in `netns`; returns what it saw, one entry per connection, in order of use.
///
/// # Errors
/// curl fails, or an answer is not a 200.
pub fn curl(netns: &Netns, curl: &Curl<'_>, log: &Path) -> Result<Vec<Seen>> {
    let mut command = Command::new("curl");
    command
        .args([
            "-q",
            "--silent",
            "--show-error",
            "--insecure",
            "--fail",
            "--globoff",
        ])
        .args([
            "--max-time",
            "60",
            "--write-out",
            "%{local_port} %{http_code} %{size_download}\\n",
        ])
        .args(curl.options)
        .args(
            curl.urls
                .iter()
                .flat_map(|url| ["--output", "/dev/null", url]),
        )
        .env("SSLKEYLOGFILE", curl.keylog);
    let mut process = Process::spawn(command, Some(netns), log)?;
    process.success(PATIENCE * 2)?;
    let mut sessions: Vec<Seen> = Vec::new();
    for line in process.log().lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [port, "200", size] = fields[..] else {
            bail!("curl said: {line}")
        };
        let (port, size) = (port.parse()?, size.parse()?);
        match sessions.iter_mut().find(|session| session.port == port) {
            Some(session) => session.bodies.push(size),
            None => sessions.push(Seen {
                port,
                bodies: vec![size],
            }),
        }
    }
    Ok(sessions)
}

//! A server that says who it is.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lab::netns::{Netns, join};

/// How often a server looks whether it is to end.
const LOOK_MS: u16 = 20;

/// Greets every connection with one byte, its name. Dropping it closes the listener; connections
/// that stay are answered on.
#[derive(Debug)]
pub struct Teller {
    stopping: Arc<AtomicBool>,
    accept: Option<JoinHandle<Result<()>>>,
}

/// What a server does after its greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It closes.
    Closes,
    /// It says its name again for every byte that it hears, until the client closes.
    Stays,
}

impl Teller {
    /// Listens in `netns` at `address`.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start(netns: &Netns, address: SocketAddr, name: u8, then: Then) -> Result<Self> {
        let listener = netns.run(move || {
            TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
        })?;
        listener.set_nonblocking(true)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let accept = std::thread::Builder::new()
            .name(format!("teller-{}", char::from(name)))
            .spawn(move || serve(&listener, name, then, &stop))?;
        Ok(Self {
            stopping,
            accept: Some(accept),
        })
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(accept) = self.accept.take() {
            let _ = join(accept);
        }
    }
}

fn serve(listener: &TcpListener, name: u8, then: Then, stopping: &AtomicBool) -> Result<()> {
    while !stopping.load(Ordering::Acquire) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(LOOK_MS))?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => greet(stream, name, then)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // A client that gave up before it was accepted.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error).context("accepting"),
            }
        }
    }
    Ok(())
}

fn greet(mut stream: TcpStream, name: u8, then: Then) -> Result<()> {
    stream.set_nonblocking(false)?;
    // A client that is gone already is none of the server's business.
    let greeted = stream.write_all(&[name]);
    if then == Then::Stays && greeted.is_ok() {
        std::thread::Builder::new().spawn(move || {
            let mut heard = [0];
            while matches!(stream.read(&mut heard), Ok(1)) {
                if stream.write_all(&[name]).is_err() {
                    break;
                }
            }
        })?;
    }
    Ok(())
}

//! The connection that an answer goes out on, as weir knows it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _};

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// By the kernel's own number for the socket: unmistakable, and what [`of`](Self::of) gives.
    Cookie(u64),
    /// By the client's end and the server's port, where the socket itself is out of reach.
    Ends {
        /// The client's.
        remote: SocketAddr,
        /// The server's.
        local_port: u16,
    },
}

impl Session {
    /// The connection of a socket (`SO_COOKIE`, Linux 4.12).
    ///
    /// # Errors
    /// If `socket` is none.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let mut cookie = 0_u64;
        let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `len` bytes
        // to `cookie`, which is so long, and how many to `len`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            Ok(Self::Cookie(cookie))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The connection of a stream by its ends, e.g. for a server behind another network namespace's
    /// socket.
    ///
    /// # Errors
    /// If the stream is no longer connected.
    pub fn ends_of(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self::Ends {
            remote: stream.peer_addr()?,
            local_port: stream.local_addr()?.port(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_names_a_socket_and_no_other() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let cookie = Session::of(&server).unwrap();
        assert_eq!(cookie, Session::of(&server.try_clone().unwrap()).unwrap());
        assert_ne!(cookie, Session::of(&client).unwrap());
        assert_ne!(cookie, Session::Cookie(0));
        let Session::Ends { remote, local_port } = Session::ends_of(&server).unwrap() else {
            panic!()
        };
        assert_eq!(remote, client.local_addr().unwrap());
        assert_eq!(local_port, listener.local_addr().unwrap().port());
    }
}

//! The Unix socket: one daemon holds it, and the kernel's word on who is calling opens it.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Uid, User, chown, geteuid, getgrouplist};
use tokio::net::UnixListener;

use crate::config::Query;

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Root and the daemon's own user.
    always: Vec<Uid>,
    users: Vec<Uid>,
    groups: Vec<Gid>,
}

impl Access {
    /// Looks up whom the configuration names.
    pub fn new(query: &Query) -> anyhow::Result<Self> {
        let users = query
            .allow_users
            .iter()
            .map(|user| user.uid("query.allow_users"));
        let groups = query
            .allow_groups
            .iter()
            .map(|group| group.gid("query.allow_groups"));
        Ok(Self {
            always: vec![Uid::from_raw(0), geteuid()],
            users: users.collect::<Result<_, _>>()?,
            groups: groups.collect::<Result<_, _>>()?,
        })
    }

    /// Whether `peer` may ask. May read the host's user database.
    pub fn allows(&self, peer: Peer) -> bool {
        let Peer { uid, gid, .. } = peer;
        self.always.contains(&uid)
            || self.users.contains(&uid)
            || self.groups.contains(&gid)
            || (!self.groups.is_empty() && self.is_member(peer))
    }

    /// Lets nobody in, not even the daemon's own user: what a test is to a daemon that does not
    /// know it.
    #[cfg(test)]
    pub(super) fn nobody() -> Self {
        Self {
            always: Vec::new(),
            users: Vec::new(),
            groups: Vec::new(),
        }
    }

    fn is_member(&self, peer: Peer) -> bool {
        let Ok(Some(user)) = User::from_uid(peer.uid) else {
            return false;
        };
        let Ok(name) = CString::new(user.name) else {
            return false;
        };
        getgrouplist(&name, peer.gid)
            .is_ok_and(|groups| groups.iter().any(|group| self.groups.contains(group)))
    }

    /// Lets those who may ask reach the socket at all, and no more than must be.
    fn open(&self, socket: &Path) -> anyhow::Result<()> {
        let mode = match (self.users.as_slice(), self.groups.as_slice()) {
            ([], []) => 0o660,
            ([], [group]) => {
                chown(socket, None, Some(*group)).with_context(|| {
                    format!("cannot give {} to group {group}", socket.display())
                })?;
                0o660
            }
            _ => 0o666,
        };
        fs::set_permissions(socket, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", socket.display()))
    }
}

/// Who is on the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: Uid,
    /// Its primary group.
    pub gid: Gid,
    /// The process that connected.
    pub pid: i32,
}

impl Peer {
    /// What the kernel says about a connection.
    pub fn of(stream: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        Ok(Self {
            uid: Uid::from_raw(credentials.uid()),
            gid: Gid::from_raw(credentials.gid()),
            pid: credentials.pid(),
        })
    }
}

/// The socket, held against other daemons until it is dropped, which removes it.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: Flock<File>,
}

impl Socket {
    /// Takes the socket at `path`: makes its directory, refuses if another daemon holds it, and
    /// replaces what a dead one left behind.
    pub fn take(path: &Path, access: &Access) -> anyhow::Result<(Self, UnixListener)> {
        let directory = path
            .parent()
            .context("the query socket needs a directory")?;
        fs::create_dir_all(directory).with_context(|| {
            format!(
                "cannot make {} for the query socket (query.socket); run as root, or choose a \
                 place that this user can write to",
                directory.display()
            )
        })?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = lock(&lock_path, path)?;
        // From here on, only a dead daemon's socket can be there.
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => anyhow::bail!(
                "query.socket {} is there and is no socket: name another path, or remove it",
                path.display()
            ),
            Ok(_) => fs::remove_file(path)
                .with_context(|| format!("cannot remove the stale socket {}", path.display()))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let socket = Self {
            path: path.to_owned(),
            lock_path,
            _lock: lock,
        };
        access.open(path)?;
        Ok((socket, listener))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a changed list of users and groups in force.
    pub fn reopen(&self, access: &Access) -> anyhow::Result<()> {
        access.open(&self.path)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The lock goes last, so that a daemon that waits for it finds nothing.
        for path in [&self.path, &self.lock_path] {
            if let Err(err) = fs::remove_file(path) {
                tracing::warn!("cannot remove {}: {err}", path.display());
            }
        }
    }
}

fn lock(lock_path: &Path, socket: &Path) -> anyhow::Result<Flock<File>> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            // Who can open it can hold it, and keep the next daemon from starting.
            .mode(0o600)
            .open(lock_path)
            .with_context(|| format!("cannot open the lock {}", lock_path.display()))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = fs::read_to_string(lock_path).unwrap_or_default();
                anyhow::bail!(
                    "another weir daemon (process {}) holds {}; stop it first, or give this one \
                     its own query.socket",
                    holder.trim(),
                    socket.display()
                );
            }
            Err((_, err)) => {
                return Err(err).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        };
        // The holder before may have removed the file between our opening and locking it.
        let same = fs::metadata(lock_path).is_ok_and(|named| {
            lock.metadata()
                .is_ok_and(|held| (held.dev(), held.ino()) == (named.dev(), named.ino()))
        });
        if same {
            lock.set_len(0)
                .and_then(|()| writeln!(lock, "{}", std::process::id()))
                .with_context(|| format!("cannot write {}", lock_path.display()))?;
            return Ok(lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Principal;

    fn access(users: &[u32], groups: &[u32]) -> Access {
        Access::new(&Query {
            socket: PathBuf::from("/unused"),
            allow_users: users.iter().copied().map(Principal::Id).collect(),
            allow_groups: groups.iter().copied().map(Principal::Id).collect(),
        })
        .unwrap()
    }

    fn peer(uid: u32, gid: u32) -> Peer {
        Peer {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            pid: 1,
        }
    }

    #[test]
    fn root_and_the_named_may_ask_and_nobody_else() {
        let nobody_named = access(&[], &[]);
        assert!(nobody_named.allows(peer(0, 0)));
        assert!(nobody_named.allows(peer(geteuid().as_raw(), 12345)));
        assert!(!nobody_named.allows(peer(54321, 54321)));
        assert!(access(&[54321], &[]).allows(peer(54321, 1)));
        assert!(access(&[], &[777]).allows(peer(54321, 777)));
        assert!(!access(&[1], &[777]).allows(peer(54321, 1)));
    }

    #[test]
    fn a_name_that_the_host_does_not_have_is_told() {
        let query = Query {
            socket: PathBuf::from("/unused"),
            allow_users: vec![Principal::Name("no-such-user".into())],
            allow_groups: Vec::new(),
        };
        let told = Access::new(&query).unwrap_err().to_string();
        assert!(told.contains("no-such-user"), "{told}");
    }

    #[tokio::test]
    async fn one_daemon_holds_the_socket_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/here/weir.sock");
        let nobody = access(&[], &[]);
        let (socket, _listener) = Socket::take(&path, &nobody).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        let told = Socket::take(&path, &nobody).unwrap_err().to_string();
        let pid = std::process::id().to_string();
        assert!(
            told.contains("another weir daemon") && told.contains(&pid),
            "{told}"
        );

        drop(socket);
        assert!(!path.exists(), "a clean end leaves no socket");

        std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (_socket, _listener) = Socket::take(&path, &nobody).unwrap();
        tokio::net::UnixStream::connect(&path).await.unwrap();
    }
}

//! A Unix datagram socket in the file system: ours while we live, and replaced only if it is dead.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::unistd::{Gid, chown};

/// Its owner and its group may write to it, nobody else.
const MODE: u32 = 0o660;

/// The socket; gone from the file system when it is dropped.
#[derive(Debug)]
pub(super) struct LabelSocket {
    socket: UnixDatagram,
    path: PathBuf,
    /// Device and inode, so that nobody else's is removed.
    id: (u64, u64),
}

impl LabelSocket {
    /// Makes it at `path` for `group`; `key` is where the configuration says so.
    pub(super) fn take(path: &Path, group: Option<Gid>, key: &str) -> anyhow::Result<Self> {
        let name = path.display();
        make_room(path, key)?;
        let socket = UnixDatagram::bind(path).with_context(|| {
            format!(
                "cannot make the socket {name} ({key}); its directory must be there, and be \
                     writable to weir"
            )
        })?;
        let meta =
            fs::symlink_metadata(path).with_context(|| format!("cannot look at {name} ({key})"))?;
        let made = Self {
            socket,
            path: path.to_owned(),
            id: (meta.dev(), meta.ino()),
        };
        if group.is_some() {
            chown(path, None, group).with_context(|| {
                format!(
                    "cannot give {name} ({key}) to labels.socket_group; weir must be root, or \
                         a member of it"
                )
            })?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))
            .with_context(|| format!("cannot set the mode of {name} ({key})"))?;
        made.socket
            .set_nonblocking(true)
            .with_context(|| format!("cannot read {name} ({key})"))?;
        Ok(made)
    }

    pub(super) fn socket(&self) -> &UnixDatagram {
        &self.socket
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LabelSocket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id);
        if ours && let Err(err) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {err}", self.path.display());
        }
    }
}

/// Removes what a dead process left at `path`.
fn make_room(path: &Path, key: &str) -> anyhow::Result<()> {
    let name = path.display();
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => anyhow::bail!(
            "{name} ({key}) is there and is no socket: name another path, or remove it"
        ),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err).with_context(|| format!("cannot look at {name} ({key})")),
    }
    let probe = UnixDatagram::unbound().context("cannot make a socket")?;
    match probe.connect(path) {
        Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale socket {name} ({key})")),
        Ok(()) => anyhow::bail!(
            "another process reads {name} ({key}): stop it, or give this weir a path of its own"
        ),
        Err(err) => Err(err).with_context(|| {
            format!("{name} ({key}) is another process's socket: name another path")
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refused(path: &Path) -> String {
        format!(
            "{:#}",
            LabelSocket::take(path, None, "labels.x").unwrap_err()
        )
    }

    #[test]
    fn a_stale_socket_is_replaced_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.sock");
        // Dropped without being removed, as by a process that was killed.
        drop(UnixDatagram::bind(&path).unwrap());
        let socket = LabelSocket::take(&path, None, "labels.x").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let told = refused(&path);
        assert!(
            told.contains("another process reads") && told.contains("labels.x"),
            "{told}"
        );
        drop(socket);
        assert!(!path.exists());

        let file = directory.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(refused(&file).contains("is no socket"));
        assert_eq!(fs::read(&file).unwrap(), b"kept");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(refused(&link).contains("is no socket"));
        let stream = directory.path().join("stream");
        let _listener = UnixListener::bind(&stream).unwrap();
        assert!(refused(&stream).contains("another process's socket"));
        let nowhere = directory.path().join("no/where");
        assert!(refused(&nowhere).contains("directory must be there"));
    }

    #[test]
    fn anothers_socket_is_not_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.sock");
        let socket = LabelSocket::take(&path, None, "labels.x").unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixDatagram::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}

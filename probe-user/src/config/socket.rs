//! Where a daemon answers, and where one is looked for, if nobody says: at the system's place, or
//! at the user's own where that is not theirs to write to.

use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, access, geteuid};

/// Where the service answers.
const SYSTEM: &str = "/run/weir/weir.sock";

/// What decides.
struct Surroundings {
    user: Uid,
    /// `XDG_RUNTIME_DIR`, `HOME`.
    runtime_dir: Option<PathBuf>,
    home: Option<PathBuf>,
    /// `/`, but for tests.
    root: PathBuf,
}

impl Surroundings {
    fn here() -> Self {
        let dir = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|dir| dir.is_absolute())
        };
        Self {
            user: geteuid(),
            runtime_dir: dir("XDG_RUNTIME_DIR"),
            home: dir("HOME"),
            root: PathBuf::from("/"),
        }
    }

    fn system(&self) -> PathBuf {
        self.root.join(SYSTEM.trim_start_matches('/'))
    }

    /// The user's own place; none for root, and none if there is nowhere to put it.
    fn own(&self) -> Option<PathBuf> {
        if self.user.is_root() {
            return None;
        }
        let login = self.root.join(format!("run/user/{}", self.user));
        let is_ours = |dir: &Path| {
            dir.metadata()
                .is_ok_and(|meta| meta.is_dir() && meta.uid() == self.user.as_raw())
        };
        self.runtime_dir
            .clone()
            .or_else(|| is_ours(&login).then_some(login))
            .map(|dir| dir.join("weir.sock"))
            .or_else(|| Some(self.home.as_ref()?.join(".cache/weir/weir.sock")))
    }

    /// Where a daemon of this user answers.
    fn to_answer(&self) -> PathBuf {
        let system = self.system();
        let may_write = |dir: &Path| access(dir, AccessFlags::W_OK).is_ok();
        if system.parent().is_some_and(may_write) {
            // The service's user, whose directory it is.
            return system;
        }
        self.own().unwrap_or(system)
    }

    /// Where a daemon that this user may ask is likely to answer: the user's own, else the
    /// system's.
    fn to_ask(&self) -> PathBuf {
        let candidates = [self.own(), Some(self.system())];
        let mut there = candidates
            .into_iter()
            .flatten()
            .filter(|path| path.exists());
        there.next().unwrap_or_else(|| self.to_answer())
    }
}

/// Where a daemon of this user answers unless it is told otherwise.
pub(super) fn to_answer() -> PathBuf {
    Surroundings::here().to_answer()
}

/// Where a daemon is asked unless another place is given.
pub(crate) fn to_ask() -> PathBuf {
    Surroundings::here().to_ask()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A host on which `user` is not root, in a directory.
    fn host(user: u32) -> (tempfile::TempDir, Surroundings) {
        let dir = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            user: Uid::from_raw(user),
            runtime_dir: None,
            home: None,
            root: dir.path().to_owned(),
        };
        (dir, surroundings)
    }

    #[test]
    fn an_ordinary_user_has_a_place_of_their_own() {
        let (dir, mut host) = host(1000);
        assert_eq!(host.to_answer(), host.system());
        host.home = Some("/home/a".into());
        assert_eq!(host.to_answer(), Path::new("/home/a/.cache/weir/weir.sock"));
        host.user = geteuid();
        if !host.user.is_root() {
            let login = dir.path().join(format!("run/user/{}", host.user));
            fs::create_dir_all(&login).unwrap();
            assert_eq!(host.to_answer(), login.join("weir.sock"));
        }
        host.user = Uid::from_raw(1000);
        host.runtime_dir = Some("/run/user/7".into());
        assert_eq!(host.to_answer(), Path::new("/run/user/7/weir.sock"));
        host.user = Uid::from_raw(0);
        assert_eq!(host.to_answer(), host.system());
    }

    #[test]
    fn the_services_user_answers_at_the_systems_place() {
        let (dir, mut host) = host(1000);
        host.runtime_dir = Some("/run/user/7".into());
        fs::create_dir_all(dir.path().join("run/weir")).unwrap();
        assert_eq!(host.to_answer(), host.system());
    }

    #[test]
    fn a_daemon_of_ones_own_is_asked_before_the_systems() {
        let (dir, mut host) = host(1000);
        let runtime = dir.path().join("mine");
        fs::create_dir_all(&runtime).unwrap();
        host.runtime_dir = Some(runtime.clone());
        assert_eq!(host.to_ask(), runtime.join("weir.sock"));
        fs::create_dir_all(dir.path().join("run/weir")).unwrap();
        fs::write(host.system(), "").unwrap();
        assert_eq!(host.to_ask(), host.system());
        fs::write(runtime.join("weir.sock"), "").unwrap();
        assert_eq!(host.to_ask(), runtime.join("weir.sock"));
    }
}

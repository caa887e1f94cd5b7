//! Keeps a file that says what the gates shall be. Each content replaces the one before as a whole, and
//! is on the disk before it does.
//!
//! A reader that takes no notice of the end that is written in it would hold the last position for
//! ever, so the guard writes neutral when this process cannot.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::guard::{Guarded, Plan};
use super::notice::Notice;
use super::settings::File as Settings;
use super::told::{Means, Undo};

/// There is nothing in it that is not to be read.
const MODE: u32 = 0o644;

impl Means for Settings {
    async fn tell(&self, notice: &Notice, _: Option<&mut Guarded>) -> Result<Option<String>> {
        write(self, notice).await.map(|()| None)
    }

    /// The end stands in the file.
    fn tells_renewals(&self) -> bool {
        true
    }

    fn plan(end: Undo<Self>) -> Plan {
        Plan::File(end)
    }
}

async fn write(settings: &Settings, notice: &Notice) -> Result<()> {
    let path = settings.file.clone();
    let mut text = serde_json::to_vec_pretty(notice)?;
    text.push(b'\n');
    // A slow disk is to hold up nobody else.
    let written = tokio::task::spawn_blocking(move || {
        replace(&path, &text).with_context(|| format!("cannot write {}", path.display()))
    });
    written.await?
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let odd = || io::Error::new(io::ErrorKind::InvalidInput, "it names no file");
    let directory = path.parent().ok_or_else(odd)?;
    let name = path.file_name().ok_or_else(odd)?.to_string_lossy();
    // The guard may write while this process is held up in the middle: each has a name of its own.
    let aside = directory.join(format!(".{name}.{}.new", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&aside)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::actuators::guard::Guard;
    use crate::steer::actuators::notice::Cause;
    use crate::steer::actuators::settings::Serves;
    use crate::steer::actuators::told::Told;
    use crate::steer::actuators::{Actuator as _, Lease, clock};
    use crate::steer::{Position, Scope, Setting};

    fn read(path: &Path) -> Notice {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_reader_finds_the_position_its_end_and_then_neutral_and_never_half_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate.json");
        let settings = Settings { file: path.clone() };
        let serves = Serves::Service("live".to_owned());
        let mut gate = Told::open(settings, "g", serves, &Guard::in_process(), 4);
        gate.release().await.unwrap();
        let told = read(&path);
        assert!(told.is_neutral && told.generation == 4, "{told:?}");

        let position = Position {
            generation: 5,
            decision: "d1".to_owned(),
            settings: vec![Setting {
                scope: Scope::Service("live".to_owned()),
                weight_permille: 250,
                cap_bps: Some(3_000_000),
            }],
        };
        let lease = |s: u64| Lease {
            until_boot_ns: clock::boot_ns() + s * 1_000_000_000,
        };
        gate.acquire(&position, lease(10)).await.unwrap();
        let first = read(&path);
        assert_eq!((first.weight_permille, first.cause), (250, Cause::Turned));
        assert_eq!(first.settings, position.settings);
        gate.renew(lease(20)).await.unwrap();
        let second = read(&path);
        assert!(second.until_unix_ms > first.until_unix_ms + 9_000);
        assert_eq!((second.generation, second.sequence), (5, 1));
        gate.release().await.unwrap();
        let last = read(&path);
        assert!(last.is_neutral && last.sequence > second.sequence);
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_an_error_that_names_it() {
        let settings = Settings {
            file: "/nowhere/gate.json".into(),
        };
        let mut gate = Told::open(settings, "g", Serves::Host, &Guard::in_process(), 0);
        let failed = format!("{:#}", gate.release().await.unwrap_err());
        assert!(
            failed.starts_with("cannot write /nowhere/gate.json"),
            "{failed}"
        );
    }
}

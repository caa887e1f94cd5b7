//! What was learned of players, kept in a file over restarts. Written aside and moved into place, so
//! that a crash at any point leaves a whole file, the old or the new.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::qoe::learn::Families;

/// What is learned in between is learned again after a crash.
const INTERVAL: Duration = Duration::from_secs(300);
/// A file that is larger was not written by weir: all families together take a tenth.
const MOST_BYTES: u64 = 4 << 20;

/// Keeps the file.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    written: Instant,
    /// As it stands in the file.
    kept: Families,
    /// The write that is under way.
    writing: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Keeper {
    /// Reads what is there: nothing at first. What cannot be understood stays as it is, under another
    /// name, and learning begins anew.
    pub(super) fn open(path: &Path) -> (Self, Families) {
        let families = match read(path) {
            Ok(families) => families,
            Err(err) => {
                let aside = path.with_extension("broken");
                let moved = std::fs::rename(path, &aside);
                tracing::warn!(
                    "what was learned of players begins anew: {err:#}; the file {}",
                    match moved {
                        Ok(()) => format!("is {} now", aside.display()),
                        Err(err) => format!("stays, and could not be moved away: {err}"),
                    }
                );
                Families::default()
            }
        };
        let keeper = Self {
            path: path.to_owned(),
            written: Instant::now(),
            kept: families.clone(),
            writing: None,
        };
        (keeper, families)
    }

    /// Writes what is new if it is time; does not wait for the disk.
    pub(super) fn keep(&mut self, families: &Families) {
        if self.written.elapsed() < INTERVAL {
            return;
        }
        self.written = Instant::now();
        self.finish();
        if *families == self.kept {
            return;
        }
        self.kept = families.clone();
        let (path, families) = (self.path.clone(), families.clone());
        let thread = std::thread::Builder::new().name("weir-learned".into());
        match thread.spawn(move || write(&path, &families)) {
            Ok(writing) => self.writing = Some(writing),
            Err(err) => tracing::warn!("what was learned of players is not kept: {err}"),
        }
    }

    /// Writes what is new, and waits for it: the daemon ends.
    pub(super) fn close(mut self, families: &Families) {
        self.finish();
        if *families != self.kept
            && let Err(err) = write(&self.path, families)
        {
            tracing::warn!("what was learned of players is not kept: {err:#}");
        }
    }

    fn finish(&mut self) {
        if let Some(writing) = self.writing.take()
            && let Ok(Err(err)) = writing.join()
        {
            tracing::warn!("what was learned of players is not kept: {err:#}");
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Families> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Families::default()),
        Err(err) => return Err(err).with_context(|| format!("cannot read {}", path.display())),
    };
    if size > MOST_BYTES {
        anyhow::bail!(
            "{} has {size} bytes; at most {MOST_BYTES} are weir's",
            path.display()
        );
    }
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let families: Families = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not what weir wrote", path.display()))?;
    Ok(families.bounded())
}

fn write(path: &Path, families: &Families) -> anyhow::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let aside = dir.join(format!(
        ".{}.new",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    let mut file = std::fs::File::create(&aside)
        .with_context(|| format!("cannot write {}", aside.display()))?;
    serde_json::to_writer(&mut file, families)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(file.flush()?))
        .and_then(|()| Ok(file.sync_all()?))
        .with_context(|| format!("cannot write {}", aside.display()))?;
    std::fs::rename(&aside, path).with_context(|| format!("cannot replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qoe::learn::Lesson;

    fn learned() -> Families {
        let mut families = Families::default();
        families.of("chrome/hls").unwrap().learn(&Lesson::Resume {
            without_us: 1,
            with_us: 2_000_000,
        });
        families
    }

    #[test]
    fn what_was_learned_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("players.json");
        let (keeper, none) = Keeper::open(&path);
        assert_eq!(none, Families::default());
        keeper.close(&learned());
        let (_, again) = Keeper::open(&path);
        assert_eq!(again, learned());
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn what_is_not_weirs_is_put_aside_and_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("players.json");
        std::fs::write(&path, "{\"families\": 7}").unwrap();
        let (_, none) = Keeper::open(&path);
        assert_eq!(none, Families::default());
        let aside = std::fs::read_to_string(path.with_extension("broken")).unwrap();
        assert_eq!(aside, "{\"families\": 7}");
    }

    #[test]
    fn a_directory_that_is_missing_is_said_and_ends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none/players.json");
        let (keeper, _) = Keeper::open(&path);
        keeper.close(&learned());
        assert!(write(&path, &learned()).is_err());
    }
}

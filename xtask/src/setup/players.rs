//! The real players of `cargo xtask truth --qoe`: npm packages, as their lock file has them, beside
//! what drives them.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use super::Item;
use crate::process::{run, typed, workspace};

fn directory() -> PathBuf {
    workspace().join("tests/players")
}

/// npm keeps a copy of the lock beside what it has installed; what differs is another version.
fn installed() -> bool {
    let lock = fs::metadata(directory().join("package-lock.json"));
    let done = fs::metadata(directory().join("node_modules/.package-lock.json"));
    let times = lock
        .and_then(|lock| lock.modified())
        .ok()
        .zip(done.and_then(|done| done.modified()).ok());
    times.is_some_and(|(lock, done)| done >= lock)
}

pub(super) fn survey() -> Vec<Item> {
    vec![Item {
        name: "players".to_owned(),
        found: installed().then(|| directory().join("node_modules").display().to_string()),
        remedy: "npm ci in tests/players: hls.js, dash.js, playwright-core".to_owned(),
    }]
}

/// Installs what the lock names, and nothing newer.
pub(super) fn install() -> Result<()> {
    let mut command = Command::new("npm");
    command.current_dir(directory()).arg("ci");
    eprintln!("setup: {}", typed(&command));
    run(&mut command)?;
    // Older than the lock where the checkout is younger than the archives' own times.
    let done = directory().join("node_modules/.package-lock.json");
    let Ok(file) = fs::File::options().append(true).open(&done) else {
        bail!("npm ci left no {}", done.display());
    };
    file.set_modified(std::time::SystemTime::now())?;
    Ok(())
}

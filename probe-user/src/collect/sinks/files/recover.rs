//! Files that were begun and not finished: by a process that is gone, or on a disk that failed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::journal;
use super::table::Table;

/// Makes a Parquet file of a journal. One whose file was finished is only removed.
pub(super) fn journal(path: &Path) -> Result<()> {
    let name = path.with_extension("");
    let part = name.with_extension("parquet.part");
    if !name.exists() {
        let mut records = journal::read(path)?.peekable();
        if records.peek().is_some() {
            let file = File::create(&part);
            let file = file.with_context(|| format!("cannot make {}", part.display()))?;
            let mut table = Table::new(file)?;
            for record in records {
                table.push(&record)?;
            }
            table.finish()?.sync_all()?;
            fs::rename(&part, &name)?;
            if let Some(directory) = name.parent() {
                File::open(directory)?.sync_all()?;
            }
            tracing::info!("{}: finished what was begun", name.display());
        }
    }
    // What was written without its end.
    if part.exists() {
        fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Makes a file whole: lines up to the last that is. Anything else cannot be read, and goes.
pub(super) fn part(path: &Path) -> Result<()> {
    let name = path.with_extension("");
    if name.extension().is_some_and(|format| format == "ndjson") {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let (bytes, _) = whole_lines(&mut file)?;
        if bytes > 0 {
            file.set_len(bytes)?;
            file.sync_all()?;
            fs::rename(path, &name)?;
            tracing::info!("{}: finished what was begun", name.display());
            return Ok(());
        }
    } else {
        tracing::warn!("{}: was not finished, and cannot be read", path.display());
    }
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Records that can be read of a file that is not finished.
pub(super) fn whole(path: &Path) -> u64 {
    if path
        .extension()
        .is_some_and(|extension| extension == "journal")
    {
        return journal::read(path).map_or(0, |records| records.count() as u64);
    }
    let lines = File::open(path).map(|mut file| whole_lines(&mut file));
    lines.map_or(0, |lines| lines.map_or(0, |(_, lines)| lines))
}

/// How many bytes the lines take that are whole, and how many they are.
fn whole_lines(file: &mut File) -> Result<(u64, u64)> {
    let (mut whole, mut lines, mut read) = (0, 0, 0);
    let mut block = vec![0; 64 << 10];
    file.seek(SeekFrom::Start(0))?;
    loop {
        let len = file.read(&mut block)?;
        if len == 0 {
            return Ok((whole, lines));
        }
        for (place, byte) in block[..len].iter().enumerate() {
            if *byte == b'\n' {
                lines += 1;
                whole = read + place as u64 + 1;
            }
        }
        read += len as u64;
    }
}

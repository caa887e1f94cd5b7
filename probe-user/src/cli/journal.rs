//! `weir journal`: what was decided and ordered, from its file; no daemon is needed.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Journal, JournalCommand, JournalShow, Outcome};
use crate::steer::journal::{Entry, Verified, read, verify};
use crate::ui::listing::journal as listing;
use crate::ui::out::Style;
use crate::ui::table::Printer;

/// `weir journal`: the entries or the verdict to `to`, what is wrong to `notes`.
pub fn journal(
    args: &Journal,
    style: Style,
    to: impl Write,
    mut notes: impl Write,
) -> Result<Outcome> {
    let (file, verified) = match &args.command {
        JournalCommand::Show(args) => (&args.file, show(args, style, to)?),
        JournalCommand::Verify(args) => {
            let verified = verify(&args.file).with_context(|| cannot_read(&args.file))?;
            say(&verified, to)?;
            (&args.file, verified)
        }
    };
    for finding in &verified.findings {
        let (path, line) = (finding.file.display(), finding.line);
        writeln!(notes, "{path}:{line}: {}", finding.damage)?;
    }
    if verified.is_sound() {
        return Ok(Outcome::Done);
    }
    writeln!(notes, "weir: {} is not as it was written", file.display())?;
    Ok(Outcome::Incomplete)
}

fn cannot_read(file: &Path) -> String {
    format!("cannot read the journal {}", file.display())
}

fn show(args: &JournalShow, style: Style, to: impl Write) -> Result<Verified> {
    let mut printer = Printer::new(listing::COLUMNS, args.output.output, style, to);
    let mut failed = None;
    let wanted = |entry: &Entry| {
        let kind = listing::kind(&entry.body);
        (args.kind.is_empty() || args.kind.iter().any(|own| own == kind))
            && args.from_seq.is_none_or(|from| entry.seq >= from)
    };
    let verified = read(&args.file, |entry| {
        if failed.is_none() && wanted(entry) {
            failed = printer.push(entry).err();
        }
    });
    if let Some(failed) = failed {
        // As it is, so that a reader that went away is known as one.
        return Err(failed.into());
    }
    printer.flush()?;
    verified.with_context(|| cannot_read(&args.file))
}

fn say(verified: &Verified, mut to: impl Write) -> Result<()> {
    let Verified { files, entries, .. } = verified;
    let verdict = if verified.is_sound() {
        "sound"
    } else {
        "NOT sound"
    };
    writeln!(to, "{verdict}: {entries} entries in {files} files")?;
    if let (Some(seq), Some(hash)) = (verified.last_seq, &verified.last_hash) {
        writeln!(to, "the last is {seq}, with the hash {hash}")?;
    }
    Ok(())
}

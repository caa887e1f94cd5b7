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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::steer::journal::{Body, Bound, Journal as Written};

    /// What it prints and notes, and how it ends.
    fn said(line: &str) -> (String, String, Outcome) {
        let Command::Journal(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line} is another command");
        };
        let (mut to, mut notes) = (Vec::new(), Vec::new());
        let outcome = journal(&args, Style::default(), &mut to, &mut notes).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(to), text(notes), outcome)
    }

    #[test]
    fn it_is_shown_and_verified_without_a_daemon_and_tampering_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let shown = path.display();
        let mut written = Written::open(&path, Bound::default(), 1, 1).unwrap();
        written.append(Body::Note("one".to_owned()), 2, 2).unwrap();
        let refused = Body::Refused {
            who: "user 33".to_owned(),
            what: "drain of host".to_owned(),
            why: "no role".to_owned(),
        };
        let last = written.append(refused, 3, 3).unwrap();

        let (table, notes, outcome) = said(&format!("weir journal show {shown}"));
        assert!(table.contains("user 33: drain of host: no role"), "{table}");
        assert_eq!((notes.as_str(), outcome), ("", Outcome::Done));
        let (json, _, _) = said(&format!("weir journal show {shown} --kind note -o json"));
        assert_eq!(json.lines().count(), 1);
        let entry: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(entry["body"]["note"], "one");
        let (told, _, outcome) = said(&format!("weir journal verify {shown}"));
        assert_eq!(
            told,
            format!("sound: 3 entries in 1 files\nthe last is 3, with the hash {last}\n")
        );
        assert_eq!(outcome, Outcome::Done);

        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("no role", "a role")).unwrap();
        let (told, notes, outcome) = said(&format!("weir journal verify {shown}"));
        assert!(told.starts_with("NOT sound"), "{told}");
        assert!(
            notes.contains(&format!("{shown}:3: the entry was changed")),
            "{notes}"
        );
        assert_eq!(outcome, Outcome::Incomplete);
    }

    #[test]
    fn a_journal_that_is_not_there_is_an_error_that_names_it() {
        let line = "weir journal verify /nowhere/j";
        let Command::Journal(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line} is another command");
        };
        let failed = journal(&args, Style::default(), Vec::new(), Vec::new()).unwrap_err();
        assert!(format!("{failed:#}").starts_with("cannot read the journal /nowhere/j"));
    }
}

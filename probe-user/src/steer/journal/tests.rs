use std::fs;
use std::io::Write as _;

use super::*;

fn journal(path: &Path) -> Journal {
    Journal::open(path, small(), 1, 1).unwrap()
}

fn small() -> Bound {
    Bound {
        max_file_bytes: 4096,
        max_files: 4,
    }
}

fn note(n: usize) -> Body {
    Body::Note(format!("entry {n}"))
}

/// A journal of so many entries besides the first of each file.
fn written(count: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("steer.journal");
    let mut journal = journal(&path);
    for n in 0..count {
        journal.append(note(n), 1, 1).unwrap();
    }
    (dir, path)
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.split_inclusive('\n').map(str::to_owned).collect()
}

fn damages(path: &Path) -> Vec<Damage> {
    let findings = verify(path).unwrap().findings;
    findings.into_iter().map(|finding| finding.damage).collect()
}

#[test]
fn what_was_written_is_read_and_sound() {
    let (_dir, path) = written(10);
    let mut notes = 0;
    let verified = read(&path, |entry| {
        notes += usize::from(matches!(entry.body, Body::Note(_)));
    });
    let verified = verified.unwrap();
    assert_eq!((notes, verified.entries), (10, 11));
    assert!(verified.is_sound() && verified.findings.is_empty());
    let reopened = journal(&path);
    assert_eq!(Some(reopened.last_hash()), verified.last_hash.as_deref());
}

#[test]
fn several_entries_are_written_whole_and_chained_or_not_at_all() {
    let (_dir, path) = written(1);
    let mut journal = journal(&path);
    let drafts = |sizes: &[usize]| {
        let draft = |bytes: &usize| Draft {
            body: Body::Note("x".repeat(*bytes)),
            unix_ns: 1,
            boot_ns: 1,
        };
        sizes.iter().map(draft).collect::<Vec<_>>()
    };
    let written = journal.append_all(&drafts(&[1, 2, 3])).unwrap();
    let seqs: Vec<_> = written.iter().map(|own| own.seq).collect();
    assert_eq!(seqs, [3, 4, 5]);
    assert_eq!(journal.last_hash(), written[2].hash);
    let before = fs::read_to_string(&path).unwrap();
    let too_long = journal.append_all(&drafts(&[1, MAX_LINE_BYTES]));
    assert!(matches!(too_long, Err(Error::TooLong { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert_eq!(journal.append_all(&[]).unwrap(), []);
    journal.append(note(9), 1, 1).unwrap();
    let verified = verify(&path).unwrap();
    assert!(
        verified.is_sound() && verified.last_seq == Some(6),
        "{verified:?}"
    );
}

#[test]
fn a_changed_line_is_found() {
    let (_dir, path) = written(10);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("entry 4", "entry 5")).unwrap();
    let found = damages(&path);
    assert!(matches!(found[0], Damage::Changed { .. }), "{found:?}");
    // Also with a hash that fits: the next line follows another.
    let mut all = lines(&path);
    let (_, text) = entry::parts(&all[5]).unwrap();
    all[5] = entry::line(text);
    fs::write(&path, all.concat()).unwrap();
    let found = damages(&path);
    assert!(matches!(found[..], [Damage::Broken { .. }]), "{found:?}");
    let refused = Journal::open(&path, small(), 1, 1).unwrap_err();
    assert!(
        matches!(refused, Error::Damaged { line: 7, .. }),
        "{refused}"
    );
}

#[test]
fn a_line_removed_put_in_or_put_elsewhere_is_found() {
    for change in [
        |all: &mut Vec<String>| drop(all.remove(4)),
        |all: &mut Vec<String>| all.swap(4, 5),
        |all: &mut Vec<String>| all.insert(4, all[7].clone()),
        |all: &mut Vec<String>| all[4].truncate(30),
        |all: &mut Vec<String>| all[4].insert(70, 'x'),
        |all: &mut Vec<String>| drop(all.remove(0)),
        |all: &mut Vec<String>| drop(all.drain(..3)),
    ] {
        let (_dir, path) = written(10);
        let mut all = lines(&path);
        change(&mut all);
        fs::write(&path, all.concat()).unwrap();
        let verified = verify(&path).unwrap();
        assert!(!verified.is_sound(), "{all:?}");
    }
}

/// Each byte of it, changed by itself.
#[test]
fn any_byte_that_is_changed_is_found() {
    let (_dir, path) = written(3);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let verified = verify(&path).unwrap();
        let is_last_newline = at + 1 == good.len();
        // A last line without its end is what a crash leaves: it is cut off and said.
        assert!(!verified.is_sound() || is_last_newline, "byte {at}");
        assert!(!verified.findings.is_empty(), "byte {at}");
    }
}

#[test]
fn a_torn_end_is_cut_off_and_said() {
    let (_dir, path) = written(5);
    let whole = lines(&path);
    for keep in [1, 40, whole[5].len() - 1] {
        let torn = whole[..5].concat() + &whole[5][..keep];
        fs::write(&path, &torn).unwrap();
        let verified = verify(&path).unwrap();
        assert!(verified.is_sound() && verified.entries == 5);
        assert!(matches!(verified.findings[0].damage, Damage::Torn { .. }));
        drop(journal(&path));
        let mut repaired = None;
        let after = read(&path, |entry| {
            if let Body::Repaired { cut_bytes } = entry.body {
                repaired = Some(cut_bytes);
            }
        });
        assert!(after.unwrap().findings.is_empty());
        assert_eq!(repaired, Some(keep as u64));
    }
}

#[test]
fn it_is_bounded_and_the_chain_goes_on_over_its_files() {
    let (_dir, path) = written(200);
    let all = files(&path).unwrap();
    assert_eq!(all.len(), 4);
    for file in &all {
        assert!(fs::metadata(file).unwrap().len() < 4096 + 1024);
    }
    let verified = verify(&path).unwrap();
    assert!(verified.is_sound(), "{verified:?}");
    assert!(matches!(
        verified.findings[..],
        [Finding {
            damage: Damage::BeginsLate { .. },
            ..
        }]
    ));
    // One of the middle is gone.
    fs::remove_file(&all[1]).unwrap();
    assert!(!verify(&path).unwrap().is_sound());
}

#[test]
fn a_crash_between_two_files_breaks_nothing() {
    let (_dir, path) = written(20);
    let numbered = path.with_extension("journal.1");
    let older = files(&path).unwrap().len();
    fs::rename(&path, path.with_extension("journal.9")).unwrap();
    if older > 1 {
        fs::remove_file(&numbered).unwrap();
    }
    fs::rename(path.with_extension("journal.9"), &numbered).unwrap();
    let mut journal = journal(&path);
    journal.append(note(1), 1, 1).unwrap();
    assert!(verify(&path).unwrap().is_sound());
}

#[test]
fn a_full_disk_forbids_moving_away_and_nothing_else() {
    let mut journal = {
        let (dir, path) = written(3);
        // Kept open; the directory may go.
        let journal = journal(&path);
        drop(dir);
        journal
    };
    assert_eq!(journal.permit(), Permit::Any);
    let full = fs::OpenOptions::new()
        .append(true)
        .read(true)
        .open("/dev/full")
        .unwrap();
    let lock = nix::fcntl::Flock::lock(full, nix::fcntl::FlockArg::LockExclusiveNonblock);
    let real = std::mem::replace(&mut journal.file, lock.unwrap());
    let before = journal.last_hash().to_owned();
    let refused = journal.append(note(9), 1, 1).unwrap_err();
    assert!(
        refused.to_string().contains("cannot write the journal"),
        "{refused}"
    );
    assert_eq!(journal.permit(), Permit::TowardsNeutral);
    assert_eq!(journal.last_hash(), before);
    // There is room again.
    journal.file = real;
    journal.append(note(10), 1, 1).unwrap();
    assert_eq!(journal.permit(), Permit::Any);
}

#[test]
fn two_do_not_write_one_journal_and_nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, path) = written(1);
    let _first = journal(&path);
    let second = Journal::open(&path, small(), 1, 1).unwrap_err();
    assert!(matches!(second, Error::Locked { .. }));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_endless_line_is_damage_and_takes_no_memory() {
    let (_dir, path) = written(1);
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&vec![b'a'; 3 * MAX_LINE_BYTES]).unwrap();
    assert!(!verify(&path).unwrap().is_sound());
    let mut journal = journal(&written(0).1.with_file_name("other"));
    let long = Body::Note("x".repeat(MAX_LINE_BYTES));
    assert!(matches!(
        journal.append(long, 1, 1),
        Err(Error::TooLong { .. })
    ));
    assert_eq!(journal.permit(), Permit::Any);
}

#[test]
fn the_latest_checkpoint_is_found_again() {
    let (_dir, path) = written(1);
    let mut journal = journal(&path);
    for generation in [3, 7] {
        let checkpoint = Checkpoint {
            book: crate::steer::overrides::Book::default(),
            generation,
            decisions: 9,
            kept: crate::steer::overrides::Moment::default(),
        };
        journal.append(Body::Checkpoint(checkpoint), 1, 1).unwrap();
        journal.append(note(1), 1, 1).unwrap();
    }
    let found = last_checkpoint(&path).unwrap().unwrap();
    assert_eq!((found.generation, found.decisions), (7, 9));
}

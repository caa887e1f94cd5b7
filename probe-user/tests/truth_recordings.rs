//! Recordings of truth runs, replayed: what comes of them is still what a packet capture and the
//! kernel's counters said then, and the numbers are the same, bit for bit.
//!
//! `cargo xtask truth -- --record` makes them anew. Where the numbers are meant to change,
//! `WEIR_BLESS=1 cargo test -p weir --test truth_recordings` writes the new ones.

use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::Value;
use weir::cli::{self, Cli, Command};
use weir::ui::out::Style;
use weir_tests::truth::keep::{Files, Truth, numbers, retransmitted};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings")
}

fn all() -> Vec<Files> {
    let all = Files::all(&directory()).unwrap();
    assert!(all.len() >= 10, "{} recordings are there", all.len());
    all
}

/// What `weir replay` lists, and notes.
fn replay(file: &Path, more: &str) -> (String, String) {
    let line = format!("weir replay {} -o json {more}", file.display());
    let Command::Replay(args) = Cli::try_parse_from(line.split_ascii_whitespace())
        .unwrap()
        .command
    else {
        unreachable!("{line}");
    };
    let (mut printed, mut notes) = (Vec::new(), Vec::new());
    cli::replay(&args, Style::default(), &mut printed, &mut notes)
        .unwrap_or_else(|err| panic!("{line}: {err:#}"));
    let [printed, notes] = [printed, notes].map(|bytes| String::from_utf8(bytes).unwrap());
    (printed, notes)
}

#[test]
fn every_delivery_is_as_the_capture_said() {
    for files in all() {
        let text = std::fs::read_to_string(&files.truth).unwrap();
        let truth = Truth::from_lines(&text).unwrap();
        let name = &truth.about.scenario;
        let (listed, notes) = replay(&files.recording, "--deliveries");
        assert!(
            !notes.contains("INCOMPLETE") && !notes.contains("midst"),
            "{name}: {notes}"
        );
        let found = truth.compare(&listed).unwrap();
        assert!(found.witnessed > 0, "{name}");
        assert!(
            found.differences.is_empty(),
            "{name}: {:#?}",
            found.differences
        );
        let backend = truth.about.backend;
        if backend.tells_deliveries() {
            assert_eq!(found.witnessed, found.reported, "{name}");
        } else {
            assert_eq!(found.bounded, found.reported, "{name}");
        }
        for (what, measure) in found.measures() {
            assert_eq!(measure.within_1ms, measure.compared, "{name}: {what}");
            assert_eq!(measure.bounds_broken, 0, "{name}: {what}");
        }
        let (cells, _) = replay(&files.recording, "");
        assert_eq!(
            retransmitted(&cells).unwrap(),
            truth.about.retransmitted,
            "{name}"
        );
    }
}

#[test]
fn every_number_is_as_it_was() {
    for files in all() {
        let (cells, _) = replay(&files.recording, "--buckets");
        let (listed, _) = replay(&files.recording, "--deliveries");
        let now = numbers(&cells, &listed).unwrap();
        if std::env::var_os("WEIR_BLESS").is_some() {
            let text = serde_json::to_string_pretty(&now).unwrap() + "\n";
            std::fs::write(&files.numbers, text).unwrap();
        }
        let then = std::fs::read_to_string(&files.numbers).unwrap();
        let then: Value = serde_json::from_str(&then).unwrap();
        let mut differences = Vec::new();
        differ("", &then, &now, &mut differences);
        // Unlike a new field, a mark that occurs where none did is news.
        if then["counts"] != now["counts"] {
            differences.push(format!("/counts: {} is {}", then["counts"], now["counts"]));
        }
        let name = files.recording.display();
        assert!(
            differences.is_empty(),
            "{name}:\n{}",
            differences.join("\n")
        );
    }
}

/// Every number that was and is not the same now. What is new is none.
fn differ(path: &str, then: &Value, now: &Value, differences: &mut Vec<String>) {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            for (name, then) in then {
                let now = now.get(name).unwrap_or(&Value::Null);
                differ(&format!("{path}/{name}"), then, now, differences);
            }
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            for (n, (then, now)) in then.iter().zip(now).enumerate() {
                differ(&format!("{path}/{n}"), then, now, differences);
            }
        }
        (then, now) if then == now => {}
        (then, now) => differences.push(format!("{path}: {then} is {now}")),
    }
}

#[test]
fn what_is_said_of_viewers_is_as_it_was() {
    let viewers = directory().join("viewers");
    let recording = viewers.join("six-players.weir");
    for (what, kept) in [
        ("--viewer-events", "six-players.events.jsonl"),
        ("--viewers", "six-players.viewers.jsonl"),
    ] {
        let (now, notes) = replay(&recording, what);
        assert!(!notes.contains("INCOMPLETE"), "{notes}");
        assert_eq!(replay(&recording, what).0, now, "{what} twice");
        let kept = viewers.join(kept);
        if std::env::var_os("WEIR_BLESS").is_some() {
            std::fs::write(&kept, &now).unwrap();
        }
        let then = lines(&std::fs::read_to_string(&kept).unwrap());
        let now = lines(&now);
        assert!(then.len() >= 6, "{}: {} lines", kept.display(), then.len());
        assert_eq!(then.len(), now.len(), "{}", kept.display());
        let mut differences = Vec::new();
        for (n, (then, now)) in then.iter().zip(&now).enumerate() {
            differ(&format!("line {}: ", n + 1), then, now, &mut differences);
        }
        assert!(
            differences.is_empty(),
            "{}:\n{}",
            kept.display(),
            differences.join("\n")
        );
    }
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_replay_is_the_same_each_time_and_at_every_speed() {
    for files in all() {
        for what in [
            "--buckets",
            "--deliveries --handshakes",
            "--sessions",
            "--events",
        ] {
            let once = replay(&files.recording, what).0;
            let name = files.recording.display();
            assert_eq!(replay(&files.recording, what).0, once, "{name} {what}");
            let fast = format!("{what} --speed 1000x");
            assert_eq!(replay(&files.recording, &fast).0, once, "{name} {what}");
        }
    }
}

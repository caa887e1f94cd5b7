//! The guard over its own channel, with files as gates: what a file says is what a guard did.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::channel::{Answer, Ask, Channel, Numbered, pair};
use super::process::serve;
use super::{Guard, MAX_GATES, Plan};
use crate::steer::actuators::notice::{Cause, Notice};
use crate::steer::actuators::settings::{File, Serves};
use crate::steer::actuators::told::Told;
use crate::steer::actuators::{Actuator as _, Lease, clock};
use crate::steer::{Position, Scope, Setting};

fn lease_of(ms: u64) -> Lease {
    Lease {
        until_boot_ns: clock::boot_ns() + ms * 1_000_000,
    }
}

fn position(generation: u64) -> Position {
    Position {
        generation,
        decision: "d1".to_owned(),
        settings: vec![Setting {
            scope: Scope::Host,
            weight_permille: 200,
            cap_bps: None,
        }],
    }
}

struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn gate(&self, name: &str, guard: &Guard) -> Told<File> {
        let file = self.path(name);
        Told::open(File { file }, name, Serves::Host, guard, 0)
    }
}

fn read(path: &Path) -> Notice {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_lease_that_nobody_renews_ends_in_neutral_and_the_holder_hears_of_it() {
    let lab = Lab::new();
    let mut gate = lab.gate("a", &Guard::in_process());
    let lease = lease_of(100);
    gate.acquire(&position(1), lease).await.unwrap();
    assert!(!read(&lab.path("a")).is_neutral);
    until(|| read(&lab.path("a")).is_neutral).await;
    assert!(clock::boot_ns() >= lease.until_boot_ns);
    assert_eq!(read(&lab.path("a")).cause, Cause::LeaseOver);
    let late = gate.renew(lease_of(10_000)).await.unwrap_err().to_string();
    assert!(late.contains("turn it anew"), "{late}");
    assert!(read(&lab.path("a")).is_neutral);
    // The file is neutral a moment before the guard is done with it.
    while gate.acquire(&position(2), lease_of(10_000)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!read(&lab.path("a")).is_neutral);
}

#[tokio::test]
async fn a_renewed_lease_holds_past_its_first_end() {
    let lab = Lab::new();
    let mut gate = lab.gate("a", &Guard::in_process());
    let first = lease_of(300);
    gate.acquire(&position(1), first).await.unwrap();
    gate.renew(lease_of(60_000)).await.unwrap();
    until(|| clock::boot_ns() > first.until_boot_ns + 100_000_000).await;
    assert!(!read(&lab.path("a")).is_neutral);
}

#[tokio::test]
async fn all_that_a_holder_held_is_neutral_when_it_is_gone_and_nothing_else() {
    let lab = Lab::new();
    let guard = Guard::in_process();
    let mut gates: Vec<_> = ["a", "b", "c"].map(|name| lab.gate(name, &guard)).into();
    for gate in &mut gates {
        gate.acquire(&position(1), lease_of(60_000)).await.unwrap();
    }
    gates[2].release().await.unwrap();
    drop((gates, guard));
    until(|| {
        ["a", "b"]
            .iter()
            .all(|name| read(&lab.path(name)).is_neutral)
    })
    .await;
    assert_eq!(read(&lab.path("b")).cause, Cause::HolderGone);
    assert_eq!(read(&lab.path("c")).cause, Cause::Released);
}

#[tokio::test]
async fn without_a_guard_nothing_is_turned() {
    let lab = Lab::new();
    let no_guard = Guard::started_by(|_| Err(std::io::ErrorKind::OutOfMemory.into()));
    let mut gate = lab.gate("a", &no_guard);
    let refused = gate.acquire(&position(1), lease_of(60_000)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("without which no gate is turned"),
        "{refused}"
    );
    assert!(!lab.path("a").exists());
    // Neutral needs none.
    gate.release().await.unwrap();
    assert!(read(&lab.path("a")).is_neutral);
}

#[tokio::test]
async fn a_guard_that_ends_is_replaced_and_what_it_held_is_turned_anew_and_not_renewed() {
    let lab = Lab::new();
    // One that says that it is ready, hears one thing, and is gone.
    let guard = Guard::started_by(|theirs| {
        tokio::spawn(async move {
            let channel = Channel::new(theirs).unwrap();
            let ready = Numbered {
                number: 0,
                message: Answer::Ready,
            };
            channel.send(&ready, None).await.unwrap();
            let (asked, _) = channel.receive::<Ask>().await.unwrap().unwrap();
            let done = Numbered {
                number: asked.number,
                message: Answer::Done,
            };
            channel.send(&done, None).await.unwrap();
        });
        Ok(())
    });
    let mut gate = lab.gate("a", &guard);
    let failed = gate.acquire(&position(1), lease_of(60_000)).await;
    // It was gone before it could confirm, so nobody would have undone it.
    failed.unwrap_err();
    assert!(read(&lab.path("a")).is_neutral || !lab.path("a").exists());
}

#[tokio::test]
async fn a_guard_takes_no_more_gates_than_it_has_places_for_and_no_lease_that_is_over() {
    let lab = Lab::new();
    let (ours, theirs) = pair().unwrap();
    tokio::spawn(serve(theirs));
    let channel = Channel::new(ours).unwrap();
    channel.receive::<Answer>().await.unwrap().unwrap();
    let hold = |gate: String, until_boot_ns| Ask::Hold {
        plan: plan(&lab.path(&gate)),
        gate,
        until_boot_ns,
        is_renewal: false,
    };
    let ask = async |message| {
        channel
            .send(&Numbered { number: 1, message }, None)
            .await
            .unwrap();
        channel
            .receive::<Answer>()
            .await
            .unwrap()
            .unwrap()
            .0
            .message
    };
    let until_boot_ns = lease_of(60_000).until_boot_ns;
    for n in 0..MAX_GATES {
        assert_eq!(ask(hold(n.to_string(), until_boot_ns)).await, Answer::Done);
    }
    let refused = ask(hold("x".to_owned(), until_boot_ns)).await;
    assert!(matches!(refused, Answer::Refused(_)), "{refused:?}");
    assert_eq!(ask(hold("1".to_owned(), 5)).await, Answer::Over);
    ask(Ask::Free {
        gate: "1".to_owned(),
    })
    .await;
    assert_eq!(ask(hold("x".to_owned(), until_boot_ns)).await, Answer::Done);
}

fn plan(file: &Path) -> Plan {
    let text = serde_json::json!({"file": {
        "means": {"file": file}, "gate": "g", "generation": 1, "decision": ""
    }});
    serde_json::from_value(text).unwrap()
}

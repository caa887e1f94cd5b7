use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;
use crate::steer::{Scope, Setting};

/// What a gate was called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Call {
    Acquire(Position, u64),
    Renew(u64),
    Release,
}

/// A gate that turns nothing and tells what it was asked for.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Watched {
    calls: Arc<Mutex<Vec<(Instant, Call)>>>,
    pub(in super::super) fails: Arc<AtomicBool>,
}

impl Watched {
    pub(in super::super) fn calls(&self) -> Vec<Call> {
        self.timed().into_iter().map(|(_, call)| call).collect()
    }

    pub(in super::super) fn timed(&self) -> Vec<(Instant, Call)> {
        self.all().clone()
    }

    fn all(&self) -> MutexGuard<'_, Vec<(Instant, Call)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, call: Call) -> anyhow::Result<()> {
        self.all().push((Instant::now(), call));
        anyhow::ensure!(!self.fails.load(Ordering::Relaxed), "it is stuck");
        Ok(())
    }
}

impl Actuator for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    async fn acquire(&mut self, position: &Position, lease: Lease) -> anyhow::Result<()> {
        self.note(Call::Acquire(position.clone(), lease.until_boot_ns))
    }

    async fn renew(&mut self, lease: Lease) -> anyhow::Result<()> {
        self.note(Call::Renew(lease.until_boot_ns))
    }

    async fn release(&mut self) -> anyhow::Result<()> {
        self.note(Call::Release)
    }
}

const LEASE: Duration = Duration::from_millis(150);

fn turned(generation: u64, weight_permille: u16) -> Position {
    Position {
        generation,
        decision: "d1".to_owned(),
        settings: vec![Setting {
            scope: Scope::Host,
            weight_permille,
            cap_bps: None,
        }],
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let found = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), found).await;
    assert!(in_time.is_ok(), "waited in vain: {what}");
}

fn started(gate: &Watched, silence: Duration) -> Gates {
    let gates = vec![Gate::new(gate.clone(), LEASE)];
    Gates::start(gates, 7, silence, &Handle::current())
}

fn renewals(gate: &Watched) -> usize {
    let calls = gate.calls();
    calls
        .iter()
        .filter(|call| matches!(call, Call::Renew(_)))
        .count()
}

#[tokio::test]
async fn a_gate_takes_the_whole_position_renews_its_lease_in_time_and_lets_go() {
    let gate = Watched::default();
    let mut gates = started(&gate, SILENCE);
    until("the first release", || gate.calls() == [Call::Release]).await;
    gates.tell(&turned(8, 700));
    until("renewals", || renewals(&gate) >= 3).await;
    let calls = gate.calls();
    let Call::Acquire(position, mut lease_ns) = calls[1].clone() else {
        panic!("{calls:?}");
    };
    assert_eq!(position, turned(8, 700));
    for call in &calls[2..] {
        let Call::Renew(until_ns) = call else {
            panic!("{calls:?}");
        };
        assert!(
            *until_ns > lease_ns,
            "each lease is longer than the one before"
        );
        lease_ns = *until_ns;
    }
    // No renewal came after the lease before it had ended.
    for pair in gate.timed()[1..].windows(2) {
        assert!(pair[1].0 - pair[0].0 < LEASE * 3, "{pair:?}");
    }
    gates.tell(&Position {
        generation: 9,
        ..Position::default()
    });
    until("the release", || {
        gate.calls().last() == Some(&Call::Release)
    })
    .await;
    let held = gates.report().await;
    assert_eq!((held.generation, held.error), (7, None));
    gates.end().await;
}

#[tokio::test]
async fn a_gate_that_fails_says_so_is_tried_again_and_told_all_of_it() {
    let gate = Watched::default();
    gate.fails.store(true, Ordering::Relaxed);
    let mut gates = started(&gate, SILENCE);
    gates.tell(&turned(8, 500));
    let failed = async {
        loop {
            let report = gates.report().await;
            if report.generation == 8 {
                return report;
            }
        }
    };
    let report = failed.await;
    assert!(report.error.is_some_and(|why| why.contains("stuck")));
    assert_eq!(report.until_boot_ns, None);
    gate.fails.store(false, Ordering::Relaxed);
    until("it to hold", || renewals(&gate) >= 1).await;
    let calls = gate.calls();
    let renewed = calls.iter().position(|call| matches!(call, Call::Renew(_)));
    assert!(matches!(calls[renewed.unwrap() - 1], Call::Acquire(..)));
    gates.end().await;
}

#[tokio::test]
async fn of_a_decider_that_hangs_no_lease_is_renewed() {
    let gate = Watched::default();
    let mut gates = started(&gate, Duration::from_millis(200));
    gates.tell(&turned(8, 500));
    until("a renewal", || renewals(&gate) >= 1).await;
    let silent = async {
        loop {
            let report = gates.report().await;
            if report
                .error
                .as_ref()
                .is_some_and(|why| why.contains("silent"))
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), silent)
        .await
        .expect("it went on renewing");
    let before = renewals(&gate);
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(renewals(&gate), before);
    gates.live();
    until("renewals again", || renewals(&gate) > before).await;
    gates.end().await;
}

#[tokio::test]
async fn when_the_decider_is_gone_every_gate_is_let_go() {
    let gate = Watched::default();
    let gates = started(&gate, SILENCE);
    gates.tell(&turned(8, 0));
    until("it to hold", || {
        gate.calls()
            .iter()
            .any(|call| matches!(call, Call::Acquire(..)))
    })
    .await;
    drop(gates);
    until("the release", || {
        gate.calls().last() == Some(&Call::Release)
    })
    .await;
}

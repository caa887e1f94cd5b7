//! The decider with a core that says what a test wants, a real journal and a gate that is watched.

use std::time::{Duration, Instant};

use super::gates::tests::{Call, Watched};
use super::numbers::tests::said;
use super::*;
use crate::config::Config;
use crate::query;
use crate::query::steering::Denial;
use crate::steer::overrides::roles::Reach;
use crate::steer::overrides::tests::order;
use crate::steer::overrides::{Action, Auth, Order};
use crate::steer::policy::input::Pool;
use crate::steer::policy::rules::{Metric, Policy};

struct Stage {
    steering: Steering,
    orders: Orders,
    alarmed: Arc<Notify>,
    asked: mpsc::Receiver<Query>,
    stop: CancellationToken,
    gate: Watched,
    _dir: tempfile::TempDir,
}

fn config(dir: &std::path::Path) -> Config {
    let mut config = Config {
        kill_switch: dir.join("off"),
        ..Config::default()
    };
    config.steer.journal_file = Some(dir.join("steer.journal"));
    config.steer.rules.is_armed = true;
    config.steer.rules.policies = vec![Policy {
        is_armed: true,
        blame: Vec::new(),
        ..Policy::new("late", Metric::LateDeliveryShare, 15, 7)
    }];
    config
}

fn stage(change: impl FnOnce(&mut Config)) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    change(&mut config);
    let gate = Watched::default();
    let (orders, asks) = Orders::new();
    let (core, asked) = mpsc::channel(8);
    let (alarmed, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let ends = Ends {
        asks,
        alarmed: alarmed.clone(),
        core,
        events: None,
        gate: watch::Sender::new(None),
        stop: stop.clone(),
    };
    let gates = vec![Gate::new(gate.clone(), Duration::from_secs(3))];
    let switch = KillSwitch::new(&config.kill_switch);
    let steering = start(&config, gates, switch, ends).unwrap();
    Stage {
        steering,
        orders,
        alarmed,
        asked,
        stop,
        gate,
        _dir: dir,
    }
}

impl Stage {
    /// Answers the next question with these numbers.
    async fn say(&mut self, numbers: query::Numbers) {
        let asked = tokio::time::timeout(Duration::from_secs(20), self.asked.recv()).await;
        match asked.expect("it asks").expect("it lives") {
            Query::Numbers(reply) => drop(reply.send(numbers)),
            other => panic!("{other:?}"),
        }
    }

    fn acquired(&self, since: Instant) -> Option<Instant> {
        let timed = self.gate.timed();
        timed
            .iter()
            .find(|(at, call)| *at >= since && matches!(call, Call::Acquire(..)))
            .map(|(at, _)| *at)
    }

    async fn until_acquired(&self, since: Instant) -> Instant {
        let found = async {
            loop {
                if let Some(at) = self.acquired(since) {
                    return at;
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        found.expect("the gate was never told")
    }

    async fn end(self) {
        self.stop.cancel();
        self.steering.ended().await;
    }
}

/// Given now, by that user.
fn by(uid: u32, mut order: Order) -> Order {
    order.created_unix_ns = Clock::new().unwrap().now().unix_ns;
    order.auth = Auth::Uid { uid, tty: None };
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_alarm_to_the_gate_are_milliseconds() {
    let mut taken = Vec::new();
    for _ in 0..20 {
        let mut stage = stage(|_| {});
        stage.say(said(&[("live", 1000, 0)])).await;
        // As the core does it when it has raised an alarm: it wakes, and is asked.
        let begun = Instant::now();
        stage.alarmed.notify_one();
        stage.say(said(&[("live", 2000, 500)])).await;
        taken.push(stage.until_acquired(begun).await - begun);
        stage.end().await;
    }
    taken.sort();
    let at = |share: usize| taken[(taken.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!("alarm to gate: p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));
    // The ramp's first step is at the next tick at the latest, and a tick is 250 ms.
    assert!(at(50) < 300.0, "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_centre_says_of_the_pool_bounds_what_is_turned_away() {
    let stage = stage(|_| {});
    let pool = Pool {
        heard_boot_ns: clock::boot_ns(),
        healthy_ppm: 800_000,
        own_ppm: 1_000_000,
        spare_ppm: None,
        token: None,
        region_weight_permille: None,
    };
    stage.orders.pool(pool, None).await.unwrap();
    let begun = Instant::now();
    let stranger = by(54_321, order("drain", Action::Drain));
    stage
        .orders
        .submit(stranger, Reach::Host)
        .await
        .unwrap_err();
    let root = by(0, order("drain", Action::Drain));
    stage.orders.submit(root, Reach::Host).await.unwrap();
    stage.until_acquired(begun).await;
    let status = stage.orders.status().await.unwrap();
    // 80 % are healthy, 70 % must be: a tenth may go.
    assert_eq!(status.settings[0].weight_permille, 900, "{status:?}");
    // The region's weight comes off what nobody orders, and a person's order outranks it. Its author
    // has no role here.
    let mut half = by(0, order("half", Action::Weight { permille: 500 }));
    half.auth = crate::steer::overrides::Auth::Certificate {
        name: "noc".to_owned(),
    };
    let answer = stage.orders.pool(pool, Some(half)).await.unwrap();
    assert_eq!(answer.outcome, crate::query::steering::Outcome::Refused);
    let status = stage.orders.status().await.unwrap();
    assert_eq!(status.settings[0].by, "drain");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_come_too_fast_are_refused_and_panic_is_not() {
    let stage = stage(|_| {});
    let give = |id: String, action: Action| {
        let order = by(0, order(&id, action));
        stage.orders.submit(order, Reach::Host)
    };
    let mut refused = 0;
    for n in 0..80 {
        match give(format!("o{n}"), Action::Undrain).await {
            Ok(_) => {}
            Err(Denial::Refused(why)) if why.contains("one a second") => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0);
    give("stop".to_owned(), Action::Panic).await.unwrap();
    let status = stage.orders.status().await.unwrap();
    assert!(status.panicking);
    assert_eq!(status.counts.unwrap().orders_refused, refused);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hurts_is_undone_by_its_verdict_and_its_author_hears_of_it() {
    use crate::steer::overrides::order::{Direction, Expect, OnFail};
    let mut stage = stage(|config| config.steer.rules.policies.clear());
    // Two services, so that there is something to compare with.
    stage
        .say(said(&[("live", 10_000, 100), ("vod", 10_000, 100)]))
        .await;
    // It asks again when it has taken in what it was told.
    stage
        .say(said(&[("live", 10_000, 100), ("vod", 10_000, 100)]))
        .await;
    let begun = Instant::now();
    let mut weight = by(0, order("bad", Action::Weight { permille: 500 }));
    weight.scope = "service=live".parse().unwrap();
    weight.on_fail = OnFail::Revert;
    weight.expect = Some(Expect {
        metric: Metric::LateDeliveryShare,
        direction: Direction::Falls,
        window_s: 60,
        min_effect_permille: 0,
        min_n: 100,
    });
    stage.orders.submit(weight, Reach::Service).await.unwrap();
    stage.until_acquired(begun).await;
    // From then on a third of the moved ones is late, and of the others no more than before.
    stage
        .say(said(&[("live", 20_000, 3400), ("vod", 20_000, 200)]))
        .await;
    let undone = async {
        loop {
            let status = stage.orders.status().await.unwrap();
            if status.orders.is_empty() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), undone)
        .await
        .expect("it was never undone");
    assert_eq!(status.verdicts[0].verdict, "hurt", "{status:?}");
    let undo = status
        .decisions
        .iter()
        .find(|own| own.kind == "undo")
        .unwrap();
    assert!(undo.asks_human && undo.by == "bad", "{undo:?}");
    stage.end().await;
}

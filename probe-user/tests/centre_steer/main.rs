//! Steering from the centre: operators with certificates, a real collector, real daemons, and a gate
//! that is watched. What a collector must never send is said by a false one.

#[path = "../common/mod.rs"]
mod common;
mod elsewhere;
mod false_collector;
mod fleet;

use std::time::{Duration, Instant};

use common::until;
use fleet::{Centre, Edge, bodies, order, outcome_of, weight};
use tonic::Code;
use weir::steer::central::{Central, Phase};
use weir::steer::journal::Body;
use weir::steer::overrides::{Action, Auth, Level, Order};
use weir_proto::v1::{self, CommandOutcome};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_held_where_it_is_given_and_written_down_at_both_ends() {
    let centre = Centre::start(|_| {}).await;
    let fra = Edge::start(&centre, "fra-1", |_| {}).await;
    let ams = Edge::start(&centre, "ams-1", |_| {}).await;
    let answer = centre.give("noc", "region=fra", weight(700)).await.unwrap();
    let [only] = &answer.hosts[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(
        (only.host.as_str(), only.outcome()),
        ("fra-1", CommandOutcome::Done)
    );
    fra.until_weight(700).await;
    assert_eq!(ams.gate.weight(), 1000);

    let kept = bodies(&centre.journal());
    let is_sent = |body: &Body| {
        matches!(body, Body::Central(central)
            if matches!(&**central, Central::Ordered { at, hosts: 1, order }
                if at == "region=fra" && order.id == answer.id && order.actor == "noc"))
    };
    assert!(kept.iter().any(is_sent), "{kept:?}");
    let held = bodies(&fra.journal());
    let is_taken = |body: &Body| matches!(body, Body::Order(order) if order.id == answer.id);
    assert!(held.iter().any(is_taken), "{held:?}");

    // What the host has written down is known at the centre, and its chain's end.
    until("the host's journal at the centre", || async {
        let told = centre.status("noc", "fra-1").await;
        told.journal
            .iter()
            .any(|entry| entry.kind == "order")
            .then_some(())
    })
    .await;

    let undone = centre.undo("noc", &answer.id).await.unwrap();
    assert_eq!(outcome_of(&undone, "fra-1"), CommandOutcome::Done);
    until("it to go back", || async {
        (fra.gate.weight() > 700).then_some(())
    })
    .await;
    fra.stop().await;
    ams.stop().await;
    centre.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_right_changes_nothing_and_is_written_down() {
    let centre = Centre::start(|_| {}).await;
    let edge = Edge::start(&centre, "fra-1", |config| {
        config.steer.roles.retain(|role| role.name == "noc");
    })
    .await;
    // An operator without a role, one whose role does not reach so far, and nobody at all.
    let refused = centre
        .give("intruder", "fra-1", order("drain"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let refused = centre
        .give("nearby", "fleet", order("drain"))
        .await
        .unwrap_err();
    assert!(refused.message().contains("of a fleet"), "{refused}");
    let refused = centre
        .give("nobody", "fra-1", order("drain"))
        .await
        .unwrap_err();
    assert!(refused.message().contains("operators"), "{refused}");
    // A role at the collector and none at the host.
    let answer = centre
        .give("nearby", "fra-1", order("drain"))
        .await
        .unwrap();
    assert_eq!(outcome_of(&answer, "fra-1"), CommandOutcome::Refused);
    assert!(
        answer.hosts[0].reason.contains("\"nearby\" has no role"),
        "{answer:?}"
    );
    // No reason, no such region, no such host.
    let without = v1::OrderRequest {
        reason: String::new(),
        ..order("drain")
    };
    for (at, order, says) in [
        ("fra-1", without, "needs a reason"),
        ("region=waw", order("drain"), "no [[steer.pool]]"),
        ("fra-9", order("drain"), "no host of fra-9"),
    ] {
        let refused = centre.give("noc", at, order).await.unwrap_err();
        assert!(refused.message().contains(says), "{refused}");
    }
    assert!(edge.gate.told().iter().all(|told| told.position.is_none()));

    let who = |bodies: &[Body]| -> Vec<String> {
        let refused = bodies.iter().filter_map(|body| match body {
            Body::Refused { who, .. } => Some(who.clone()),
            _ => None,
        });
        refused.collect()
    };
    until("each to be written down", || async {
        let at_centre = who(&bodies(&centre.journal()));
        let has = |name: &str| at_centre.iter().any(|own| own.contains(name));
        (at_centre.len() == 6 && has("certificate intruder") && has("certificate nobody"))
            .then_some(())
    })
    .await;
    let at_host = who(&bodies(&edge.journal()));
    assert!(at_host[0].contains("certificate nearby"), "{at_host:?}");
    edge.stop().await;
    centre.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_traffic_takes_two_people() {
    let centre = Centre::start(|config| config.steer.two_person_above_permille = 300).await;
    let edge = Edge::start(&centre, "fra-1", |config| {
        config.steer.two_person_above_permille = 300;
    })
    .await;
    let answer = centre.give("noc", "fleet", weight(400)).await.unwrap();
    assert!(answer.waits.contains("second person"), "{answer:?}");
    let told = centre.status("noc", "").await;
    assert!(told.orders.iter().any(|own| own.waits), "{told:?}");
    let refused = centre.approve("noc", &answer.id).await.unwrap_err();
    assert!(refused.message().contains("another one"), "{refused}");
    let refused = centre.approve("intruder", &answer.id).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(edge.gate.weight(), 1000);
    let approved = centre.approve("second", &answer.id).await.unwrap();
    assert_eq!(
        outcome_of(&approved, "fra-1"),
        CommandOutcome::Done,
        "{approved:?}"
    );
    edge.until_weight(400).await;
    let held = bodies(&edge.journal());
    let has_second = |body: &Body| matches!(body, Body::Order(order) if order.second.is_some() && order.id == answer.id);
    assert!(held.iter().any(has_second), "{held:?}");
    let again = centre.approve("second", &answer.id).await.unwrap_err();
    assert_eq!(again.code(), Code::InvalidArgument);
    edge.stop().await;
    centre.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_away_is_given_what_it_missed_once() {
    let centre = Centre::start(|_| {}).await;
    let edge = Edge::start(&centre, "fra-1", |_| {}).await;
    let directory = edge.leave().await;
    let request = v1::FleetOrderRequest {
        at: "fleet".to_owned(),
        order: Some(weight(800)),
        wait_ms: 100,
        ..v1::FleetOrderRequest::default()
    };
    let answer = centre.order("noc", request).await.unwrap();
    assert_eq!(outcome_of(&answer, "fra-1"), CommandOutcome::Unspecified);
    let edge = Edge::start_in(&centre, directory, "fra-1", |_| {}).await;
    edge.until_weight(800).await;
    until("the answer", || async {
        let told = centre.status("noc", "").await;
        let own = told.orders.first()?;
        (own.taken == 1 && own.unanswered == 0 && told.letters == 0).then_some(())
    })
    .await;
    let orders = |body: &&Body| matches!(body, Body::Order(_));
    assert_eq!(bodies(&edge.journal()).iter().filter(orders).count(), 1);
    edge.stop().await;
    centre.stop().await;
}

/// The collector ends in the midst of a rebalance: what has moved stays, the new one goes on with the
/// same hosts, and what it takes back goes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_outlives_its_collector_and_is_undone_as_one() {
    let centre = Centre::start(|config| config.steer.settle_s = 4).await;
    let mut edges = Vec::new();
    for host in ["fra-1", "fra-2", "ams-1"] {
        edges.push(Edge::start(&centre, host, |_| {}).await);
    }
    let request = v1::RebalanceRequest {
        from: "fra".to_owned(),
        to: "ams".to_owned(),
        permille: 300,
        reason: "transit is full".to_owned(),
        dead_time_s: 5,
        dry_run: true,
        ..v1::RebalanceRequest::default()
    };
    let told = until("hosts to be known well enough", || async {
        let told = centre.rebalance("noc", request.clone()).await.unwrap();
        told.problems.is_empty().then_some(told)
    })
    .await;
    assert!(
        told.id.is_empty() && told.headroom_bps.is_some(),
        "{told:?}"
    );
    assert_eq!((told.gives.len(), told.takes.len()), (2, 1));
    assert!(
        told.gives
            .iter()
            .all(|own| own.to_permille == 700 && own.why_not.is_empty())
    );
    let begun = v1::RebalanceRequest {
        dry_run: false,
        ..request.clone()
    };
    let refused = centre
        .rebalance("intruder", begun.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let id = centre.rebalance("noc", begun.clone()).await.unwrap().id;
    let other = centre.rebalance("noc", begun).await.unwrap_err();
    assert!(other.message().contains("under way"), "{other}");

    let fra = &edges[..2];
    let moved = || fra.iter().filter(|edge| edge.gate.weight() <= 700).count();
    until("one host to move", || async {
        (moved() == 1).then_some(())
    })
    .await;
    let canary = fra
        .iter()
        .position(|edge| edge.gate.weight() <= 700)
        .unwrap();
    let centre = centre.kill_and_start_again().await;
    assert_eq!(
        fra[canary].gate.weight(),
        700,
        "it holds without the centre"
    );
    until("the other one", || async { (moved() == 2).then_some(()) }).await;
    until("its end", || async {
        let told = centre.status("noc", "").await;
        let own = told.rebalances.iter().find(|own| own.id == id)?;
        (own.phase == "moved" && own.hosts_moved == 2).then_some(())
    })
    .await;
    assert_eq!(edges[2].gate.weight(), 1000);

    let centre = centre.kill_and_start_again().await;
    centre.undo("noc", &id).await.unwrap();
    for edge in fra {
        until("it to go back", || async {
            (edge.gate.weight() > 700).then_some(())
        })
        .await;
    }
    let phases: Vec<_> = bodies(&centre.journal())
        .into_iter()
        .filter_map(|body| match body {
            Body::Central(central) => match *central {
                Central::Rebalance(kept) => Some(kept.phase),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(phases.first(), Some(&Phase::Moving { stage: 0 }));
    assert!(phases.last().unwrap().is_over(), "{phases:?}");
    for edge in edges {
        edge.stop().await;
    }
    centre.stop().await;
}

/// A rebalance is an order, for which its author needs the right at each host.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_grants_no_rebalance_does_not_move_and_says_so() {
    let centre = Centre::start(|config| config.steer.settle_s = 4).await;
    let fra = Edge::start(&centre, "fra-1", |config| {
        for role in &mut config.steer.roles {
            role.reach = weir::steer::overrides::roles::Reach::Host;
        }
    })
    .await;
    let ams = Edge::start(&centre, "ams-1", |_| {}).await;
    let request = v1::RebalanceRequest {
        from: "fra".to_owned(),
        to: "ams".to_owned(),
        permille: 300,
        reason: "transit is full".to_owned(),
        dead_time_s: 60,
        ..v1::RebalanceRequest::default()
    };
    until("it to begin", || async {
        let told = centre.rebalance("noc", request.clone()).await;
        told.ok().filter(|told| !told.id.is_empty())
    })
    .await;
    until("the host's refusal", || async {
        let told = centre.status("noc", "").await;
        let refused = told.rebalances.first()?.refused.first()?.clone();
        refused.reason.contains("of a region").then_some(())
    })
    .await;
    assert_eq!(fra.gate.weight(), 1000);
    let refused = bodies(&fra.journal());
    let refused = refused
        .iter()
        .filter(|body| matches!(body, Body::Refused { .. }));
    assert_eq!(refused.count(), 1, "said each second, written down once");
    fra.stop().await;
    ams.stop().await;
    centre.stop().await;
}

/// From an operator's order to the gate's position; the figures are printed (`--nocapture`).
#[tokio::test(flavor = "multi_thread")]
async fn an_order_takes_effect_soon() {
    let centre = Centre::start(|_| {}).await;
    let edge = Edge::start(&centre, "fra-1", |_| {}).await;
    let mut fleet = centre.client("noc").await;
    let (mut held_ms, mut answered_ms) = (Vec::new(), Vec::new());
    for n in 0..40_u16 {
        let permille = 500 + n * 10;
        let request = v1::FleetOrderRequest {
            at: "fra-1".to_owned(),
            order: Some(weight(permille)),
            ..v1::FleetOrderRequest::default()
        };
        let given = Instant::now();
        let answer = fleet.order(request).await.unwrap().into_inner();
        answered_ms.push(given.elapsed().as_secs_f64() * 1e3);
        assert_eq!(
            outcome_of(&answer, "fra-1"),
            CommandOutcome::Done,
            "{answer:?}"
        );
        let held = until("it to be held", || async {
            edge.gate.held_since(given, |weight| weight == permille)
        })
        .await;
        held_ms.push((held - given).as_secs_f64() * 1e3);
    }
    for (what, mut times) in [("held at the gate", held_ms), ("answered", answered_ms)] {
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        println!(
            "order from the centre to {what}: p50 {:.1} ms, p99 {:.1} ms, of {}",
            at(50),
            at(99),
            times.len()
        );
    }
    edge.stop().await;
    centre.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_collector_should_send_is_refused_and_written_down() {
    let authority = common::authority::Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let mut centre = false_collector::start(&authority, directory.path()).await;
    let edge = Edge::start_at(&centre.url, &authority, "fra-1", |_| {}).await;
    centre.connected().await;
    let now_ns = weir::ui::units::now_unix_ns;
    let good = false_collector::order("o1", 10, now_ns());
    let done = centre.command(&good).await;
    assert_eq!(done.outcome(), CommandOutcome::Done, "{done:?}");
    edge.until_weight(700).await;
    assert_eq!((done.generation, done.hash.as_str()), (10, &*good.hash()));

    // The same again is no other order, and says that it has it.
    let again = centre.command(&good).await;
    assert_eq!(again.outcome(), CommandOutcome::Done);
    let next = |id: &str| Order {
        id: id.to_owned(),
        generation: 11,
        action: Action::Drain,
        ..good.clone()
    };
    let older = Order {
        generation: 10,
        ..next("o2")
    };
    let unchained = Order {
        prev_hash: Some("00".to_owned()),
        ..next("o3")
    };
    let late = Order {
        created_unix_ns: good.created_unix_ns - 301_000_000_000,
        ..next("o4")
    };
    let of_a_stranger = Order {
        auth: Auth::Certificate {
            name: "mallory".to_owned(),
        },
        ..next("o5")
    };
    let of_root = Order {
        auth: Auth::Uid { uid: 0, tty: None },
        ..next("o6")
    };
    let of_the_host = Order {
        level: Level::OnHostHuman,
        ..next("o7")
    };
    for (order, outcome, says) in [
        (older, CommandOutcome::Elsewhere, "not after 10"),
        (unchained, CommandOutcome::Elsewhere, "is missing"),
        (late, CommandOutcome::Refused, "expired"),
        (of_a_stranger, CommandOutcome::Refused, "has no role"),
        (of_root, CommandOutcome::Refused, "cannot give"),
        (of_the_host, CommandOutcome::Refused, "cannot give"),
    ] {
        let told = centre.command(&order).await;
        assert_eq!(told.outcome(), outcome, "{told:?}");
        assert!(told.reason.contains(says), "{told:?}");
        // What is not the centre's is not looked at any further.
        let generation = if says == "cannot give" { 0 } else { 10 };
        assert_eq!(told.generation, generation);
    }
    assert_eq!(edge.gate.weight(), 700);
    until("each to be written down", || async {
        let kept = bodies(&edge.journal());
        let refused = kept
            .iter()
            .filter(|body| matches!(body, Body::Refused { .. }));
        (refused.count() == 7).then_some(())
    })
    .await;
    let kept = bodies(&edge.journal());
    let taken = kept.iter().filter(|body| matches!(body, Body::Order(_)));
    assert_eq!(taken.count(), 1);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_plain_text_nobody_commands() {
    let mut centre = false_collector::start_in_plain_text().await;
    let edge = Edge::start_in_plain_text(&centre.url, "fra-1").await;
    centre.connected().await;
    let order = false_collector::order("o1", 10, weir::ui::units::now_unix_ns());
    let told = centre.command(&order).await;
    assert_eq!(told.outcome(), CommandOutcome::Refused);
    assert!(told.reason.contains("certificates"), "{told:?}");
    until("it to be written down", || async {
        let kept = bodies(&edge.journal());
        kept.iter()
            .any(|body| matches!(body, Body::Refused { .. }))
            .then_some(())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(30), edge.stop())
        .await
        .unwrap();
}

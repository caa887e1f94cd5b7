//! Several collectors behind one NATS server: the one with a journal orders, and its orders reach hosts
//! that report to the others. Needs nats-server (`cargo xtask setup`).

use std::path::Path;

use tonic::Code;
use weir::config::collect::Config as Central;
use weir::steer::journal::Body;
use weir::steer::overrides::Action;
use weir_proto::v1::{self, CommandOutcome};
use weir_tests::lab::nats::Nats;

use crate::common::centre::{directory, engine};
use crate::common::until;
use crate::fleet::{Centre, Edge, bodies, order, outcome_of, weight};

/// The one that orders.
async fn desk(nats: &Nats) -> Centre {
    Centre::start(|config| config.nats = Some(engine(nats))).await
}

/// One that hosts report to.
async fn other(nats: &Nats) -> Centre {
    let change = |config: &mut Central| {
        config.name = Some("other".to_owned());
        config.steer.journal_file = None;
        config.nats = Some(engine(nats));
    };
    Centre::start(change).await
}

/// Until the desk knows that the host is connected, and that it is not here.
async fn is_elsewhere(desk: &Centre, host: &str) {
    until(
        "the host to be connected to the other collector",
        || async {
            let hosts = desk.hosts("noc").await;
            let own = hosts.into_iter().find(|own| own.host == host)?;
            (own.connected && own.collector == "other").then_some(())
        },
    )
    .await;
}

/// How many of these a host has written down.
fn count(journal: &Path, is_it: impl Fn(&Action) -> bool) -> usize {
    let is_its = |body: &&Body| matches!(body, Body::Order(order) if is_it(&order.action));
    bodies(journal).iter().filter(is_its).count()
}

fn is_weight(action: &Action) -> bool {
    matches!(action, Action::Weight { .. })
}

/// Until every host has answered, as so many that took it.
async fn all_took(desk: &Centre, id: &str, hosts: u32) {
    until("all hosts to have answered", || async {
        let told = desk.status("noc", "").await;
        let is_it = |own: &v1::FleetOrder| own.order.as_ref().is_some_and(|order| order.id == id);
        let own = told.orders.into_iter().find(is_it)?;
        assert_eq!(own.refused, 0, "{own:?}");
        (own.taken == hosts && own.unanswered == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_reaches_hosts_of_another_collector_and_is_undone_as_one() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let (desk, other) = (desk(&nats).await, other(&nats).await);
    let here = Edge::start(&desk, "fra-1", |_| {}).await;
    let there = Edge::start_at(&other.url(), &other.authority, "fra-2", |_| {}).await;
    desk.has("fra-2").await;
    is_elsewhere(&desk, "fra-2").await;

    let given = desk.give("noc", "region=fra", weight(950)).await.unwrap();
    here.until_weight(950).await;
    there.until_weight(950).await;
    all_took(&desk, &given.id, 2).await;
    // It has come once, from the desk, and is its operator's.
    assert_eq!(count(&there.journal(), is_weight), 1);
    let is_nocs =
        |body: &Body| matches!(body, Body::Order(own) if own.id == given.id && own.actor == "noc");
    assert!(bodies(&there.journal()).iter().any(is_nocs));
    // Where hosts report, nobody orders for that.
    let refused = other.give("noc", "fra-2", order("hold")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");

    let undone = desk.undo("noc", &given.id).await.unwrap();
    here.until_weight(1000).await;
    there.until_weight(1000).await;
    all_took(&desk, &undone.id, 2).await;
    let is_release =
        |action: &Action| matches!(action, Action::Release { order: Some(id) } if *id == given.id);
    for edge in [&here, &there] {
        assert_eq!(count(&edge.journal(), is_release), 1);
    }
    here.stop().await;
    there.stop().await;
    desk.stop().await;
    other.stop().await;
}

/// A host that was away when it was ordered, and a desk that has been started again since: what the
/// host missed is sent where it comes back, which only the list of hosts says.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_back_at_another_collector_is_given_what_it_missed() {
    let (_directory, path) = directory();
    let nats = Nats::start(&path, "").unwrap();
    let (desk, other) = (desk(&nats).await, other(&nats).await);
    let edge = Edge::start(&desk, "fra-1", |_| {}).await;
    drop(edge.leave().await);
    let request = v1::FleetOrderRequest {
        at: "fra-1".to_owned(),
        order: Some(weight(800)),
        wait_ms: 100,
        ..v1::FleetOrderRequest::default()
    };
    let given = desk.order("noc", request).await.unwrap();
    assert_eq!(outcome_of(&given, "fra-1"), CommandOutcome::Unspecified);
    let desk = desk.kill_and_start_again().await;

    let edge = Edge::start_at(&other.url(), &other.authority, "fra-1", |_| {}).await;
    is_elsewhere(&desk, "fra-1").await;
    edge.until_weight(800).await;
    all_took(&desk, &given.id, 1).await;
    assert_eq!(count(&edge.journal(), is_weight), 1);
    edge.stop().await;
    desk.stop().await;
    other.stop().await;
}

//! `weir steer` through a collector: orders to many hosts, rebalances, and how the fleet stands.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use weir_proto::v1;
use weir_proto::v1::OrderRequest;

use super::steer::print;
use super::{Outcome, SteerFleetStatus, SteerRebalance, SteerUndo, Through};
use crate::collect::steering::at::At;
use crate::query::client::{self, Peer};
use crate::ui::listing::fleet_steering as listing;
use crate::ui::out::Style;
use crate::ui::table::Format;

/// An order, and to whom.
pub(super) struct Asked<'a> {
    pub(super) at: Option<&'a At>,
    pub(super) order: OrderRequest,
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// An order, or consent to one.
pub(super) async fn order(
    url: &str,
    through: &Through,
    asked: Asked<'_>,
    format: Format,
    style: Style,
    to: impl Write,
) -> Result<Outcome> {
    let Asked { at, order } = asked;
    if at.is_none() && order.approves.is_empty() {
        bail!("to whom? Give --at fleet, --at region=NAME or --at HOST");
    }
    let request = v1::FleetOrderRequest {
        at: at.map(At::to_string).unwrap_or_default(),
        order: Some(order),
        undoes: String::new(),
        wait_ms: millis(through.wait),
    };
    let peer = Peer::Collector(url.to_owned());
    let mut fleet = client::fleet(url, through.tls.files()).await?;
    let answer = fleet.order(request).await;
    let answer = answer.map_err(|status| peer.error(&status))?.into_inner();
    tell(&answer, format, style, to)
}

/// `weir steer undo`.
pub(super) async fn undo(args: &SteerUndo, style: Style, to: impl Write) -> Result<Outcome> {
    let centre = &args.centre;
    let peer = Peer::Collector(centre.collector.clone());
    let request = v1::FleetOrderRequest {
        undoes: args.id.clone(),
        order: Some(OrderRequest {
            reason: args.reason.clone(),
            ..OrderRequest::default()
        }),
        wait_ms: millis(args.wait),
        ..v1::FleetOrderRequest::default()
    };
    let mut fleet = client::fleet(&centre.collector, centre.tls.files()).await?;
    let answer = fleet.order(request).await;
    let answer = answer.map_err(|status| peer.error(&status))?.into_inner();
    tell(&answer, args.output.output, style, to)
}

fn tell(
    answer: &v1::FleetOrderResponse,
    format: Format,
    style: Style,
    mut to: impl Write,
) -> Result<Outcome> {
    match format {
        Format::Json => print(answer, &mut to)?,
        Format::Table => listing::outcomes(answer, style, &mut to)?,
    }
    to.flush()?;
    let is_done = |host: &v1::HostOutcome| host.outcome() == v1::CommandOutcome::Done;
    Ok(if !answer.waits.is_empty() {
        Outcome::Waits
    } else if answer.hosts.iter().all(is_done) {
        Outcome::Done
    } else {
        Outcome::Incomplete
    })
}

/// `weir steer rebalance`.
pub(super) async fn rebalance(
    args: &SteerRebalance,
    style: Style,
    mut to: impl Write,
) -> Result<Outcome> {
    let centre = &args.centre;
    let peer = Peer::Collector(centre.collector.clone());
    let request = v1::RebalanceRequest {
        from: args.from.clone(),
        to: args.to.clone(),
        permille: args.permille,
        reason: args.reason.clone(),
        ttl_s: seconds(args.ttl),
        dead_time_s: args.dead_time.map_or(0, seconds),
        break_glass: args.break_glass,
        dry_run: args.dry_run,
    };
    let mut fleet = client::fleet(&centre.collector, centre.tls.files()).await?;
    let answer = fleet.rebalance(request).await;
    let answer = answer.map_err(|status| peer.error(&status))?.into_inner();
    match args.output.output {
        Format::Json => print(&answer, &mut to)?,
        Format::Table => listing::preview(&answer, style, &mut to)?,
    }
    to.flush()?;
    if !answer.problems.is_empty() {
        bail!("it must not be: {}", answer.problems.join("; "));
    }
    Ok(if answer.waits.is_empty() {
        Outcome::Done
    } else {
        Outcome::Waits
    })
}

/// `weir steer fleet-status`.
pub(super) async fn status(
    args: &SteerFleetStatus,
    style: Style,
    mut to: impl Write,
) -> Result<Outcome> {
    let centre = &args.centre;
    let peer = Peer::Collector(centre.collector.clone());
    let mut fleet = client::fleet(&centre.collector, centre.tls.files()).await?;
    let request = v1::GetFleetSteeringRequest {
        journal_of: args.journal.clone().unwrap_or_default(),
    };
    let answer = fleet.get_steering(request).await;
    let steering = answer.map_err(|status| peer.error(&status))?.into_inner();
    match args.output.output {
        Format::Json => print(&steering, &mut to)?,
        Format::Table => listing::write(&steering, style, &mut to)?,
    }
    to.flush()?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command, SteerCommand};

    #[test]
    fn where_an_order_goes_is_said_with_a_collector_alone() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let line = "weir steer drain --collector https://c:1 --at region=fra --reason x";
        let Command::Steer(args) = parse(line).unwrap().command else {
            panic!("{line} is another command");
        };
        let SteerCommand::Drain(order) = &args.command else {
            panic!("{line} is another order");
        };
        assert_eq!(order.at.as_ref().unwrap().to_string(), "region=fra");
        for line in [
            "weir steer drain --at region=fra --reason x",
            "weir steer drain --collector https://c:1 --at pool=x --reason x",
            "weir steer rebalance --collector https://c:1 --from a --to b --permille 501 --reason x",
            "weir steer rebalance --collector https://c:1 --from a --to b --permille 100",
            "weir steer undo --collector https://c:1 --reason x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

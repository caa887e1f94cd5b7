//! `weir steer`: orders to the daemon on this host, how its gate stands, and what needs no daemon.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_proto::v1::{GetSteeringRequest, OrderExpectation, OrderRequest, OrderResponse};

use super::{
    Approve, Order, Outcome, ReleaseOrder, Steer, SteerCommand, SteerSimulate, SteerStatus, record,
    steer_centre,
};
use crate::query::client::{self, Peer};
use crate::steer::Scope;
use crate::steer::overrides::order::{Direction, Expect};
use crate::steer::policy::rules::Metric;
use crate::steer::simulation::{Options, Pilot, Scene, simulate as play};
use crate::ui::listing::{simulation as listing, steering as steering_listing};
use crate::ui::out::Style;
use crate::ui::table::{Format, Printer};
use crate::ui::units;

/// A dry run looks ahead so far.
const AHEAD_S: u32 = 120;
/// Between two looks of `weir steer status --watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

impl Steer {
    /// If it is one, which needs no daemon.
    pub fn simulation(&self) -> Option<&SteerSimulate> {
        match &self.command {
            SteerCommand::Simulate(args) => Some(args),
            _ => None,
        }
    }
}

/// `weir steer`, all that a daemon is asked.
pub async fn steer(args: &Steer, style: Style, to: impl Write) -> Result<Outcome> {
    let (order, request) = match &args.command {
        SteerCommand::Status(args) => return status(args, style, to).await,
        SteerCommand::Approve(args) => return approve(args, style, to).await,
        SteerCommand::Rebalance(args) => return steer_centre::rebalance(args, style, to).await,
        SteerCommand::Undo(args) => return steer_centre::undo(args, style, to).await,
        SteerCommand::FleetStatus(args) => return steer_centre::status(args, style, to).await,
        SteerCommand::Simulate(args) => {
            simulation(args, style, to)?;
            return Ok(Outcome::Done);
        }
        SteerCommand::Hold(order) => (order, request("hold", order)),
        SteerCommand::Drain(order) => (order, request("drain", order)),
        SteerCommand::Undrain(order) => (order, request("undrain", order)),
        SteerCommand::Panic(order) => (order, request("panic", order)),
        SteerCommand::Weight(own) => (&own.order, share("weight", Some(own.share), &own.order)),
        SteerCommand::Shed(own) => (&own.order, share("shed", Some(own.share), &own.order)),
        SteerCommand::Pin(own) => (&own.order, share("pin", own.share, &own.order)),
        SteerCommand::Cap(own) => {
            let request = OrderRequest {
                cap_bps: own.bps,
                ..request("cap", &own.order)
            };
            (&own.order, request)
        }
        SteerCommand::Release(own) => (&own.order, release(own)),
    };
    if let Some(url) = &order.through.collector {
        let asked = steer_centre::Asked {
            at: order.at.as_ref(),
            order: request,
        };
        let format = order.output.output;
        return steer_centre::order(url, &order.through, asked, format, style, to).await;
    }
    let answer = send(&order.socket.socket, request).await?;
    tell(&answer, order.dry_run, order.output.output, style, to)
}

fn request(verb: &str, order: &Order) -> OrderRequest {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    OrderRequest {
        id: order.id.clone().unwrap_or_default(),
        scope: order.scope.key(),
        verb: verb.to_owned(),
        reason: order.reason.clone(),
        ttl_s: seconds(order.ttl).max(1),
        ramp_s: seconds(order.ramp),
        expect: order.expect.as_ref().map(|expect| OrderExpectation {
            metric: expect.metric.as_str().to_owned(),
            rises: expect.direction == Direction::Rises,
            window_s: expect.window_s,
            min_effect_permille: expect.min_effect_permille,
            min_n: expect.min_n,
        }),
        on_fail: order.on_fail.clone(),
        break_glass: order.break_glass,
        created_unix_ns: units::now_unix_ns(),
        rehearse_s: if order.dry_run { AHEAD_S } else { 0 },
        ..OrderRequest::default()
    }
}

fn share(verb: &str, share: Option<u16>, order: &Order) -> OrderRequest {
    OrderRequest {
        permille: share.map(u32::from),
        ..request(verb, order)
    }
}

fn release(own: &ReleaseOrder) -> OrderRequest {
    OrderRequest {
        releases: own.released.clone().unwrap_or_default(),
        ..request("release", &own.order)
    }
}

async fn approve(args: &Approve, style: Style, to: impl Write) -> Result<Outcome> {
    let request = OrderRequest {
        approves: args.id.clone(),
        ..OrderRequest::default()
    };
    if let Some(url) = &args.through.collector {
        let asked = steer_centre::Asked {
            at: None,
            order: request,
        };
        let format = args.output.output;
        return steer_centre::order(url, &args.through, asked, format, style, to).await;
    }
    let answer = send(&args.socket.socket, request).await?;
    tell(&answer, false, args.output.output, style, to)
}

async fn send(socket: &std::path::Path, request: OrderRequest) -> Result<OrderResponse> {
    let peer = Peer::Daemon(socket.to_owned());
    let mut daemon = client::local(socket).await?;
    let answer = daemon.order(request).await;
    Ok(answer.map_err(|status| peer.error(&status))?.into_inner())
}

fn tell(
    answer: &OrderResponse,
    is_rehearsal: bool,
    format: Format,
    style: Style,
    mut to: impl Write,
) -> Result<Outcome> {
    match format {
        Format::Json => print(answer, &mut to)?,
        Format::Table => steering_listing::answer(answer, is_rehearsal, style, &mut to)?,
    }
    to.flush()?;
    Ok(if answer.waits.is_empty() {
        Outcome::Done
    } else {
        Outcome::Waits
    })
}

pub(super) fn print(row: &impl serde::Serialize, to: &mut impl Write) -> Result<()> {
    // By way of io::Error, so that a reader that went away is known as one.
    serde_json::to_writer(&mut *to, row).map_err(std::io::Error::from)?;
    Ok(to.write_all(b"\n")?)
}

async fn status(args: &SteerStatus, style: Style, mut to: impl Write) -> Result<Outcome> {
    let socket = &args.socket.socket;
    let peer = Peer::Daemon(socket.clone());
    let mut daemon = client::local(socket).await?;
    loop {
        let answer = daemon.get_steering(GetSteeringRequest {}).await;
        let steering = answer.map_err(|status| peer.error(&status))?.into_inner();
        match args.output.output {
            Format::Json => print(&steering, &mut to)?,
            Format::Table => steering_listing::write(&steering, style, &mut to)?,
        }
        if !args.watch {
            to.flush()?;
            return Ok(Outcome::Done);
        }
        if args.output.output == Format::Table {
            writeln!(to)?;
        }
        to.flush()?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// What an operator means by `--scope`.
pub(super) fn parse_scope(text: &str) -> Result<Scope, String> {
    text.parse()
}

/// `70%`, `7.5%` or `700permille`: a number alone could be meant as either.
pub(super) fn parse_share(text: &str) -> Result<u16, String> {
    let wrong = || format!("{text:?} is no share: write 70% or 700permille, from 0 to all");
    let permille = if let Some(percent) = text.strip_suffix('%') {
        let (whole, tenths) = percent.split_once('.').unwrap_or((percent, "0"));
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_digits(whole) || !is_digits(tenths) || tenths.len() != 1 {
            return Err(wrong());
        }
        let whole: u16 = whole.parse().map_err(|_| wrong())?;
        let tenths: u16 = tenths.parse().map_err(|_| wrong())?;
        whole.saturating_mul(10).saturating_add(tenths)
    } else {
        let permille = text.strip_suffix("permille").ok_or_else(wrong)?;
        permille.parse().map_err(|_| wrong())?
    };
    if permille > 1000 {
        return Err(wrong());
    }
    Ok(permille)
}

/// Bits a second, in powers of 1000.
pub(super) fn parse_bitrate(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let bps = digits.parse::<u64>().ok();
    bps.and_then(|bps| bps.checked_mul(unit))
        .filter(|bps| *bps > 0)
        .ok_or_else(|| format!("{text:?} is no bitrate: write bits a second, as 3M or 1500k"))
}

/// `METRIC:falls|rises:WINDOW[:MIN_EFFECT_PERMILLE[:MIN_N]]`.
pub(super) fn parse_expectation(text: &str) -> Result<Expect, String> {
    let mut parts = text.split(':');
    let mut next = || parts.next().unwrap_or_default();
    let (metric, direction, window) = (next(), next(), next());
    let known = Metric::ALL.map(Metric::as_str).join(", ");
    let metric = Metric::ALL
        .into_iter()
        .find(|own| own.as_str() == metric)
        .ok_or_else(|| format!("{metric:?} is none of {known}"))?;
    let direction = match direction {
        "falls" => Direction::Falls,
        "rises" => Direction::Rises,
        other => return Err(format!("{other:?} is neither falls nor rises")),
    };
    let window_s = record::parse_duration(window)
        .ok()
        .and_then(|window| u32::try_from(window.as_secs()).ok())
        .filter(|s| (60..=300).contains(s))
        .ok_or_else(|| format!("{window:?} is no window: 60s to 300s"))?;
    let number = |text: &str, default: u64| match text {
        "" => Ok(default),
        text => text.parse().map_err(|_| format!("{text:?} is no number")),
    };
    let min_effect = number(next(), 0)?;
    let min_n = number(next(), 100)?;
    if parts.next().is_some() {
        return Err(format!("{text:?} says more than there is to say"));
    }
    Ok(Expect {
        metric,
        direction,
        window_s,
        min_effect_permille: u32::try_from(min_effect.min(1000)).unwrap_or(1000),
        min_n,
    })
}

/// `weir steer simulate`.
pub fn simulate(args: &Steer, style: Style, to: impl Write) -> Result<()> {
    let args = args.simulation().context("it is no simulation")?;
    simulation(args, style, to)
}

fn simulation(args: &SteerSimulate, style: Style, to: impl Write) -> Result<()> {
    let mut printer = Printer::new(listing::COLUMNS, args.output.output, style, to);
    let scenes = if args.scene.is_empty() {
        &Scene::ALL[..]
    } else {
        &args.scene
    };
    for scene in scenes {
        for dead_time_s in &args.dead_time_s {
            for pilot in Pilot::ALL {
                let options = Options {
                    hosts: args.hosts as usize,
                    dead_time_s: *dead_time_s,
                    // Long enough for steps to be taken, seen and taken back.
                    duration_s: args.duration_s.unwrap_or((30 * dead_time_s).max(3600)),
                    seed: args.seed,
                };
                printer.push(&play(*scene, pilot, &options))?;
            }
        }
    }
    Ok(printer.flush()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn each_pilot_of_each_scene_is_a_row() {
        let line =
            "weir steer simulate --scene step,liar --dead-time-s 12 --duration-s 600 -o json";
        let Command::Steer(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line} is another command");
        };
        let mut to = Vec::new();
        simulate(&args, Style::default(), &mut to).unwrap();
        let text = String::from_utf8(to).unwrap();
        let rows: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let pilots: Vec<_> = rows
            .iter()
            .map(|row| row["pilot"].as_str().unwrap())
            .collect();
        assert_eq!(pilots, ["none", "naive", "weir", "none", "naive", "weir"]);
        assert!(rows.iter().all(|row| row["dead_time_s"] == 12));
    }

    #[test]
    fn a_share_says_its_unit_and_a_bitrate_its_size() {
        for (text, permille) in [
            ("70%", 700),
            ("7.5%", 75),
            ("0%", 0),
            ("1000permille", 1000),
        ] {
            assert_eq!(parse_share(text), Ok(permille), "{text}");
        }
        for text in ["70", "101%", "-1%", "7.25%", "%", "x%", "1001permille", ""] {
            assert!(parse_share(text).is_err(), "{text}");
        }
        assert_eq!(parse_bitrate("3M"), Ok(3_000_000));
        assert_eq!(parse_bitrate("1500k"), Ok(1_500_000));
        for text in [
            "0",
            "",
            "M",
            "-3M",
            "99999999999999999999",
            "20000000000000G",
        ] {
            assert!(parse_bitrate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_expectation_is_a_number_a_direction_and_a_window() {
        let expect = parse_expectation("rebuffer_ratio:falls:2m").unwrap();
        assert_eq!((expect.window_s, expect.min_effect_permille), (120, 0));
        let expect = parse_expectation("late_delivery_share:rises:60s:5:1000").unwrap();
        assert_eq!((expect.min_effect_permille, expect.min_n), (5, 1000));
        for text in [
            "",
            "late_delivery_share",
            "late_delivery_share:falls:60s:5:1:2",
        ] {
            assert!(parse_expectation(text).is_err(), "{text}");
        }
    }
}

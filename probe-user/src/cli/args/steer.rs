//! What `weir steer` and `weir journal` take.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{SteerFleetStatus, SteerRebalance, SteerUndo, Through};
use crate::cli::steer::{parse_bitrate, parse_expectation, parse_scope, parse_share};
use crate::cli::{Output, Socket, record};
use crate::collect::steering::at::At;
use crate::steer::Scope;
use crate::steer::overrides::order::Expect;
use crate::steer::simulation::Scene;

/// Steer traffic: see who holds what, give orders, rehearse.
///
/// An order outranks automation, needs a reason and ends by itself. It is given to the daemon on this
/// host, over its Unix socket; who may give which is a matter of [[steer.role]] in its configuration,
/// and the kernel says who asks. With --collector and --at it is given to other hosts through their
/// collector: the certificate says who asks, and the roles of the collector and of each host say who
/// may. Every order, and every refusal, is in the journal.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 1 if the order was refused or not taken, 5 if not every host has taken it, 6 if it waits
for a second person.

Examples:
  weir steer status
  weir steer hold --reason 'goal, nobody touches anything'
  weir steer drain --scope service=live --ramp 30s --reason 'disk 3 is slow' --dry-run
  weir steer weight 70% --ttl 10m --reason 'half of the fans are dead'
  weir steer release --reason 'disk 3 is replaced'
  weir steer hold --collector https://collector:7447 --ca ca.pem --cert me.pem --key me.key \\
    --at region=fra --reason 'transit is being repaired'
  weir steer rebalance --collector ... --from fra --to ams --permille 200 --reason transit --dry-run
  weir steer simulate
  weir steer simulate --scene step,heal --dead-time-s 12 --hosts 40
  weir steer simulate -o json | jq -c '[.scene, .pilot, .amplitude_percent]'")]
pub struct Steer {
    #[command(subcommand)]
    pub command: SteerCommand,
}

/// What of it.
#[derive(Debug, Subcommand)]
pub enum SteerCommand {
    Status(SteerStatus),
    /// Automation stays where it is, the centre's too. Humans may still move it.
    Hold(Order),
    /// No new traffic.
    Drain(Order),
    /// All of the traffic, whatever automation thinks.
    Undrain(Order),
    /// So much of the traffic that would come by itself.
    Weight(ShareOrder),
    /// Fixed, also against humans of a lower level: there, or where it is.
    Pin(PinOrder),
    /// No session above this bitrate.
    Cap(CapOrder),
    /// Turns away so much of what automation leaves.
    Shed(ShareOrder),
    /// Takes back one order, or all of the scope up to one's own level.
    Release(ReleaseOrder),
    /// All automation off, all neutral, at once; until it is released or ends.
    Panic(Order),
    /// Agrees to an order that waits for a second person.
    Approve(Approve),
    Rebalance(SteerRebalance),
    Undo(SteerUndo),
    FleetStatus(SteerFleetStatus),
    Simulate(SteerSimulate),
}

/// What every order says.
#[derive(Args, Debug)]
pub struct Order {
    #[command(flatten)]
    pub socket: Socket,
    #[command(flatten)]
    pub through: Through,
    /// With --collector: fleet, region=NAME or the name of a host.
    #[arg(long, value_name = "WHERE", requires = "collector")]
    pub at: Option<At>,
    #[command(flatten)]
    pub output: Output,
    /// Of what: host, service=NAME, cell=NAME (as `weir cells` lists it) or prefix=CIDR.
    #[arg(long, value_name = "SCOPE", default_value = "host", value_parser = parse_scope)]
    pub scope: Scope,
    /// Why; it stands in the journal.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// It ends by itself after so long, at most 4h; with --break-glass at most 10m.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = record::parse_duration)]
    pub ttl: Duration,
    /// From where the gate is to where it shall be, and back at the end; 0s: at once.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_ramp)]
    pub ramp: Duration,
    /// What should come of it, e.g. `late_delivery_share:falls:120s`: a number that policies watch,
    /// falls or rises, within a window of 60s to 300s, and if you like by how many thousandths and
    /// with how many trials at least (`late_delivery_share:falls:120s:5:1000`).
    #[arg(long, value_name = "METRIC:FALLS|RISES:WINDOW", value_parser = parse_expectation)]
    pub expect: Option<Expect>,
    /// What is done if it hurts.
    #[arg(long, value_name = "WHAT", default_value = "revert", value_parser = ["revert", "hold", "page"])]
    pub on_fail: String,
    /// Also beyond the minimum healthy capacity and the maximum drain.
    #[arg(long)]
    pub break_glass: bool,
    /// Give no order: tell what would come of it within two minutes.
    #[arg(long)]
    pub dry_run: bool,
    /// The order's own name, so that it is not given twice [default: a new one].
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

fn parse_ramp(text: &str) -> Result<Duration, String> {
    if text == "0" || text == "0s" {
        return Ok(Duration::ZERO);
    }
    record::parse_duration(text)
}

/// An order with a share.
#[derive(Args, Debug)]
pub struct ShareOrder {
    /// A share: 70% or 700permille.
    #[arg(value_name = "SHARE", value_parser = parse_share)]
    pub share: u16,
    #[command(flatten)]
    pub order: Order,
}

/// An order with a share, or none.
#[derive(Args, Debug)]
pub struct PinOrder {
    /// A share: 70% or 700permille [default: where it is].
    #[arg(value_name = "SHARE", value_parser = parse_share)]
    pub share: Option<u16>,
    #[command(flatten)]
    pub order: Order,
}

/// An order with a bitrate.
#[derive(Args, Debug)]
pub struct CapOrder {
    /// Bits a second: 3M, 1500k.
    #[arg(value_name = "BITRATE", value_parser = parse_bitrate)]
    pub bps: u64,
    #[command(flatten)]
    pub order: Order,
}

/// An end of orders.
#[derive(Args, Debug)]
pub struct ReleaseOrder {
    /// This order alone, as `weir steer status` names it.
    #[arg(value_name = "ID")]
    pub released: Option<String>,
    #[command(flatten)]
    pub order: Order,
}

/// A second person's consent.
#[derive(Args, Debug)]
pub struct Approve {
    /// The order, as `weir steer status` names it; or a rebalance, with --collector.
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    pub socket: Socket,
    #[command(flatten)]
    pub through: Through,
    #[command(flatten)]
    pub output: Output,
}

/// Show who holds what, why and for how long; the gates; advice that was not taken.
#[derive(Args, Debug)]
pub struct SteerStatus {
    #[command(flatten)]
    pub socket: Socket,
    #[command(flatten)]
    pub output: Output,
    /// Go on, once a second.
    #[arg(short, long)]
    pub watch: bool,
}

/// Play a fleet in a closed loop: with nobody at the gates, with a naive threshold, with weir.
///
/// Every host decides as the daemon does, with the policy's defaults, armed; load, faults and the dead
/// time are made up. Amplitude: the largest swing of a host's weight in the last third. Settling: from
/// the fault until every host stays near where it ends (\"-\": it never does). Moved: traffic that
/// changed its host, in percent of the fleet's. The same seed gives the same table.
#[derive(Args, Debug)]
#[command(after_help = "\
Scenes:
  step      load rises from 60 % to 80 % of the fleet, and an eighth of the hosts is weak
  heal      the same, and after a third of the time all is as before
  stale     the same as step; the numbers stop for a minute, and later for ten
  regional  half of the fleet loses its transit: nobody's fault there
  release   half of the fleet gets a bad release: each host's own fault
  liar      one host says that it is very late, and is well

Examples:
  weir steer simulate
  weir steer simulate --scene step --dead-time-s 12,300 -o json")]
pub struct SteerSimulate {
    /// Only these scenes.
    #[arg(long, value_name = "SCENE", value_delimiter = ',', value_parser = str::parse::<Scene>)]
    pub scene: Vec<Scene>,
    /// From a decision to when it is felt in the numbers.
    #[arg(long, value_name = "S", value_delimiter = ',', default_value = "12,300", value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub dead_time_s: Vec<u32>,
    /// Hosts.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub hosts: u32,
    /// Simulated time [default: thirty dead times, an hour at least].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(600..=86_400))]
    pub duration_s: Option<u32>,
    /// What load and noise are dealt out from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub output: Output,
}

/// Read the journal of decisions and orders, or verify that it is as it was written.
///
/// It is read from its files (`steer.journal_file` of the configuration, and those with a number after
/// it); no daemon is needed, and the one that writes there is not disturbed.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 5 if a line was changed, removed, put in or put elsewhere. That lines at the end are
gone cannot be seen from the files: compare the last hash with one that was noted elsewhere.

Examples:
  weir journal show /var/lib/weir/steer.journal --kind order,refused
  weir journal show /var/lib/weir/steer.journal -o json | jq -c .body.decision
  weir journal verify /var/lib/weir/steer.journal")]
pub struct Journal {
    #[command(subcommand)]
    pub command: JournalCommand,
}

/// What of it.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    Show(JournalShow),
    Verify(JournalVerify),
}

/// List what was decided and ordered, oldest first; damage is told and read past.
#[derive(Args, Debug)]
pub struct JournalShow {
    /// The journal; older files of it are found beside it.
    pub file: PathBuf,
    /// Only entries of these kinds.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = [
        "opened", "order", "refused", "decision", "position", "actuated", "verdict", "checkpoint",
        "repaired", "central", "note",
    ])]
    pub kind: Vec<String>,
    /// Only entries from this number on.
    #[arg(long, value_name = "N")]
    pub from_seq: Option<u64>,
    #[command(flatten)]
    pub output: Output,
}

/// Verify its chain of hashes, over all its files.
#[derive(Args, Debug)]
pub struct JournalVerify {
    /// The journal; older files of it are found beside it.
    pub file: PathBuf,
}

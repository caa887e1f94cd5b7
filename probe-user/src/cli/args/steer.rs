//! What `weir steer` and `weir journal` take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::Output;
use crate::steer::simulation::Scene;

/// Steer traffic: rehearse what the policy would do, before it is armed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
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
    Simulate(SteerSimulate),
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
        "repaired", "note",
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

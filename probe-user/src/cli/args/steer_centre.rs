//! What `weir steer` takes where a collector is asked.

use std::time::Duration;

use clap::Args;

use crate::cli::{Centre, Output, Tls, record};

/// Through whom, if not to the daemon on this host.
#[derive(Args, Debug)]
pub struct Through {
    /// Give it through the collector at this address, https://HOST:PORT, instead of to the daemon on
    /// this host.
    #[arg(long, value_name = "URL", conflicts_with = "socket")]
    pub collector: Option<String>,
    #[command(flatten)]
    pub tls: Tls,
    /// With --collector: wait so long for hosts' answers. What has not been answered by then is on its
    /// way for five minutes.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = record::parse_duration)]
    pub wait: Duration,
}

/// Move a share of a region's traffic to another, as one order.
///
/// One host goes first, then a tenth of the region, then three tenths, then all; between two of these it
/// waits until the effect of the last can be seen. It stops where it is when hosts fall silent or the
/// other region has no room left, and is taken back as a whole when somebody is worse off beyond doubt,
/// on a panic, by `weir steer undo`, and when its time is over. It moves hosts that are armed. Where
/// the traffic goes that they turn away is for the balancer in front of them.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 1 if it must not be, 6 if it waits for a second person.

Examples:
  weir steer rebalance --collector https://collector:7447 --ca ca.pem --cert me.pem --key me.key \\
    --from fra --to ams --permille 200 --reason 'transit is full' --dry-run
  weir steer fleet-status --collector ...
  weir steer undo ID --collector ... --reason 'transit is back'")]
pub struct SteerRebalance {
    #[command(flatten)]
    pub centre: Centre,
    #[command(flatten)]
    pub output: Output,
    /// The region that is to send less.
    #[arg(long, value_name = "REGION")]
    pub from: String,
    /// The region that is to take it.
    #[arg(long, value_name = "REGION")]
    pub to: String,
    /// Of the traffic of each host of --from, so many thousandths.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(50..=500))]
    pub permille: u32,
    /// Why; it stands in the journals.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// It ends by itself after so long, at most 4h.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = record::parse_duration)]
    pub ttl: Duration,
    /// Between two stages [default: as the collector is configured].
    #[arg(long, value_name = "TIME", value_parser = record::parse_duration)]
    pub dead_time: Option<Duration>,
    /// Also where it is not known whether --to can take it; for at most 10m.
    #[arg(long)]
    pub break_glass: bool,
    /// Begin nothing: tell what would move, host by host, and what the others can take.
    #[arg(long)]
    pub dry_run: bool,
}

/// Take back an order or a rebalance, wherever it was taken.
#[derive(Args, Debug)]
pub struct SteerUndo {
    /// As `weir steer fleet-status` names it.
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    pub centre: Centre,
    #[command(flatten)]
    pub output: Output,
    /// Why; it stands in the journals.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Wait so long for hosts' answers.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = record::parse_duration)]
    pub wait: Duration,
}

/// Show what was ordered of the fleet, what is lent, and how hosts' gates stand.
#[derive(Args, Debug)]
pub struct SteerFleetStatus {
    #[command(flatten)]
    pub centre: Centre,
    #[command(flatten)]
    pub output: Output,
    /// Also what this host has written down lately.
    #[arg(long, value_name = "HOST")]
    pub journal: Option<String>,
}

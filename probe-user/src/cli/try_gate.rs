//! `weir try-gate`: turns one gate by hand, without a daemon and without the policy. And the guard that
//! it and the daemon start.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::record::parse_duration;
use crate::config::Config;
use crate::steer::actuators::{Actuator as _, Gate, Guard, Lease, clock, guard};
use crate::steer::{Position, Setting};

/// Turn one gate of the configuration for a while, and give it back: does it do what it should?
///
/// Nothing decides here, and nothing is written into the journal. It ends by itself, also by SIGTERM
/// and SIGINT, and gives back what it turned; killed, its guard does. While a daemon runs that has the
/// gate, the two would turn it in turns: stop the daemon first.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir try-gate balancer --weight-permille 500 --for 30s
  weir try-gate balancer --config /etc/weir/weir.toml --weight-permille 0 --for 10s")]
pub struct TryGate {
    /// The gate, by its name in the configuration.
    pub name: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/weir/weir.toml")]
    pub config: PathBuf,
    /// What is left to the traffic that the gate serves, in thousandths.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub weight_permille: u16,
    /// For so long (e.g. 30s), an hour at most.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
}

/// Make gates neutral when the process that turned them is gone or hangs.
///
/// Started by the daemon and by `weir try-gate`, with a channel to them as its standard input; of no
/// use by hand.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pgrep -f 'weir gate-guard'    there is one for each daemon that has turned a gate")]
pub struct GateGuard {}

/// `weir gate-guard`.
pub fn gate_guard(_: &GateGuard) -> Result<()> {
    guard::run()
}

const MOST: Duration = Duration::from_secs(3600);
/// Between two looks for the kill switch, as the daemon's.
const LOOK: Duration = Duration::from_millis(250);

/// `weir try-gate`.
pub async fn try_gate(args: &TryGate, mut to: impl Write) -> Result<()> {
    let config = Config::load(&args.config)?;
    let gates = &config.steer.gates;
    let Some(settings) = gates.iter().find(|gate| gate.name == args.name) else {
        let known: Vec<_> = gates.iter().map(|gate| gate.name.as_str()).collect();
        let file = args.config.display();
        bail!(
            "{file} has no gate {:?}; it has: {}",
            args.name,
            known.join(", ")
        );
    };
    if config.kill_switch.exists() {
        let switch = config.kill_switch.display();
        bail!("{switch} is there: nothing is turned away from neutral while it is");
    }
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    // Newer than what a daemon has told: its generations begin at one, and count.
    let generation = clock::unix_ns() / 1_000_000;
    let position = Position {
        generation,
        decision: "try-gate".to_owned(),
        settings: vec![Setting {
            scope: settings.serves.scope(),
            weight_permille: args.weight_permille,
            cap_bps: None,
        }],
    };
    let end = Instant::now() + args.duration.min(MOST);
    let lease = Duration::from_secs(settings.lease_s.into());
    let served = config.served();
    let mut gate = Gate::open(settings, &Guard::default(), generation - 1, &served).await?;
    let first = until(lease);
    let turned = gate.acquire(&position, first).await;
    let held = match turned {
        Ok(()) => {
            writeln!(to, "{}: {} permille", args.name, args.weight_permille)?;
            to.flush()?;
            tokio::select! {
                held = hold(&mut gate, lease, first, end) => held,
                _ = term.recv() => Ok(()),
                _ = int.recv() => Ok(()),
                () = is_there(&config.kill_switch) => Ok(()),
            }
        }
        failed => failed,
    };
    let released = gate.release().await;
    held.with_context(|| format!("{} did not turn, or not wholly", args.name))?;
    released.with_context(|| format!("{} did not go back", args.name))?;
    writeln!(to, "{}: neutral", args.name)?;
    Ok(())
}

fn until(lease: Duration) -> Lease {
    let lease_ns = u64::try_from(lease.as_nanos()).unwrap_or(0);
    Lease {
        until_boot_ns: clock::boot_ns().saturating_add(lease_ns),
    }
}

async fn is_there(kill_switch: &Path) {
    while !kill_switch.exists() {
        sleep(LOOK).await;
    }
}

/// Renews at a third of the lease, until the end. What fails is tried again for as long as the lease
/// lasts: a balancer that is started anew, perhaps.
async fn hold(gate: &mut Gate, lease: Duration, first: Lease, end: Instant) -> Result<()> {
    let (mut held, mut next) = (first, Instant::now() + lease / 3);
    loop {
        sleep_until(next.min(end)).await;
        if next >= end {
            return Ok(());
        }
        let longer = until(lease);
        match gate.renew(longer).await {
            Ok(()) => (held, next) = (longer, Instant::now() + lease / 3),
            Err(_) if clock::boot_ns() < held.until_boot_ns => next = Instant::now() + lease / 20,
            Err(err) => return Err(err),
        }
    }
}

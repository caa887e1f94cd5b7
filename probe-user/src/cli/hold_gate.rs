//! `weir hold-gate`: one kernel gate, driven line by line; for tests and measurements of the gate
//! alone. The daemon holds its gates by itself.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::kernel::gate::{Counted, Counts, keep_statistics, now_boot_ns};
use crate::steer::Position;
use crate::steer::actuators::kernel::{Dealing, Kernel, KernelGate, Served};
use crate::steer::actuators::{Actuator as _, Lease};

/// Lines longer than this are no requests.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Hold the kernel gate by hand: one request a line on standard input, one answer a line.
///
/// Requests are JSON: `{"acquire":{"position":{...},"lease_ms":1000}}`,
/// `{"renew":{"lease_ms":1000}}`, `"release"`, `"counts"`. The gate opens when the lease is over, and when this command ends.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  echo '\"counts\"' | weir hold-gate --port 8080 --other 127.0.0.1:8081")]
pub struct HoldGate {
    /// The server's ports whose connections are turned: the service `gate`.
    #[arg(long, value_name = "PORT", value_delimiter = ',', required = true, value_parser = super::filter::port())]
    pub port: Vec<u16>,
    /// Where to.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        value_delimiter = ',',
        required = true
    )]
    pub other: Vec<SocketAddr>,
    /// Deal out each connection by itself.
    #[arg(long)]
    pub by_connection: bool,
    /// What capped sessions have.
    #[arg(long, value_name = "NAME")]
    pub congestion_control: Option<String>,
    /// Have the kernel keep statistics of what programs cost.
    #[arg(long)]
    pub statistics: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Acquire { position: Position, lease_ms: u64 },
    Renew { lease_ms: u64 },
    Release,
    Counts,
}

/// What is said to each request.
#[derive(Debug, Default, Serialize)]
struct Answer {
    /// When the request was read, and when it was done: `CLOCK_BOOTTIME`.
    called_boot_ns: u64,
    done_boot_ns: u64,
    /// Why it was not done.
    error: Option<String>,
    /// The other listeners that are not there, and why.
    missing: Vec<String>,
    /// Why sessions cannot be capped.
    uncapped: Option<String>,
    /// To `counts` alone.
    rules: Vec<RuleCounts>,
    /// What the two programs have cost: turning, capping.
    costs: Vec<ProgramCost>,
}

#[derive(Debug, Serialize)]
struct RuleCounts {
    port: u16,
    prefix: Option<String>,
    seen: u64,
    turned: u64,
    could_not: u64,
    left_to_others: u64,
    expired: u64,
    capped: u64,
    could_not_cap: u64,
}

#[derive(Debug, Serialize)]
struct ProgramCost {
    runs: u64,
    run_time_ns: u64,
}

impl RuleCounts {
    fn of(counted: &Counted) -> Self {
        let Counts {
            seen,
            turned,
            could_not,
            left_to_others,
            expired,
            capped,
            could_not_cap,
        } = counted.counts;
        Self {
            port: counted.port,
            prefix: counted.prefix.map(|net| format!("{net}")),
            seen,
            turned,
            could_not,
            left_to_others,
            expired,
            capped,
            could_not_cap,
        }
    }
}

/// `weir hold-gate`.
pub async fn hold_gate(args: &HoldGate, from: impl BufRead, mut to: impl Write) -> Result<()> {
    let _statistics: Option<OwnedFd> = args.statistics.then(keep_statistics).transpose()?;
    let settings = KernelGate {
        services: Vec::new(),
        others: args.other.clone(),
        by: if args.by_connection {
            Dealing::Connection
        } else {
            Dealing::Client
        },
        congestion_control: args.congestion_control.clone(),
    };
    let served = Served {
        name: "gate".to_owned(),
        ports: args.port.clone(),
    };
    let mut gate = Kernel::open("gate", &settings, &[served]).await?;
    say(&mut to, &gate, Answer::default())?;
    for line in from.lines() {
        let line = line.context("reading standard input")?;
        let called_boot_ns = now_boot_ns();
        let mut answer = Answer {
            called_boot_ns,
            ..Answer::default()
        };
        if let Err(err) = perform(&mut gate, &line, &mut answer).await {
            answer.error = Some(format!("{err:#}"));
        }
        answer.done_boot_ns = now_boot_ns();
        say(&mut to, &gate, answer)?;
    }
    Ok(())
}

async fn perform(gate: &mut Kernel, line: &str, answer: &mut Answer) -> Result<()> {
    let lease = |lease_ms: u64| Lease {
        until_boot_ns: answer.called_boot_ns + lease_ms.saturating_mul(1_000_000),
    };
    anyhow::ensure!(line.len() <= MAX_LINE_BYTES, "the line is too long");
    match serde_json::from_str(line).context("no request")? {
        Request::Acquire { position, lease_ms } => gate.acquire(&position, lease(lease_ms)).await,
        Request::Renew { lease_ms } => gate.renew(lease(lease_ms)).await,
        Request::Release => gate.release().await,
        Request::Counts => {
            let (rules, _) = gate.counts()?;
            answer.rules = rules.iter().map(RuleCounts::of).collect();
            let costs = gate.programs().costs()?;
            let costs = costs.iter().map(|cost| ProgramCost {
                runs: cost.runs,
                run_time_ns: u64::try_from(cost.run_time.as_nanos()).unwrap_or(u64::MAX),
            });
            answer.costs = costs.collect();
            Ok(())
        }
    }
}

fn say(to: &mut impl Write, gate: &Kernel, mut answer: Answer) -> Result<()> {
    let missing = gate.missing();
    answer.missing = missing.map(|(_, why)| why.to_owned()).collect();
    answer.uncapped = gate.uncapped().map(str::to_owned);
    serde_json::to_writer(&mut *to, &answer)?;
    to.write_all(b"\n")?;
    Ok(to.flush()?)
}

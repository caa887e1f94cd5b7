//! The load: a process of its own that asks an HTTP server for one file again and again, as fast
//! as it can or at a fixed rate, and says how many answers it had and how long they took.
//!
//! One thread over epoll; bodies are thrown away in the kernel, so that the client costs little.

mod connection;
mod engine;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use weir_tests::lab::netns::Netns;
use weir_tests::lab::process::Process;

use crate::group::Group;

/// What to ask for, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The server
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// The file
    #[arg(long)]
    pub(crate) path: String,
    /// Connections at the same time
    #[arg(long)]
    pub(crate) connections: usize,
    /// A connection for each request, closed by the server; else they are kept
    #[arg(long)]
    pub(crate) short: bool,
    /// Requests a second, whatever becomes of them; 0: each as soon as the one before is answered
    #[arg(long, default_value_t = 0.0)]
    pub(crate) rate: f64,
    /// Before anything is counted
    #[arg(long)]
    pub(crate) warm_ms: u64,
    /// For which it is counted
    #[arg(long)]
    pub(crate) measure_ms: u64,
    /// Run on this processor alone
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
}

/// What became of it, in the time that was counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// Answers that came whole.
    pub(crate) requests: u64,
    /// Their bytes, heads included.
    pub(crate) bytes: u64,
    /// Connections that failed or broke, and answers other than 200.
    pub(crate) failed: u64,
    /// For how long.
    pub(crate) seconds: f64,
    /// From when a request was due to its answer's last byte.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// Said when counting begins and when it ends.
const BEGIN: &str = "begin";
const END: &str = "end";

/// The load's own process.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(cpu) = args.cpu {
        pin_to(cpu)?;
    }
    let say = |word: &str| -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word}").context("nobody listens to the load")?;
        out.flush().context("nobody listens to the load")
    };
    let answered = engine::run(args, &mut |begins| say(if begins { BEGIN } else { END }))?;
    say(&serde_json::to_string(&answered)?)
}

/// Starts the load from inside `netns` and `group`; calls `at_begin` and `at_end` around what is
/// counted.
pub(crate) fn start(
    args: &Args,
    netns: &Netns,
    group: &Group,
    mut at_begin: impl FnMut() -> Result<()>,
    mut at_end: impl FnMut() -> Result<()>,
) -> Result<Answered> {
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    command
        .arg("load")
        .arg("--address")
        .arg(args.address.to_string());
    command.arg("--path").arg(&args.path);
    command
        .arg("--connections")
        .arg(args.connections.to_string());
    command.arg("--rate").arg(args.rate.to_string());
    command.arg("--warm-ms").arg(args.warm_ms.to_string());
    command.arg("--measure-ms").arg(args.measure_ms.to_string());
    if args.short {
        command.arg("--short");
    }
    if let Some(cpu) = args.cpu {
        command.arg("--cpu").arg(cpu.to_string());
    }
    group.enter(&mut command)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut process = Process::start(command, Some(netns))?;
    let pipe = process
        .child_mut()
        .stdout
        .take()
        .context("no pipe from the load")?;
    let mut answered = None;
    for line in BufReader::new(pipe).lines() {
        match line.context("reading what the load says")?.as_str() {
            BEGIN => at_begin()?,
            END => at_end()?,
            json => {
                answered = Some(serde_json::from_str(json).context("the load's last words")?);
            }
        }
    }
    let status = process.wait(Duration::from_secs(5))?;
    match answered {
        Some(answered) if status.success() => Ok(answered),
        _ => bail!("the load failed ({status})"),
    }
}

/// Keeps the calling thread on one processor.
pub(crate) fn pin_to(cpu: usize) -> Result<()> {
    use nix::sched::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(cpu)
        .with_context(|| format!("there is no processor {cpu}"))?;
    sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
        .with_context(|| format!("cannot stay on processor {cpu}"))
}

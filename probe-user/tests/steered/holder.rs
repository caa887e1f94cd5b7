//! The gate held by a process of its own, which can be killed and stopped as a daemon can: this test
//! program once more, running the one test that holds it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use weir::config::{ContentGate, Pathway};
use weir::steer::actuators::content::ContentSteering;
use weir::steer::actuators::{Actuator as _, Lease};
use weir::steer::{Position, Scope, Setting};
use weir_tests::lab::process::Process;

use super::TTL_S;
use super::edges::{COPY, HERE, THERE};

/// The port of the gate to hold.
const PORT: &str = "WEIR_HELD_GATE";
/// The pathway to others is a copy of this host's.
const IS_COPY: &str = "WEIR_HELD_GATE_COPIES";
/// Begins what the holder says; the rest is the test program's.
const SAYS: &str = "gate: ";

/// Holds it as standard input says, line by line: `WEIGHT MILLISECONDS`, or `release`.
pub(crate) async fn hold() -> Result<()> {
    let port: u16 = std::env::var(PORT)
        .with_context(|| format!("{PORT} is for the tests themselves"))?
        .parse()?;
    let is_copy = std::env::var_os(IS_COPY).is_some();
    let settings = ContentGate {
        listen: ([127, 0, 0, 1], port).into(),
        home: HERE.to_owned(),
        ttl_s: TTL_S,
        pathways: vec![Pathway {
            name: THERE.to_owned(),
            weight: 1,
            clone_of: is_copy.then(|| HERE.to_owned()),
            host: is_copy.then(|| COPY.to_owned()),
            params: Vec::new(),
        }],
        ..ContentGate::default()
    };
    let mut gate = ContentSteering::start("steering", None, settings)?;
    println!("\n{SAYS}ready");
    for (n, line) in std::io::stdin().lines().enumerate() {
        let line = line?;
        if line == "release" {
            gate.release().await?;
        } else {
            let (weight, lease_ms) = line.split_once(' ').context("no weight and lease")?;
            let position = Position {
                generation: n as u64 + 1,
                decision: "test".to_owned(),
                settings: vec![Setting {
                    scope: Scope::Host,
                    weight_permille: weight.parse()?,
                    cap_bps: None,
                }],
            };
            let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
            let until = now + Duration::from_millis(lease_ms.parse()?);
            let until_boot_ns = u64::try_from(until.as_nanos())?;
            gate.acquire(&position, Lease { until_boot_ns }).await?;
        }
        println!("{SAYS}done {:?}", gate.counts());
    }
    Ok(())
}

/// That process.
#[derive(Debug)]
pub(crate) struct Holder {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts it; the gate answers when this returns.
    pub(crate) fn start(port: u16) -> Result<Self> {
        Self::with(port, &[])
    }

    /// One whose other pathway is made of this host's.
    pub(crate) fn of_copies(port: u16) -> Result<Self> {
        Self::with(port, &[(IS_COPY, "yes")])
    }

    fn with(port: u16, variables: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--exact", "--ignored", "--nocapture", super::HOLDS])
            .env(PORT, port.to_string())
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::start(command, None)?;
        let child = process.child_mut();
        let mut holder = Self {
            input: child.stdin.take().context("no pipe to the holder")?,
            output: BufReader::new(child.stdout.take().context("no pipe from the holder")?),
            process,
        };
        holder.heard()?;
        Ok(holder)
    }

    /// Holds `weight_permille` for `lease`; returns what was counted so far.
    pub(crate) fn acquire(&mut self, weight_permille: u16, lease: Duration) -> Result<String> {
        writeln!(self.input, "{weight_permille} {}", lease.as_millis())?;
        self.heard()
    }

    pub(crate) fn release(&mut self) -> Result<String> {
        writeln!(self.input, "release")?;
        self.heard()
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    fn heard(&mut self) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            let bytes = self.output.read_line(&mut line)?;
            ensure!(bytes > 0, "the holder of the gate is gone");
            if let Some(said) = line.strip_prefix(SAYS) {
                return Ok(said.trim().to_owned());
            }
        }
    }
}

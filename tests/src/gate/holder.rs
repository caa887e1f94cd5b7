//! A process that holds the kernel gate: `weir hold-gate`, asked line by line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::lab::netns::Netns;
use crate::lab::process::Process;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a gate is made.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// The ports that are turned.
    pub ports: Vec<u16>,
    /// Where to.
    pub others: Vec<SocketAddr>,
    /// Each connection is dealt out by itself.
    pub by_connection: bool,
    /// What capped sessions have.
    pub congestion_control: Option<String>,
    /// The kernel keeps statistics.
    pub statistics: bool,
}

/// One setting of a position.
#[derive(Clone, Debug)]
pub struct Setting {
    scope: Value,
    weight_permille: u16,
    cap_bps: Option<u64>,
}

impl Setting {
    /// So many thousandths of all clients are turned.
    pub fn turning(permille: u16) -> Self {
        Self {
            scope: json!("host"),
            weight_permille: 1000 - permille,
            cap_bps: None,
        }
    }

    /// Only of this network's clients.
    #[must_use]
    pub fn of(mut self, prefix: &str) -> Self {
        self.scope = json!({ "prefix": prefix });
        self
    }

    /// Of a cell, as `weir cells` names it.
    #[must_use]
    pub fn of_cell(mut self, name: &str) -> Self {
        self.scope = json!({ "cell": name });
        self
    }

    /// New sessions are capped too.
    #[must_use]
    pub fn capped(mut self, bps: u64) -> Self {
        self.cap_bps = Some(bps);
        self
    }
}

/// What it says.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "weir documents its fields")]
pub struct Answer {
    pub called_boot_ns: u64,
    pub done_boot_ns: u64,
    pub error: Option<String>,
    pub missing: Vec<String>,
    pub uncapped: Option<String>,
    pub rules: Vec<Rule>,
    pub costs: Vec<Cost>,
}

/// What a rule has counted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "weir documents its fields")]
pub struct Rule {
    pub port: u16,
    pub prefix: Option<String>,
    pub seen: u64,
    pub turned: u64,
    pub could_not: u64,
    pub left_to_others: u64,
    pub expired: u64,
    pub capped: u64,
    pub could_not_cap: u64,
}

/// What a program has cost.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "weir documents its fields")]
pub struct Cost {
    pub runs: u64,
    pub run_time_ns: u64,
}

/// The process.
#[derive(Debug)]
pub struct Holder {
    process: Process,
    to: ChildStdin,
    answers: Receiver<String>,
    generation: u64,
}

impl Holder {
    /// Starts it in `netns`, neutral.
    ///
    /// # Errors
    /// The gate cannot be had.
    pub fn start(binary: &Path, netns: &Netns, made: &Made) -> Result<Self> {
        let list = |items: Vec<String>| items.join(",");
        let mut command = Command::new(binary);
        command.arg("hold-gate");
        command.args([
            "--port",
            &list(made.ports.iter().map(u16::to_string).collect()),
        ]);
        let others = made.others.iter().map(SocketAddr::to_string).collect();
        command.args(["--other", &list(others)]);
        if made.by_connection {
            command.arg("--by-connection");
        }
        if let Some(name) = &made.congestion_control {
            command.args(["--congestion-control", name]);
        }
        if made.statistics {
            command.arg("--statistics");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(command, Some(netns))?;
        let child = process.child_mut();
        let to = child.stdin.take().context("no standard input")?;
        let from = child.stdout.take().context("no standard output")?;
        let (tell, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let holder = Self {
            process,
            to,
            answers,
            generation: 0,
        };
        holder.answer().context("the gate cannot be had")?;
        Ok(holder)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn answer(&self) -> Result<Answer> {
        let line = self
            .answers
            .recv_timeout(PATIENCE)
            .context("the holder does not answer")?;
        serde_json::from_str(&line).with_context(|| format!("no answer: {line}"))
    }

    /// Asks for something, and waits for what is said, which may be an error.
    ///
    /// # Errors
    /// Nothing is said.
    pub fn ask(&mut self, request: &Value) -> Result<Answer> {
        self.to
            .write_all(format!("{request}\n").as_bytes())
            .context("the holder is gone")?;
        self.answer()
    }

    /// The request for a position of a later generation than those before.
    pub fn position(&mut self, settings: &[Setting], lease: Duration) -> Value {
        self.generation += 1;
        let settings: Vec<_> = settings
            .iter()
            .map(|one| {
                json!({ "scope": one.scope, "weight_permille": one.weight_permille, "cap_bps": one.cap_bps })
            })
            .collect();
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        json!({ "acquire": {
            "position": { "generation": self.generation, "decision": "test", "settings": settings },
            "lease_ms": lease_ms,
        } })
    }

    /// Acquires a position.
    ///
    /// # Errors
    /// It is refused.
    pub fn acquire(&mut self, settings: &[Setting], lease: Duration) -> Result<Answer> {
        let request = self.position(settings, lease);
        self.done(&request)
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// It is refused.
    pub fn renew(&mut self, lease: Duration) -> Result<Answer> {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        self.done(&json!({ "renew": { "lease_ms": lease_ms } }))
    }

    /// Back to neutral.
    ///
    /// # Errors
    /// It is refused.
    pub fn release(&mut self) -> Result<Answer> {
        self.done(&json!("release"))
    }

    /// What has been counted.
    ///
    /// # Errors
    /// It is refused.
    pub fn counts(&mut self) -> Result<Answer> {
        self.done(&json!("counts"))
    }

    /// What the rule of all clients of the only port has counted; zeros, if there was none.
    ///
    /// # Errors
    /// It is refused.
    pub fn of_all(&mut self) -> Result<Rule> {
        let rules = self.counts()?.rules;
        let mut of_all = rules.into_iter().filter(|rule| rule.prefix.is_none());
        Ok(of_all.next().unwrap_or_default())
    }

    fn done(&mut self, request: &Value) -> Result<Answer> {
        let answer = self.ask(request)?;
        ensure!(answer.error.is_none(), "{request}: {answer:?}");
        Ok(answer)
    }
}

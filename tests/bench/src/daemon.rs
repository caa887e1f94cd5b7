//! A weir daemon as the bench needs it: in a cgroup, asked through its socket without a process
//! for each question.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use weir::query::client;
use weir_proto::v1;
use weir_tests::lab::netns::Netns;
use weir_tests::lab::process::Process;

use crate::group::Group;

/// Follows every session, whatever it costs: what it costs is what is measured.
pub(crate) const WITHOUT_BUDGET: &str = "budget_core_permille = 0\n";

/// Longer than any start takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `weir run`.
#[derive(Debug)]
pub(crate) struct Daemon {
    process: Process,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Daemon {
    /// Starts it with `config` and waits until it answers.
    pub(crate) fn start(
        binary: &Path,
        dir: &Path,
        group: Option<&Group>,
        config: &str,
    ) -> Result<Self> {
        let mut daemon = Self::spawn(binary, dir, group, config)?;
        daemon.wait("weir to answer", |_| true)?;
        Ok(daemon)
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(
        binary: &Path,
        dir: &Path,
        group: Option<&Group>,
        config: &str,
    ) -> Result<Self> {
        let mut command = Command::new(binary);
        if let Some(group) = group {
            group.enter(&mut command)?;
        }
        Self::run(command, dir, None, config)
    }

    /// Starts it in `netns`, and waits until it answers.
    pub(crate) fn start_in(netns: &Netns, binary: &Path, dir: &Path, config: &str) -> Result<Self> {
        let mut daemon = Self::run(Command::new(binary), dir, Some(netns), config)?;
        daemon.wait("weir to answer", |_| true)?;
        Ok(daemon)
    }

    fn run(mut command: Command, dir: &Path, netns: Option<&Netns>, config: &str) -> Result<Self> {
        let path = dir.join("weir.toml");
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let socket = dir.join("weir.sock");
        command.arg("run").arg("--config").arg(&path);
        command.arg("--socket").arg(&socket);
        Ok(Self {
            process: Process::spawn(command, netns, &dir.join("weir.log"))?,
            socket,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting a runtime")?,
        })
    }

    /// Asks until the answer is as wanted.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        wanted: impl Fn(&v1::Status) -> bool,
    ) -> Result<v1::Status> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(status) = self.status()
                && wanted(&status)
            {
                return Ok(status);
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("weir ended ({status}):\n{}", self.process.log_tail());
            }
            if Instant::now() > end {
                bail!("waited in vain for {what}:\n{}", self.process.log_tail());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> Result<v1::Status> {
        self.runtime.block_on(async {
            let mut client = client::local(&self.socket).await?;
            let answer = client.get_status(v1::GetStatusRequest {}).await?;
            Ok(answer.into_inner())
        })
    }

    /// Gives an order, as `weir steer` does; its id.
    pub(crate) fn order(&self, order: v1::OrderRequest) -> Result<String> {
        self.runtime.block_on(async {
            let mut client = client::local(&self.socket).await?;
            let taken = client.order(order).await?.into_inner();
            if !taken.waits.is_empty() {
                bail!("an order waits: {}", taken.waits);
            }
            Ok(taken.id)
        })
    }

    /// Whether its gates hold what was decided last, and the host has that share: in thousandths.
    pub(crate) fn holds(&self, permille: u32) -> Result<bool> {
        let steering = self.runtime.block_on(async {
            let mut client = client::local(&self.socket).await?;
            let request = v1::GetSteeringRequest {};
            anyhow::Ok(client.get_steering(request).await?.into_inner())
        })?;
        let of_host = steering.settings.iter().find(|own| own.scope == "host");
        let held = of_host.map_or(1000, |own| own.weight_permille);
        let generation = steering.generation;
        let mut gates = steering.gates.iter();
        let hold = gates.all(|gate| gate.generation == generation && gate.error.is_empty());
        Ok(held == permille && hold)
    }

    /// The end of its log, for whoever has to say what went wrong.
    pub(crate) fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it as nothing that it could hear of does.
    pub(crate) fn kill(&self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)
    }

    /// Ends it; an error if it did not end well.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = self.process.stop(Signal::SIGTERM)?;
        if !status.success() {
            bail!("weir ended with {status}:\n{}", self.process.log_tail());
        }
        Ok(())
    }

    /// What the kernel says of each of its descriptors.
    fn descriptors(&self) -> Result<Vec<String>> {
        let dir = PathBuf::from(format!("/proc/{}/fdinfo", self.process.id()));
        let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
        let mut texts = Vec::new();
        for entry in entries {
            // A descriptor may be closed meanwhile.
            texts.extend(fs::read_to_string(entry?.path()).ok());
        }
        Ok(texts)
    }

    /// Its programs' ids, or its maps' (`prog_id`, `map_id`), from what its descriptors say.
    pub(crate) fn ids(&self, of: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for text in self.descriptors()? {
            // Links name their program too.
            let is_link = field::<u32>(&text, "link_id").is_some();
            if let Some(id) = field(&text, of)
                && !is_link
                && !ids.contains(&id)
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// What its maps and programs take in the kernel, by their descriptors.
    pub(crate) fn loaded_bytes(&self) -> Result<u64> {
        let mut seen = Vec::new();
        let mut bytes = 0;
        for text in self.descriptors()? {
            let id: (Option<u32>, Option<u32>) = (field(&text, "map_id"), field(&text, "prog_id"));
            if let Some(memory) = field::<u64>(&text, "memlock")
                && id != (None, None)
                && !seen.contains(&id)
            {
                seen.push(id);
                bytes += memory;
            }
        }
        Ok(bytes)
    }

    /// Processor time of its threads of this name, in nanoseconds.
    pub(crate) fn thread_ns(&self, name: &str) -> Result<u64> {
        let dir = PathBuf::from(format!("/proc/{}/task", self.process.id()));
        let tasks = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
        let mut ns = 0;
        for task in tasks {
            let path = task?.path();
            // A thread may end meanwhile.
            let named = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let stat = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            if named.trim_end() == name
                && let Some(ran) = stat
                    .split(' ')
                    .next()
                    .and_then(|ran| ran.parse::<u64>().ok())
            {
                ns += ran;
            }
        }
        Ok(ns)
    }

    /// Memory of its own that is in use.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        crate::machine::kilobytes(&text, "RssAnon:").map(|kb| kb * 1024)
    }
}

/// A number by its name in what is said of a descriptor.
fn field<T: std::str::FromStr>(text: &str, wanted: &str) -> Option<T> {
    let (_, value) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == wanted)?;
    value.trim().parse().ok()
}

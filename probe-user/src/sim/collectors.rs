//! The collectors that the fleet is played against: those that are there, or some started for it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use weir_proto::v1::{CollectorStatus, ListCellsRequest, ListHostsRequest};

use super::totals::Totals;
use crate::query::client;
use crate::tls::Files;

/// How collectors are started.
#[derive(Clone, Debug)]
pub struct Start {
    /// How many.
    pub collectors: u32,
    /// The NATS server behind them; none: each is alone.
    pub nats: Option<String>,
}

/// What the streams of a run may hold: they are followed at once, and deleted at its end.
const STREAM_BYTES: u64 = 1 << 30;
const COLD_STREAM_BYTES: u64 = 64 << 20;
/// For as long as a collector may lag behind.
const STREAM_KEEP_S: u32 = 120;
/// In case that nobody deletes them.
const KEEP_BOOTS_S: u32 = 86_400;
/// The server has so long to delete them.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// A collector that was started for this.
#[derive(Debug)]
struct Started {
    process: Child,
    url: String,
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.process.id()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let _ = self.process.wait();
    }
}

/// All of them.
#[derive(Debug)]
pub struct Collectors {
    there: Vec<String>,
    started: Vec<Started>,
    /// Where the configuration of those is.
    _directory: Option<Directory>,
    /// The NATS server, and what the streams' names begin with.
    nats: Option<(String, String)>,
}

/// What one collector says of itself, and what its process has taken by now.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) status: CollectorStatus,
    /// None: it is not a process that was started here.
    pub(super) cpu_s: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
}

#[derive(Debug)]
struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Collectors {
    /// Those that are there.
    pub fn at(urls: Vec<String>) -> Self {
        Self {
            there: urls,
            started: Vec::new(),
            _directory: None,
            nats: None,
        }
    }

    /// Starts some from this binary, on loopback in plain text; they end with this value.
    pub fn start(start: &Start) -> Result<Self> {
        let program = std::env::current_exe().context("cannot tell which program this is")?;
        let name = format!("weir-fleet-sim-{}", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&directory.0).context("cannot make a directory")?;
        let mut config = "listen = \"127.0.0.1:0\"\nplain_text = true\n".to_owned();
        let prefix = format!("weirsim{}", std::process::id());
        let nats = start.nats.clone().map(|url| (url, prefix));
        if let Some((url, prefix)) = &nats {
            let _ = write!(
                config,
                "[nats]\nurls = [{url:?}]\nprefix = {prefix:?}\nmax_bytes = {STREAM_BYTES}\n\
                 cold_max_bytes = {COLD_STREAM_BYTES}\nkeep_s = {STREAM_KEEP_S}\n\
                 keep_boots_s = {KEEP_BOOTS_S}\n"
            );
        }
        let file = directory.0.join("collect.toml");
        std::fs::write(&file, config).context("cannot write the collectors' configuration")?;
        let started = (1..=start.collectors)
            .map(|n| Started::start(&program, &file, &format!("collector-{n}")))
            .collect::<Result<_>>()?;
        Ok(Self {
            there: Vec::new(),
            started,
            _directory: Some(directory),
            nats,
        })
    }

    /// Ends those that were started, and deletes their streams.
    pub async fn end(self) -> Result<()> {
        let nats = self.nats.clone();
        // Waits for their processes.
        tokio::task::spawn_blocking(move || drop(self)).await?;
        let Some((url, prefix)) = nats else {
            return Ok(());
        };
        let deleted = tokio::time::timeout(DELETE_TIMEOUT, delete_streams(&url, &prefix)).await;
        deleted
            .map_err(anyhow::Error::from)
            .and_then(|deleted| deleted)
            .with_context(|| {
                format!(
                    "the streams that begin with {} stay at {url}",
                    prefix.to_uppercase()
                )
            })
    }

    pub(super) fn urls(&self) -> Vec<String> {
        let started = self.started.iter().map(|started| started.url.clone());
        self.there.iter().cloned().chain(started).collect()
    }

    /// Asks each.
    pub(super) async fn look(&self, files: Option<Files>) -> Result<Vec<Look>> {
        let processes = self
            .started
            .iter()
            .map(|started| Some(started.process.id()));
        let none = std::iter::repeat_n(None, self.there.len());
        let mut looks = Vec::new();
        for (url, process) in self.urls().iter().zip(none.chain(processes)) {
            let mut fleet = client::fleet(url, files.clone()).await?;
            let answer = fleet.list_hosts(ListHostsRequest {}).await;
            let hosts = answer
                .with_context(|| format!("cannot ask {url}"))?
                .into_inner();
            let of = |what: fn(u32) -> Result<u64>| process.map(what).transpose();
            looks.push(Look {
                at: Instant::now(),
                status: hosts.collector.unwrap_or_default(),
                cpu_s: process.map(cpu_s).transpose()?,
                resident_bytes: of(resident_bytes)?,
            });
        }
        Ok(looks)
    }

    /// Whether the collectors know what was sent, to the unit. None: they knew others before.
    pub(super) async fn hold_to(
        &self,
        truth: &Totals,
        files: Option<Files>,
    ) -> Result<Option<bool>> {
        if self.started.is_empty() {
            return Ok(None);
        }
        let mut sum = Totals::default();
        let mut is_same = true;
        for url in self.urls() {
            // Behind an engine, what others took comes a moment later.
            let mut found = Totals::default();
            for _ in 0..50 {
                let mut fleet = client::fleet(&url, files.clone()).await?;
                let request = ListCellsRequest {
                    filter: None,
                    histograms: true,
                };
                let cells = fleet.list_cells(request).await?.into_inner().cells;
                found = Totals::of(&cells);
                if self.nats.is_none() || found == *truth {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            is_same &= found == *truth;
            sum.add(&found);
        }
        Ok(Some(if self.nats.is_some() {
            is_same
        } else {
            sum == *truth
        }))
    }
}

/// A stream that is not there needs no deleting.
async fn delete_streams(url: &str, prefix: &str) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let context = async_nats::jetstream::new(client);
    let mut names = context.stream_names();
    let mut ours = Vec::new();
    let begin = prefix.to_uppercase();
    while let Some(name) = names.try_next().await? {
        let is_ours = name == begin || name.starts_with(&format!("{begin}_"));
        ours.extend(is_ours.then_some(name));
    }
    // Those that are made of others first.
    ours.sort_unstable_by(|one, other| other.cmp(one));
    for name in ours {
        context.delete_stream(name).await?;
    }
    Ok(())
}

impl Started {
    fn start(program: &Path, config: &Path, name: &str) -> Result<Self> {
        let mut process = Command::new(program)
            .args(["collect", "--name", name, "--config"])
            .arg(config)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a collector")?;
        let Some(log) = process.stderr.take() else {
            bail!("the collector has no log");
        };
        let mut started = Self {
            process,
            url: String::new(),
        };
        let mut lines = BufReader::new(log).lines();
        let mut said = Vec::new();
        for line in lines.by_ref() {
            let line = line.context("cannot read the collector's log")?;
            let address = line
                .split_once("collecting address=")
                .and_then(|(_, rest)| rest.split_whitespace().next());
            if let Some(address) = address {
                started.url = format!("http://{address}");
                break;
            }
            said.push(line);
        }
        if started.url.is_empty() {
            bail!("the collector did not start:\n{}", said.join("\n"));
        }
        // Its log must not fill the pipe: connections alone are two lines each.
        std::thread::spawn(move || for _ in lines.map_while(Result::ok) {});
        Ok(started)
    }
}

/// What a process has taken of the processors.
fn cpu_s(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))
        .context("a collector has ended")?;
    // Its name, in brackets, may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = (ticks(11), ticks(12));
    let per_s = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    match (user, system) {
        (Some(user), Some(system)) => Ok((user + system) / per_s),
        _ => bail!("/proc/{process}/stat is not as expected"),
    }
}

fn resident_bytes(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))
        .context("a collector has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("/proc has no VmRSS")? * 1024)
}

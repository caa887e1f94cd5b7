//! The `weir` binary as an operator uses it: started, asked, read as JSON, stopped.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::lab::netns::Netns;
use crate::lab::process::{Process, output, wait_for};
use crate::record::{Cell, Delivery, Diagnosis, Host, Session, Status};

/// Finds the binary: `given`, else the environment's `WEIR_BIN`.
///
/// # Errors
/// Neither names a file.
pub fn binary(given: Option<&Path>) -> Result<PathBuf> {
    let path = given
        .map(Path::to_owned)
        .or_else(|| std::env::var_os("WEIR_BIN").map(PathBuf::from))
        .context("which weir? give --weir PATH or set WEIR_BIN (`cargo xtask` does)")?;
    if !path.is_file() {
        bail!(
            "there is no weir at {}: build it with `cargo xtask build`",
            path.display()
        );
    }
    path.canonicalize()
        .with_context(|| format!("cannot resolve {}", path.display()))
}

/// `weir doctor`, whatever it finds.
///
/// # Errors
/// It cannot be run or prints no diagnosis.
pub fn doctor(binary: &Path) -> Result<Diagnosis> {
    let out = Command::new(binary)
        .args(["doctor", "-o", "json"])
        .stdin(Stdio::null())
        .output()
        .context("cannot run weir doctor")?;
    parse(String::from_utf8_lossy(&out.stdout).trim()).with_context(|| {
        let words = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        format!("weir doctor ended with {}: {words}", out.status)
    })
}

/// What a daemon is started with; written out as its configuration file.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The way of measuring; none: weir chooses.
    pub backend: Option<&'static str>,
    /// Deadline of a delivery.
    pub deadline_ms: u32,
    /// Silence after which a delivery is over.
    pub quiet_gap_ms: u32,
    /// What the kernel programs may cost, in thousandths of a core; 0: any. Tests load their host
    /// and want every session.
    pub budget_core_permille: u32,
    /// Only these ports; empty: all.
    pub ports: Vec<u16>,
    /// Only these client prefixes; empty: all.
    pub prefixes: Vec<String>,
    /// Room of the bulk ring.
    pub bulk_ring_bytes: u32,
    /// Where frames go.
    pub collector: Option<String>,
    /// Further keys before the first table, as they stand in the file.
    pub first: String,
    /// Further tables, as they stand in the file.
    pub more: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: None,
            deadline_ms: 4000,
            quiet_gap_ms: 1000,
            budget_core_permille: 0,
            ports: Vec::new(),
            prefixes: Vec::new(),
            bulk_ring_bytes: 8 << 20,
            collector: None,
            first: String::new(),
            more: String::new(),
        }
    }
}

impl Settings {
    fn toml(&self) -> String {
        let mut text = format!(
            "{}\ndeadline_ms = {}\nquiet_gap_ms = {}\nbudget_core_permille = {}\n\n[filter]\nports = {:?}\nprefixes = {:?}\n\n\
             [limits]\nbulk_ring_bytes = {}\nfollower_lag = 1048576\n",
            self.first,
            self.deadline_ms,
            self.quiet_gap_ms,
            self.budget_core_permille,
            self.ports,
            self.prefixes,
            self.bulk_ring_bytes
        );
        if let Some(backend) = self.backend {
            text = format!("backend = {backend:?}\n{text}");
        }
        if let Some(url) = &self.collector {
            let _ = write!(
                text,
                "\n[collector]\nurl = {url:?}\nplain_text = true\ninterval_ms = 250\n"
            );
        }
        let _ = write!(text, "\n{}", self.more);
        text
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    process: Process,
}

impl Daemon {
    /// Starts `weir run` on the host, outside every namespace, with its files in `dir`, and waits
    /// until it answers.
    ///
    /// # Errors
    /// It does not start; the message has its log.
    pub fn start(binary: &Path, dir: &Path, settings: &Settings) -> Result<Self> {
        make(dir)?;
        Self::start_by(Command::new(binary), None, &[], binary, dir, settings)
    }

    /// Starts `weir run ARGS` inside a namespace as a user without privilege but for `capabilities`
    /// (as setpriv(1) names them), and waits until
    /// it answers.
    ///
    /// # Errors
    /// It does not start; the message has its log.
    pub fn start_unprivileged(
        binary: &Path,
        dir: &Path,
        settings: &Settings,
        netns: &Netns,
        capabilities: &[&str],
        args: &[&str],
    ) -> Result<Self> {
        const NOBODY: u32 = 65_534;
        make(dir)?;
        // The build's directory need not be open to everyone. Copied by another process: one that
        // this one forks meanwhile would hold the copy open for writing, and it could not be run.
        let copy = dir.join("weir");
        let path = |path: &Path| path.display().to_string();
        output("cp", &[&path(binary), &path(&copy)])?;
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY))
            .with_context(|| format!("cannot give {} away", dir.display()))?;
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &NOBODY.to_string(),
            "--regid",
            &NOBODY.to_string(),
        ]);
        let mut held = "-all".to_owned();
        for capability in capabilities {
            held.push_str(",+");
            held.push_str(capability);
        }
        command.arg("--clear-groups");
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.args([set, &held]);
        }
        command.arg(&copy);
        Self::start_by(command, Some(netns), args, binary, dir, settings)
    }

    fn start_by(
        mut command: Command,
        netns: Option<&Netns>,
        args: &[&str],
        binary: &Path,
        dir: &Path,
        settings: &Settings,
    ) -> Result<Self> {
        let config = dir.join("weir.toml");
        write(&config, &settings.toml())?;
        let socket = dir.join("weir.sock");
        command
            .arg("run")
            .args(args)
            .arg("--config")
            .arg(&config)
            .arg("--socket")
            .arg(&socket);
        let process = Process::spawn(command, netns, &dir.join("weir.log"))?;
        let mut daemon = Self {
            binary: binary.to_owned(),
            config,
            socket,
            process,
        };
        wait_for("weir to answer", Duration::from_secs(30), || {
            if let Some(status) = daemon.process.try_wait()? {
                bail!(
                    "weir ended at once ({status}):\n{}",
                    daemon.process.log_tail()
                );
            }
            Ok(daemon.status().is_ok())
        })
        .with_context(|| daemon.process.log_tail())?;
        Ok(daemon)
    }

    /// The daemon's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where it answers.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .args(["-o", "json", "--socket"])
            .arg(&self.socket);
        command
    }

    /// Makes the command of a listing as often as it is wanted, without the daemon at hand.
    pub fn asker(&self, args: &'static [&'static str]) -> impl Fn() -> Command + Send + 'static {
        let (binary, socket) = (self.binary.clone(), self.socket.clone());
        move || {
            let mut command = Command::new(&binary);
            command
                .args(args)
                .args(["-o", "json", "--socket"])
                .arg(&socket);
            command
        }
    }

    fn list<T: DeserializeOwned>(&self, args: &[&str]) -> Result<Vec<T>> {
        lines(&mut self.command(args))
    }

    /// `weir status`.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status(&self) -> Result<Status> {
        self.list(&["status"])?
            .pop()
            .context("weir status printed nothing")
    }

    /// `weir sessions`.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        self.list(&["sessions"])
    }

    /// `weir cells`.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn cells(&self) -> Result<Vec<Cell>> {
        self.list(&["cells"])
    }

    /// `weir deliveries --follow`, from now on.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn follow(&self) -> Result<Follower> {
        Follower::start(self.command(&["deliveries", "--follow"]))
    }

    /// Another listing with `--follow`, from now on.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn follow_lines<T: DeserializeOwned + Clone + Send + 'static>(
        &self,
        args: &[&str],
    ) -> Result<Follower<T>> {
        Follower::start(self.command(args))
    }

    /// Notes every session from now on; the daemon itself forgets ended ones after a while.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn note_sessions(&self) -> Result<SessionLog> {
        SessionLog::start(|| self.command(&["sessions"]))
    }

    /// Writes new settings and sends SIGHUP; waits until they are in force.
    ///
    /// # Errors
    /// They are refused or not taken up.
    pub fn reload(&self, settings: &Settings) -> Result<()> {
        let before = self.status()?.config_generation;
        write(&self.config, &settings.toml())?;
        self.process.signal(Signal::SIGHUP)?;
        wait_for("weir to reload", Duration::from_secs(5), || {
            Ok(self.status()?.config_generation > before)
        })
        .with_context(|| self.process.log_tail())
    }

    /// SIGTERM; waits for the end.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop(Signal::SIGTERM)
    }
}

fn make(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Runs a listing and reads its JSON lines.
fn lines<T: DeserializeOwned>(command: &mut Command) -> Result<Vec<T>> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .context("cannot run weir")?;
    if !out.status.success() {
        bail!(
            "weir failed ({}): {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(parse)
        .collect()
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T> {
    serde_json::from_str(line).with_context(|| format!("weir printed what is not its JSON: {line}"))
}

/// A running `weir collect`.
#[derive(Debug)]
pub struct Collector {
    binary: PathBuf,
    address: String,
    process: Process,
}

impl Collector {
    /// Starts a collector on `address` and waits until it answers.
    ///
    /// # Errors
    /// It does not start; the message has its log.
    pub fn start(binary: &Path, dir: &Path, address: &str) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut command = Command::new(binary);
        command.args(["collect", "--plain-text", "--listen", address]);
        let process = Process::spawn(command, None, &dir.join("collect.log"))?;
        let mut collector = Self {
            binary: binary.to_owned(),
            address: address.to_owned(),
            process,
        };
        wait_for("the collector to answer", Duration::from_secs(10), || {
            if let Some(status) = collector.process.try_wait()? {
                bail!(
                    "weir collect ended at once ({status}):\n{}",
                    collector.process.log_tail()
                );
            }
            Ok(collector.cells().is_ok())
        })?;
        Ok(collector)
    }

    /// The same on an address of loopback that nobody has.
    ///
    /// # Errors
    /// It does not start.
    pub fn anywhere(binary: &Path, dir: &Path) -> Result<Self> {
        let free = TcpListener::bind("127.0.0.1:0")?;
        let address = free.local_addr()?.to_string();
        drop(free);
        Self::start(binary, dir, &address)
    }

    /// What a daemon is given to reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `weir cells --collector URL`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn cells(&self) -> Result<Vec<Cell>> {
        let mut command = Command::new(&self.binary);
        command.args(["cells", "-o", "json", "--collector", &self.url()]);
        lines(&mut command)
    }

    /// `weir hosts --collector URL`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        let mut command = Command::new(&self.binary);
        command.args(["hosts", "-o", "json", "--collector", &self.url()]);
        lines(&mut command)
    }

    /// The collector's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A listing with `--follow`, being read.
#[derive(Debug)]
pub struct Follower<T = Delivery> {
    process: Process,
    seen: Arc<Mutex<Vec<T>>>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl<T: DeserializeOwned + Clone + Send + 'static> Follower<T> {
    fn start(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut process = Process::start(command, None)?;
        let pipe = process
            .child_mut()
            .stdout
            .take()
            .context("no pipe from weir")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reader = {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines() {
                    let one = parse(&line.context("cannot read what weir prints")?)?;
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(one);
                }
                Ok(())
            })
        };
        Ok(Self {
            process,
            seen,
            reader: Some(reader),
        })
    }

    /// What has come so far and `keep` lets through, in the order it came.
    pub fn seen(&self, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|one| keep(one)).cloned().collect()
    }

    /// Ends the following.
    ///
    /// # Errors
    /// A line could not be read.
    pub fn finish(mut self) -> Result<()> {
        self.process.stop(Signal::SIGTERM)?;
        self.reader.take().map_or(Ok(()), crate::lab::netns::join)
    }
}

/// `weir sessions` again and again: the latest that was said of each session.
#[derive(Debug)]
pub struct SessionLog {
    latest: Arc<Mutex<HashMap<u64, Session>>>,
    /// Dropping it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl SessionLog {
    /// Shorter than the daemon remembers ended sessions, by far.
    const INTERVAL: Duration = Duration::from_millis(700);

    fn start(command: impl Fn() -> Command) -> Result<Self> {
        let latest = Arc::new(Mutex::new(HashMap::new()));
        let (stop, stopped) = mpsc::channel();
        let mut ask = command();
        let to = Arc::clone(&latest);
        let thread = std::thread::Builder::new()
            .name("lab-sessions".into())
            .spawn(move || {
                loop {
                    let sessions: Vec<Session> = lines(&mut ask)?;
                    let mut latest = to.lock().unwrap_or_else(PoisonError::into_inner);
                    latest.extend(
                        sessions
                            .into_iter()
                            .map(|session| (session.session, session)),
                    );
                    drop(latest);
                    if stopped.recv_timeout(Self::INTERVAL) != Err(RecvTimeoutError::Timeout) {
                        return Ok(());
                    }
                }
            })
            .context("cannot start a thread")?;
        Ok(Self {
            latest,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The latest of each session in the namespace that was established since a time.
    ///
    /// # Errors
    /// The daemon has stopped answering.
    pub fn of(&self, netns: u32, since_unix_ns: u64) -> Result<Vec<Session>> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            bail!("weir stopped telling of its sessions");
        }
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(latest
            .values()
            .filter(|session| {
                session.endpoints.is_in(netns) && session.established_unix_ns >= since_unix_ns
            })
            .cloned()
            .collect())
    }

    /// Ends the noting.
    ///
    /// # Errors
    /// The daemon did not answer at some time.
    pub fn finish(mut self) -> Result<()> {
        self.stop.take();
        self.thread.take().map_or(Ok(()), crate::lab::netns::join)
    }
}

//! One gate of each kind, and how to see when it has turned: each is asked, or says so itself, in the
//! way that delays least.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::stat::Mode;
use weir_tests::gate::crowd::{self, Call};
use weir_tests::gate::teller::{Teller, Then};
use weir_tests::lab::link::{Lab, SERVER_V4};
use weir_tests::lab::netns::{Netns, join};

use crate::latency::monotonic_ns;

/// What has not turned by then does not turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions; with the question itself it is what is not known of when it turned.
const PAUSE: Duration = Duration::from_micros(100);
/// Where HAProxy would ask, in a network namespace of its own.
const AGENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9777);
/// Where clients call, and where they are turned to.
const PORT: u16 = 8090;
const OTHER: u16 = 8091;
const USUAL_NAME: u8 = b'u';
const TURNED_NAME: u8 = b't';
/// Passes on the notice at its standard input to the pipe that it is given.
const SHELL: [&str; 3] = [
    "/bin/sh",
    "-c",
    r#"read -r notice; printf '%s\n' "$notice" > "$0""#,
];
/// Clients that are tried until one is turned.
const CLIENTS: u32 = 4000;
const CANDIDATES: usize = 8;

/// What a gate turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Agent,
    Hook,
    Kernel,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Agent, Self::Hook, Self::Kernel];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agent => "HAProxy's agent",
            Self::Hook => "a command",
            Self::Kernel => "the kernel's",
        }
    }

    /// What is seen of it.
    pub(super) fn effect(self) -> &'static str {
        match self {
            Self::Agent => "HAProxy's agent answers so",
            Self::Hook => "the command runs",
            Self::Kernel => "a connection is turned",
        }
    }
}

/// What it is to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Turned, however much.
    Turned,
    Neutral,
    Percent(u32),
}

impl Goal {
    fn is_met_by(self, percent: u32) -> bool {
        match self {
            Self::Turned => percent < 100,
            Self::Neutral => percent == 100,
            Self::Percent(wanted) => percent == wanted,
        }
    }

    /// Whether the client that is watched is turned then: see [`Actuator::choose_client`].
    fn turns_client(self) -> bool {
        match self {
            Self::Turned => true,
            Self::Neutral => false,
            Self::Percent(wanted) => wanted <= super::TURNED_PERCENT,
        }
    }
}

/// A gate that somebody watches.
pub(super) struct Actuator {
    kind: Kind,
    server: Netns,
    client: Netns,
    hook: Option<Hook>,
    /// Who is turned by the kernel.
    caller: IpAddr,
    _tellers: Vec<Teller>,
}

/// Somebody waits for it to turn.
pub(super) enum Watching {
    /// By asking.
    Asking(JoinHandle<Result<u64>>),
    /// It says so.
    Told(Goal),
}

impl Actuator {
    /// What is behind a gate of this kind, in the lab's server's namespace.
    pub(super) fn new(kind: Kind, lab: &Lab) -> Result<Self> {
        let mut tellers = Vec::new();
        let mut hook = None;
        match kind {
            Kind::Agent => {}
            Kind::Hook => hook = Some(Hook::new(&lab.dir().join("hooked"))?),
            Kind::Kernel => {
                crowd::gather(lab)?;
                let usual = (Ipv6Addr::UNSPECIFIED, PORT).into();
                let other = (Ipv4Addr::LOCALHOST, OTHER).into();
                for (at, name) in [(usual, USUAL_NAME), (other, TURNED_NAME)] {
                    tellers.push(Teller::start(&lab.server, at, name, Then::Closes)?);
                }
            }
        }
        Ok(Self {
            kind,
            server: lab.server.try_clone()?,
            client: lab.client.try_clone()?,
            hook,
            caller: crowd::v4(1),
            _tellers: tellers,
        })
    }

    /// Its part of weir's configuration.
    pub(super) fn config(&self) -> String {
        match &self.hook {
            _ if self.kind == Kind::Agent => format!(
                "[[steer.gate]]\nname = \"agent\"\nkind = \"haproxy-agent\"\nlisten = \"{AGENT}\"\n\
                 linger_s = 1\n"
            ),
            Some(hook) => {
                let [shell, option, script] = SHELL.map(Path::new);
                let command = [shell, option, script, hook.pipe.as_path()];
                format!("[[steer.gate]]\nname = \"hook\"\nkind = \"hook\"\ncommand = {command:?}\n")
            }
            None => format!(
                "[[service]]\nname = \"turned\"\nports = [{PORT}]\n[[steer.gate]]\nname = \
                 \"kernel\"\nkind = \"kernel\"\nservices = [\"turned\"]\nother = \
                 [\"127.0.0.1:{OTHER}\"]\n"
            ),
        }
    }

    /// Some clients that the kernel turns as it stands now.
    pub(super) fn turned_clients(&self) -> Result<Vec<IpAddr>> {
        if self.kind != Kind::Kernel {
            return Ok(Vec::new());
        }
        self.client.run(|| {
            let mut turned = Vec::new();
            for n in 1..=CLIENTS {
                if call(crowd::v4(n))?.by == TURNED_NAME {
                    turned.push(crowd::v4(n));
                }
                if turned.len() >= CANDIDATES {
                    break;
                }
            }
            Ok(turned)
        })
    }

    /// Watches one that was turned then, and is not now.
    pub(super) fn choose_client(&mut self, turned: Vec<IpAddr>) -> Result<()> {
        if self.kind != Kind::Kernel {
            return Ok(());
        }
        let chosen = self.client.run(move || {
            for from in turned {
                if call(from)?.by == USUAL_NAME {
                    return Ok(from);
                }
            }
            bail!("of {CLIENTS} clients none is turned by one share and not by the other")
        })?;
        self.caller = chosen;
        Ok(())
    }

    /// Begins to wait for it to come to `goal`, where it does not stand yet.
    pub(super) fn watch(&self, goal: Goal) -> Result<Watching> {
        let (ready_to, ready) = mpsc::channel();
        let watching = match (self.kind, &self.hook) {
            (Kind::Agent, _) => self.server.spawn("bench-agent", move || {
                until(&ready_to, || {
                    Ok(agent()?.is_some_and(|percent| goal.is_met_by(percent)))
                })
            })?,
            (Kind::Hook, Some(hook)) => {
                // What it said of what was before.
                while hook.told.try_recv().is_ok() {}
                return Ok(Watching::Told(goal));
            }
            _ => {
                let caller = self.caller;
                self.client.spawn("bench-caller", move || {
                    until(&ready_to, || {
                        let is_turned = call(caller)?.by == TURNED_NAME;
                        Ok(is_turned == goal.turns_client())
                    })
                })?
            }
        };
        if ready.recv().is_err() {
            join(watching)?;
            bail!("it stood there before");
        }
        Ok(Watching::Asking(watching))
    }

    /// When it came there, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) fn seen(&self, watching: Watching) -> Result<u64> {
        match (watching, &self.hook) {
            (Watching::Asking(watching), _) => join(watching),
            (Watching::Told(goal), Some(hook)) => hook.until(goal),
            (Watching::Told(_), None) => bail!("nothing says so"),
        }
    }
}

/// Asks until the answer is yes; when that was. Says when it has been no once, and only then is ready.
fn until(ready: &Sender<()>, mut is_there: impl FnMut() -> Result<bool>) -> Result<u64> {
    let end = Instant::now() + PATIENCE;
    if is_there()? {
        bail!("it stood there before");
    }
    ready.send(()).context("nobody waits for it")?;
    while !is_there()? {
        if Instant::now() > end {
            bail!("it has not turned within {PATIENCE:?}");
        }
        std::thread::sleep(PAUSE);
    }
    monotonic_ns()
}

/// The percent that HAProxy would be told. None: who should have answered is gone.
fn agent() -> Result<Option<u32>> {
    let mut stream = TcpStream::connect(AGENT).context("the agent does not listen")?;
    let mut said = String::new();
    if stream.read_to_string(&mut said).is_err() || said.is_empty() {
        return Ok(None);
    }
    let percent = said
        .strip_prefix("up ")
        .and_then(|rest| rest.trim_end().strip_suffix('%'));
    let percent = percent.and_then(|percent| percent.parse().ok());
    let percent = percent.with_context(|| format!("the agent says {said:?}"))?;
    Ok(Some(percent))
}

fn call(from: IpAddr) -> Result<Call> {
    let (call, _) = crowd::call(from, (SERVER_V4, PORT).into())?;
    Ok(call)
}

/// What a command is told, in percent.
fn told_percent(notice: &str) -> Option<u32> {
    let notice: serde_json::Value = serde_json::from_str(notice).ok()?;
    let permille = notice["weight_permille"].as_u64()?;
    u32::try_from(permille.div_ceil(10)).ok()
}

/// A command's own word, through a pipe that has a name.
struct Hook {
    pipe: PathBuf,
    told: Receiver<(u64, u32)>,
}

impl Hook {
    fn new(pipe: &Path) -> Result<Self> {
        nix::unistd::mkfifo(pipe, Mode::S_IRUSR | Mode::S_IWUSR)
            .with_context(|| format!("cannot make {}", pipe.display()))?;
        // For both, so that it has no end while nobody writes.
        let both = File::options().read(true).write(true).open(pipe)?;
        let (to, told) = mpsc::channel();
        std::thread::Builder::new()
            .name("bench-hook".into())
            .spawn(move || {
                for line in BufReader::new(both).lines().map_while(Result::ok) {
                    let at = monotonic_ns();
                    let percent = told_percent(&line);
                    if at
                        .ok()
                        .zip(percent)
                        .is_none_or(|word| to.send(word).is_err())
                    {
                        return;
                    }
                }
            })
            .context("cannot start a thread")?;
        Ok(Self {
            pipe: pipe.to_owned(),
            told,
        })
    }

    fn until(&self, goal: Goal) -> Result<u64> {
        loop {
            let (at, percent) = self
                .told
                .recv_timeout(PATIENCE)
                .context("the command does not run")?;
            if goal.is_met_by(percent) {
                return Ok(at);
            }
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // Ends the thread that reads, which holds the pipe open for itself; if it has ended, nobody
        // listens, and that is not waited for.
        let mut options = File::options();
        let pipe = options.write(true).custom_flags(libc::O_NONBLOCK);
        if let Ok(mut pipe) = pipe.open(&self.pipe) {
            let _ = pipe.write_all(b"end\n");
        }
    }
}

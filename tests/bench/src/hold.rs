//! Sessions that are open and silent, over loopback: processes of their own that hold both ends.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use weir_tests::lab::netns::Netns;
use weir_tests::lab::process::Process;

/// Where they are accepted: by each process at a port of its own, from this one on.
const FIRST_PORT: u16 = 8100;
/// What one process holds: two files each, of which not every process may have more.
const PER_PROCESS: usize = 8_000;

/// What to hold.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Sessions
    #[arg(long)]
    sessions: usize,
    /// Where they are accepted
    #[arg(long)]
    port: u16,
}

/// The holding process: says when all are open, and holds them until its input ends.
pub(crate) fn run(args: Args) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("how many files may be open")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("asking for more open files")?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, args.port)).context("listening")?;
    let mut held = Vec::with_capacity(args.sessions * 2);
    for n in 0..args.sessions {
        held.push(open(args.port).with_context(|| format!("opening session {n}"))?);
        held.push(listener.accept().context("accepting")?.0);
    }
    let mut out = std::io::stdout();
    writeln!(out, "open")?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn open(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting")?;
    // At the end nothing is to wait out stray packets.
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    Ok(stream)
}

/// Sessions that are held open.
#[derive(Debug)]
pub(crate) struct Held {
    processes: Vec<Process>,
}

impl Held {
    /// Opens them in `netns`, and returns when all are open.
    pub(crate) fn open(sessions: usize, netns: &Netns) -> Result<Self> {
        let mut processes = Vec::new();
        let mut left = sessions;
        while left > 0 {
            let some = left.min(PER_PROCESS);
            let port = FIRST_PORT + u16::try_from(processes.len())?;
            processes.push(hold(some, port, netns)?);
            left -= some;
        }
        Ok(Self { processes })
    }

    /// Closes them.
    pub(crate) fn close(mut self) -> Result<()> {
        for process in &mut self.processes {
            drop(process.child_mut().stdin.take());
        }
        for process in &mut self.processes {
            process.wait(Duration::from_secs(60))?;
        }
        Ok(())
    }
}

fn hold(sessions: usize, port: u16, netns: &Netns) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    command.arg("hold");
    command.arg("--sessions").arg(sessions.to_string());
    command.arg("--port").arg(port.to_string());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut process = Process::start(command, Some(netns))?;
    let mut pipe = process.child_mut().stdout.take().context("no pipe")?;
    let mut said = [0; 5];
    if pipe.read_exact(&mut said).is_err() {
        bail!("{sessions} sessions could not be opened");
    }
    Ok(process)
}

//! An HAProxy in a directory of its own, its runtime socket, and what its statistics say.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::process::{Process, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);

/// The balancer. Its directory is the caller's.
#[derive(Debug)]
pub struct Haproxy {
    config: PathBuf,
    log: PathBuf,
    socket: PathBuf,
    process: Option<Process>,
}

/// What its statistics say of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As it is used now.
    pub weight: u32,
    /// `UP`, `DRAIN`, `MAINT`, ...
    pub status: String,
}

impl Haproxy {
    /// Starts one with these sections (`frontend`, `backend`, ...) in its configuration.
    ///
    /// # Errors
    /// It cannot be started (package `haproxy`) or does not answer in time.
    pub fn start(directory: &Path, sections: &str) -> Result<Self> {
        let socket = directory.join("haproxy.sock");
        let mut text = format!(
            "global\n  stats socket {} level admin mode 600\n  stats timeout 10s\ndefaults\n  mode \
             http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n",
            socket.display()
        );
        let _ = writeln!(text, "{sections}");
        let config = directory.join("haproxy.cfg");
        std::fs::write(&config, text).context("cannot write HAProxy's configuration")?;
        let mut haproxy = Self {
            config,
            log: directory.join("haproxy.log"),
            socket,
            process: None,
        };
        haproxy.resume()?;
        Ok(haproxy)
    }

    /// Where its runtime commands are heard.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it and starts it again, with what its configuration says.
    ///
    /// # Errors
    /// As for [`Haproxy::start`].
    pub fn restart(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::SIGTERM)?;
        }
        self.resume()
    }

    fn resume(&mut self) -> Result<()> {
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(&self.config);
        let mut process = Process::spawn(command, None, &self.log)
            .context("is haproxy there? `cargo xtask setup --for test` installs it")?;
        wait_for("HAProxy to answer", PATIENCE, || {
            if let Some(status) = process.try_wait()? {
                bail!("HAProxy has ended ({status}):\n{}", process.log_tail());
            }
            Ok(self.ask("show info").is_ok())
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// A runtime command and its answer.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ask(&self, command: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket).context("HAProxy's socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "{command}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// A server, as `backend/server` names it.
    ///
    /// # Errors
    /// It has none of that name.
    pub fn server(&self, name: &str) -> Result<Server> {
        let stat = self.ask("show stat")?;
        let mut lines = stat.lines();
        let columns: Vec<_> = lines
            .next()
            .context("no statistics")?
            .trim_start_matches("# ")
            .split(',')
            .collect();
        let column = |what: &str| {
            let found = columns.iter().position(|name| *name == what);
            found.with_context(|| format!("HAProxy's statistics have no {what}"))
        };
        let (weight, status) = (column("weight")?, column("status")?);
        let (backend, server) = name.split_once('/').context("BACKEND/SERVER")?;
        for line in lines {
            let fields: Vec<_> = line.split(',').collect();
            if fields.first() == Some(&backend) && fields.get(1) == Some(&server) {
                return Ok(Server {
                    weight: fields[weight].parse().context("a weight")?,
                    status: fields[status].to_owned(),
                });
            }
        }
        bail!("HAProxy has no server {name}")
    }
}

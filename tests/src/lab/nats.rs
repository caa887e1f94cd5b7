//! A NATS server (with its streams) in a directory of its own, which can be ended and started again.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::process::{Process, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);

/// A port that nothing listens on now.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// The server. Its directory is the caller's.
#[derive(Debug)]
pub struct Nats {
    config: PathBuf,
    log: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl Nats {
    /// Starts one on a free port, with its files in `directory`; `more` is put into its
    /// configuration.
    ///
    /// # Errors
    /// It cannot be started (package `nats-server`) or does not listen in time.
    pub fn start(directory: &Path, more: &str) -> Result<Self> {
        let port = free_port()?;
        let config = directory.join("nats.conf");
        let text = format!(
            "listen: 127.0.0.1:{port}\n{more}\njetstream {{\n  store_dir: \"{}\"\n}}\n",
            directory.join("jetstream").display()
        );
        std::fs::write(&config, text).context("cannot write the server's configuration")?;
        let mut nats = Self {
            config,
            log: directory.join("nats.log"),
            port,
            process: None,
        };
        nats.resume()?;
        Ok(nats)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends it as a failing machine would.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// Starts it again, with what it has on disk.
    ///
    /// # Errors
    /// It cannot be started or does not listen in time.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = Command::new("nats-server");
        command.arg("--config").arg(&self.config);
        let mut process = Process::spawn(command, None, &self.log)
            .context("is nats-server there? `cargo xtask setup --for test` installs it")?;
        wait_for("the NATS server to listen", PATIENCE, || {
            if let Some(status) = process.try_wait()? {
                bail!(
                    "the NATS server has ended ({status}):\n{}",
                    process.log_tail()
                );
            }
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok())
        })?;
        self.process = Some(process);
        Ok(())
    }
}

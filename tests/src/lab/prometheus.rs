//! A Prometheus server in a directory of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::nats::free_port;
use super::process::{Process, output, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// The server. Its directory is the caller's.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    _process: Process,
}

impl Prometheus {
    /// Starts one with native histograms and remote write, its files in `directory`, which asks
    /// `targets` (host and port, at `/metrics`) once a second.
    ///
    /// # Errors
    /// It cannot be started (package `prometheus`) or does not listen in time.
    pub fn start(directory: &Path, targets: &[String]) -> Result<Self> {
        let port = free_port()?;
        let config = directory.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: weir\n  \
             static_configs:\n  - targets: {targets:?}\n"
        );
        std::fs::write(&config, text).context("cannot write the server's configuration")?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args([
                "--web.enable-remote-write-receiver",
                "--enable-feature=native-histograms",
            ]);
        let mut process = Process::spawn(command, None, &directory.join("prometheus.log"))
            .context("is prometheus there? `cargo xtask setup --for test` installs it")?;
        let ready = format!("http://127.0.0.1:{port}/-/ready");
        wait_for("Prometheus to be ready", PATIENCE, || {
            if let Some(status) = process.try_wait()? {
                bail!("Prometheus has ended ({status}):\n{}", process.log_tail());
            }
            Ok(output("curl", &["-sf", &ready]).is_ok())
        })?;
        Ok(Self {
            port,
            _process: process,
        })
    }

    /// Where it takes remote writes.
    pub fn write_url(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1/write", self.port)
    }

    /// The value of an expression that gives one; none: it gives none now.
    ///
    /// # Errors
    /// It cannot be asked, or the expression gives several.
    pub fn value(&self, expression: &str) -> Result<Option<f64>> {
        let url = format!("http://127.0.0.1:{}/api/v1/query", self.port);
        let query = format!("query={expression}");
        let answer = output("curl", &["-sf", "--get", "--data-urlencode", &query, &url])?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        let result = answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        match &*result {
            [] => Ok(None),
            [one] => Ok(one["value"][1]
                .as_str()
                .and_then(|value| value.parse().ok())),
            more => bail!("{expression} gives {} values", more.len()),
        }
    }
}

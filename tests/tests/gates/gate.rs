//! A gate of each kind, what is behind it, and how to see where it stands.
#![allow(unreachable_pub, reason = "a part of a test crate")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use weir_tests::lab::haproxy::Haproxy;
use weir_tests::lab::nats::free_port;
use weir_tests::lab::nginx::preamble;
use weir_tests::lab::process::{Process, output, wait_for};
use weir_tests::watched::{PATIENCE, binary};

pub const LEASE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Agent,
    Socket,
    Hook,
    Webhook,
    File,
}

/// A gate, what is behind it, and how to see where it stands.
pub struct Gate {
    pub kind: Kind,
    directory: TempDir,
    pub haproxy: Option<Haproxy>,
    _nginx: Option<Process>,
}

impl Gate {
    pub fn new(kind: Kind) -> Result<Self> {
        Self::with(kind, "balance roundrobin", "")
    }

    /// `algorithm`: of HAProxy's; `more`: keys of the gate.
    pub fn with(kind: Kind, algorithm: &str, more: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let dir = directory.path();
        let (mut haproxy, mut nginx) = (None, None);
        let own = match kind {
            Kind::Agent => {
                let port = free_port()?;
                let agent =
                    format!("agent-check agent-addr 127.0.0.1 agent-port {port} agent-inter 100ms");
                haproxy = Some(Haproxy::start(dir, &backend(algorithm, &agent))?);
                format!("kind = 'haproxy-agent'\nlisten = '127.0.0.1:{port}'\nlinger_s = 1")
            }
            Kind::Socket => {
                let started = Haproxy::start(dir, &backend(algorithm, ""))?;
                let socket = started.socket().display().to_string();
                haproxy = Some(started);
                format!("kind = 'haproxy-socket'\nsocket = '{socket}'\nservers = ['live/e1']")
            }
            Kind::Hook => {
                let script = dir.join("turn");
                let (new, told) = (dir.join("new"), dir.join("told"));
                let (new, told) = (new.display(), told.display());
                let text =
                    format!("#!/bin/sh\ncat > {new}.$$ && mv {new}.$$ {told} && echo turned\n");
                std::fs::write(&script, text)?;
                std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
                format!("kind = 'hook'\ncommand = ['{}']", script.display())
            }
            Kind::Webhook => {
                let (started, url) = receiver(dir)?;
                nginx = Some(started);
                let (secret, ca) = (dir.join("secret"), dir.join("cert.pem"));
                std::fs::write(&secret, SECRET)?;
                std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))?;
                format!(
                    "kind = 'webhook'\nurl = '{url}'\nsecret_file = '{}'\nca_file = '{}'",
                    secret.display(),
                    ca.display()
                )
            }
            Kind::File => format!("kind = 'file'\nfile = '{}'", dir.join("told").display()),
        };
        let text = format!(
            "kill_switch = '{}'\n[[steer.gate]]\nname = 'g'\nlease_s = {}\n{own}\n{more}\n",
            dir.join("off").display(),
            LEASE.as_secs()
        );
        std::fs::write(dir.join("weir.toml"), text)?;
        Ok(Self {
            kind,
            directory,
            haproxy,
            _nginx: nginx,
        })
    }

    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    pub fn haproxy(&self) -> &Haproxy {
        self.haproxy.as_ref().expect("a gate of HAProxy")
    }

    /// Where it stands, as what is behind it says.
    pub fn percent(&self) -> Result<u64> {
        if self.haproxy.is_some() {
            return Ok(self.haproxy().server("live/e1")?.weight.into());
        }
        let told = match self.kind {
            Kind::Webhook => posted(self.dir())?.last().map(|last| last.1.clone()),
            _ => std::fs::read_to_string(self.dir().join("told")).ok(),
        };
        let Some(told) = told else { return Ok(100) };
        let told: serde_json::Value = serde_json::from_str(&told)?;
        let permille = told["weight_permille"].as_u64();
        Ok(permille.context("no weight")? / 10)
    }

    pub fn command(&self, permille: u32) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["try-gate", "g", "--for", "120s", "--config"])
            .arg(self.dir().join("weir.toml"))
            .args(["--weight-permille", &permille.to_string()]);
        command
    }

    /// Somebody who holds it there.
    pub fn hold(&self, percent: u64) -> Result<Process> {
        let permille = u32::try_from(percent)? * 10;
        let log = self.dir().join("holder.log");
        let mut holder = Process::spawn(self.command(permille), None, &log)?;
        wait_for(&format!("{:?} at {percent} %", self.kind), PATIENCE, || {
            if let Some(status) = holder.try_wait()? {
                bail!("the holder ended ({status}): {}", holder.log());
            }
            // Confirmed, and not only turned.
            Ok(self.percent()? == percent && holder.log().contains("permille"))
        })?;
        Ok(holder)
    }

    /// How long it is until it stands there.
    pub fn until(&self, percent: u64) -> Result<Duration> {
        let start = Instant::now();
        while self.percent()? != percent {
            if start.elapsed() > PATIENCE {
                bail!("{:?} stands at {} %", self.kind, self.percent()?);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(start.elapsed())
    }
}

pub const SECRET: &str = "a secret of this test, and of no other";

fn backend(algorithm: &str, agent: &str) -> String {
    format!(
        "backend live\n  {algorithm}\n  server e1 127.0.0.1:1 weight 100 {agent}\n  server e2 \
         127.0.0.1:2 weight 100\n  server small 127.0.0.1:3 {agent}\n"
    )
}

/// An nginx with TLS that writes down what it is posted.
fn receiver(dir: &Path) -> Result<(Process, String)> {
    certify_localhost(dir)?;
    let (tls, clear) = (free_port()?, free_port()?);
    let shown = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {shown}/{what};\n"))
        .concat();
    // A body is there for the log only where it is passed on.
    let text = format!(
        "{}http {{\n{temporary}
          log_format told escape=json '{{\"signature\":\"$http_weir_signature\",\"timestamp\":\"$http_weir_timestamp\",\"key\":\"$http_idempotency_key\",\"protocol\":\"$ssl_protocol\",\"body\":\"$request_body\"}}';
          server {{
            listen 127.0.0.1:{tls} ssl;
            ssl_certificate {shown}/cert.pem; ssl_certificate_key {shown}/key.pem;
            ssl_protocols TLSv1.2 TLSv1.3;
            access_log {shown}/told.log told;
            location / {{ client_body_in_single_buffer on; proxy_pass http://127.0.0.1:{clear}; }}
          }}
          server {{ listen 127.0.0.1:{clear}; access_log off; location / {{ return 200 taken; }} }}
        }}\n",
        preamble(dir)
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(&path);
    command.arg("-e").arg(dir.join("error.log"));
    let mut process = Process::spawn(command, None, &dir.join("nginx.log"))?;
    wait_for("nginx to listen", PATIENCE, || {
        if let Some(status) = process.try_wait()? {
            bail!("nginx has ended ({status}):\n{}", process.log_tail());
        }
        Ok(std::net::TcpStream::connect(("127.0.0.1", tls)).is_ok())
    })?;
    Ok((process, format!("https://localhost:{tls}/weir?host=edge")))
}

/// A certificate for the name by which it is called, which is believed because it is named itself.
fn certify_localhost(dir: &Path) -> Result<()> {
    let path = |name: &str| dir.join(name).display().to_string();
    output(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &path("key.pem"),
            "-out",
            &path("cert.pem"),
        ],
    )?;
    Ok(())
}

/// What was posted, first to last: nginx's line, and the body in it.
pub fn posted(dir: &Path) -> Result<Vec<(serde_json::Value, String)>> {
    let text = std::fs::read_to_string(dir.join("told.log")).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let body = line["body"].as_str().unwrap_or_default().to_owned();
        Ok((line, body))
    });
    lines.collect()
}

//! nginx as streaming servers run it: one instance with a listener for every way of answering.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::link::Lab;
use super::process::{Process, output, wait_for_listener};

/// HTTP/1.1 in clear, keep-alive, sendfile.
pub const CLEAR: u16 = 8080;
/// The same by read and write.
pub const COPY: u16 = 8081;
/// Every response closes: `/f/` with a length, `/s/` ended by the close (HTTP/1.0 clients).
pub const CLOSE: u16 = 8082;
/// One dual-stack socket: IPv4 clients are v4-mapped.
pub const MAPPED: u16 = 8083;
/// TLS 1.2 alone.
pub const TLS12: u16 = 8441;
/// TLS 1.3 alone.
pub const TLS13: u16 = 8442;
/// HTTP/2 over TLS.
pub const H2: u16 = 8443;

/// Sizes of the files under `/f/` and `/s/`, named by their size.
pub const SIZES: [usize; 8] = [
    500, 2_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 4_000_000,
];

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
}

impl Nginx {
    /// Starts nginx in the lab's server namespace with files of [`SIZES`].
    ///
    /// # Errors
    /// A file cannot be made or nginx does not start.
    pub fn start(lab: &Lab) -> Result<Self> {
        let dir = lab.dir().join("nginx");
        let root = dir.join("root");
        make_bodies(&root.join("f"))?;
        make_certificate(&dir)?;
        Self::with_config(lab, &dir, &config(&dir, &root), CLEAR)
    }

    /// Starts nginx with the same files in clear on `port` alone: for tests that read the whole
    /// host's totals and must not meet another lab's sessions in them.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn on_port(lab: &Lab, port: u16) -> Result<Self> {
        let dir = lab.dir().join("nginx");
        let root = dir.join("root");
        make_bodies(&root.join("f"))?;
        let config = format!(
            "{}http {{ access_log off; sendfile on; server {{ listen {port}; root {}; }} }}\n",
            preamble(&dir),
            root.display()
        );
        Self::with_config(lab, &dir, &config, port)
    }

    /// Starts nginx with `config`, which must log into `dir` and listen on `port`.
    ///
    /// # Errors
    /// nginx does not start.
    pub fn with_config(lab: &Lab, dir: &Path, config: &str, port: u16) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join("nginx.conf");
        std::fs::write(&path, config)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir).arg("-c").arg(&path);
        command.arg("-e").arg(dir.join("error.log"));
        let mut process = Process::spawn(command, Some(&lab.server), &dir.join("nginx.log"))?;
        wait_for_listener(&lab.server, port, &mut process)?;
        Ok(Self { process })
    }

    /// The master's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

fn make_bodies(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for size in SIZES {
        let path = dir.join(size.to_string());
        std::fs::write(&path, body(size))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Bytes that no compression or repetition check would mistake for another offset's.
pub fn body(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    std::iter::repeat_with(|| random.alphanumeric() as u8)
        .take(size)
        .collect()
}

/// Makes a self-signed certificate in `dir`; returns its path.
///
/// # Errors
/// openssl fails.
pub fn make_certificate(dir: &Path) -> Result<PathBuf> {
    let certificate = dir.join("cert.pem");
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
            "/CN=lab",
            "-keyout",
            &dir.join("key.pem").to_string_lossy(),
            "-out",
            &certificate.to_string_lossy(),
        ],
    )?;
    Ok(certificate)
}

/// The part of a configuration that is the same for every instance.
pub fn preamble(dir: &Path) -> String {
    format!(
        "user root;\ndaemon off;\nworker_processes 2;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n",
        dir = dir.display()
    )
}

fn config(dir: &Path, root: &Path) -> String {
    let mut config = preamble(dir);
    let _ = write!(
        config,
        "http {{\n  access_log off;\n  default_type application/octet-stream;\n  sendfile on;\n  \
         keepalive_timeout 60;\n  keepalive_requests 100000;\n  root {root};\n  \
         ssl_certificate {dir}/cert.pem;\n  ssl_certificate_key {dir}/key.pem;\n",
        root = root.display(),
        dir = dir.display(),
    );
    // sub_filter takes the length away, so the close is what ends an HTTP/1.0 response.
    let close = "keepalive_timeout 0; location /s/ { alias ROOT/f/; sub_filter_types *; sub_filter '\\n\\n\\n' ''; }"
        .replace("ROOT", &root.to_string_lossy());
    for (port, options, body) in [
        (CLEAR, "", ""),
        (COPY, "", "sendfile off;"),
        (CLOSE, "", close.as_str()),
        (TLS12, " ssl", "ssl_protocols TLSv1.2;"),
        (TLS13, " ssl", "ssl_protocols TLSv1.3;"),
        (H2, " ssl http2", "ssl_protocols TLSv1.2 TLSv1.3;"),
    ] {
        let _ = writeln!(
            config,
            "  server {{ listen {port}{options}; listen [::]:{port}{options} ipv6only=on; {body} }}"
        );
    }
    let _ = writeln!(
        config,
        "  server {{ listen [::]:{MAPPED} ipv6only=off; }}\n}}"
    );
    config
}

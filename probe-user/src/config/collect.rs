//! The collector's configuration: every key, its default, and the checks between keys.
//!
//! `deploy/weir-collect.toml` documents each key with its why and is tested to equal
//! [`Config::default`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tonic::transport::Uri;

use super::check::{Problem, Problems as Checks, is_loopback};
pub use super::collect_steer::{Steer, SteerPool};
use super::table::{Problems, Source, Table};
use super::{Error, value};
use crate::tls;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where hosts report and operators ask.
    pub listen: SocketAddr,
    /// Certificates of the authority that issued hosts' and operators'.
    pub ca_file: Option<PathBuf>,
    /// The collector's certificate.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
    /// Names in certificates of those who may ask.
    pub operators: Vec<String>,
    /// Whether plain text is taken, from this host.
    pub plain_text: bool,
    /// What the collector calls itself; none: the host's name.
    pub name: Option<String>,
    /// What is bounded, and where.
    pub limits: Limits,
    /// What is kept of the last minutes.
    pub minutes: Minutes,
    /// Where Prometheus asks.
    pub metrics: Metrics,
    /// The engine behind; none: the collector works alone.
    pub nats: Option<Nats>,
    /// Where metrics are pushed by OTLP.
    pub otlp: Option<Push>,
    /// Where metrics are pushed by Prometheus' remote write.
    pub remote_write: Option<Push>,
    /// Where events are written.
    pub files: Option<Files>,
    /// What the centre orders, and who may order it.
    pub steer: Steer,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hosts.
    pub max_hosts: u32,
    /// Cells of all boots of all hosts together.
    pub max_cells: u32,
}

/// `[minutes]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minutes {
    /// Seconds kept.
    pub keep_s: u32,
    /// What they may take.
    pub max_bytes: u64,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where `/metrics` is; none: nowhere.
    pub listen: Option<SocketAddr>,
    /// Cells that are told; of more, the busiest.
    pub max_cells: u32,
    /// Hosts that are told; of more, the first by rank.
    pub max_hosts: u32,
    /// A host that has been silent for longer is gone: no metric of hosts tells of it.
    pub gone_after_s: u32,
}

/// `[nats]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nats {
    /// Servers of one cluster.
    pub urls: Vec<String>,
    /// A NATS credentials file; none: no credentials.
    pub credentials_file: Option<PathBuf>,
    /// Certificates by which the server is known; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether frames may go to another host unencrypted.
    pub insecure: bool,
    /// What the streams' and subjects' names begin with.
    pub prefix: String,
    /// Subjects that hosts are spread over.
    pub partitions: u32,
    /// How long every frame is kept.
    pub keep_s: u32,
    /// What they may take.
    pub max_bytes: u64,
    /// What the cold lane's frames may take.
    pub cold_max_bytes: u64,
    /// How long the last frame of a boot is kept.
    pub keep_boots_s: u32,
    /// What the last frames of all boots may take.
    pub boots_max_bytes: u64,
    /// Copies in a cluster.
    pub replicas: u32,
    /// Frames that wait for the server.
    pub buffer_bytes: u64,
}

impl Nats {
    /// The defaults, but for the servers.
    pub fn at(urls: Vec<String>) -> Self {
        Self {
            urls,
            credentials_file: None,
            ca_file: None,
            insecure: false,
            prefix: "weir".to_owned(),
            partitions: 16,
            keep_s: 900,
            max_bytes: 8 << 30,
            cold_max_bytes: 2 << 30,
            keep_boots_s: 7 * 86_400,
            boots_max_bytes: 2 << 30,
            replicas: 1,
            buffer_bytes: 64 << 20,
        }
    }
}

/// `[otlp]` or `[remote_write]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Where to.
    pub url: String,
    /// How often.
    pub interval_s: u32,
    /// Whether plain text may go to another host.
    pub insecure: bool,
}

impl Push {
    /// The defaults, but for the receiver.
    pub fn to(url: String) -> Self {
        Self {
            url,
            interval_s: 15,
            insecure: false,
        }
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// Apache Parquet.
    Parquet,
}

impl value::Value for Format {
    const EXPECTED: &'static str = "\"ndjson\" or \"parquet\"";
    fn parse(value: &toml::de::DeValue<'_>) -> Option<Self> {
        match value.as_str()? {
            "ndjson" => Some(Self::Ndjson),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// `[files]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The directory.
    pub directory: PathBuf,
    /// What is written.
    pub format: Format,
    /// A file is closed when it is so large,
    pub max_bytes: u64,
    /// or so old.
    pub max_s: u32,
    /// Finished files kept; the oldest go. 0: all.
    pub max_files: u32,
    /// To be left free on the file system.
    pub min_free_bytes: u64,
}

impl Files {
    /// The defaults, but for the directory.
    pub fn within(directory: PathBuf) -> Self {
        Self {
            directory,
            format: Format::Ndjson,
            max_bytes: 128 << 20,
            max_s: 300,
            max_files: 0,
            min_free_bytes: 1 << 30,
        }
    }
}

impl value::Value for SocketAddr {
    const EXPECTED: &'static str = "an address and port in quotes, e.g. \"127.0.0.1:7447\"";
    fn parse(value: &toml::de::DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7447)),
            ca_file: None,
            cert_file: None,
            key_file: None,
            operators: Vec::new(),
            plain_text: false,
            name: None,
            limits: Limits {
                max_hosts: 16_384,
                max_cells: 1 << 20,
            },
            minutes: Minutes {
                keep_s: 900,
                max_bytes: 256 << 20,
            },
            metrics: Metrics {
                listen: None,
                max_cells: 128,
                max_hosts: 1_024,
                gone_after_s: 86_400,
            },
            nats: None,
            otlp: None,
            remote_write: None,
            files: None,
            steer: Steer::default(),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads and checks `text`; `name` stands for the file in what is said about it.
    pub fn parse(text: &str, name: &str) -> Result<Self, Error> {
        let source = Source::new(text, name);
        let config = Self::read(&source)?;
        source.into_places().refuse(config.problems(), name)?;
        Ok(config)
    }

    /// Checks a configuration that was changed after it was read, e.g. by the command line.
    pub fn check(&self) -> Result<(), Error> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        let told = problems.into_iter().map(|problem| problem.message);
        Err(Error::Invalid(told.collect()))
    }

    fn read(source: &Source<'_>) -> Result<Self, Error> {
        let mut config = Self::default();
        source.read(|root, problems| config.read_root(root, problems))?;
        Ok(config)
    }

    fn read_root(&mut self, root: &mut Table<'_, '_>, problems: &mut Problems) {
        root.set("listen", &mut self.listen, problems);
        root.set("ca_file", &mut self.ca_file, problems);
        root.set("cert_file", &mut self.cert_file, problems);
        root.set("key_file", &mut self.key_file, problems);
        root.set("operators", &mut self.operators, problems);
        root.set("plain_text", &mut self.plain_text, problems);
        root.set("name", &mut self.name, problems);
        root.table("limits", problems, |table, problems| {
            table.set("max_hosts", &mut self.limits.max_hosts, problems);
            table.set("max_cells", &mut self.limits.max_cells, problems);
        });
        root.table("minutes", problems, |table, problems| {
            table.set("keep_s", &mut self.minutes.keep_s, problems);
            table.set("max_bytes", &mut self.minutes.max_bytes, problems);
        });
        root.table("metrics", problems, |table, problems| {
            table.set("listen", &mut self.metrics.listen, problems);
            table.set("max_cells", &mut self.metrics.max_cells, problems);
            table.set("max_hosts", &mut self.metrics.max_hosts, problems);
            table.set("gone_after_s", &mut self.metrics.gone_after_s, problems);
        });
        root.table("nats", problems, |table, problems| {
            let mut nats = Nats::at(Vec::new());
            let urls = table.need("urls", problems);
            table.set("credentials_file", &mut nats.credentials_file, problems);
            table.set("ca_file", &mut nats.ca_file, problems);
            table.set("insecure", &mut nats.insecure, problems);
            table.set("prefix", &mut nats.prefix, problems);
            table.set("partitions", &mut nats.partitions, problems);
            table.set("keep_s", &mut nats.keep_s, problems);
            table.set("max_bytes", &mut nats.max_bytes, problems);
            table.set("cold_max_bytes", &mut nats.cold_max_bytes, problems);
            table.set("keep_boots_s", &mut nats.keep_boots_s, problems);
            table.set("boots_max_bytes", &mut nats.boots_max_bytes, problems);
            table.set("replicas", &mut nats.replicas, problems);
            table.set("buffer_bytes", &mut nats.buffer_bytes, problems);
            self.nats = urls.map(|urls| Nats { urls, ..nats });
        });
        let push = |table: &mut Table<'_, '_>, problems: &mut Problems| {
            let mut push = Push::to(String::new());
            let url = table.need("url", problems);
            table.set("interval_s", &mut push.interval_s, problems);
            table.set("insecure", &mut push.insecure, problems);
            url.map(|url| Push { url, ..push })
        };
        root.table("otlp", problems, |table, problems| {
            self.otlp = push(table, problems);
        });
        root.table("remote_write", problems, |table, problems| {
            self.remote_write = push(table, problems);
        });
        root.table("files", problems, |table, problems| {
            let mut files = Files::within(PathBuf::new());
            let directory = table.need("directory", problems);
            table.set("format", &mut files.format, problems);
            table.set("max_bytes", &mut files.max_bytes, problems);
            table.set("max_s", &mut files.max_s, problems);
            table.set("max_files", &mut files.max_files, problems);
            table.set("min_free_bytes", &mut files.min_free_bytes, problems);
            self.files = directory.map(|directory| Files { directory, ..files });
        });
        self.steer.read(root, problems);
    }

    /// None: plain text.
    pub fn files(&self) -> Option<tls::Files> {
        Some(tls::Files {
            ca: self.ca_file.clone()?,
            cert: self.cert_file.clone()?,
            key: self.key_file.clone()?,
        })
    }

    /// That one of both is asked for is not checked here, so that a file may leave it to the command
    /// line.
    fn security_problems(&self, problems: &mut Checks) {
        let files = [
            ("ca_file", &self.ca_file),
            ("cert_file", &self.cert_file),
            ("key_file", &self.key_file),
        ];
        for (key, file) in files {
            if let Some(file) = file {
                problems.absolute(key, file, "/etc/weir/tls/collector.pem");
            }
        }
        let given = files.iter().filter(|(_, file)| file.is_some()).count();
        if let Some((absent, _)) = files.iter().find(|(_, file)| file.is_none())
            && given > 0
        {
            let message =
                format!("{absent} is missing: ca_file, cert_file and key_file go together");
            problems.add(*absent, message);
        }
        if self.plain_text && given > 0 {
            let message = "plain_text = true and a certificate exclude each other; say one";
            problems.add("plain_text", message.to_owned());
        }
        if self.plain_text && !self.listen.ip().is_loopback() {
            let message = format!(
                "listening on {} would take and give measurements unencrypted over the network; \
                 give a certificate (--ca, --cert and --key, or ca_file, cert_file and key_file), \
                 or listen on loopback",
                self.listen
            );
            problems.add("listen", message);
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Checks::default();
        self.security_problems(&mut problems);
        if let Some(name) = &self.name
            && !(1..=64).contains(&name.len())
        {
            problems.add("name", format!("name = {name:?} must have 1 to 64 bytes"));
        }
        problems.within("limits.max_hosts", self.limits.max_hosts, 1, 1 << 20);
        problems.within("limits.max_cells", self.limits.max_cells, 1, 1 << 28);
        problems.within("minutes.keep_s", self.minutes.keep_s, 10, 86_400);
        let max_bytes = self.minutes.max_bytes;
        problems.within("minutes.max_bytes", max_bytes, 1 << 20, 1 << 40);
        problems.within("metrics.max_cells", self.metrics.max_cells, 1, 4_096);
        problems.within("metrics.max_hosts", self.metrics.max_hosts, 0, 1 << 20);
        let gone_after_s = self.metrics.gone_after_s;
        problems.within("metrics.gone_after_s", gone_after_s, 60, 366 * 86_400);
        if let Some(nats) = &self.nats {
            nats.problems(&mut problems);
        }
        if let Some(push) = &self.otlp {
            push.problems("otlp", "http://127.0.0.1:4317", &mut problems);
        }
        if let Some(push) = &self.remote_write {
            let example = "http://127.0.0.1:9090/api/v1/write";
            push.problems("remote_write", example, &mut problems);
        }
        if let Some(files) = &self.files {
            problems.absolute("files.directory", &files.directory, "/var/lib/weir/events");
            problems.within("files.max_bytes", files.max_bytes, 64 << 10, 1 << 40);
            problems.within("files.max_s", files.max_s, 1, 86_400);
        }
        self.steer.problems(self.plain_text, &mut problems);
        problems.into_vec()
    }
}

impl Nats {
    fn problems(&self, problems: &mut Checks) {
        if self.urls.is_empty() {
            let message = "nats.urls is empty; e.g. [\"nats://127.0.0.1:4222\"]";
            problems.add("nats.urls", message.to_owned());
        }
        for url in &self.urls {
            let parsed = url.parse::<Uri>();
            let scheme = parsed.as_ref().ok().and_then(Uri::scheme_str);
            let host = parsed.as_ref().ok().and_then(Uri::host);
            match (scheme, host) {
                (Some("tls"), Some(_)) => {}
                (Some("nats"), Some(host)) if self.insecure || is_loopback(host) => {}
                (Some("nats"), Some(_)) => problems.add(
                    "nats.urls",
                    format!(
                        "nats.urls: {url:?} would send measurements unencrypted to another host; \
                         use tls://, or set nats.insecure = true if the network in between is yours"
                    ),
                ),
                _ => problems.add(
                    "nats.urls",
                    format!("nats.urls: {url:?} must be nats://HOST:PORT or tls://HOST:PORT"),
                ),
            }
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=32).contains(&self.prefix.len()) || !self.prefix.chars().all(is_word) {
            problems.add(
                "nats.prefix",
                format!(
                    "nats.prefix = {:?} must be 1 to 32 letters, digits, - or _",
                    self.prefix
                ),
            );
        }
        problems.within("nats.partitions", self.partitions, 1, 1_024);
        problems.within("nats.keep_s", self.keep_s, 10, 7 * 86_400);
        problems.within("nats.max_bytes", self.max_bytes, 1 << 20, 1 << 50);
        let cold_max_bytes = self.cold_max_bytes;
        problems.within("nats.cold_max_bytes", cold_max_bytes, 1 << 20, 1 << 50);
        problems.within(
            "nats.keep_boots_s",
            self.keep_boots_s,
            self.keep_s.into(),
            366 * 86_400,
        );
        let boots_max_bytes = self.boots_max_bytes;
        problems.within("nats.boots_max_bytes", boots_max_bytes, 1 << 20, 1 << 50);
        problems.within("nats.replicas", self.replicas, 1, 5);
        problems.within("nats.buffer_bytes", self.buffer_bytes, 1 << 20, 1 << 32);
    }
}

impl Push {
    fn problems(&self, table: &str, example: &str, problems: &mut Checks) {
        let key = format!("{table}.url");
        let parsed = self.url.parse::<Uri>();
        let scheme = parsed.as_ref().ok().and_then(Uri::scheme_str);
        let host = parsed.as_ref().ok().and_then(Uri::host);
        match (scheme, host) {
            (Some("http"), Some(host)) if self.insecure || is_loopback(host) => {}
            (Some("http"), Some(_)) => problems.add(
                &*key,
                format!(
                    "{key} {:?} would send metrics unencrypted to another host; set \
                     {table}.insecure = true if the network in between is yours",
                    self.url
                ),
            ),
            _ => problems.add(
                &*key,
                format!(
                    "{key} {:?} is no address that this version reaches; e.g. {example}",
                    self.url
                ),
            ),
        }
        problems.within(&format!("{table}.interval_s"), self.interval_s, 1, 3_600);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../../deploy/weir-collect.toml");

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented = Config::parse(DOCUMENTED, "weir-collect.toml").unwrap();
        assert_eq!(documented, Config::default());
    }

    #[test]
    fn every_key_is_documented_with_its_default() {
        let uncommented: Vec<_> = DOCUMENTED
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .collect();
        let uncommented = uncommented.join("\n");
        let source = Source::new(&uncommented, "weir-collect.toml");
        let config = Config::read(&source).unwrap();
        assert_eq!(config.problems(), []);
        let nats = config.nats.unwrap();
        assert_eq!(
            nats,
            Nats {
                credentials_file: nats.credentials_file.clone(),
                ca_file: nats.ca_file.clone(),
                ..Nats::at(nats.urls.clone())
            }
        );
        let (otlp, remote_write) = (config.otlp.unwrap(), config.remote_write.unwrap());
        assert_eq!(otlp, Push::to(otlp.url.clone()));
        assert_eq!(remote_write, Push::to(remote_write.url.clone()));
        let files = config.files.unwrap();
        assert_eq!(files, Files::within(files.directory.clone()));
        for key in source.into_known() {
            let last = key.rsplit('.').next().unwrap();
            let is_named = |line: &str| {
                [format!("[{key}]"), format!("[[{key}]]")].contains(&line.to_owned())
                    || line.split('=').next().unwrap().trim() == last
            };
            assert!(uncommented.lines().any(is_named), "{key} is not documented");
        }
    }

    #[test]
    fn mistakes_name_file_line_and_key() {
        let told = |text: &str| Config::parse(text, "c.toml").unwrap_err().to_string();
        assert_eq!(
            told("listen = 7"),
            "c.toml:1: listen: expected an address and port in quotes, e.g. \"127.0.0.1:7447\", \
             found 7"
        );
        for (text, expected) in [
            (
                "plain_text = true\nlisten = \"0.0.0.0:7447\"",
                "c.toml:2: listening on 0.0.0.0:7447",
            ),
            ("ca_file = '/a'\ncert_file = '/b'", "key_file is missing"),
            (
                "plain_text = true\nca_file = '/a'\ncert_file = '/b'\nkey_file = '/c'",
                "c.toml:1: plain_text = true and a certificate",
            ),
            (
                "[nats]\nurl = 'x'",
                "c.toml:2: nats.url: unknown key; did you mean `urls`?",
            ),
            (
                "[nats]\nurls = ['nats://10.0.0.1:4222']",
                "c.toml:2: nats.urls: \"nats://10.0.0.1",
            ),
            (
                "[nats]\nurls = ['http://127.0.0.1']",
                "must be nats://HOST:PORT",
            ),
            (
                "[nats]\nurls = ['tls://a']\nprefix = 'a.b'",
                "c.toml:3: nats.prefix",
            ),
            (
                "[otlp]\nurl = 'http://127.0.0.1:4317'\ninterval_s = 0",
                "c.toml:3: otlp.interval_s",
            ),
            (
                "[remote_write]\nurl = 'ftp://a'",
                "c.toml:2: remote_write.url",
            ),
            ("[files]\ndirectory = 'a'", "c.toml:2: files.directory"),
            (
                "[files]\ndirectory = '/a'\nformat = 'csv'",
                "expected \"ndjson\" or \"parquet\"",
            ),
        ] {
            let told = told(text);
            assert!(told.contains(expected), "{text:?}: {told}");
        }
    }
}

//! The one configuration: every key, its default, and the checks between keys.
//!
//! `deploy/weir.toml` documents each key with its why and is tested to equal [`Config::default`].
//! Reading the file is [`read`]'s work.

mod check;
pub mod collect;
mod collect_steer;
mod content;
mod gates;
pub mod kernel_gate;
mod labels;
mod read;
pub(crate) mod socket;
mod steer;
mod table;
mod value;

pub(crate) use check::{collector_url, is_loopback};
pub use content::{ContentGate, Pathway};
pub use labels::{Labels, MmdbField, Rule};
pub use steer::{Steer, SteerRole};

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::unistd::{Gid, Group, Uid, User};

use crate::kernel;
use crate::qoe::cell::RATES_KBPS;
use crate::steer::actuators::settings::Served;
use crate::tls;

/// Where the file that turns weir off is looked for, unless the configuration says otherwise.
pub const KILL_SWITCH: &str = "/run/weir.off";

/// A configuration that cannot be used; each problem is a line that says where and what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read at all.
    #[error("cannot read the configuration {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What it says is wrong; every problem found, one per line.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// Everything that an operator can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How sessions are measured.
    pub backend: kernel::Choice,
    /// A file that turns weir off by being there.
    pub kill_switch: PathBuf,
    /// A delivery still open so long after its request is late. 0: none is.
    pub deadline_ms: u32,
    /// An answer acknowledged whole, and silent for so long, is over.
    pub quiet_gap_ms: u32,
    /// How often deliveries under way are reported. 0: never.
    pub progress_ms: u32,
    /// Which sessions are measured.
    pub filter: kernel::Filter,
    /// Names for the server's ports.
    pub services: Vec<Service>,
    /// Names for the clients' prefixes.
    pub networks: Vec<Network>,
    /// What the server and its clients say of each request, and where.
    pub labels: Labels,
    /// What URLs say.
    pub rules: Vec<Rule>,
    /// What the kernel programs may cost, in thousandths of a core. 0: no matter what.
    pub budget_core_permille: u32,
    /// How viewers are made out.
    pub viewers: Viewers,
    /// What is usual, and when it is not.
    pub alarms: Alarms,
    /// What is bounded, and where.
    pub limits: Limits,
    /// Who may ask, and where.
    pub query: Query,
    /// Where frames go.
    pub collector: Collector,
    /// What the daemon records of itself.
    pub recording: Recording,
    /// What automation may do, and who may order what.
    pub steer: Steer,
    /// What is logged.
    pub log: Log,
}

/// One `[[service]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What cells call it.
    pub name: String,
    /// The server's ports that it is.
    pub ports: Vec<u16>,
}

/// One `[[network]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// What cells call it.
    pub name: String,
    /// The clients' prefixes that it is; the longest match over all networks wins.
    pub prefixes: Vec<IpNet>,
}

/// `[viewers]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewers {
    /// Also by the kernel's numbers alone, where no label says anything.
    pub from_kernel: bool,
    /// Where what is learned of players is kept; none: nowhere.
    pub learned_file: Option<PathBuf>,
    /// Rates that deliveries are tested for, rising.
    pub sustain_kbps: Vec<u32>,
}

/// `[alarms]`: up to these shares all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarms {
    /// Failed starts, of start attempts.
    pub start_failures_permille: u32,
    /// Viewers that stand still, of those that are active.
    pub stalled_viewers_permille: u32,
    /// Late deliveries, of deliveries.
    pub late_deliveries_permille: u32,
    /// False alarms, for each cell, rate and million days.
    pub false_alarms_ppm: u32,
}

/// `[limits]`: none of it can change while the daemon runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions remembered in user space.
    pub max_sessions: u32,
    /// Viewers followed, those lately ended included. 0: none are.
    pub max_viewers: u32,
    /// Cells, the one called `other` included.
    pub max_cells: u32,
    /// Finished deliveries kept for queries.
    pub max_deliveries_kept: u32,
    /// The hot ring.
    pub hot_ring_bytes: u32,
    /// The bulk ring.
    pub bulk_ring_bytes: u32,
    /// Clients that watch, follow or record at the same time.
    pub followers: u32,
    /// Deliveries that a slow follower may lag behind before it loses the oldest.
    pub follower_lag: u32,
}

/// `[query]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Users who may ask, besides root and the daemon's own.
    pub allow_users: Vec<Principal>,
    /// Groups whose members may ask.
    pub allow_groups: Vec<Principal>,
}

/// A user or group, as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name; looked up when it is put in force.
    Name(String),
}

impl Principal {
    /// The user's number; `key` is where the configuration names it.
    pub fn uid(&self, key: &str) -> anyhow::Result<Uid> {
        match self {
            Self::Id(id) => Ok(Uid::from_raw(*id)),
            Self::Name(name) => match User::from_name(name) {
                Ok(Some(user)) => Ok(user.uid),
                Ok(None) => {
                    anyhow::bail!("{key} names the user {name:?}, which this host does not have")
                }
                Err(err) => anyhow::bail!("cannot look up the user {name:?}: {err}"),
            },
        }
    }

    /// The group's number; `key` is where the configuration names it.
    pub fn gid(&self, key: &str) -> anyhow::Result<Gid> {
        match self {
            Self::Id(id) => Ok(Gid::from_raw(*id)),
            Self::Name(name) => match Group::from_name(name) {
                Ok(Some(group)) => Ok(group.gid),
                Ok(None) => {
                    anyhow::bail!("{key} names the group {name:?}, which this host does not have")
                }
                Err(err) => anyhow::bail!("cannot look up the group {name:?}: {err}"),
            },
        }
    }
}

/// `[collector]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// `https://host:port`; none: the daemon works alone.
    pub url: Option<String>,
    /// Time between frames.
    pub interval_ms: u32,
    /// What this host is called; none: its host name.
    pub host: Option<String>,
    /// Certificates of the authority that issued the collector's.
    pub ca_file: Option<PathBuf>,
    /// This host's certificate; one of its DNS names is `host`.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
    /// Where the last minutes are kept; none: nowhere.
    pub ring_directory: Option<PathBuf>,
    /// What they may take.
    pub ring_max_bytes: u64,
    /// Of events that must be known at once.
    pub hot_bytes_per_s: u32,
    /// Of cells with their distributions.
    pub warm_bytes_per_s: u32,
    /// Of finished deliveries. 0: none are sent.
    pub cold_bytes_per_s: u32,
    /// Whether to speak plain text, to a collector on this host.
    pub plain_text: bool,
}

impl Collector {
    /// None: plain text.
    pub fn files(&self) -> Option<tls::Files> {
        Some(tls::Files {
            ca: self.ca_file.clone()?,
            cert: self.cert_file.clone()?,
            key: self.key_file.clone()?,
        })
    }
}

/// `[recording]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Where; none: nowhere.
    pub file: Option<PathBuf>,
    /// Of one file; a full one is followed by another.
    pub max_bytes: u64,
    /// Files kept, the one being written included.
    pub max_files: u32,
    /// To be left free on the file system.
    pub min_free_bytes: u64,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The daemon's own.
    pub level: LogLevel,
    /// The kernel programs' diagnostics.
    pub programs: LogLevel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// And what is not as it should be.
    Warn,
    /// And what happens seldom.
    Info,
    /// And what helps to find a fault.
    Debug,
    /// And everything.
    Trace,
}

impl LogLevel {
    const ALL: [(&'static str, Self); 6] = [
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// As the configuration and `tracing` write it.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: kernel::Choice::Auto,
            kill_switch: PathBuf::from(KILL_SWITCH),
            budget_core_permille: 50,
            deadline_ms: 4000,
            quiet_gap_ms: 1000,
            progress_ms: 1000,
            filter: kernel::Filter::default(),
            services: Vec::new(),
            networks: Vec::new(),
            viewers: Viewers {
                from_kernel: false,
                learned_file: None,
                sustain_kbps: RATES_KBPS.to_vec(),
            },
            alarms: Alarms {
                start_failures_permille: 20,
                stalled_viewers_permille: 20,
                late_deliveries_permille: 50,
                false_alarms_ppm: 100,
            },
            labels: Labels::default(),
            rules: Vec::new(),
            limits: Limits {
                max_sessions: 262_144,
                max_viewers: 65_536,
                max_cells: 256,
                max_deliveries_kept: 10_000,
                hot_ring_bytes: 1 << 20,
                bulk_ring_bytes: 8 << 20,
                followers: 16,
                follower_lag: 4096,
            },
            query: Query {
                socket: socket::to_answer(),
                allow_users: Vec::new(),
                allow_groups: Vec::new(),
            },
            collector: Collector {
                url: None,
                interval_ms: 1000,
                host: None,
                ca_file: None,
                cert_file: None,
                key_file: None,
                ring_directory: None,
                ring_max_bytes: 64 << 20,
                hot_bytes_per_s: 128 << 10,
                warm_bytes_per_s: 512 << 10,
                cold_bytes_per_s: 128 << 10,
                plain_text: false,
            },
            recording: Recording {
                file: None,
                max_bytes: 256 << 20,
                max_files: 8,
                min_free_bytes: 1 << 30,
            },
            steer: Steer::default(),
            log: Log {
                level: LogLevel::Info,
                programs: LogLevel::Off,
            },
        }
    }
}

impl Config {
    /// The services as gates know them.
    pub fn served(&self) -> Vec<Served> {
        let served = |own: &Service| Served {
            name: own.name.clone(),
            ports: own.ports.clone(),
        };
        self.services.iter().map(served).collect()
    }

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
        let (config, places) = read::read(text, name)?;
        places.refuse(config.problems(), name)?;
        Ok(config)
    }

    /// Checks a configuration that was changed after it was read, e.g. by the command line.
    pub fn check(&self) -> Result<(), Error> {
        let problems = self.problems();
        if problems.is_empty() {
            Ok(())
        } else {
            let told = problems.into_iter().map(|problem| problem.message);
            Err(Error::Invalid(told.collect()))
        }
    }

    /// What the kernel room puts in force.
    pub fn kernel_settings(&self) -> kernel::Settings {
        kernel::Settings {
            deadline_ms: self.deadline_ms,
            quiet_gap_ms: self.quiet_gap_ms,
            progress_ms: self.progress_ms,
            filter: self.filter.clone(),
        }
    }

    /// Takes from `new` what can change while the daemon runs; returns the keys that differ and
    /// cannot.
    pub fn reload(&mut self, new: Self) -> Vec<&'static str> {
        let mut kept = Vec::new();
        macro_rules! fixed {
            ($($key:literal => $($field:ident).+),* $(,)?) => {
                $(if self.$($field).+ != new.$($field).+ { kept.push($key); })*
            };
        }
        fixed! {
            "backend" => backend,
            "kill_switch" => kill_switch,
            "limits.max_sessions" => limits.max_sessions,
            "limits.max_viewers" => limits.max_viewers,
            "limits.max_cells" => limits.max_cells,
            "limits.max_deliveries_kept" => limits.max_deliveries_kept,
            "limits.hot_ring_bytes" => limits.hot_ring_bytes,
            "limits.bulk_ring_bytes" => limits.bulk_ring_bytes,
            "limits.followers" => limits.followers,
            "limits.follower_lag" => limits.follower_lag,
            "labels.access_log_socket" => labels.access_log_socket,
            "labels.tag_socket" => labels.tag_socket,
            "labels.socket_group" => labels.socket_group,
            "labels.queue" => labels.queue,
            "labels.hash_clients" => labels.hash_clients,
            "labels.hash_key_hours" => labels.hash_key_hours,
            "query.socket" => query.socket,
            "collector.url" => collector.url,
            "collector.interval_ms" => collector.interval_ms,
            "collector.host" => collector.host,
            "collector.ca_file" => collector.ca_file,
            "collector.cert_file" => collector.cert_file,
            "collector.key_file" => collector.key_file,
            "collector.ring_directory" => collector.ring_directory,
            "collector.ring_max_bytes" => collector.ring_max_bytes,
            "collector.hot_bytes_per_s" => collector.hot_bytes_per_s,
            "collector.warm_bytes_per_s" => collector.warm_bytes_per_s,
            "collector.cold_bytes_per_s" => collector.cold_bytes_per_s,
            "collector.plain_text" => collector.plain_text,
            "viewers.learned_file" => viewers.learned_file,
            "recording.file" => recording.file,
            "steer.journal_file" => steer.journal_file,
            "steer.gate" => steer.gates,
            "log.level" => log.level,
            "log.programs" => log.programs,
        }
        *self = Self {
            backend: self.backend,
            kill_switch: self.kill_switch.clone(),
            limits: self.limits.clone(),
            labels: Labels {
                access_log_socket: self.labels.access_log_socket.clone(),
                tag_socket: self.labels.tag_socket.clone(),
                socket_group: self.labels.socket_group.clone(),
                queue: self.labels.queue,
                hash_clients: self.labels.hash_clients,
                hash_key_hours: self.labels.hash_key_hours,
                ..new.labels
            },
            query: Query {
                socket: self.query.socket.clone(),
                ..new.query
            },
            collector: self.collector.clone(),
            recording: Recording {
                file: self.recording.file.clone(),
                ..new.recording
            },
            viewers: Viewers {
                learned_file: self.viewers.learned_file.clone(),
                ..new.viewers
            },
            steer: Steer {
                journal_file: self.steer.journal_file.clone(),
                gates: self.steer.gates.clone(),
                ..new.steer
            },
            log: self.log.clone(),
            ..new
        };
        kept
    }
}

/// A prefix in CIDR notation; an address alone is the prefix of its full length.
pub fn parse_prefix(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .ok()
}

#[cfg(test)]
mod tests;

//! Where the load runs: nginx and a client in namespaces with a link between them, each on a
//! processor and in a cgroup of its own.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result};
use weir_tests::lab::link::{Lab, SERVER_V4};
use weir_tests::lab::nginx::body;
use weir_tests::lab::process::{Process, wait_for_listener};
use weir_tests::lab::relay::DEVICE;

use crate::group::{Group, machine_cpu_us};
use crate::load::{self, Answered};

/// Keeps its connections.
const KEPT: u16 = 8090;
/// Closes after each answer.
const CLOSING: u16 = 8091;
/// A live segment.
pub(crate) const SEGMENT_BYTES: usize = 850_000;
/// A playlist, or a piece of audio.
pub(crate) const SMALL_BYTES: usize = 10_000;

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A session for each small answer.
    Short,
    /// A few sessions that are kept, and a segment in each answer.
    Long,
}

impl Work {
    pub(crate) const ALL: [Self; 2] = [Self::Short, Self::Long];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Short => "many short sessions",
            Self::Long => "few long sessions",
        }
    }
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    Full,
    /// Requests a second.
    Rate(f64),
}

/// For how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) warm_ms: u64,
    pub(crate) measure_ms: u64,
}

/// What one slot of load came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) answered: Answered,
    /// Processor time, while it was counted, of the server,
    pub(crate) server_us: u64,
    /// of the client,
    pub(crate) client_us: u64,
    /// of who looks on,
    pub(crate) observer_us: u64,
    /// and of everything on the machine.
    pub(crate) machine_us: u64,
}

/// The scene.
#[derive(Debug)]
pub(crate) struct Scene {
    // Dropped in this order: what runs before where it runs.
    _nginx: Process,
    pub(crate) lab: Lab,
    server: Group,
    client: Group,
    /// For who looks on.
    pub(crate) observer: Group,
}

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::with_veth()?;
        // Connections are many and short: ports must not run out.
        lab.client
            .sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        let server = Group::new("server")?;
        let client = Group::new("client")?;
        let observer = Group::new("observer")?;
        let nginx = start_nginx(&lab, &server)?;
        Ok(Self {
            _nginx: nginx,
            lab,
            server,
            client,
            observer,
        })
    }

    /// Cuts what the server sends into packets as they are on a wire, as a network card would, or
    /// leaves them whole. The client then acknowledges as a distant one does.
    pub(crate) fn wire_size_packets(&self, yes: bool) -> Result<()> {
        let (bytes, segments) = if yes { (1500, 1) } else { (65_536, 65_535) };
        self.lab.server.ip(&format!(
            "link set {DEVICE} gso_max_size {bytes} gso_max_segs {segments}"
        ))?;
        Ok(())
    }

    /// One slot of load. `around` is called when counting begins (true) and when it ends.
    pub(crate) fn load(
        &self,
        work: Work,
        pace: Pace,
        span: Span,
        around: &mut dyn FnMut(bool) -> Result<()>,
    ) -> Result<Slot> {
        let (port, bytes, connections) = match work {
            Work::Short => (CLOSING, SMALL_BYTES, 32),
            Work::Long => (KEPT, SEGMENT_BYTES, 16),
        };
        let args = load::Args {
            address: SocketAddr::from((SERVER_V4, port)),
            path: format!("/{bytes}"),
            connections,
            short: work == Work::Short,
            rate: match pace {
                Pace::Full => 0.0,
                Pace::Rate(rate) => rate,
            },
            warm_ms: span.warm_ms,
            measure_ms: span.measure_ms,
            cpu: Some(CLIENT_CPU % cpus()?),
        };
        let read = || -> Result<[u64; 4]> {
            Ok([
                self.server.cpu_us()?,
                self.client.cpu_us()?,
                self.observer.cpu_us()?,
                machine_cpu_us()?,
            ])
        };
        let (mut begin, mut end) = ([0; 4], [0; 4]);
        let around = std::cell::RefCell::new(around);
        let answered = load::start(
            &args,
            &self.lab.client,
            &self.client,
            || {
                (around.borrow_mut())(true)?;
                begin = read()?;
                Ok(())
            },
            || {
                end = read()?;
                (around.borrow_mut())(false)
            },
        )?;
        let spent = |n: usize| end[n].saturating_sub(begin[n]);
        Ok(Slot {
            answered,
            server_us: spent(0),
            client_us: spent(1),
            observer_us: spent(2),
            machine_us: spent(3),
        })
    }
}

/// nginx stays on this processor,
const SERVER_CPU: usize = 0;
/// the client on this one; who looks on goes where there is room.
const CLIENT_CPU: usize = 1;

fn cpus() -> Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

fn start_nginx(lab: &Lab, group: &Group) -> Result<Process> {
    let dir = lab.dir().join("bench");
    let root = dir.join("root");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    for bytes in [SEGMENT_BYTES, SMALL_BYTES] {
        let path = root.join(bytes.to_string());
        fs::write(&path, body(bytes)).with_context(|| format!("writing {}", path.display()))?;
    }
    let config = format!(
        "user root;\ndaemon off;\nworker_processes 1;\nworker_cpu_affinity {mask:b};\n\
         pid {dir}/nginx.pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  root {root};\n  \
         open_file_cache max=16 inactive=1h;\n  keepalive_requests 100000000;\n  \
         server {{ listen {KEPT} backlog=4096; keepalive_timeout 3600; }}\n  \
         server {{ listen {CLOSING} backlog=4096; keepalive_timeout 0; }}\n}}\n",
        mask = 1 << SERVER_CPU,
        dir = dir.display(),
        root = root.display(),
    );
    let path = dir.join("nginx.conf");
    fs::write(&path, config).with_context(|| format!("writing {}", path.display()))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(&path);
    command.arg("-e").arg(dir.join("error.log"));
    group.enter(&mut command)?;
    let mut process = Process::spawn(command, Some(&lab.server), &dir.join("nginx.log"))?;
    for port in [KEPT, CLOSING] {
        wait_for_listener(&lab.server, port, &mut process)?;
    }
    Ok(process)
}

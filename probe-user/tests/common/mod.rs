//! A backend that says what a test tells it to, and the daemon around it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test crates, each of which uses its own part"
)]

pub mod authority;
pub mod centre;
pub mod gate;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};
use probe_ebpf::record::{
    ABI_VERSION, Delivery, Endpoints, Header, SessionEnd, SessionStart, flag, kind,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};
use weir::config::Config;
use weir::daemon::steering::MakeGates;
use weir::daemon::{self, Control, Ready};
use weir::kernel::{
    Backend, BackendKind, HalfOpenGiveUp, KernelCounts, Means, Probe, Record, Ring, Settings,
    Verdict,
};
use weir_proto::v1;
use weir_proto::v1::local_client::LocalClient;

/// A record as a ring holds it.
#[derive(Clone, Copy, Debug)]
pub enum Owned {
    Start(SessionStart),
    End(SessionEnd),
    Delivery(Delivery),
    Malformed,
}

#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a test has seen and asked for, each apart"
)]
struct State {
    hot: VecDeque<Owned>,
    bulk: VecDeque<Owned>,
    ring_records: usize,
    counts: KernelCounts,
    give_ups: Vec<HalfOpenGiveUp>,
    applied: Vec<Settings>,
    refuse_settings: bool,
    sweeps: u64,
    silent: bool,
    adopted: bool,
    dropped: bool,
}

/// What a test holds of the backend.
#[derive(Clone, Debug)]
pub struct Script {
    state: Arc<Mutex<State>>,
    hot: Arc<EventFd>,
    bulk: Arc<EventFd>,
}

impl Script {
    pub fn new() -> Self {
        let fd = || {
            Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap())
        };
        Self {
            state: Arc::new(Mutex::new(State {
                ring_records: usize::MAX,
                ..State::default()
            })),
            hot: fd(),
            bulk: fd(),
        }
    }

    pub fn backend(&self) -> Box<dyn Backend> {
        Box::new(Scripted {
            script: self.clone(),
            probes: vec![Probe {
                name: "scripted".to_owned(),
                verdict: Verdict::Ok,
                reason: "a test said so".to_owned(),
                lost: String::new(),
            }],
        })
    }

    /// Writes to a ring; what does not fit is lost and counted, as in the kernel.
    pub fn write(&self, ring: Ring, record: Owned) {
        let mut state = self.state.lock().unwrap();
        let room = state.ring_records;
        let State {
            hot, bulk, counts, ..
        } = &mut *state;
        let (records, counts, fd) = match ring {
            Ring::Hot => (hot, &mut counts.hot, &self.hot),
            Ring::Bulk => (bulk, &mut counts.bulk, &self.bulk),
        };
        counts.seen += 1;
        if records.len() >= room {
            counts.ring_full += 1;
            return;
        }
        counts.exported += 1;
        records.push_back(record);
        if !state.silent {
            fd.write(1).unwrap();
        }
    }

    /// From now on, records wake nobody.
    pub fn fall_silent(&self) {
        self.state.lock().unwrap().silent = true;
    }

    /// How often the daemon has swept, and how many records wait in the bulk ring.
    pub fn swept(&self) -> (u64, usize) {
        let state = self.state.lock().unwrap();
        (state.sweeps, state.bulk.len())
    }

    pub fn start(&self, record: SessionStart) {
        self.write(Ring::Bulk, Owned::Start(record));
    }

    pub fn end(&self, record: SessionEnd) {
        self.write(Ring::Bulk, Owned::End(record));
    }

    /// Late and aborted deliveries go to the hot ring, others to the bulk ring.
    pub fn delivery(&self, record: Delivery) {
        let hot = record.header.kind == kind::DELIVERY_LATE || record.flags & flag::ABORTED != 0;
        let ring = if hot { Ring::Hot } else { Ring::Bulk };
        self.write(ring, Owned::Delivery(record));
    }

    pub fn give_up(&self, give_up: HalfOpenGiveUp) {
        self.state.lock().unwrap().give_ups.push(give_up);
    }

    /// From now on, a ring holds so many records.
    pub fn limit_rings(&self, records: usize) {
        self.state.lock().unwrap().ring_records = records;
    }

    pub fn refuse_settings(&self, refuse: bool) {
        self.state.lock().unwrap().refuse_settings = refuse;
    }

    pub fn applied(&self) -> Vec<Settings> {
        self.state.lock().unwrap().applied.clone()
    }

    pub fn adopted(&self) -> bool {
        self.state.lock().unwrap().adopted
    }

    /// Whether the daemon has let go of the backend.
    pub fn dropped(&self) -> bool {
        self.state.lock().unwrap().dropped
    }
}

#[derive(Debug)]
struct Scripted {
    script: Script,
    probes: Vec<Probe>,
}

impl Backend for Scripted {
    fn kind(&self) -> BackendKind {
        BackendKind::Exact
    }

    fn probes(&self) -> &[Probe] {
        &self.probes
    }

    fn tick_hz(&self) -> u32 {
        1000
    }

    fn apply(&mut self, settings: &Settings) -> anyhow::Result<()> {
        let mut state = self.script.state.lock().unwrap();
        anyhow::ensure!(!state.refuse_settings, "the script refuses settings");
        state.applied.push(settings.clone());
        Ok(())
    }

    fn ring_fd(&self, ring: Ring) -> BorrowedFd<'_> {
        match ring {
            Ring::Hot => self.script.hot.as_fd(),
            Ring::Bulk => self.script.bulk.as_fd(),
        }
    }

    fn drain(&mut self, ring: Ring, max: usize, sink: &mut dyn FnMut(Record<'_>)) -> usize {
        let fd = match ring {
            Ring::Hot => &self.script.hot,
            Ring::Bulk => &self.script.bulk,
        };
        // EAGAIN: nothing was written since.
        let _ = fd.read();
        let mut state = self.script.state.lock().unwrap();
        let records = match ring {
            Ring::Hot => &mut state.hot,
            Ring::Bulk => &mut state.bulk,
        };
        let max = max.min(records.len());
        for record in records.drain(..max) {
            sink(match &record {
                Owned::Start(record) => Record::SessionStart(record),
                Owned::End(record) => Record::SessionEnd(record),
                Owned::Delivery(record) => Record::Delivery(record),
                Owned::Malformed => Record::Malformed,
            });
        }
        max
    }

    fn sweep(&mut self) -> anyhow::Result<()> {
        self.script.state.lock().unwrap().sweeps += 1;
        Ok(())
    }

    fn adopt(&mut self, _sink: &mut dyn FnMut(Record<'_>)) -> anyhow::Result<usize> {
        self.script.state.lock().unwrap().adopted = true;
        Ok(0)
    }

    fn half_open_give_ups(&mut self) -> anyhow::Result<Vec<HalfOpenGiveUp>> {
        Ok(std::mem::take(
            &mut self.script.state.lock().unwrap().give_ups,
        ))
    }

    fn means(&self) -> Means {
        Means::Pace
    }

    fn run_time(&self) -> anyhow::Result<Duration> {
        Ok(Duration::ZERO)
    }

    fn counts(&mut self) -> anyhow::Result<KernelCounts> {
        Ok(self.script.state.lock().unwrap().counts)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.script.state.lock().unwrap().dropped = true;
    }
}

/// A running daemon with a scripted backend, in a directory of its own.
#[derive(Debug)]
pub struct Daemon {
    pub script: Script,
    pub control: Control,
    pub ready: Ready,
    pub task: JoinHandle<anyhow::Result<()>>,
    directory: tempfile::TempDir,
}

/// A configuration whose socket is in `directory`.
pub fn config_in(directory: &Path) -> Config {
    let mut config = Config::default();
    config.query.socket = directory.join("weir.sock");
    config.kill_switch = directory.join("off");
    config
}

impl Daemon {
    /// With defaults, as `change` changes them.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config_in(directory.path());
        change(&mut config);
        Self::start_in(directory, config, None).await
    }

    pub async fn start_in(
        directory: tempfile::TempDir,
        config: Config,
        config_path: Option<PathBuf>,
    ) -> Self {
        Self::start_with(directory, config, config_path, Box::new(|_| Ok(Vec::new()))).await
    }

    pub async fn start_with(
        directory: tempfile::TempDir,
        config: Config,
        config_path: Option<PathBuf>,
        gates: MakeGates,
    ) -> Self {
        let script = Script::new();
        let control = Control::default();
        let (ready_to, ready) = oneshot::channel();
        let options = daemon::Options {
            config,
            config_path,
            overrides: Box::new(|_| {}),
            gates,
        };
        let backend = {
            let script = script.clone();
            move |_: &Config| Ok(script.backend())
        };
        let task = tokio::spawn(daemon::run(options, backend, control.clone(), |ready| {
            let _ = ready_to.send(ready);
        }));
        let ready = ready.await;
        let Ok(ready) = ready else {
            panic!("the daemon did not start: {:?}", task.await);
        };
        Self {
            script,
            control,
            ready,
            task,
            directory,
        }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub async fn client(&self) -> LocalClient<Channel> {
        LocalClient::new(unix_channel(&self.ready.socket).await)
    }

    pub async fn status(&self) -> v1::Status {
        self.client()
            .await
            .get_status(v1::GetStatusRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn cells(&self) -> Vec<v1::Cell> {
        let request = v1::ListCellsRequest {
            filter: None,
            histograms: true,
        };
        self.client()
            .await
            .list_cells(request)
            .await
            .unwrap()
            .into_inner()
            .cells
    }

    /// Ends it, and gives its directory for another one.
    pub async fn leave(self) -> tempfile::TempDir {
        self.control.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.directory
    }

    /// Ends it, and gives what `run` returned.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.control.shutdown.cancel();
        self.task.await.unwrap()
    }
}

pub async fn unix_channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://unused")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        }))
        .await
        .unwrap()
}

/// Waits until `condition` gives something; fails the test if it never does.
pub async fn until<T, F>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let found = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

pub fn header(kind: u8, t_ns: u64) -> Header {
    let len = match kind {
        kind::SESSION_START => size_of::<SessionStart>(),
        kind::SESSION_END => size_of::<SessionEnd>(),
        _ => size_of::<Delivery>(),
    };
    Header {
        t_ns,
        kind,
        version: ABI_VERSION,
        len: u16::try_from(len).expect("a record is short"),
        ..Header::default()
    }
}

/// 192.0.2.1:`port` to 198.51.100.7.
pub fn endpoints(port: u16) -> Endpoints {
    let mapped = |a, b, c, d| {
        std::net::Ipv4Addr::new(a, b, c, d)
            .to_ipv6_mapped()
            .octets()
    };
    Endpoints {
        local_addr: mapped(192, 0, 2, 1),
        remote_addr: mapped(198, 51, 100, 7),
        local_port: port,
        remote_port: 50_000,
        netns: 1,
    }
}

pub const MS: u64 = 1_000_000;

/// So many milliseconds into the test, as the kernel's clock has it.
pub fn at(ms: u64) -> u64 {
    static START_NS: LazyLock<u64> = LazyLock::new(|| {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        now.tv_sec().unsigned_abs() * 1000 * MS
    });
    *START_NS + ms * MS
}

pub fn session_start(cookie: u64, port: u16, t_ns: u64) -> SessionStart {
    SessionStart {
        header: header(kind::SESSION_START, t_ns),
        cookie,
        t_established_ns: t_ns,
        endpoints: endpoints(port),
        handshake_us: 20_000,
        ..SessionStart::default()
    }
}

/// A delivery of 100 segments that took 100 ms.
pub fn delivery(cookie: u64, port: u16, index: u32, t_request_ns: u64) -> Delivery {
    Delivery {
        header: header(kind::DELIVERY_END, t_request_ns + 101 * MS),
        cookie,
        endpoints: endpoints(port),
        index,
        t_request_ns,
        t_request_last_ns: t_request_ns + MS,
        t_first_write_ns: t_request_ns + 11 * MS,
        t_last_write_ns: t_request_ns + 60 * MS,
        t_first_acked_ns: t_request_ns + 31 * MS,
        t_last_acked_ns: t_request_ns + 100 * MS,
        request_bytes: 200,
        acked_bytes: 140_000,
        written_bytes: 140_000,
        segments: 100,
        retrans_fast: 2,
        srtt_us: 20_000,
        min_rtt_us: 19_000,
        delivery_rate_bytes_per_s: 2_000_000,
        requests: 1,
        busy_ticks: 89,
        ..Delivery::default()
    }
}

pub fn session_end(cookie: u64, port: u16, t_ns: u64) -> SessionEnd {
    SessionEnd {
        header: header(kind::SESSION_END, t_ns),
        cookie,
        endpoints: endpoints(port),
        ended: probe_ebpf::record::ended::CLIENT_FIN,
        ..SessionEnd::default()
    }
}

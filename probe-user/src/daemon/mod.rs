//! The daemon: wires the rooms together, runs them, and ends them in order.

mod budget;
mod core;
mod desk;
mod governor;
mod labelling;
mod learned;
mod measuring;
pub mod playback;
mod recorder;
mod reload;
mod reporting;
pub mod steering;
mod viewers;
mod warnings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use nix::sys::utsname::uname;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_proto::v1;

use self::budget::Budget;
use self::core::{Core, Inputs, Reload};
use crate::config::Config;
use crate::intake::{self, Intake, Listener};
use crate::kernel::{Backend, BackendKind, SWEEP_INTERVAL};
use crate::labels::inlet::{Heard, Inlet};
use crate::qoe::Limits;
use crate::query::Query;
use crate::query::access::{Access, Socket};
use crate::query::server::{QueryCounts, Service};
use crate::query::steering::Ask;
use crate::recording::history::Shared;
use crate::uplink::{Centre, FAREWELL, UplinkCounts};
use crate::wire::Context;
use desk::{Desk, Followers, Identity};
use labelling::Labelling;
use learned::Keeper;
use measuring::{KillSwitch, Make, Measuring};
use recorder::Recorder;
use reload::Reloader;
use reporting::Handover;
use steering::{Ends, MakeGates, Orders, Steering};

/// The query server's task.
type Serving = JoinHandle<Result<(), tonic::transport::Error>>;

/// Questions that wait for the core.
const QUERIES_WAITING: usize = 64;
/// What the centre wants and nobody has looked at yet; it says it again.
const COMMANDS_WAITING: usize = 16;

/// What to run.
pub struct Options {
    /// In force at first.
    pub config: Config,
    /// Where it came from, to be read again on a reload; none: it cannot be.
    pub config_path: Option<PathBuf>,
    /// What the command line says over the file; put on top of every reload.
    pub overrides: Box<dyn Fn(&mut Config) + Send + Sync>,
    /// Makes the gates that decisions and orders move.
    pub gates: MakeGates,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("config", &self.config)
            .field("config_path", &self.config_path)
            .finish_non_exhaustive()
    }
}

/// How a running daemon is told to reload or to end.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Ends it, cleanly.
    pub shutdown: CancellationToken,
    /// Makes it read its configuration again.
    pub reload: Arc<Notify>,
}

impl Control {
    /// One that obeys the process's signals: SIGTERM and SIGINT end it, SIGHUP reloads.
    pub fn from_signals() -> anyhow::Result<Self> {
        let control = Self::default();
        let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut hup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let Self { shutdown, reload } = control.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = term.recv() => "SIGTERM",
                    _ = int.recv() => "SIGINT",
                    _ = hup.recv() => {
                        reload.notify_one();
                        continue;
                    }
                    () = shutdown.cancelled() => return,
                };
                tracing::info!(signal = name, "shutting down");
                shutdown.cancel();
                return;
            }
        });
        Ok(control)
    }
}

/// A daemon that has begun to measure and to answer.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where it answers.
    pub socket: PathBuf,
    /// Names this start.
    pub boot_id: String,
}

impl Ready {
    /// The same told to the log.
    fn told(socket: &Socket, boot_id: &str, backend: BackendKind) -> Self {
        let backend = backend.as_str();
        tracing::info!(backend, socket = %socket.path().display(), boot_id, "measuring");
        Self {
            socket: socket.path().to_owned(),
            boot_id: boot_id.to_owned(),
        }
    }
}

/// Runs the daemon until it is told to end. `backend` makes the measuring part, on a thread where
/// it may block, after the query socket is held, and again when the kill switch was on; `ready`
/// hears when all is up.
pub async fn run<B, R>(
    options: Options,
    backend: B,
    control: Control,
    ready: R,
) -> anyhow::Result<()>
where
    B: Fn(&Config) -> anyhow::Result<Box<dyn Backend>> + Send + Sync + 'static,
    R: FnOnce(Ready),
{
    let Options {
        config,
        config_path,
        overrides,
        gates,
    } = options;
    config.check()?;
    let Some(switch) = allowed(&config, &control).await else {
        return Ok(());
    };
    let access = Access::new(&config.query)?;
    let (socket, listener) = Socket::take(&config.query.socket, &access)?;
    let identity = Arc::new(identity(&config, config_path.as_deref())?);
    let (made, backend) = attach(&config, backend).await?;
    let inlet = Inlet::start(&config.labels, &config.rules)?;
    let geo = labelling::geo(&config).await?;

    let query_counts = Arc::new(QueryCounts::default());
    let uplink_counts = Arc::new(UplinkCounts::default());
    let stop = CancellationToken::new();
    let heard = inlet.as_ref().map(Inlet::heard);
    let (queries_to, reloads_to, inputs) = inputs(&stop, heard);
    // Not until the core has ended: its last tick and events are still to be sent.
    let uplink_finish = CancellationToken::new();
    let (orders, asks) = Orders::new();
    let (gate_to, gate) = watch::channel(None);
    let (ticks, handover, uplink) = reporting::start(
        &config,
        &identity,
        &*made,
        uplink_counts.clone(),
        queries_to.clone(),
        centre(&config, &orders, gate),
        &uplink_finish,
    )?;
    let (config_error_to, config_error) = watch::channel(String::new());
    let mut desk = desk(
        &config,
        &identity,
        &*made,
        query_counts.clone(),
        uplink_counts,
        handover,
        config_error,
    )?;
    desk.labelling = Labelling::new(&config.labels, inlet.as_ref().map(Inlet::heard), geo);
    let recorder = start_recorder(&config, &mut desk)?;

    let ends = deciders_ends(asks, &desk, &queries_to, gate_to, &stop);
    let mut steering = steering::start(&config, gates(&config)?, switch.clone(), ends)?;
    let kind = made.kind();
    let measuring = Measuring::new(made, &config, again(&config, backend), switch);
    let budget = Budget::new(config.budget_core_permille);
    let mut core = spawn_core(Core::new(measuring, desk, ticks, budget), inputs)?;

    let (access_to, access) = watch::channel(Arc::new(access));
    let followers = Semaphore::new(config.limits.followers as usize);
    let service = Service {
        core: queries_to,
        followers: Arc::new(followers),
        orders: Some(orders),
        counts: query_counts,
        stop: stop.clone(),
    };
    let mut server = tokio::spawn(service.serve(listener, access));

    ready(Ready::told(&socket, &identity.boot_id, kind));
    let mut reloader = Reloader {
        config,
        config_path,
        overrides,
        generation: 1,
        error: config_error_to,
        core: reloads_to,
        steering: steering.rules.clone(),
        access: access_to,
        socket: &socket,
        recorder: recorder.as_ref(),
        inlet: inlet.as_ref(),
    };
    let failed = until_over(
        &control,
        &mut reloader,
        &mut steering,
        &mut core,
        &mut server,
    )
    .await;

    stop.cancel();
    let mut result = failed.map_or(Ok(()), Err);
    if !core.is_finished() {
        let ended = core.await.context("the core failed");
        result = result.and(ended.and_then(|ended| ended));
    }
    steering.ended().await;
    uplink_finish.cancel();
    farewell(recorder, uplink).await?;
    part(server).await;
    drop(socket);
    tracing::info!("ended");
    result
}

/// What the decider hears, and whom it asks and tells.
fn deciders_ends(
    asks: mpsc::Receiver<Ask>,
    desk: &Desk,
    core: &mpsc::Sender<Query>,
    gate: watch::Sender<Option<v1::GateWord>>,
    stop: &CancellationToken,
) -> Ends {
    Ends {
        asks,
        alarmed: desk.alarmed.clone(),
        core: core.clone(),
        events: desk.events.clone(),
        gate,
        stop: stop.clone(),
    }
}

/// Waits while the kill switch is on. None: it was told to end before.
async fn allowed(config: &Config, control: &Control) -> Option<KillSwitch> {
    let switch = KillSwitch::new(&config.kill_switch);
    if let Some(why) = switch.blind() {
        tracing::warn!("{why}");
    }
    wait_for(&switch, control).await.then_some(switch)
}

/// Until it is told to end, or cannot go on, and then why.
async fn until_over(
    control: &Control,
    reloader: &mut Reloader<'_>,
    steering: &mut Steering,
    core: &mut JoinHandle<anyhow::Result<()>>,
    server: &mut Serving,
) -> Option<anyhow::Error> {
    loop {
        tokio::select! {
            () = control.shutdown.cancelled() => return None,
            () = control.reload.notified() => reloader.reload().await,
            ended = &mut steering.task, if !steering.is_over => {
                steering.is_over = true;
                let what = unexpected("the decider", ended);
                tracing::error!("nothing is steered any longer: {what:#}");
            }
            ended = &mut *core => return Some(unexpected("the core", ended)),
            ended = &mut *server => return Some(unexpected(
                "the query server",
                ended.map(|ended| ended.map_err(anyhow::Error::from)),
            )),
        }
    }
}

/// The way from the centre to the decider, and back.
fn centre(config: &Config, orders: &Orders, gate: watch::Receiver<Option<v1::GateWord>>) -> Centre {
    let (commands, commanded) = mpsc::channel(COMMANDS_WAITING);
    let is_certified = config.collector.files().is_some();
    tokio::spawn(steering::obey(commanded, orders.clone(), is_certified));
    Centre { commands, gate }
}

/// Lets clients hear the end, and does not wait for those that do not want to.
async fn part(mut server: Serving) {
    if !server.is_finished() && tokio::time::timeout(FAREWELL, &mut server).await.is_err() {
        tracing::debug!("a client kept its connection open; closed");
        server.abort();
    }
}

/// Gives what the core has said last the time to arrive.
async fn farewell(
    recorder: Option<Recorder>,
    uplink: Option<JoinHandle<anyhow::Result<()>>>,
) -> anyhow::Result<()> {
    if let Some(recorder) = recorder {
        recorder.finish().await;
    }
    if let Some(uplink) = uplink {
        // Ends by itself, within its own farewell.
        uplink.await.context("the uplink failed")??;
    }
    Ok(())
}

fn unexpected(
    what: &str,
    ended: Result<anyhow::Result<()>, tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("{what} ended by itself"),
        Ok(Err(err)) => err.context(format!("{what} failed")),
        Err(err) => anyhow::Error::from(err).context(format!("{what} failed")),
    }
}

/// How the backend is made when it was taken away.
fn again<B>(config: &Config, backend: B) -> Make
where
    B: Fn(&Config) -> anyhow::Result<Box<dyn Backend>> + Send + Sync + 'static,
{
    let config = config.clone();
    Box::new(move |settings| measuring::made(backend(&config), settings))
}

/// Waits while the kill switch is on; says whether there is still something to be run.
async fn wait_for(switch: &KillSwitch, control: &Control) -> bool {
    if switch.is_on() {
        tracing::warn!("off: {}", switch.sentence());
        while switch.is_on() {
            tokio::select! {
                () = control.shutdown.cancelled() => return false,
                () = tokio::time::sleep(SWEEP_INTERVAL) => {}
            }
        }
        tracing::info!("the kill switch is gone");
    }
    true
}

/// Makes the backend and puts the settings in force.
async fn attach<B>(config: &Config, backend: B) -> anyhow::Result<(Box<dyn Backend>, B)>
where
    B: Fn(&Config) -> anyhow::Result<Box<dyn Backend>> + Send + Sync + 'static,
{
    let config = config.clone();
    tokio::task::spawn_blocking(move || {
        let made = measuring::made(backend(&config), &config.kernel_settings())?;
        Ok((made, backend))
    })
    .await
    .context("loading the programs failed")?
}

fn identity(config: &Config, config_path: Option<&Path>) -> anyhow::Result<Identity> {
    let system = uname().context("cannot read the host's name")?;
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let started = core::monotonic_ns()?.saturating_add_signed(core::unix_minus_monotonic_ns()?);
    Ok(Identity {
        host: match &config.collector.host {
            Some(host) => host.clone(),
            None => text(system.nodename()),
        },
        boot_id: uuid::Uuid::new_v4().to_string(),
        started_unix_ns: started,
        kernel_release: text(system.release()),
        cpus: std::thread::available_parallelism()
            .map_or(0, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
        config_path: config_path
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    })
}

fn desk(
    config: &Config,
    identity: &Arc<Identity>,
    backend: &dyn Backend,
    query_counts: Arc<QueryCounts>,
    uplink_counts: Arc<UplinkCounts>,
    handover: Handover,
    config_error: watch::Receiver<String>,
) -> anyhow::Result<Desk> {
    let context = Context {
        unix_minus_monotonic_ns: core::unix_minus_monotonic_ns()?,
        tick_hz: backend.tick_hz(),
        backend: backend.kind(),
    };
    let settings = Arc::new(intake::settings_of(config, 1));
    let mut desk = Desk {
        intake: Intake::new(Limits::from(&config.limits), settings, context)?,
        config_error,
        off: String::new(),
        budget: None,
        identity: identity.clone(),
        probes: backend.probes().to_vec(),
        query_counts,
        uplink_counts,
        followers: Followers::new(config.limits.follower_lag as usize),
        events: handover.events,
        alarmed: Arc::default(),
        deliveries: handover.deliveries,
        own_recording: None,
        labelling: Labelling::new(&config.labels, None, None),
        learned: None,
    };
    if let Some(file) = &config.viewers.learned_file {
        let (keeper, families) = Keeper::open(file);
        desk.intake.learn_from(families);
        desk.learned = Some(keeper);
    }
    Ok(desk)
}

/// Begins the daemon's own recording, before anything is heard of the kernel.
fn start_recorder(config: &Config, desk: &mut Desk) -> anyhow::Result<Option<Recorder>> {
    let Some(file) = &config.recording.file else {
        return Ok(None);
    };
    let shared = Arc::new(Shared::new(recorder::bounds(&config.recording)));
    let recording = desk.record_from(Listener::Daemon, core::monotonic_ns()?)?;
    let recorder = Recorder::start(file, recording, shared.clone())?;
    desk.own_recording = Some(shared);
    Ok(Some(recorder))
}

/// What reaches the core from outside, and the ways to it.
fn inputs(
    stop: &CancellationToken,
    labels: Option<Arc<Heard>>,
) -> (mpsc::Sender<Query>, mpsc::Sender<Reload>, Inputs) {
    let (queries_to, queries) = mpsc::channel(QUERIES_WAITING);
    let (reloads_to, reloads) = mpsc::channel(1);
    let stop = stop.clone();
    let inputs = Inputs {
        queries,
        reloads,
        labels,
        stop,
    };
    (queries_to, reloads_to, inputs)
}

/// Gives the core a thread of its own: a sweep of many sessions takes a while, and must not hold up
/// what the other threads do, nor they it.
fn spawn_core(core: Core, inputs: Inputs) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the core")?;
    let (ended_to, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("weir-core".to_owned())
        .spawn(move || {
            let ended = runtime.block_on(core.run(inputs));
            // Fails only if nobody waits any more.
            let _ = ended_to.send(ended);
        })
        .context("cannot start the core's thread")?;
    Ok(tokio::spawn(async move {
        ended.await.context("its thread panicked")?
    }))
}

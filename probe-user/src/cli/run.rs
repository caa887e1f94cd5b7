//! The commands that stay: `weir run`, the daemon, alone or with the live view beside it in the
//! same process; and `weir collect`.

use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;
use weir_proto::v1::Filter;

use super::{Collect, Run};
use crate::collect;
use crate::config::collect::Config as CollectConfig;
use crate::config::{Config, Log};
use crate::daemon::{self, Control};
use crate::kernel::{self, Backend, Choice};
use crate::tls;
use crate::ui::out::colour_wanted;
use crate::ui::top::{self, LogLines};

/// Time between the live view's looks at the daemon.
const LIVE_INTERVAL_MS: u32 = 1000;

/// What the kernel programs' own log lines are called.
const PROGRAMS_TARGET: &str = "weir_ebpf";

/// `weir run`.
pub async fn run(args: &Run) -> Result<()> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    let overrides = Overrides::of(args);
    overrides.apply(&mut config);
    config.check()?;
    let live = wants_view(args)?;
    let lines = LogLines::default();
    log_to(
        &config.log,
        (live && io::stderr().is_terminal()).then_some(&lines),
    )?;
    let control = Control::from_signals()?;
    let options = daemon::Options {
        config,
        config_path: args.config.clone(),
        overrides: Box::new(move |config| overrides.apply(config)),
        gates: Box::new(|config| Ok(daemon::steering::open_gates(config))),
    };
    if live && options.config.kill_switch.symlink_metadata().is_ok() {
        // The log is kept for after the view, which comes only then.
        eprintln!(
            "weir is off: {} is there; it measures once that is removed",
            options.config.kill_switch.display()
        );
    }
    if !live {
        return daemon::run(options, load, control, |_| {}).await;
    }
    let result = run_with_view(options, control, &lines).await;
    // The terminal is as it was: what was logged meanwhile comes before what went wrong.
    lines
        .write_out(&mut io::stderr())
        .context("cannot print what was logged")?;
    result
}

/// `weir collect`.
pub async fn collect(args: &Collect) -> Result<()> {
    let mut config = match &args.config {
        Some(path) => CollectConfig::load(path)?,
        None => CollectConfig::default(),
    };
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    config.plain_text |= args.plain_text;
    if let Some(tls::Files { ca, cert, key }) = args.tls.files() {
        config.ca_file = Some(ca);
        config.cert_file = Some(cert);
        config.key_file = Some(key);
    }
    if !args.operator.is_empty() {
        config.operators.clone_from(&args.operator);
    }
    if let Some(name) = &args.name {
        config.name = Some(name.clone());
    }
    config.check()?;
    log_to(&Config::default().log, None)?;
    let control = Control::from_signals()?;
    let options = collect::Options { config };
    collect::run(options, control.shutdown, |_| {}).await
}

/// What the command line says over the file.
#[derive(Clone, Debug)]
struct Overrides {
    collector: Option<String>,
    plain_text: bool,
    tls: Option<tls::Files>,
    socket: Option<std::path::PathBuf>,
    ports: Vec<u16>,
    backend: Option<Choice>,
    record: Option<std::path::PathBuf>,
}

impl Overrides {
    fn of(args: &Run) -> Self {
        Self {
            collector: args.collector.clone(),
            plain_text: args.plain_text,
            tls: args.tls.files(),
            socket: args.socket.clone(),
            ports: args.ports.clone(),
            backend: args.backend,
            record: args.record.clone(),
        }
    }

    fn apply(&self, config: &mut Config) {
        if let Some(url) = &self.collector {
            config.collector.url = Some(url.clone());
        }
        if self.plain_text {
            config.collector.plain_text = true;
        }
        if let Some(tls::Files { ca, cert, key }) = &self.tls {
            config.collector.ca_file = Some(ca.clone());
            config.collector.cert_file = Some(cert.clone());
            config.collector.key_file = Some(key.clone());
        }
        if let Some(socket) = &self.socket {
            config.query.socket.clone_from(socket);
        }
        if !self.ports.is_empty() {
            config.filter.ports.clone_from(&self.ports);
        }
        if let Some(backend) = self.backend {
            config.backend = backend;
        }
        if let Some(file) = &self.record {
            config.recording.file = Some(file.clone());
        }
    }
}

/// Whether the live view is shown: on a terminal, unless told otherwise.
fn wants_view(args: &Run) -> Result<bool> {
    let possible = io::stdout().is_terminal() && io::stdin().is_terminal();
    if args.top && !possible {
        bail!("--top: the live view needs a terminal for input and output");
    }
    Ok(possible && !args.no_top)
}

/// Puts the programs into the kernel.
fn load(config: &Config) -> Result<Box<dyn Backend>> {
    let options = kernel::Options {
        hot_ring_bytes: config.limits.hot_ring_bytes,
        bulk_ring_bytes: config.limits.bulk_ring_bytes,
        max_sessions: config.limits.max_sessions,
        program_log_level: config.log.programs as u8,
    };
    kernel::rungs::load(config.backend, &options, &config.kernel_settings())
        .context("cannot start measuring (`weir doctor` examines the host)")
}

/// Logs to standard error, or into `lines` while the terminal belongs to the view.
fn log_to(log: &Log, lines: Option<&LogLines>) -> Result<()> {
    let directives = format!(
        "{},{PROGRAMS_TARGET}={}",
        log.level.as_str(),
        log.programs.as_str()
    );
    let filter = EnvFilter::try_new(directives).context("cannot set up logging")?;
    let plain = tracing_subscriber::fmt().with_env_filter(filter);
    // The kernel programs' lines come by way of the `log` crate, which this listens to as well.
    let set = if let Some(lines) = lines {
        plain
            .with_ansi(false)
            .with_writer(lines.clone())
            .finish()
            .try_init()
    } else {
        let colour = io::stderr().is_terminal() && colour_wanted();
        plain
            .with_ansi(colour)
            .with_writer(io::stderr)
            .finish()
            .try_init()
    };
    set.context("cannot set up logging")
}

/// Runs both until either ends, the daemon last.
async fn run_with_view(options: daemon::Options, control: Control, lines: &LogLines) -> Result<()> {
    let (ready_to, ready) = oneshot::channel();
    let up = move |up| {
        // Nobody waits any more if the daemon was told to end first.
        let _ = ready_to.send(up);
    };
    let mut daemon = tokio::spawn(daemon::run(options, load, control.clone(), up));
    let Ok(up) = ready.await else {
        // It ended before it was up.
        return daemon.await.context("the daemon failed")?;
    };
    let mut ended = None;
    let view = {
        let stop = async {
            tokio::select! {
                () = control.shutdown.cancelled() => {}
                result = &mut daemon => ended = Some(result),
            }
        };
        top::run(view_options(&up.socket), lines, stop).await
    };
    control.shutdown.cancel();
    let daemon = match ended {
        Some(ended) => ended,
        None => daemon.await,
    };
    daemon.context("the daemon failed")?.and(view)
}

fn view_options(socket: &Path) -> top::Options {
    top::Options {
        socket: socket.to_owned(),
        filter: Filter::default(),
        interval_ms: LIVE_INTERVAL_MS,
        colour: colour_wanted(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn args(line: &str) -> Run {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_overrides_the_file_and_leaves_the_rest() {
        let mut config = Config::default();
        config.filter.ports = vec![80];
        config.collector.url = Some("http://127.0.0.1:1".into());
        let file = config.clone();
        Overrides::of(&args("weir run")).apply(&mut config);
        assert_eq!(config, file);

        let line = "weir run --collector http://c:4740 --plain-text --socket /s --ports 443,8443 \
                    --backend polled --record /r.weir";
        Overrides::of(&args(line)).apply(&mut config);
        assert_eq!(config.collector.url.as_deref(), Some("http://c:4740"));
        assert!(config.collector.plain_text);
        assert_eq!(config.query.socket, Path::new("/s"));
        assert_eq!(config.filter.ports, [443, 8443]);
        assert_eq!(config.backend, Choice::Only(kernel::BackendKind::Polled));
        assert_eq!(config.recording.file.as_deref(), Some(Path::new("/r.weir")));
        assert_eq!(config.deadline_ms, file.deadline_ms);
    }
}

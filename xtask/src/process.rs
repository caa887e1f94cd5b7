//! Running other programs: where the workspace is, what they are called in messages, and what
//! becomes of signals and exit statuses meanwhile.

use std::{
    env, fmt, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// The programs that are being waited for.
static CHILDREN: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn children() -> MutexGuard<'static, Vec<Pid>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program ended otherwise than with status 0.
#[derive(Debug)]
pub(crate) struct Failed {
    what: String,
    status: ExitStatus,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}", self.what, self.status)
    }
}

impl std::error::Error for Failed {}

/// The exit status for an error: a failed program's own, in the shell's convention.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let code = error.downcast_ref::<Failed>().map_or(1, |failed| {
        let status = failed.status;
        let signal = || status.signal().map_or(1, |signal| 128 + signal);
        status.code().unwrap_or_else(signal)
    });
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The workspace's root.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a directory of the workspace")
}

/// Where cargo puts what it builds in this profile (`debug` or `release`): beside this program.
pub(crate) fn built_in(profile: &str) -> Result<PathBuf> {
    let program = env::current_exe().context("where this program is")?;
    let directory = program.ancestors().nth(2);
    let directory = directory.ok_or_else(|| anyhow!("{} is in no target", program.display()))?;
    Ok(directory.join(profile))
}

/// The cargo that started this. What it said of this package is kept from it: build programs that look
/// at such variables would run again, and with them most of the workspace be built again, whenever
/// cargo is called by hand in between.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(cargo_path());
    command.current_dir(workspace());
    for (name, _) in env::vars_os() {
        let is_ours = ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}

/// Its path.
pub(crate) fn cargo_path() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// A command as one would type it.
pub(crate) fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end; an error if that is not status 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let child = spawn(command)?;
    finish(command, child).map(drop)
}

/// Runs a command to its end, and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let child = spawn(command.stdout(Stdio::piped()))?;
    finish(command, child)
}

/// Whether a command runs and ends with status 0; what it prints is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Becomes the command: its signals, terminal and exit status are then its own. Returns only if
/// that fails.
pub(crate) fn replace(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    start_error(command, error)
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| start_error(command, error))
}

fn start_error(command: &Command, error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("cannot start `{}`", typed(command)))
}

fn finish(command: &Command, child: Child) -> Result<Vec<u8>> {
    let pid = Pid::from_raw(child.id().cast_signed());
    children().push(pid);
    let output = child.wait_with_output();
    children().retain(|other| *other != pid);
    let output = output.with_context(|| format!("waiting for `{}`", typed(command)))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Failed {
        what: typed(command),
        status: output.status,
    }
    .into())
}

/// From now on a signal that ends this program ends those it waits for first, so that a lab is
/// taken down whoever is told to stop.
pub(crate) fn forward_signals() -> Result<()> {
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot take over signals")?;
    thread::spawn(move || {
        for number in signals.forever() {
            let children = children().clone();
            if children.is_empty() {
                std::process::exit(128 + number);
            }
            // The terminal has sent its Ctrl-C to them as well.
            if number == SIGINT {
                continue;
            }
            let signal = Signal::try_from(number).unwrap_or(Signal::SIGTERM);
            for child in children {
                if let Err(error) = kill(child, signal) {
                    eprintln!("xtask: cannot pass {signal} on to process {child}: {error}");
                }
            }
        }
    });
    Ok(())
}

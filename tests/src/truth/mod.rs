//! The measured truth of what weir says: scenarios on real traffic, witnesses that are not weir,
//! and a comparison that prints what differs and fails when it does.

pub mod compare;
pub mod dissect;
pub mod keep;
pub mod matrix;
pub mod measure;
pub mod promise;
pub mod report;
pub mod scenario;
pub mod witness;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use self::measure::{Held, Unfit, Watched, Weir, losses, measure};
use self::promise::Backend;
use self::report::Report;
use crate::lab::cleanup;
use crate::lab::counters::SocketWitness;
use crate::weir::{Daemon, Settings};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The binary; without one, the witnesses are checked against one another.
    pub weir: Option<PathBuf>,
    /// Which way of measuring, and so which promise.
    pub backend: Backend,
    /// A few hundred deliveries instead of thousands.
    pub quick: bool,
    /// Only scenarios whose name contains this.
    pub only: Option<String>,
    /// Where the report and the captures of what differs go.
    pub out: PathBuf,
}

/// Measures; prints each scenario as it ends.
///
/// # Errors
/// The lab does not work here. A scenario that fails is in the report.
pub fn run(plan: &Plan) -> Result<Report> {
    cleanup::start()?;
    std::fs::create_dir_all(&plan.out)
        .with_context(|| format!("cannot make {}", plan.out.display()))?;
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let sockets = SocketWitness::start(dir.path())?;
    let settings = Settings {
        backend: Some(plan.backend.name()),
        // Ended sessions are kept in a bounded number: others' load must not push these out.
        ports: matrix::PORTS.to_vec(),
        ..Settings::default()
    };
    let within = plan.backend == Backend::Polled;
    let daemon = match &plan.weir {
        Some(binary) if !within => {
            Some(Daemon::start(binary, &dir.path().join("weir"), &settings)?)
        }
        _ => None,
    };
    let follower = daemon.as_ref().map(Daemon::follow).transpose()?;
    let sessions = daemon.as_ref().map(Daemon::note_sessions).transpose()?;
    let watched = match (&daemon, &follower, &sessions) {
        (Some(daemon), Some(follower), Some(sessions)) => Some(Watched {
            daemon,
            follower,
            sessions,
        }),
        _ => None,
    };
    let weir = match (&watched, &plan.weir) {
        (Some(watched), _) => Some(Weir::Beside(watched)),
        (None, Some(binary)) => Some(Weir::Within(binary, None)),
        (None, None) => None,
    };
    let mut held = Held::new();
    let mut outcomes = Vec::new();
    let mut failures = Vec::new();
    println!("{}", report::heading());
    for scenario in matrix::scenarios(plan.quick) {
        if plan
            .only
            .as_ref()
            .is_some_and(|only| !scenario.name.contains(only))
        {
            continue;
        }
        let mut attempt = || {
            measure(
                &scenario,
                &sockets,
                plan.backend,
                settings.quiet_gap_ms,
                weir,
                &mut held,
                &plan.out,
            )
        };
        let mut measured = attempt();
        if let Err(error) = &measured
            && error.is::<Unfit>()
        {
            // What weir says was not looked at: this excuses the witness alone, and that once.
            println!("{}: once more: {error:#}", scenario.name);
            measured = attempt();
        }
        match measured {
            Ok(measured) => {
                println!("{}", report::line(&measured.outcome));
                outcomes.push(measured.outcome);
            }
            Err(error) => {
                let text = format!("{}: {error:#}", scenario.name);
                println!("{text}");
                failures.push(text);
            }
        }
    }
    let losses = watched.as_ref().map(losses).transpose()?;
    if let Some(sessions) = sessions {
        sessions.finish()?;
    }
    if let Some(follower) = follower {
        follower.finish()?;
    }
    if let Some(mut daemon) = daemon {
        let status = daemon.stop()?;
        if !status.success() {
            failures.push(format!("weir ended with {status}:\n{}", daemon.log()));
        }
    }
    sockets.finish()?;
    let version = plan.weir.as_deref().map(version).transpose()?;
    let kernel = kernel()?;
    let report = Report::new(version, kernel, plan.backend, outcomes, losses, failures);
    report.write(&plan.out.join("report.json"))?;
    Ok(report)
}

/// Records what the regression tests replay: one scenario after the other into `directory`.
/// Returns what failed, in words.
///
/// # Errors
/// The lab does not work here.
pub fn record(
    binary: &Path,
    backend: Backend,
    only: Option<&str>,
    directory: &Path,
    out: &Path,
) -> Result<Vec<String>> {
    cleanup::start()?;
    for directory in [directory, out] {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let sockets = SocketWitness::start(dir.path())?;
    let mut failures = Vec::new();
    println!("{}", report::heading());
    for scenario in matrix::recorded(backend) {
        if only.is_some_and(|only| !scenario.name.contains(only)) {
            continue;
        }
        match keep::keep(binary, &scenario, &sockets, backend, directory, out) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                let text = format!("{}: {error:#}", scenario.name);
                println!("{text}");
                failures.push(text);
            }
        }
    }
    sockets.finish()?;
    Ok(failures)
}

fn kernel() -> Result<String> {
    let release = crate::lab::process::output("uname", &["-r"])?;
    Ok(release.trim().to_owned())
}

fn version(binary: &Path) -> Result<String> {
    Ok(
        crate::lab::process::output(&binary.to_string_lossy(), &["--version"])?
            .trim()
            .to_owned(),
    )
}

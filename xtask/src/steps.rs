//! Runs named steps in order, says how long each took, and stops at the first that fails.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// One step: its name, and what it does.
pub(crate) type Step<'a> = (&'static str, Box<dyn FnOnce() -> Result<()> + 'a>);

/// Runs all of them, or up to the first that fails; then says which were not run.
pub(crate) fn run(steps: Vec<Step<'_>>) -> Result<()> {
    let count = steps.len();
    let names: Vec<_> = steps.iter().map(|(name, _)| *name).collect();
    let mut times = Vec::with_capacity(count);
    for (at, (name, step)) in steps.into_iter().enumerate() {
        eprintln!("==> {name} ({} of {count})", at + 1);
        let started = Instant::now();
        let result = step();
        times.push((name, started.elapsed()));
        if result.is_err() {
            summary(&times, Some(&names[at + 1..]));
        }
        result.with_context(|| format!("step `{name}`"))?;
    }
    summary(&times, None);
    Ok(())
}

/// The steps that ran; the last of them failed if some are given as not run, even if none are.
fn summary(times: &[(&str, Duration)], failed_before: Option<&[&str]>) {
    eprintln!();
    for (at, (name, time)) in times.iter().enumerate() {
        let failed = failed_before.is_some() && at + 1 == times.len();
        let verdict = if failed { "FAILED" } else { "ok" };
        eprintln!("{name:<28} {verdict:<8} {:>8.1} s", time.as_secs_f64());
    }
    for name in failed_before.unwrap_or_default() {
        eprintln!("{name:<28} not run");
    }
}

//! What the bench runs on, and reading the kernel's tables.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

use crate::report::Machine;

/// Describes this machine.
pub(crate) fn describe() -> Result<Machine> {
    let cpus = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    let memory = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel")?;
    Ok(Machine {
        cpu: model.to_owned(),
        cpus: std::thread::available_parallelism()?.get(),
        memory_bytes: kilobytes(&memory, "MemTotal:")? * 1024,
        kernel: release.trim().to_owned(),
    })
}

/// Now, in UTC.
pub(crate) fn date() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Processor time that this thread has had.
pub(crate) fn thread_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the clock")?;
    Ok(time.into())
}

/// A line `name  123 kB` of a table.
pub(crate) fn kilobytes(table: &str, name: &str) -> Result<u64> {
    table
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
        .with_context(|| format!("the kernel says no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_found_by_its_whole_name() {
        let table = "VmRSS:\t  12 kB\nRssAnon:\t     34 kB\n";
        assert_eq!(kilobytes(table, "RssAnon:").unwrap(), 34);
        assert!(kilobytes(table, "Anon:").is_err());
    }
}

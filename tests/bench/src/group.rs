//! cgroups of the bench: whose processor time is whose.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use weir::kernel::cgroup;
use weir_tests::lab::cleanup::{self, Deferred};
use weir_tests::lab::process::wait_for;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup v2 directory of the bench's; removed when dropped, once what was in it has ended.
#[derive(Debug)]
pub(crate) struct Group {
    dir: PathBuf,
    _remove: Deferred,
}

impl Group {
    /// Makes one.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = format!(
            "{}-bench-{}-{n}-{name}",
            cleanup::PREFIX,
            std::process::id()
        );
        let dir = cgroup::mount_point()?.join(own);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let remove = {
            let dir = dir.clone();
            cleanup::defer(move || {
                // The kernel lets go of what has ended a moment later.
                let gone = wait_for(
                    "a cgroup to empty",
                    std::time::Duration::from_secs(2),
                    || Ok(fs::remove_dir(&dir).is_ok() || !dir.exists()),
                );
                if let Err(error) = gone {
                    eprintln!("{} stays: {error:#}", dir.display());
                }
            })
        };
        Ok(Self {
            dir,
            _remove: remove,
        })
    }

    /// Makes the child of `command` start in it.
    pub(crate) fn enter(&self, command: &mut Command) -> Result<()> {
        let path = self.dir.join("cgroup.procs");
        let open = OpenOptions::new().write(true).open(&path);
        let mut file: File = open.with_context(|| format!("cannot open {}", path.display()))?;
        // SAFETY: between fork and exec there is one write to an open descriptor, which is
        // async-signal-safe; "0" is the writer itself.
        unsafe {
            command.pre_exec(move || file.write_all(b"0"));
        }
        Ok(())
    }

    /// Processor time that all in it has taken so far.
    pub(crate) fn cpu_us(&self) -> Result<u64> {
        let text = read(&self.dir.join("cpu.stat"))?;
        text.lines()
            .find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok())
            .context("cpu.stat says no usage_usec")
    }
}

/// Processor time that the whole machine has spent on anything so far, interrupts included.
pub(crate) fn machine_cpu_us() -> Result<u64> {
    let text = read(Path::new("/proc/stat"))?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(|word| word.parse().unwrap_or(0))
        .collect();
    // user nice system idle iowait irq softirq; of steal others are to blame.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat begins with {line:?}");
    };
    Ok((user + nice + system + irq + softirq) * 1_000_000 / ticks_per_second())
}

fn ticks_per_second() -> u64 {
    // SAFETY: takes no pointer.
    let rate = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(rate).unwrap_or(100).max(1)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

//! Who looks on while the server is under load: nobody, empty programs, weir, and other ways of
//! looking that say less.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use weir_tests::lab::cleanup::{self, Deferred};
use weir_tests::lab::link::Lab;
use weir_tests::lab::process::{Process, wait_for};
use weir_tests::lab::relay::DEVICE;

use crate::daemon::{Daemon, WITHOUT_BUDGET};
use crate::group::Group;
use crate::programs::Empty;

/// The ways of looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Off,
    Empty,
    Weir,
    /// Socket callbacks alone.
    Portable,
    /// Nothing in the kernel.
    Polled,
    Bpftrace,
    Ss,
    Tcpdump,
}

impl Variant {
    pub(crate) const ALL: [Self; 8] = [
        Self::Off,
        Self::Empty,
        Self::Weir,
        Self::Portable,
        Self::Polled,
        Self::Bpftrace,
        Self::Ss,
        Self::Tcpdump,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Empty => "empty programs",
            Self::Weir => "weir",
            Self::Portable => "weir, portable",
            Self::Polled => "weir, polled",
            Self::Bpftrace => "bpftrace",
            Self::Ss => "ss each second",
            Self::Tcpdump => "tcpdump of headers",
        }
    }
}

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) weir: PathBuf,
    pub(crate) programs: PathBuf,
}

/// One of them at work, in the observers' cgroup; ended when dropped.
#[derive(Debug)]
pub(crate) enum Observer {
    Nobody,
    Empty {
        _programs: Empty,
    },
    Weir(Daemon),
    // Dropped in this order: the files after who writes them.
    Other {
        process: Process,
        _files: Option<Deferred>,
    },
}

/// Retransmissions and round-trip time of each session, and what ends them: as much as bpftrace can
/// keep of what weir keeps.
const PROGRAM: &str = r#"
BEGIN { printf("watching\n"); }
tracepoint:tcp:tcp_probe { @srtt_us[args->sock_cookie] = args->srtt; @socket[args->skaddr] = args->sock_cookie; }
tracepoint:tcp:tcp_retransmit_skb { @retransmits[args->skaddr] = @retransmits[args->skaddr] + 1; }
tracepoint:sock:inet_sock_set_state /args->newstate == 7/ {
  delete(@srtt_us[@socket[args->skaddr]]);
  delete(@retransmits[args->skaddr]);
  delete(@socket[args->skaddr]);
}
END { clear(@srtt_us); clear(@socket); clear(@retransmits); }
"#;

impl Observer {
    /// Starts one and waits until it looks.
    pub(crate) fn start(variant: Variant, tools: &Tools, lab: &Lab, group: &Group) -> Result<Self> {
        let weir = |backend: &str| -> Result<Self> {
            let config = format!("{WITHOUT_BUDGET}backend = \"{backend}\"\n");
            let daemon = Daemon::start(&tools.weir, lab.dir(), Some(group), &config)?;
            Ok(Self::Weir(daemon))
        };
        Ok(match variant {
            Variant::Off => Self::Nobody,
            Variant::Empty => Self::Empty {
                _programs: Empty::attach(&tools.programs)?,
            },
            Variant::Weir => weir("exact")?,
            Variant::Portable => weir("portable")?,
            Variant::Polled => weir("polled")?,
            Variant::Bpftrace => Self::Other {
                process: bpftrace(lab.dir(), group)?,
                _files: None,
            },
            Variant::Ss => Self::Other {
                process: ss(lab, group)?,
                _files: None,
            },
            Variant::Tcpdump => tcpdump(lab, group)?,
        })
    }

    /// Ends it; an error if it did not do what it was there for.
    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Weir(daemon) => {
                let losses = daemon.status()?.losses.unwrap_or_default();
                let full = [losses.hot, losses.bulk].map(|ring| ring.map_or(0, |r| r.ring_full));
                if full != [0, 0] || losses.sessions_seen == 0 {
                    bail!("weir was not the weir that is wanted: {losses:?}");
                }
                daemon.stop()
            }
            Self::Other { mut process, .. } => {
                if let Some(status) = process.try_wait()? {
                    bail!("it ended by itself ({status}):\n{}", process.log_tail());
                }
                Ok(())
            }
            Self::Nobody | Self::Empty { .. } => Ok(()),
        }
    }
}

fn bpftrace(dir: &Path, group: &Group) -> Result<Process> {
    // bpftrace finds tracepoints through tracefs, which a host need not have mounted; a mount
    // namespace of its own leaves the host as it is.
    let script = "test -d /sys/kernel/tracing/events || mount -t tracefs none /sys/kernel/tracing; \
                  exec bpftrace -B line -e \"$0\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, PROGRAM])
        .env("BPFTRACE_MAP_KEYS_MAX", "131072");
    group.enter(&mut command)?;
    started(command, None, dir, "bpftrace", "watching")
}

fn ss(lab: &Lab, group: &Group) -> Result<Process> {
    let script = "echo watching; while :; do ss -tinH >/dev/null || exit; sleep 1; done";
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    group.enter(&mut command)?;
    started(command, Some(lab), lab.dir(), "ss", "watching")
}

/// The first 96 bytes of every packet, into memory, the latest 128 megabytes of them.
fn tcpdump(lab: &Lab, group: &Group) -> Result<Observer> {
    const FILES: usize = 2;
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { memory } else { lab.dir() };
    let name = lab
        .dir()
        .file_name()
        .context("a lab's directory has a name")?;
    let file = dir.join(name).with_extension("pcap");
    let written: Vec<PathBuf> = (0..FILES)
        .map(|n| PathBuf::from(format!("{}{n}", file.display())))
        .collect();
    let files = cleanup::defer(move || {
        for file in written {
            // The second is not there if the first sufficed.
            let _ = fs::remove_file(file);
        }
    });
    let mut command = Command::new("tcpdump");
    command.args(["-i", DEVICE, "-n", "-s", "96", "-B", "16384", "-Z", "root"]);
    command.args(["-C", "64", "-W", &FILES.to_string(), "-w"]);
    command.arg(&file).arg("tcp");
    group.enter(&mut command)?;
    Ok(Observer::Other {
        process: started(command, Some(lab), lab.dir(), "tcpdump", "listening on")?,
        _files: Some(files),
    })
}

fn started(
    command: Command,
    lab: Option<&Lab>,
    dir: &Path,
    name: &str,
    word: &str,
) -> Result<Process> {
    let log = dir.join(format!("{name}.log"));
    let mut process = Process::spawn(command, lab.map(|lab| &lab.server), &log)?;
    wait_for(&format!("{name} to begin"), Duration::from_secs(30), || {
        if process.try_wait()?.is_some() {
            bail!("{name} ended at once:\n{}", process.log_tail());
        }
        Ok(process.log().contains(word))
    })?;
    Ok(process)
}
